//! What a worker keeps in memory of the revocations of its namespace: every one of them, so it has to be small.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Revocation, RevocationChange, RevokeRequest, Version};
use crate::id::{Namespace, TaskId};
use crate::time::Timestamp;

/// What a worker knows of the revocations of its namespace. Order and repetition of what is applied do not matter: for
/// each task the highest version wins. Changes of another namespace change nothing.
///
/// A record takes less than 200 bytes where ids are no longer than a UUID and reasons repeat; a reason that no other
/// record has is kept besides. `cargo xtask bench` prints what it is.
#[derive(Clone, Debug)]
pub struct Revocations {
    namespace: Namespace,
    /// Boxed: a hash table has up to twice as many places as entries.
    entries: HashMap<Box<str>, Box<Entry>>,
    seen: Version,
    recent: RecentWords,
}

/// Of many records that one operator makes at once, most say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    reason: Option<String>,
    requested_by: Option<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    version: Version,
    issued_at: Timestamp,
    /// `Timestamp`'s latest time is far below this.
    expires_at: i64,
    grace_ms: u64,
    words: Option<Arc<Words>>,
    how: How,
}

/// Stands for an absent `expires_at`.
const NEVER: i64 = i64::MAX;
/// Stands for an absent grace: half a billion years are not asked for.
const NO_GRACE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Undone,
    Revoked { terminate: bool, cooperative: bool },
}

impl Entry {
    fn of(change: RevocationChange, recent: &mut RecentWords) -> (TaskId, Self) {
        match change {
            RevocationChange::Undone { task, version } => {
                let entry = Self {
                    version,
                    issued_at: Timestamp::default(),
                    expires_at: NEVER,
                    grace_ms: NO_GRACE,
                    words: None,
                    how: How::Undone,
                };
                (task, entry)
            }
            RevocationChange::Revoked(revocation) => {
                let request = revocation.request;
                let words = Words { reason: request.reason, requested_by: request.requested_by };
                let entry = Self {
                    version: revocation.version,
                    issued_at: revocation.issued_at,
                    expires_at: request.expires_at.map_or(NEVER, Timestamp::unix_millis),
                    grace_ms: request.grace_ms.unwrap_or(NO_GRACE),
                    words: recent.share(words),
                    how: How::Revoked {
                        terminate: request.terminate,
                        cooperative: request.cooperative,
                    },
                };
                (revocation.task_id, entry)
            }
        }
    }

    fn in_force(&self, now: Timestamp) -> bool {
        self.how != How::Undone && self.expires_at > now.unix_millis()
    }

    /// The record again, if it is in force.
    fn record(&self, namespace: &Namespace, task: &str, now: Timestamp) -> Option<Revocation> {
        let How::Revoked { terminate, cooperative } = self.how else { return None };
        if !self.in_force(now) {
            return None;
        }
        let words = self.words.as_deref();
        Some(Revocation {
            namespace: namespace.clone(),
            task_id: TaskId::new(task).ok()?,
            version: self.version,
            issued_at: self.issued_at,
            request: RevokeRequest {
                terminate,
                cooperative,
                grace_ms: Some(self.grace_ms).filter(|grace| *grace != NO_GRACE),
                reason: words.and_then(|words| words.reason.clone()),
                requested_by: words.and_then(|words| words.requested_by.clone()),
                expires_at: Some(self.expires_at)
                    .filter(|at| *at != NEVER)
                    .map(Timestamp::from_unix_millis),
            },
        })
    }
}

/// So many different words are remembered for sharing. A table of all would be as large as what it saves where every
/// record has words of its own.
const RECENT: usize = 16;

#[derive(Clone, Debug, Default)]
struct RecentWords {
    words: Vec<Arc<Words>>,
    next: usize,
}

