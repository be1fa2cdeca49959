//! What a process remembers of the file: for each change its place, its version and when it may be forgotten; for
//! each task which change is the latest. The changes themselves stay in the file.
//!
//! About 55 bytes for a task: 40 for the slot, and 5 for each bucket of the table, of which between seven sixteenths and
//! seven eighths are taken.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hashbrown::HashTable;
use sha2::{Digest, Sha256};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{EXPIRY_GRACE, TRACE_TTL};
use stem_core::time::Timestamp;

use crate::wire::{Content, LAST_VERSION, Line, Unreadable, damaged};

/// A task, as half of its SHA-256. With 64 bits, two of 1,000,000 tasks would share a key in one store of 40 million
/// by chance, and whoever chooses task ids could find two in minutes: one's revocation would hide the other's. 128
/// bits of a cryptographic hash leave neither.
type Key = [u8; 16];

fn key(task: &str) -> Key {
    *Sha256::digest(task).first_chunk().expect("a SHA-256 has 32 bytes")
}

/// The key is a hash already.
fn hash(key: Key) -> u64 {
    u64::from_le_bytes(*key.first_chunk().expect("a key has 16 bytes"))
}

/// One change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    key: Key,
    /// Where its line begins, and the flags above.
    place: u64,
    pub(crate) version: u64,
    forget_at: i64,
}

/// A later change of the same task is known.
const SUPERSEDED: u64 = 1 << 63;
const UNDONE: u64 = 1 << 62;
/// The version is not the one that the line has.
const NUMBERED_HERE: u64 = 1 << 61;
const FLAGS: u64 = SUPERSEDED | UNDONE | NUMBERED_HERE;

impl Slot {
    pub(crate) fn offset(self) -> u64 {
        self.place & !FLAGS
    }

    pub(crate) fn undone(self) -> bool {
        self.place & UNDONE != 0
    }

    /// Whether its line has this version.
    pub(crate) fn numbered_by_its_line(self) -> bool {
        self.place & NUMBERED_HERE == 0
    }

    fn superseded(self) -> bool {
        self.place & SUPERSEDED != 0
    }

    fn forgettable(self, now: Timestamp) -> bool {
        self.forget_at <= now.unix_millis()
    }

    fn shown(self, now: Timestamp) -> bool {
        !self.superseded() && (self.undone() || !self.forgettable(now))
    }
}

/// One namespace. Slots are in the order of their versions, which is that of the file.
#[derive(Debug, Default)]
struct Space {
    slots: Vec<Slot>,
    /// The place in `slots` of each task's latest change.
    latest: HashTable<u32>,
    last: u64,
}

impl Space {
    fn latest(&self, task: Key) -> Option<usize> {
        let slots = &self.slots;
        let found = self.latest.find(hash(task), |at| slots[*at as usize].key == task);
        found.map(|at| *at as usize)
    }

    /// The version that a line gets, with the flag that says where it is from; nothing if of its task as much or more is
    /// known.
    fn number(&self, task: Key, written: Option<u64>) -> Result<Option<(u64, u64)>, Unreadable> {
        let (version, numbered) = match written {
            Some(version) if version > self.last => (version, 0),
            Some(version)
                if self.latest(task).is_some_and(|at| version <= self.slots[at].version) =>
            {
                return Ok(None);
            }
            // Numbered by its place, so that those who follow the file see it: also a line with a version that was
            // given out before, which is how an older line is brought back by hand or another file appended.
            _ => (self.last + 1, NUMBERED_HERE),
        };
        if version > LAST_VERSION {
            return Err(Unreadable::Damaged("no version is left for it".to_owned()));
        }
        Ok(Some((version, numbered)))
    }

    /// Appends a change; says whether it supersedes another.
    fn push(&mut self, slot: Slot) -> Result<bool, Unreadable> {
        let at = u32::try_from(self.slots.len())
            .map_err(|_| Unreadable::Damaged("the file has too many lines".to_owned()))?;
        self.last = slot.version;
        self.slots.push(slot);
        let slots = &mut self.slots;
        let found = self.latest.find_mut(hash(slot.key), |at| slots[*at as usize].key == slot.key);
        if let Some(known) = found {
            let known = std::mem::replace(known, at) as usize;
            slots[known].place |= SUPERSEDED;
            return Ok(true);
        }
        self.latest.insert_unique(hash(slot.key), at, |at| hash(slots[*at as usize].key));
        Ok(false)
    }
}

/// What a line became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// A change with this version.
    Change { version: u64 },
    /// Nothing: of its task as much or more is known.
    Nothing,
}

/// The bytes in front of [`Index::end`] that are compared before reading on.
const TAIL_BYTES: u64 = 64;

/// All of one file, up to a line's end.
#[derive(Debug, Default)]
pub(crate) struct Index {
    spaces: HashMap<Box<str>, Space>,
    /// Where the last line ends that was read.
    pub(crate) end: u64,
    /// Lines that were read, also empty ones.
    pub(crate) lines: u64,
    /// Lines that another rules out.
    dead: u64,
    tail: Vec<u8>,
}

impl Index {
    /// Whether a line could be taken in.
    pub(crate) fn admits(&self, line: &Line<'_>) -> Result<(), Unreadable> {
        let task = match &line.content {
            Content::Mark { .. } => None,
            Content::Undone { task, .. } | Content::Revoked { task, .. } => Some(task),
        };
        match (self.spaces.get(&*line.namespace), task) {
            (Some(space), Some(task)) => space.number(key(task), line.version).map(drop),
            (Some(_), None) => Ok(()),
            (None, _) => Namespace::new(&line.namespace).map(drop).map_err(damaged),
        }
    }

