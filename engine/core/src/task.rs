//! Task states, the one table of legal moves, and the record that operators read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::envelope::{Envelope, Payload};
use crate::id::{Digest, LeaseToken, QueueName, TaskId, TaskName, WorkerId};
use crate::limits::Usage;
use crate::outcome::{Failure, StopHow};
use crate::time::Timestamp;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Waits for its first attempt, or again after it was released or its worker died.
    Queued,
    /// In a worker's hands, under a lease.
    Running,
    /// Failed, and waits for its next attempt.
    Retrying,
    /// Ended with a result.
    Succeeded,
    /// Ended with a failure; its envelope lies among the dead letters.
    Failed,
    /// Ended by an operator's order.
    Revoked,
    /// Ended because its time to start had passed.
    Expired,
}

/// One legal move. `None` as the origin is the enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// From; `None` when the task is new.
    pub from: Option<TaskState>,
    /// To.
    pub to: TaskState,
    /// When it happens, for the documentation.
    pub when: &'static str,
}

const fn step(from: TaskState, to: TaskState, when: &'static str) -> Move {
    Move { from: Some(from), to, when }
}

/// The legal moves. Documentation draws its table from this one; backends refuse every other.
pub const MOVES: &[Move] = {
    use TaskState::{Expired, Failed, Queued, Retrying, Revoked, Running, Succeeded};
    &[
        Move { from: None, to: Queued, when: "enqueued, now or for later" },
        step(Queued, Running, "delivered under a lease"),
        step(Retrying, Running, "its delay is over and it is delivered again"),
        step(Running, Running, "delivered again at once after a lost lease"),
        step(Running, Succeeded, "the handler returned a result"),
        step(Running, Retrying, "the attempt failed and another is left"),
        step(
            Running,
            Queued,
            "released by a worker that shuts down, its module was recalled, or its lease ran out",
        ),
        step(Running, Failed, "the attempt failed for good, or took its worker down too often"),
        step(Queued, Failed, "its envelope cannot be read, or no worker knew its name in time"),
        step(Retrying, Failed, "its envelope cannot be read, or no worker knew its name in time"),
        step(Queued, Revoked, "an operator revoked it"),
        step(Retrying, Revoked, "an operator revoked it"),
        step(Running, Revoked, "an operator revoked it"),
        step(Queued, Expired, "its time to start passed"),
        step(Retrying, Expired, "its time to start passed"),
        step(Running, Expired, "its time to start had passed when it was delivered"),
        step(Failed, Queued, "replayed from the dead letters"),
    ]
};

impl TaskState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Revoked,
        Self::Expired,
    ];

    /// Whether nothing happens to the task any more, short of a replay.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Revoked | Self::Expired)
    }

    /// Whether the table has this move.
    pub fn may_become(self, to: Self) -> bool {
        MOVES.iter().any(|legal| legal.from == Some(self) && legal.to == to)
    }

    /// The word used in JSON, logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for TaskState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            format!("state {text:?} is not one of {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// The newest progress a handler reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// 0 to 1, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Payload>,
}

/// Which code ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleRef {
    /// The SHA-256 of the module's bytes.
    pub digest: Digest,
    /// What the manifest calls this version, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// How a revocation ended a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevocationEnd {
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// Where the task was stopped.
    pub how: StopHow,
    /// From the worker's receipt of the order until no guest code ran any more; 0 for a task that had not begun.
    pub elapsed_ms: f64,
}

/// A failed attempt, as kept in a task's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedAttempt {
    /// 1 for the first.
    pub attempt: u32,
    /// When it ended.
    pub at: Timestamp,
    /// Where it ran.
    pub worker: Option<WorkerId>,
    /// Why it failed.
    pub failure: Failure,
}

/// A history keeps the newest of so many failed attempts.
pub const HISTORY: usize = 20;

/// Everything an operator can learn about one task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRecord {
    /// The task.
    pub id: TaskId,
    /// Its handler.
    pub name: TaskName,
    /// Its queue.
    pub queue: QueueName,
    /// Where it stands.
    pub state: TaskState,
    /// The attempt now running or last run; 0 before the first.
    pub attempt: u32,
    /// Retries allowed after the first attempt.
    pub max_retries: u32,
    /// How often it was delivered, without the deliveries that a shutdown gave back.
    pub delivery_count: u32,
    /// The newest delivery's token; what fences every write.
    pub token: LeaseToken,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// Not to be delivered earlier: its delay, or its retry's.
    pub not_before: Option<Timestamp>,
    /// When its newest attempt began.
    pub started_at: Option<Timestamp>,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
    /// Who runs it, or last ran it.
    pub worker: Option<WorkerId>,
    /// The newest progress of the newest attempt.
    pub progress: Option<Progress>,
    /// What it returned.
    pub result: Option<Payload>,
    /// Why its newest attempt failed.
    pub failure: Option<Failure>,
    /// How a revocation ended it.
    pub revocation: Option<RevocationEnd>,
    /// Which code ran.
    pub module: Option<ModuleRef>,
    /// What its newest ended attempt used.
    pub usage: Option<Usage>,
    /// The task that enqueued it, if one did. Unknown of records from before this was kept.
    pub parent_id: Option<TaskId>,
    /// The first task of its chain; there if the parent is.
    pub root_id: Option<TaskId>,
}

impl TaskRecord {
    /// Of a task that was enqueued and not delivered yet.
    pub fn queued(envelope: &Envelope) -> Self {
        Self {
            id: envelope.id.clone(),
            name: envelope.name.clone(),
            queue: envelope.queue.clone(),
            state: TaskState::Queued,
            attempt: 0,
            max_retries: envelope.retry.max_retries,
            delivery_count: 0,
            token: LeaseToken(0),
            enqueued_at: envelope.enqueued_at,
            not_before: envelope.not_before,
            started_at: None,
            finished_at: None,
            worker: None,
            progress: None,
            result: None,
            failure: None,
            revocation: None,
            module: None,
            usage: None,
            parent_id: envelope.family().map(|(parent, _)| parent.clone()),
            root_id: envelope.family().map(|(_, root)| root.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_state_is_left_only_by_a_replay() {
        for from in TaskState::ALL.into_iter().filter(|state| state.is_final()) {
            for to in TaskState::ALL {
                let replay = (from, to) == (TaskState::Failed, TaskState::Queued);
                assert_eq!(from.may_become(to), replay, "{from} → {to}");
            }
        }
    }

    #[test]
    fn every_state_is_reached_and_every_living_one_is_left() {
        for state in TaskState::ALL {
            assert!(MOVES.iter().any(|legal| legal.to == state), "{state} is never reached");
            assert!(
                state.is_final() || MOVES.iter().any(|legal| legal.from == Some(state)),
                "{state} is a dead end"
            );
        }
    }

    #[test]
    fn no_move_is_listed_twice_and_words_read_back() {
        for (index, one) in MOVES.iter().enumerate() {
            assert!(
                !MOVES[index + 1..]
                    .iter()
                    .any(|other| (other.from, other.to) == (one.from, one.to)),
                "{one:?}"
            );
        }
        for state in TaskState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }
}