impl RecentWords {
    fn share(&mut self, words: Words) -> Option<Arc<Words>> {
        if words.reason.is_none() && words.requested_by.is_none() {
            return None;
        }
        if let Some(known) = self.words.iter().find(|known| ***known == words) {
            return Some(Arc::clone(known));
        }
        let words = Arc::new(words);
        if self.words.len() < RECENT {
            self.words.push(Arc::clone(&words));
        } else {
            self.words[self.next] = Arc::clone(&words);
            self.next = (self.next + 1) % RECENT;
        }
        Some(words)
    }
}

impl Revocations {
    /// Nothing is known yet.
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            entries: HashMap::new(),
            seen: Version::default(),
            recent: RecentWords::default(),
        }
    }

    /// Takes in a change that was read from the store in order, and goes on from there; says whether it was newer than
    /// what was known of that task.
    pub fn follow(&mut self, change: RevocationChange) -> bool {
        self.seen = self.seen.max(change.version());
        self.apply(change)
    }

    /// Takes in a change that came some other way. Says nothing about the versions before it, so
    /// [`seen`](Self::seen) stays.
    pub fn apply(&mut self, change: RevocationChange) -> bool {
        if let RevocationChange::Revoked(revocation) = &change
            && revocation.namespace != self.namespace
        {
            return false;
        }
        let known = self.entries.get(change.task().as_str()).map(|entry| entry.version);
        if known.is_some_and(|known| known >= change.version()) {
            return false;
        }
        let (task, entry) = Entry::of(change, &mut self.recent);
        match self.entries.get_mut(task.as_str()) {
            Some(place) => **place = entry,
            None => {
                self.entries.insert(task.as_str().into(), Box::new(entry));
            }
        }
        true
    }

    /// The revocation of this task that is in force now.
    pub fn get(&self, task: &TaskId, now: Timestamp) -> Option<Revocation> {
        self.entries.get(task.as_str())?.record(&self.namespace, task.as_str(), now)
    }

    /// The highest version that was read from the store: where to go on following it.
    pub fn seen(&self) -> Version {
        self.seen
    }

    /// How many are in force now.
    pub fn count(&self, now: Timestamp) -> usize {
        self.entries.values().filter(|entry| entry.in_force(now)).count()
    }

    /// Those in force now, the newest first, at most so many.
    pub fn newest(&self, now: Timestamp, limit: usize) -> Vec<Revocation> {
        let mut found: Vec<(&str, &Entry)> = self
            .entries
            .iter()
            .map(|(task, entry)| (&**task, &**entry))
            .filter(|(_, entry)| entry.in_force(now))
            .collect();
        let newest_first = |(_, entry): &(&str, &Entry)| std::cmp::Reverse(entry.version);
        if limit < found.len() {
            found.select_nth_unstable_by_key(limit, newest_first);
            found.truncate(limit);
        }
        found.sort_unstable_by_key(newest_first);
        found
            .into_iter()
            .filter_map(|(task, entry)| entry.record(&self.namespace, task, now))
            .collect()
    }

    /// Forgets what has expired and what was taken back; says how many entries went. Safe because versions below
    /// [`seen`](Self::seen) are never asked for again.
    pub fn prune(&mut self, now: Timestamp) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.in_force(now));
        before - self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space() -> Namespace {
        Namespace::new("stem").unwrap()
    }

    fn none() -> Revocations {
        Revocations::new(space())
    }

    fn revoked(task: u8, version: u64, request: RevokeRequest) -> Revocation {
        Revocation {
            namespace: space(),
            task_id: TaskId::new(format!("t{task}")).unwrap(),
            version: Version(version),
            issued_at: Timestamp::default(),
            request,
        }
    }

    fn change(task: u8, version: u64, undo: bool) -> RevocationChange {
        let revocation = revoked(task, version, RevokeRequest::default());
        if undo {
            let version = revocation.version;
            return RevocationChange::Undone { task: revocation.task_id, version };
        }
        RevocationChange::Revoked(revocation)
    }

    fn request() -> impl Strategy<Value = RevokeRequest> {
        (
            any::<bool>(),
            any::<bool>(),
            proptest::option::of(0..u64::from(u32::MAX)),
            proptest::option::of("[a-c]{0,2}"),
            proptest::option::of("[a-c]{0,2}"),
            proptest::option::of(1i64..1_000_000),
        )
            .prop_map(
                |(terminate, cooperative, grace_ms, reason, requested_by, expires)| RevokeRequest {
                    terminate,
                    cooperative,
                    grace_ms,
                    reason,
                    requested_by,
                    expires_at: expires.map(Timestamp::from_unix_millis),
                },
            )
    }

    proptest! {
        #[test]
        fn order_and_repetition_do_not_matter(
            changes in proptest::collection::vec((0u8..5, any::<bool>()), 1..30),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..90)
        ) {
            let changes: Vec<_> =
                changes.into_iter().enumerate().map(|(n, (task, undo))| change(task, n as u64 + 1, undo)).collect();
            let mut straight = none();
            for change in &changes { straight.follow(change.clone()); }
            let mut shuffled = none();
            order.iter().map(|index| index.get(&changes)).chain(&changes).for_each(|change| { shuffled.follow(change.clone()); });
            let all = |known: &Revocations| known.newest(Timestamp::default(), usize::MAX);
            prop_assert_eq!(all(&straight), all(&shuffled));
            prop_assert_eq!(straight.seen(), shuffled.seen());
        }

        #[test]
        fn a_record_is_kept_whole(requests in proptest::collection::vec(request(), 1..60)) {
            let mut known = none();
            for (version, request) in (1..).zip(&requests) {
                let record = revoked((version % 250) as u8, version, request.clone());
                known.follow(RevocationChange::Revoked(record.clone()));
                prop_assert_eq!(known.get(&record.task_id, Timestamp::default()), Some(record));
            }
            prop_assert_eq!(known.count(Timestamp::default()), requests.len());
        }
    }

    #[test]
    fn what_comes_by_command_hides_nothing_that_the_store_still_has_to_tell() {
        let mut revocations = none();
        assert!(revocations.apply(change(1, 10, false)));
        assert_eq!(revocations.seen(), Version(0));
        assert!(revocations.follow(change(2, 9, false)));
        assert!(!revocations.follow(change(1, 10, false)), "known already");
        assert_eq!(revocations.seen(), Version(10));
    }

    #[test]
    fn a_record_of_another_namespace_changes_nothing() {
        let mut revocations = none();
        let mut foreign = revoked(1, 1, RevokeRequest::default());
        foreign.namespace = Namespace::new("other").unwrap();
        let task = foreign.task_id.clone();
        assert!(!revocations.apply(RevocationChange::Revoked(foreign)));
        assert_eq!(revocations.get(&task, Timestamp::default()), None);
    }

    #[test]
    fn the_newest_come_first() {
        let mut revocations = none();
        for (task, version) in [(1, 3), (2, 1), (3, 2), (4, 4)] {
            revocations.follow(change(task, version, false));
        }
        let versions = |limit| -> Vec<u64> {
            let newest = revocations.newest(Timestamp::default(), limit);
            newest.into_iter().map(|revocation| revocation.version.0).collect()
        };
        assert_eq!(versions(2), [4, 3]);
        assert!(versions(0).is_empty());
        assert_eq!(versions(9), [4, 3, 2, 1]);
    }

    #[test]
    fn an_expired_revocation_is_not_in_force_and_is_pruned() {
        let mut revocations = none();
        let end = Timestamp::from_unix_millis(100);
        let request = RevokeRequest { expires_at: Some(end), ..RevokeRequest::default() };
        let revocation = revoked(1, 1, request);
        let task = revocation.task_id.clone();
        revocations.follow(RevocationChange::Revoked(revocation));
        assert!(revocations.get(&task, Timestamp::from_unix_millis(99)).is_some());
        assert!(revocations.get(&task, end).is_none());
        assert_eq!(revocations.count(end), 0);
        assert_eq!(revocations.prune(end), 1);
        assert_eq!(revocations.seen(), Version(1));
    }
}
