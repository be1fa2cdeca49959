//! What lies in the log of commands and is not to act: anybody who can write to the store can put it there.

mod signed;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Answer, Command, Drain, Order, REVOCATIONS};
use stem_core::id::{Namespace, QueueName, RequestId, TaskId, WorkerId};
use stem_core::observe::{AttemptEnd, AttemptFacts, Observer, Seen, Trace};
use stem_core::revoke::{Revocation, RevokeRequest, Version};
use stem_core::time::{Clock, Timestamp};
use stem_engine::signing::Keys;
use stem_engine::{Backends, SystemClock};

use crate::support::{Bench, PATIENCE, command, config, memory, start};

/// Nothing expires by itself while a test runs.
const LIFE: Duration = Duration::from_mins(10);

/// Writes down what was refused, and what was done.
#[derive(Debug, Default)]
struct Counts(Mutex<Vec<String>>);

impl Counts {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Counts {
    fn is_watching(&self) -> bool {
        true
    }

    fn started(&self, _: &AttemptFacts<'_>) -> Option<Box<dyn Trace>> {
        None
    }

    fn ended(&self, _: &AttemptFacts<'_>, _: &AttemptEnd<'_>) {}

    fn saw(&self, seen: Seen<'_>) {
        let line = match seen {
            Seen::Refused { kind, reason } => format!("{}: {reason}", kind.as_str()),
            Seen::Commanded { order, .. } => order.to_owned(),
            _ => return,
        };
        self.0.lock().unwrap().push(line);
    }
}

/// A worker, and somebody who can write to its store.
struct Scene {
    bench: Bench,
    backends: Backends,
    counts: Arc<Counts>,
    asked: u32,
}

impl Scene {
    async fn set() -> Self {
        Self::with(Keys::none()).await
    }

    async fn with(keys: Arc<Keys>) -> Self {
        Self::over(Backends::all_in_one(memory()), keys).await
    }

    async fn over(backends: Backends, keys: Arc<Keys>) -> Self {
        let counts = Arc::new(Counts::default());
        let observer = Arc::clone(&counts);
        let bench = start(backends.clone(), config(), |builder| {
            let builder = builder.observer(observer).keys(keys);
            builder.inline("good", |_, _: serde_json::Value| async move { Ok(()) }).unwrap()
        })
        .await;
        Self { bench, backends, counts, asked: 0 }
    }

    /// What the log has beside it is good in every case.
    async fn plant(&self, id: &str, text: impl Into<String>) {
        let expires_at = SystemClock.now().after(LIFE);
        let (request_id, namespace) = (RequestId::new(id).unwrap(), namespace("stem"));
        let frame = CommandFrame { request_id, namespace, expires_at, text: text.into() };
        self.backends.control.send(&frame).await.unwrap();
    }

    /// What came of everything that was planted so far: the worker answers what was said after it.
    async fn counted(&mut self) -> Vec<String> {
        self.asked += 1;
        command(&self.backends, &format!("last-{}", self.asked), Order::Ping {}).await;
        let mut lines = self.counts.take();
        assert_eq!(lines.pop().as_deref(), Some("ping"));
        lines
    }

    async fn is_paused(&self) -> bool {
        let queues = self.backends.broker.queues().await.unwrap();
        queues.iter().any(|queue| queue.paused.is_some())
    }
}

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn pause(id: &str) -> Command {
    let now = SystemClock.now();
    Command {
        request_id: RequestId::new(id).unwrap(),
        namespace: namespace("stem"),
        targets: None,
        order: Order::Pause { queues: vec![QueueName::new("q").unwrap()], reason: None },
        issued_at: now,
        expires_at: now.after(LIFE),
        requester: "test".to_owned(),
    }
}

fn text(command: &Command) -> String {
    CommandFrame::plain(command).text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_command_is_counted_and_stepped_over() {
    let mut scene = Scene::set().await;
    let newer = text(&pause("newer")).replace("\"pause\"", "\"explode\"");
    let cut = text(&pause("cut")).replace("expiresAt", "expires");
    let deep = "[".repeat(100_000);
    for (n, bad) in ["", "nonsense", "{}", &newer, &cut, &deep].into_iter().enumerate() {
        scene.plant(&format!("bad-{n}"), bad).await;
        assert_eq!(scene.counted().await, ["command: malformed"], "{bad:.100}");
    }
    for n in 0..1_000 {
        scene.plant(&format!("flood-{n}"), "nonsense").await;
    }
    assert_eq!(scene.counted().await, vec!["command: malformed"; 1_000]);
    assert!(!scene.is_paused().await);
    scene.plant("good", text(&pause("good"))).await;
    assert_eq!(scene.counted().await, ["pause"]);
    assert!(scene.is_paused().await);
    scene.bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_judged_by_what_it_says_and_not_by_what_the_log_says() {
    let mut scene = Scene::set().await;
    let past = Command { expires_at: Timestamp::from_unix_millis(1), ..pause("past") };
    scene.plant("prolonged", text(&past)).await;
    assert_eq!(scene.counted().await, ["command: expired"]);
    let elsewhere = Command { namespace: namespace("staging"), ..pause("elsewhere") };
    scene.plant("copied", text(&elsewhere)).await;
    assert_eq!(scene.counted().await, ["command: wrong-scope"]);
    for (id, targets) in [("nobody", vec![]), ("another", vec![WorkerId::new("v").unwrap()])] {
        let other = Command { targets: Some(targets), ..pause(id) };
        scene.plant(id, text(&other)).await;
        assert!(scene.counted().await.is_empty(), "others are meant");
    }
    assert!(!scene.is_paused().await);
    for n in 0..3 {
        scene.plant(&format!("again-{n}"), text(&pause("once"))).await;
    }
    assert_eq!(scene.counted().await, ["pause", "command: replayed", "command: replayed"]);
    let first = stem_core::backend::control::Position(0);
    let once = RequestId::new("once").unwrap();
    let replies =
        scene.backends.control.replies(&namespace("stem"), &once, first, PATIENCE).await.unwrap();
    assert_eq!(replies.len(), 1);
    let reply = wire::reply(replies[0].1.as_bytes()).unwrap();
    assert!(matches!(reply.answer, Answer::Ok { .. }), "{reply:?}");
    scene.bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_with_more_revocations_than_one_tells_is_refused_and_none_of_them_holds() {
    let scene = Scene::set().await;
    let revocation = |n: u64| Revocation {
        namespace: namespace("stem"),
        task_id: TaskId::new(format!("t{n}")).unwrap(),
        version: Version(n),
        issued_at: SystemClock.now(),
        request: RevokeRequest::default(),
    };
    let revocations = (1..=REVOCATIONS as u64 + 1).map(revocation).collect();
    let order = Order::Revoke { revocations };
    scene.plant("many", text(&Command { order, ..pause("many") })).await;
    let many = RequestId::new("many").unwrap();
    let first = stem_core::backend::control::Position(0);
    let replies =
        scene.backends.control.replies(&namespace("stem"), &many, first, PATIENCE).await.unwrap();
    match wire::reply(replies[0].1.as_bytes()).unwrap().answer {
        Answer::Error { error } => {
            assert_eq!(error.code, "refused");
            assert!(error.message.contains("10001 revocations"), "{error:?}");
        }
        Answer::Ok { payload } => panic!("{payload}"),
    }
    let inspect = Order::Inspect { include_revoked: true };
    assert_eq!(command(&scene.backends, "inspect", inspect).await["revokedCount"], 0);
    scene.bench.stop(Drain::Warm).await;
}
