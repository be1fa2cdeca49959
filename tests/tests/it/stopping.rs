//! Stopping tasks and workers: only a revoke makes a task revoked, and a shutdown loses nothing.

use std::time::{Duration, Instant};

use crate::lab::Lab;

#[test]
fn a_runaway_is_stopped_by_force_while_the_others_run_on() {
    let lab = Lab::new();
    let _worker = lab.worker(&["--concurrency", "4"]);
    let spin = lab.enqueue("spin", "{}", &[]);
    let crunch = lab.enqueue("crunch", r#"{"items":[1,2,3,4,5,6,7,8,9,10],"delayMs":200}"#, &[]);
    lab.until_computing(&spin);
    lab.until(&crunch, "begun", |record| record["state"] != "queued");
    let said = lab
        .stem(&[
            "worker",
            "revoke",
            "--task",
            &spin,
            "--terminate",
            "--reason",
            "runaway",
            "--requester",
            "ops",
            "--json",
        ])
        .ok()
        .json();
    assert_eq!(said["persisted"][0]["taskId"], spin.as_str(), "{said}");
    let record = lab.until_state(&spin, "revoked");
    assert_eq!(record["revocation"]["how"], "preempted");
    assert_eq!(record["revocation"]["reason"], "runaway");
    assert_eq!(record["revocation"]["requestedBy"], "ops");
    let record = lab.until_state(&crunch, "succeeded");
    assert_eq!((&record["result"]["sum"], &record["deliveryCount"]), (&55.into(), &1.into()));
    lab.stem(&["dlq", "show", &spin]).exits(3);
}

#[test]
fn a_task_revoked_while_no_worker_runs_never_starts() {
    let lab = Lab::new();
    let id = lab.enqueue("spin", "{}", &[]);
    lab.stem(&["worker", "revoke", "--task", &id]).ok();
    let _worker = lab.worker(&[]);
    let record = lab.until_state(&id, "revoked");
    assert_eq!(record["revocation"]["how"], "before-start");
    assert_eq!((record.get("startedAt"), &record["attempt"]), (None, &0.into()), "{record}");
}

#[test]
fn every_shutdown_gives_the_task_back_at_once_and_uses_up_no_attempt() {
    for (signal, soft_grace) in [("-QUIT", "1m"), ("-INT", "200ms")] {
        let lab = Lab::new();
        let mut worker = lab.worker(&["--soft-grace", soft_grace, "--lease", "30s"]);
        let id = lab.enqueue("spin", "{}", &[]);
        lab.until_state(&id, "running");
        let since = Instant::now();
        worker.signal(signal);
        assert_eq!(worker.wait(), 0, "{}", worker.log());
        assert!(since.elapsed() < Duration::from_secs(30), "{signal} took {:?}", since.elapsed());
        let record = lab.show(&id);
        assert_eq!(record["state"], "queued", "{signal}: {record}");
        let _next = lab.worker(&[]);
        let record = lab.until_state(&id, "running");
        assert_eq!(
            (&record["attempt"], &record["deliveryCount"]),
            (&1.into(), &1.into()),
            "{signal}: {record}"
        );
    }
}

#[test]
fn a_warm_shutdown_finishes_what_runs_and_takes_nothing_new() {
    let lab = Lab::new();
    let mut worker = lab.worker(&["--concurrency", "1"]);
    let running = lab.enqueue("crunch", r#"{"items":[1,2,3],"delayMs":1700}"#, &[]);
    lab.until_state(&running, "running");
    let waiting = lab.enqueue("word-count", r#"{"text":"x"}"#, &[]);
    worker.signal("-TERM");
    assert_eq!(worker.wait(), 0);
    assert_eq!(lab.show(&running)["state"], "succeeded");
    assert_eq!(lab.show(&waiting)["state"], "queued");
}

#[test]
fn a_draining_worker_answers_and_can_be_hurried() {
    let lab = Lab::new();
    let mut worker = lab.worker(&["--name", "slow"]);
    let id = lab.enqueue("spin", "{}", &[]);
    lab.until_state(&id, "running");
    lab.stem(&["worker", "shutdown", "--worker", "slow", "--mode", "warm"]).ok();
    let ping = lab.stem(&["worker", "ping", "--json"]).ok().json();
    assert_eq!(ping["replies"][0]["payload"]["state"], "draining", "{ping}");
    lab.stem(&["worker", "shutdown", "--worker", "slow", "--mode", "hard"]).ok();
    assert_eq!(worker.wait(), 0);
    assert_eq!(lab.show(&id)["state"], "queued");
}

#[test]
fn three_workers_answer_a_ping_and_a_fourth_of_a_taken_name_is_refused() {
    let lab = Lab::new();
    let workers = ["a", "b", "c"].map(|name| lab.worker(&["--name", name]));
    let ping = lab.stem(&["worker", "ping", "--timeout", "1m", "--json"]).ok().json();
    let names: Vec<_> =
        ping["replies"].as_array().unwrap().iter().map(|reply| reply["worker"].clone()).collect();
    assert_eq!(names.len(), 3, "{ping}");
    assert!(ping["elapsedMs"].as_f64().unwrap() < 30_000.0, "{ping}");
    let modules = crate::lab::modules();
    let said =
        lab.stem(&["worker", "start", "--name", "a", "--modules", modules.to_str().unwrap()]);
    assert_ne!(said.code, 0);
    assert!(said.stderr.contains("a live worker has the name a"), "{}", said.stderr);
    drop(workers);
}
