//! `stem dlq show`

use serde_json::{Value, json};
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter};
use stem_core::envelope::wire;
use stem_core::id::TaskId;

use super::super::Context;
use super::document;
use crate::args::JsonArg;
use crate::connect;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, base64, payload_json, payload_line, table};
use crate::view::FailureView;

pub(super) async fn run(context: &Context, task: TaskId, json: JsonArg) -> Outcome {
    let settings = context.settings(|_| {})?;
    let backends = connect::connect(&settings).await?;
    let filter = DeadFilter { tasks: vec![task.clone()], limit: 1, ..DeadFilter::default() };
    let letters = backends.dead_letters.list(&filter).await?;
    let letter = letters.first().ok_or_else(|| {
        CliError::nothing(
            format!("there is no dead letter {task}"),
            "`stem dlq list` shows what there is",
        )
    })?;
    Printer::new(json.json).print(&whole(letter), || text(letter))?;
    Ok(Ending::Done)
}

/// With what was enqueued and every failed attempt.
fn whole(letter: &DeadLetter) -> Value {
    let mut document = document(letter);
    let history: Vec<Value> = letter
        .history
        .iter()
        .map(|failed| {
            let mut row = json!({"attempt": failed.attempt, "at": failed.at, "failure": FailureView::from(&failed.failure)});
            if let (Value::Object(row), Some(worker)) = (&mut row, &failed.worker) {
                row.insert("worker".to_owned(), json!(worker));
            }
            row
        })
        .collect();
    document.insert("history".to_owned(), json!(history));
    match wire::decode(&letter.envelope) {
        Ok(envelope) => {
            document.insert("arguments".to_owned(), payload_json(&envelope.payload));
            document.insert("enqueuedAt".to_owned(), json!(envelope.enqueued_at));
            document.insert("maxRetries".to_owned(), json!(envelope.retry.max_retries));
            document.insert("priority".to_owned(), json!(envelope.priority));
            document.insert("headers".to_owned(), json!(envelope.headers));
        }
        Err(error) => {
            document.insert("unreadable".to_owned(), json!(error.to_string()));
            document.insert("envelopeBase64".to_owned(), json!(base64(&letter.envelope)));
        }
    }
    Value::Object(document)
}

fn text(letter: &DeadLetter) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |key: &str, value: String| rows.push(vec![key.to_owned(), value]);
    row("id", letter.task.to_string());
    row("name", letter.name.to_string());
    row("queue", letter.queue.to_string());
    row("reason", letter.reason.as_str().to_owned());
    row("failure", letter.failure.to_string());
    row("deliveries", letter.deliveries.to_string());
    row("dead at", letter.dead_at.to_string());
    match wire::decode(&letter.envelope) {
        Ok(envelope) => {
            row("enqueued at", envelope.enqueued_at.to_string());
            row("arguments", payload_line(&envelope.payload));
            for (name, value) in &envelope.headers {
                row("header", format!("{name}={value}"));
            }
        }
        Err(error) => {
            row("unreadable", format!("{error}; {} bytes are kept", letter.envelope.len()));
        }
    }
    for failed in &letter.history {
        let worker =
            failed.worker.as_ref().map_or_else(String::new, |worker| format!(" on {worker}"));
        row(
            &format!("attempt {}", failed.attempt),
            format!("{}{worker}: {}", failed.at, failed.failure),
        );
    }
    table(&[], rows)
}
