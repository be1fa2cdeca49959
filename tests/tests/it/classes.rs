//! Trust classes: each worker runs, fetches and compiles what is of its own classes and nothing else, as the policy is at
//! the moment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::lab::Lab;

/// A module that answers with a digit.
fn answer(number: u8) -> Vec<u8> {
    let text = format!(
        r#"(module (import "stem0" "output_write" (func $out (param i32 i32) (result i32))) (memory (export "memory") 1)
           (data (i32.const 0) "{number}") (func (export "stem_run") (result i32) (call $out (i32.const 0) (i32.const 1))))"#
    );
    wat::parse_str(text).unwrap()
}

/// Puts a policy in the place of the one before, all at once.
fn policy(lab: &Lab, moving: &str) {
    let text = format!(
        "[handlers.ours]\nclass = \"a\"\n[handlers.\"theirs.*\"]\nclass = \"b\"\n[handlers.moving]\nclass = {moving:?}\n"
    );
    fs::write(lab.path("new.toml"), text).unwrap();
    fs::set_permissions(lab.path("new.toml"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(lab.path("new.toml"), lab.path("policy.toml")).unwrap();
}

/// What the worker of this name says of itself.
fn said(lab: &Lab, worker: &str, command: &str) -> Value {
    let said = lab.stem(&["worker", command, "--worker", worker, "--json"]).ok().json();
    said["replies"][0]["payload"].clone()
}

/// The task names of which it has modules in service.
fn modules(lab: &Lab, worker: &str) -> Vec<String> {
    let stats = said(lab, worker, "stats");
    let names = stats["modules"].as_array().unwrap().iter();
    let mut names: Vec<_> = names.map(|row| row["task"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Pieces of compiled code that it keeps.
fn compiled(cache: &Path) -> usize {
    let kept = fs::read_dir(cache.join("stem/modules")).unwrap();
    kept.filter(|file| file.as_ref().unwrap().path().extension().is_some()).count()
}

#[test]
fn a_worker_runs_and_compiles_what_is_of_its_class_and_nothing_else() {
    let lab = Lab::new();
    fs::create_dir(lab.path("modules")).unwrap();
    for (name, number) in [("ours", 1), ("theirs.local", 2), ("plain", 3)] {
        fs::write(lab.path(&format!("modules/{name}.wasm")), answer(number)).unwrap();
    }
    for (name, number) in [("theirs.pushed", 4), ("moving", 5)] {
        fs::write(lab.path("pushed.wasm"), answer(number)).unwrap();
        lab.stem(&["module", "push", "pushed.wasm", "--name", name]).ok();
    }
    policy(&lab, "a");
    let start = |name: &'static str| {
        let cache = lab.path(name);
        let env = [("XDG_CACHE_HOME", cache.to_str().unwrap())];
        let words = ["worker", "start", "--modules", "modules", "--policy", "policy.toml"];
        (lab.start(&[&words[..], &["--name", name, "--class", name]].concat(), &env), cache)
    };
    let (_a, cache_a) = start("a");
    let (_b, cache_b) = start("b");
    lab.wait_for("a's", |lab| modules(lab, "a"), |names| *names == ["moving", "ours"]);
    let theirs = ["theirs.local", "theirs.pushed"];
    lab.wait_for("b's", |lab| modules(lab, "b"), |names| *names == theirs);
    assert_eq!((compiled(&cache_a), compiled(&cache_b)), (2, 2));
    assert_eq!(said(&lab, "a", "inspect")["classes"], serde_json::json!(["a"]));
    let text = lab.stem(&["worker", "inspect", "--worker", "b"]).ok().stdout;
    assert!(text.contains("  trust classes: b") && text.contains("other-class"), "{text}");

    let tasks: Vec<_> = ["ours", "theirs.local", "theirs.pushed", "moving"]
        .into_iter()
        .cycle()
        .take(40)
        .map(|name| (name, lab.enqueue(name, "{}", &[])))
        .collect();
    let nobodys = lab.enqueue("plain", "{}", &[]);
    for (name, id) in &tasks {
        let expected = if name.starts_with("theirs") { "b" } else { "a" };
        assert_eq!(lab.until_state(id, "succeeded")["worker"], expected, "{name}");
    }
    assert_eq!(lab.show(&nobodys)["state"], "queued", "its class is default, of which nobody is");

    policy(&lab, "b");
    lab.wait_for("the move", |lab| modules(lab, "b"), |names| names.contains(&"moving".into()));
    lab.wait_for("the leaving", |lab| modules(lab, "a"), |names| *names == ["ours"]);
    let moved = lab.enqueue("moving", "{}", &[]);
    assert_eq!(lab.until_state(&moved, "succeeded")["worker"], "b");
}

#[test]
fn classes_come_from_a_policy_and_one_it_does_not_know_is_said() {
    let lab = Lab::new();
    let said = lab.stem(&["worker", "start", "--class", "a"]).exits(2);
    assert!(said.stderr.contains("names get their trust classes from a policy"), "{}", said.stderr);
    let env = [("STEM_WORKER_CLASSES", "a, b c")];
    let said = lab.stem_with(&["worker", "start"], &env).exits(2);
    assert!(said.stderr.contains("STEM_WORKER_CLASSES cannot be used"), "{}", said.stderr);
    policy(&lab, "a");
    let words = ["worker", "start", "--policy", "policy.toml"];
    let env = [("STEM_WORKER_CLASSES", "a,c")];
    let worker = lab.start(&words, &env);
    let expected = "the policy gives the trust class c to no name";
    assert!(worker.log().contains(expected), "{}", worker.log());
    let config = lab.stem_with(&[&words[..], &["--print-config"]].concat(), &env).ok().stdout;
    assert!(config.contains("STEM_WORKER_CLASSES"), "{config}");
}
