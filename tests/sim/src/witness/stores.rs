//! Records, revocations, commands, heartbeats and dead letters, watched.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::control::Position;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, Replayed};
use stem_core::backend::presence::Registered;
use stem_core::backend::result::{Begun, RecordFilter, Recorded, Until};
use stem_core::backend::{
    BackendError, ControlPlane, DeadLetters, Health, Presence, Records, ResultBackend, RevokeStore,
    ServiceId,
};
use stem_core::control::wire::{self, CommandFrame, ReplyFrame};
use stem_core::control::{Answer, Heartbeat, Order};
use stem_core::envelope::Envelope;
use stem_core::id::{Incarnation, LeaseToken, Namespace, RequestId, TaskId, WorkerId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};
use stem_core::time::Timestamp;

use super::Witness;
use crate::fact::{Fact, Held, Move, Word};

#[async_trait]
impl ResultBackend for Witness<dyn ResultBackend> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        self.inner.record_queued(envelopes).await
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        let answers = self.inner.record_begun(begun).await?;
        for (begun, answer) in begun.iter().zip(&answers) {
            let held = Held::from(&begun.receipt);
            self.tell(Fact::Begun { held, attempt: begun.attempt, answer: *answer });
        }
        Ok(answers)
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        let answers = self.inner.record_settled(batch).await?;
        for (settle, answer) in batch.iter().zip(&answers) {
            let held = Held::from(&settle.receipt);
            self.tell(Fact::Recorded { held, by: Move::of(settle), answer: *answer });
        }
        Ok(answers)
    }

    async fn record_replayed(
        &self,
        letters: &[(TaskId, LeaseToken)],
    ) -> Result<Vec<Recorded>, BackendError> {
        self.inner.record_replayed(letters).await
    }

    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError> {
        let answers = self.inner.record_progress(updates).await?;
        for ((receipt, _), answer) in updates.iter().zip(&answers) {
            self.tell(Fact::Progressed { held: Held::from(receipt), answer: *answer });
        }
        Ok(answers)
    }

    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError> {
        let answer = self.inner.save_checkpoint(receipt, state).await?;
        self.tell(Fact::Saved { held: Held::from(receipt), answer });
        Ok(answer)
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError> {
        self.inner.load_checkpoint(task).await
    }

    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        self.inner.fetch(task).await
    }

    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError> {
        self.inner.history(task).await
    }

    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError> {
        self.inner.list(filter).await
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError> {
        self.inner.watch(task, until, wait).await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        self.inner.forget(tasks).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        self.inner.prune().await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}

#[async_trait]
impl RevokeStore for Witness<dyn RevokeStore> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        self.inner.time().await
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        let stored = self.inner.revoke(namespace, requests).await?;
        for revocation in &stored {
            self.tell(Fact::RevokeStored {
                version: revocation.version,
                task: revocation.task_id.clone(),
                request: revocation.request.clone(),
            });
        }
        Ok(stored)
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        let undone = self.inner.undo(namespace, task).await?;
        if let Some(version) = undone {
            self.tell(Fact::UndoStored { version, task: task.clone() });
        }
        Ok(undone)
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        let changes = self.inner.since(namespace, after, limit).await?;
        let upto = changes.last().map_or(after, RevocationChange::version);
        self.tell(Fact::SinceRead { after, upto, count: changes.len() });
        Ok(changes)
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        self.inner.prune(namespace).await
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        self.inner.changed(wait).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}

/// What a command asks for, in a word, and the revocations that it carries.
fn word(order: &Order) -> (Word, Vec<(TaskId, Version)>) {
    let word = match order {
        Order::Ping {} => Word::Ping,
        Order::Inspect { include_revoked } => Word::Inspect { revoked: *include_revoked },
        Order::Stats {} => Word::Stats,
        Order::Revoke { revocations } => {
            let carried = revocations.iter().map(|it| (it.task_id.clone(), it.version)).collect();
            return (Word::Revoke, carried);
        }
        Order::Shutdown { mode, .. } => Word::Shutdown(*mode),
        Order::Pause { .. } => Word::Pause,
        Order::Resume { .. } => Word::Resume,
    };
    (word, Vec::new())
}

#[async_trait]
impl ControlPlane for Witness<dyn ControlPlane> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn position(&self, namespace: &Namespace) -> Result<Position, BackendError> {
        self.inner.position(namespace).await
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        let position = self.inner.send(command).await?;
        // What nobody can read says nothing.
        let Ok(command) = wire::command(command.text.as_bytes()) else { return Ok(position) };
        let (order, versions) = word(&command.order);
        self.tell(Fact::CommandStored {
            position: position.0,
            id: command.request_id,
            order,
            versions,
            expires_at: command.expires_at,
            targets: command.targets,
        });
        Ok(position)
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let commands = self.inner.commands(namespace, after, wait).await?;
        if !commands.is_empty() {
            let readable = commands.iter().filter_map(|(_, it)| wire::command(it.as_bytes()).ok());
            let ids = readable.map(|command| command.request_id).collect();
            self.tell(Fact::CommandsGiven { ids });
        }
        Ok(commands)
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        self.inner.reply(namespace, reply).await?;
        let read = wire::reply(reply.text.as_bytes());
        let ok = read.is_ok_and(|reply| matches!(reply.answer, Answer::Ok { .. }));
        self.tell(Fact::Replied { id: reply.request_id.clone(), ok });
        Ok(())
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        self.inner.replies(namespace, request, after, wait).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        self.inner.prune().await
    }
}

#[async_trait]
impl Presence for Witness<dyn Presence> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, BackendError> {
        let answer = self.inner.register(heartbeat).await?;
        self.tell(Fact::Registered { taken: answer != Registered::Yes });
        Ok(answer)
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), BackendError> {
        self.inner.beat(heartbeat).await?;
        self.tell(Fact::Beat { state: heartbeat.state });
        Ok(())
    }

    async fn workers(
        &self,
        namespace: &Namespace,
    ) -> Result<(Vec<Heartbeat>, Timestamp), BackendError> {
        self.inner.workers(namespace).await
    }

    async fn forget(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), BackendError> {
        self.inner.forget(namespace, worker, boot_id).await
    }
}

#[async_trait]
impl DeadLetters for Witness<dyn DeadLetters> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn list(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, BackendError> {
        self.inner.list(filter).await
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, BackendError> {
        let answers = self.inner.replay(letters, records).await?;
        for ((task, token), answer) in letters.iter().zip(&answers) {
            self.tell(Fact::Replayed { task: task.clone(), token: *token, answer: *answer });
        }
        Ok(answers)
    }

    async fn purge(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        self.inner.purge(tasks).await
    }
}
