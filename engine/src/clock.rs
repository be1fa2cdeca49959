//! The only readers of the system's clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use stem_core::time::{Clock, Timestamp};

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The system's wall clock: what producers stamp envelopes with, and what backends on one machine share.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        wall()
    }
}

/// The wall clock at its making, moved on by the monotonic clock: never steps. What a worker measures leases and limits
/// with; a stepped wall clock must neither end nor prolong them.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    wall: Timestamp,
    since: Instant,
}

impl SteadyClock {
    /// Begins at the wall clock's time.
    pub fn start() -> Self {
        Self { wall: wall(), since: Instant::now() }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.wall.after(self.since.elapsed())
    }
}
