//! When to try a failed attempt again: exponential backoff with jitter.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A handler's own `not-before` can lengthen a delay up to this.
pub const NOT_BEFORE_CAP: Duration = Duration::from_hours(24);

/// How often and how late to try again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryPolicy {
    /// Retries after the first attempt.
    pub max_retries: u32,
    /// The delay before the first retry, in milliseconds.
    pub base_ms: u64,
    /// What each further delay is multiplied by.
    pub factor: u32,
    /// No delay is longer, in milliseconds.
    pub cap_ms: u64,
}

impl RetryPolicy {
    /// Three retries, 2 s doubling up to 5 min.
    pub const DEFAULT: Self = Self { max_retries: 3, base_ms: 2_000, factor: 2, cap_ms: 300_000 };

    /// The delay before the retry that follows attempt `attempt` (1 for the first).
    ///
    /// `seed` decides the jitter: the delay is between half and all of the exponential value ("equal jitter": tasks
    /// that failed together spread out, and none comes back at once).
    pub fn delay(&self, attempt: u32, seed: u64) -> Duration {
        let exponent = attempt.saturating_sub(1);
        let full = u64::from(self.factor)
            .saturating_pow(exponent)
            .saturating_mul(self.base_ms)
            .min(self.cap_ms);
        let half = full / 2;
        Duration::from_millis(half + scramble(seed ^ u64::from(attempt)) % (full - half + 1))
    }

    /// Whether another attempt is left after attempt `attempt` (1 for the first).
    pub fn allows_another(&self, attempt: u32) -> bool {
        attempt <= self.max_retries
    }
}

/// splitmix64's finalizer (Steele, Lea, Flood 2014): spreads a seed over all bits.
pub(crate) fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_doubles_from_two_seconds_to_five_minutes() {
        let top =
            |attempt| (0..500).map(|seed| RetryPolicy::DEFAULT.delay(attempt, seed)).max().unwrap();
        let bottom =
            |attempt| (0..500).map(|seed| RetryPolicy::DEFAULT.delay(attempt, seed)).min().unwrap();
        assert!(top(1) <= Duration::from_secs(2) && top(1) > Duration::from_millis(1950));
        assert!(bottom(1) >= Duration::from_secs(1));
        assert!(top(4) <= Duration::from_secs(16) && bottom(4) >= Duration::from_secs(8));
        assert!(top(60) <= Duration::from_mins(5));
    }

    #[test]
    fn attempts_are_retries_plus_one() {
        let policy = RetryPolicy { max_retries: 2, ..RetryPolicy::DEFAULT };
        assert_eq!(
            [1, 2, 3, 4].map(|attempt| policy.allows_another(attempt)),
            [true, true, false, false]
        );
    }

    proptest! {
        #[test]
        fn a_delay_never_panics_and_never_passes_the_cap(
            max_retries: u32, base_ms: u64, factor: u32, cap_ms in 0..u64::MAX - 1, attempt: u32, seed: u64
        ) {
            let policy = RetryPolicy { max_retries, base_ms, factor, cap_ms };
            prop_assert!(policy.delay(attempt, seed) <= Duration::from_millis(cap_ms));
        }
    }
}
