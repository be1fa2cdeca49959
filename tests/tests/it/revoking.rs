//! Revocations: the store decides, whoever wrote it and whoever was told; and nobody is told what is not stored.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stem_core::control::Order;
use stem_core::revoke::RevokeRequest;
use stem_core::time::Timestamp;

use crate::lab::{Lab, Worker};
use crate::store::{Store, now};

fn terminate() -> RevokeRequest {
    RevokeRequest {
        terminate: true,
        reason: Some("by hand".to_owned()),
        ..RevokeRequest::default()
    }
}

/// A folder with the task `fail`, which traps, and so may be tried again.
fn failing(lab: &Lab) -> PathBuf {
    let wasm = wat::parse_str(
        r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) unreachable))"#,
    );
    let dir = lab.path("failing");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("fail.wasm"), wasm.unwrap()).unwrap();
    dir
}

fn worker_that_fails(lab: &Lab, dir: &std::path::Path) -> Worker {
    lab.worker_from(&["worker", "start", "--modules", dir.to_str().unwrap()])
}

#[track_caller]
fn stop(mut worker: Worker) {
    worker.signal("-TERM");
    assert_eq!(worker.wait(), 0, "{}", worker.log());
}

/// What began, if anything is still told of it, began before the revocation.
#[track_caller]
fn assert_not_begun_since(record: &Value, before: &Value) {
    assert_eq!(record["revocation"]["how"], "before-start", "{record}");
    let began = &record["startedAt"];
    assert!(began.is_null() || *began == before["startedAt"], "it began once more: {record}");
}

#[track_caller]
fn assert_never_began(record: &Value) {
    assert_eq!(record["revocation"]["how"], "before-start", "{record}");
    assert!(record["finishedAt"].is_string(), "{record}");
    for key in ["startedAt", "usage", "progress", "result", "failure"] {
        assert!(record.get(key).is_none(), "{key}: {record}");
    }
}

