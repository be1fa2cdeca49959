//! From nothing to a running task in three commands, in each language and with the tools themselves; and what is told
//! where that does not go.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use stem_services::{Workshop, tools};
use support::{Place, Ran};

const NAME: &str = "add-up";

/// For one language's project.
fn workshop(language: &str) -> Workshop {
    Workshop::open(env!("CARGO_TARGET_TMPDIR"), &format!("task-new/{language}"))
}

fn stem(folder: &Path, args: &[&str]) -> Ran {
    Ran::of(command(folder, args).output().unwrap())
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stem"));
    tools::clean(&mut command);
    let variables = if args.contains(&"test") { tools::native() } else { tools::environment() };
    command
        .args(args)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
        .envs(variables)
        .stdin(Stdio::null());
    command
}

/// New, build, test, run; and the template's own kind of failure.
fn from_nothing_to_a_running_task(language: &str) {
    let fresh = tempfile::tempdir().unwrap();
    let ran = stem(fresh.path(), &["task", "new", NAME, "--lang", language]).expect(0);
    for command in ["cd add-up", "stem task build", "stem task run --args '{\"numbers\":"] {
        assert!(ran.stdout.contains(command), "{}", ran.stdout);
    }
    let workshop = workshop(language);
    let project = workshop.lay_out(&fresh.path().join(NAME));
    let built = stem(&project, &["task", "build", "--json"]).expect(0).json();
    assert_eq!(built["module"], "add-up.wasm");
    let size = fs::metadata(project.join("add-up.wasm")).unwrap().len();
    assert_eq!(built["bytes"], size);
    stem(&project, &["task", "test"]).expect(0);

    let numbers = "{\"numbers\":[1,2,3,4,5,6,7,8,9,10,11],\"delayMs\":1}";
    let ran = stem(&project, &["task", "run", "--args", numbers, "--json"]).expect(0);
    let document = ran.json();
    assert_eq!(document["name"], NAME);
    assert_eq!(document["result"], json!({"sum": 66, "count": 11, "resumedAt": 0}), "{document}");
    // From elsewhere by the folder, and with a fault that the task itself tells.
    let bad = ["task", "run", NAME, "--args", "{\"numbers\":[1,\"two\"]}"];
    stem(workshop.folder(), &bad).expect(1).says("bad-number").says("numbers[1] is \"two\"");
    println!("{language}: {size} bytes, {} to build, {}", built["elapsedMs"], ran.stderr.trim());
}

#[test]
fn rust_goes_from_nothing_to_a_running_task() {
    from_nothing_to_a_running_task("rust");
    // Pinned: the build has changed nothing of the versions that the template names.
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sdk/rust/template/Cargo.lock");
    let built = workshop("rust").folder().join(NAME).join("Cargo.lock");
    let named = fs::read_to_string(template).unwrap().replace("{{name}}", NAME);
    let sorted = |text: &str| {
        let mut packages: Vec<_> = text.split("\n\n").map(|part| part.trim().to_owned()).collect();
        packages.sort();
        packages
    };
    assert_eq!(sorted(&fs::read_to_string(built).unwrap()), sorted(&named));

    // Wherever else a setting of the user's has builds go.
    let workshop = workshop("rust");
    let project = workshop.folder().join(NAME);
    for file in ["add-up.wasm", "target/wasm32-wasip2/release/task_add_up.wasm"] {
        fs::remove_file(project.join(file)).unwrap();
    }
    let mut build = command(&project, &["task", "build"]);
    let elsewhere = workshop.folder().join("elsewhere");
    Ran::of(build.env("CARGO_TARGET_DIR", elsewhere).output().unwrap()).expect(0);
}

#[test]
fn javascript_goes_from_nothing_to_a_running_task() {
    from_nothing_to_a_running_task("js");
}

#[test]
fn typescript_goes_from_nothing_to_a_running_task() {
    from_nothing_to_a_running_task("ts");
}

#[test]
fn python_goes_from_nothing_to_a_running_task() {
    from_nothing_to_a_running_task("python");
}

