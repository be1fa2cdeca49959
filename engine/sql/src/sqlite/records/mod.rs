//! [`ResultBackend`] on SQLite, and the steps by which the broker keeps records in its own transactions.

mod query;
mod steps;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::result::{
    Begun, CHECKPOINT_BYTES, RECORD_TTL, RecordFilter, Recorded, ResultBackend, Until,
};
use stem_core::backend::{BackendError, ErrorClass, Health, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, TaskId};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};
use stem_core::time::Timestamp;

#[cfg(test)]
pub(super) use steps::HOT;
pub(super) use steps::{begin_delivered, fail, forget, lose, queue, replay, settle};

use super::Sqlite;
use super::writer::{Operation, Topics};
use crate::bells::{Topic, watch};
use crate::fault::Fault;

/// Records that one transaction of [`ResultBackend::prune`] removes, so that it does not hold the lock for seconds.
const PRUNED: i64 = 5_000;

struct RecordQueued(Vec<Envelope>);

#[async_trait]
impl Operation for RecordQueued {
    type Output = ();
    const ACTION: &'static str = "record new tasks";
    const RINGS: Topics = Topics::RECORDS;

    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<(), Fault> {
        let envelopes: Vec<&Envelope> = self.0.iter().collect();
        queue(conn, &envelopes).await
    }
}

struct RecordReplayed(Vec<(TaskId, LeaseToken)>);

#[async_trait]
impl Operation for RecordReplayed {
    type Output = Vec<Recorded>;
    const ACTION: &'static str = "record replays";
    const RINGS: Topics = Topics::RECORDS;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        _: Timestamp,
    ) -> Result<Self::Output, Fault> {
        let letters: Vec<_> = self.0.iter().map(|(task, token)| (task.as_str(), *token)).collect();
        replay(conn, &letters).await
    }
}

struct RecordBegun(Vec<Begun>);

#[async_trait]
impl Operation for RecordBegun {
    type Output = Vec<Recorded>;
    const ACTION: &'static str = "record that attempts began";
    const RINGS: Topics = Topics::RECORDS;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        _: Timestamp,
    ) -> Result<Self::Output, Fault> {
        steps::begin(conn, &self.0).await
    }
}

struct RecordSettled(Vec<Settle>);

#[async_trait]
impl Operation for RecordSettled {
    type Output = Vec<Recorded>;
    const ACTION: &'static str = "record how attempts ended";
    const RINGS: Topics = Topics::RECORDS;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        _: Timestamp,
    ) -> Result<Self::Output, Fault> {
        let batch: Vec<&Settle> = self.0.iter().collect();
        settle(conn, &batch).await
    }
}

struct RecordProgress(Vec<(Receipt, Progress)>);

#[async_trait]
impl Operation for RecordProgress {
    type Output = Vec<Recorded>;
    const ACTION: &'static str = "record progress";
    const RINGS: Topics = Topics::RECORDS;
    const FLEETING: bool = true;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        _: Timestamp,
    ) -> Result<Self::Output, Fault> {
        steps::progress(conn, &self.0).await
    }
}

struct SaveCheckpoint {
    receipt: Receipt,
    state: Vec<u8>,
}

#[async_trait]
impl Operation for SaveCheckpoint {
    type Output = Recorded;
    const ACTION: &'static str = "save a checkpoint";
    /// Only the next attempt reads it.
    const RINGS: Topics = Topics::NONE;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        _: Timestamp,
    ) -> Result<Self::Output, Fault> {
        steps::checkpoint(conn, &self.receipt, &self.state).await
    }
}

struct Forget(Vec<TaskId>);

#[async_trait]
impl Operation for Forget {
    type Output = u64;
    const ACTION: &'static str = "remove the records of purged tasks";
    const RINGS: Topics = Topics::RECORDS;

    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<u64, Fault> {
        forget(conn, &self.0).await
    }
}

struct Prune;

#[async_trait]
impl Operation for Prune {
    type Output = u64;
    const ACTION: &'static str = "remove old records";
    const RINGS: Topics = Topics::RECORDS;

    fn wrote(removed: &u64) -> bool {
        *removed > 0
    }

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<u64, Fault> {
        let ttl = i64::try_from(RECORD_TTL.as_millis()).expect("a week fits");
        steps::prune(conn, now.unix_millis() - ttl, PRUNED).await
    }
}

#[async_trait]
impl ResultBackend for Sqlite {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        self.write(RecordQueued(envelopes.to_vec())).await
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        self.write(RecordBegun(begun.to_vec())).await
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        self.write(RecordSettled(batch.to_vec())).await
    }

    async fn record_replayed(
        &self,
        letters: &[(TaskId, LeaseToken)],
    ) -> Result<Vec<Recorded>, BackendError> {
        self.write(RecordReplayed(letters.to_vec())).await
    }

    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError> {
        self.write(RecordProgress(updates.to_vec())).await
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
            return Err(fault.during(&self.service, SaveCheckpoint::ACTION));
        }
        self.write(SaveCheckpoint { receipt: receipt.clone(), state: state.to_vec() }).await
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError> {
        let loaded = async {
            let mut reader = self.reader().await?;
            query::checkpoint(&mut reader, task).await
        };
        self.bounded("load a checkpoint", loaded).await
    }

    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        let fetched = async {
            let mut reader = self.reader().await?;
            query::fetch(&mut reader, task).await
        };
        self.bounded("read a task's record", fetched).await
    }

    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError> {
        let read = async {
            let mut reader = self.reader().await?;
            query::history(&mut reader, task).await
        };
        self.bounded("read a task's history", read).await
    }

    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError> {
        let listed = async {
            let mut reader = self.reader().await?;
            query::list(&mut reader, filter).await
        };
        self.bounded("list tasks", listed).await
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError> {
        let subscribed = async { self.changes.subscribe(Topic::Records).await };
        let news = self.bounded("watch the database", subscribed).await?;
        watch(news, until, wait, || self.fetch(task)).await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        self.write(Forget(tasks.to_vec())).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        let mut removed = 0;
        loop {
            let some = self.write(Prune).await?;
            removed += some;
            if some.cast_signed() < PRUNED {
                return Ok(removed);
            }
        }
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.health_now().await
    }
}
