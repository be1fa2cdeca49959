//! What stands in front of each trait: the same method, made through [`Faulty`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Delivery, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::control::Position;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, Replayed};
use stem_core::backend::presence::Registered;
use stem_core::backend::result::{Begun, RecordFilter, Recorded, Until};
use stem_core::backend::{
    BackendError, Broker, ControlPlane, DeadLetters, Health, Presence, Records, ResultBackend,
    RevokeStore, ServiceId,
};
use stem_core::control::Heartbeat;
use stem_core::control::wire::{CommandFrame, ReplyFrame};
use stem_core::envelope::Envelope;
use stem_core::id::{
    Incarnation, LeaseToken, Namespace, QueueName, RequestId, TaskId, TaskName, WorkerId,
};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};
use stem_core::time::Timestamp;

use super::{Faulty, Twice};

/// The names by which scripts and counts know the calls.
pub(super) const METHODS: [&str; 55] = [
    "broker.publish",
    "broker.receive",
    "broker.renew",
    "broker.settle",
    "broker.bury_unroutable",
    "broker.queues",
    "broker.purge",
    "broker.set_paused",
    "broker.health",
    "results.record_queued",
    "results.record_begun",
    "results.record_settled",
    "results.record_replayed",
    "results.record_progress",
    "results.save_checkpoint",
    "results.load_checkpoint",
    "results.fetch",
    "results.history",
    "results.list",
    "results.watch",
    "results.forget",
    "results.prune",
    "results.health",
    "revokes.revoke",
    "revokes.undo",
    "revokes.time",
    "revokes.since",
    "revokes.prune",
    "revokes.changed",
    "revokes.health",
    "control.position",
    "control.send",
    "control.commands",
    "control.reply",
    "control.replies",
    "control.prune",
    "presence.register",
    "presence.beat",
    "presence.workers",
    "presence.forget",
    "dead.list",
    "dead.replay",
    "dead.purge",
    "modules.put",
    "modules.get",
    "modules.push",
    "modules.assign",
    "modules.remove",
    "modules.history",
    "modules.catalogue",
    "modules.changed",
    "modules.health",
    "buckets.read",
    "buckets.write",
    "buckets.remove",
];

/// A backend that is reached through faults.
#[derive(Debug)]
pub(super) struct Through<T: ?Sized> {
    pub(super) inner: Arc<T>,
    pub(super) faulty: Arc<Faulty>,
}

#[async_trait]
impl Broker for Through<dyn Broker> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError> {
        let make = || self.inner.publish(envelopes, records);
        self.faulty.call("broker.publish", Twice::FirstCounts, make).await
    }

    fn knows_shares(&self) -> bool {
        self.inner.knows_shares()
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        let make = || self.inner.receive(request);
        self.faulty.call("broker.receive", Twice::Never, make).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        let make = || self.inner.renew(renewals);
        self.faulty.call("broker.renew", Twice::FirstCounts, make).await
    }

    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError> {
        let make = || self.inner.settle(batch, records);
        self.faulty.call("broker.settle", Twice::FirstCounts, make).await
    }

    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Result<u64, BackendError> {
        let make = || self.inner.bury_unroutable(known, since, records);
        self.faulty.call("broker.bury_unroutable", Twice::FirstCounts, make).await
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError> {
        let make = || self.inner.queues();
        self.faulty.call("broker.queues", Twice::Never, make).await
    }

    async fn purge(
        &self,
        queue: &QueueName,
        records: Records,
    ) -> Result<Vec<TaskId>, BackendError> {
        let make = || self.inner.purge(queue, records);
        self.faulty.call("broker.purge", Twice::Never, make).await
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError> {
        let make = || self.inner.set_paused(queue, pause.clone());
        self.faulty.call("broker.set_paused", Twice::FirstCounts, make).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        let make = || self.inner.health();
        self.faulty.call("broker.health", Twice::Never, make).await
    }
}

#[async_trait]
impl ResultBackend for Through<dyn ResultBackend> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        let make = || self.inner.record_queued(envelopes);
        self.faulty.call("results.record_queued", Twice::FirstCounts, make).await
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        let make = || self.inner.record_begun(begun);
        self.faulty.call("results.record_begun", Twice::FirstCounts, make).await
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        let make = || self.inner.record_settled(batch);
        self.faulty.call("results.record_settled", Twice::FirstCounts, make).await
    }

    async fn record_replayed(
        &self,
        letters: &[(TaskId, LeaseToken)],
    ) -> Result<Vec<Recorded>, BackendError> {
        let make = || self.inner.record_replayed(letters);
        self.faulty.call("results.record_replayed", Twice::FirstCounts, make).await
    }

    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError> {
        let make = || self.inner.record_progress(updates);
        self.faulty.call("results.record_progress", Twice::FirstCounts, make).await
    }

    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError> {
        let make = || self.inner.save_checkpoint(receipt, state);
        self.faulty.call("results.save_checkpoint", Twice::FirstCounts, make).await
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError> {
        let make = || self.inner.load_checkpoint(task);
        self.faulty.call("results.load_checkpoint", Twice::Never, make).await
    }

    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        let make = || self.inner.fetch(task);
        self.faulty.call("results.fetch", Twice::Never, make).await
    }

    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError> {
        let make = || self.inner.history(task);
        self.faulty.call("results.history", Twice::Never, make).await
    }

    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError> {
        let make = || self.inner.list(filter);
        self.faulty.call("results.list", Twice::Never, make).await
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError> {
        let make = || self.inner.watch(task, until, wait);
        self.faulty.call("results.watch", Twice::Never, make).await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        let make = || self.inner.forget(tasks);
        self.faulty.call("results.forget", Twice::FirstCounts, make).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        let make = || self.inner.prune();
        self.faulty.call("results.prune", Twice::FirstCounts, make).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        let make = || self.inner.health();
        self.faulty.call("results.health", Twice::Never, make).await
    }
}

