//! The clocks of a simulated world: each host has its own, and so has the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use stem_core::time::{Clock, Timestamp};
use tokio::time::Instant;

use crate::fact::{EPOCH, Ms};

/// What a process of a host reads: the time of its runtime, which stands still between steps, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct HostClock {
    /// The runtime's time when it began.
    pub zero: Instant,
    /// The world's time then.
    pub began: Ms,
    /// Runs too fast by so many millionths.
    pub ppm: i64,
    /// Is off by so many milliseconds.
    pub off: Arc<AtomicI64>,
}

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.zero.elapsed().as_millis()).unwrap_or(i64::MAX);
        let shown = self.began.shown().unix_millis()
            + passed
            + passed * self.ppm / 1_000_000
            + self.off.load(Ordering::Relaxed);
        Timestamp::from_unix_millis(shown)
    }
}

/// The clock of all services. The world sets it before it has anything executed.
#[derive(Clone, Debug)]
pub struct ServerClock {
    shown: Arc<AtomicI64>,
    off: i64,
    /// Never goes back: stands where it was until time has caught up.
    frozen: bool,
}

impl ServerClock {
    /// At the beginning of the world. One that freezes stands still where it is set back.
    pub fn new(frozen: bool) -> Self {
        Self { shown: Arc::new(AtomicI64::new(EPOCH)), off: 0, frozen }
    }

    /// Shows the time `now`, and what is wrong with it.
    pub fn set(&self, now: Ms) {
        let shown = now.shown().unix_millis() + self.off;
        if self.frozen {
            self.shown.fetch_max(shown, Ordering::Relaxed);
        } else {
            self.shown.store(shown, Ordering::Relaxed);
        }
    }

    /// Is off by so many milliseconds more. One that stands still waits for time alone.
    pub fn step(&mut self, by: i64) {
        if !(self.frozen && self.off < 0) {
            self.off += by;
        }
    }

    /// By how much it is off.
    pub fn off(&self) -> i64 {
        self.off
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.shown.load(Ordering::Relaxed))
    }
}
