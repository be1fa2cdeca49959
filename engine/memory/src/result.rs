//! [`ResultBackend`] in memory.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::result::{
    Begun, CHECKPOINT_BYTES, RECORD_TTL, RecordFilter, Recorded, ResultBackend, Until,
};
use stem_core::backend::{BackendError, ErrorClass, Health, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, TaskId};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};

use crate::record::Kept;
use crate::{Look, Memory};

#[async_trait]
impl ResultBackend for Memory {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        let mut state = self.state();
        for envelope in envelopes {
            state.records.queue(envelope);
        }
        drop(state);
        self.bells.records.ring();
        Ok(())
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        let mut state = self.state();
        let recorded = begun.iter().map(|begun| state.records.begin(begun)).collect();
        drop(state);
        self.bells.records.ring();
        Ok(recorded)
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        let mut state = self.state();
        let recorded = batch.iter().map(|settle| state.records.settle(settle)).collect();
        drop(state);
        self.bells.records.ring();
        Ok(recorded)
    }

    async fn record_replayed(
        &self,
        letters: &[(TaskId, LeaseToken)],
    ) -> Result<Vec<Recorded>, BackendError> {
        let mut state = self.state();
        let recorded =
            letters.iter().map(|(task, token)| state.records.replay(task, *token)).collect();
        drop(state);
        self.bells.records.ring();
        Ok(recorded)
    }

    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError> {
        let recorded = updates
            .iter()
            .map(|(receipt, progress)| {
                self.change(receipt, |kept| kept.record.progress = Some(progress.clone()))
            })
            .collect();
        self.bells.records.ring();
        Ok(recorded)
    }

    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError> {
        if state.len() > CHECKPOINT_BYTES {
            let problem =
                format!("it is {} bytes; at most {CHECKPOINT_BYTES} are kept", state.len());
            let class = ErrorClass::Unsupported;
            return Err(BackendError::new(class, &self.service.0, "save a checkpoint", problem));
        }
        Ok(self.change(receipt, |kept| kept.checkpoint = Some(state.to_vec())))
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.state().records.get(task).and_then(|kept| kept.checkpoint.clone()))
    }

    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        Ok(self.state().records.get(task).map(|kept| kept.record.clone()))
    }

    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError> {
        Ok(self.state().records.get(task).map(|kept| kept.history.clone()).unwrap_or_default())
    }

    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError> {
        let state = self.state();
        Ok(state
            .records
            .newest_first()
            .map(|kept| &kept.record)
            .filter(|record| {
                filter.state.is_none_or(|state| state == record.state)
                    && filter.queue.as_ref().is_none_or(|queue| *queue == record.queue)
                    && filter.name.as_ref().is_none_or(|name| *name == record.name)
            })
            .take(filter.limit)
            .map(|record| TaskRecord { result: None, ..record.clone() })
            .collect())
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError> {
        let met = self.look_until(&self.bells.records, wait, |state, _| {
            let record = state.records.get(task).map(|kept| &kept.record);
            if until.is_met(record) {
                Look::Found(record.cloned())
            } else {
                Look::Nothing { due: None }
            }
        });
        match met.await {
            Some(record) => Ok(record),
            None => self.fetch(task).await,
        }
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        let mut state = self.state();
        let mut forgotten = 0;
        for task in tasks {
            if state.records.get(task).is_some_and(|kept| !kept.record.state.is_final()) {
                state.records.remove(task);
                forgotten += 1;
            }
        }
        drop(state);
        self.bells.records.ring();
        Ok(forgotten)
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let old: Vec<TaskId> = state
            .records
            .newest_first()
            .filter(|kept| kept.record.finished_at.is_some_and(|at| now.since(at) > RECORD_TTL))
            .map(|kept| kept.record.id.clone())
            .collect();
        for task in &old {
            state.records.remove(task);
        }
        Ok(old.len() as u64)
    }

    async fn health(&self) -> Result<Health, BackendError> {
        Ok(self.health_now())
    }
}

impl Memory {
    /// Changes the record of the attempt that this receipt is for, if that attempt runs.
    fn change(&self, receipt: &Receipt, change: impl FnOnce(&mut Kept)) -> Recorded {
        let mut state = self.state();
        match state.records.get_mut(&receipt.task).filter(|kept| kept.is_run_by(receipt)) {
            Some(kept) => {
                change(kept);
                Recorded::Stored
            }
            None => Recorded::Stale,
        }
    }
}