#[async_trait]
impl RevokeStore for Through<dyn RevokeStore> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        let make = || self.inner.time();
        self.faulty.call("revokes.time", Twice::Never, make).await
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        let make = || self.inner.revoke(namespace, requests);
        self.faulty.call("revokes.revoke", Twice::SecondCounts, make).await
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        let make = || self.inner.undo(namespace, task);
        self.faulty.call("revokes.undo", Twice::FirstCounts, make).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        let make = || self.inner.since(namespace, after, limit);
        self.faulty.call("revokes.since", Twice::Never, make).await
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        let make = || self.inner.prune(namespace);
        self.faulty.call("revokes.prune", Twice::FirstCounts, make).await
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        let make = || self.inner.changed(wait);
        self.faulty.call("revokes.changed", Twice::Never, make).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        let make = || self.inner.health();
        self.faulty.call("revokes.health", Twice::Never, make).await
    }
}

#[async_trait]
impl ControlPlane for Through<dyn ControlPlane> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn position(&self, namespace: &Namespace) -> Result<Position, BackendError> {
        let make = || self.inner.position(namespace);
        self.faulty.call("control.position", Twice::Never, make).await
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        let make = || self.inner.send(command);
        self.faulty.call("control.send", Twice::FirstCounts, make).await
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let make = || self.inner.commands(namespace, after, wait);
        self.faulty.call("control.commands", Twice::Never, make).await
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        let make = || self.inner.reply(namespace, reply);
        self.faulty.call("control.reply", Twice::FirstCounts, make).await
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let make = || self.inner.replies(namespace, request, after, wait);
        self.faulty.call("control.replies", Twice::Never, make).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        let make = || self.inner.prune();
        self.faulty.call("control.prune", Twice::FirstCounts, make).await
    }
}

#[async_trait]
impl Presence for Through<dyn Presence> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, BackendError> {
        let make = || self.inner.register(heartbeat);
        self.faulty.call("presence.register", Twice::FirstCounts, make).await
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), BackendError> {
        let make = || self.inner.beat(heartbeat);
        self.faulty.call("presence.beat", Twice::FirstCounts, make).await
    }

    async fn workers(
        &self,
        namespace: &Namespace,
    ) -> Result<(Vec<Heartbeat>, Timestamp), BackendError> {
        let make = || self.inner.workers(namespace);
        self.faulty.call("presence.workers", Twice::Never, make).await
    }

    async fn forget(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), BackendError> {
        let make = || self.inner.forget(namespace, worker, boot_id);
        self.faulty.call("presence.forget", Twice::FirstCounts, make).await
    }
}

#[async_trait]
impl DeadLetters for Through<dyn DeadLetters> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn list(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, BackendError> {
        let make = || self.inner.list(filter);
        self.faulty.call("dead.list", Twice::Never, make).await
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, BackendError> {
        let make = || self.inner.replay(letters, records);
        self.faulty.call("dead.replay", Twice::FirstCounts, make).await
    }

    async fn purge(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        let make = || self.inner.purge(tasks);
        self.faulty.call("dead.purge", Twice::FirstCounts, make).await
    }
}
