//! The two threads that every sandbox has beside its guests: the ticker, which makes guests take turns and repeats stops
//! that have not taken effect, and the reaper, which takes down what stopped guests leave behind.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasmtime::{Engine, EngineWeak};

use crate::interrupt::{Call, Shared, discard, lock};

/// So many slices without an attempt let the ticker rest until there is one: an idle worker wakes nobody up a hundred times a second.
const QUIET: u32 = 100;

/// How often the ticker repeats an unacknowledged stop.
pub(crate) const URGENT: Duration = Duration::from_micros(200);

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
                    discard(Some(call));
                }
            })?;
        Ok(Self { calls: Mutex::new(Some(calls)), thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn bury(&self, call: Call) {
        let unsent = match &*lock(&self.calls) {
            Some(calls) => calls.send(call).err().map(|mpsc::SendError(call)| call),
            None => Some(call),
        };
        discard(unsent);
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
    /// One handle for each attempt that the guests' runtime still owns, and this one.
    alive: Arc<()>,
    /// The ticker waits for an attempt, or is about to.
    resting: AtomicBool,
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
        timers: tokio::runtime::Runtime,
    ) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            engine: engine.weak(),
            slices: Arc::new(AtomicU64::new(0)),
            urgent: Mutex::default(),
            changed: Condvar::new(),
            reaper,
            alive: Arc::new(()),
            resting: AtomicBool::new(false),
        });
        let ours = Arc::clone(&ticker);
        std::thread::Builder::new().name("stem-ticker".to_owned()).spawn(move || {
            ours.run(slice);
            // Only now that no guest is left whose host calls could make a timer.
            timers.shutdown_background();
        })?;
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

    /// Keeps the ticker ticking while it is held: a guest that computes could not be ended without it.
    pub(crate) fn attend(&self) -> Arc<()> {
        let alive = Arc::clone(&self.alive);
        // Either this sees that the ticker rests, or the ticker sees the new handle: see `rest`.
        fence(Ordering::SeqCst);
        if self.resting.load(Ordering::Relaxed) {
            // With the lock, since the ticker holds it from its last look until it waits.
            let _urgent = lock(&self.urgent);
            self.changed.notify_one();
        }
        alive
    }

    /// Waits until there is an attempt, or the end.
    fn rest<'a>(&'a self, mut urgent: MutexGuard<'a, Urgent>) -> MutexGuard<'a, Urgent> {
        self.resting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if Arc::strong_count(&self.alive) == 1 {
            urgent = self.changed.wait(urgent).unwrap_or_else(PoisonError::into_inner);
        }
        self.resting.store(false, Ordering::Relaxed);
        urgent
    }

    pub(crate) fn stop_now(&self, shared: &Arc<Shared>) {
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
        let mut quiet = 0;
        let mut urgent = lock(&self.urgent);
        // At the end the ticking goes on until every guest has given way to the runtime that drops it.
        while !urgent.ending || Arc::strong_count(&self.alive) > 1 {
            if quiet >= QUIET && urgent.stops.is_empty() && !urgent.ending {
                urgent = self.rest(urgent);
                quiet = 0;
                next = Instant::now();
                continue;
            }
            if urgent.ending {
                next = Instant::now();
            }
            let now = Instant::now();
            if now >= next {
                next = now + slice;
                quiet = if Arc::strong_count(&self.alive) > 1 { 0 } else { quiet + 1 };
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
            let wait = if urgent.stops.is_empty() && !urgent.ending {
                next.saturating_duration_since(now)
            } else {
                URGENT
            };
            urgent =
                self.changed.wait_timeout(urgent, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(urgent);
        self.reaper.end();
    }

    /// Lets both threads end as soon as the guests' runtime, which was told to end, has dropped its guests. Does not
    /// wait: it may be called from one of the guests' threads.
    pub(crate) fn end(&self) {
        lock(&self.urgent).ending = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_while_there_is_nothing_and_ticks_again_for_an_attempt() {
        let timers = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let reaper = Reaper::start(timers.handle().clone()).unwrap();
        let slice = Duration::from_millis(1);
        let ticker = Ticker::start(&Engine::default(), slice, reaper, timers).unwrap();
        let slices = || ticker.slices.load(Ordering::Relaxed);
        let within = |so: &dyn Fn() -> bool| {
            let end = Instant::now() + Duration::from_secs(20);
            while !so() {
                assert!(Instant::now() < end, "{ticker:?}");
                std::thread::sleep(slice);
            }
        };
        for _ in 0..3 {
            within(&|| ticker.resting.load(Ordering::Relaxed));
            let before = slices();
            let alive = ticker.attend();
            within(&|| slices() > before + u64::from(QUIET) * 2);
            drop(alive);
        }
        within(&|| ticker.resting.load(Ordering::Relaxed));
        ticker.end();
        within(&|| lock(&ticker.reaper.thread).is_none());
    }
}
