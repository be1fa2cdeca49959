//! Control commands against workers that answer, answer badly, or do not answer.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stem_core::backend::control::Position;
use stem_core::control::wire::{self, ReplyFrame};
use stem_core::control::{Answer, Command, ControlError, Reply};
use stem_core::id::{Namespace, WorkerId};
use stem_engine::Backends;
use support::{Place, appear};

fn namespace() -> Namespace {
    Namespace::new("stem").unwrap()
}

/// Answers every command for these workers until dropped, and tells what it saw.
fn answer(
    backends: Backends,
    replies: Vec<(&'static str, Answer)>,
) -> tokio::task::JoinHandle<Command> {
    tokio::spawn(async move {
        let command = loop {
            let seen = backends
                .control
                .commands(&namespace(), Position::default(), Duration::from_secs(1))
                .await
                .unwrap();
            if let Some((_, text)) = seen.first() {
                break wire::command(text.as_bytes()).unwrap();
            }
        };
        for (worker, answer) in replies {
            let reply = Reply {
                request_id: command.request_id.clone(),
                worker: WorkerId::new(worker).unwrap(),
                answer,
            };
            backends.control.reply(&namespace(), &ReplyFrame::plain(&reply)).await.unwrap();
        }
        command
    })
}

fn ok(payload: Value) -> Answer {
    Answer::Ok { payload }
}

/// Off the runtime's threads: the answering runs on them meanwhile.
fn stem(place: &Place, args: &[&str]) -> support::Ran {
    tokio::task::block_in_place(|| place.stem(args))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_answer_and_the_command_ends_at_once() {
    let place = Place::new();
    let backends = place.backends().await;
    appear(&backends, "a").await;
    appear(&backends, "b").await;
    let answering = answer(
        backends,
        vec![("b", ok(json!({"state": "running"}))), ("a", ok(json!({"state": "draining"})))],
    );
    let started = Instant::now();
    let ran = stem(&place, &["worker", "ping", "--timeout", "1m", "--json"]).expect(0);
    assert!(started.elapsed() < Duration::from_secs(20));
    let document = ran.json();
    let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["elapsedMs", "expected", "missing", "namespace", "replies", "requestId"]);
    assert_eq!((&document["expected"], &document["missing"]), (&json!(["a", "b"]), &json!([])));
    let reply = &document["replies"][0];
    assert_eq!(
        (&reply["worker"], &reply["status"], &reply["payload"]),
        (&json!("a"), &json!("ok"), &json!({"state": "draining"}))
    );
    assert!(reply["latencyMs"].as_f64().unwrap() > 0.0);
    let command = answering.await.unwrap();
    assert_eq!(
        (command.targets, command.request_id.as_str()),
        (None, document["requestId"].as_str().unwrap())
    );
    assert!(command.expires_at.since(command.issued_at) >= Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_silent_is_named_and_the_code_is_4() {
    let place = Place::new();
    let backends = place.backends().await;
    appear(&backends, "a").await;
    appear(&backends, "b").await;
    for json in [true, false] {
        let answering = answer_next(place.backends().await, "a").await;
        let mut args = vec!["worker", "ping", "--timeout", "5s"];
        args.extend(json.then_some("--json"));
        let ran = stem(&place, &args).expect(4).complains().says("from b");
        answering.await.unwrap();
        if json {
            assert_eq!(ran.json()["missing"], json!(["b"]));
        } else {
            assert!(ran.stdout.starts_with("WORKER") && ran.stdout.contains("\na "), "{ran:?}");
        }
    }
    stem(&place, &["worker", "stats", "--timeout", "200ms"]).expect(3).complains().says("a, b");
}

/// Answers the next command that is sent.
async fn answer_next(backends: Backends, worker: &'static str) -> tokio::task::JoinHandle<()> {
    let position = backends.control.position(&namespace()).await.unwrap();
    tokio::spawn(async move {
        let command = loop {
            let seen = backends
                .control
                .commands(&namespace(), position, Duration::from_secs(1))
                .await
                .unwrap();
            if let Some((_, text)) = seen.first() {
                break wire::command(text.as_bytes()).unwrap();
            }
        };
        let reply = Reply {
            request_id: command.request_id,
            worker: WorkerId::new(worker).unwrap(),
            answer: ok(json!({})),
        };
        backends.control.reply(&namespace(), &ReplyFrame::plain(&reply)).await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_reply_is_code_1_and_told() {
    let place = Place::new();
    let backends = place.backends().await;
    appear(&backends, "a").await;
    let error = ControlError { code: "unavailable".into(), message: "the broker is away".into() };
    let answering = answer(backends, vec![("a", Answer::Error { error })]);
    let ran = stem(&place, &["worker", "pause", "--queue", "q", "--json"])
        .expect(1)
        .complains()
        .says("the broker is away");
    let reply = &ran.json()["replies"][0];
    assert_eq!(
        (&reply["status"], &reply["error"]["code"]),
        (&json!("error"), &json!("unavailable"))
    );
    assert!(reply.get("payload").is_none());
    answering.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_asks_for_what_it_says() {
    for (args, order) in [
        (
            &["worker", "inspect", "--no-revoked"][..],
            json!({"type": "inspect", "payload": {"includeRevoked": false}}),
        ),
        (&["worker", "stats"], json!({"type": "stats", "payload": {}})),
        (&["worker", "shutdown"], json!({"type": "shutdown", "payload": {"mode": "warm"}})),
        (
            &["worker", "shutdown", "--mode", "soft", "--grace", "3s"],
            json!({"type": "shutdown", "payload": {"mode": "soft", "graceMs": 3000}}),
        ),
        (
            &["worker", "pause", "--queue", "b,a", "--queue", "a", "--reason", "why"],
            json!({"type": "pause", "payload": {"queues": ["a", "b"], "reason": "why"}}),
        ),
        (
            &["worker", "resume", "--queue", "a", "--reason", "over"],
            json!({"type": "resume", "payload": {"queues": ["a"], "reason": "over"}}),
        ),
    ] {
        let place = Place::new();
        let answering = answer(place.backends().await, vec![("a", ok(json!({})))]);
        let args: Vec<&str> = args.iter().chain(&["--worker", "a"]).copied().collect();
        stem(&place, &args).expect(0);
        let command = answering.await.unwrap();
        let sent = serde_json::to_value(&command).unwrap();
        assert_eq!(
            (&sent["type"], &sent["payload"]),
            (&order["type"], &order["payload"]),
            "{args:?}"
        );
        assert_eq!(sent["targets"], json!(["a"]));
        assert!(!command.requester.contains("over"), "{args:?}: {}", command.requester);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_stores_first_and_is_done_where_nobody_is_alive() {
    let place = Place::new();
    let args = [
        "worker",
        "revoke",
        "--task",
        "b,a",
        "--task",
        "a",
        "--grace",
        "2s",
        "--reason",
        "wrong",
        "--requester",
        "ann",
        "--expires-in",
        "never",
        "--json",
    ];
    let ran = stem(&place, &args).expect(0).says("no worker is alive").json();
    assert_eq!((&ran["expected"], &ran["acknowledgedBy"]), (&json!([]), &json!([])));
    assert_eq!(ran["store"], format!("sqlite://{}", place.database().display()));
    let persisted = ran["persisted"].as_array().unwrap();
    assert_eq!(persisted.len(), 2);
    let record = &persisted[0];
    assert_eq!(
        (&record["taskId"], &record["terminate"], &record["graceMs"]),
        (&json!("a"), &json!(true), &json!(2000))
    );
    assert_eq!((&record["reason"], &record["requestedBy"]), (&json!("wrong"), &json!("ann")));
    assert!(record.get("expiresAt").is_none());

    let listed = stem(&place, &["revokes", "list", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    let undone = stem(&place, &["revokes", "undo", "--task", "a", "--json"]).expect(0).json();
    assert_eq!(undone["undone"], true);
    stem(&place, &["revokes", "undo", "--task", "a"]).expect(3).complains();
    stem(&place, &["worker", "revoke", "--task", "short", "--expires-in", "1ms"]).expect(0);
    let listed = stem(&place, &["revokes", "list", "--json"]).expect(0).json();
    assert_eq!(
        listed.as_array().unwrap().iter().map(|record| &record["taskId"]).collect::<Vec<_>>(),
        ["b"]
    );
    assert!(
        stem(&place, &["revokes", "prune", "--json"]).expect(0).json()["pruned"].as_u64()
            >= Some(1)
    );
    stem(&place, &["revokes", "list", "--namespace", "other"]).expect(0).says("nothing is revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_is_acknowledged_says_by_whom() {
    let place = Place::new();
    let backends = place.backends().await;
    appear(&backends, "a").await;
    let terminated = json!([{"id": "t", "how": "preempted", "elapsedMs": 0.2}]);
    let payload = json!({"applied": ["t"], "inflight": [], "ignored": [], "expired": [], "terminated": terminated});
    let answering = answer(backends, vec![("a", ok(payload))]);
    let ran = stem(&place, &["worker", "revoke", "--task", "t", "--terminate"]).expect(0);
    assert!(ran.stdout.contains("revoked t") && ran.stdout.contains("preempted"), "{ran:?}");
    let command = serde_json::to_value(answering.await.unwrap()).unwrap();
    assert_eq!(command["payload"]["revocations"][0]["terminate"], true);
    let ran = stem(&place, &["worker", "revoke", "--task", "t", "--timeout", "100ms", "--json"])
        .expect(3)
        .complains();
    assert_eq!(
        ran.json()["persisted"].as_array().map(Vec::len),
        Some(1),
        "it is stored all the same"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_reads_heartbeats() {
    let place = Place::new();
    stem(&place, &["worker", "status", "--json"]).expect(3).complains();
    let backends = place.backends().await;
    appear(&backends, "a").await;
    appear(&backends, "b").await;
    let all = stem(&place, &["worker", "status", "--json"]).expect(0).json();
    assert_eq!(
        all.as_array()
            .unwrap()
            .iter()
            .map(|row| (&row["worker"], &row["status"]))
            .collect::<Vec<_>>()
            .len(),
        2
    );
    assert_eq!(all[0]["status"], "alive");
    let some = stem(&place, &["worker", "status", "--worker", "b,zz", "--json"])
        .expect(4)
        .complains()
        .says("zz")
        .json();
    assert_eq!(some.as_array().map(Vec::len), Some(1));
    tokio::time::sleep(Duration::from_millis(30)).await;
    let stale =
        stem(&place, &["worker", "status", "--worker", "a", "--stale-after", "20ms", "--json"])
            .expect(0)
            .json();
    assert_ne!(stale[0]["status"], "alive");
    let followed =
        stem(&place, &["worker", "status", "--follow", "--timeout", "300ms", "--json"]).expect(0);
    assert_eq!(
        followed.stdout.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count(),
        2
    );
    let started = Instant::now();
    stem(&place, &["worker", "status", "--worker", "zz", "--timeout", "300ms"])
        .expect(3)
        .complains();
    assert!(started.elapsed() >= Duration::from_millis(300));
}
