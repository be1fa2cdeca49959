//! What a worker keeps in memory of the revocations of its namespace: every one of them, so it has to be small.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use uuid::Uuid;

use super::{Revocation, RevocationChange, RevokeRequest, Version, module_key, module_of};
use crate::id::{Digest, Namespace, TaskId};
use crate::time::Timestamp;

/// What a worker knows of the revocations of its namespace. Order and repetition of what is applied do not matter: for
/// each task the highest version wins. Changes of another namespace change nothing.
///
/// A record takes about 100 bytes where ids are UUIDs and reasons repeat; another id, and a reason that no other record
/// has, are kept besides. `cargo xtask bench` prints what it is.
#[derive(Clone, Debug)]
pub struct Revocations {
    namespace: Namespace,
    /// Boxed: a hash table has up to twice as many places as entries.
    entries: HashTable<Box<Entry>>,
    hasher: RandomState,
    seen: Version,
    /// Those taken back, whose entries only keep older versions out.
    undone: usize,
    /// Nothing expires before.
    next_expiry: i64,
    /// The latest that came, the newest last.
    latest: VecDeque<(Version, Key)>,
    /// The builds among the keys, in force or not.
    modules: BTreeSet<Digest>,
    recent: RecentWords,
}

/// A task's id. Most are UUIDs in their usual form, and need no memory of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Uuid(Uuid),
    Text(Box<str>),
}

impl Key {
    fn of(task: &str) -> Self {
        let mut buffer = Uuid::encode_buffer();
        match Uuid::try_parse_ascii(task.as_bytes()) {
            // Upper case, braces and the like are another id.
            Ok(uuid) if *uuid.hyphenated().encode_lower(&mut buffer) == *task => Self::Uuid(uuid),
            _ => Self::Text(task.into()),
        }
    }

    fn task(&self) -> Option<TaskId> {
        match self {
            Self::Uuid(uuid) => {
                TaskId::new(&*uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())).ok()
            }
            Self::Text(text) => TaskId::new(&**text).ok(),
        }
    }
}

