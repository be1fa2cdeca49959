//! What the parts of one worker share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde_json::Value;
use stem_core::backend::broker::QueueStatus;
use stem_core::backend::{BackendError, Records};
use stem_core::control::{Drain, WorkerState};
use stem_core::id::{Digest, Incarnation, LeaseToken, QueueName, TaskId, TaskName};
use stem_core::machine::{attempt, lifecycle};
use stem_core::observe::{Gauges, Observer, Seen, Service};
use stem_core::outcome::StopHow;
use stem_core::revoke::{Revocations, TRACE_TTL, Version};
use stem_core::settlement::Receipt;
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;
use tokio::sync::{Notify, mpsc, watch};

use super::builder::Clocks;
use super::children::Children;
use super::classes::Classes;
use super::config::{RevokePolicy, WorkerConfig};
use super::handler::{Handler, Interrupt, Threads};
use super::keeper::{RenewOrder, SettleOrder};
use super::progress::ProgressBook;
use super::quota::Quotas;
use super::recycle::{Guards, Recycling};
use super::routes::Routes;
use super::shipping::PinOrder;
use super::slots::Slots;
use super::store_clock::StoreClock;
use crate::Backends;
use crate::audit::Auditor;
use crate::signing::Keys;

/// As a number that JSON can hold, for the log.
pub(super) fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `at`, moved from one clock to another that shows `to` when the first shows `from`.
fn shift(at: Timestamp, from: Timestamp, to: Timestamp) -> Timestamp {
    let difference = to.unix_millis().saturating_sub(from.unix_millis());
    Timestamp::from_unix_millis(at.unix_millis().saturating_add(difference))
}

/// Counts since the start, as `stats` shows them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) taken: AtomicU64,
    /// Requests for deliveries that the broker answered.
    pub(super) claims: AtomicU64,
    pub(super) started: AtomicU64,
    pub(super) succeeded: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) revoked: AtomicU64,
    pub(super) terminated: AtomicU64,
    pub(super) recycled: AtomicU64,
    pub(super) lease_lost: AtomicU64,
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A delivery in the worker's hands.
#[derive(Debug)]
pub(super) struct InHand {
    pub(super) receipt: Receipt,
    pub(super) name: TaskName,
    pub(super) tenant: Tenant,
    pub(super) attempt: u32,
    /// Boxed, since a channel makes room for 32 at once, and a delivery gets a few.
    pub(super) events: mpsc::UnboundedSender<Box<attempt::Event>>,
    /// Set when the handler starts.
    pub(super) running: OnceLock<Running>,
    /// The build that it is to run on, once that is known; none for native handlers.
    pub(super) build: OnceLock<Digest>,
    /// Milliseconds since 1970; moves with each renewal.
    pub(super) held_until: AtomicI64,
    /// Tasks that it enqueues.
    pub(super) children: Children,
    /// It was asked to end before its time, or ordered to.
    stopping: AtomicBool,
    /// The log has said that its settlement is refused.
    said_refused: AtomicBool,
}

/// What is known of a running attempt.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) kind: &'static str,
    /// By the wall clock.
    pub(super) started_at: Timestamp,
    /// The same in steady time.
    pub(super) since: Timestamp,
    pub(super) interrupt: Interrupt,
}

impl InHand {
    pub(super) fn new(
        receipt: Receipt,
        (name, tenant): (TaskName, Tenant),
        attempt: u32,
        events: mpsc::UnboundedSender<Box<attempt::Event>>,
    ) -> Self {
        Self {
            receipt,
            name,
            tenant,
            attempt,
            events,
            running: OnceLock::new(),
            build: OnceLock::new(),
            held_until: AtomicI64::new(0),
            children: Children::default(),
            stopping: AtomicBool::new(false),
            said_refused: AtomicBool::new(false),
        }
    }

