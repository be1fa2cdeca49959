//! Stopping a guest from outside, wherever it is.
//!
//! A guest is in one of three places. It *computes*: an epoch check at the next loop header or function entry sees the
//! stop flag. It *waits* in a host call, or *queues* for a thread: nobody polls it, so nothing in it would notice; the
//! stopper takes the suspended call out of its slot and drops it. Waiting for the executor instead takes as long as
//! its queue (157 ms at the median with 32 looping guests on two threads; 0.2 ms this way).
//!
//! ```text
//! stop: set the flag ─► raise the epoch ─► try the slot ─┬─ free: take the call out, report, drop it elsewhere
//!                                                        └─ held: the guest is on a core; its next check ends it
//! ```
//! A raised epoch can be missed when the guest re-arms its deadline in the same moment, so the ticker repeats the last
//! two steps every `URGENT` until the attempt is gone.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use stem_core::limits::Usage;
use stem_core::outcome::{FailureKind, Outcome, StopHow, StopNotice, StopReason};
use stem_host_abi::stop;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use crate::isolate::Exit;
use crate::ticker::{Reaper, Ticker};

pub(crate) type Call = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A lock whose holder cannot leave it broken: nothing under these locks panics between two halves of a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// CPU time of the calling thread.
fn thread_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Set in an order that is by force.
const FORCE: u8 = 1 << 7;

/// The stop order, in one atomic: 0 is none, otherwise the reason's weight and [`FORCE`].
fn encode(reason: StopReason, force: bool) -> u8 {
    let rank = match reason {
        StopReason::TimeLimit => 1,
        StopReason::Shutdown => 2,
        StopReason::Recalled => 3,
        StopReason::Revoked => 4,
        StopReason::LeaseLost => 5,
    };
    rank | if force { FORCE } else { 0 }
}

fn decode(order: u8) -> Option<(StopReason, bool)> {
    let reason = match order & !FORCE {
        1 => StopReason::TimeLimit,
        2 => StopReason::Shutdown,
        3 => StopReason::Recalled,
        4 => StopReason::Revoked,
        5 => StopReason::LeaseLost,
        _ => return None,
    };
    Some((reason, order & FORCE != 0))
}

/// Two orders as one: the weightier reason, and by force if either was. Neither half ever goes back.
fn join(one: u8, other: u8) -> u8 {
    (one & !FORCE).max(other & !FORCE) | ((one | other) & FORCE)
}

/// What one attempt shares between its guest, its host functions and those who stop it.
pub(crate) struct Shared {
    order: AtomicU8,
    ordered_at: Mutex<Option<Instant>>,
    notice: Mutex<Option<(StopNotice, Instant)>>,
    noticed: AtomicBool,
    /// The code of the notice that the guest was told last.
    told: Mutex<Option<&'static str>>,
    /// Woken by a stop order and by a notice: what waiting host functions wait on beside their own business.
    pub(crate) woken: Notify,
    slot: Mutex<Option<Call>>,
    /// The task that polls the slot.
    driver: OnceLock<AbortHandle>,
    /// Whether guest code may have run.
    begun: AtomicBool,
    over: AtomicBool,
    exit: Mutex<Option<oneshot::Sender<Exit>>>,
    cpu_nanos: AtomicU64,
    /// Thread CPU time when the poll now under way began.
    poll_began: AtomicU64,
    cpu_budget_nanos: u64,
    pub(crate) peak_memory: AtomicU64,
    started_at: Instant,
    checkpoint_nanos: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("stop", &self.stop())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(cpu_budget: Duration, exit: oneshot::Sender<Exit>) -> Self {
        Self {
            order: AtomicU8::new(0),
            ordered_at: Mutex::new(None),
            notice: Mutex::new(None),
            noticed: AtomicBool::new(false),
            told: Mutex::new(None),
            woken: Notify::new(),
            slot: Mutex::new(None),
            driver: OnceLock::new(),
            begun: AtomicBool::new(false),
            over: AtomicBool::new(false),
            exit: Mutex::new(Some(exit)),
            cpu_nanos: AtomicU64::new(0),
            poll_began: AtomicU64::new(0),
            cpu_budget_nanos: saturating_nanos(cpu_budget),
            peak_memory: AtomicU64::new(0),
            started_at: Instant::now(),
            checkpoint_nanos: AtomicU64::new(0),
        }
    }