#[test]
fn what_is_revoked_while_nobody_is_there_ends_before_it_starts() {
    let lab = Lab::new();
    let ids = [(); 3].map(|()| lab.enqueue("spin", "{}", &[]));
    let spared = lab.enqueue("word-count", r#"{"text":"x"}"#, &[]);
    for (id, how) in ids.iter().zip([&[][..], &["--terminate"], &["--cooperative"]]) {
        let mut args = vec!["worker", "revoke", "--task", id, "--json"];
        args.extend(["--reason", "too late", "--requester", "ann"]);
        args.extend(how);
        let answer = lab.stem(&args).ok().json();
        assert_eq!((&answer["expected"], &answer["replies"]), (&json!([]), &json!([])));
        assert_eq!(answer["persisted"][0]["taskId"], id.as_str(), "{answer}");
    }
    let _worker = lab.worker(&[]);
    for id in &ids {
        let record = lab.until_state(id, "revoked");
        assert_never_began(&record);
        let end = &record["revocation"];
        assert_eq!(
            (&end["reason"], &end["requestedBy"]),
            (&json!("too late"), &json!("ann")),
            "{record}"
        );
        lab.stem(&["dlq", "show", id]).exits(3);
    }
    lab.until_state(&spared, "succeeded");
    let queue = lab.stem(&["queue", "list", "--json"]).ok().json();
    let left = (&queue[0]["depth"], &queue[0]["delayed"], &queue[0]["inflight"]);
    assert_eq!(left, (&json!(0), &json!(0), &json!(0)), "{queue}");
}

#[test]
fn a_task_that_waits_for_its_retry_is_revoked_before_it_starts_again() {
    let lab = Lab::new();
    let dir = failing(&lab);
    let worker = worker_that_fails(&lab, &dir);
    let id = lab.enqueue("fail", "{}", &["--max-retries", "100"]);
    lab.until_state(&id, "retrying");
    stop(worker);
    let before = lab.show(&id);
    assert_eq!(before["state"], "retrying", "a shutdown leaves it waiting: {before}");
    lab.stem(&["worker", "revoke", "--task", &id]).ok();
    let _worker = worker_that_fails(&lab, &dir);
    let record = lab.until_state(&id, "revoked");
    assert_not_begun_since(&record, &before);
    lab.stem(&["dlq", "show", &id]).exits(3);
}

#[test]
fn a_replayed_dead_letter_is_still_revoked() {
    let lab = Lab::new();
    let dir = failing(&lab);
    let worker = worker_that_fails(&lab, &dir);
    let [earlier, meanwhile] = [(); 2].map(|()| {
        let id = lab.enqueue("fail", "{}", &["--max-retries", "0"]);
        lab.until_state(&id, "failed");
        id
    });
    // One while the worker knows, one that the next worker must read.
    let replay = |id: &str| {
        let before = lab.show(id);
        lab.stem(&["worker", "revoke", "--task", id]).ok();
        lab.stem(&["dlq", "replay", id, "--yes"]).ok();
        before
    };
    let before = replay(&meanwhile);
    assert_not_begun_since(&lab.until_state(&meanwhile, "revoked"), &before);
    stop(worker);
    let before = replay(&earlier);
    assert_eq!(lab.show(&earlier)["state"], "queued");
    let _worker = worker_that_fails(&lab, &dir);
    assert_not_begun_since(&lab.until_state(&earlier, "revoked"), &before);
    for id in [&earlier, &meanwhile] {
        lab.stem(&["dlq", "show", id]).exits(3);
    }
}

#[test]
fn a_terminate_written_straight_into_the_store_is_obeyed() {
    let lab = Lab::new();
    let _worker = lab.worker(&["--name", "w"]);
    let store = Store::open(&lab.database());
    for (name, args) in [("spin", "{}"), ("crunch", r#"{"items":[1],"delayMs":600000}"#)] {
        let id = lab.enqueue(name, args, &[]);
        lab.until_computing(&id);
        let since = Instant::now();
        store.revoke(&[&id], &terminate());
        let record = lab.until_state(&id, "revoked");
        let took = since.elapsed();
        println!("{name}: revoked {took:?} after it was stored");
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
        assert_eq!(record["revocation"]["how"], "preempted", "{record}");
        assert_eq!(record["revocation"]["reason"], "by hand", "{record}");
        assert_no_revoke_was_sent(&store);
    }
}

#[test]
fn a_revocation_written_straight_into_the_store_keeps_a_waiting_task_from_starting() {
    let lab = Lab::new();
    let _worker = lab.worker(&["--name", "w"]);
    let store = Store::open(&lab.database());
    store.revoke(&["later"], &RevokeRequest::default());
    until_known(&lab, &["later"]);
    lab.enqueue("spin", "{}", &["--id", "later"]);
    assert_never_began(&lab.until_state("later", "revoked"));
    assert_no_revoke_was_sent(&store);
}

/// Waits until the worker has in memory that exactly these are revoked.
#[track_caller]
fn until_known(lab: &Lab, tasks: &[&str]) {
    let known = |lab: &Lab| {
        let said = lab.stem(&["worker", "inspect", "--json"]).ok().json();
        let revoked = said["replies"][0]["payload"]["revoked"].as_array().unwrap().clone();
        revoked.iter().map(|one| one["taskId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    lab.wait_for("the worker's knowledge", known, |known| known == tasks);
}

#[track_caller]
fn assert_no_revoke_was_sent(store: &Store) {
    let log = store.commands();
    let sent = log.iter().filter(|command| matches!(command.order, Order::Revoke { .. })).count();
    assert_eq!(sent, 0, "{log:?}");
}

#[test]
fn a_revocation_without_terminate_leaves_what_runs_alone() {
    let lab = Lab::new();
    let _worker = lab.worker(&[]);
    let id = lab.enqueue("crunch", r#"{"items":[1,2,3],"delayMs":1700}"#, &[]);
    lab.until_state(&id, "running");
    let answer = lab.stem(&["worker", "revoke", "--task", &id, "--json"]).ok().json();
    let payload = &answer["replies"][0]["payload"];
    assert_eq!((&payload["applied"], &payload["inflight"]), (&json!([id]), &json!([id])));
    assert_eq!(payload["terminated"], json!([]), "{answer}");
    assert_eq!(lab.until_state(&id, "succeeded")["result"]["sum"], 6);
}

#[test]
fn a_cooperative_terminate_stops_at_a_checkpoint_and_never_by_force() {
    let lab = Lab::new();
    let _worker = lab.worker(&["--concurrency", "2"]);
    let spin = lab.enqueue("spin", "{}", &[]);
    let items: Vec<_> = (0..10_000).map(|_| "1").collect();
    let args = format!(r#"{{"items":[{}],"delayMs":10}}"#, items.join(","));
    let crunch = lab.enqueue("crunch", &args, &[]);
    lab.until_computing(&spin);
    lab.until_computing(&crunch);
    let revoke = |how: &[&str]| {
        let mut args = vec!["worker", "revoke", "--task", &spin, "--task", &crunch, "--json"];
        args.extend(how);
        lab.stem(&args).ok().json()["replies"][0]["payload"].clone()
    };
    let payload = revoke(&["--cooperative", "--timeout", "1m"]);
    let record = lab.until_state(&crunch, "revoked");
    assert_eq!(record["revocation"]["how"], "checkpoint", "{record}");
    assert!(
        payload["terminated"].as_array().unwrap().iter().all(|end| end["id"] != spin.as_str()),
        "it cannot have stopped by itself: {payload}"
    );
    let inspect = lab.stem(&["worker", "inspect", "--json"]).ok().json();
    let active = inspect["replies"][0]["payload"]["active"][0].clone();
    assert_eq!((&active["id"], &active["terminating"]), (&json!(spin), &json!(true)), "{inspect}");
    assert_eq!(lab.show(&spin)["state"], "running");
    revoke(&["--terminate"]);
    let record = lab.until_state(&spin, "revoked");
    assert_eq!(record["revocation"]["how"], "preempted", "{record}");
}

#[test]
fn undo_makes_a_task_runnable_again() {
    let lab = Lab::new();
    let id = lab.enqueue("word-count", r#"{"text":"x"}"#, &[]);
    lab.stem(&["worker", "revoke", "--task", &id]).ok();
    lab.stem(&["revokes", "undo", "--task", &id]).ok();
    let _worker = lab.worker(&[]);
    lab.until_state(&id, "succeeded");

    // A worker that runs learns of both.
    lab.stem(&["worker", "revoke", "--task", "later"]).ok();
    until_known(&lab, &["later"]);
    lab.stem(&["revokes", "undo", "--task", "later"]).ok();
    until_known(&lab, &[]);
    lab.enqueue("word-count", r#"{"text":"x"}"#, &["--id", "later"]);
    lab.until_state("later", "succeeded");
}

#[test]
fn what_is_listed_is_what_holds_and_prune_removes_what_does_not() {
    let lab = Lab::new();
    let list = |lab: &Lab| {
        let listed = lab.stem(&["revokes", "list", "--json"]).ok().json();
        let ids = listed.as_array().unwrap().iter();
        ids.map(|one| one["taskId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let revoke = |task: &str, more: &[&str]| {
        let mut args = vec!["worker", "revoke", "--task", task, "--json"];
        args.extend(more);
        lab.stem(&args).ok().json()["persisted"][0].clone()
    };
    let time = |record: &Value, key: &str| {
        record[key].as_str().map(|text| text.parse::<Timestamp>().unwrap())
    };
    let month = Duration::from_hours(30 * 24);
    let minute = Duration::from_mins(1);
    let record = revoke("default", &[]);
    let kept = time(&record, "expiresAt").unwrap().since(time(&record, "issuedAt").unwrap());
    assert!(kept + minute > month && kept < month + minute, "{record}");
    assert_eq!(time(&revoke("never", &["--expires-in", "never"]), "expiresAt"), None);
    let record = revoke("short", &["--expires-in", "200ms"]);
    assert!(time(&record, "expiresAt").unwrap() < now().after(minute), "{record}");

    let said = lab.stem(&["revokes", "list"]).ok();
    assert!(said.stdout.contains("default") && said.stdout.contains("never"), "{}", said.stdout);
    lab.wait_for("the end of the short one", list, |left| *left == ["default", "never"]);
    let prune = || lab.stem(&["revokes", "prune", "--json"]).ok().json();
    assert_eq!(prune(), json!({"namespace": "stem", "pruned": 1}));
    assert_eq!(prune()["pruned"], 0);
    lab.stem(&["revokes", "undo", "--task", "never"]).ok();
    assert_eq!(list(&lab), ["default"]);
    lab.enqueue("word-count", r#"{"text":"x"}"#, &["--id", "short"]);
    let _worker = lab.worker(&[]);
    lab.until_state("short", "succeeded");
}

#[test]
fn nobody_is_told_of_a_revocation_that_cannot_be_stored() {
    /// Files may grow to 512 KiB or 1 MiB: far beyond the broker's log, far below the full store's.
    const BLOCKS: u32 = 1_024;
    let lab = Lab::new();
    let _worker = lab.worker(&["--name", "w"]);
    let id = lab.enqueue("spin", "{}", &[]);
    lab.until_computing(&id);
    let broker = Store::open(&lab.database());

    // Cannot even be opened.
    std::fs::write(lab.path("garbage.db"), vec![7_u8; 8192]).unwrap();
    // Can be opened and read, and refuses to write: its log is longer than files may be.
    let full = Store::open(&lab.path("full.db"));
    let filler: Vec<_> = (0..6_000).map(|number| number.to_string()).collect();
    let filler: Vec<_> = filler.iter().map(String::as_str).collect();
    let long = RevokeRequest { reason: Some("x".repeat(400)), ..RevokeRequest::default() };
    full.revoke(&filler, &long);
    let log = std::fs::metadata(lab.path("full.db-wal")).unwrap().len();
    assert!(log > 1024 * u64::from(BLOCKS), "the store is not full: its log has {log} bytes");

    for name in ["garbage.db", "full.db"] {
        let url = format!("sqlite://{}", lab.path(name).display());
        let env = [("STEM_REVOKE_STORE_URL", url.as_str())];
        for how in [&[][..], &["--json"]] {
            let mut args = vec!["worker", "revoke", "--task", &id, "--terminate"];
            args.extend(how);
            let said = lab.stem_with_small_files(BLOCKS, &args, &env).exits(5);
            assert!(said.stdout.is_empty(), "{}", said.stdout);
            assert!(said.stderr.contains(name), "{}", said.stderr);
            assert!(!said.stderr.contains("is stored"), "{}", said.stderr);
            assert!(said.stderr.lines().last().unwrap().starts_with("hint: "), "{}", said.stderr);
        }
        assert_no_revoke_was_sent(&broker);
    }
    // The same broker takes commands under the same bound, so it was the store that stood in the way.
    let said = lab.stem_with_small_files(BLOCKS, &["worker", "inspect", "--json"], &[]).ok();
    let payload = said.json()["replies"][0]["payload"].clone();
    assert_eq!(payload["revoked"], json!([]), "{payload}");
    assert_eq!(payload["active"][0]["id"], id.as_str(), "{payload}");
    assert!(payload["active"][0].get("terminating").is_none(), "{payload}");
    // And what the worker does follow still stops the task.
    lab.stem(&["worker", "revoke", "--task", &id, "--terminate"]).ok();
    lab.until_state(&id, "revoked");
}