#[test]
fn c_goes_from_nothing_to_a_running_task() {
    from_nothing_to_a_running_task("c");
}

#[test]
fn go_goes_from_nothing_to_a_running_task() {
    from_nothing_to_a_running_task("go");
}

/// A project without a language: its recipe.
fn recipe(place: &Place, build: &str) {
    let handler = "[handlers.x]\nsource = \"file:x.wasm\"\n";
    place.write("stem.toml", format!("{handler}[build]\n{build}"));
}

/// With what a shell needs, and nothing that builds.
const PATH: [(&str, &str); 1] = [("PATH", "/usr/bin:/bin")];

#[test]
fn a_project_is_written_where_nothing_is() {
    let place = Place::new();
    let ran = place.stem(&["task", "new", "count-words", "--lang", "c", "--json"]).expect(0).json();
    assert_eq!((&ran["name"], &ran["folder"]), (&json!("count-words"), &json!("count-words")));
    assert!(ran["files"].as_array().unwrap().contains(&json!("stem/stem.h")), "{ran}");
    place
        .stem(&["task", "new", "count-words", "--lang", "go"])
        .expect(2)
        .complains()
        .says("count-words is there already");
    place.write("taken", "a file");
    place.stem(&["task", "new", "taken", "--lang", "go"]).expect(2).complains();
    fs::create_dir(place.path("empty")).unwrap();
    place.stem(&["task", "new", "empty", "--lang", "go"]).expect(0);
    // A link that leads nowhere is in the way all the same.
    std::os::unix::fs::symlink("nowhere", place.path("link")).unwrap();
    let ran = place.stem(&["task", "new", "link", "--lang", "go"]).expect(2).complains();
    assert!(ran.stderr.contains("link is there already"), "{ran:?}");
    for bad in ["Words", "2d", "a.b"] {
        let ran = place.stem(&["task", "new", bad, "--lang", "c"]).expect(2).complains();
        assert!(ran.stderr.contains("small letter") && !place.path(bad).exists(), "{ran:?}");
    }
    place.stem(&["task", "new", "a/b", "--lang", "c"]).expect(2).complains();
    place.stem(&["task", "new", "stem-guest", "--lang", "rust"]).expect(2).complains();
    place.stem(&["task", "new", "x", "--lang", "cobol"]).expect(2).complains().says("rust");
    place.stem(&["task", "new", "x"]).expect(2).complains().says("--lang");
}