    /// The order to stop, if there is one, and whether it is by force.
    pub(crate) fn stop(&self) -> Option<(StopReason, bool)> {
        decode(self.order.load(Ordering::Acquire))
    }

    /// The order to stop by force.
    pub(crate) fn forced(&self) -> Option<StopReason> {
        self.stop().filter(|(_, force)| *force).map(|(reason, _)| reason)
    }

    /// The pending notice, with what is left of its grace.
    pub(crate) fn notice(&self) -> Option<StopNotice> {
        if !self.noticed.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.notice).as_ref().map(|(notice, since)| StopNotice {
            force_after: notice.force_after.map(|grace| grace.saturating_sub(since.elapsed())),
            ..notice.clone()
        })
    }

    pub(crate) fn told(&self, code: &'static str) {
        *lock(&self.told) = Some(code);
    }

    /// Whether the guest was told that its worker goes away.
    pub(crate) fn told_of_shutdown(&self) -> bool {
        matches!(*lock(&self.told), Some(stop::WORKER_DRAIN | stop::WORKER_STOP))
    }

    /// Notes that guest code may run from here on. Before that the attempt only waits, for a place or for its files.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// The time since the attempt began.
    pub(crate) fn running_for(&self) -> Duration {
        self.started_at.elapsed()
    }

    /// Notes that the guest reached a checkpoint.
    pub(crate) fn checkpoint(&self) {
        self.checkpoint_nanos.store(saturating_nanos(self.started_at.elapsed()), Ordering::Relaxed);
    }

    /// CPU time so far; exact between polls, and during one when called from the thread that polls.
    fn cpu_here(&self) -> u64 {
        self.cpu_nanos.load(Ordering::Relaxed)
            + thread_cpu().saturating_sub(self.poll_began.load(Ordering::Relaxed))
    }

    /// Whether the guest, which runs on the calling thread, has used up its CPU time.
    pub(crate) fn cpu_is_used_up(&self) -> bool {
        self.cpu_here() >= self.cpu_budget_nanos
    }

    fn usage(&self) -> Usage {
        let nanos = self.cpu_nanos.load(Ordering::Relaxed);
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of an attempt fit 52 bits for a century"
        )]
        let cpu_ms = (nanos / 1_000) as f64 / 1e3;
        Usage { cpu_ms, peak_memory_bytes: self.peak_memory.load(Ordering::Relaxed) }
    }

    /// How long ago the stop was ordered.
    pub(crate) fn stopping_for(&self) -> Duration {
        lock(&self.ordered_at).map_or(Duration::ZERO, |at| at.elapsed())
    }

    pub(crate) fn fill(&self, call: Call) {
        *lock(&self.slot) = Some(call);
    }

    /// Reports the end, once.
    fn report(&self, outcome: Outcome) {
        self.over.store(true, Ordering::Release);
        if let Some(exit) = lock(&self.exit).take() {
            // Nobody waits any more only when the worker itself is gone.
            let _ = exit.send(Exit { outcome, usage: self.usage() });
        }
    }

    /// What a stop from outside means now; called by whoever holds the slot.
    fn stopped(&self, reason: StopReason) -> Outcome {
        let begun = self.begun.load(Ordering::Relaxed);
        let how = if begun { StopHow::Preempted } else { StopHow::BeforeStart };
        Outcome::Stopped { reason, how, elapsed: self.stopping_for() }
    }

    /// Polls the call where it stands in its slot. This is what the guests' runtime drives.
    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut slot = lock(&self.slot);
        let Some(call) = slot.as_mut() else { return Poll::Ready(()) };
        // A stop that found the slot held a moment ago is obeyed here; one that found the task not begun, in any case.
        if let Some((reason, force)) = self.stop()
            && (force || !self.begun.load(Ordering::Relaxed))
        {
            let outcome = self.stopped(reason);
            let call = slot.take();
            drop(slot);
            self.report(outcome);
            discard(call);
            return Poll::Ready(());
        }
        let began = thread_cpu();
        self.poll_began.store(began, Ordering::Relaxed);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
        self.cpu_nanos.fetch_add(thread_cpu().saturating_sub(began), Ordering::Relaxed);
        let outcome = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => outcome,
            Err(panic) => {
                tracing::error!(
                    panic = words(&*panic),
                    "a host function panicked; its attempt failed"
                );
                Outcome::failed(
                    FailureKind::Trap,
                    "host-panic",
                    "a host function panicked; this is a bug in the worker",
                )
            }
        };
        // The store goes before the end is reported: its slot in the pool is free by then.
        let call = slot.take();
        drop(slot);
        discard(call);
        self.report(outcome);
        Poll::Ready(())
    }

    /// Takes a suspended call out of its slot. `None` while the guest is on a core, or over.
    fn take_suspended(&self) -> Option<Call> {
        match self.slot.try_lock() {
            Ok(mut slot) => slot.take(),
            Err(TryLockError::Poisoned(slot)) => slot.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Ends the attempt if its guest is suspended; says whether the attempt is over.
    pub(crate) fn end_if_suspended(&self, reason: StopReason, reaper: &Reaper) -> bool {
        if self.over.load(Ordering::Acquire) {
            return true;
        }
        let Some(call) = self.take_suspended() else { return self.over.load(Ordering::Acquire) };
        // From here on no guest code can run: the call is ours. Taking its memory down can wait.
        self.report(self.stopped(reason));
        reaper.bury(call);
        // Whatever the call waited for may never wake its driver, which would stay for ever. Without a handle it was
        // spawned this moment, will be polled once in any case, and finds the slot empty.
        if let Some(driver) = self.driver.get() {
            driver.abort();
        }
        true
    }
}

/// Drops a call. A panic while a guest's host frames unwind ends neither the thread nor the attempt's report.
pub(crate) fn discard(call: Option<Call>) {
    if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| drop(call))) {
        tracing::error!(
            panic = words(&*panic),
            "what an attempt left behind panicked while it was taken down; the attempt's end stands"
        );
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

/// What the guests' runtime owns of an attempt. When that runtime goes away first, the attempt still ends with a report.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    /// Where timers that a guest's host calls make are kept.
    timers: tokio::runtime::Handle,
    /// Keeps the ticker ticking: a guest that computes could not be ended without it.
    _alive: Arc<()>,
}

