//! [`ResultBackend`] on Postgres, and the steps by which the broker keeps records in its own transactions.

mod query;
mod steps;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::result::{
    Begun, CHECKPOINT_BYTES, RecordFilter, Recorded, ResultBackend, Until,
};
use stem_core::backend::{BackendError, ErrorClass, Health, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, TaskId};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};

#[cfg(test)]
pub(super) use steps::HOT;
pub(super) use steps::{fail, forget, replay, settle};

use super::Postgres;
use super::error::Trouble;
use super::transact::Operation;
use crate::bells::{Topic, Topics, watch};
use crate::fault::Fault;

/// Records that one transaction of [`ResultBackend::prune`] removes, so that none takes seconds.
const PRUNED: i64 = 5_000;

struct RecordQueued(Vec<Envelope>);

#[async_trait]
impl Operation for RecordQueued {
    type Output = ();
    const ACTION: &'static str = "record new tasks";
    const REPEATABLE: bool = true;

    fn rings((): &()) -> Topics {
        Topics::RECORDS
    }

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<(), Trouble> {
        steps::queue(conn, &self.0).await
    }
}

struct RecordReplayed(Vec<(TaskId, LeaseToken)>);

#[async_trait]
impl Operation for RecordReplayed {
    type Output = Vec<Recorded>;
    const ACTION: &'static str = "record replays";
    const REPEATABLE: bool = true;

    fn rings(recorded: &Vec<Recorded>) -> Topics {
        ring_if_stored(recorded)
    }

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        let letters: Vec<_> = self.0.iter().map(|(task, token)| (task.as_str(), *token)).collect();
        replay(conn, &letters).await
    }
}

/// Whether anything was stored, so that somebody has to look.
fn ring_if_stored(recorded: &[Recorded]) -> Topics {
    if recorded.contains(&Recorded::Stored) { Topics::RECORDS } else { Topics::NONE }
}

struct RecordBegun(Vec<Begun>);

#[async_trait]
impl Operation for RecordBegun {
    type Output = Vec<Recorded>;
    const ACTION: &'static str = "record that attempts began";
    const REPEATABLE: bool = true;

    fn rings(recorded: &Vec<Recorded>) -> Topics {
        ring_if_stored(recorded)
    }

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        steps::begin(conn, &self.0).await
    }
}

struct RecordSettled(Vec<Settle>);

#[async_trait]
impl Operation for RecordSettled {
    type Output = Vec<Recorded>;
    const ACTION: &'static str = "record how attempts ended";
    const REPEATABLE: bool = true;

    fn rings(recorded: &Vec<Recorded>) -> Topics {
        ring_if_stored(recorded)
    }

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        settle(conn, &self.0.iter().collect::<Vec<_>>()).await
    }
}

struct RecordProgress(Vec<(Receipt, Progress)>);

#[async_trait]
impl Operation for RecordProgress {
    type Output = Vec<Recorded>;
    const ACTION: &'static str = "record progress";
    const REPEATABLE: bool = true;

    fn rings(recorded: &Vec<Recorded>) -> Topics {
        ring_if_stored(recorded)
    }

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        steps::progress(conn, &self.0).await
    }
}

/// Only the next attempt reads it, so nobody waits for it.
struct SaveCheckpoint {
    receipt: Receipt,
    state: Vec<u8>,
}

#[async_trait]
impl Operation for SaveCheckpoint {
    type Output = Recorded;
    const ACTION: &'static str = "save a checkpoint";
    const REPEATABLE: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        steps::checkpoint(conn, &self.receipt, &self.state).await
    }
}

struct Forget(Vec<TaskId>);

#[async_trait]
impl Operation for Forget {
    type Output = u64;
    const ACTION: &'static str = "remove the records of purged tasks";

    fn rings(removed: &u64) -> Topics {
        if *removed > 0 { Topics::RECORDS } else { Topics::NONE }
    }

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<u64, Trouble> {
        forget(conn, &self.0).await
    }
}

struct Prune;

#[async_trait]
impl Operation for Prune {
    type Output = u64;
    const ACTION: &'static str = "remove old records";

    fn rings(removed: &u64) -> Topics {
        if *removed > 0 { Topics::RECORDS } else { Topics::NONE }
    }

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<u64, Trouble> {
        steps::prune(conn, now, PRUNED).await
    }
}

#[async_trait]
impl ResultBackend for Postgres {
    fn service(&self) -> &ServiceId {
        &self.core.service
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        self.call(RecordQueued(envelopes.to_vec())).await
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        self.call(RecordBegun(begun.to_vec())).await
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        self.call(RecordSettled(batch.to_vec())).await
    }

    async fn record_replayed(
        &self,
        letters: &[(TaskId, LeaseToken)],
    ) -> Result<Vec<Recorded>, BackendError> {
        self.call(RecordReplayed(letters.to_vec())).await
    }

    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError> {
        self.call(RecordProgress(updates.to_vec())).await
    }

    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError> {
        if state.len() > CHECKPOINT_BYTES {
            let problem =
                format!("it is {} bytes; at most {CHECKPOINT_BYTES} are kept", state.len());
            let fault = Fault::new(ErrorClass::Unsupported, problem);
            return Err(fault.during(&self.core.service, SaveCheckpoint::ACTION));
        }
        self.call(SaveCheckpoint { receipt: receipt.clone(), state: state.to_vec() }).await
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError> {
        self.call(query::Checkpoint(task.clone())).await
    }

    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        self.call(query::Fetch(task.clone())).await
    }

    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError> {
        self.call(query::History(task.clone())).await
    }

    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError> {
        self.call(query::List(filter.clone())).await
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError> {
        watch(self.changes.subscribe(Topic::Records), until, wait, || self.fetch(task)).await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        self.call(Forget(tasks.to_vec())).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        let mut removed = 0;
        loop {
            let some = self.call(Prune).await?;
            removed += some;
            if some < PRUNED.unsigned_abs() {
                return Ok(removed);
            }
        }
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.health_now().await
    }
}
