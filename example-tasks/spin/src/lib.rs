//! The task `spin`: computes for ever, calls nothing of its host, and so can only be ended by force.

use std::hint::black_box;

use serde::Deserialize;
use stem_guest::{Context, TaskError};

/// The task's arguments: an empty object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {}

/// The task. Never returns.
#[stem_guest::task]
pub fn spin(_: &Context, _: Args) -> Result<(), TaskError> {
    let mut state = 1;
    loop {
        state = black_box(step(state));
    }
}

/// One step of a generator that never gets stuck at a fixed point (xorshift, never zero).
fn step(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::time::Duration;

    use serde_json::json;
    use stem_guest::testing::TestHost;

    use super::*;

    #[test]
    fn not_even_a_terminate_reaches_it_by_a_call() {
        let (ended, end) = mpsc::channel();
        // The thread ends with the process: that is what this task is like.
        std::thread::spawn(move || {
            let run = TestHost::new().args(&json!({})).terminate_after(0).run(spin);
            ended.send(run.end)
        });
        assert_eq!(end.recv_timeout(Duration::from_millis(200)), Err(RecvTimeoutError::Timeout));
    }

    #[test]
    fn the_state_keeps_changing() {
        let mut state = 1;
        for _ in 0..10_000 {
            let next = step(state);
            assert!(next != state && next != 0);
            state = next;
        }
    }

    #[test]
    fn it_takes_an_empty_object_only() {
        let run = TestHost::new().args(&json!({ "speed": 1 })).run(spin);
        assert_eq!(run.failure().code(), "invalid-arguments");
    }
}
