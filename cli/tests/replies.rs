//! What a worker that runs a task answers to each command, key by key.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stem_core::backend::control::Position;
use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Answer, Command, Order};
use stem_core::envelope::Payload;
use stem_core::id::{Namespace, RequestId, TaskId, TaskName};
use stem_core::revoke::RevokeRequest;
use stem_core::task::TaskState;
use stem_core::time::{Clock, Timestamp};
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use support::{Live, Place, assert_keys};

/// No wait of a test takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// A live worker with a task in hand.
struct Scene {
    place: Place,
    backends: Backends,
    _live: Live,
    task: TaskId,
}

impl Scene {
    async fn set() -> Self {
        let place = Place::new();
        let backends = place.backends().await;
        let live = Live::start(backends.clone(), "a").await;
        let client = Client::new(backends, Arc::new(SystemClock));
        let name = TaskName::new("wait").unwrap();
        let task =
            client.enqueue(name, Payload::json("{}"), EnqueueOptions::default()).await.unwrap().id;
        let begun = async {
            loop {
                let record = client.show(&task).await.unwrap().unwrap();
                if record.state == TaskState::Running && record.progress.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.unwrap();
        Self { place, backends: client.backends().clone(), _live: live, task }
    }

    /// The payload of the one reply.
    fn ask(&self, words: &[&str]) -> Value {
        let words = [&["worker"], words, &["--json", "--timeout", "1m"]].concat();
        let said = tokio::task::block_in_place(|| self.place.stem(&words).expect(0).json());
        assert_eq!(said["replies"][0]["status"], "ok", "{said}");
        said["replies"][0]["payload"].clone()
    }
}

/// RFC 3339, UTC, milliseconds.
#[track_caller]
fn assert_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no text: {value}"));
    let time: Timestamp = text.parse().unwrap();
    assert!(time.to_string() == text && text.len() == 24 && text.ends_with('Z'), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ping() {
    let scene = Scene::set().await;
    let payload = scene.ask(&["ping"]);
    assert_keys(&payload, "timestamp state bootId queues inflight", "ping");
    assert_time(&payload["timestamp"]);
    assert_eq!(
        (&payload["state"], &payload["queues"], &payload["inflight"]),
        (&json!("running"), &json!(["default"]), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect() {
    let scene = Scene::set().await;
    scene.ask(&["revoke", "--task", "other", "--reason", "why"]);
    let payload = scene.ask(&["inspect"]);
    assert_keys(&payload, "timestamp state active revoked revokedCount? pausedQueues", "inspect");
    let active = &payload["active"][0];
    assert_keys(
        active,
        "id task queue attempt kind startedAt runtimeMs lastCheckpointMsAgo leaseExpiresInMs progress? memoryBytes? cpuMs? terminating?",
        "inspect",
    );
    assert_eq!(
        (&active["id"], &active["task"], &active["kind"], &active["attempt"]),
        (&json!(scene.task), &json!("wait"), &json!("inline"), &json!(1))
    );
    assert_eq!(active["progress"]["message"], "waiting", "{active}");
    assert_time(&active["startedAt"]);
    for key in ["runtimeMs", "lastCheckpointMsAgo", "leaseExpiresInMs"] {
        assert!(active[key].as_f64().is_some_and(|number| number >= 0.0), "{key}: {active}");
    }
    let revoked = &payload["revoked"][0];
    assert_keys(
        revoked,
        "namespace taskId version issuedAt terminate cooperative reason requestedBy expiresAt",
        "inspect",
    );
    assert_eq!((&revoked["taskId"], &revoked["reason"]), (&json!("other"), &json!("why")));
    let payload = scene.ask(&["inspect", "--no-revoked"]);
    assert_keys(&payload, "timestamp state active pausedQueues", "inspect");
}

#[tokio::test(flavor = "multi_thread")]
async fn stats() {
    let scene = Scene::set().await;
    let payload = scene.ask(&["stats"]);
    assert_keys(
        &payload,
        "timestamp state host pid startedAt uptimeSeconds namespace queues unroutable inflight activeConcurrency minConcurrency
         maxConcurrency autoscale prefetch counters lastLeaseRenewalMsAgo? rssBytes modules revocations? sandbox?", "stats");
    assert_keys(&payload["queues"][0], "name depth inflight paused", "stats");
    assert_keys(
        &payload["counters"],
        "started succeeded failed retried revoked terminated recycled leaseLost",
        "stats",
    );
    assert_eq!(
        (&payload["counters"]["started"], &payload["inflight"], &payload["autoscale"]),
        (&json!(1), &json!(1), &json!(false))
    );
    assert_eq!(payload["pid"], std::process::id(), "the worker is in this process");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke() {
    let scene = Scene::set().await;
    let id = scene.task.as_str();
    let payload = scene.ask(&["revoke", "--task", id, "--task", "other", "--cooperative"]);
    assert_keys(&payload, "applied inflight ignored expired terminated", "revoke");
    assert_eq!(payload["applied"], json!([id, "other"]), "{payload}");
    let ended = &payload["terminated"][0];
    assert_keys(ended, "id how elapsedMs", "terminated");
    assert_eq!((&ended["id"], &ended["how"]), (&json!(id), &json!("checkpoint")));
    assert!(ended["elapsedMs"].as_f64().is_some(), "{payload}");
}

/// The worker follows the store, which may be faster than the command; the answer is the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_has_stopped_before_the_command_came_was_in_flight() {
    let scene = Scene::set().await;
    let namespace = Namespace::new("stem").unwrap();
    let request = RevokeRequest { terminate: true, ..RevokeRequest::default() };
    let stored =
        scene.backends.revokes.revoke(&namespace, &[(scene.task.clone(), request)]).await.unwrap();
    let client = Client::new(scene.backends.clone(), Arc::new(SystemClock));
    client.wait(&scene.task, Some(PATIENCE), |_| {}).await.unwrap();
    let now = SystemClock.now();
    let command = Command {
        request_id: RequestId::new("late").unwrap(),
        namespace: namespace.clone(),
        targets: None,
        order: Order::Revoke { revocations: stored },
        issued_at: now,
        expires_at: now.after(PATIENCE),
        requester: "ann".to_owned(),
    };
    let control = &scene.backends.control;
    control.send(&CommandFrame::plain(&command)).await.unwrap();
    let replies =
        control.replies(&namespace, &command.request_id, Position::default(), PATIENCE).await;
    let reply = wire::reply(replies.unwrap()[0].1.as_bytes()).unwrap();
    let Answer::Ok { payload } = reply.answer else { panic!("an error") };
    assert_eq!(payload["applied"], json!([scene.task]), "{payload}");
    assert_eq!(payload["terminated"][0]["id"], scene.task.as_str(), "{payload}");
    assert_eq!(payload["inflight"], json!([scene.task]), "it was, until it was stopped: {payload}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_resume() {
    let scene = Scene::set().await;
    for (words, updated, paused) in [
        (["pause", "--queue", "b,a"], json!(["a", "b"]), json!(["a", "b"])),
        (["pause", "--queue", "a"], json!(["a"]), json!(["a", "b"])),
        (["resume", "--queue", "a"], json!(["a"]), json!(["b"])),
        (["resume", "--queue", "a"], json!(["a"]), json!(["b"])),
    ] {
        let payload = scene.ask(&words);
        assert_eq!(payload, json!({"updated": updated, "paused": paused}), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown() {
    let scene = Scene::set().await;
    let payload = scene.ask(&["shutdown"]);
    assert_eq!(payload, json!({"mode": "warm", "state": "draining", "active": 1}));
    let payload = scene.ask(&["shutdown", "--mode", "soft", "--grace", "10m"]);
    assert_keys(&payload, "mode state active already", "shutdown");
    assert_eq!((&payload["mode"], &payload["already"]), (&json!("soft"), &json!("warm")));
}
