//! The quota of one scratch directory. Counts what is written and made; removing gives nothing back.

use std::sync::atomic::{AtomicU64, Ordering};

use stem_core::grants::Scratch;

/// What an attempt may still write and make.
#[derive(Debug)]
pub(crate) struct Meter {
    bytes: AtomicU64,
    files: AtomicU64,
}

impl Meter {
    pub(crate) fn new(quota: Scratch) -> Self {
        Self { bytes: AtomicU64::new(quota.bytes), files: AtomicU64::new(quota.files) }
    }

    /// Takes so many bytes, or none if there are fewer left.
    #[must_use]
    pub(crate) fn take_bytes(&self, count: u64) -> bool {
        take(&self.bytes, count)
    }

    /// Takes one file, directory or link, if there is one left.
    #[must_use]
    pub(crate) fn take_file(&self) -> bool {
        take(&self.files, 1)
    }

    /// Of what was taken, what was not used after all.
    pub(crate) fn give_back_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    /// The file that was not made after all.
    pub(crate) fn give_back_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }
}

fn take(left: &AtomicU64, count: u64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count)).is_ok()
}

/// What a write of `len` bytes at `at` costs where the file is at least `end` long: a hole in front of it counts as
/// written, since otherwise single bytes far apart would take a block of the disk each.
pub(crate) fn cost(at: u64, len: u64, end: u64) -> u64 {
    at.saturating_sub(end).saturating_add(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_nothing_is_taken_and_holes_cost_their_length() {
        let meter = Meter::new(Scratch { bytes: 10, files: 1 });
        assert!(!meter.take_bytes(11) && meter.take_bytes(10) && !meter.take_bytes(1));
        meter.give_back_bytes(3);
        assert!(meter.take_bytes(3) && meter.take_bytes(0));
        assert!(meter.take_file() && !meter.take_file());
        meter.give_back_file();
        assert!(meter.take_file());
        assert_eq!((cost(0, 5, 100), cost(100, 5, 100), cost(130, 5, 100)), (5, 5, 35));
        assert_eq!(cost(u64::MAX, 5, 0), u64::MAX);
    }
}
