//! The task `crunch`: adds up numbers one by one, as slowly as asked, and picks up where an earlier attempt stopped.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Number;
use stem_guest::{Context, TaskError};

/// After so many items come a heartbeat, progress and a checkpoint.
pub const BATCH: usize = 10;

/// The task's arguments.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Args {
    items: Vec<f64>,
    /// Time spent on each item.
    #[serde(default)]
    delay_ms: u64,
}

/// The task's result.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Crunched {
    processed: usize,
    sum: Option<Number>,
    /// Items that an earlier attempt had done.
    resumed_at: usize,
}

/// What the next attempt needs.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Done {
    items: usize,
    sum: f64,
}

/// The task.
#[stem_guest::task]
pub fn crunch(ctx: &Context, args: Args) -> Result<Crunched, TaskError> {
    let resumed: Done = ctx.checkpoint().load()?.unwrap_or_default();
    if resumed.items > args.items.len() {
        return Err(TaskError::fatal("invalid-checkpoint", "more items are done than there are"));
    }
    if resumed.items > 0 {
        stem_guest::info!(ctx, "picking up"; item = resumed.items, attempt = ctx.attempt());
    }
    let mut done = resumed;
    if let Err(stopped) = work(ctx, &args, &mut done) {
        // A notice leaves time for this, and the next attempt then repeats nothing.
        ctx.checkpoint().save(&done)?;
        return Err(stopped);
    }
    Ok(Crunched { processed: done.items, sum: number(done.sum), resumed_at: resumed.items })
}

fn work(ctx: &Context, args: &Args, done: &mut Done) -> Result<(), TaskError> {
    for item in &args.items[done.items..] {
        if args.delay_ms > 0 {
            ctx.sleep(Duration::from_millis(args.delay_ms))?;
        }
        done.sum += item;
        done.items += 1;
        if done.items.is_multiple_of(BATCH) {
            ctx.checkpoint().save(done)?;
            ctx.heartbeat()?;
            let all = args.items.len();
            #[expect(
                clippy::cast_precision_loss,
                reason = "there are fewer items than an f64 counts"
            )]
            ctx.progress(done.items as f64 / all as f64, format!("item {} of {all}", done.items))?;
        }
    }
    Ok(())
}

/// A whole number where the sum is one: 55, not 55.0. None for a sum beyond what JSON can say.
fn number(sum: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if sum.fract() == 0.0 && sum.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "just checked")]
        return Some(Number::from(sum as i64));
    }
    Number::from_f64(sum)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stem_guest::StopNotice;
    use stem_guest::testing::{End, TestHost};

    use super::*;

    fn host(items: u32, delay_ms: u64) -> TestHost {
        TestHost::new()
            .args(&json!({ "items": (1..=items).collect::<Vec<_>>(), "delayMs": delay_ms }))
    }

    #[test]
    fn it_adds_up_all_items() {
        let run = host(25, 0).run(crunch);
        assert_eq!(run.json::<Value>(), json!({ "processed": 25, "sum": 325, "resumedAt": 0 }));
        let run = TestHost::new().args(&json!({ "items": [0.5, 0.25] })).run(crunch);
        assert_eq!(run.json::<Value>()["sum"], json!(0.75));
        let run = host(0, 0).run(crunch);
        assert_eq!(run.json::<Value>(), json!({ "processed": 0, "sum": 0, "resumedAt": 0 }));
    }

    #[test]
    fn every_ten_items_it_beats_tells_and_saves() {
        let run = host(25, 0).run(crunch);
        let messages: Vec<_> =
            run.progress.iter().map(|update| update.message.clone().unwrap()).collect();
        assert_eq!(messages, ["item 10 of 25", "item 20 of 25"]);
        assert_eq!(run.beats, 4);
        assert_eq!(run.checkpoint_json::<Value>(), json!({ "items": 20, "sum": 210.0 }));
    }

    #[test]
    fn each_item_takes_its_delay() {
        assert_eq!(host(25, 40).run(crunch).elapsed, Duration::from_secs(1));
        assert_eq!(host(25, 0).run(crunch).elapsed, Duration::ZERO);
    }

    #[test]
    fn the_attempt_after_an_end_by_force_picks_up_at_the_checkpoint() {
        let first = host(25, 5).terminate_after(3).run(crunch);
        assert_eq!(first.end, End::Terminated);
        let second =
            host(25, 5).attempt(2, 4).checkpoint_bytes(first.checkpoint.unwrap()).run(crunch);
        assert_eq!(second.json::<Value>(), json!({ "processed": 25, "sum": 325, "resumedAt": 20 }));
        assert_eq!(second.log[0].message, "picking up");
    }

    #[test]
    fn a_stop_notice_saves_every_item_done() {
        let first = host(25, 100).soft_limit(Duration::from_millis(1650)).run(crunch);
        assert_eq!(first.failure().code(), "soft-time-limit");
        let second = host(25, 100).checkpoint_bytes(first.checkpoint.unwrap()).run(crunch);
        assert_eq!(second.json::<Value>(), json!({ "processed": 25, "sum": 325, "resumedAt": 16 }));

        let run = host(25, 0).stop_after(0, StopNotice::new("worker-drain")).run(crunch);
        assert!(run.failure().is_retryable());
        assert_eq!(run.checkpoint_json::<Value>()["items"], 10);
    }

    #[test]
    fn what_does_not_fit_is_fatal() {
        let run = TestHost::new().args(&json!({ "items": ["one"] })).run(crunch);
        assert_eq!(run.failure().code(), "invalid-arguments");
        let run = host(3, 0).checkpoint(&json!({ "items": 4, "sum": 0.0 })).run(crunch);
        assert_eq!(run.failure().code(), "invalid-checkpoint");
    }
}