/// Of many records that one operator makes at once, most say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    reason: Option<String>,
    requested_by: Option<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    version: Version,
    issued_at: Timestamp,
    /// `Timestamp`'s latest time is far below [`NEVER`].
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
    fn of(key: Key, change: RevocationChange, recent: &mut RecentWords) -> Self {
        match change {
            RevocationChange::Undone { version, .. } => Self {
                key,
                version,
                issued_at: Timestamp::default(),
                expires_at: NEVER,
                grace_ms: NO_GRACE,
                words: None,
                how: How::Undone,
            },
            RevocationChange::Revoked(Revocation { version, issued_at, request, .. }) => Self {
                key,
                version,
                issued_at,
                expires_at: request.expires_at.map_or(NEVER, Timestamp::unix_millis),
                grace_ms: request.grace_ms.unwrap_or(NO_GRACE),
                words: recent
                    .share(Words { reason: request.reason, requested_by: request.requested_by }),
                how: How::Revoked {
                    terminate: request.terminate,
                    cooperative: request.cooperative,
                },
            },
        }
    }

    fn in_force(&self, now: Timestamp) -> bool {
        self.how != How::Undone && self.expires_at > now.unix_millis()
    }

    /// The record again, if it is in force.
    fn record(&self, namespace: &Namespace, now: Timestamp) -> Option<Revocation> {
        let How::Revoked { terminate, cooperative } = self.how else { return None };
        if !self.in_force(now) {
            return None;
        }
        let words = self.words.as_deref();
        Some(Revocation {
            namespace: namespace.clone(),
            task_id: self.key.task()?,
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

/// So many of the latest are remembered by themselves, so that showing them costs the same however many there are.
const LATEST: usize = 2_000;

impl Revocations {
    /// Nothing is known yet.
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            entries: HashTable::new(),
            hasher: RandomState::new(),
            seen: Version::default(),
            undone: 0,
            next_expiry: NEVER,
            latest: VecDeque::new(),
            modules: BTreeSet::new(),
            recent: RecentWords::default(),
        }
    }

    fn find(&self, key: &Key) -> Option<&Entry> {
        let entry = self.entries.find(self.hasher.hash_one(key), |entry| entry.key == *key);
        entry.map(|entry| &**entry)
    }

    /// Takes in a change that was read from the store in order, and goes on from there; says whether it was newer than
    /// what was known of that task.
    pub fn follow(&mut self, change: RevocationChange) -> bool {
        let version = change.version();
        let new = self.apply(change);
        self.seen = self.seen.max(version);
        new
    }

    /// Takes in a change that came some other way. Says nothing about the versions before it, so
    /// [`seen`](Self::seen) stays. One of a version that the store was read beyond, for a task that nothing is known of,
    /// is over: it was taken back or has expired, and was forgotten.
    pub fn apply(&mut self, change: RevocationChange) -> bool {
        let version = change.version();
        if let RevocationChange::Revoked(revocation) = &change
            && revocation.namespace != self.namespace
        {
            return false;
        }
        let key = Key::of(change.task().as_str());
        let hash = self.hasher.hash_one(&key);
        let module = module_of(change.task());
        let Self { entries, hasher, recent, undone, .. } = self;
        let entry = match entries.find_mut(hash, |entry| entry.key == key) {
            Some(known) if known.version >= version => return false,
            Some(known) => {
                *undone -= usize::from(known.how == How::Undone);
                **known = Entry::of(key, change, recent);
                known
            }
            None if version <= self.seen => return false,
            None => {
                let entry = Box::new(Entry::of(key, change, recent));
                entries.insert_unique(hash, entry, |entry| hasher.hash_one(&entry.key)).into_mut()
            }
        };
        *undone += usize::from(entry.how == How::Undone);
        self.next_expiry = self.next_expiry.min(entry.expires_at);
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back((version, entry.key.clone()));
        self.modules.extend(module);
        true
    }

    /// The revocation of this task that is in force now.
    pub fn get(&self, task: &TaskId, now: Timestamp) -> Option<Revocation> {
        self.find(&Key::of(task.as_str()))?.record(&self.namespace, now)
    }

    /// The recall of this build that is in force now.
    pub fn recall(&self, module: &Digest, now: Timestamp) -> Option<Revocation> {
        // Most workers know of none, and this is asked before each attempt.
        if self.modules.is_empty() { None } else { self.get(&module_key(module), now) }
    }

    /// Every build whose recall is in force now.
    pub fn recalled(&self, now: Timestamp) -> BTreeSet<Digest> {
        self.modules.iter().filter(|module| self.recall(module, now).is_some()).copied().collect()
    }

    /// The highest version that was read from the store: where to go on following it.
    pub fn seen(&self) -> Version {
        self.seen
    }

    /// How many are known that were not taken back; among them may be some that have expired since the last
    /// [`prune`](Self::prune).
    pub fn count(&self) -> usize {
        self.entries.len() - self.undone
    }

    /// Those in force now that came last, the newest first: at most so many, and at most 2,000. Costs the same however
    /// many are known.
    pub fn newest(&self, now: Timestamp, limit: usize) -> Vec<Revocation> {
        let mut latest: Vec<_> = self.latest.iter().collect();
        latest.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
        latest
            .into_iter()
            .filter_map(|(version, key)| self.find(key).filter(|entry| entry.version == *version))
            .filter_map(|entry| entry.record(&self.namespace, now))
            .take(limit)
            .collect()
    }

    /// All in force now, the oldest first.
    pub fn all(&self, now: Timestamp) -> Vec<Revocation> {
        let mut all: Vec<_> =
            self.entries.iter().filter_map(|entry| entry.record(&self.namespace, now)).collect();
        all.sort_unstable_by_key(|revocation| revocation.version);
        all
    }

    /// Forgets what has expired and what was taken back; says how many entries went. Goes through all of them only when
    /// something has expired, or much was taken back.
    pub fn prune(&mut self, now: Timestamp) -> usize {
        if self.next_expiry > now.unix_millis() && self.undone <= self.entries.len() / 4 {
            return 0;
        }
        let before = self.entries.len();
        let mut next_expiry = NEVER;
        self.entries.retain(|entry| {
            let kept = entry.in_force(now);
            if kept {
                next_expiry = next_expiry.min(entry.expires_at);
            }
            kept
        });
        (self.next_expiry, self.undone) = (next_expiry, 0);
        let Self { modules, entries, hasher, .. } = self;
        modules.retain(|module| {
            let key = Key::of(module_key(module).as_str());
            entries.find(hasher.hash_one(&key), |entry| entry.key == key).is_some()
        });
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
        #![proptest_config(ProptestConfig::with_cases(50_000))]
        #[test]
        fn order_and_repetition_do_not_matter(
            changes in proptest::collection::vec((0u8..5, any::<bool>()), 1..30),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..90)
        ) {
            let changes: Vec<_> =
                changes.into_iter().enumerate().map(|(n, (task, undo))| change(task, n as u64 + 1, undo)).collect();
            let mut straight = none();
            for change in &changes { straight.follow(change.clone()); }
            // Commands come in any order and again; then the store is read in its order.
            let mut shuffled = none();
            for index in &order { shuffled.apply(index.get(&changes).clone()); }
            for change in &changes { shuffled.follow(change.clone()); }
            let all = |known: &Revocations| known.all(Timestamp::default());
            prop_assert_eq!(all(&straight), all(&shuffled));
            prop_assert_eq!(straight.seen(), shuffled.seen());
        }
    }

    proptest! {
        #[test]
        fn a_record_is_kept_whole(requests in proptest::collection::vec(request(), 1..60)) {
            let mut known = none();
            for (version, request) in (1..).zip(&requests) {
                let record = revoked((version % 250) as u8, version, request.clone());
                known.follow(RevocationChange::Revoked(record.clone()));
                prop_assert_eq!(known.get(&record.task_id, Timestamp::default()), Some(record));
            }
            prop_assert_eq!(known.count(), requests.len());
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
            revocations.apply(change(task, version, false));
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
        assert_eq!(revocations.prune(Timestamp::from_unix_millis(99)), 0);
        assert_eq!(revocations.count(), 1);
        assert_eq!(revocations.prune(end), 1);
        assert_eq!((revocations.count(), revocations.seen()), (0, Version(1)));
    }

    #[test]
    fn a_command_that_comes_late_does_not_bring_back_what_was_taken_back_and_forgotten() {
        let mut revocations = none();
        revocations.follow(change(1, 1, false));
        revocations.follow(change(1, 2, true));
        assert_eq!(revocations.count(), 0);
        assert_eq!(revocations.prune(Timestamp::default()), 1);
        assert!(!revocations.apply(change(1, 1, false)), "the store was read beyond it");
        assert!(revocations.apply(change(1, 3, false)), "this one is news");
    }

    #[test]
    fn recalls_of_builds_are_known_apart_until_they_are_taken_back_or_expire() {
        let mut revocations = none();
        let [bad, worse] = [Digest([1; 32]), Digest([2; 32])];
        let now = Timestamp::default();
        assert_eq!((revocations.recall(&bad, now), revocations.recalled(now).len()), (None, 0));
        let recall = |module: &Digest, version, expires_at| {
            let mut record = revoked(0, version, RevokeRequest::default());
            record.task_id = module_key(module);
            record.request.expires_at = expires_at;
            RevocationChange::Revoked(record)
        };
        let end = Timestamp::from_unix_millis(100);
        revocations.follow(change(1, 1, false));
        revocations.follow(recall(&bad, 2, None));
        revocations.follow(recall(&worse, 3, Some(end)));
        assert_eq!(revocations.recalled(now), [bad, worse].into());
        assert_eq!(revocations.recall(&bad, now).unwrap().version, Version(2));
        assert_eq!(revocations.recalled(end), [bad].into(), "the other has expired");
        let undone = RevocationChange::Undone { task: module_key(&bad), version: Version(4) };
        revocations.follow(undone);
        assert_eq!(revocations.recalled(end), [].into());
        revocations.prune(end);
        assert!(revocations.modules.is_empty(), "nothing is kept of what is over");
    }

    #[test]
    fn ids_of_every_form_come_back_as_they_were() {
        let mut revocations = none();
        let ids = [
            "0198c0de-0000-7000-8000-000000000000",
            "0198C0DE-0000-7000-8000-000000000000",
            "0198c0de000070008000000000000000",
            "order-7",
        ];
        for (id, version) in ids.into_iter().zip(1..) {
            let mut record = revoked(0, version, RevokeRequest::default());
            record.task_id = TaskId::new(id).unwrap();
            assert!(revocations.apply(RevocationChange::Revoked(record.clone())));
            assert_eq!(revocations.get(&record.task_id, Timestamp::default()), Some(record));
        }
        assert_eq!(revocations.count(), ids.len());
    }

    #[test]
    fn the_newest_of_very_many_are_shown_at_once() {
        let mut revocations = none();
        for version in 1..=10_000 {
            let mut record = revoked(0, version, RevokeRequest::default());
            record.task_id = TaskId::new(format!("t{}", version % 9_000)).unwrap();
            revocations.follow(RevocationChange::Revoked(record));
        }
        let newest = revocations.newest(Timestamp::default(), 1_000);
        let versions: Vec<u64> = newest.iter().map(|revocation| revocation.version.0).collect();
        assert_eq!(versions, (9_001..=10_000).rev().collect::<Vec<_>>());
        assert_eq!(revocations.count(), 9_000);
    }
}
