//! `stem worker healthcheck` on real workers: alive, stopped, dead, somebody else; ready, and every way of not being it.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use stem_core::control::{Heartbeat, WorkerState};
use stem_core::id::{Incarnation, Namespace, WorkerId};
use stem_core::time::Timestamp;
use stem_services::RedisServer;
use support::started::Started;
use support::{Place, Ran, assert_keys, backends, talking_spin};

const LIVE: &str =
    "status node pidfile logfile? pid? worker? process? since? uptimeSeconds? error?";
const READY: &str = "status node pidfile logfile? pid? worker? process? since? uptimeSeconds? error? ready? state? broker? heartbeatAgeMs? reason?";
/// Long enough for a busy machine; a test that passes needs a fraction.
const PATIENCE: Duration = Duration::from_mins(1);

fn check(place: &Place, environment: &[(&str, &str)], more: &[&str]) -> Ran {
    let mut words = vec!["worker", "healthcheck", "--pidfile", "run/alpha.pid"];
    words.extend(more);
    place.stem_env(environment, &words)
}

fn start(place: &Place, environment: &[(&str, &str)]) -> Started {
    Started::new(place, environment, &["--pidfile", "run/alpha.pid", "--name", "w"])
}

/// Text and JSON agree: the code, and for failures the code word.
#[track_caller]
fn fails(place: &Place, environment: &[(&str, &str)], more: &[&str], code: i32) -> Value {
    let text = check(place, environment, more).expect(code).complains();
    assert!(text.stdout.is_empty(), "{text:?}");
    let ran = check(place, environment, &[more, &["--json"]].concat()).expect(code).complains();
    let document = ran.json();
    assert_keys(&document, READY, "healthcheck");
    document
}

#[test]
fn a_living_worker_is_healthy_whatever_its_services_do() {
    let place = Place::new();
    let worker = start(&place, &[]);
    // Nothing but the file is read: these would be refused by every command that uses them.
    let odd = [("STEM_BROKER_URL", "nonsense://x"), ("STEM_CONTROL_TIMEOUT", "5")];
    let text = check(&place, &odd, &[]).expect(0);
    assert!(text.stdout.starts_with("worker w is alive (node alpha, process "), "{text:?}");
    let document = check(&place, &odd, &["--json", "--quiet"]).expect(0).json();
    assert_keys(&document, LIVE, "healthcheck");
    assert_eq!(document["pid"], worker.pid());
    assert_eq!(
        (&document["status"], &document["process"], &document["worker"]),
        (&json!("ok"), &json!("running"), &json!("w"))
    );
    assert!(document["since"].as_str().unwrap().ends_with('Z'));
    assert!(document["uptimeSeconds"].as_f64().unwrap() >= 0.0);
    let quiet = check(&place, &odd, &["--quiet"]).expect(0);
    assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{quiet:?}");
    let named = check(&place, &odd, &["--node", "n", "--logfile", "w.log", "--json"]).expect(0);
    let named = named.json();
    assert_eq!((&named["node"], &named["logfile"]), (&json!("n"), &json!("w.log")));
}

#[test]
fn what_does_not_live_is_unhealthy_and_says_how() {
    let place = Place::new();
    let error = |code| fails(&place, &[], &[], code)["error"].as_str().unwrap().to_owned();
    assert_eq!(error(1), "pidfile-missing");
    for text in ["", "-1", "0", "abc", "99999999999\n", "7\nanother program's\n"] {
        place.write("run/alpha.pid", text);
        assert_eq!(error(1), "invalid-pid", "{text:?}");
    }
    // A number and nothing else may be anybody's.
    place.write("run/alpha.pid", format!("{}\n", std::process::id()));
    assert_eq!(error(1), "pid-recycled");
    std::fs::remove_file(place.path("run/alpha.pid")).unwrap();

    let worker = start(&place, &[]);
    let pid = worker.pid();
    let text = std::fs::read_to_string(place.path("run/alpha.pid")).unwrap();
    worker.kill();
    let dead = fails(&place, &[], &[], 1);
    assert_eq!((&dead["error"], &dead["pid"]), (&json!("process-not-running"), &json!(pid)));
    // Its number is given to another process: this one.
    let number = text.lines().next().unwrap();
    place.write("run/alpha.pid", text.replacen(number, &std::process::id().to_string(), 1));
    assert_eq!(error(1), "pid-recycled");
    std::fs::remove_file(place.path("run/alpha.pid")).unwrap();
    std::os::unix::fs::symlink("/proc/1/stat", place.path("run/alpha.pid")).unwrap();
    assert_eq!(error(1), "invalid-pid");
    // Nor is it asked whether it is ready.
    let dead = fails(&place, &[("STEM_BROKER_URL", "redis://127.0.0.1:1")], &["--ready"], 1);
    assert_eq!((&dead["error"], &dead["ready"]), (&json!("invalid-pid"), &json!(null)));
    place.stem(&["worker", "healthcheck"]).expect(2).complains().says("--pidfile");
    check(&place, &[], &["--timeout", "1s"]).expect(2).complains().says("--ready");
    check(&place, &[], &["--ready", "--timeout", "1"]).expect(2).complains().says("250ms, 5s");
}

