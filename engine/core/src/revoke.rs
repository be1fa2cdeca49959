//! Revocations, and the cache that a worker keeps of them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::id::{Namespace, TaskId};
use crate::time::Timestamp;

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
    /// When the record may be forgotten; `None` keeps it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An operator's order that a task must not (further) run. Unique by namespace and task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Its scope.
    pub namespace: Namespace,
    /// The task, which need not exist yet.
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
    /// Whether the record may be forgotten.
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

/// What a worker knows of the revocations of its namespace. Order and repetition of what is applied do not matter:
/// for each task the highest version wins.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    entries: HashMap<TaskId, (Version, Option<Box<Revocation>>)>,
    seen: Version,
}

impl Revocations {
    /// Takes in a change that was read from the store in order, and goes on from there; says whether it was newer than
    /// what was known of that task.
    pub fn follow(&mut self, change: RevocationChange) -> bool {
        self.seen = self.seen.max(change.version());
        self.apply(change)
    }

    /// Takes in a change that came some other way. Says nothing about the versions before it, so
    /// [`seen`](Self::seen) stays.
    pub fn apply(&mut self, change: RevocationChange) -> bool {
        let version = change.version();
        let newer = self.entries.get(change.task()).is_none_or(|(known, _)| *known < version);
        if newer {
            match change {
                RevocationChange::Revoked(revocation) => {
                    self.entries
                        .insert(revocation.task_id.clone(), (version, Some(Box::new(revocation))));
                }
                RevocationChange::Undone { task, version } => {
                    self.entries.insert(task, (version, None));
                }
            }
        }
        newer
    }

    /// The revocation of this task that is in force now.
    pub fn get(&self, task: &TaskId, now: Timestamp) -> Option<&Revocation> {
        self.entries.get(task)?.1.as_deref().filter(|revocation| !revocation.expired(now))
    }

    /// The highest version that was read from the store: where to go on following it.
    pub fn seen(&self) -> Version {
        self.seen
    }

    /// Those in force now, in no particular order.
    pub fn iter(&self, now: Timestamp) -> impl Iterator<Item = &Revocation> {
        self.entries.values().filter_map(move |(_, entry)| {
            entry.as_deref().filter(|revocation| !revocation.expired(now))
        })
    }

    /// Forgets what has expired and what was taken back; says how many entries went. Safe because versions below
    /// [`seen`](Self::seen) are never asked for again.
    pub fn prune(&mut self, now: Timestamp) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, (_, entry)| {
            entry.as_ref().is_some_and(|revocation| !revocation.expired(now))
        });
        before - self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(task: u8, version: u64, undo: bool) -> RevocationChange {
        let task = TaskId::new(format!("t{task}")).unwrap();
        if undo {
            return RevocationChange::Undone { task, version: Version(version) };
        }
        RevocationChange::Revoked(Revocation {
            namespace: Namespace::new("stem").unwrap(),
            task_id: task,
            version: Version(version),
            issued_at: Timestamp::default(),
            request: RevokeRequest::default(),
        })
    }

    fn state(revocations: &Revocations) -> Vec<(TaskId, Version)> {
        let mut state: Vec<_> = revocations
            .iter(Timestamp::default())
            .map(|r| (r.task_id.clone(), r.version))
            .collect();
        state.sort();
        state
    }

    proptest! {
        #[test]
        fn order_and_repetition_do_not_matter(
            changes in proptest::collection::vec((0u8..5, any::<bool>()), 1..30),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..90)
        ) {
            let changes: Vec<_> =
                changes.into_iter().enumerate().map(|(n, (task, undo))| change(task, n as u64 + 1, undo)).collect();
            let mut straight = Revocations::default();
            for change in &changes { straight.follow(change.clone()); }
            let mut shuffled = Revocations::default();
            order.iter().map(|index| index.get(&changes)).chain(&changes).for_each(|change| { shuffled.follow(change.clone()); });
            prop_assert_eq!(state(&straight), state(&shuffled));
            prop_assert_eq!(straight.seen(), shuffled.seen());
        }
    }

    #[test]
    fn what_comes_by_command_hides_nothing_that_the_store_still_has_to_tell() {
        let mut revocations = Revocations::default();
        assert!(revocations.apply(change(1, 10, false)));
        assert_eq!(revocations.seen(), Version(0));
        assert!(revocations.follow(change(2, 9, false)));
        assert!(!revocations.follow(change(1, 10, false)), "known already");
        assert_eq!(revocations.seen(), Version(10));
    }

    #[test]
    fn an_expired_revocation_is_not_in_force_and_is_pruned() {
        let mut revocations = Revocations::default();
        let RevocationChange::Revoked(mut revocation) = change(1, 1, false) else { unreachable!() };
        let end = Timestamp::from_unix_millis(100);
        revocation.request.expires_at = Some(end);
        let task = revocation.task_id.clone();
        revocations.follow(RevocationChange::Revoked(revocation));
        assert!(revocations.get(&task, Timestamp::from_unix_millis(99)).is_some());
        assert!(revocations.get(&task, end).is_none());
        assert_eq!(revocations.prune(end), 1);
        assert_eq!(revocations.seen(), Version(1));
    }
}
