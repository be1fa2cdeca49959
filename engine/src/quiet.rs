//! What others can make happen as often as they like is said now and then, with how often it was not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stem_core::time::Timestamp;

/// Lets one line through in a while.
#[derive(Debug)]
pub(crate) struct Quiet {
    every: Duration,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    last: Option<Timestamp>,
    held_back: u64,
}

impl Quiet {
    /// One line in so long, at most; the first goes at once.
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, said: Mutex::default() }
    }

    /// Whether the line may be said now, by a clock that does not step; then how many were held back since the last that was.
    pub(crate) fn may(&self, now: Timestamp) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| now.since(last) < self.every) {
            said.held_back += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_while_is_said_and_none_is_forgotten() {
        let quiet = Quiet::new(Duration::from_secs(1));
        let said: Vec<_> = [0, 1, 999, 1_000, 1_001, 5_000, 5_500]
            .map(|millis| quiet.may(Timestamp::from_unix_millis(millis)))
            .to_vec();
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1), None]);
    }
}
