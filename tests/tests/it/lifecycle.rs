//! Workers that come back, that cannot know what is revoked, that are told to hold a queue, and how much they take.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Lab, modules};
use crate::store::Store;

fn payload(lab: &Lab, command: &str, worker: &str) -> Value {
    let said = lab.stem(&["worker", command, "--worker", worker, "--timeout", "1m", "--json"]);
    said.ok().json()["replies"][0]["payload"].clone()
}

#[test]
fn a_worker_that_was_frozen_past_its_lease_changes_nothing_of_what_another_did() {
    let lab = Lab::new();
    let mut frozen = lab.worker(&["--name", "frozen", "--lease", "2s"]);
    let id = lab.enqueue("crunch", r#"{"items":[1,2,3],"delayMs":1700}"#, &[]);
    lab.until_computing(&id);
    Store::freeze(&lab, &frozen);
    let other = lab.worker(&["--name", "other"]);
    let record = lab.until_state(&id, "succeeded");
    assert_eq!(
        (&record["worker"], &record["deliveryCount"], &record["attempt"]),
        (&json!("other"), &json!(2), &json!(1)),
        "{record}"
    );
    frozen.signal("-CONT");
    let look = |lab: &Lab| payload(lab, "stats", "frozen");
    let stats = lab.wait_for("the end of the old attempt", look, |stats| stats["inflight"] == 0);
    assert_eq!(stats["counters"]["leaseLost"], 1, "{stats}");
    assert_eq!(stats["counters"]["succeeded"], 0, "{stats}");
    assert_eq!(lab.show(&id), record, "not a byte of it is another");
    other.kill();
    let id = lab.enqueue("crunch", r#"{"items":[1,2,3],"delayMs":300}"#, &[]);
    assert_eq!(lab.until_state(&id, "succeeded")["worker"], "frozen", "it works on");
    assert!(frozen.is_running(), "{}", frozen.log());
}

#[test]
fn a_worker_that_cannot_read_the_revocations_takes_no_task() {
    let lab = Lab::new();
    let id = lab.enqueue("word-count", r#"{"text":"x"}"#, &[]);
    std::fs::write(lab.path("garbage.db"), vec![7_u8; 8192]).unwrap();
    let modules = modules();
    let said = lab.stem_with(
        &["worker", "start", "--modules", modules.to_str().unwrap()],
        &[("STEM_REVOKE_STORE_URL", "sqlite://garbage.db")],
    );
    let said = said.exits(5);
    assert!(said.stdout.is_empty(), "it never was ready: {}", said.stdout);
    assert!(said.stderr.contains("garbage.db"), "{}", said.stderr);
    let record = lab.show(&id);
    assert_eq!((&record["state"], &record["attempt"]), (&json!("queued"), &json!(0)), "{record}");
    let _worker = lab.worker(&[]);
    lab.until_state(&id, "succeeded");
}

#[test]
fn a_pause_told_to_one_worker_holds_the_queue_for_all_and_for_those_that_start_later() {
    let lab = Lab::new();
    let a = lab.worker(&["--name", "a"]);
    let _b = lab.worker(&["--name", "b"]);
    let pause = ["worker", "pause", "--worker", "a", "--queue", "default", "--reason", "relay"];
    lab.stem(&pause).ok();
    let id = lab.enqueue("word-count", r#"{"text":"x"}"#, &[]);
    a.kill();
    let _c = lab.worker(&["--name", "c"]);
    for worker in ["b", "c"] {
        assert_eq!(
            payload(&lab, "inspect", worker)["pausedQueues"],
            json!(["default"]),
            "{worker}"
        );
    }
    let queue = lab.stem(&["queue", "list", "--json"]).ok().json()[0].clone();
    assert_eq!((&queue["paused"], &queue["pauseReason"]), (&json!(true), &json!("relay")));
    assert_eq!((&queue["depth"], &queue["inflight"]), (&json!(1), &json!(0)), "{queue}");
    assert_eq!(lab.show(&id)["attempt"], 0, "fetched and given back is not held");
    lab.stem(&["worker", "resume", "--worker", "b", "--queue", "default"]).ok();
    for worker in ["b", "c"] {
        assert_eq!(payload(&lab, "inspect", worker)["pausedQueues"], json!([]), "{worker}");
    }
    lab.until_state(&id, "succeeded");
}

#[test]
fn a_worker_takes_no_more_than_it_can_run_and_leaves_the_rest_to_others() {
    let lab = Lab::new();
    let ids: Vec<_> = (0..5).map(|_| lab.enqueue("spin", "{}", &[])).collect();
    let _two = lab.worker(&["--concurrency", "2"]);
    let counts = |lab: &Lab| {
        let queue = lab.stem(&["queue", "list", "--json"]).ok().json()[0].clone();
        (queue["depth"].as_u64().unwrap(), queue["inflight"].as_u64().unwrap())
    };
    lab.wait_for("two in hand", counts, |counts| *counts == (3, 2));
    lab.until_computing(ids.iter().find(|id| lab.show(id)["state"] == "running").unwrap());
    assert_eq!(counts(&lab), (3, 2), "nothing lies in a worker's hands and waits there");
    let _three = lab.worker(&["--concurrency", "3"]);
    lab.wait_for("all in hand", counts, |counts| *counts == (0, 5));
}

#[test]
fn workers_without_a_name_get_names_of_their_own() {
    let lab = Lab::new();
    let first = lab.worker(&[]);
    let name = |lab: &Lab| {
        let ping = lab.stem(&["worker", "ping", "--json"]).ok().json();
        let expected = ping["expected"].as_array().unwrap().clone();
        expected.iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let one = name(&lab);
    let _second = lab.worker(&[]);
    let two = name(&lab);
    assert_eq!((one.len(), two.len()), (1, 2), "{two:?}");
    // One that is gone without a goodbye stands in nobody's way.
    first.kill();
    let _third = lab.worker(&[]);
    assert_eq!(lab.stem(&["worker", "status", "--json"]).ok().json().as_array().unwrap().len(), 3);
}

#[test]
fn a_kill_in_the_middle_of_a_drain_loses_nothing() {
    for (signal, wait) in [("-TERM", 0), ("-TERM", 40), ("-INT", 20), ("-QUIT", 0), ("-QUIT", 5)] {
        let lab = Lab::new();
        let lease = ["--lease", "2s", "--concurrency", "8"];
        let worker = lab.worker(&lease);
        let args = r#"{"items":[1,2,3],"delayMs":200}"#;
        let ids: Vec<_> = (0..8).map(|_| lab.enqueue("crunch", args, &[])).collect();
        lab.until(&ids[7], "begun", |record| record["state"] != "queued");
        worker.signal(signal);
        std::thread::sleep(Duration::from_millis(wait));
        worker.kill();
        let _next = lab.worker(&lease);
        for id in &ids {
            let record = lab.until_state(id, "succeeded");
            assert_eq!((&record["attempt"], &record["result"]["sum"]), (&json!(1), &json!(6)));
            let deliveries = record["deliveryCount"].as_u64().unwrap();
            assert!((1..=2).contains(&deliveries), "{signal} and kill after {wait} ms: {record}");
        }
    }
}
