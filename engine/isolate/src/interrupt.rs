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
//! two steps every [`URGENT`] until the attempt is gone.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use stem_core::limits::Usage;
use stem_core::outcome::{FailureKind, Outcome, StopHow, StopNotice, StopReason};
use tokio::sync::{Notify, oneshot};
use wasmtime::{Engine, EngineWeak};

use crate::isolate::Exit;

/// How often the ticker repeats an unacknowledged stop.
const URGENT: Duration = Duration::from_micros(200);

pub(crate) type Call = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A lock whose holder cannot leave it broken: nothing under these locks panics between two halves of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

/// The stop order, in one atomic: 0 is none, otherwise reason × 2 + force. A larger order is a weightier one, so an
/// order is only ever replaced by a larger.
fn encode(reason: StopReason, force: bool) -> u8 {
    let rank = match reason {
        StopReason::TimeLimit => 1,
        StopReason::Shutdown => 2,
        StopReason::Revoked => 3,
        StopReason::LeaseLost => 4,
    };
    rank * 2 + u8::from(force)
}

fn decode(order: u8) -> Option<(StopReason, bool)> {
    let reason = match order / 2 {
        1 => StopReason::TimeLimit,
        2 => StopReason::Shutdown,
        3 => StopReason::Revoked,
        4 => StopReason::LeaseLost,
        _ => return None,
    };
    Some((reason, order % 2 == 1))
}

/// What one attempt shares between its guest, its host functions and those who stop it.
pub(crate) struct Shared {
    order: AtomicU8,
    ordered_at: Mutex<Option<Instant>>,
    notice: Mutex<Option<(StopNotice, Instant)>>,
    noticed: AtomicBool,
    /// Woken by a stop order and by a notice: what waiting host functions wait on beside their own business.
    pub(crate) woken: Notify,
    slot: Mutex<Option<Call>>,
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
            woken: Notify::new(),
            slot: Mutex::new(None),
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

