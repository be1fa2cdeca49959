//! Whoever is not the newest owner of a task does nothing to it, also where broker and records do not agree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::broker::{Delivery, ReceiveRequest, Settled};
use stem_core::backend::dead_letter::{DeadFilter, Replayed};
use stem_core::backend::result::{Begun, Recorded};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{Incarnation, LeaseToken, QueueName, TaskId, TaskName, WorkerId};
use stem_core::machine::attempt::Event;
use stem_core::outcome::{Failure, FailureKind};
use stem_core::settlement::{DeadReason, Receipt, Settle, Settlement};
use stem_core::task::TaskState;
use stem_core::tenant::Tenant;
use stem_memory::Memory;
use tokio::sync::mpsc;

use super::config::WorkerConfig;
use super::keeper::settle_elsewhere;
use super::shared::{InHand, Shared};
use crate::clock::SystemClock;
use crate::{Backends, Client};

fn task() -> TaskId {
    TaskId::new("t").unwrap()
}

fn name() -> TaskName {
    TaskName::new("name").unwrap()
}

fn worker() -> WorkerId {
    WorkerId::new("w").unwrap()
}

fn receipt(token: u64, owner: Incarnation) -> Receipt {
    Receipt {
        task: task(),
        queue: QueueName::new("default").unwrap(),
        token: LeaseToken(token),
        owner,
    }
}

/// A worker whose records lie in another store than its deliveries, and a client of both.
struct Apart {
    shared: Arc<Shared>,
    client: Client,
}

impl Apart {
    fn new() -> Self {
        let clock = Arc::new(SystemClock);
        let mut backends = Backends::all_in_one(Memory::new(Arc::clone(&clock) as _));
        backends.results = Memory::new(Arc::clone(&clock) as _);
        assert_eq!(backends.records(), Records::Elsewhere);
        let client = Client::new(backends.clone(), clock);
        Self { shared: Shared::alone(WorkerConfig::new(worker()), backends), client }
    }

    fn settle(&self, receipt: Receipt, settlement: Settlement) -> Settle {
        Settle {
            receipt,
            settlement,
            at: self.shared.wall(),
            worker: worker(),
            attempt: 1,
            usage: None,
            module: None,
            children: Vec::new(),
        }
    }

    async fn publish(&self) {
        let payload = Payload::json(b"{}".to_vec());
        let queue = QueueName::new("default").unwrap();
        let envelope = Envelope::new(task(), name(), queue, payload, self.shared.wall());
        self.shared.backends.publish(&[envelope]).await.unwrap();
    }

    async fn receive(&self) -> Option<Delivery> {
        let request = ReceiveRequest {
            queues: vec![QueueName::new("default").unwrap()],
            names: Arc::new([name()]),
            max: 1,
            lease: Duration::from_mins(1),
            owner: self.shared.incarnation,
            worker: worker(),
            wait: Duration::ZERO,
            records: Records::Elsewhere,
            shares: None,
        };
        self.shared.backends.broker.receive(&request).await.unwrap().pop()
    }

    /// On record alone.
    async fn begin(&self, receipt: &Receipt) -> Recorded {
        let begun = Begun {
            receipt: receipt.clone(),
            attempt: 1,
            deliveries: 1,
            at: self.shared.wall(),
            worker: worker(),
        };
        self.shared.backends.results.record_begun(&[begun]).await.unwrap()[0]
    }

    /// On record alone.
    async fn end(&self, receipt: Receipt, settlement: Settlement) -> Recorded {
        let settle = self.settle(receipt, settlement);
        self.shared.backends.results.record_settled(&[settle]).await.unwrap()[0]
    }

    async fn record(&self) -> (TaskState, LeaseToken) {
        let record = self.client.show(&task()).await.unwrap().unwrap();
        (record.state, record.token)
    }
}

fn failed() -> Settlement {
    let failure = Failure::new(FailureKind::Error, "e", "m");
    Settlement::Fail { failure, reason: DeadReason::Fatal }
}

fn hand(token: u64, shared: &Shared) -> (Arc<InHand>, mpsc::UnboundedReceiver<Box<Event>>) {
    let (events, told) = mpsc::unbounded_channel();
    let receipt = receipt(token, shared.incarnation);
    (Arc::new(InHand::new(receipt, (name(), Tenant::of(&BTreeMap::new())), 1, events)), told)
}

#[tokio::test]
async fn whoever_has_an_older_delivery_of_a_task_has_lost_it_once_a_newer_is_in_hand() {
    let shared = Apart::new().shared;
    let ((old, mut old_told), (new, mut new_told)) = (hand(1, &shared), hand(2, &shared));
    shared.take_in_hand(&old);
    assert!(old_told.try_recv().is_err());
    shared.take_in_hand(&new);
    assert_eq!(*old_told.try_recv().unwrap(), Event::LeaseLost);
    assert!(new_told.try_recv().is_err());
    // In whatever order they came.
    let (oldest, mut oldest_told) = hand(0, &shared);
    shared.take_in_hand(&oldest);
    assert_eq!(*oldest_told.try_recv().unwrap(), Event::LeaseLost);
    assert!(new_told.try_recv().is_err());
    // One that was enqueued again begins with the first token again, and what was there before takes nothing from it.
    let (again, _told) = hand(2, &shared);
    shared.take_in_hand(&again);
    assert_eq!(*new_told.try_recv().unwrap(), Event::LeaseLost);
    for hand in [&oldest, &old, &new] {
        shared.let_go(hand);
    }
    assert_eq!(shared.in_hand_of(&task()).len(), 1);
    shared.let_go(&again);
    assert_eq!(shared.inflight(), 0);
}

