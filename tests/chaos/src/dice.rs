//! [`Dice`]: random numbers that a seed repeats.

use std::time::{Duration, SystemTime};

/// Repeatable random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From the seed in `STEM_TEST_SEED`, or from one of its own, which it prints for whoever wants the run again.
    ///
    /// # Panics
    ///
    /// If the variable holds no whole number.
    pub fn from_env() -> Self {
        let seed = std::env::var("STEM_TEST_SEED").map_or_else(
            |_| Self::another_seed(),
            |text| text.parse().expect("STEM_TEST_SEED is a whole number"),
        );
        println!("STEM_TEST_SEED={seed}");
        Self(seed)
    }

    /// One that is hardly ever the same.
    pub fn another_seed() -> u64 {
        SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.subsec_nanos().into())
    }

    /// A number below `end`, which is above 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// A time from `least` up to `most`, in steps of a millisecond.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_millis()).unwrap_or(u64::MAX);
        least + Duration::from_millis(self.below(span.saturating_add(1)))
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(from.len()).ok().filter(|count| *count > 0)?;
        usize::try_from(self.below(count)).ok().and_then(|index| from.get(index))
    }
}