    pub(super) fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Says once for each attempt that its settlement is refused.
    pub(super) fn say_refused(&self, error: &BackendError) {
        if !self.said_refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(task = %self.receipt.task, %error, "the attempt's end is refused; it is tried until its lease is over");
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Tells the attempt a fact. One that is over has nobody to tell.
    pub(super) fn tell(&self, event: attempt::Event) {
        let _ = self.events.send(Box::new(event));
    }
}

/// How a task was revoked, kept for a while for the reply to the command that asked for it.
#[derive(Clone, Debug)]
pub(super) struct RevokedEnd {
    pub(super) task: TaskId,
    /// The revocation that was in force when it ended.
    pub(super) version: Option<Version>,
    pub(super) how: StopHow,
    pub(super) elapsed_ms: f64,
}

/// What waits is looked at every few seconds; an outage makes it later.
const DEPTHS_HOLD: Duration = Duration::from_secs(20);

/// So many revoked ends are remembered.
const REVOKED_ENDS: usize = 1024;

/// Everything that more than one part of a worker needs.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: WorkerConfig,
    pub(super) backends: Backends,
    /// What it signs with, and whom it believes.
    pub(super) keys: Arc<Keys>,
    /// Where it notes what it obeys and refuses.
    pub(super) audit: Option<Arc<Auditor>>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) records: Records,
    clocks: Clocks,
    pub(super) incarnation: Incarnation,
    pub(super) started_at: Timestamp,
    pub(super) threads: Threads,
    pub(super) slots: Arc<Slots>,
    /// What each tenant and queue has of the places; absent, nobody counts.
    pub(super) quotas: Option<Arc<Quotas>>,
    pub(super) recycling: Recycling,
    pub(super) counters: Counters,
    pub(super) progress: ProgressBook,
    pub(super) renewals: mpsc::UnboundedSender<RenewOrder>,
    pub(super) settlements: mpsc::UnboundedSender<SettleOrder>,
    pub(super) lifecycle: mpsc::UnboundedSender<lifecycle::Event>,
    pub(super) state: watch::Sender<WorkerState>,
    pub(super) last_renewal: AtomicI64,
    /// When the revoke store was last read to its end, in steady milliseconds; 0 before the first time.
    revocations_read: AtomicI64,
    /// The same by the wall clock, which goes on while the machine sleeps.
    revocations_read_wall: AtomicI64,
    /// Raised whenever the number of deliveries in hand changes.
    pub(super) in_hand_changed: watch::Sender<usize>,
    /// Replies to commands that are being made.
    pub(super) replying: watch::Sender<usize>,
    drain: Mutex<Option<Drain>>,
    routes: RwLock<Routes>,
    /// What serves changed in a way that whoever follows the module store has not made.
    pub(super) routes_changed: Notify,
    /// The worker serves other names than before; others learn it from heartbeats.
    pub(super) names_changed: Notify,
    /// For builds that tasks are pinned to.
    pub(super) pins: mpsc::UnboundedSender<PinOrder>,
    /// What became of each release that should serve, for replies; absent where none is followed.
    releases: Mutex<Option<Vec<Value>>>,
    /// Releases are followed, and what should serve is not known yet.
    awaits_releases: AtomicBool,
    /// In an order, so that a worker does the same again where everything it meets is the same.
    in_hand: Mutex<BTreeMap<(TaskId, LeaseToken), Arc<InHand>>>,
    revocations: Mutex<Revocations>,
    /// Of the revoke store.
    pub(super) store_clock: StoreClock,
    revoked_ends: Mutex<VecDeque<RevokedEnd>>,
    /// What waited in each queue of ours when last looked at, in steady time.
    depths: Mutex<(Timestamp, Vec<(QueueName, u64)>)>,
}

/// The channels and parts that [`Shared::new`] puts together.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: WorkerConfig,
    pub(super) backends: Backends,
    pub(super) keys: Arc<Keys>,
    pub(super) audit: Option<Arc<Auditor>>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) clocks: Clocks,
    pub(super) threads: Threads,
    pub(super) handlers: BTreeMap<TaskName, Handler>,
    pub(super) renewals: mpsc::UnboundedSender<RenewOrder>,
    pub(super) settlements: mpsc::UnboundedSender<SettleOrder>,
    pub(super) lifecycle: mpsc::UnboundedSender<lifecycle::Event>,
    pub(super) pins: mpsc::UnboundedSender<PinOrder>,
}

