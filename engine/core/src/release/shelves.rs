//! Every task name of a store, for stores that have all of them at hand.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Assignment, Catalogue, Push, Release, Rollout, Shelf, Shelved, next_revision};
use crate::backend::modules::{Assigned, History, Removed};
use crate::id::{Digest, TaskName};
use crate::time::Timestamp;

/// A whole store but for the modules' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelves {
    /// Of the last change; 0 before the first.
    pub revision: u64,
    /// By task name; those without a release too, for their last version.
    pub names: BTreeMap<TaskName, Shelf>,
}

impl Shelves {
    /// See [`Shelf::push`].
    pub fn push(&mut self, push: &Push, rollout: Rollout, now: Timestamp) -> Shelved {
        let shelf = self.names.entry(push.name.clone()).or_default();
        let before = shelf.assignment;
        let shelved = shelf.push(push, rollout, now);
        if shelved.new || shelf.assignment != before {
            self.revision = next_revision(self.revision, now);
        }
        shelved
    }

    /// See [`Shelf::assign`].
    pub fn assign(
        &mut self,
        name: &TaskName,
        seen: Option<Assignment>,
        wanted: Option<Assignment>,
        now: Timestamp,
    ) -> Assigned {
        let mut unknown = Shelf::default();
        let shelf = self.names.get_mut(name).unwrap_or(&mut unknown);
        let before = shelf.assignment;
        let assigned = shelf.assign(seen, wanted);
        if shelf.assignment != before {
            self.revision = next_revision(self.revision, now);
        }
        assigned
    }

    /// See [`Shelf::remove`].
    pub fn remove(
        &mut self,
        name: &TaskName,
        version: u32,
        now: Timestamp,
    ) -> Result<Release, Removed> {
        let shelf = self.names.get_mut(name).ok_or(Removed::NoSuchVersion)?;
        let removed = shelf.remove(version)?;
        self.revision = next_revision(self.revision, now);
        Ok(removed)
    }

    /// Every release of a name.
    pub fn history(&self, name: &TaskName) -> Option<History> {
        self.names.get(name).cloned()?.history()
    }

    /// What serves each name.
    pub fn catalogue(&self) -> Catalogue {
        let served = self.names.values().filter_map(Shelf::served).collect();
        Catalogue { revision: self.revision, served, unreadable: Vec::new() }
    }

    /// Whether a release has these bytes.
    pub fn need(&self, digest: &Digest) -> bool {
        self.names.values().flat_map(|shelf| &shelf.releases).any(|it| it.digest == *digest)
    }
}
