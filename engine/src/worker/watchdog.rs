//! Says that work waits and none of it is taken: the one failure that no error message tells of.
//!
//! Queues have stood still for days because a consumer had lost its place at the broker and went on waiting politely.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stem_core::control::WorkerState;
use stem_core::time::Timestamp;

use super::autoscale::depth;
use super::shared::Shared;

/// How often it looks, where nothing was taken meanwhile.
const LOOK: Duration = Duration::from_secs(5);

/// Nothing was taken for so long though there was something to take.
const STALLED: Duration = Duration::from_secs(30);

/// What one look saw.
#[derive(Clone, Copy, Debug)]
struct Look {
    now: Timestamp,
    /// Deliveries ever taken.
    taken: u64,
    /// Whether this worker has places for more.
    has_places: bool,
    /// Deliveries it could take.
    depth: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    None,
    Stalled { for_: Duration },
    Over,
}

/// Decides from looks.
#[derive(Debug, Default)]
struct Watchdog {
    taken: u64,
    /// Since when there has been something to take and nothing was.
    since: Option<Timestamp>,
    said: bool,
}

impl Watchdog {
    fn see(&mut self, look: Look) -> News {
        let moved = look.taken != self.taken;
        self.taken = look.taken;
        if moved || !look.has_places || look.depth == 0 {
            self.since = None;
            return if std::mem::take(&mut self.said) { News::Over } else { News::None };
        }
        let for_ = look.now.since(*self.since.get_or_insert(look.now));
        if for_ < STALLED || std::mem::replace(&mut self.said, true) {
            return News::None;
        }
        News::Stalled { for_ }
    }
}

/// Watches until dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut watchdog = Watchdog::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let may_take = shared.worker_state() == WorkerState::Running && !shared.is_blind();
        // Nothing is taken on purpose while one task is to be alone.
        let may_take = may_take && shared.slots.alone_until().is_none();
        let has_places = may_take && shared.slots.taken() < shared.slots.limit();
        let mut taken = shared.counters.taken.load(Ordering::Relaxed);
        // Nor is what a quota holds back, as long as the broker answers at all.
        if shared.quotas.as_ref().is_some_and(|quotas| quotas.holds_back()) {
            taken += shared.counters.claims.load(Ordering::Relaxed);
        }
        // An outage has its own words; and whoever takes deliveries need not ask whether there are some, unless somebody
        // wants to know how many.
        let depth = if has_places && taken == watchdog.taken || shared.observer.is_watching() {
            depth(&shared).await.unwrap_or(0)
        } else {
            0
        };
        let look = Look { now: shared.now(), taken, has_places, depth };
        match watchdog.see(look) {
            News::None => {}
            News::Stalled { for_ } => tracing::error!(
                depth,
                seconds = for_.as_secs(),
                "stalled: deliveries wait that this worker could take, and it gets none"
            ),
            News::Over => tracing::info!("deliveries are taken again, or none waits any more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(second: i64, taken: u64, has_places: bool, depth: u64) -> Look {
        let now = Timestamp::from_unix_millis(second * 1000);
        Look { now, taken, has_places, depth }
    }

    #[test]
    fn a_stall_is_said_once_and_its_end_too() {
        let mut watchdog = Watchdog::default();
        for second in (0..30).step_by(5) {
            assert_eq!(watchdog.see(look(second, 0, true, 9)), News::None);
        }
        assert_eq!(watchdog.see(look(30, 0, true, 9)), News::Stalled { for_: STALLED });
        assert_eq!(watchdog.see(look(35, 0, true, 9)), News::None);
        assert_eq!(watchdog.see(look(40, 1, true, 9)), News::Over);
        assert_eq!(watchdog.see(look(45, 1, true, 9)), News::None);
    }

    #[test]
    fn what_moves_is_busy_or_has_nothing_to_do_is_not_stalled() {
        let mut watchdog = Watchdog::default();
        for second in (0..200).step_by(10) {
            let moving = u64::try_from(second).unwrap_or(0);
            assert_eq!(watchdog.see(look(second, moving, true, 9)), News::None);
        }
        for second in (200..400).step_by(10) {
            assert_eq!(watchdog.see(look(second, 190, false, 9)), News::None);
        }
        for second in (400..600).step_by(10) {
            assert_eq!(watchdog.see(look(second, 190, true, 0)), News::None);
        }
    }
}