impl Driver {
    pub(crate) fn spawn(
        shared: &Arc<Shared>,
        guests: &tokio::runtime::Runtime,
        timers: &tokio::runtime::Handle,
        ticker: &Ticker,
    ) {
        let driver =
            Self { shared: Arc::clone(shared), timers: timers.clone(), _alive: ticker.attend() };
        let spawned = guests.spawn(driver).abort_handle();
        shared.driver.set(spawned).expect("an attempt is driven once");
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let _timers = self.timers.enter();
        self.shared.poll(context)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let call = lock(&self.shared.slot).take();
        if call.is_some() {
            let reason = self.shared.stop().map_or(StopReason::Shutdown, |(reason, _)| reason);
            self.shared.report(self.shared.stopped(reason));
            discard(call);
        }
    }
}

/// Stops and watches one attempt. Cheap to clone; outlives the attempt harmlessly.
#[derive(Clone, Debug)]
pub struct InterruptHandle {
    shared: Arc<Shared>,
    ticker: Arc<Ticker>,
}

impl InterruptHandle {
    pub(crate) fn new(shared: Arc<Shared>, ticker: Arc<Ticker>) -> Self {
        Self { shared, ticker }
    }

    /// Orders a stop: with `force` at once, wherever the guest is; without it at the guest's next checkpoint, which for
    /// a guest that sleeps or extends its lease is now. A weightier order replaces a lighter one; never the reverse.
    /// Does not wait; the end comes as the attempt's [`Exit`].
    pub fn stop(&self, reason: StopReason, force: bool) {
        let shared = &self.shared;
        {
            let mut ordered_at = lock(&shared.ordered_at);
            if ordered_at.is_none() {
                *ordered_at = Some(Instant::now());
            }
        }
        let order = encode(reason, force);
        shared
            .order
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |before| Some(join(before, order)))
            .expect("the closure always gives a value");
        // A suspended call is taken before its guest is woken, which would only make both reach for the slot.
        if shared.forced().is_some() {
            self.ticker.stop_now(shared);
        }
        shared.woken.notify_waiters();
    }

    /// Shows the guest a notice at its checkpoints; the newest wins.
    pub fn notify(&self, notice: StopNotice) {
        *lock(&self.shared.notice) = Some((notice, Instant::now()));
        self.shared.noticed.store(true, Ordering::Release);
        self.shared.woken.notify_waiters();
    }

    /// Whether the guest has reached a checkpoint at all.
    pub fn has_checkpointed(&self) -> bool {
        self.shared.checkpoint_nanos.load(Ordering::Relaxed) != 0
    }

    /// The time since the guest's last checkpoint, or since its start when it has reached none.
    pub fn since_checkpoint(&self) -> Duration {
        let at = Duration::from_nanos(self.shared.checkpoint_nanos.load(Ordering::Relaxed));
        self.shared.started_at.elapsed().saturating_sub(at)
    }

    /// What the attempt has used so far; CPU time up to its last pause.
    pub fn usage(&self) -> Usage {
        self.shared.usage()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn orders_read_back_and_neither_weight_nor_force_is_ever_taken_back() {
        let reasons = [
            StopReason::TimeLimit,
            StopReason::Shutdown,
            StopReason::Recalled,
            StopReason::Revoked,
            StopReason::LeaseLost,
        ];
        let orders = || reasons.into_iter().flat_map(|reason| [(reason, false), (reason, true)]);
        for (reason, force) in orders() {
            let order = encode(reason, force);
            assert_eq!(decode(order), Some((reason, force)));
            assert_eq!(join(0, order), order);
            for (other, forced) in orders() {
                let joined = decode(join(order, encode(other, forced)));
                assert_eq!(joined, Some((reason.max(other), force || forced)));
            }
        }
        assert_eq!(decode(0), None);
    }

    #[test]
    fn a_stopped_wait_that_nothing_ever_wakes_leaves_no_task_behind() {
        let guests = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let timers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let reaper = Reaper::start(timers.handle().clone()).unwrap();
        let ticker =
            Ticker::start(&wasmtime::Engine::default(), Duration::from_millis(10), reaper, timers)
                .unwrap();
        let (exit, end) = oneshot::channel();
        let shared = Arc::new(Shared::new(Duration::MAX, exit));
        let (waits, waiting) = mpsc::channel();
        shared.fill(Box::pin(std::future::poll_fn(move |_| {
            waits.send(()).unwrap();
            Poll::Pending
        })));
        Driver::spawn(&shared, &guests, guests.handle(), &ticker);
        waiting.recv().unwrap();
        shared.begin();
        InterruptHandle::new(shared, Arc::clone(&ticker)).stop(StopReason::Revoked, true);
        assert!(matches!(
            end.blocking_recv().unwrap().outcome,
            Outcome::Stopped { reason: StopReason::Revoked, how: StopHow::Preempted, .. }
        ));
        let patience = Instant::now() + Duration::from_secs(10);
        while guests.metrics().num_alive_tasks() > 0 {
            assert!(Instant::now() < patience, "its task is still there");
            std::thread::yield_now();
        }
        ticker.end();
    }
}
