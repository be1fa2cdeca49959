//! What stands in front of each trait: the same method, with the mischief's hooks around it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Delivery, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::control::Position;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, Replayed};
use stem_core::backend::result::{Begun, RecordFilter, Recorded, Until};
use stem_core::backend::{
    Broker, ControlPlane, DeadLetters, Health, Records, ResultBackend, RevokeStore, ServiceId,
};
use stem_core::control::Command;
use stem_core::control::wire::{self, CommandFrame, ReplyFrame};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, Namespace, QueueName, RequestId, TaskId, TaskName};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};
use stem_core::time::Timestamp;

use super::{Answer, Mischief};

/// A backend that is reached through a mischief.
#[derive(Debug)]
pub(super) struct Through<T: ?Sized> {
    pub(super) inner: Arc<T>,
    pub(super) mischief: Arc<dyn Mischief>,
}

#[async_trait]
impl Broker for Through<dyn Broker> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    fn knows_shares(&self) -> bool {
        self.inner.knows_shares()
    }

    async fn publish(&self, envelopes: &[Envelope], records: Records) -> Answer<Vec<Published>> {
        let mut envelopes = envelopes.to_vec();
        let instead = self.mischief.publish(&mut envelopes);
        let answer = self.inner.publish(&envelopes, records).await?;
        Ok(instead.unwrap_or(answer))
    }

    async fn receive(&self, request: &ReceiveRequest) -> Answer<Vec<Delivery>> {
        let mut request = request.clone();
        if self.mischief.receive(&mut request) {
            // At a store nothing waits, and no runtime is there to do it.
            if !request.wait.is_zero() {
                tokio::time::sleep(request.wait).await;
            }
            return Ok(Vec::new());
        }
        let mut answer = self.inner.receive(&request).await;
        self.mischief.received(&request, &mut answer);
        answer
    }

    async fn renew(&self, renewals: &[Renewal]) -> Answer<Vec<Renewed>> {
        let mut renewals = renewals.to_vec();
        match self.mischief.renew(&mut renewals) {
            Some(answer) => Ok(answer),
            None => self.inner.renew(&renewals).await,
        }
    }

    async fn settle(&self, batch: &[Settle], records: Records) -> Answer<Vec<Settled>> {
        let mut batch = batch.to_vec();
        if !self.mischief.settle(&mut batch) {
            std::future::pending::<()>().await;
        }
        let mut answer = self.inner.settle(&batch, records).await;
        self.mischief.settled(&batch, &mut answer);
        answer
    }

    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Answer<u64> {
        self.inner.bury_unroutable(known, since, records).await
    }

    async fn queues(&self) -> Answer<Vec<QueueStatus>> {
        let mut answer = self.inner.queues().await;
        self.mischief.queues(&mut answer);
        answer
    }

    async fn purge(&self, queue: &QueueName, records: Records) -> Answer<Vec<TaskId>> {
        self.inner.purge(queue, records).await
    }

    async fn set_paused(&self, queue: &QueueName, pause: Option<Pause>) -> Answer<bool> {
        self.inner.set_paused(queue, pause).await
    }

    async fn health(&self) -> Answer<Health> {
        self.inner.health().await
    }
}

