//! What `worker start` was told to keep within: concurrency, the life of a module, and what it may do without knowing
//! what is revoked.

use serde_json::{Value, json};

use crate::lab::Lab;

fn stats(lab: &Lab) -> Value {
    let said = lab.stem(&["worker", "stats", "--json"]).ok().json();
    said["replies"][0]["payload"].clone()
}

#[test]
fn an_autoscaled_worker_starts_small_and_grows_with_the_backlog() {
    let lab = Lab::new();
    let _worker = lab.worker(&["--autoscale", "1..3"]);
    let keys = ["minConcurrency", "activeConcurrency", "maxConcurrency", "autoscale"];
    let seen = |lab: &Lab| -> Vec<Value> {
        let stats = stats(lab);
        keys.iter().map(|key| stats[*key].clone()).collect()
    };
    assert_eq!(seen(&lab), [json!(1), json!(1), json!(3), json!(true)]);
    let tasks: Vec<String> =
        (0..4).map(|_| lab.enqueue("crunch", r#"{"items":[1,2,3],"delayMs":1500}"#, &[])).collect();
    // The first look is after 2 s; each task takes longer.
    lab.wait_for("a second place", seen, |seen| seen[1] == json!(2));
    for task in &tasks {
        lab.until_state(task, "succeeded");
    }
}

#[test]
fn a_module_that_has_served_its_time_is_replaced_and_the_log_says_why() {
    let lab = Lab::new();
    let worker = lab.worker(&["--concurrency", "1", "--max-tasks-per-isolate", "2"]);
    for _ in 0..4 {
        let task = lab.enqueue("crunch", r#"{"items":[1]}"#, &[]);
        lab.until_state(&task, "succeeded");
    }
    let recycled = |lab: &Lab| stats(lab)["counters"]["recycled"].clone();
    lab.wait_for("two replacements", recycled, |recycled| *recycled == json!(2));
    let log = worker.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("isolate recycled")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines.iter().all(|line| line.contains("max-tasks")), "{log}");
}

#[test]
fn a_revoke_store_that_cannot_be_read_keeps_a_worker_from_starting_unless_it_is_told_otherwise() {
    let lab = Lab::new();
    // A directory where a file should be.
    let store = format!("file://{}", lab.path("").display());
    let closed = lab.stem(&["--revoke-store", &store, "worker", "start"]).exits(5);
    assert!(closed.stderr.contains("directory"), "{}", closed.stderr);
    let open = lab.worker_from(&[
        "--revoke-store",
        &store,
        "worker",
        "start",
        "--revoke-policy",
        "fail-open",
    ]);
    lab.wait_for("a warning", |_| open.log(), |log| log.contains("fail open"));
}

#[test]
fn a_line_appended_by_hand_is_obeyed_by_a_running_worker() {
    use std::io::Write;

    let lab = Lab::new();
    let file = lab.path("revokes.jsonl");
    let store = format!("file://{}", file.display());
    let modules = crate::lab::modules();
    let _worker = lab.worker_from(&[
        "--revoke-store",
        &store,
        "worker",
        "start",
        "--modules",
        modules.to_str().unwrap(),
    ]);
    let task = lab.enqueue("spin", "{}", &[]);
    lab.until_computing(&task);
    let line = json!({"namespace": "stem", "taskId": task, "terminate": true, "reason": "by hand"});
    let mut opened = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    opened.write_all(format!("{line}\n").as_bytes()).unwrap();
    let record = lab.until_state(&task, "revoked");
    assert_eq!(record["revocation"]["reason"], "by hand");
    assert_eq!(record["revocation"]["how"], "preempted");
}
