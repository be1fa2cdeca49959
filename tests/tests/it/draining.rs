//! A drain that lasts: the worker answers, keeps its leases, and can be hurried all along.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::lab::{Lab, number};

/// How long the worker is left draining. Ten minutes are for once in a while.
fn long() -> Duration {
    Duration::from_secs(number("STEM_TEST_LONG_DRAIN", 8))
}

#[test]
fn a_long_drain_answers_all_along_keeps_its_task_and_obeys_a_harder_mode() {
    let long = long();
    let lab = Lab::new();
    // Leases far shorter than the drain: a worker that stopped renewing would lose its task to the other one.
    let mut worker = lab.worker(&["--name", "slow", "--lease", "2s"]);
    let items = (long.as_secs() + 120) * 5;
    let items: Vec<_> = (0..items).map(|_| "1").collect();
    let args = format!(r#"{{"items":[{}],"delayMs":200}}"#, items.join(","));
    let id = lab.enqueue("crunch", &args, &[]);
    lab.until(&id, "under way", |record| record["progress"]["fraction"].as_f64() > Some(0.0));
    let other = lab.worker(&["--name", "other", "--lease", "2s"]);
    let waiting = lab.enqueue("word-count", r#"{"text":"x"}"#, &["--queue", "nobody"]);
    let shutdown = |mode: &str| {
        let said = lab.stem(&["worker", "shutdown", "--worker", "slow", "--mode", mode, "--json"]);
        said.ok().json()["replies"][0]["payload"].clone()
    };
    let first = shutdown("warm");
    assert_eq!(
        first,
        json!({"mode": "warm", "state": "draining", "active": 1}),
        "nobody had asked before"
    );

    let since = Instant::now();
    let (mut pings, mut slowest) = (0, 0.0_f64);
    while since.elapsed() < long {
        let answer = lab.stem(&["worker", "ping", "--timeout", "1m", "--json"]).ok().json();
        let replies = answer["replies"].as_array().unwrap();
        let state = |name: &str| {
            let reply = replies.iter().find(|reply| reply["worker"] == name);
            reply.map(|reply| reply["payload"]["state"].clone())
        };
        assert_eq!(state("slow"), Some(json!("draining")), "{answer}");
        assert_eq!(state("other"), Some(json!("running")), "{answer}");
        pings += 1;
        slowest = slowest.max(answer["elapsedMs"].as_f64().unwrap());
        let record = lab.show(&id);
        assert_eq!(
            (&record["state"], &record["deliveryCount"], &record["worker"]),
            (&json!("running"), &json!(1), &json!("slow")),
            "{record}"
        );
        std::thread::sleep(Duration::from_millis(200).max(long / 500));
    }
    println!("{pings} pings in {:?}, the slowest {slowest} ms", since.elapsed());
    let status = lab.stem(&["worker", "status", "--worker", "slow", "--json"]).ok().json();
    assert_eq!((&status[0]["status"], &status[0]["state"]), (&json!("alive"), &json!("draining")));
    let again = shutdown("warm");
    assert_eq!((&again["mode"], &again["already"]), (&json!("warm"), &json!("warm")), "{again}");
    let inspect = lab.stem(&["worker", "inspect", "--worker", "slow", "--json"]).ok().json();
    let active = &inspect["replies"][0]["payload"]["active"];
    assert_eq!(active[0]["id"], id.as_str(), "{inspect}");

    drop(other);
    let hard = shutdown("hard");
    assert_eq!((&hard["mode"], &hard["already"]), (&json!("hard"), &json!("warm")), "{hard}");
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    let record = lab.show(&id);
    assert_eq!(record["state"], "queued", "{record}");
    assert!(record.get("failure").is_none() && record.get("revocation").is_none(), "{record}");
    assert_eq!(lab.show(&waiting)["state"], "queued");
}

#[test]
fn a_softer_mode_never_replaces_a_harder_one() {
    let lab = Lab::new();
    let mut worker = lab.worker(&["--name", "w"]);
    let id = lab.enqueue("spin", "{}", &[]);
    lab.until_state(&id, "running");
    let shutdown = |args: &[&str]| {
        let mut all = vec!["worker", "shutdown", "--worker", "w", "--json"];
        all.extend(args);
        lab.stem(&all).ok().json()["replies"][0]["payload"].clone()
    };
    // A grace that the test never waits for.
    let soft = shutdown(&["--mode", "soft", "--grace", "10m"]);
    assert_eq!((&soft["mode"], soft.get("already")), (&json!("soft"), None), "{soft}");
    let warm = shutdown(&["--mode", "warm"]);
    assert_eq!((&warm["mode"], &warm["already"]), (&json!("soft"), &json!("soft")), "{warm}");
    worker.signal("-TERM");
    let ping = lab.stem(&["worker", "ping", "--json"]).ok().json();
    assert_eq!(ping["replies"][0]["payload"]["state"], "draining", "{ping}");
    let hard = shutdown(&["--mode", "hard"]);
    assert_eq!((&hard["mode"], &hard["already"]), (&json!("hard"), &json!("soft")), "{hard}");
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    assert_eq!(lab.show(&id)["state"], "queued");
}

#[test]
fn a_worker_without_work_leaves_at_once_and_says_goodbye() {
    for mode in ["warm", "soft", "hard"] {
        let lab = Lab::new();
        let mut worker = lab.worker(&["--name", "w"]);
        let said = lab.stem(&["worker", "shutdown", "--mode", mode, "--json"]).ok().json();
        assert_eq!(said["replies"][0]["payload"]["active"], 0, "{said}");
        assert_eq!(worker.wait(), 0, "{}", worker.log());
        let status = lab.stem(&["worker", "status", "--json"]).ok().json();
        let seen = (&status[0]["status"], &status[0]["state"]);
        assert_eq!(seen, (&json!("gone"), &json!("stopped")), "{mode}: {status}");
    }
}

#[test]
fn what_is_enqueued_after_a_worker_has_said_that_it_drains_is_left_to_others() {
    let lab = Lab::new();
    // Places are free and nothing waits, so that a request for deliveries is under way when the order comes.
    for mode in ["warm", "soft", "hard"] {
        let mut worker = lab.worker(&["--name", "w", "--soft-grace", "10m"]);
        let ping = lab.stem(&["worker", "ping", "--json"]).ok().json();
        assert_eq!(ping["replies"][0]["payload"]["inflight"], 0, "{ping}");
        let said = lab.stem(&["worker", "shutdown", "--mode", mode, "--json"]).ok().json();
        assert_eq!(said["replies"][0]["payload"]["state"], "draining", "{said}");
        let id = lab.enqueue("spin", "{}", &[]);
        // Had it started, a warm drain would wait for it until the test's patience is over.
        assert_eq!(worker.wait(), 0, "{mode}: {}", worker.log());
        let record = lab.show(&id);
        assert_eq!(
            (&record["state"], &record["attempt"], record.get("startedAt")),
            (&json!("queued"), &json!(0), None),
            "{mode}: {record}"
        );
        lab.stem(&["queue", "purge", "default", "--yes"]).ok();
    }
}
