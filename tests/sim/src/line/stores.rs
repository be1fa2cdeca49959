//! Results, revocations and heartbeats, as a process reaches them.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::presence::Registered;
use stem_core::backend::result::{Begun, RecordFilter, Recorded, Until};
use stem_core::backend::{BackendError, Health, Presence, ResultBackend, RevokeStore, ServiceId};
use stem_core::control::Heartbeat;
use stem_core::envelope::Envelope;
use stem_core::id::{Incarnation, LeaseToken, Namespace, TaskId, WorkerId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};
use stem_core::time::Timestamp;
use stem_engine::Backends;

use super::{Line, Made, PID, never, remote, salt};
use crate::fact::{Fact, Held, ServiceKind};

fn of(receipt: &Receipt) -> u64 {
    salt(&receipt.task, receipt.token.0)
}

#[async_trait]
impl ResultBackend for Line {
    fn service(&self) -> &ServiceId {
        Line::service(self, ServiceKind::Records)
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        let which = envelopes.first().map_or(0, |first| salt(&first.id, 0));
        let envelopes = envelopes.to_vec();
        remote!(self, "results.record_queued", which, [envelopes], |b| b
            .results
            .record_queued(&envelopes))
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        let which = begun.first().map_or(0, |first| of(&first.receipt));
        let begun = begun.to_vec();
        let which_began: Vec<_> = begun.iter().map(|begun| Held::from(&begun.receipt)).collect();
        let answers = remote!(self, "results.record_begun", which, [begun], |b| b
            .results
            .record_begun(&begun))?;
        for (held, answer) in which_began.iter().zip(&answers) {
            if *answer == Recorded::Stored {
                self.desk.begun(held);
            }
        }
        Ok(answers)
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        let which = batch.first().map_or(0, |first| of(&first.receipt));
        let batch = batch.to_vec();
        remote!(self, "results.record_settled", which, [batch], |b| b
            .results
            .record_settled(&batch))
    }