#[test]
fn a_project_is_written_whole_or_not_at_all() {
    let place = Place::new();
    let names = || {
        let entries = fs::read_dir(place.path("")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    let program = place.command(&["task", "new", "half", "--lang", "rust"]);
    let mut shell = Command::new("sh");
    // No file may have more than 4 KiB, and some have.
    shell.arg("-c").arg("trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"");
    shell.arg(program.get_program()).args(program.get_args()).current_dir(place.path(""));
    Ran::of(shell.output().unwrap()).expect(1).complains().says("cannot write half/");
    assert!(names().is_empty(), "{:?}", names());
    place.stem(&["task", "new", "half", "--lang", "rust"]).expect(0);
    assert_eq!(names(), ["half"]);
    // As any folder that is made here.
    fs::create_dir(place.path("plain")).unwrap();
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("half"), mode("plain"));
}

#[test]
fn a_build_does_what_the_recipe_says() {
    let place = Place::new();
    recipe(
        &place,
        r#"
        command = [["sh", "-c", "echo out; echo err >&2; printf '(module)' > made"]]
        test = [["sh", "-c", "echo tested"]]
        output = "made"
        "#,
    );
    let ran = place.stem_env(&PATH, &["task", "run"]).expect(2).complains();
    assert!(
        ran.stderr.contains("x.wasm is not there yet") && ran.stderr.contains("stem task build")
    );
    let ran = place.stem_env(&PATH, &["task", "build"]).expect(0);
    assert!(ran.stdout.starts_with("x.wasm  8 B  sha256:"), "{ran:?}");
    assert!(ran.stderr.contains("+ sh -c ") && ran.stderr.contains("\nout\nerr\n"), "{ran:?}");
    assert_eq!(fs::read(place.path("x.wasm")).unwrap(), b"(module)");
    // Whoever may read what the build makes may read the module: a worker is often another user.
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("x.wasm"), mode("made"));
    let ran = place.stem_env(&PATH, &["task", "test"]).expect(0);
    assert_eq!(ran.stdout, "tested\nthe tests passed\n");
    let ran = place.stem_env(&PATH, &["task", "test", "--json"]).expect(0);
    assert!(ran.json()["passed"] == true && ran.stderr.contains("tested"), "{ran:?}");
    // The manifest is that of a project for every other command too.
    place.stem_env(&PATH, &["config", "show"]).expect(0);
}

#[test]
fn what_fails_is_told_from_what_is_missing() {
    let place = Place::new();
    place.stem(&["task", "build"]).expect(2).complains().says("has no stem.toml");
    place.stem(&["task", "run"]).expect(2).complains().says("stem task new");
    place.stem(&["task", "test", "nowhere"]).expect(2).complains().says("nowhere has no stem.toml");
    place.write("stem.toml", "[handlers.x]\nsource = \"file:x.wasm\"\n");
    place.stem(&["task", "build"]).expect(2).complains().says("no table [build]");
    recipe(&place, "comand = []");
    place.stem(&["task", "build"]).expect(2).complains().says("did you mean \"command\"?");

    recipe(
        &place,
        "command = [[\"sh\", \"-c\", \"echo broken >&2; exit 3\"]]\noutput = \"x.wasm\"",
    );
    let ran = place.stem_env(&PATH, &["task", "build"]).expect(1).complains();
    assert!(ran.stderr.contains("broken\n") && ran.stderr.contains("exit status: 3"), "{ran:?}");
    place.stem_env(&PATH, &["task", "test"]).expect(2).complains().says("has no build.test");
    recipe(&place, "command = [[\"true\"]]\ntest = [[\"false\"]]\noutput = \"x.wasm\"");
    place.stem_env(&PATH, &["task", "build"]).expect(1).complains().says("left no x.wasm");
    place.stem_env(&PATH, &["task", "test"]).expect(1).complains().says("the tests did not pass");
    let ran = place.stem_env(&PATH, &["task", "test", "--json"]).expect(1).complains();
    assert_eq!(ran.json()["passed"], false);

    let needy =
        "needs = { hammer = \"buy a hammer\" }\ncommand = [[\"sh\", \"-c\", \"touch ran\"]]\n";
    recipe(&place, &format!("{needy}output = \"x.wasm\""));
    let ran = place.stem_env(&PATH, &["task", "build"]).expect(2).complains().says("hammer");
    assert!(ran.stderr.ends_with("hint: buy a hammer\n"), "{ran:?}");
    assert!(!place.path("ran").exists());
    recipe(&place, "command = [[\"no-such-program\"]]\noutput = \"x.wasm\"");
    place.stem_env(&PATH, &["task", "build"]).expect(2).complains().says("no-such-program");
    // What the setup should have got is got again when the project's own folder is gone.
    recipe(&place, "command = [[\"tools/gone\"]]\noutput = \"x.wasm\"");
    place.stem_env(&PATH, &["task", "build"]).expect(2).complains().says("remove .stem");
}

#[test]
fn every_template_says_which_tool_is_missing() {
    let place = Place::new();
    let empty = place.path("nothing");
    fs::create_dir(&empty).unwrap();
    let path = [("PATH", empty.to_str().unwrap())];
    for (language, tool) in
        [("rust", "cargo"), ("js", "npm"), ("ts", "npm"), ("python", "python3"), ("go", "go")]
    {
        place.stem(&["task", "new", language, "--lang", language]).expect(0);
        let ran = place.stem_env(&path, &["task", "build", language]).expect(2).complains();
        assert!(ran.stderr.contains(tool) && ran.stderr.contains("install"), "{ran:?}");
    }
    place.stem(&["task", "new", "c", "--lang", "c"]).expect(0);
    place.stem_env(&path, &["task", "build", "c"]).expect(2).complains().says("apt-get install");
}

/// Tools that are there and fail, and of which the parts for WebAssembly are nowhere.
#[test]
fn a_tool_that_lacks_a_part_is_told_with_what_brings_it() {
    let place = Place::new();
    let tool = |name: &str, does: &str| {
        let path = place.write(&format!("bin/{name}"), format!("#!/bin/sh\n{does}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    tool("cargo", "exit 101");
    tool("rustc", "echo /nowhere");
    // What it does not find it names without a place.
    tool("clang", "for last; do :; done; case $last in -print-*) echo crt1.o;; *) exit 1;; esac");
    tool("cc", "exit 1");
    tool("go", "if [ \"$1\" = env ]; then echo go1.22.4; else exit 1; fi");
    tool("python3", "exit 1");
    let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
    for (language, remedy) in [
        ("rust", "rustup target add wasm32-wasip2"),
        ("c", "apt-get install wasi-libc lld libclang-rt-dev-wasm32"),
        ("go", "go1.22.4 is too old"),
        ("python", "apt-get install python3-venv"),
    ] {
        place.stem(&["task", "new", language, "--lang", language]).expect(0);
        let built = place.stem_env(&[("PATH", path.as_str())], &["task", "build", language]);
        built.expect(2).complains().says(remedy);
    }
}

#[test]
fn tools_are_got_once_and_again_when_what_pins_them_changes() {
    let place = Place::new();
    let project = |command: &str| {
        recipe(
            &place,
            &format!(
                "setup = [[\"sh\", \"-c\", \"{command}\"]]\nsetup-inputs = [\"pins\"]\nsetup-output = \"got\"\n\
                 command = [[\"sh\", \"-c\", \"echo module > x.wasm\"]]\ntest = [[\"true\"]]\noutput = \"x.wasm\""
            ),
        );
    };
    let times = || fs::read_to_string(place.path("times")).unwrap().lines().count();
    let build = || place.stem_env(&PATH, &["task", "build"]);
    project("echo once >> times; mkdir -p got");
    build().expect(2).complains().says("pins");
    place.write("pins", "1");
    build().expect(0).says("getting the tools");
    build().expect(0);
    place.stem_env(&PATH, &["task", "test"]).expect(0);
    assert_eq!(times(), 1);
    place.write("pins", "2");
    place.stem_env(&PATH, &["task", "test"]).expect(0);
    assert_eq!(times(), 2);
    fs::remove_dir(place.path("got")).unwrap();
    build().expect(0);
    assert_eq!(times(), 3);
    // A setup that fails is not taken for done.
    project("echo once >> times; exit 1");
    build().expect(1).complains().says("the tools are not there");
    build().expect(1);
    assert_eq!(times(), 5);
    // One that is ended in the middle leaves a mixture, which is not what an earlier one got.
    project("echo once >> times; mkdir -p got; grep -q 3 pins && exit 1; true");
    build().expect(0);
    assert_eq!(times(), 6);
    place.write("pins", "3");
    build().expect(1);
    place.write("pins", "2");
    build().expect(0);
    assert_eq!(times(), 8);
}

#[test]
fn tools_are_got_by_one_process_at_a_time() {
    let place = Place::new();
    recipe(
        &place,
        "setup = [[\"sh\", \"-c\", \"echo begin >> log; sleep 0.3; echo end >> log; touch got\"]]\nsetup-output = \"got\"\n\
         command = [[\"sh\", \"-c\", \"echo module > made\"]]\noutput = \"made\"",
    );
    let builds: Vec<_> =
        (0..3).map(|_| place.command(&["task", "build"]).envs(PATH).spawn().unwrap()).collect();
    for build in builds {
        Ran::of(build.wait_with_output().unwrap()).expect(0);
    }
    assert_eq!(fs::read_to_string(place.path("log")).unwrap(), "begin\nend\n");
}
