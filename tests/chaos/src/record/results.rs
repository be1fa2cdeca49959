//! Records and checkpoints.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::result::{Begun, RecordFilter, Recorded, Until};
use stem_core::backend::{BackendError, Health, ResultBackend, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, TaskId};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};

use super::{answered, held, ids};
use crate::history::{Event, Journal, Moment};

#[derive(Debug)]
pub(super) struct RecordedResults {
    pub(super) inner: Arc<dyn ResultBackend>,
    pub(super) journal: Arc<Journal>,
}

#[async_trait]
impl ResultBackend for RecordedResults {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        self.journal.write(Event::EnqTry(ids(envelopes)));
        self.inner.record_queued(envelopes).await
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        let answers = self.journal.noted(self.inner.record_begun(begun).await)?;
        for (begun, answer) in begun.iter().zip(&answers) {
            if *answer == Recorded::Stored {
                self.journal.write(Event::Begun(held(&begun.receipt)));
            }
        }
        Ok(answers)
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        let sent = Moment::now();
        let answers = self.journal.noted(self.inner.record_settled(batch).await)?;
        for (settle, answer) in batch.iter().zip(&answers) {
            let answered = answered(settle, sent);
            self.journal.write(match answer {
                Recorded::Stored => Event::RecordOk(answered),
                Recorded::Stale => Event::RecordStale(answered),
            });
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
        self.inner.record_progress(updates).await
    }

    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError> {
        let sent = Moment::now();
        let answer = self.journal.noted(self.inner.save_checkpoint(receipt, state).await)?;
        let held = held(receipt);
        self.journal.write(match answer {
            Recorded::Stored => Event::CheckpointOk { held, sent },
            Recorded::Stale => Event::CheckpointStale(held),
        });
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
