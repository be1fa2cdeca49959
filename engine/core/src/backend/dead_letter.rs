//! [`DeadLetters`]: envelopes that were given up, for operators to look at, replay or remove.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{BackendError, Records, ServiceId};
use crate::id::{LeaseToken, QueueName, TaskId, TaskName};
use crate::outcome::Failure;
use crate::settlement::DeadReason;
use crate::task::FailedAttempt;
use crate::time::Timestamp;

/// Bytes of an undecodable envelope that are kept.
pub const RAW_BYTES: usize = 64 << 10;

/// One envelope that was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The task.
    pub task: TaskId,
    /// Where it waited.
    pub queue: QueueName,
    /// Its handler.
    pub name: TaskName,
    /// Why it was given up.
    pub reason: DeadReason,
    /// Why its last attempt failed.
    pub failure: Failure,
    /// The failed attempts, oldest first.
    pub history: Vec<FailedAttempt>,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Of its last delivery; the next has a higher one.
    pub token: LeaseToken,
    /// When it was given up.
    pub dead_at: Timestamp,
    /// The envelope's wire form; what could be kept of it when it cannot be read.
    pub envelope: Vec<u8>,
}

/// Which dead letters are meant; `None` means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Of these tasks; empty means all.
    pub tasks: Vec<TaskId>,
    /// From this queue.
    pub queue: Option<QueueName>,
    /// With this name.
    pub name: Option<TaskName>,
    /// For this reason.
    pub reason: Option<DeadReason>,
    /// Given up at or after.
    pub since: Option<Timestamp>,
    /// At most so many, oldest first.
    pub limit: usize,
}

/// What became of one replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It waits in its queue again, with no attempt used up and no delivery counted.
    Queued,
    /// There is no such dead letter, or it is a newer one; a replay at the same moment may have been first.
    Absent,
    /// Its envelope cannot be read, so it cannot run.
    Unreadable,
}

/// Keeps envelopes that were given up. They leave only by a replay or a purge, each one atomic step.
/// Implementations are held to the cases of `tests/conformance/src/dead_letter.rs`.
#[async_trait]
pub trait DeadLetters: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// Those meant, oldest first.
    async fn list(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, BackendError>;

    /// Puts tasks back into their queues; with [`Records::Here`] their records become `queued` in the same step. Which dead
    /// letters are meant their tokens say: one of another token is [`Replayed::Absent`], so a call that comes late, or a
    /// second time, does nothing to a task that was replayed, delivered again and given up anew.
    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, BackendError>;

    /// Removes dead letters; says how many there were. The tasks' records stay as they are.
    async fn purge(&self, tasks: &[TaskId]) -> Result<u64, BackendError>;
}