#[test]
fn a_worker_that_was_stopped_is_there_and_not_ready_and_a_dead_one_is_neither() {
    let place = Place::new();
    let worker = start(&place, &[]);
    worker.signal(Signal::STOP);
    // The signal is on its way for a moment.
    until(|| check(&place, &[], &["--json"]).expect(0).json()["process"] == "stopped");
    let stopped = check(&place, &[], &["--json"]).expect(0);
    assert_eq!(stopped.json()["status"], "ok");
    assert!(stopped.stderr.contains("warning: ") && stopped.stderr.contains("-CONT"));
    let stopped = fails(&place, &[], &["--ready"], 1);
    assert_eq!(
        (&stopped["status"], &stopped["reason"], &stopped["ready"]),
        (&json!("not-ready"), &json!("process-stopped"), &json!(false))
    );
    worker.signal(Signal::CONT);
    until(|| check(&place, &[], &["--ready"]).code == 0);
    worker.kill();
    assert_eq!(fails(&place, &[], &[], 1)["error"], "process-not-running");
}

#[test]
fn with_the_broker_down_a_worker_lives_and_is_not_ready() {
    let server = RedisServer::start();
    let place = Place::new();
    let url = server.url();
    let env = [("STEM_BROKER_URL", url.as_str()), ("STEM_HEARTBEAT_INTERVAL", "500ms")];
    let worker = start(&place, &env);
    until(|| check(&place, &env, &["--ready"]).code == 0);
    let ready = check(&place, &env, &["--ready", "--json"]).expect(0).json();
    assert_keys(&ready, READY, "healthcheck --ready");
    assert_eq!(
        (&ready["ready"], &ready["state"], &ready["broker"]),
        (&json!(true), &json!("running"), &json!(url))
    );
    assert!(ready["heartbeatAgeMs"].as_f64().unwrap() >= 0.0);

    server.freeze();
    let frozen = fails(&place, &env, &["--ready", "--timeout", "500ms"], 5);
    assert_eq!(frozen["reason"], "service-unavailable");
    check(&place, &env, &[]).expect(0);
    server.thaw();
    server.kill();
    let away = fails(&place, &env, &["--ready"], 5);
    assert_eq!((&away["status"], &away["ready"]), (&json!("not-ready"), &json!(false)));
    check(&place, &env, &[]).expect(0);
    server.restart();
    until(|| check(&place, &env, &["--ready"]).code == 0);
    drop(worker);
}

#[test]
fn a_worker_that_drains_lives_and_is_not_ready() {
    let place = Place::new();
    place.write("modules/spin.wasm", talking_spin());
    let words = ["--pidfile", "run/alpha.pid", "--name", "w", "--modules", "modules"];
    let worker = Started::new(&place, &[], &words);
    place.stem(&["task", "enqueue", "spin", "--id", "t"]).expect(0);
    until(|| place.stem(&["task", "show", "t", "--json"]).json()["state"] == "running");
    worker.signal(Signal::TERM);
    until(|| check(&place, &[], &["--ready"]).code != 0);
    let draining = fails(&place, &[], &["--ready"], 1);
    assert_eq!((&draining["reason"], &draining["state"]), (&json!("draining"), &json!("draining")));
    check(&place, &[], &[]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_fresh_heartbeat_is_not_ready() {
    let place = Place::new();
    let worker = tokio::task::block_in_place(|| start(&place, &[]));
    // Where the worker never was.
    let url = format!("sqlite://{}", place.path("other.db").display());
    let env = [("STEM_RESULT_BACKEND_URL", url.as_str())];
    let probe = || tokio::task::block_in_place(|| fails(&place, &env, &["--ready"], 1));
    assert_eq!(probe()["reason"], "heartbeat-missing");
    let other = backends(&place.path("other.db")).await;
    let heartbeat = |pid| Heartbeat {
        worker: WorkerId::new("w").unwrap(),
        boot_id: Incarnation(uuid::Uuid::nil()),
        namespace: Namespace::new("stem").unwrap(),
        state: WorkerState::Running,
        host: "host".to_owned(),
        pid,
        started_at: Timestamp::default(),
        seen_at: Timestamp::default(),
        interval_ms: 10,
        concurrency: 1,
        queues: BTreeMap::new(),
        tasks: Vec::new(),
        inflight: 0,
        oldest_without_progress: None,
    };
    // That of an earlier process of this name says nothing of this one.
    other.presence.register(&heartbeat(worker.pid() + 1)).await.unwrap();
    assert_eq!(probe()["reason"], "heartbeat-missing");
    other.presence.beat(&heartbeat(worker.pid())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stale = probe();
    assert_eq!(stale["reason"], "heartbeat-stale");
    assert!(stale["heartbeatAgeMs"].as_f64().unwrap() > 30.0);
}

#[track_caller]
fn until(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
