//! No revocation falls between a worker's reading of the store and its reading of the log.
//!
//! Workers start while an operator revokes; nothing follows the store afterwards, so that only the order of the first
//! two steps can save a revocation that is stored in between. The wrong order must lose some, or the test sees nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stem_core::backend::control::Position;
use stem_core::backend::{BackendError, ControlPlane, Health, RevokeStore, ServiceId};
use stem_core::control::wire::CommandFrame;
use stem_core::control::{Command, Order};
use stem_core::id::{Namespace, RequestId, TaskId, WorkerId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::time::{Clock, Timestamp};
use stem_memory::Memory;

use super::ahead::Ahead;
use super::config::WorkerConfig;
use super::shared::Shared;
use super::{control, driver, revocations};
use crate::Backends;
use crate::clock::SystemClock;
use crate::worker::WorkerError;

const STARTS: usize = 500;
/// Fewer are enough to see the wrong order fail.
const WRONG_STARTS: usize = 40;
/// Starts under way at once.
const AT_ONCE: usize = 10;
/// Between two revocations: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// No more for each start than this, unless one waits for the next: each start reads all of them, so that on a machine that
/// is too busy they would become more and more, and the starts slower and slower.
const FOR_EACH: usize = 8;
/// How long one reading takes, at the most: long enough for revocations to fall into it.
const SLOWNESS: u64 = 12;

/// After so long, what is not known is missed. Where nothing may be missed, a busy machine has more time.
const SOON: Duration = Duration::from_secs(1);
const IN_THE_END: Duration = Duration::from_mins(1);

/// A store whose readings take a while, and that never rings.
#[derive(Debug)]
struct Slow(Arc<Memory>);

async fn dawdle() {
    let mut byte = [0];
    getrandom::fill(&mut byte).unwrap();
    tokio::time::sleep(Duration::from_millis(u64::from(byte[0]) % SLOWNESS)).await;
}

#[async_trait]
impl RevokeStore for Slow {
    fn service(&self) -> &ServiceId {
        RevokeStore::service(&*self.0)
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        self.0.time().await
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        self.0.revoke(namespace, requests).await
    }

    async fn undo(
        &self,
        space: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        self.0.undo(space, task).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        dawdle().await;
        let read = self.0.since(namespace, after, limit).await;
        dawdle().await;
        read
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        RevokeStore::prune(&*self.0, namespace).await
    }

    async fn changed(&self, _wait: Duration) -> Result<(), BackendError> {
        std::future::pending().await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        RevokeStore::health(&*self.0).await
    }
}

fn shared(memory: &Arc<Memory>, start: usize) -> Arc<Shared> {
    let mut backends = Backends::all_in_one(Arc::clone(memory));
    backends.revokes = Arc::new(Slow(Arc::clone(memory)));
    let config = WorkerConfig::new(WorkerId::new(format!("w{start}")).unwrap());
    Shared::alone(config, backends)
}

/// What the operator was told is revoked, in order.
#[derive(Debug, Default)]
struct Acknowledged {
    tasks: Mutex<Vec<TaskId>>,
    /// How many starts there were.
    begun: AtomicUsize,
    /// How many somebody waits for.
    wanted: AtomicUsize,
}

impl Acknowledged {
    fn count(&self) -> usize {
        self.tasks.lock().unwrap().len()
    }

    fn is_enough(&self) -> bool {
        let most = FOR_EACH * (1 + self.begun.load(Ordering::SeqCst));
        self.count() >= most.max(self.wanted.load(Ordering::SeqCst))
    }

    /// The first so many, once there are as many.
    fn first(&self, count: usize) -> Option<Vec<TaskId>> {
        self.wanted.fetch_max(count, Ordering::SeqCst);
        self.tasks.lock().unwrap().get(..count).map(<[TaskId]>::to_vec)
    }
}

/// Revokes as the command line does: stores, then tells, then says so.
async fn operator(
    memory: Arc<Memory>,
    namespace: Namespace,
    done: Arc<Acknowledged>,
    over: Arc<AtomicBool>,
) {
    let mut pace = tokio::time::interval(PACE);
    for n in 0.. {
        pace.tick().await;
        while done.is_enough() && !over.load(Ordering::SeqCst) {
            pace.tick().await;
        }
        if over.load(Ordering::SeqCst) {
            return;
        }
        let task = TaskId::new(format!("t{n}")).unwrap();
        let order = [(task.clone(), RevokeRequest::default())];
        let revocations = memory.revoke(&namespace, &order).await.unwrap();
        let now = SystemClock.now();
        let command = Command {
            request_id: RequestId::new(format!("r{n}")).unwrap(),
            namespace: namespace.clone(),
            targets: None,
            order: Order::Revoke { revocations },
            issued_at: now,
            expires_at: now.after(Duration::from_mins(1)),
            requester: "test".to_owned(),
        };
        memory.send(&CommandFrame::plain(&command)).await.unwrap();
        done.tasks.lock().unwrap().push(task);
    }
}

/// Starts so many workers in this order of steps; says how many revocations they missed for so long.
async fn missed<Learn>(count: usize, wait: Duration, learn: fn(Arc<Shared>) -> Learn) -> usize
where
    Learn: Future<Output = Result<Position, WorkerError>> + Send + 'static,
{
    let memory = Memory::new(Arc::new(SystemClock));
    let namespace = Namespace::new("stem").unwrap();
    let done = Arc::new(Acknowledged::default());
    let over = Arc::new(AtomicBool::new(false));
    let operator =
        tokio::spawn(operator(memory.clone(), namespace, Arc::clone(&done), Arc::clone(&over)));
    let missed = Arc::new(AtomicUsize::new(0));
    let turns = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut starts = tokio::task::JoinSet::new();
    for start in 0..count {
        let (memory, done, missed) = (Arc::clone(&memory), Arc::clone(&done), Arc::clone(&missed));
        let turn = Arc::clone(&turns).acquire_owned().await.unwrap();
        done.begun.fetch_add(1, Ordering::SeqCst);
        starts.spawn(async move {
            let shared = shared(&memory, start);
            let position = learn(Arc::clone(&shared)).await.unwrap();
            let mut obeying = tokio::task::JoinSet::new();
            obeying.spawn(control::obey(Arc::clone(&shared), position));
            // What is told from now on arrives, so what is acknowledged a moment later must be known soon.
            let (last, began) = (done.count() + 1, Instant::now());
            let knows =
                |task: &TaskId| shared.revocations().get(task, shared.store_time()).is_some();
            let mut unknown = loop {
                if let Some(tasks) = done.first(last) {
                    break tasks;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            let lost = loop {
                unknown.retain(|task| !knows(task));
                if unknown.is_empty() || began.elapsed() > wait {
                    break unknown.len();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            missed.fetch_add(lost, Ordering::SeqCst);
            drop(turn);
        });
    }
    while let Some(ended) = starts.join_next().await {
        ended.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    operator.await.unwrap();
    println!(
        "{count} starts, {} revocations, {} missed",
        done.count(),
        missed.load(Ordering::SeqCst)
    );
    missed.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_revocation_falls_between_store_and_log() {
    let learn = |shared: Arc<Shared>| async move { driver::learn(&shared, None).await };
    assert_eq!(missed(STARTS, IN_THE_END, learn).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_falls_between_them_where_some_were_read_ahead() {
    let learn = |shared: Arc<Shared>| async move {
        let ahead = Ahead::begin(&shared.backends, &shared.config, &SystemClock);
        dawdle().await;
        driver::learn(&shared, Some(ahead)).await
    };
    assert_eq!(missed(STARTS, IN_THE_END, learn).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_order_of_the_two_is_noticed() {
    let swapped = |shared: Arc<Shared>| async move {
        revocations::catch_up(&shared).await?;
        Ok(shared.backends.control.position(&shared.config.namespace).await?)
    };
    assert!(missed(WRONG_STARTS, SOON, swapped).await > 0);
}

/// Runs before the system's clock.
#[derive(Debug)]
struct Early(std::sync::atomic::AtomicI64);

impl Clock for Early {
    fn now(&self) -> stem_core::time::Timestamp {
        let ahead = u64::try_from(self.0.load(Ordering::SeqCst)).unwrap();
        SystemClock.now().after(Duration::from_millis(ahead))
    }
}

#[tokio::test]
async fn whoever_has_not_looked_for_long_reads_everything_again() {
    let clock = Arc::new(Early(std::sync::atomic::AtomicI64::new(0)));
    let memory = Memory::new(clock.clone());
    let shared = shared(&memory, 0);
    let namespace = &shared.config.namespace;
    let [gone, kept] = ["gone", "kept"].map(|task| TaskId::new(task).unwrap());
    let order = |task: &TaskId| [(task.clone(), RevokeRequest::default())];
    memory.revoke(namespace, &order(&gone)).await.unwrap();
    memory.revoke(namespace, &order(&kept)).await.unwrap();
    revocations::catch_up(&shared).await.unwrap();
    let knows = |task: &TaskId| shared.revocations().get(task, shared.store_time()).is_some();
    assert!(knows(&gone) && knows(&kept));

    // Taken back while the worker does not look, and so long ago that the store has forgotten it.
    memory.undo(namespace, &gone).await.unwrap();
    clock.0.fetch_add(25 * 3_600_000, Ordering::SeqCst);
    assert_eq!(RevokeStore::prune(&*memory, namespace).await.unwrap(), 1);
    shared.pretend_last_read(Duration::from_hours(13));
    revocations::catch_up(&shared).await.unwrap();
    assert!(!knows(&gone), "taken back, and still in force here");
    assert!(knows(&kept));
}

#[tokio::test]
async fn what_was_read_ahead_too_long_ago_is_read_again() {
    let clock = Arc::new(Early(std::sync::atomic::AtomicI64::new(0)));
    let memory = Memory::new(clock.clone());
    let shared = shared(&memory, 0);
    let namespace = &shared.config.namespace;
    let gone = TaskId::new("gone").unwrap();
    memory.revoke(namespace, &[(gone.clone(), RevokeRequest::default())]).await.unwrap();
    let ahead = Ahead::begin(&shared.backends, &shared.config, &SystemClock);
    revocations::begin(&shared, Some(ahead)).await;
    assert_eq!(shared.revocations().count(), 1);

    memory.undo(namespace, &gone).await.unwrap();
    clock.0.fetch_add(25 * 3_600_000, Ordering::SeqCst);
    assert_eq!(RevokeStore::prune(&*memory, namespace).await.unwrap(), 1);
    shared.pretend_last_read(Duration::from_hours(13));
    revocations::catch_up(&shared).await.unwrap();
    assert_eq!(shared.revocations().count(), 0, "taken back, and still in force here");
}
