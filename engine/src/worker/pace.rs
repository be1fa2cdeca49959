//! Fewer, larger calls while there is much to do: what ends within the same moment goes out in one call.
//!
//! A call to a broker costs about the same for one delivery as for ten. So while many attempts are in hand, calls of one
//! kind go out at most once in a [`MOMENT`]. The first after a quiet moment goes at once: a single end, a revocation, an
//! idle worker's next task never wait.

use std::time::Duration;

use tokio::time::Instant;

/// Calls of one kind are at least this far apart while many attempts are in hand.
pub(super) const MOMENT: Duration = Duration::from_millis(1);

/// From so many attempts in hand on, a moment's wait holds up none of the places: others are busy meanwhile.
const MANY: usize = 16;

/// When the last call of one kind went out.
#[derive(Debug, Default)]
pub(super) struct Pace(Option<Instant>);

impl Pace {
    /// Until when the next call should wait, with so many attempts in hand.
    pub(super) fn wait_until(&self, now: Instant, in_hand: usize) -> Option<Instant> {
        let next = self.0? + MOMENT;
        (in_hand >= MANY && now < next).then_some(next)
    }

    /// A call goes out.
    pub(super) fn step(&mut self, now: Instant) {
        self.0 = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_call_of_the_same_moment_waits_and_only_with_many_in_hand() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.wait_until(start, 100), None);
        pace.step(start);
        assert_eq!(pace.wait_until(start, MANY - 1), None);
        assert_eq!(pace.wait_until(start, MANY), Some(start + MOMENT));
        assert_eq!(pace.wait_until(start + MOMENT, 100), None);
    }
}
