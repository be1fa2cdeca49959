//! Deliveries with their indexes, and everything else the store holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use stem_core::backend::broker::{LEAST_STEP, Pause};
use stem_core::backend::control::Position;
use stem_core::control::Heartbeat;
use stem_core::control::wire::{CommandFrame, ReplyFrame};
use stem_core::envelope::{Envelope, Priority, wire};
use stem_core::id::{
    Incarnation, LeaseToken, Namespace, QueueName, RequestId, TaskId, TaskName, UniqueKey, WorkerId,
};
use stem_core::machine::share::Shares;
use stem_core::outcome::Failure;
use stem_core::revoke::{Revocation, Version};
use stem_core::settlement::DeadReason;
use stem_core::task::{FailedAttempt, HISTORY};
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;

use crate::buckets::Values;
use crate::modules::Modules;
use crate::record::Records;

/// An envelope, or bytes that were planted in its place.
#[derive(Clone)]
pub(crate) enum Body {
    Envelope(Box<Envelope>),
    Raw(Vec<u8>),
}

impl Body {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Envelope(envelope) => wire::encode(envelope),
            Self::Raw(bytes) => bytes.clone(),
        }
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Ready { since: Timestamp },
    Delayed { due: Timestamp },
    Leased { until: Timestamp, owner: Incarnation },
}

/// One task that the broker carries.
#[derive(Clone)]
pub(crate) struct Entry {
    /// The order of enqueueing; kept through retries, releases and replays.
    pub(crate) seq: u64,
    pub(crate) task: TaskId,
    pub(crate) queue: QueueName,
    pub(crate) name: TaskName,
    pub(crate) tenant: Tenant,
    pub(crate) priority: Priority,
    pub(crate) unique: Option<UniqueKey>,
    pub(crate) body: Body,
    pub(crate) phase: Phase,
    pub(crate) token: LeaseToken,
    /// Attempts that ended in a retry.
    pub(crate) retries: u32,
    pub(crate) deliveries: u32,
    pub(crate) losses: u32,
    pub(crate) history: Vec<FailedAttempt>,
}

/// An entry that was given up.
pub(crate) struct Dead {
    pub(crate) entry: Entry,
    pub(crate) reason: DeadReason,
    pub(crate) failure: Failure,
    pub(crate) at: Timestamp,
}

/// Where an entry stands among those of its queue.
type Place = (Reverse<Priority>, u64);
type Ready = BTreeMap<Place, TaskId>;

/// One queue: its ready entries by name and tenant, each in the order in which they go.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) ready: HashMap<TaskName, BTreeMap<Tenant, Ready>>,
    pub(crate) pause: Option<Pause>,
}

/// A revocation, or the trace of one that was taken back.
pub(crate) enum RevocationRow {
    InForce(Revocation),
    Undone { version: Version, at: Timestamp },
}

/// One request's replies, kept until then.
pub(crate) struct Replies {
    pub(crate) until: Timestamp,
    pub(crate) replies: Vec<(Position, ReplyFrame)>,
}

#[derive(Default)]
pub(crate) struct State {
    seq: u64,
    entries: HashMap<TaskId, Entry>,
    pub(crate) queues: BTreeMap<QueueName, Queue>,
    delayed: BTreeSet<(Timestamp, TaskId)>,
    leased: BTreeSet<(Timestamp, TaskId)>,
    /// The latest time that leases were told by.
    seen: Timestamp,
    unique: HashMap<UniqueKey, TaskId>,
    pub(crate) dead: HashMap<TaskId, Dead>,
    pub(crate) records: Records,
    pub(crate) versions: HashMap<Namespace, Version>,
    pub(crate) revocations: HashMap<Namespace, HashMap<TaskId, RevocationRow>>,
    pub(crate) position: u64,
    pub(crate) commands: BTreeMap<Position, CommandFrame>,
    pub(crate) replies: HashMap<(Namespace, RequestId), Replies>,
    pub(crate) heartbeats: BTreeMap<(Namespace, WorkerId), Heartbeat>,
    pub(crate) modules: Modules,
    pub(crate) values: Values,
}

