//! [`Dice`]: random numbers that a seed repeats, in streams that do not disturb each other.

/// Repeatable random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Dice(u64);

/// The finalizer of `SplitMix64`.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, for names in place of numbers.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Dice {
    /// A stream of its own for these names: what is drawn from it moves no other.
    pub fn of(seed: u64, names: &[&str]) -> Self {
        names.iter().fold(Self::numbered(seed, &[]), |dice, name| Self(mix(dice.0 ^ hash(name))))
    }

    /// The same with numbers for names.
    pub fn numbered(seed: u64, numbers: &[u64]) -> Self {
        Self(numbers.iter().fold(mix(seed ^ 0x9e37_79b9_7f4a_7c15), |state, number| {
            mix(state.rotate_left(17) ^ number.wrapping_add(0x9e37_79b9_7f4a_7c15))
        }))
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0).checked_rem(end).unwrap_or(0)
    }

    /// A number from `least` up to `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True in so many of 1000 throws.
    pub fn chance(&mut self, of_1000: u64) -> bool {
        self.below(1_000) < of_1000
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(from.len() as u64);
        &from[usize::try_from(index).expect("below the length")]
    }
}