    /// Takes in the line at `offset`. Lines must come in the order of the file.
    pub(crate) fn admit(&mut self, offset: u64, line: &Line<'_>) -> Result<Admitted, Unreadable> {
        if !self.spaces.contains_key(&*line.namespace) {
            Namespace::new(&line.namespace).map_err(damaged)?;
            self.spaces.insert(line.namespace.as_ref().into(), Space::default());
        }
        let space = self.spaces.get_mut(&*line.namespace).expect("it was put in if it was missing");
        let (task, flag, forget_at) = match &line.content {
            Content::Mark { last } => {
                space.last = space.last.max(*last);
                return Ok(Admitted::Nothing);
            }
            Content::Undone { task, at } => (task, UNDONE, at.after(TRACE_TTL).unix_millis()),
            Content::Revoked { task, expires_at, .. } => {
                // The clock may be set between the writing of a line and its reading.
                let forget_at = expires_at.map(|at| at.after(EXPIRY_GRACE));
                (task, 0, forget_at.map_or(i64::MAX, Timestamp::unix_millis))
            }
        };
        let key = key(task);
        let Some((version, numbered)) = space.number(key, line.version)? else {
            self.dead += 1;
            return Ok(Admitted::Nothing);
        };
        let slot = Slot { key, place: offset | flag | numbered, version, forget_at };
        self.dead += u64::from(space.push(slot)?);
        Ok(Admitted::Change { version })
    }

    /// Remembers the end of what was read, to find it again.
    pub(crate) fn close(&mut self, file: &File) -> io::Result<()> {
        let bytes = self.end.min(TAIL_BYTES);
        self.tail.resize(usize::try_from(bytes).expect("64 at most"), 0);
        file.read_exact_at(&mut self.tail, self.end - bytes)
    }

    /// Whether the file still begins with what was read: an editor may have rewritten it in place.
    pub(crate) fn continues_in(&self, file: &File) -> io::Result<bool> {
        if file.metadata()?.len() < self.end {
            return Ok(false);
        }
        let mut tail = vec![0; self.tail.len()];
        let begins = self.end - tail.len() as u64;
        file.read_exact_at(&mut tail, begins)?;
        Ok(tail == self.tail)
    }

    /// The highest version of the namespace; 0 if there is none.
    pub(crate) fn last(&self, namespace: &Namespace) -> u64 {
        self.spaces.get(namespace.as_str()).map_or(0, |space| space.last)
    }

    /// The highest version of each namespace, in their order.
    pub(crate) fn lasts(&self) -> Vec<(&str, u64)> {
        let mut lasts: Vec<_> =
            self.spaces.iter().map(|(name, space)| (name.as_ref(), space.last)).collect();
        lasts.sort_unstable();
        lasts
    }

    /// Whether a revocation of the task is in force.
    pub(crate) fn in_force(&self, namespace: &Namespace, task: &TaskId, now: Timestamp) -> bool {
        self.spaces.get(namespace.as_str()).is_some_and(|space| {
            let slot = space.latest(key(task.as_str())).map(|at| space.slots[at]);
            slot.is_some_and(|slot| !slot.undone() && !slot.forgettable(now))
        })
    }

    /// The latest change of each task that came after a version and has not expired, in order.
    pub(crate) fn after(
        &self,
        namespace: &Namespace,
        after: u64,
        now: Timestamp,
    ) -> impl Iterator<Item = Slot> {
        let slots =
            self.spaces.get(namespace.as_str()).map_or(&[][..], |space| space.slots.as_slice());
        let first = slots.partition_point(|slot| slot.version <= after);
        slots[first..].iter().copied().filter(move |slot| slot.shown(now))
    }

    /// How many tasks have a change that is kept.
    pub(crate) fn tasks(&self) -> usize {
        self.spaces.values().map(|space| space.latest.len()).sum()
    }

    /// Lines that another rules out.
    pub(crate) fn dead(&self) -> u64 {
        self.dead
    }

    /// How many changes of the namespace may be forgotten now.
    pub(crate) fn forgettable(&self, namespace: &Namespace, now: Timestamp) -> u64 {
        let slots = self.spaces.get(namespace.as_str()).map_or(&[][..], |space| &space.slots);
        let old = slots.iter().filter(|slot| !slot.superseded() && slot.forgettable(now));
        old.count() as u64
    }

    /// What is left when the forgettable changes of a namespace are dropped: the slots in the order of the file, and
    /// for each namespace that would lose its highest version a mark.
    pub(crate) fn without_forgettable(
        &self,
        namespace: &Namespace,
        now: Timestamp,
    ) -> (Vec<Slot>, Vec<(&str, u64)>) {
        let (mut kept, mut marks) = (Vec::new(), Vec::new());
        for (name, space) in &self.spaces {
            let pruned = name.as_ref() == namespace.as_str();
            let stays = |slot: &Slot| !(slot.superseded() || pruned && slot.forgettable(now));
            let first = kept.len();
            kept.extend(space.slots.iter().copied().filter(stays));
            if kept[first..].last().is_none_or(|slot| slot.version < space.last) && space.last > 0 {
                marks.push((name.as_ref(), space.last));
            }
        }
        kept.sort_unstable_by_key(|slot| slot.offset());
        marks.sort_unstable();
        (kept, marks)
    }
}