#[cfg(test)]
impl Shared {
    /// Of a worker of which nothing else is there: no handlers, and nobody who takes orders.
    pub(super) fn alone(config: WorkerConfig, backends: Backends) -> std::sync::Arc<Self> {
        Self::alone_by(Clocks::default(), config, backends)
    }

    pub(super) fn alone_by(
        clocks: Clocks,
        config: WorkerConfig,
        backends: Backends,
    ) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self::new(Parts {
            config,
            backends,
            keys: Keys::none(),
            audit: None,
            observer: std::sync::Arc::new(stem_core::observe::Unobserved),
            clocks,
            threads: Threads::new(None, None).unwrap(),
            handlers: BTreeMap::new(),
            renewals: mpsc::unbounded_channel().0,
            settlements: mpsc::unbounded_channel().0,
            lifecycle: mpsc::unbounded_channel().0,
            pins: mpsc::unbounded_channel().0,
        }))
    }
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            records: parts.backends.records(),
            routes: RwLock::new(Routes::new(parts.handlers, Classes::of(&parts.config))),
            slots: Slots::new(
                parts.config.autoscale.as_ref().map_or(parts.config.concurrency, |rules| rules.min),
            ),
            quotas: parts.config.quotas.clone().map(Quotas::new),
            recycling: Recycling::new(Guards {
                max_tasks: parts.config.max_tasks_per_isolate,
                max_memory_bytes: parts.config.max_memory_per_isolate,
            }),
            revocations: Mutex::new(Revocations::new(parts.config.namespace.clone())),
            config: parts.config,
            backends: parts.backends,
            keys: parts.keys,
            audit: parts.audit,
            observer: parts.observer,
            incarnation: Incarnation(uuid::Uuid::now_v7()),
            started_at: parts.clocks.wall.now(),
            clocks: parts.clocks,
            threads: parts.threads,
            counters: Counters::default(),
            progress: ProgressBook::default(),
            renewals: parts.renewals,
            settlements: parts.settlements,
            lifecycle: parts.lifecycle,
            state: watch::channel(WorkerState::Starting).0,
            last_renewal: AtomicI64::new(0),
            revocations_read: AtomicI64::new(0),
            revocations_read_wall: AtomicI64::new(0),
            in_hand_changed: watch::channel(0).0,
            replying: watch::channel(0).0,
            drain: Mutex::new(None),
            routes_changed: Notify::new(),
            names_changed: Notify::new(),
            pins: parts.pins,
            releases: Mutex::default(),
            awaits_releases: AtomicBool::new(false),
            in_hand: Mutex::default(),
            store_clock: StoreClock::default(),
            revoked_ends: Mutex::default(),
            depths: Mutex::default(),
        }
    }

    /// Steady time: for leases and limits, which a stepped wall clock must neither end nor prolong.
    pub(super) fn now(&self) -> Timestamp {
        self.clocks.steady.now()
    }

    /// The wall clock: for times that other machines set or read.
    pub(super) fn wall(&self) -> Timestamp {
        self.clocks.wall.now()
    }

    /// The time by which revocations are judged: the revoke store's, as far as it is known here.
    pub(super) fn store_time(&self) -> Timestamp {
        self.store_clock.time(self.now(), self.wall())
    }

    /// A time that another machine set, as steady time.
    pub(super) fn steady(&self, at: Timestamp) -> Timestamp {
        shift(at, self.wall(), self.now())
    }

    /// A steady time as others will read it.
    pub(super) fn as_wall(&self, at: Timestamp) -> Timestamp {
        shift(at, self.now(), self.wall())
    }

    /// What serves. Held for a look; never while the revocations are.
    pub(super) fn routes(&self) -> RwLockReadGuard<'_, Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what serves, in one step.
    pub(super) fn change_routes<T>(&self, change: impl FnOnce(&mut Routes) -> T) -> T {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let before = routes.names();
        let changed = change(&mut routes);
        if !Arc::ptr_eq(&before, &routes.names()) {
            self.names_changed.notify_one();
        }
        changed
    }

    pub(super) fn names(&self) -> Arc<[TaskName]> {
        self.routes().names()
    }

    /// What became of each release that should serve, where releases are followed.
    pub(super) fn releases(&self) -> Option<Vec<Value>> {
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the names that releases should serve are yet to be read from the store.
    pub(super) fn awaits_releases(&self) -> bool {
        self.awaits_releases.load(Ordering::Relaxed)
    }

    pub(super) fn set_awaits_releases(&self, awaits: bool) {
        self.awaits_releases.store(awaits, Ordering::Relaxed);
    }

    pub(super) fn set_releases(&self, releases: Vec<Value>) {
        *self.releases.lock().unwrap_or_else(PoisonError::into_inner) = Some(releases);
    }

    pub(super) fn revocations(&self) -> MutexGuard<'_, Revocations> {
        self.revocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the revoke store was read to its end by a look that began then.
    pub(super) fn revocations_were_read(&self, looked_at: Timestamp) {
        self.revocations_read.fetch_max(looked_at.unix_millis(), Ordering::Relaxed);
        let wall = self.as_wall(looked_at).unix_millis();
        self.revocations_read_wall.store(wall, Ordering::Relaxed);
    }

    /// Whether the last look is so long ago that the store may have forgotten what was taken back since.
    pub(super) fn must_read_all(&self) -> bool {
        let read = Timestamp::from_unix_millis(self.revocations_read_wall.load(Ordering::Relaxed));
        read != Timestamp::default() && self.wall().since(read) > TRACE_TTL / 2
    }

    #[cfg(test)]
    pub(super) fn pretend_last_read(&self, ago: Duration) {
        let ago = i64::try_from(ago.as_millis()).expect("a test's time fits");
        self.revocations_read_wall.fetch_sub(ago, Ordering::Relaxed);
    }

    /// Begins with what was read by a look that began then, by the wall clock. The store is still to be read from there.
    pub(super) fn begin_with(&self, known: Revocations, looked_at: Timestamp) {
        *self.revocations() = known;
        self.revocations_read_wall.store(looked_at.unix_millis(), Ordering::Relaxed);
    }

    /// Puts what was read anew in the place of what was known.
    pub(super) fn replace_revocations(&self, fresh: Revocations) {
        *self.revocations() = fresh;
    }

    /// How long ago that was.
    pub(super) fn revocations_age(&self) -> Option<Duration> {
        let read = self.revocations_read.load(Ordering::Relaxed);
        (read != 0).then(|| self.now().since(Timestamp::from_unix_millis(read)))
    }

    /// Whether what is known of the revocations is too old to take a task by.
    pub(super) fn is_blind(&self) -> bool {
        self.config.revoke_policy == RevokePolicy::FailClosed
            && self.revocations_age().is_none_or(|age| age > self.config.max_revocation_staleness)
    }

    fn hands(&self) -> MutexGuard<'_, BTreeMap<(TaskId, LeaseToken), Arc<InHand>>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is told what concerns it. Whoever has an older delivery of the same task in hand has lost that lease,
    /// whether the broker could be asked or not, and learns it here before the newer one starts. Tokens tell which is newer; of
    /// what was enqueued again after its end, which begins with the first token again, that is not so: it has ended on record.
    pub(super) fn take_in_hand(&self, hand: &Arc<InHand>) {
        Counters::count(&self.counters.taken);
        let Receipt { task, token, .. } = &hand.receipt;
        let mut key = (task.clone(), LeaseToken(0));
        let mut hands = self.hands();
        let of_task = hands.range(&key..).take_while(|((of, _), _)| of == task);
        for ((_, known), other) in of_task {
            let older = if known > token { hand } else { other };
            older.tell(attempt::Event::LeaseLost);
        }
        key.1 = *token;
        hands.insert(key, Arc::clone(hand));
        self.in_hand_changed.send_replace(hands.len());
    }

    pub(super) fn let_go(&self, hand: &InHand) {
        let key = (hand.receipt.task.clone(), hand.receipt.token);
        let mut hands = self.hands();
        // One that was enqueued again after its end begins with the first token again, and may be in hand instead of this.
        if hands.get(&key).is_some_and(|known| std::ptr::eq(&raw const **known, hand)) {
            hands.remove(&key);
        }
        self.in_hand_changed.send_replace(hands.len());
    }

    /// Everything in hand.
    pub(super) fn in_hand(&self) -> Vec<Arc<InHand>> {
        self.hands().values().cloned().collect()
    }

    /// The deliveries in hand that are to run on a build.
    pub(super) fn in_hand_on(&self, build: &Digest) -> Vec<Arc<InHand>> {
        self.hands().values().filter(|hand| hand.build.get() == Some(build)).cloned().collect()
    }

    /// The deliveries of one task in hand; more than one only while one that has lost its lease is being stopped.
    pub(super) fn in_hand_of(&self, task: &TaskId) -> Vec<Arc<InHand>> {
        self.hands()
            .iter()
            .filter(|((id, _), _)| id == task)
            .map(|(_, hand)| Arc::clone(hand))
            .collect()
    }

    pub(super) fn inflight(&self) -> usize {
        self.hands().len()
    }

    pub(super) fn remember_revoked(&self, end: RevokedEnd) {
        let mut ends = self.revoked_ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() == REVOKED_ENDS {
            ends.pop_front();
        }
        ends.push_back(end);
    }

    pub(super) fn revoked_end(&self, task: &TaskId) -> Option<RevokedEnd> {
        let ends = self.revoked_ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().rev().find(|end| end.task == *task).cloned()
    }

    /// How attempts ended that a revocation of this version ended.
    pub(super) fn ends_by(&self, version: Version) -> Vec<RevokedEnd> {
        let ends = self.revoked_ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().filter(|end| end.version == Some(version)).cloned().collect()
    }

    pub(super) fn worker_state(&self) -> WorkerState {
        *self.state.borrow()
    }

    /// How the worker drains, if it does.
    pub(super) fn draining(&self) -> Option<Drain> {
        *self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every delivery in hand that the worker drains. One that is taken later asks [`draining`](Self::draining)
    /// after it is in hand; so none is missed.
    pub(super) fn drain_all(&self, mode: Drain, grace: Option<Duration>) {
        *self.drain.lock().unwrap_or_else(PoisonError::into_inner) = Some(mode);
        for hand in self.in_hand() {
            hand.tell(attempt::Event::Draining { mode, grace });
        }
    }

    /// Tells the observer that a call to a service failed.
    pub(super) fn saw_failure(&self, service: Service, error: &BackendError) {
        self.observer.saw(Seen::ServiceFailed(service, error.class()));
    }

    /// The same for what may be calls to the broker and to the result backend; the error says whose it was.
    pub(super) fn saw_failure_of_either(&self, error: &BackendError) {
        let of_broker = error.service == self.backends.broker.service().0;
        self.saw_failure(if of_broker { Service::Broker } else { Service::Results }, error);
    }

    /// Keeps what was found to wait in the queues of this worker, for [`gauges`](Self::gauges).
    pub(super) fn note_depths(&self, queues: &[QueueStatus]) {
        let depth = |name: &QueueName| {
            queues.iter().find(|queue| queue.name == *name).map_or(0, |queue| queue.ready)
        };
        let depths = self.config.queues.iter().map(|name| (name.clone(), depth(name))).collect();
        *self.depths.lock().unwrap_or_else(PoisonError::into_inner) = (self.now(), depths);
    }

    /// What the worker is like now. A depth that was seen too long ago is left out: it would be taken for today's.
    pub(super) fn gauges(&self) -> Gauges {
        let (seen_at, depths) = self.depths.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = self.now().since(seen_at) <= DEPTHS_HOLD;
        Gauges {
            inflight: self.inflight(),
            concurrency: self.slots.limit(),
            revocations: self.revocations().count(),
            revocations_age: self.revocations_age(),
            depths: if fresh { depths } else { Vec::new() },
        }
    }

    /// Tells the lifecycle a fact.
    pub(super) fn tell(&self, event: lifecycle::Event) {
        let _ = self.lifecycle.send(event);
    }
}