    /// Polls the call where it stands in its slot. This is what the guests' runtime drives.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut slot = lock(&self.slot);
        let Some(call) = slot.as_mut() else { return Poll::Ready(()) };
        let began = thread_cpu();
        self.poll_began.store(began, Ordering::Relaxed);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
        self.cpu_nanos.fetch_add(thread_cpu().saturating_sub(began), Ordering::Relaxed);
        let outcome = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(outcome)) => outcome,
            Err(panic) => {
                let words = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or(panic.downcast_ref::<String>().map(String::as_str));
                tracing::error!(
                    panic = words.unwrap_or("without words"),
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
        *slot = None;
        drop(slot);
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
    fn end_if_suspended(&self, reason: StopReason, reaper: &Reaper) -> bool {
        if self.over.load(Ordering::Acquire) {
            return true;
        }
        let Some(call) = self.take_suspended() else { return self.over.load(Ordering::Acquire) };
        // From here on no guest code can run: the call is ours. Taking its memory down can wait.
        self.report(Outcome::Stopped {
            reason,
            how: StopHow::Preempted,
            elapsed: self.stopping_for(),
        });
        reaper.bury(call);
        true
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
        shared.order.fetch_max(encode(reason, force), Ordering::SeqCst);
        // Beside the weightier reason, force once ordered stays ordered.
        if let Some((stronger, false)) = shared.stop().filter(|_| force) {
            shared.order.fetch_max(encode(stronger, true), Ordering::SeqCst);
        }
        shared.woken.notify_waiters();
        if shared.forced().is_some() {
            self.ticker.stop_now(shared);
        }
    }

    /// Shows the guest a notice at its checkpoints; the newest wins.
    pub fn notify(&self, notice: StopNotice) {
        *lock(&self.shared.notice) = Some((notice, Instant::now()));
        self.shared.noticed.store(true, Ordering::Release);
        self.shared.woken.notify_waiters();
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

/// Takes down what stopped guests leave behind, on a thread of its own: unmapping a large memory takes milliseconds
/// that neither the stopper nor the ticker has.
#[derive(Debug)]
pub(crate) struct Reaper {
    calls: Mutex<Option<mpsc::Sender<Call>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reaper {
    pub(crate) fn start(guests: tokio::runtime::Handle) -> std::io::Result<Self> {
        let (calls, dead) = mpsc::channel::<Call>();
        let thread =
            std::thread::Builder::new().name("stem-reaper".to_owned()).spawn(move || {
                // Some host resources expect a runtime around them while they go.
                let _guests = guests.enter();
                for call in dead {
                    // A panic while a guest's host frames unwind must not end the thread that buries the next one.
                    let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(call)));
                }
            })?;
        Ok(Self { calls: Mutex::new(Some(calls)), thread: Mutex::new(Some(thread)) })
    }

    fn bury(&self, call: Call) {
        let unsent = match &*lock(&self.calls) {
            Some(calls) => calls.send(call).err().map(|mpsc::SendError(call)| call),
            None => Some(call),
        };
        drop(unsent);
    }

    fn end(&self) {
        lock(&self.calls).take();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

/// One thread for the whole process: raises the epoch once a slice, so that guests take turns, and repeats stops that
/// have not taken effect yet.
pub(crate) struct Ticker {
    engine: EngineWeak,
    /// Slices since the start; guests compare it to know that their slice is over.
    slices: Arc<AtomicU64>,
    urgent: Mutex<Urgent>,
    changed: Condvar,
    reaper: Reaper,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticker").field("slices", &self.slices).finish_non_exhaustive()
    }
}

#[derive(Default, Debug)]
struct Urgent {
    stops: Vec<Arc<Shared>>,
    ending: bool,
}

impl Ticker {
    pub(crate) fn start(
        engine: &Engine,
        slice: Duration,
        reaper: Reaper,
    ) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            engine: engine.weak(),
            slices: Arc::new(AtomicU64::new(0)),
            urgent: Mutex::default(),
            changed: Condvar::new(),
            reaper,
            thread: Mutex::new(None),
        });
        let ours = Arc::clone(&ticker);
        let thread = std::thread::Builder::new()
            .name("stem-ticker".to_owned())
            .spawn(move || ours.run(slice))?;
        *lock(&ticker.thread) = Some(thread);
        Ok(ticker)
    }

    pub(crate) fn slices(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.slices)
    }

    fn raise(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.increment_epoch();
        }
    }

    fn stop_now(&self, shared: &Arc<Shared>) {
        self.raise();
        if let Some(reason) = shared.forced()
            && !shared.end_if_suspended(reason, &self.reaper)
        {
            lock(&self.urgent).stops.push(Arc::clone(shared));
            self.changed.notify_one();
        }
    }

    fn run(&self, slice: Duration) {
        let mut next = Instant::now() + slice;
        let mut urgent = lock(&self.urgent);
        while !urgent.ending {
            let now = Instant::now();
            if now >= next {
                next = now + slice;
                self.slices.fetch_add(1, Ordering::Relaxed);
                self.raise();
            }
            if !urgent.stops.is_empty() {
                // Not under the lock: a stopper must never wait for this.
                let stops = std::mem::take(&mut urgent.stops);
                drop(urgent);
                self.raise();
                let mut left: Vec<_> = stops
                    .into_iter()
                    .filter(|shared| {
                        shared
                            .forced()
                            .is_some_and(|reason| !shared.end_if_suspended(reason, &self.reaper))
                    })
                    .collect();
                urgent = lock(&self.urgent);
                urgent.stops.append(&mut left);
            }
            let wait =
                if urgent.stops.is_empty() { next.saturating_duration_since(now) } else { URGENT };
            urgent =
                self.changed.wait_timeout(urgent, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends both threads. Idempotent.
    pub(crate) fn end(&self) {
        lock(&self.urgent).ending = true;
        self.changed.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
        self.reaper.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_read_back_and_weigh_as_reasons_do() {
        let reasons = [
            StopReason::TimeLimit,
            StopReason::Shutdown,
            StopReason::Revoked,
            StopReason::LeaseLost,
        ];
        let mut last = 0;
        for reason in reasons {
            for force in [false, true] {
                let order = encode(reason, force);
                assert_eq!(decode(order), Some((reason, force)));
                assert!(order > last);
                last = order;
            }
        }
        assert_eq!(decode(0), None);
    }
}
