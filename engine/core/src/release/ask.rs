//! What can be asked of one task name, for stores that keep each name's rows apart: read the shelf, decide, write the change.

use std::fmt::Debug;

use super::{Assignment, Head, Push, Release, Rollout, Shelf};
use crate::backend::modules::{Assigned, Pushed, Removed};
use crate::id::Digest;
use crate::time::Timestamp;

/// What becomes of a shelf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// A release that is new.
    pub new: Option<Release>,
    /// Those that go, with bytes that nobody else names.
    pub gone: Vec<Release>,
    /// Whether the last version or the [`Head`](super::Head) is another.
    pub head: bool,
}

impl Change {
    /// Whether everything stays as it is.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A push, an assignment or a removal.
pub trait Ask: Debug + Send + Sync + 'static {
    /// What it is answered with.
    type Answer: Send + 'static;

    /// The bytes that must be there, and the answer if they are not.
    fn needs(&self) -> Option<(Digest, Self::Answer)> {
        None
    }

    /// Does it.
    fn act(&self, shelf: &mut Shelf, now: Timestamp) -> (Self::Answer, Change);
}

fn head(shelf: &Shelf) -> (u32, Option<Head>) {
    (shelf.last, shelf.head())
}

impl Ask for (Push, Rollout) {
    type Answer = Pushed;

    fn needs(&self) -> Option<(Digest, Pushed)> {
        Some((self.0.digest, Pushed::NoSuchModule))
    }

    fn act(&self, shelf: &mut Shelf, now: Timestamp) -> (Pushed, Change) {
        let before = head(shelf);
        let shelved = shelf.push(&self.0, self.1, now);
        let new = shelved.new.then(|| shelved.release.clone());
        let change = Change { new, gone: shelved.gone, head: head(shelf) != before };
        (Pushed::Release(shelved.release), change)
    }
}

/// An assignment.
#[derive(Clone, Copy, Debug)]
pub struct Assign {
    /// As the caller saw it.
    pub seen: Option<Assignment>,
    /// As it is to be.
    pub wanted: Option<Assignment>,
}

impl Ask for Assign {
    type Answer = Assigned;

    fn act(&self, shelf: &mut Shelf, _: Timestamp) -> (Assigned, Change) {
        let before = head(shelf);
        let assigned = shelf.assign(self.seen, self.wanted);
        (assigned, Change { head: head(shelf) != before, ..Change::default() })
    }
}

/// The removal of this version.
#[derive(Clone, Copy, Debug)]
pub struct Remove(pub u32);

impl Ask for Remove {
    type Answer = Removed;

    fn act(&self, shelf: &mut Shelf, _: Timestamp) -> (Removed, Change) {
        let before = head(shelf);
        match shelf.remove(self.0) {
            Ok(release) => {
                let head = head(shelf) != before;
                (Removed::Done, Change { gone: vec![release], head, ..Change::default() })
            }
            Err(why) => (why, Change::default()),
        }
    }
}
