//! Revocations, and what a worker knows of them.

mod known;

pub use known::Revocations;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, Namespace, TaskId};
use crate::time::Timestamp;

/// How long a store keeps the trace of a revocation that was taken back, for those who follow it. Who has not looked for
/// half of that reads everything again.
pub const TRACE_TTL: Duration = Duration::from_hours(24);

/// How long past its end a revocation holds where the store has no clock of its own: the machine's, which counts there,
/// may have been set since the end was written down.
pub const EXPIRY_GRACE: Duration = Duration::from_mins(1);

/// The time by which revocations that were read from a store are judged: what the store has `told`. If it has no clock,
/// one's own, less the grace.
pub fn judged_at(told: Option<Timestamp>, own: Timestamp) -> Timestamp {
    told.unwrap_or_else(|| own.before(EXPIRY_GRACE))
}

/// Assigned by the store, one sequence for a namespace. Later is larger; no two changes share one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u64);

/// How a running task is to be stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokeRequest {
    /// Also stop a running attempt.
    #[serde(default)]
    pub terminate: bool,
    /// Stop only at a checkpoint, never by force.
    #[serde(default)]
    pub cooperative: bool,
    /// First a stop notice, force after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// In the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// When the record may be forgotten, by the store's clock; `None` keeps it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Before the digest of a module in the key of its revocation. Task ids that begin so are refused where tasks are made.
const MODULE: &str = "module:";

/// The key by which stores keep the revocation of a build, beside those of tasks.
pub fn module_key(digest: &Digest) -> TaskId {
    TaskId::new(format!("{MODULE}{digest}")).expect("a digest holds what names may")
}

/// The build that a key is about; `None` if it is a task's.
pub fn module_of(key: &TaskId) -> Option<Digest> {
    key.as_str().strip_prefix(MODULE)?.parse().ok()
}

/// An operator's order that a task must not (further) run. Unique by namespace and task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Its scope.
    pub namespace: Namespace,
    /// The task, which need not exist yet; or the [`module_key`] of a build.
    pub task_id: TaskId,
    /// The store's.
    pub version: Version,
    /// By the store's clock.
    pub issued_at: Timestamp,
    /// What was asked.
    #[serde(flatten)]
    pub request: RevokeRequest,
}

impl Revocation {
    /// Whether the record may be forgotten, [judged](judged_at) at this time.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.request.expires_at.is_some_and(|at| at <= now)
    }
}

/// One change in a revoke store, as a worker that follows it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevocationChange {
    /// A task was revoked, or its revocation replaced.
    Revoked(Revocation),
    /// A revocation was taken back.
    Undone {
        /// The task.
        task: TaskId,
        /// The store's.
        version: Version,
    },
}

impl RevocationChange {
    /// The store's version of this change.
    pub fn version(&self) -> Version {
        match self {
            Self::Revoked(revocation) => revocation.version,
            Self::Undone { version, .. } => *version,
        }
    }

    /// The task it is about.
    pub fn task(&self) -> &TaskId {
        match self {
            Self::Revoked(revocation) => &revocation.task_id,
            Self::Undone { task, .. } => task,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_a_clock_is_judged_late_and_one_with_a_clock_by_that_alone() {
        let at = Timestamp::from_unix_millis;
        assert_eq!(judged_at(Some(at(7)), at(1_000_000)), at(7));
        assert_eq!(judged_at(None, at(1_000_000)), at(940_000));
        assert_eq!(judged_at(None, at(1)), at(0));
    }

    #[test]
    fn the_key_of_a_build_is_told_from_a_task() {
        let digest = Digest([7; 32]);
        assert_eq!(module_of(&module_key(&digest)), Some(digest));
        for task in ["module:x", "module:sha256:00", "0198"] {
            assert_eq!(module_of(&TaskId::new(task).unwrap()), None, "{task}");
        }
    }
}