    async fn record_replayed(
        &self,
        letters: &[(TaskId, LeaseToken)],
    ) -> Result<Vec<Recorded>, BackendError> {
        let letters = letters.to_vec();
        remote!(self, "results.record_replayed", 0, [letters], |b| b
            .results
            .record_replayed(&letters))
    }

    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError> {
        // A worker sends them in any order; the run must not depend on it.
        let mut order: Vec<usize> = (0..updates.len()).collect();
        order.sort_by_key(|n| (&updates[*n].0.task, updates[*n].0.token));
        let batch: Vec<_> = order.iter().map(|n| updates[*n].clone()).collect();
        let answers = remote!(self, "results.record_progress", 0, [batch], |b| b
            .results
            .record_progress(&batch))?;
        let mut given = vec![Recorded::Stale; updates.len()];
        for (n, answer) in order.into_iter().zip(answers) {
            given[n] = answer;
        }
        Ok(given)
    }

    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError> {
        let (receipt, state) = (receipt.clone(), state.to_vec());
        let which = of(&receipt);
        remote!(self, "results.save_checkpoint", which, [receipt, state], |b| b
            .results
            .save_checkpoint(&receipt, &state))
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError> {
        let task = task.clone();
        let which = salt(&task, 0);
        remote!(self, "results.load_checkpoint", which, [task], |b| b
            .results
            .load_checkpoint(&task))
    }

    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        let task = task.clone();
        let which = salt(&task, 0);
        remote!(self, "results.fetch", which, [task], |b| b.results.fetch(&task))
    }

    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError> {
        let task = task.clone();
        let which = salt(&task, 0);
        remote!(self, "results.history", which, [task], |b| b.results.history(&task))
    }

    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError> {
        let filter = filter.clone();
        remote!(self, "results.list", 0, [filter], |b| b.results.list(&filter))
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError> {
        let which = salt(task, 0);
        let task = task.clone();
        // None: until it is final.
        let seen = match until {
            Until::Other(seen) => Some(seen.cloned()),
            Until::Final => None,
        };
        // The answer and whether it is what was waited for.
        let make = move |b: Backends| -> Made<(Option<TaskRecord>, bool)> {
            let (task, seen) = (task.clone(), seen.clone());
            Box::pin(async move {
                let until = match &seen {
                    Some(seen) => Until::Other(seen.as_ref()),
                    None => Until::Final,
                };
                let record = b.results.watch(&task, until, Duration::ZERO).await?;
                let met = until.is_met(record.as_ref());
                Ok((record, met))
            })
        };
        let (record, _) = self.call("results.watch", which, wait, |(_, met)| !met, make).await?;
        Ok(record)
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        let which = tasks.first().map_or(0, |first| salt(first, 0));
        let tasks = tasks.to_vec();
        remote!(self, "results.forget", which, [tasks], |b| b.results.forget(&tasks))
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        remote!(self, "results.prune", 0, [], |b| b.results.prune())
    }

    async fn health(&self) -> Result<Health, BackendError> {
        remote!(self, "results.health", 0, [], |b| b.results.health())
    }
}

#[async_trait]
impl RevokeStore for Line {
    fn service(&self) -> &ServiceId {
        Line::service(self, ServiceKind::Revokes)
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        remote!(self, "revokes.time", 0, [], |b| b.revokes.time())
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        let which = requests.first().map_or(0, |(task, _)| salt(task, 0));
        let (namespace, requests) = (namespace.clone(), requests.to_vec());
        remote!(self, "revokes.revoke", which, [namespace, requests], |b| b
            .revokes
            .revoke(&namespace, &requests))
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        let (namespace, task) = (namespace.clone(), task.clone());
        let which = salt(&task, 0);
        remote!(self, "revokes.undo", which, [namespace, task], |b| b
            .revokes
            .undo(&namespace, &task))
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        let sent = self.desk.now();
        let namespace = namespace.clone();
        let changes = remote!(self, "revokes.since", 0, [namespace], |b| b
            .revokes
            .since(&namespace, after, limit))?;
        let upto = changes.last().map_or(after, RevocationChange::version);
        let (mut revoked, mut undone) = (Vec::new(), Vec::new());
        for change in &changes {
            let list = match change {
                RevocationChange::Revoked(_) => &mut revoked,
                RevocationChange::Undone { .. } => &mut undone,
            };
            list.push((change.task().clone(), change.version()));
        }
        self.desk.tell(Fact::Learned { sent, after, upto, revoked, undone });
        Ok(changes)
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        let namespace = namespace.clone();
        remote!(self, "revokes.prune", 0, [namespace], |b| b.revokes.prune(&namespace))
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        // The server knows by itself what this process was told.
        self.call("revokes.changed", 0, wait, never, |_| Box::pin(async { Ok(()) })).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        remote!(self, "revokes.health", 0, [], |b| b.revokes.health())
    }
}

#[async_trait]
impl Presence for Line {
    fn service(&self) -> &ServiceId {
        Line::service(self, ServiceKind::Records)
    }

    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, BackendError> {
        let heartbeat = Heartbeat { pid: PID, ..heartbeat.clone() };
        remote!(self, "presence.register", 0, [heartbeat], |b| b.presence.register(&heartbeat))
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), BackendError> {
        let heartbeat = Heartbeat { pid: PID, ..heartbeat.clone() };
        remote!(self, "presence.beat", 0, [heartbeat], |b| b.presence.beat(&heartbeat))
    }

    async fn workers(
        &self,
        namespace: &Namespace,
    ) -> Result<(Vec<Heartbeat>, Timestamp), BackendError> {
        let namespace = namespace.clone();
        remote!(self, "presence.workers", 0, [namespace], |b| b.presence.workers(&namespace))
    }

    async fn forget(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), BackendError> {
        let (namespace, worker) = (namespace.clone(), worker.clone());
        remote!(self, "presence.forget", 0, [namespace, worker], |b| b
            .presence
            .forget(&namespace, &worker, boot_id))
    }
}
