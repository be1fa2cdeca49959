//! How often this process looks for the commits of others and wakes its waiters: at once while there are few, so that no
//! task waits for a timer; at a measured pace while report follows report, so that a busy neighbour does not make every
//! waiter look hundreds of times a second, and one that reports what never happened costs little.

use std::time::Duration;

use tokio::time::Instant;

use crate::bells::Topics;

/// Between two looks while one follows the other, and always between two rings for operators' topics.
const GAP: Duration = Duration::from_millis(2);

/// Looks that need not keep the gap after a quiet moment. An idle worker's task is three commits, and up to two looks
/// for each.
const BURST: u32 = 16;

/// A moment without a look.
const QUIET: Duration = Duration::from_millis(3);

/// What has been done.
#[derive(Debug, Default)]
pub(super) struct Pace {
    looked: Option<Instant>,
    /// Since the last quiet moment.
    looks: u32,
    operators_rung: Option<Instant>,
    owes_operators: bool,
}

impl Pace {
    /// A look is made: for how long there must not be another.
    pub(super) fn look(&mut self, now: Instant) -> Option<Duration> {
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= QUIET) {
            self.looks = 0;
        }
        self.looks = self.looks.saturating_add(1);
        let pause = (self.looks > BURST).then_some(GAP);
        // The pause itself is no quiet moment.
        self.looked = Some(now + pause.unwrap_or_default());
        pause
    }

    /// A commit was seen: whom to wake.
    pub(super) fn ring(&mut self, now: Instant) -> Topics {
        self.owes_operators = true;
        Topics(Topics::TASKS.0 | self.pay(now).0)
    }

    /// When those are to be woken whose turn it was not at the last commit.
    pub(super) fn owed(&self) -> Option<Instant> {
        let rung = self.operators_rung.filter(|_| self.owes_operators)?;
        Some(rung + GAP)
    }

    /// Those, if it is time.
    pub(super) fn pay(&mut self, now: Instant) -> Topics {
        if !self.owes_operators || self.owed().is_some_and(|at| now < at) {
            return Topics::NONE;
        }
        self.owes_operators = false;
        self.operators_rung = Some(now);
        Topics::OPERATORS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_looks_are_made_at_once_and_many_keep_the_gap() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        for _ in 0..BURST {
            assert_eq!(pace.look(start), None);
        }
        assert_eq!(pace.look(start), Some(GAP));
        assert_eq!(pace.look(after(2)), Some(GAP));
        assert_eq!(pace.look(after(6)), Some(GAP));
        assert_eq!(pace.look(after(11)), None);
    }

    #[test]
    fn operators_topics_are_rung_once_in_a_gap_and_never_forgotten() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(pace.ring(start), Topics::ALL);
        assert_eq!(pace.owed(), None);
        assert_eq!(pace.ring(after(1)), Topics::TASKS);
        assert_eq!(pace.owed(), Some(after(2)));
        assert_eq!(pace.pay(after(1)), Topics::NONE);
        assert_eq!(pace.pay(after(2)), Topics::OPERATORS);
        assert_eq!(pace.owed(), None);
        assert_eq!(pace.ring(after(5)), Topics::ALL);
    }
}
