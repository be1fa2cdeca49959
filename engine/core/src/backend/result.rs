//! [`ResultBackend`]: what became of tasks, readable by any process while they run.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::{BackendError, Health, ServiceId};
use crate::envelope::Envelope;
use crate::id::{LeaseToken, QueueName, TaskId, TaskName};
use crate::settlement::{Receipt, Settle};
use crate::task::{FailedAttempt, Progress, TaskRecord, TaskState};
use crate::time::Timestamp;

/// How long a final record is kept.
pub const RECORD_TTL: Duration = Duration::from_hours(168);

/// Largest checkpoint, in bytes.
pub const CHECKPOINT_BYTES: usize = 256 << 10;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It was stored.
    Stored,
    /// The token is not the newest, the record is final, or there is none: nothing was changed.
    Stale,
}

/// A start of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    /// The proof.
    pub receipt: Receipt,
    /// 1 for the first.
    pub attempt: u32,
    /// Deliveries so far.
    pub deliveries: u32,
    /// By the worker's clock.
    pub at: Timestamp,
    /// Where.
    pub worker: crate::id::WorkerId,
}

/// When [`ResultBackend::watch`] answers before its time is over. A record that is final is waited for no longer.
#[derive(Clone, Copy, Debug)]
pub enum Until<'a> {
    /// It is another than this one; with `None`, at once.
    Other(Option<&'a TaskRecord>),
    /// It is final.
    Final,
}

impl Until<'_> {
    /// Whether a record, or that there is none, is what is waited for.
    pub fn is_met(self, record: Option<&TaskRecord>) -> bool {
        let Some(record) = record else { return true };
        match self {
            Self::Other(seen) => record.state.is_final() || seen != Some(record),
            Self::Final => record.state.is_final(),
        }
    }
}

/// Which records to list; `None` asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// In this state.
    pub state: Option<TaskState>,
    /// In this queue.
    pub queue: Option<QueueName>,
    /// With this name.
    pub name: Option<TaskName>,
    /// At most so many.
    pub limit: usize,
}

/// Keeps records, results, progress and checkpoints.
///
/// The first group of methods is for a backend that is another service than the broker: the worker then writes the
/// record first and settles after. Every write names a token and is refused when a newer one is known.
/// Implementations are held to the cases of `tests/conformance/src/result.rs`.
#[async_trait]
pub trait ResultBackend: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// Records a new task as `queued`, unless it is known.
    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError>;

    /// Records that an attempt runs.
    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError>;

    /// Records what a settlement means for the task, not for its children. Recording the same settlement again is
    /// `Stored`.
    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError>;

    /// Records that tasks are put back from the dead letters, each once and with the token of its dead letter: `failed`
    /// becomes `queued`, with no attempt used up, and from then on whoever holds that token or an older one has no say.
    /// `Stale` is one that has failed under a newer token: since that dead letter was read it was replayed and run. Other
    /// states stay as they are; these are `Stored`, as is a task without a record. Made before the broker's replay, so that
    /// no redelivery finds a final record.
    async fn record_replayed(
        &self,
        letters: &[(TaskId, LeaseToken)],
    ) -> Result<Vec<Recorded>, BackendError>;

    /// Stores the newest progress of running attempts.
    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError>;

    /// Stores a checkpoint for the next attempt. At most [`CHECKPOINT_BYTES`]; gone when the task is final.
    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError>;

    /// The newest checkpoint.
    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError>;

    /// One record.
    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError>;

    /// The failed attempts of a task, oldest first, at most [`crate::task::HISTORY`].
    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError>;

    /// Records, newest first, without results.
    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError>;

    /// Waits until a record is as asked, at most `wait`, and answers the record as it is then; `None` if there is none,
    /// at once. A change between the last look and this call is not missed.
    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError>;

    /// Removes the records of tasks that the broker carries no more, with what hangs on them; says how many there were.
    /// Final records stay.
    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError>;

    /// Removes final records older than [`RECORD_TTL`]; says how many.
    async fn prune(&self) -> Result<u64, BackendError>;

    /// Whether it can be written to.
    async fn health(&self) -> Result<Health, BackendError>;
}
