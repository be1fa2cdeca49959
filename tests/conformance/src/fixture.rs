//! Envelopes, requests and settlements that cases are made of. Everything is in queue `q` with the name `job` unless a
//! case says otherwise.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::broker::{Delivery, Published, ReceiveRequest, Settled};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{Incarnation, Namespace, QueueName, TaskId, TaskName, UniqueKey, WorkerId};
use stem_core::outcome::{Failure, FailureKind};
use stem_core::settlement::{DeadReason, Receipt, Settle, Settlement};
use stem_core::task::{TaskRecord, TaskState};
use stem_core::time::Timestamp;
use uuid::Uuid;

use crate::harness::{Backends, Harness};

/// The lease of every delivery here.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// Longer than the lease.
pub(crate) const PAST_LEASE: Duration = Duration::from_secs(11);
/// Long enough for any wake-up, short enough not to hold a test up for ever.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) const A: Incarnation = Incarnation(Uuid::from_u128(0xa));
pub(crate) const B: Incarnation = Incarnation(Uuid::from_u128(0xb));

pub(crate) fn queue(text: &str) -> QueueName {
    QueueName::new(text).unwrap()
}

pub(crate) fn task(text: &str) -> TaskId {
    TaskId::new(text).unwrap()
}

pub(crate) fn name(text: &str) -> TaskName {
    TaskName::new(text).unwrap()
}

pub(crate) fn space(text: &str) -> Namespace {
    Namespace::new(text).unwrap()
}

pub(crate) fn worker(text: &str) -> WorkerId {
    WorkerId::new(text).unwrap()
}

pub(crate) fn envelope(harness: &dyn Harness, id: &str) -> Envelope {
    let payload = Payload::json(*b"{\"n\":1}");
    Envelope::new(task(id), name("job"), queue("q"), payload, harness.now())
}

pub(crate) fn keyed(harness: &dyn Harness, id: &str, key: &str) -> Envelope {
    Envelope { unique_key: Some(UniqueKey::new(key).unwrap()), ..envelope(harness, id) }
}

pub(crate) fn asking(max: usize) -> ReceiveRequest {
    ReceiveRequest {
        queues: vec![queue("q")],
        names: Arc::new([name("job")]),
        max,
        lease: LEASE,
        owner: A,
        worker: worker("w"),
        wait: Duration::ZERO,
        records: Records::Here,
        shares: None,
    }
}

/// Publishes with records; every envelope must be new.
pub(crate) async fn put(backends: &Backends, envelopes: &[Envelope]) {
    let published = backends.broker.publish(envelopes, Records::Here).await.unwrap();
    assert_eq!(published, vec![Published::Stored; envelopes.len()]);
}

/// One new task, delivered to A.
pub(crate) async fn held(harness: &dyn Harness, backends: &Backends, id: &str) -> Delivery {
    put(backends, &[envelope(harness, id)]).await;
    take(backends).await
}

pub(crate) async fn receive(backends: &Backends, request: &ReceiveRequest) -> Vec<Delivery> {
    backends.broker.receive(request).await.unwrap()
}

/// The one delivery there is, for A.
pub(crate) async fn take(backends: &Backends) -> Delivery {
    take_as(backends, A).await
}

pub(crate) async fn take_as(backends: &Backends, owner: Incarnation) -> Delivery {
    let mut deliveries = receive(backends, &ReceiveRequest { owner, ..asking(2) }).await;
    assert_eq!(deliveries.len(), 1, "{deliveries:?}");
    deliveries.remove(0)
}

pub(crate) async fn nothing_comes(backends: &Backends) {
    assert_eq!(receive(backends, &asking(10)).await, []);
}

/// The ids of what can be taken now, in order.
pub(crate) async fn ids(backends: &Backends, request: &ReceiveRequest) -> Vec<String> {
    let deliveries = receive(backends, request).await;
    deliveries.iter().map(|delivery| delivery.receipt.task.to_string()).collect()
}

pub(crate) fn failure() -> Failure {
    Failure::new(FailureKind::Error, "broken", "it did not work")
}

pub(crate) fn result() -> Payload {
    Payload::json(*b"{\"ok\":true}")
}

pub(crate) fn fail() -> Settlement {
    Settlement::Fail { failure: failure(), reason: DeadReason::RetriesExhausted }
}

pub(crate) fn retry_at(not_before: Timestamp) -> Settlement {
    Settlement::Retry { failure: failure(), not_before }
}

pub(crate) fn settle(harness: &dyn Harness, delivery: &Delivery, settlement: Settlement) -> Settle {
    settle_for(harness, &delivery.receipt, delivery.attempt, settlement)
}

pub(crate) fn settle_for(
    harness: &dyn Harness,
    receipt: &Receipt,
    attempt: u32,
    settlement: Settlement,
) -> Settle {
    Settle {
        receipt: receipt.clone(),
        settlement,
        at: harness.now(),
        worker: worker("w"),
        attempt,
        usage: None,
        module: None,
        children: Vec::new(),
    }
}

/// Settles with the record; answers what became of it.
pub(crate) async fn settled(
    harness: &dyn Harness,
    backends: &Backends,
    delivery: &Delivery,
    settlement: Settlement,
) -> Settled {
    let batch = [settle(harness, delivery, settlement)];
    backends.broker.settle(&batch, Records::Here).await.unwrap()[0]
}

/// Settles with the record; it must be accepted.
pub(crate) async fn finish(
    harness: &dyn Harness,
    backends: &Backends,
    delivery: &Delivery,
    settlement: Settlement,
) {
    assert_eq!(settled(harness, backends, delivery, settlement).await, Settled::Done);
}

pub(crate) async fn record(backends: &Backends, id: &str) -> TaskRecord {
    backends.results.fetch(&task(id)).await.unwrap().expect("the task has a record")
}

pub(crate) async fn state(backends: &Backends, id: &str) -> TaskState {
    record(backends, id).await.state
}

/// Purges a queue with its records; answers whom, sorted.
pub(crate) async fn purge(backends: &Backends, from: &str) -> Vec<String> {
    let purged = backends.broker.purge(&queue(from), Records::Here).await.unwrap();
    let mut purged: Vec<String> = purged.iter().map(ToString::to_string).collect();
    purged.sort();
    purged
}

/// A lease that ran out and was given to B: A's delivery is stale now.
pub(crate) async fn stale_and_fresh(
    harness: &dyn Harness,
    backends: &Backends,
    id: &str,
) -> (Delivery, Delivery) {
    let stale = held(harness, backends, id).await;
    harness.advance(PAST_LEASE);
    let fresh = take_as(backends, B).await;
    assert!(fresh.receipt.token > stale.receipt.token);
    (stale, fresh)
}
