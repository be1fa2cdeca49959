//! Which namespace a command is for and how long it waits: flag, then environment, then file, then default.

use serde_json::json;

use crate::lab::Lab;

const CONTROL: &str = "STEM_CONTROL_NAMESPACE";
const WORKER: &str = "STEM_WORKER_NAMESPACE";

#[test]
fn a_worker_hears_the_commands_of_its_own_namespace_only() {
    let lab = Lab::new();
    let mut worker = lab.worker_with(&["--name", "w"], &[(CONTROL, "a")]);
    let ping = |args: &[&str], env: &[(&str, &str)]| {
        let mut all = vec!["worker", "ping", "--json"];
        all.extend(args);
        lab.stem_with(&all, env)
    };
    let answer = ping(&[], &[(CONTROL, "a")]).ok().json();
    assert_eq!((&answer["namespace"], &answer["expected"]), (&json!("a"), &json!(["w"])));
    for env in [&[(CONTROL, "b")][..], &[], &[(WORKER, "b")]] {
        let answer = ping(&[], env).exits(3).json();
        assert_eq!(answer["expected"], json!([]), "{env:?}: {answer}");
        // Named, so it is sent; the worker of that name in the other namespace must not mind it.
        let answer = ping(&["--worker", "w", "--timeout", "300ms"], env).exits(3).json();
        assert_eq!(answer["missing"], json!(["w"]), "{env:?}: {answer}");
    }
    let shutdown = ["worker", "shutdown", "--worker", "w", "--mode", "hard", "--timeout", "300ms"];
    lab.stem_with(&shutdown, &[(CONTROL, "b")]).exits(3);
    ping(&[], &[(CONTROL, "a")]).ok();
    assert!(worker.is_running(), "{}", worker.log());
}

#[test]
fn the_namespace_is_the_flags_then_each_variables_then_the_files() {
    let lab = Lab::new();
    let namespace = |args: &[&str], env: &[(&str, &str)]| {
        let mut all = vec!["worker", "ping", "--json"];
        all.extend(args);
        lab.stem_with(&all, env).exits(3).json()["namespace"].clone()
    };
    assert_eq!(namespace(&[], &[]), "stem");
    std::fs::write(lab.path("stem.toml"), "[settings]\nnamespace = \"file\"\n").unwrap();
    assert_eq!(namespace(&[], &[]), "file");
    assert_eq!(namespace(&[], &[(WORKER, "worker")]), "worker");
    let both = [(WORKER, "worker"), (CONTROL, "control")];
    assert_eq!(namespace(&[], &both), "control");
    assert_eq!(namespace(&["--namespace", "flag"], &both), "flag");
}

#[test]
fn the_time_to_wait_is_the_flags_then_the_variables_then_the_files() {
    let lab = Lab::new();
    let waited = |args: &[&str], env: &[(&str, &str)]| {
        let mut all = vec!["worker", "ping", "--worker", "nobody", "--json"];
        all.extend(args);
        lab.stem_with(&all, env).exits(3).json()["elapsedMs"].as_f64().unwrap()
    };
    let variable = [("STEM_CONTROL_TIMEOUT", "500ms")];
    let took = waited(&[], &variable);
    assert!((500.0..5_000.0).contains(&took), "the variable was not obeyed: {took}");
    std::fs::write(lab.path("stem.toml"), "[settings]\ncontrol-timeout = \"1m\"\n").unwrap();
    let took = waited(&[], &variable);
    assert!((500.0..30_000.0).contains(&took), "the variable beats the file: {took}");
    let took = waited(&["--timeout", "50ms"], &[("STEM_CONTROL_TIMEOUT", "1m")]);
    assert!((50.0..30_000.0).contains(&took), "the flag beats the variable: {took}");
}

#[test]
fn a_revocation_holds_in_its_own_namespace_only() {
    let lab = Lab::new();
    let id = lab.enqueue("word-count", r#"{"text":"x"}"#, &["--delay", "1s"]);
    let _worker = lab.worker_with(&["--name", "w"], &[(CONTROL, "a")]);
    lab.stem_with(&["worker", "revoke", "--task", &id], &[(CONTROL, "b")]).ok();
    let list = |namespace: &str| {
        let said = lab.stem(&["revokes", "list", "--namespace", namespace, "--json"]).ok().json();
        said.as_array().unwrap().len()
    };
    assert_eq!((list("a"), list("b")), (0, 1));
    lab.until_state(&id, "succeeded");
}