impl State {
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(crate) fn entry(&self, task: &TaskId) -> Option<&Entry> {
        self.entries.get(task)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The task that holds a unique key.
    pub(crate) fn holder(&self, key: &UniqueKey) -> Option<&TaskId> {
        self.unique.get(key)
    }

    /// Takes an entry in, or back in after it was [taken out](Self::take) and changed.
    pub(crate) fn put(&mut self, entry: Entry) {
        let task = entry.task.clone();
        match entry.phase {
            Phase::Ready { .. } => {
                let queue = self.queues.entry(entry.queue.clone()).or_default();
                let lanes = queue.ready.entry(entry.name.clone()).or_default();
                let ready = lanes.entry(entry.tenant.clone()).or_default();
                ready.insert((Reverse(entry.priority), entry.seq), task.clone());
            }
            Phase::Delayed { due } => {
                self.queues.entry(entry.queue.clone()).or_default();
                self.delayed.insert((due, task.clone()));
            }
            Phase::Leased { until, .. } => {
                self.leased.insert((until, task.clone()));
            }
        }
        if let Some(key) = &entry.unique {
            self.unique.insert(key.clone(), task.clone());
        }
        self.entries.insert(task, entry);
    }

    /// Takes an entry out of every index. Its unique key is free from here on.
    pub(crate) fn take(&mut self, task: &TaskId) -> Option<Entry> {
        let entry = self.entries.remove(task)?;
        match entry.phase {
            Phase::Ready { .. } => {
                if let Some(queue) = self.queues.get_mut(&entry.queue)
                    && let Some(lanes) = queue.ready.get_mut(&entry.name)
                    && let Some(ready) = lanes.get_mut(&entry.tenant)
                {
                    ready.remove(&(Reverse(entry.priority), entry.seq));
                    if ready.is_empty() {
                        lanes.remove(&entry.tenant);
                        if lanes.is_empty() {
                            queue.ready.remove(&entry.name);
                        }
                    }
                }
            }
            Phase::Delayed { due } => {
                self.delayed.remove(&(due, task.clone()));
            }
            Phase::Leased { until, .. } => {
                self.leased.remove(&(until, task.clone()));
            }
        }
        if let Some(key) = &entry.unique {
            self.unique.remove(key);
        }
        Some(entry)
    }

    /// Notes the time. Where it was set back, every lease that is not over ends as much earlier by it, which is when it would have
    /// ended.
    pub(crate) fn keep_clock(&mut self, now: Timestamp) {
        if self.seen > now.after(LEAST_STEP) {
            let back = self.seen.since(now);
            let later = self.leased.iter().filter(|(until, _)| *until > now);
            let later: Vec<TaskId> = later.map(|(_, task)| task.clone()).collect();
            for task in later {
                let mut entry = self.take(&task).expect("what is indexed exists");
                if let Phase::Leased { until, .. } = &mut entry.phase {
                    *until = until.before(back);
                }
                self.put(entry);
            }
            self.seen = now;
        }
        self.seen = self.seen.max(now);
    }

    /// Makes ready what has fallen due: delays that are over, and leases that ran out, each of which is a loss.
    pub(crate) fn promote(&mut self, now: Timestamp) {
        self.keep_clock(now);
        while let Some((due, task)) = self.delayed.first().filter(|(due, _)| *due <= now).cloned() {
            let mut entry = self.take(&task).expect("what is indexed exists");
            entry.phase = Phase::Ready { since: due };
            self.put(entry);
        }
        while let Some((until, task)) = self.leased.first().filter(|(at, _)| *at <= now).cloned() {
            let mut entry = self.take(&task).expect("what is indexed exists");
            entry.phase = Phase::Ready { since: until };
            entry.losses += 1;
            self.records.lose(&task, entry.token);
            self.put(entry);
        }
    }

    /// When the next delay or lease is over.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let delayed = self.delayed.first().map(|(due, _)| *due);
        let leased = self.leased.first().map(|(until, _)| *until);
        delayed.into_iter().chain(leased).min()
    }

    /// The first ready entry of a queue with one of these names.
    pub(crate) fn first_ready(&self, queue: &QueueName, names: &[TaskName]) -> Option<TaskId> {
        let queue = self.queues.get(queue).filter(|queue| queue.pause.is_none())?;
        names
            .iter()
            .filter_map(|name| queue.ready.get(name))
            .flat_map(|lanes| lanes.values().filter_map(BTreeMap::first_key_value))
            .min_by_key(|(place, _)| **place)
            .map(|(_, task)| task.clone())
    }

    /// What of a queue a claim of at most `max` with these shares has to choose from, in the order in which it goes:
    /// looked at from behind `from`, and around.
    pub(crate) fn ready_for(
        &self,
        queue: &QueueName,
        names: &[TaskName],
        (shares, from): (&Shares, &Tenant),
        max: usize,
    ) -> Vec<(Tenant, TaskId)> {
        let Some(queue) = self.queues.get(queue).filter(|queue| queue.pause.is_none()) else {
            return Vec::new();
        };
        let mut found: Vec<(Place, &Tenant, &TaskId)> = Vec::new();
        for lanes in names.iter().filter_map(|name| queue.ready.get(name)) {
            let behind = lanes.range((Bound::Excluded(from), Bound::Unbounded));
            let around = lanes.range((Bound::Unbounded, Bound::Included(from)));
            for (tenant, ready) in behind.chain(around).take(shares.looked_at(names.len())) {
                let most = shares.of(tenant).room.min(max);
                found.extend(ready.iter().take(most).map(|(place, task)| (*place, tenant, task)));
            }
        }
        found.sort_by_key(|(place, ..)| *place);
        found.into_iter().map(|(_, tenant, task)| (tenant.clone(), task.clone())).collect()
    }

    /// Moves an entry that was taken out to the dead letters.
    pub(crate) fn bury(
        &mut self,
        entry: Entry,
        reason: DeadReason,
        failure: Failure,
        at: Timestamp,
    ) {
        self.dead.insert(entry.task.clone(), Dead { entry, reason, failure, at });
    }

    pub(crate) fn plant(
        &mut self,
        now: Timestamp,
        queue: QueueName,
        task: TaskId,
        name: TaskName,
        bytes: Vec<u8>,
    ) {
        let seq = self.next_seq();
        self.put(Entry {
            seq,
            task,
            queue,
            name,
            tenant: Tenant::UNNAMED,
            priority: Priority::DEFAULT,
            unique: None,
            body: Body::Raw(bytes),
            phase: Phase::Ready { since: now },
            token: LeaseToken(0),
            retries: 0,
            deliveries: 0,
            losses: 0,
            history: Vec::new(),
        });
    }
}

/// Appends to a history, which keeps its newest [`HISTORY`] entries.
pub(crate) fn remember(history: &mut Vec<FailedAttempt>, failed: FailedAttempt) {
    history.push(failed);
    if history.len() > HISTORY {
        history.remove(0);
    }
}