#[tokio::test]
async fn a_settlement_that_the_record_refuses_is_not_made_at_the_broker() {
    let apart = Apart::new();
    apart.publish().await;
    // The task ran to its end under a newer token. Its producer, who never had an answer, enqueues it again: what comes of
    // that has the first token, as the attempt has which does not know yet that its lease was lost.
    let (stale, newer) =
        (receipt(1, apart.shared.incarnation), receipt(3, Incarnation(uuid::Uuid::now_v7())));
    assert_eq!(apart.begin(&stale).await, Recorded::Stored);
    assert_eq!(apart.begin(&newer).await, Recorded::Stored);
    let success = Settlement::Succeed(Payload::json(b"1".to_vec()));
    assert_eq!(apart.end(newer, success.clone()).await, Recorded::Stored);
    assert_eq!(apart.receive().await.unwrap().receipt, stale);
    let retry = Settlement::Retry {
        failure: Failure::new(FailureKind::Error, "e", "m"),
        not_before: apart.shared.wall(),
    };
    let settles = vec![apart.settle(stale.clone(), retry)];
    assert_eq!(settle_elsewhere(&apart.shared, settles).await.unwrap(), [Some(Settled::Stale)]);
    assert_eq!(apart.record().await, (TaskState::Succeeded, LeaseToken(3)));
    // The leftover went without a trace.
    assert_eq!(apart.receive().await, None);
    let settles = vec![apart.settle(stale, success)];
    assert_eq!(settle_elsewhere(&apart.shared, settles).await.unwrap(), [Some(Settled::Stale)]);
}

#[tokio::test]
async fn what_a_replay_says_on_record_changes_nothing_when_it_comes_late() {
    let apart = Apart::new();
    apart.publish().await;
    let first = apart.receive().await.unwrap().receipt;
    assert_eq!(apart.begin(&first).await, Recorded::Stored);
    let settles = vec![apart.settle(first.clone(), failed())];
    assert_eq!(settle_elsewhere(&apart.shared, settles).await.unwrap(), [Some(Settled::Done)]);
    assert_eq!(apart.client.replay(&[task()]).await.unwrap(), [Replayed::Queued]);
    assert_eq!(apart.record().await, (TaskState::Queued, LeaseToken(1)));
    let second = apart.receive().await.unwrap().receipt;
    assert_eq!(apart.begin(&second).await, Recorded::Stored);
    let late = [(task(), first.token)];
    assert_eq!(apart.end(second.clone(), failed()).await, Recorded::Stored);
    let results = &apart.shared.backends.results;
    assert_eq!(results.record_replayed(&late).await.unwrap(), [Recorded::Stale]);
    assert_eq!(apart.record().await, (TaskState::Failed, LeaseToken(2)));
    // Nor does a replay that meets it between its two ends take the newer failure for the one that it was to replay.
    assert_eq!(apart.client.replay(&[task()]).await.unwrap(), [Replayed::Absent]);
    let settles = vec![apart.settle(second, failed())];
    assert_eq!(settle_elsewhere(&apart.shared, settles).await.unwrap(), [Some(Settled::Done)]);
    assert_eq!(apart.client.replay(&[task()]).await.unwrap(), [Replayed::Queued]);
    assert_eq!(apart.record().await, (TaskState::Queued, LeaseToken(2)));
}

#[tokio::test]
async fn a_replay_works_with_a_broker_that_was_restored_from_an_older_copy() {
    let apart = Apart::new();
    apart.publish().await;
    let first = apart.receive().await.unwrap().receipt;
    let dead = vec![apart.settle(first, failed())];
    apart.shared.backends.broker.settle(&dead, Records::Elsewhere).await.unwrap();
    // The record knows what the broker has forgotten.
    let newer = receipt(7, Incarnation(uuid::Uuid::now_v7()));
    assert_eq!(apart.begin(&newer).await, Recorded::Stored);
    assert_eq!(apart.end(newer, failed()).await, Recorded::Stored);
    let filter = DeadFilter { limit: 1, ..DeadFilter::default() };
    let letters = apart.shared.backends.dead_letters.list(&filter);
    assert_eq!(letters.await.unwrap()[0].token, LeaseToken(1));
    assert_eq!(apart.client.replay(&[task()]).await.unwrap(), [Replayed::Queued]);
    assert_eq!(apart.record().await, (TaskState::Queued, LeaseToken(7)));
}