#[async_trait]
impl ResultBackend for Through<dyn ResultBackend> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Answer<()> {
        self.inner.record_queued(envelopes).await
    }

    async fn record_begun(&self, begun: &[Begun]) -> Answer<Vec<Recorded>> {
        self.inner.record_begun(begun).await
    }

    async fn record_settled(&self, batch: &[Settle]) -> Answer<Vec<Recorded>> {
        self.inner.record_settled(batch).await
    }

    async fn record_replayed(&self, letters: &[(TaskId, LeaseToken)]) -> Answer<Vec<Recorded>> {
        self.inner.record_replayed(letters).await
    }

    async fn record_progress(&self, updates: &[(Receipt, Progress)]) -> Answer<Vec<Recorded>> {
        let mut updates = updates.to_vec();
        self.mischief.progress(&mut updates);
        self.inner.record_progress(&updates).await
    }

    async fn save_checkpoint(&self, receipt: &Receipt, state: &[u8]) -> Answer<Recorded> {
        let mut receipt = receipt.clone();
        self.mischief.save(&mut receipt);
        self.inner.save_checkpoint(&receipt, state).await
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Answer<Option<Vec<u8>>> {
        self.inner.load_checkpoint(task).await
    }

    async fn fetch(&self, task: &TaskId) -> Answer<Option<TaskRecord>> {
        self.inner.fetch(task).await
    }

    async fn history(&self, task: &TaskId) -> Answer<Vec<FailedAttempt>> {
        self.inner.history(task).await
    }

    async fn list(&self, filter: &RecordFilter) -> Answer<Vec<TaskRecord>> {
        self.inner.list(filter).await
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Answer<Option<TaskRecord>> {
        self.inner.watch(task, until, wait).await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Answer<u64> {
        self.inner.forget(tasks).await
    }

    async fn prune(&self) -> Answer<u64> {
        self.inner.prune().await
    }

    async fn health(&self) -> Answer<Health> {
        self.inner.health().await
    }
}

#[async_trait]
impl RevokeStore for Through<dyn RevokeStore> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn time(&self) -> Answer<Option<Timestamp>> {
        let mut answer = self.inner.time().await;
        self.mischief.time(&mut answer);
        answer
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Answer<Vec<Revocation>> {
        let mut requests = requests.to_vec();
        match self.mischief.revoke(&mut requests) {
            Some(answer) => Ok(answer),
            None => self.inner.revoke(namespace, &requests).await,
        }
    }

    async fn undo(&self, namespace: &Namespace, task: &TaskId) -> Answer<Option<Version>> {
        self.inner.undo(namespace, task).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Answer<Vec<RevocationChange>> {
        let mut answer = self.inner.since(namespace, after, limit).await;
        self.mischief.since(after, &mut answer);
        answer
    }

    async fn prune(&self, namespace: &Namespace) -> Answer<u64> {
        self.inner.prune(namespace).await
    }

    async fn changed(&self, wait: Duration) -> Answer<()> {
        let mut answer = self.inner.changed(wait).await;
        self.mischief.changed(&mut answer);
        answer
    }

    async fn health(&self) -> Answer<Health> {
        self.inner.health().await
    }
}

/// The log of commands through a mischief, and where its end was when it was asked for late.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) through: Through<dyn ControlPlane>,
    pub(super) end: Mutex<Option<Position>>,
}

impl Log {
    /// From where commands are read: not from before the end that was asked for late.
    async fn begin(&self, namespace: &Namespace, after: Position) -> Answer<Position> {
        if !self.through.mischief.is_late_at_the_log() {
            return Ok(after);
        }
        let noted = *self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let end = match noted {
            Some(end) => end,
            None => self.through.inner.position(namespace).await?,
        };
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        Ok(after.max(end))
    }
}

#[async_trait]
impl ControlPlane for Log {
    fn service(&self) -> &ServiceId {
        self.through.inner.service()
    }

    async fn position(&self, namespace: &Namespace) -> Answer<Position> {
        if self.through.mischief.is_late_at_the_log() {
            return Ok(Position(0));
        }
        let mut position = self.through.inner.position(namespace).await?;
        self.through.mischief.position(&mut position);
        Ok(position)
    }

    async fn send(&self, command: &CommandFrame) -> Answer<Position> {
        self.through.inner.send(command).await
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Answer<Vec<(Position, String)>> {
        let after = self.begin(namespace, after).await?;
        let texts = self.through.inner.commands(namespace, after, wait).await?;
        let mut commands: Vec<(Position, Command)> = texts
            .into_iter()
            .filter_map(|(at, text)| Some((at, wire::command(text.as_bytes()).ok()?)))
            .collect();
        self.through.mischief.commands(&mut commands);
        let text = |(at, command)| (at, CommandFrame::plain(&command).text);
        Ok(commands.into_iter().map(text).collect())
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Answer<()> {
        self.through.inner.reply(namespace, reply).await
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Answer<Vec<(Position, String)>> {
        self.through.inner.replies(namespace, request, after, wait).await
    }

    async fn prune(&self) -> Answer<u64> {
        self.through.inner.prune().await
    }
}

#[async_trait]
impl DeadLetters for Through<dyn DeadLetters> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn list(&self, filter: &DeadFilter) -> Answer<Vec<DeadLetter>> {
        self.inner.list(filter).await
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Answer<Vec<Replayed>> {
        let mut answers = self.inner.replay(letters, records).await?;
        self.mischief.replayed(&mut answers);
        Ok(answers)
    }

    async fn purge(&self, tasks: &[TaskId]) -> Answer<u64> {
        self.inner.purge(tasks).await
    }
}
