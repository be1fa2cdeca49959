//! [`Presence`](stem_core::backend::Presence): names, heartbeats, goodbyes.

use std::collections::BTreeMap;
use std::time::Duration;

use stem_core::backend::presence::Registered;
use stem_core::control::{Heartbeat, Quiet, WorkerState};
use stem_core::id::Incarnation;
use stem_core::time::Timestamp;

use crate::fixture::*;
use crate::{Backends, Harness};

crate::cases! { ($) presence_suite presence:
    a_heartbeat_comes_out_as_it_went_in,
    a_heartbeat_is_stamped_by_the_stores_clock,
    a_name_of_a_live_worker_is_taken,
    a_name_may_be_taken_again_by_its_holder,
    a_name_of_a_silent_worker_can_be_taken_over,
    a_name_of_a_stopped_worker_can_be_taken_over,
    a_name_is_free_in_another_namespace,
    of_two_that_ask_at_once_one_gets_the_name,
    a_beat_replaces_the_heartbeat,
    a_beat_of_an_earlier_incarnation_is_ignored,
    a_beat_brings_back_a_row_that_is_missing,
    workers_are_listed_by_name_with_the_stores_time,
    workers_of_another_namespace_are_not_listed,
    a_forgotten_worker_is_gone,
    another_incarnation_cannot_forget_a_worker,
}

pub(crate) fn heartbeat(id: &str, boot_id: Incarnation) -> Heartbeat {
    Heartbeat {
        worker: worker(id),
        boot_id,
        namespace: space("n"),
        state: WorkerState::Running,
        host: "host".to_owned(),
        pid: 42,
        started_at: Timestamp::from_unix_millis(1_000),
        seen_at: Timestamp::from_unix_millis(2_000),
        interval_ms: 2_000,
        concurrency: 8,
        queues: BTreeMap::from([(queue("q"), 3)]),
        tasks: vec![name("job")],
        inflight: 3,
        oldest_without_progress: Some(Quiet {
            id: task("t"),
            task: name("job"),
            attempt: 1,
            started_at: Timestamp::from_unix_millis(1_500),
            last_checkpoint_ms_ago: 400,
        }),
    }
}

async fn register(b: &Backends, heartbeat: &Heartbeat) -> Registered {
    b.presence.register(heartbeat).await.unwrap()
}

async fn workers(b: &Backends) -> Vec<Heartbeat> {
    b.presence.workers(&space("n")).await.unwrap().0
}

async fn a_heartbeat_comes_out_as_it_went_in(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let sent = heartbeat("w", A);
    assert_eq!(register(&b, &sent).await, Registered::Yes);
    assert_eq!(workers(&other).await, [Heartbeat { seen_at: h.now(), ..sent }]);
}

async fn a_heartbeat_is_stamped_by_the_stores_clock(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    h.advance(Duration::from_secs(1));
    b.presence.beat(&heartbeat("w", A)).await.unwrap();
    assert_eq!(workers(&b).await[0].seen_at, h.now());
}

async fn a_name_of_a_live_worker_is_taken(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    register(&b, &heartbeat("w", A)).await;
    let seen_at = h.now();
    h.advance(Duration::from_secs(6));
    let taken = Registered::NameTaken { boot_id: A, seen_at };
    assert_eq!(register(&other, &heartbeat("w", B)).await, taken);
    assert_eq!(workers(&b).await[0].boot_id, A);
}

async fn a_name_may_be_taken_again_by_its_holder(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    assert_eq!(register(&b, &heartbeat("w", A)).await, Registered::Yes);
}

async fn a_name_of_a_silent_worker_can_be_taken_over(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    h.advance(Duration::from_millis(6_001));
    assert_eq!(register(&b, &heartbeat("w", B)).await, Registered::Yes);
    assert_eq!(workers(&b).await[0].boot_id, B);
}

async fn a_name_of_a_stopped_worker_can_be_taken_over(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    let stopped = Heartbeat { state: WorkerState::Stopped, ..heartbeat("w", A) };
    b.presence.beat(&stopped).await.unwrap();
    assert_eq!(register(&b, &heartbeat("w", B)).await, Registered::Yes);
}

async fn a_name_is_free_in_another_namespace(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    let other = Heartbeat { namespace: space("other"), ..heartbeat("w", B) };
    assert_eq!(register(&b, &other).await, Registered::Yes);
}

async fn of_two_that_ask_at_once_one_gets_the_name(h: &dyn Harness) {
    let mut asking = Vec::new();
    for boot_id in [A, B] {
        let b = h.connect().await;
        asking.push(tokio::spawn(async move { register(&b, &heartbeat("w", boot_id)).await }));
    }
    let mut got = 0;
    for asked in asking {
        got += usize::from(asked.await.unwrap() == Registered::Yes);
    }
    assert_eq!(got, 1);
}

async fn a_beat_replaces_the_heartbeat(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    let draining = Heartbeat { state: WorkerState::Draining, inflight: 1, ..heartbeat("w", A) };
    b.presence.beat(&draining).await.unwrap();
    assert_eq!(workers(&b).await, [Heartbeat { seen_at: h.now(), ..draining }]);
}

async fn a_beat_of_an_earlier_incarnation_is_ignored(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    h.advance(Duration::from_mins(1));
    register(&b, &heartbeat("w", B)).await;
    let before = workers(&b).await;
    h.advance(Duration::from_secs(1));
    b.presence.beat(&heartbeat("w", A)).await.unwrap();
    assert_eq!(workers(&b).await, before);
}

async fn a_beat_brings_back_a_row_that_is_missing(h: &dyn Harness) {
    let b = h.connect().await;
    b.presence.beat(&heartbeat("w", A)).await.unwrap();
    assert_eq!(workers(&b).await.len(), 1);
}

async fn workers_are_listed_by_name_with_the_stores_time(h: &dyn Harness) {
    let b = h.connect().await;
    for id in ["w2", "w3", "w1"] {
        register(&b, &heartbeat(id, A)).await;
    }
    let (workers, now) = b.presence.workers(&space("n")).await.unwrap();
    let names: Vec<_> = workers.iter().map(|it| it.worker.as_str()).collect();
    assert_eq!((names, now), (vec!["w1", "w2", "w3"], h.now()));
}

async fn workers_of_another_namespace_are_not_listed(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &Heartbeat { namespace: space("other"), ..heartbeat("w", A) }).await;
    assert_eq!(workers(&b).await, []);
}

async fn a_forgotten_worker_is_gone(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    b.presence.forget(&space("n"), &worker("w"), A).await.unwrap();
    assert_eq!(workers(&b).await, []);
    assert_eq!(register(&b, &heartbeat("w", B)).await, Registered::Yes);
}

async fn another_incarnation_cannot_forget_a_worker(h: &dyn Harness) {
    let b = h.connect().await;
    register(&b, &heartbeat("w", A)).await;
    b.presence.forget(&space("n"), &worker("w"), B).await.unwrap();
    assert_eq!(workers(&b).await.len(), 1);
}
