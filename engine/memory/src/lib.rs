//! Every backend in memory, for tests and for embedding where nothing has to outlive the process.
//!
//! One state behind one mutex, never held across an await, so each call is one atomic step. Nothing is durable, and
//! memory is bounded only by what is published and by [`ResultBackend::prune`](stem_core::backend::ResultBackend).
//!
//! | module | what it holds |
//! |---|---|
//! | `state` | deliveries with their indexes, and everything else |
//! | `record` | what a claim, a settlement, a replay does to a task's record |
//! | `broker`, `result`, `dead_letter`, `revoke`, `control`, `presence`, `modules`, `buckets` | one trait each |

mod broker;
mod buckets;
mod control;
mod dead_letter;
mod modules;
mod presence;
mod record;
mod result;
mod revoke;
mod state;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stem_core::backend::{Health, ServiceId};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::{Clock, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use state::State;

/// A waiter looks again at least this often, whatever the clock and the bells say. Bounds the harm of a clock that
/// was set back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// All eight backends over one state. Clones of the [`Arc`] are connections to the same data.
pub struct Memory {
    service: ServiceId,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    bells: Bells,
}

/// A change this recent may have come between a caller's own look and its wait.
const RECENT: Duration = Duration::from_millis(25);

/// Who waits for what.
#[derive(Default)]
struct Bells {
    work: Bell,
    records: Bell,
    revocations: Bell,
    control: Bell,
    modules: Bell,
}

/// Wakes whoever waits for one kind of change.
struct Bell {
    notify: Notify,
    rung_at: Mutex<Instant>,
}

impl Default for Bell {
    fn default() -> Self {
        Self { notify: Notify::new(), rung_at: Mutex::new(Instant::now()) }
    }
}

impl Bell {
    fn ring(&self) {
        *self.rung_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.notify.notify_waiters();
    }

    /// Waits for a caller that does not say what it has seen: after a recent change it waits only a little.
    async fn wait_loosely(&self, wait: Duration) {
        let ring = self.notify.notified();
        let rung_at = *self.rung_at.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = rung_at.elapsed() < RECENT;
        let wait = if recent { wait.min(RECENT) } else { wait };
        // Running out of time is no news to the caller: both ways it looks again.
        let _ = tokio::time::timeout(wait, ring).await;
    }
}

/// What a waiter found.
enum Look<T> {
    /// It need not wait any longer.
    Found(T),
    /// Nothing yet; something falls due then, by the clock.
    Nothing { due: Option<Timestamp> },
}

impl Memory {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            service: ServiceId(format!("memory:{number}")),
            clock,
            state: Mutex::new(State::default()),
            bells: Bells::default(),
        })
    }

    /// Makes every waiter look again. Whoever moves a manual clock calls this after it.
    pub fn poke(&self) {
        self.bells.work.ring();
        self.bells.records.ring();
        self.bells.revocations.ring();
        self.bells.control.ring();
        self.bells.modules.ring();
    }

    /// Puts bytes into a queue that need not be an envelope, as a producer of another version might. For tests.
    pub fn plant(&self, queue: QueueName, id: TaskId, name: TaskName, bytes: Vec<u8>) {
        let now = self.now();
        self.state().plant(now, queue, id, name, bytes);
        self.bells.work.ring();
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The state. A panic while it was held is a bug that the panic reports; the data are plain collections, so others
    /// can go on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health_now(&self) -> Health {
        Health {
            service: self.service.0.clone(),
            detail: "in memory".to_owned(),
            warnings: vec![
                "nothing outlives the process: use a database file for tasks that matter"
                    .to_owned(),
            ],
        }
    }

    /// Looks, and looks again after each ring of the bell and when something falls due, for at most `wait`.
    async fn look_until<T>(
        &self,
        bell: &Bell,
        wait: Duration,
        mut look: impl FnMut(&mut State, Timestamp) -> Look<T>,
    ) -> Option<T> {
        let started = Instant::now();
        loop {
            // Enabled before looking, so that a ring between the look and the wait is not missed.
            let mut ring = std::pin::pin!(bell.notify.notified());
            ring.as_mut().enable();
            let now = self.now();
            let due = match look(&mut self.state(), now) {
                Look::Found(found) => return Some(found),
                Look::Nothing { due } => due,
            };
            let left = wait.saturating_sub(started.elapsed());
            if left.is_zero() {
                return None;
            }
            let until_due = due.map_or(LOOK_AGAIN, |due| now.until(due).max(SHORTEST));
            let _ = tokio::time::timeout(left.min(until_due).min(LOOK_AGAIN), ring).await;
        }
    }
}

/// The runtime's timers have this resolution; a shorter sleep would only spin.
const SHORTEST: Duration = Duration::from_millis(1);

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Memory").field(&self.service.0).finish()
    }
}
