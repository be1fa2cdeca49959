//! `stem dlq …`

mod change;
mod list;
mod show;

use serde_json::{Map, Value, json};
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter};
use stem_core::time::Clock;
use stem_engine::SystemClock;

use super::Context;
use crate::args::{DeadArgs, Dlq, Since};
use crate::error::Outcome;
use crate::output::table;
use crate::view::FailureView;

pub(super) async fn run(context: &Context, command: Dlq) -> Outcome {
    match command {
        Dlq::List { filter, json } => list::run(context, filter, json).await,
        Dlq::Show { id, json } => show::run(context, id, json).await,
        Dlq::Replay(args) => change::replay(context, args).await,
        Dlq::Purge(args) => change::purge(context, args).await,
    }
}

fn filter(args: DeadArgs) -> DeadFilter {
    let now = SystemClock.now();
    DeadFilter {
        tasks: args.id,
        queue: args.queue,
        name: args.name,
        reason: args.reason.map(Into::into),
        since: args.since.map(|since| match since {
            Since::At(time) => time,
            Since::Ago(span) => stem_core::time::Timestamp::from_unix_millis(
                now.unix_millis()
                    .saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
            ),
        }),
        limit: args.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
    }
}

/// A dead letter as JSON, without its envelope.
fn document(letter: &DeadLetter) -> Map<String, Value> {
    let mut document = Map::new();
    let mut put = |key: &str, value: Value| document.insert(key.to_owned(), value);
    put("id", json!(letter.task));
    put("name", json!(letter.name));
    put("queue", json!(letter.queue));
    put("reason", json!(letter.reason));
    put("failure", json!(FailureView::from(&letter.failure)));
    put("attempts", json!(letter.history.len()));
    put("deliveryCount", json!(letter.deliveries));
    put("deadAt", json!(letter.dead_at));
    document
}

fn text(letters: &[DeadLetter]) -> String {
    if letters.is_empty() {
        return String::new();
    }
    let rows = letters.iter().map(|letter| {
        vec![
            letter.task.to_string(),
            letter.name.to_string(),
            letter.queue.to_string(),
            letter.reason.as_str().to_owned(),
            letter.deliveries.to_string(),
            letter.dead_at.to_string(),
            stem_core::text::printable(&letter.failure.to_string(), 100),
        ]
    });
    table(&["ID", "NAME", "QUEUE", "REASON", "DELIVERIES", "DEAD", "FAILURE"], rows)
}
