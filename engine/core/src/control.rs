//! Commands to workers, their replies, and the heartbeat that says who is there to answer.

pub mod wire;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, Namespace, QueueName, RequestId, TaskId, TaskName, WorkerId};
use crate::revoke::Revocation;
use crate::seal::Role;
use crate::time::Timestamp;

/// How a worker stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drain {
    /// Take nothing new, finish what runs.
    Warm,
    /// Ask what runs to stop; force it after the grace.
    Soft,
    /// Stop what runs at once and give it back.
    Hard,
}

impl Drain {
    /// The word used in JSON, logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Soft => "soft",
            Self::Hard => "hard",
        }
    }
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "payload", rename_all = "lowercase")]
pub enum Order {
    /// Are you there?
    Ping {},
    /// What runs, and what is revoked?
    #[serde(rename_all = "camelCase")]
    Inspect {
        /// Whether to list the revocations.
        include_revoked: bool,
    },
    /// Counts, depths, settings.
    Stats {},
    /// These records were written to the revoke store; apply them now.
    Revoke {
        /// The records, as the store has them.
        revocations: Vec<Revocation>,
    },
    /// Stop.
    #[serde(rename_all = "camelCase")]
    Shutdown {
        /// How.
        mode: Drain,
        /// For soft: how long to wait before force.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
    },
    /// Take nothing from these queues.
    Pause {
        /// Which.
        queues: Vec<QueueName>,
        /// In the operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Take from these queues again.
    Resume {
        /// Which.
        queues: Vec<QueueName>,
        /// In the operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl Order {
    /// An order as it is typed.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ping {} => "ping",
            Self::Inspect { .. } => "inspect",
            Self::Stats {} => "stats",
            Self::Revoke { .. } => "revoke",
            Self::Shutdown { .. } => "shutdown",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
        }
    }

    /// What the key of a signed one must be for: to ask changes nothing.
    pub fn role(&self) -> Role {
        match self {
            Self::Ping {} | Self::Inspect { .. } | Self::Stats {} => Role::Inspect,
            Self::Revoke { .. }
            | Self::Shutdown { .. }
            | Self::Pause { .. }
            | Self::Resume { .. } => Role::Control,
        }
    }
}

/// The most revocations that one command tells. Workers follow the store for all of them.
pub const REVOCATIONS: usize = 10_000;

/// One command to the workers of a namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// Unique; a worker executes a command once.
    pub request_id: RequestId,
    /// Its scope.
    pub namespace: Namespace,
    /// Who is meant; `None` is everyone. An empty list is nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<WorkerId>>,
    /// What is asked.
    #[serde(flatten)]
    pub order: Order,
    /// By the requester's clock.
    pub issued_at: Timestamp,
    /// Never executed later.
    pub expires_at: Timestamp,
    /// Who asks.
    pub requester: String,
}

/// How a worker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Answer {
    /// Done.
    Ok {
        /// What the command's row in the documentation lists.
        payload: serde_json::Value,
    },
    /// Not done.
    Error {
        /// Why.
        error: ControlError,
    },
}

/// Why a worker did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// A machine word.
    pub code: String,
    /// For people; never a stack trace.
    pub message: String,
}

/// One worker's reply to one command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The command.
    pub request_id: RequestId,
    /// Who answers.
    pub worker: WorkerId,
    /// What.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What a worker is doing, in the words of its replies and heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Not ready yet; takes nothing.
    Starting,
    /// Takes deliveries.
    Running,
    /// Takes nothing new.
    Draining,
    /// Gone in good order.
    Stopped,
}

impl WorkerState {
    /// The word used in JSON, logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// An attempt that runs and has shown no sign of progress for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quiet {
    /// The task.
    pub id: TaskId,
    /// Its name.
    pub task: TaskName,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// When the attempt began, by the worker's clock.
    pub started_at: Timestamp,
    /// How long ago it last reached a checkpoint, in milliseconds; since its start if it never did.
    pub last_checkpoint_ms_ago: u64,
}

/// A worker's sign of life. It travels as JSON between workers and readers of different age: a reader skips what it does
/// not know, and what was added later may be absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// Who.
    pub worker: WorkerId,
    /// Which start of it.
    pub boot_id: Incarnation,
    /// Its scope.
    pub namespace: Namespace,
    /// What it is doing.
    pub state: WorkerState,
    /// The machine it runs on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last said so, by the store's clock.
    pub seen_at: Timestamp,
    /// How often it means to say so, in milliseconds.
    pub interval_ms: u64,
    /// Attempts that may run at once now.
    pub concurrency: u32,
    /// What it serves, with the deliveries in hand from each queue.
    pub queues: BTreeMap<QueueName, u32>,
    /// The task names it knows.
    pub tasks: Vec<TaskName>,
    /// Deliveries in hand.
    pub inflight: u32,
    /// Of the attempts that run, the one that has gone without progress for the longest time. None runs without it, or the
    /// worker is older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_without_progress: Option<Quiet>,
}

impl Heartbeat {
    /// Whether the worker can be expected to answer: it has not said goodbye, and was heard within three of its intervals.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let patience = std::time::Duration::from_millis(self.interval_ms.saturating_mul(3));
        self.state != WorkerState::Stopped && now.since(self.seen_at) <= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As workers wrote it before there was anything to say of progress.
    const OLD: &str = r#"{"worker":"w","bootId":"00000000-0000-0000-0000-000000000000","namespace":"stem","state":"running",
        "host":"h","pid":7,"startedAt":"1970-01-01T00:00:01.000Z","seenAt":"1970-01-01T00:00:02.000Z","intervalMs":2000,
        "concurrency":4,"queues":{"q":1},"tasks":["t"],"inflight":1}"#;

    #[test]
    fn heartbeats_of_older_and_newer_workers_are_read() {
        let old: Heartbeat = serde_json::from_str(OLD).unwrap();
        assert_eq!(old.oldest_without_progress, None);
        let quiet = Quiet {
            id: TaskId::new("one").unwrap(),
            task: TaskName::new("t").unwrap(),
            attempt: 2,
            started_at: Timestamp::from_unix_millis(1_000),
            last_checkpoint_ms_ago: 900,
        };
        let new = Heartbeat { oldest_without_progress: Some(quiet), ..old.clone() };
        let mut json = serde_json::to_value(&new).unwrap();
        assert_eq!(json["oldestWithoutProgress"]["lastCheckpointMsAgo"], 900);
        assert_eq!(serde_json::from_value::<Heartbeat>(json.clone()).unwrap(), new);
        json["addedLater"] = serde_json::json!({ "more": 1 });
        assert_eq!(serde_json::from_value::<Heartbeat>(json.clone()).unwrap(), new);
        // Where nothing runs, the old form is written.
        let written = serde_json::to_value(&old).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(OLD).unwrap());
    }
}
