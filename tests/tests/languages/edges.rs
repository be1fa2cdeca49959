//! Tasks in C and Go at their edges, built and run by the program itself: what they print, exit with, fall into and are granted.
//! Components have tests of their own for this; these two are commands that import `stem0`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{C, GO, Language, Project, root};

const MANIFEST: &str = r#"
[handlers.edges.grants]
children = ["thumb.*"]
kv = ["seen:rw", "fonts"]
config = ["SIZE"]
secrets = [{ name = "KEY", hosts = ["api.example.org"], reveal = true }]
"#;

const POLICY: &str = r#"
[grants]
children = ["*"]
kv = ["*:rw"]
config = ["*"]
secrets = [{ name = "KEY", hosts = ["api.example.org"], reveal = true }]
[config]
SIZE = "800"
[secrets.KEY]
env = "EDGES_KEY"
"#;

/// How it failed: its kind, code, and a part of its message.
type Fails = (&'static str, &'static str, &'static str);

#[test]
fn c_ends_as_the_guide_says() {
    let project = project(&C);
    succeeds(&project);
    assert_eq!(run(&project, "empty")["result"]["base64"], "", "nothing is a result");
    let fails: [(&str, Fails); 5] = [
        ("large", ("payload-too-large", "result-too-large", "1048576")),
        ("exit-0", ("error", "no-result", "output_write")),
        ("exit-255", ("error", "exit-255", "told nothing")),
        ("crash", ("trap", "unreachable", "abort")),
        ("deep", ("trap", "memory-out-of-bounds", "falls")),
    ];
    fail(&project, &fails);
}

#[test]
fn go_ends_as_the_guide_says() {
    let project = project(&GO);
    succeeds(&project);
    assert_eq!(run(&project, "nothing")["result"], json!({ "printed": true }));
    let fails: [(&str, Fails); 9] = [
        ("large", ("payload-too-large", "result-too-large", "1048576")),
        ("exit-0", ("error", "no-result", "output_write")),
        ("exit-255", ("error", "exit-255", "told nothing")),
        ("log", ("error", "exit-1", "told nothing")),
        ("crash", ("error", "panic", "the words of a panic")),
        ("nil", ("error", "panic", "nil pointer")),
        ("asleep", ("error", "exit-2", "told nothing")),
        ("goexit", ("error", "exit-2", "told nothing")),
        ("elsewhere", ("error", "exit-2", "told nothing")),
    ];
    fail(&project, &fails);
    // Whichever is used up first, its own memory or the sandbox's stack.
    let deep = run(&project, "deep");
    assert!(
        ["trap", "memory-limit"].contains(&deep["failure"]["kind"].as_str().unwrap()),
        "{deep}"
    );
}

/// What it prints is no part of its result, and what it is granted it has.
fn succeeds(project: &Path) {
    assert_eq!(run(project, "print")["result"], json!({ "printed": true }));
    let granted = run(project, "grants");
    assert_eq!(granted["result"], json!({ "size": "800" }), "{granted}");
    let child = |number: usize| &granted["children"][number];
    assert_eq!(child(0)["name"], "thumb.small");
    assert_eq!(child(0)["input"], json!({ "n": 1 }), "{granted}");
    assert_eq!((&child(0)["dedupKey"], &child(0)["delayMs"]), (&json!("k"), &json!(1500)));
    assert_eq!(child(1)["input"], json!({ "mediaType": "image/png", "base64": "iVBORw==" }));
    assert_eq!(granted["children"].as_array().unwrap().len(), 2, "{granted}");
}

fn fail(project: &Path, fails: &[(&str, Fails)]) {
    for (op, (kind, code, words)) in fails {
        let ended = run(project, op);
        let failure = &ended["failure"];
        assert_eq!(
            (&failure["kind"], &failure["code"]),
            (&json!(kind), &json!(code)),
            "{op}: {ended}"
        );
        assert!(failure["message"].as_str().unwrap().contains(words), "{op}: {ended}");
    }
}

fn project(language: &Language) -> Project {
    let sources = root().join("tests/tests/languages/edges").join(language.lang);
    let project = language.project("edges", &sources, |project| {
        let manifest = project.join("stem.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, format!("{text}{MANIFEST}")).unwrap();
    });
    fs::write(project.join("policy.toml"), POLICY).unwrap();
    project
}

/// Runs it, and tells the document of the run.
fn run(project: &Path, op: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stem-under-test"));
    let arguments = json!({ "op": op }).to_string();
    let output = command
        .args(["task", "run", "--json", "--policy", "policy.toml", "--args", &arguments])
        .current_dir(project)
        .env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
        .env("EDGES_KEY", "hush")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{op}: {error}: {said}"))
}
