//! What a module may reach: what its manifest asks for, what the policy leaves, and what the commands say of it.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::started::Started;
use support::{Place, command_module};

/// A program that writes its environment, name=value and a NUL each.
fn environment_module() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (func (export "_start")
                (drop (call $sizes (i32.const 0) (i32.const 4)))
                (drop (call $get (i32.const 1024) (i32.const 65536)))
                (i32.store (i32.const 8) (i32.const 65536))
                (i32.store (i32.const 12) (i32.load (i32.const 4)))
                (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#,
    )
    .unwrap()
}

const ASKING: &str = r#"
[handlers.env]
source = "file:env.wasm"
grants.config = ["SIZE", "COLOUR"]
grants.env = ["SHARED"]
"#;

const POLICY: &str = r#"
[grants]
config = ["SIZE"]
env = ["*"]
[config]
SIZE = "800"
"#;

impl Place {
    /// Only its owner may write it, whatever the mask of this process.
    fn policy(&self, text: &str) {
        let path = self.write("policy.toml", text);
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

fn grant<'a>(checked: &'a Value, kind: &str) -> &'a Value {
    let found = checked["grants"].as_array().unwrap().iter().find(|grant| grant["grant"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {checked}"))
}

#[test]
fn module_check_says_what_is_asked_for_allowed_and_needed() {
    let place = Place::new();
    place.write("env.wasm", environment_module());
    let checked = place.stem(&["module", "check", "env.wasm", "--json"]).expect(0).json();
    assert_eq!((&checked["admitted"], &checked["warnings"]), (&json!(true), &json!([])));
    let by =
        json!(["wasi_snapshot_preview1.environ_get", "wasi_snapshot_preview1.environ_sizes_get"]);
    assert_eq!(
        grant(&checked, "config"),
        &json!({"grant": "config", "asked": [], "allowed": [], "neededBy": by})
    );

    place.write("stem.toml", ASKING);
    let ran = place.stem(&["module", "check", "env.wasm"]).expect(0);
    assert!(ran.stdout.contains("config: SIZE, COLOUR (for wasi_snapshot"), "{ran:?}");
    ran.says("config SIZE is asked for and not given: nothing is behind the name");

    place.policy(POLICY);
    let with = ["module", "check", "env.wasm", "--policy", "policy.toml", "--json"];
    let checked = place.stem(&with).expect(0).json();
    let config = grant(&checked, "config");
    assert_eq!(
        (&config["asked"], &config["allowed"]),
        (&json!(["SIZE", "COLOUR"]), &json!(["SIZE"]))
    );
    let [warning] = &checked["warnings"].as_array().unwrap()[..] else { panic!("{checked}") };
    let warning = warning.as_str().unwrap();
    assert!(warning.contains("config COLOUR is asked for and not given"), "{warning}");
    assert!(warning.contains("config = [\"COLOUR\"]"), "{warning}");
    // The variable says the same as the flag.
    let variable = [("STEM_POLICY", "policy.toml")];
    let same = place.stem_env(&variable, &["module", "check", "env.wasm", "--json"]).expect(0);
    assert_eq!(same.json(), checked);

    // A grant that nothing uses.
    place.write("m.wasm", command_module());
    place.write("stem.toml", "[handlers.m]\nsource = \"file:m.wasm\"\ngrants.kv = [\"b:rw\"]\n");
    let ran = place.stem(&["module", "check", "m.wasm"]).expect(0);
    ran.says("asks for grants.kv and imports nothing that uses it");
}

#[test]
fn module_check_names_the_grant_behind_each_interface() {
    let place = Place::new();
    // It is no task, so it is refused; what it needs is known all the same.
    let component = r#"(component
        (import "stem:task/children@0.1.0" (instance))
        (import "stem:task/config@0.1.0" (instance))
        (import "stem:task/kv@0.1.0" (instance))
        (import "stem:task/log@0.1.0" (instance))
        (import "stem:task/secrets@0.1.0" (instance))
        (import "wasi:cli/environment@0.2.6" (instance))
        (import "wasi:filesystem/preopens@0.2.6" (instance))
        (import "wasi:http/outgoing-handler@0.2.6" (instance)))"#;
    place.write("c.wasm", wat::parse_str(component).unwrap());
    place.write("stem.toml", "[handlers.c]\nsource = \"file:c.wasm\"\ngrants.kv = [\"b\"]\n");
    let checked = place.stem(&["module", "check", "c.wasm", "--json"]).expect(1).json();
    assert_eq!(checked["verdict"], "refused");
    for (kind, import) in [
        ("scratch", "wasi:filesystem/preopens@0.2.6"),
        ("inputs", "wasi:filesystem/preopens@0.2.6"),
        ("env", "wasi:cli/environment@0.2.6"),
        ("secrets", "stem:task/secrets@0.1.0"),
        ("http", "wasi:http/outgoing-handler@0.2.6"),
        ("children", "stem:task/children@0.1.0"),
        ("kv", "stem:task/kv@0.1.0"),
    ] {
        assert_eq!(grant(&checked, kind)["neededBy"], json!([import]), "{kind}");
    }
    assert_eq!(grant(&checked, "config")["neededBy"].as_array().unwrap().len(), 2);
    assert_eq!(grant(&checked, "kv")["asked"], json!(["b"]));
    // Files and variables are imported by programs that never look, so those are not warned of.
    let warned: Vec<_> = ["secrets", "http", "children", "config"]
        .map(|kind| format!("asks for no grants.{kind}: every request will be denied"))
        .into();
    let warnings = checked["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), warned.len(), "{warnings:?}");
    for words in warned {
        let said = |warning: &Value| warning.as_str().unwrap().contains(&words);
        assert!(warnings.iter().any(said), "{words}: {warnings:?}");
    }
}

#[test]
fn what_only_commands_have_is_refused_for_others() {
    let place = Place::new();
    let raw = r#"(module
        (import "stem0" "kv_get" (func (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "stem_run") (result i32) (i32.const 0)))"#;
    place.write("r.wasm", wat::parse_str(raw).unwrap());
    let manifest = |rest: &str| {
        place.write("stem.toml", format!("[handlers.r]\nsource = \"file:r.wasm\"\n{rest}"));
    };
    manifest("");
    let ran = place.stem(&["module", "check", "r.wasm"]).expect(0);
    ran.says("imports stem0.kv_get and asks for no grants.kv");
    for (key, value) in [
        ("arguments", "[\"a\"]"),
        ("input-file", "\"/scratch/in\""),
        ("result-file", "\"/scratch/out\""),
    ] {
        manifest(&format!("{key} = {value}\ngrants.scratch = true"));
        place
            .stem(&["module", "check", "r.wasm"])
            .expect(1)
            .complains()
            .says(&format!("the manifest has {key}, which is for a command"));
    }
}

#[test]
fn task_run_gives_what_the_manifest_asks_for_as_far_as_the_policy_allows() {
    let place = Place::new();
    place.write("env.wasm", environment_module());
    let run = |words: &[&str]| {
        let mut all = vec!["task", "run", "env.wasm"];
        all.extend(words);
        place.stem_env(&[("SHARED", "yes"), ("SECRET", "hunter2")], &all).expect(0)
    };
    let has = |ran: &support::Ran, pair: &str| ran.stdout.split('\0').any(|found| found == pair);
    let nothing = run(&[]);
    assert!(!has(&nothing, "SHARED=yes") && !nothing.stdout.contains("hunter2"), "{nothing:?}");

    place.write("stem.toml", ASKING);
    let asked = run(&[]);
    assert!(has(&asked, "SHARED=yes") && !asked.stdout.contains("SIZE="), "{asked:?}");
    asked.says("config SIZE is asked for and not given");

    place.policy(POLICY);
    let capped = run(&["--policy", "policy.toml"]);
    assert!(has(&capped, "SHARED=yes") && has(&capped, "SIZE=800"), "{capped:?}");
    assert!(!capped.stdout.contains("COLOUR"), "{capped:?}");
    capped.says("config COLOUR is asked for and not given: the policy does not allow it");

    place.policy("[config]\nSIZE = \"800\"");
    let none = run(&["--policy", "policy.toml"]);
    assert!(!none.stdout.contains("SIZE=") && !none.stdout.contains("SHARED="), "{none:?}");
}

#[test]
fn a_policy_that_cannot_be_used_is_code_2_and_shows_no_secret() {
    let place = Place::new();
    place.write("env.wasm", environment_module());
    let commands: [&[&str]; 3] = [
        &["module", "check", "env.wasm", "--policy", "policy.toml"],
        &["task", "run", "env.wasm", "--policy", "policy.toml"],
        &["worker", "start", "--policy", "policy.toml"],
    ];
    let refused = |words: &str| {
        for command in commands {
            let ran = place.stem(command).expect(2).complains().says(words);
            assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
        }
    };
    refused("policy.toml");
    place.policy("[grants]\nhtpp = []");
    refused("did you mean \"http\"?");
    place.policy("[secrets.KEY]\nvalue = \"hunter2\"");
    refused("unknown key \"value\"");
    place.policy("secrets.KEY = hunter2");
    refused("line 1");
    place.policy("");
    std::fs::set_permissions(place.path("policy.toml"), PermissionsExt::from_mode(0o666)).unwrap();
    refused("others than its owner may write it");
}

#[test]
fn the_settings_name_the_policy() {
    let place = Place::new();
    place.write("stem.toml", "[settings]\npolicy = \"from-file.toml\"\n");
    let row = |environment: &[(&str, &str)], words: &[&str]| {
        let shown = place.stem_env(environment, words).expect(0).json();
        let rows = shown["settings"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["key"] == "policy").unwrap()
    };
    let show = ["config", "show", "--json"];
    assert_eq!(
        row(&[], &show),
        json!({"key": "policy", "value": "from-file.toml", "source": "file", "path": "stem.toml"})
    );
    let variable = [("STEM_POLICY", "from-environment.toml")];
    assert_eq!(row(&variable, &show)["value"], "from-environment.toml");
    let start = ["worker", "start", "--print-config", "--json", "--policy", "flag.toml"];
    assert_eq!(
        row(&variable, &start),
        json!({"key": "policy", "value": "flag.toml", "source": "flag", "flag": "--policy"})
    );
}

#[test]
fn a_worker_gives_what_the_policy_has_and_follows_it() {
    let place = Place::new();
    place.write("modules/env.wasm", environment_module());
    place.write("modules/stem.toml", ASKING);
    place.policy(POLICY);
    let words = ["--modules", "modules", "--policy", "policy.toml", "--concurrency", "1"];
    let _worker = Started::new(&place, &[], &words);
    let run = || place.stem(&["task", "enqueue", "env", "--wait"]).expect(0).stdout;
    let first = run();
    assert!(first.contains("SIZE=800") && !first.contains("COLOUR"), "{first:?}");
    let stats = place.stem(&["worker", "stats", "--json"]).expect(0).json();
    let module = &stats["replies"][0]["payload"]["modules"][0];
    assert_eq!(module["grants"], json!(["env SHARED", "config SIZE"]), "{stats}");

    place.policy(&POLICY.replace("800", "1024"));
    let started = Instant::now();
    while !run().contains("SIZE=1024") {
        assert!(started.elapsed() < Duration::from_mins(1), "the policy is not followed");
        std::thread::sleep(Duration::from_millis(200));
    }
    // One that cannot be used changes nothing, and the worker goes on.
    place.policy("[grants]\nhtpp = []");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        assert!(run().contains("SIZE=1024"));
    }
}

#[test]
fn what_a_policy_takes_away_is_gone_though_a_manifest_cannot_be_read_any_more() {
    let place = Place::new();
    place.write("modules/env.wasm", environment_module());
    place.write("modules/stem.toml", ASKING);
    place.policy(POLICY);
    let words = ["--modules", "modules", "--policy", "policy.toml", "--concurrency", "1"];
    let _worker = Started::new(&place, &[("SHARED", "yes")], &words);
    let run = || place.stem(&["task", "enqueue", "env", "--wait"]).expect(0).stdout;
    let first = run();
    assert!(first.contains("SIZE=800") && first.contains("SHARED=yes"), "{first:?}");
    place.write("modules/stem.toml", "[handlers.env");
    place.policy("[grants]\nenv = [\"SHARED\"]\n");
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < Duration::from_mins(1), "{what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    until("the policy is not followed", &|| !run().contains("SIZE="));
    assert!(run().contains("SHARED=yes"));
    // What cannot be used opens nothing, and whoever asks is told until it can be.
    let problem = || {
        let stats = place.stem(&["worker", "stats", "--json"]).expect(0).json();
        stats["replies"][0]["payload"]["policyProblem"].as_str().map(str::to_owned)
    };
    assert_eq!(problem(), None);
    place.policy("[grants]\nenv = [\"*\"]\nhtpp = []");
    until("nobody is told", &|| problem().is_some_and(|said| said.contains("htpp")));
    assert!(!run().contains("SIZE="));
    std::fs::remove_file(place.path("policy.toml")).unwrap();
    until("nobody is told", &|| problem().is_some_and(|said| said.contains("cannot be read")));
    assert!(!run().contains("SIZE="));
    place.policy("[grants]");
    until("the policy is not followed", &|| problem().is_none() && !run().contains("SHARED="));
}

#[test]
fn module_check_says_what_a_module_gets_when_it_is_pushed() {
    let place = Place::new();
    place.write("env.wasm", environment_module());
    place.write(
        "stem.toml",
        format!("{ASKING}[handlers.other]\nsource = \"file:env.wasm\"\ngrants.kv = [\"b\"]\n"),
    );
    let check = |words: &[&str]| {
        let words = [&["module", "check", "env.wasm", "--json"], words].concat();
        place.stem(&words).expect(0).json()
    };
    let local = check(&[]);
    assert_eq!((&local["origin"], &local["task"]), (&json!("local"), &json!("env")));
    assert_eq!(grant(&local, "env")["allowed"], json!(["SHARED"]));
    let said = |checked: &Value, words: &str| {
        checked["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|it| it.as_str().unwrap().contains(words))
    };
    assert!(said(&local, "it serves other too"), "{local}");
    let pushed = check(&["--pushed"]);
    assert_eq!(pushed["origin"], "pushed");
    assert_eq!(grant(&pushed, "env")["allowed"], json!([]));
    assert!(said(&pushed, "env SHARED is asked for and not given: a pushed module"), "{pushed}");
    // A policy caps both alike.
    place.policy(POLICY);
    let with = ["--policy", "policy.toml"];
    assert_eq!(check(&with)["grants"], check(&[&with[..], &["--pushed"]].concat())["grants"]);
    let other = check(&["--name", "other"]);
    assert_eq!((&other["task"], &grant(&other, "kv")["asked"]), (&json!("other"), &json!(["b"])));
    assert!(!said(&other, "it serves"), "{other}");
    let ran = place.stem(&["module", "check", "env.wasm", "--name", "othre"]).expect(2);
    ran.complains().says("did you mean other?");
    assert!(
        place.stem(&["module", "check", "env.wasm"]).expect(0).stdout.contains("the worker's own")
    );
}
