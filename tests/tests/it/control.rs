//! Commands and who obeys them: every live worker, once, and nobody who was not there when it was said.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stem_core::control::{Drain, Order};

use crate::lab::{Lab, Said, Worker};
use crate::store::{Store, now};

/// Heartbeats so quick that a worker which was killed has lost its name after a moment.
const QUICK: [(&str, &str); 1] = [("STEM_HEARTBEAT_INTERVAL", "200ms")];

/// Heartbeats so slow that a worker which is frozen is expected to answer as long as a test lasts.
const SLOW: [(&str, &str); 1] = [("STEM_HEARTBEAT_INTERVAL", "1m")];

fn three(lab: &Lab) -> [Worker; 3] {
    ["a", "b", "c"].map(|name| lab.worker(&["--name", name]))
}

fn workers(answer: &Value) -> Vec<&str> {
    let replies = answer["replies"].as_array().unwrap();
    replies.iter().map(|reply| reply["worker"].as_str().unwrap()).collect()
}

/// Standard error as every failure ends: an error, then a hint, and nothing for programmers.
#[track_caller]
fn complains(said: &Said, words: &str) {
    assert!(said.stderr.lines().any(|line| line.starts_with("error: ")), "{}", said.stderr);
    let last = said.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("hint: "), "{}", said.stderr);
    assert!(said.stderr.contains(words), "{words:?} is not in {}", said.stderr);
}

#[test]
fn three_workers_answer_one_ping_and_it_waits_for_nothing_else() {
    let lab = Lab::new();
    let _workers = three(&lab);
    let answer = lab.stem(&["worker", "ping", "--timeout", "1m", "--json"]).ok().json();
    assert_eq!(workers(&answer), ["a", "b", "c"]);
    assert_eq!((&answer["expected"], &answer["missing"]), (&json!(["a", "b", "c"]), &json!([])));
    assert!(answer["elapsedMs"].as_f64().unwrap() < 30_000.0, "it waited for the time: {answer}");
    let boots: std::collections::BTreeSet<_> = answer["replies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reply| {
            assert_eq!(
                (&reply["status"], &reply["payload"]["state"]),
                (&json!("ok"), &json!("running"))
            );
            reply["payload"]["bootId"].as_str().unwrap()
        })
        .collect();
    assert_eq!(boots.len(), 3, "three processes answered, not one for all: {answer}");

    let said = lab.stem(&["worker", "ping", "--timeout", "1m"]).ok();
    let lines: Vec<_> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", said.stdout);
    for (line, start) in lines.iter().zip(["WORKER", "a ", "b ", "c "]) {
        assert!(line.starts_with(start), "{}", said.stdout);
    }
    assert!(said.stderr.is_empty(), "{}", said.stderr);
    let one = lab.stem(&["worker", "ping", "--worker", "b", "--json"]).ok().json();
    assert_eq!((workers(&one), &one["expected"]), (vec!["b"], &json!(["b"])));
}

