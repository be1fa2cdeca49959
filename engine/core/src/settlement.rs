//! The moves by which a delivery leaves a worker's hands, and what each does to the task's record.

use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, Payload};
use crate::id::{Incarnation, LeaseToken, QueueName, TaskId, WorkerId};
use crate::limits::Usage;
use crate::outcome::{Failure, StopHow};
use crate::task::{FailedAttempt, ModuleRef, RevocationEnd, TaskRecord, TaskState};
use crate::time::Timestamp;

/// Most children that an attempt enqueues, and so of one settlement.
pub const CHILDREN: usize = 1_000;
/// Most bytes that the wire forms of an attempt's children have together: what a store takes in one step without keeping
/// others waiting.
pub const CHILDREN_BYTES: usize = 4 << 20;

/// Proof of holding a delivery. Every settlement, renewal, progress and checkpoint names it; one whose token is not
/// the newest changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The task.
    pub task: TaskId,
    /// Where it was waiting.
    pub queue: QueueName,
    /// Grows with each delivery.
    pub token: LeaseToken,
    /// The process that holds it.
    pub owner: Incarnation,
}

/// Why an envelope lies among the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadReason {
    /// The failure said that trying again is useless.
    Fatal,
    /// The last allowed attempt failed.
    RetriesExhausted,
    /// Its leases ran out too often: it takes its workers down.
    Poison,
    /// Its bytes are not an envelope.
    EnvelopeMalformed,
    /// Its envelope was written by a newer Stem.
    EnvelopeVersion,
    /// No worker knew its name in time.
    Unroutable,
}

impl DeadReason {
    /// The word used in JSON, logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::RetriesExhausted => "retries-exhausted",
            Self::Poison => "poison",
            Self::EnvelopeMalformed => "envelope-malformed",
            Self::EnvelopeVersion => "envelope-version",
            Self::Unroutable => "unroutable",
        }
    }
}

/// What becomes of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Settlement {
    /// Final: the result is kept, the delivery gone.
    Succeed(Payload),
    /// Final: the failure is kept, the envelope goes to the dead letters.
    Fail {
        /// Why the last attempt failed.
        failure: Failure,
        /// Why there is no other.
        reason: DeadReason,
    },
    /// Back to the queue for another attempt, which counts.
    Retry {
        /// Why this attempt failed.
        failure: Failure,
        /// When the next may be delivered.
        not_before: Timestamp,
    },
    /// Final: an operator's order.
    Revoke(RevocationEnd),
    /// Final: too late to start.
    Expire,
    /// Back to the queue as if it had not been delivered: neither the attempt nor the delivery counts.
    Release,
    /// The record is final already, and not by a failure; the delivery is a leftover and goes without a trace.
    Discard,
}

impl Settlement {
    /// The state the task is in afterwards; `None` leaves the record alone.
    pub fn state(&self) -> Option<TaskState> {
        match self {
            Self::Succeed(_) => Some(TaskState::Succeeded),
            Self::Fail { .. } => Some(TaskState::Failed),
            Self::Retry { .. } => Some(TaskState::Retrying),
            Self::Revoke(_) => Some(TaskState::Revoked),
            Self::Expire => Some(TaskState::Expired),
            Self::Release => Some(TaskState::Queued),
            Self::Discard => None,
        }
    }

    /// What becomes of a delivery whose attempt the record, which lies in another service than the delivery, does not take.
    ///
    /// A task that has failed goes to the dead letters, where it is missing if its worker died between record and
    /// settlement, or if two replays met; the reason is told from the failure. One that ended otherwise leaves nothing. While
    /// it is not final the record names a newer delivery, and this one goes back: to no effect if the broker knows the newer
    /// one too, and otherwise, after a broker was restored from an older copy, to come again under higher tokens until one is
    /// the newest.
    pub fn after_refusal(record: &TaskRecord) -> Self {
        if !record.state.is_final() {
            return Self::Release;
        }
        let Some(failure) = record.failure.clone().filter(|_| record.state == TaskState::Failed)
        else {
            return Self::Discard;
        };
        let reason = match failure.code.as_str() {
            "poison" => DeadReason::Poison,
            _ if record.attempt > record.max_retries => DeadReason::RetriesExhausted,
            _ => DeadReason::Fatal,
        };
        Self::Fail { failure, reason }
    }

    /// Whether the attempt ended before any code of the task ran, so that its record must not say that it started.
    pub fn is_before_start(&self) -> bool {
        match self {
            Self::Revoke(end) => end.how == StopHow::BeforeStart,
            Self::Expire => true,
            Self::Succeed(_)
            | Self::Fail { .. }
            | Self::Retry { .. }
            | Self::Release
            | Self::Discard => false,
        }
    }
}

/// One settlement with the proof that the caller may make it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settle {
    /// The proof.
    pub receipt: Receipt,
    /// The move.
    pub settlement: Settlement,
    /// By the worker's clock.
    pub at: Timestamp,
    /// Who settles.
    pub worker: WorkerId,
    /// The attempt that ended, 1 for the first.
    pub attempt: u32,
    /// What the attempt used, if one ran.
    pub usage: Option<Usage>,
    /// Which code ran.
    pub module: Option<ModuleRef>,
    /// Tasks that come to be with this attempt's success: at most [`CHILDREN`], of at most [`CHILDREN_BYTES`]. Each has
    /// passed [`Envelope::check`]. See [`publishes`](Self::publishes).
    pub children: Vec<Envelope>,
}

impl Settle {
    /// The children that a broker publishes in the same atomic step as the settlement, if that is done; in their order,
    /// and after the delivery has gone, so that a unique key which it held is free for them. A child that is there already,
    /// by its id or its unique key, is left as it is and spoils nothing. None unless the settlement is a success.
    pub fn publishes(&self) -> &[Envelope] {
        match &self.settlement {
            Settlement::Succeed(_) => &self.children,
            Settlement::Fail { .. }
            | Settlement::Retry { .. }
            | Settlement::Revoke(_)
            | Settlement::Expire
            | Settlement::Release
            | Settlement::Discard => &[],
        }
    }

    /// The entry that it adds to the task's history; `None` where no attempt failed.
    pub fn failed_attempt(&self) -> Option<FailedAttempt> {
        let failure = match &self.settlement {
            Settlement::Fail { failure, .. } | Settlement::Retry { failure, .. } => failure.clone(),
            Settlement::Succeed(_)
            | Settlement::Revoke(_)
            | Settlement::Expire
            | Settlement::Release
            | Settlement::Discard => return None,
        };
        let worker = Some(self.worker.clone());
        Some(FailedAttempt { attempt: self.attempt, at: self.at, worker, failure })
    }
}
