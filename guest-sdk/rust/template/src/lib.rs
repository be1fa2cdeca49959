//! The task `{{name}}`: adds up numbers, slowly if asked to, and goes on where an earlier attempt ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use stem_guest::{Context, TaskError};

/// After so many numbers come progress and a checkpoint.
const BATCH: usize = 10;

/// What the task is given.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    numbers: Vec<Value>,
    /// Time spent on each number.
    #[serde(default)]
    delay_ms: u64,
}

/// What it returns.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sum {
    sum: Option<Number>,
    count: usize,
    /// Numbers that an earlier attempt had done.
    resumed_at: usize,
}

/// What the next attempt needs.
#[derive(Debug, Default, Deserialize, Serialize)]
struct State {
    done: usize,
    sum: f64,
}

/// The task.
#[stem_guest::task]
pub fn add_up(ctx: &Context, args: Args) -> Result<Sum, TaskError> {
    let mut now: State = ctx.checkpoint().load()?.unwrap_or_default();
    let resumed_at = now.done;
    if resumed_at > 0 {
        stem_guest::info!(ctx, "going on"; after = resumed_at);
    }
    if let Err(stopped) = work(ctx, &args, &mut now) {
        // A stop notice leaves time for this, and the next attempt then repeats nothing.
        ctx.checkpoint().save(&now)?;
        return Err(stopped);
    }
    Ok(Sum { sum: number(now.sum), count: now.done, resumed_at })
}

fn work(ctx: &Context, args: &Args, now: &mut State) -> Result<(), TaskError> {
    let all = args.numbers.len();
    while now.done < all {
        let value = &args.numbers[now.done];
        let number = value.as_f64().ok_or_else(|| {
            TaskError::fatal("bad-number", format!("numbers[{}] is {value}", now.done))
        })?;
        if args.delay_ms > 0 {
            ctx.sleep(Duration::from_millis(args.delay_ms))?;
        }
        ctx.heartbeat()?;
        now.sum += number;
        now.done += 1;
        if now.done.is_multiple_of(BATCH) || now.done == all {
            ctx.checkpoint().save(&now)?;
            let fraction = now.done as f64 / all as f64;
            ctx.progress(fraction, format!("number {} of {all}", now.done))?;
        }
    }
    Ok(())
}

/// A whole number where the sum is one: 6, not 6.0. None for a sum that JSON cannot say.
fn number(sum: f64) -> Option<Number> {
    if sum.fract() == 0.0 && sum.abs() < 1e15 {
        return Some(Number::from(sum as i64));
    }
    Number::from_f64(sum)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stem_guest::StopNotice;
    use stem_guest::testing::{End, TestHost};

    use super::*;

    fn twenty() -> TestHost {
        let numbers: Vec<u32> = (1..=20).collect();
        TestHost::new().args(&json!({ "numbers": numbers, "delayMs": 5 }))
    }

    #[test]
    fn it_adds_up() {
        let run = twenty().run(add_up);
        assert_eq!(run.json::<Value>(), json!({ "sum": 210, "count": 20, "resumedAt": 0 }));
        assert_eq!(run.progress.last().unwrap().message.as_deref(), Some("number 20 of 20"));
        assert_eq!(run.elapsed, Duration::from_millis(100));
    }

    #[test]
    fn the_attempt_after_an_end_by_force_goes_on_at_the_checkpoint() {
        // Eleven beats for ten numbers.
        let first = twenty().terminate_after(12).run(add_up);
        assert_eq!(first.end, End::Terminated);
        let second = twenty().attempt(2, 4).checkpoint_bytes(first.checkpoint.unwrap()).run(add_up);
        assert_eq!(second.json::<Value>(), json!({ "sum": 210, "count": 20, "resumedAt": 10 }));
    }

    #[test]
    fn a_stop_notice_saves_what_is_done() {
        let first = twenty().stop_after(3, StopNotice::new("revoked")).run(add_up);
        assert_eq!(first.failure().code(), "revoked");
        let second = twenty().checkpoint_bytes(first.checkpoint.unwrap()).run(add_up);
        assert_eq!(second.json::<Value>(), json!({ "sum": 210, "count": 20, "resumedAt": 3 }));
    }

    #[test]
    fn what_is_no_number_is_fatal() {
        let run = TestHost::new().args(&json!({ "numbers": [1, "two"] })).run(add_up);
        assert_eq!(run.failure().code(), "bad-number");
        assert!(!run.failure().is_retryable());
        let run = TestHost::new().args(&json!({ "numbers": 1 })).run(add_up);
        assert_eq!(run.failure().code(), "invalid-arguments");
    }
}