#[test]
fn a_worker_that_is_frozen_is_named_and_the_code_is_4_and_it_lives_on_after() {
    let lab = Lab::new();
    let workers_of_three = ["a", "b", "c"].map(|name| lab.worker_with(&["--name", name], &SLOW));
    Store::freeze(&lab, &workers_of_three[2]);
    let said = lab.stem(&["worker", "ping", "--timeout", "5s", "--json"]).exits(4);
    let answer = said.json();
    assert_eq!((workers(&answer), &answer["missing"]), (vec!["a", "b"], &json!(["c"])));
    complains(&said, "from c");
    let said = lab.stem(&["worker", "stats", "--timeout", "5s"]).exits(4);
    complains(&said, "from c");
    assert_eq!(said.stdout.lines().count(), 3, "{}", said.stdout);

    workers_of_three[2].signal("-CONT");
    let answer = lab.stem(&["worker", "ping", "--timeout", "1m", "--json"]).ok().json();
    assert_eq!(workers(&answer), ["a", "b", "c"]);
    let log = workers_of_three[2].log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_named_worker_that_is_not_there_is_named_and_the_code_is_3() {
    let lab = Lab::new();
    let _a = lab.worker(&["--name", "a"]);
    let said = lab.stem(&["worker", "ping", "--worker", "zz", "--timeout", "300ms", "--json"]);
    let said = said.exits(3);
    let answer = said.json();
    assert_eq!((&answer["expected"], &answer["missing"]), (&json!(["zz"]), &json!(["zz"])));
    assert!(workers(&answer).is_empty(), "who was not asked does not answer: {answer}");
    complains(&said, "from zz");
    let said = lab.stem(&["worker", "ping", "--worker", "a,zz", "--timeout", "5s"]).exits(4);
    complains(&said, "from zz");
}

#[test]
fn each_of_many_broadcasts_is_answered_by_each_of_three_workers() {
    let lab = Lab::new();
    let _workers = three(&lab);
    // Two operators at once, so that requests overlap and replies could be mixed up.
    let asked = std::thread::scope(|scope| {
        let operators = [(); 2].map(|()| {
            scope.spawn(|| {
                (0..15)
                    .map(|_| lab.stem(&["worker", "ping", "--timeout", "1m", "--json"]).ok().json())
                    .collect::<Vec<_>>()
            })
        });
        operators.map(|operator| operator.join().unwrap()).concat()
    });
    assert_eq!(asked.len(), 30);
    for answer in &asked {
        assert_eq!(workers(answer), ["a", "b", "c"], "{answer}");
    }
}

#[test]
fn each_of_many_pauses_and_resumes_is_obeyed_once_by_each_worker_and_the_last_holds() {
    const ROUNDS: usize = 10;
    let lab = Lab::new();
    let workers_of_three = three(&lab);
    let paused =
        |lab: &Lab| lab.stem(&["queue", "list", "--json"]).ok().json()[0]["paused"].clone();
    for round in 0..ROUNDS {
        for (command, updates) in [("pause", true), ("resume", false)] {
            let answer = lab
                .stem(&["worker", command, "--queue", "mail", "--timeout", "1m", "--json"])
                .ok()
                .json();
            assert_eq!(workers(&answer), ["a", "b", "c"], "round {round}: {answer}");
            for reply in answer["replies"].as_array().unwrap() {
                assert_eq!(reply["payload"]["updated"], json!(["mail"]), "{answer}");
            }
            assert_eq!(paused(&lab), updates, "round {round}: {command}");
        }
    }
    for worker in &workers_of_three {
        let log = worker.log();
        for words in ["pause asked", "resume asked"] {
            assert_eq!(log.matches(words).count(), ROUNDS, "{words}: {log}");
        }
    }
}

#[test]
fn a_shutdown_of_nobody_is_code_3_and_spares_who_starts_after_it() {
    let lab = Lab::new();
    let said = lab.stem(&["worker", "shutdown", "--mode", "hard", "--json"]).exits(3);
    assert_eq!((&said.json()["expected"], &said.json()["replies"]), (&json!([]), &json!([])));
    complains(&said, "no worker is alive");
    assert!(
        Store::open(&lab.database()).commands().is_empty(),
        "nobody was meant, nothing is sent"
    );
    let mut worker = lab.worker(&[]);
    assert_lives_on(&lab, &mut worker);
}

#[test]
fn a_shutdown_for_a_worker_that_is_down_is_not_obeyed_by_the_next_of_that_name() {
    let lab = Lab::new();
    let said = lab
        .stem(&["worker", "shutdown", "--worker", "x", "--mode", "hard", "--timeout", "200ms"])
        .exits(3);
    complains(&said, "from x");
    let log = Store::open(&lab.database()).commands();
    assert!(
        log.iter().any(|command| matches!(command.order, Order::Shutdown { .. })
            && command.expires_at > now().after(Duration::from_secs(10))),
        "it was sent, and has not expired: {log:?}"
    );
    let mut worker = lab.worker(&["--name", "x"]);
    assert_lives_on(&lab, &mut worker);
}

#[test]
fn a_shutdown_for_an_earlier_start_of_a_worker_is_not_obeyed_by_the_next() {
    let lab = Lab::new();
    let first = lab.worker_with(&["--name", "x"], &QUICK);
    Store::freeze(&lab, &first);
    lab.stem(&["worker", "shutdown", "--mode", "hard", "--timeout", "200ms"]).exits(3);
    lab.stem(&["worker", "shutdown", "--worker", "x", "--timeout", "200ms"]).exits(3);
    first.kill();
    let sent = Store::open(&lab.database()).commands();
    assert_eq!(sent.len(), 2, "both were sent, and have not expired: {sent:?}");
    let mut second = lab.worker_with(&["--name", "x"], &QUICK);
    assert_lives_on(&lab, &mut second);
}

#[test]
fn a_command_that_has_expired_before_it_is_read_is_not_executed() {
    let lab = Lab::new();
    let mut worker = lab.worker_with(&["--name", "x"], &SLOW);
    let store = Store::open(&lab.database());
    Store::freeze(&lab, &worker);
    let hard = || Order::Shutdown { mode: Drain::Hard, grace_ms: None };
    store.send(hard(), None, Duration::from_secs(5));
    store.send(hard(), Some(&["x"]), Duration::from_secs(5));
    assert_eq!(store.commands().len(), 2);
    lab.wait_for("the end of the commands' time", |_| store.commands().len(), |left| *left == 0);
    worker.signal("-CONT");
    assert_lives_on(&lab, &mut worker);
}

#[test]
fn texts_that_are_no_commands_keep_no_worker_from_the_next_command() {
    let lab = Lab::new();
    let began = Instant::now();
    let mut workers_of_three = three(&lab);
    let store = Store::open(&lab.database());
    let newer = r#"{"requestId":"n","namespace":"stem","type":"explode","payload":{},"issuedAt":"2026-11-22T00:00:00Z","expiresAt":"2999-01-01T00:00:00Z","requester":"x"}"#;
    let long = "[".repeat(1 << 20);
    for text in ["", "nonsense", "null", newer, &long].iter().cycle().take(40) {
        store.plant(text);
    }
    let answer = lab.stem(&["worker", "ping", "--timeout", "1m", "--json"]).ok().json();
    assert_eq!(workers(&answer), ["a", "b", "c"]);
    let answer =
        lab.stem(&["worker", "pause", "--queue", "mail", "--timeout", "1m", "--json"]).ok().json();
    assert_eq!(workers(&answer), ["a", "b", "c"]);
    for worker in &workers_of_three {
        let log = worker.log();
        let said = log.matches("a command was refused").count();
        // A line a second.
        assert!(said >= 1 && said as u64 <= began.elapsed().as_secs() + 1, "{said}: {log}");
        assert!(log.contains("malformed") && log.len() < 100_000, "{log}");
    }
    lab.stem(&["worker", "shutdown", "--timeout", "1m"]).ok();
    for worker in &mut workers_of_three {
        assert_eq!(worker.wait(), 0);
    }
}

#[test]
fn a_shutdown_stops_those_who_are_named_and_no_other() {
    let lab = Lab::new();
    let mut all = three(&lab);
    let answer = lab.stem(&["worker", "shutdown", "--worker", "a,c", "--json"]).ok().json();
    assert_eq!(workers(&answer), ["a", "c"]);
    assert_eq!((all[0].wait(), all[2].wait()), (0, 0));
    assert_lives_on(&lab, &mut all[1]);
    let answer = lab.stem(&["worker", "shutdown", "--json"]).ok().json();
    assert_eq!(answer["expected"], json!(["b"]), "who said goodbye is not expected: {answer}");
    assert_eq!(all[1].wait(), 0);
}

/// It has read the log to its end, since it answers what was said last, and works on: it runs a task.
#[track_caller]
fn assert_lives_on(lab: &Lab, worker: &mut Worker) {
    for _ in 0..2 {
        let answer = lab.stem(&["worker", "ping", "--timeout", "1m", "--json"]).ok().json();
        assert_eq!(answer["replies"][0]["payload"]["state"], "running", "{answer}");
        let id = lab.enqueue("word-count", r#"{"text":"x"}"#, &[]);
        lab.until_state(&id, "succeeded");
    }
    assert!(worker.is_running(), "{}", worker.log());
    assert!(!worker.log().contains("draining"), "{}", worker.log());
}
