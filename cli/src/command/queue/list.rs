//! `stem queue list`

use serde_json::{Map, Value, json};
use stem_core::backend::broker::QueueStatus;
use stem_core::control::Heartbeat;

use super::super::Context;
use crate::args::{JsonArg, NamespaceArg};
use crate::connect;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::{Printer, say, table};

pub(super) async fn run(context: &Context, namespace: NamespaceArg, json: JsonArg) -> Outcome {
    let settings = context.settings(|flags| flags.namespace = namespace.namespace)?;
    let (broker, presence) = connect::broker_and_presence(&settings).await?;
    let queues = broker.queues().await?;
    let (mut workers, now) = presence.workers(&settings.namespace.value).await?;
    workers.retain(|worker| worker.is_fresh(now));
    let printer = Printer::new(json.json);
    let documents: Vec<Value> = queues.iter().map(|queue| document(queue, &workers)).collect();
    printer.print(&documents, || text(&queues, &workers))?;
    if queues.is_empty() && !printer.is_json() {
        say("no queue holds or held anything");
    }
    Ok(Ending::Done)
}

/// Waiting tasks that no live worker would take.
pub(in crate::command) fn unroutable(queue: &QueueStatus, workers: &[Heartbeat]) -> u64 {
    let known = |name| {
        workers
            .iter()
            .any(|worker| worker.queues.contains_key(&queue.name) && worker.tasks.contains(name))
    };
    queue.names.iter().filter(|(name, _)| !known(name)).map(|(_, count)| count).sum()
}

fn document(queue: &QueueStatus, workers: &[Heartbeat]) -> Value {
    let mut document = Map::new();
    let mut put = |key: &str, value: Value| document.insert(key.to_owned(), value);
    put("name", json!(queue.name));
    put("depth", json!(queue.ready));
    put("delayed", json!(queue.delayed));
    put("inflight", json!(queue.inflight));
    put("paused", json!(queue.paused.is_some()));
    if let Some(pause) = &queue.paused {
        put("pausedSince", json!(pause.since));
        if let Some(reason) = &pause.reason {
            put("pauseReason", json!(reason));
        }
    }
    put("unroutable", json!(unroutable(queue, workers)));
    let tasks: Vec<Value> =
        queue.names.iter().map(|(name, count)| json!({"name": name, "count": count})).collect();
    put("tasks", json!(tasks));
    Value::Object(document)
}

fn text(queues: &[QueueStatus], workers: &[Heartbeat]) -> String {
    if queues.is_empty() {
        return String::new();
    }
    let rows = queues.iter().map(|queue| {
        let paused = queue.paused.as_ref().map_or_else(
            || "no".to_owned(),
            |pause| {
                pause
                    .reason
                    .as_deref()
                    .map_or_else(|| "yes".to_owned(), |reason| format!("yes: {reason}"))
            },
        );
        vec![
            queue.name.to_string(),
            queue.ready.to_string(),
            queue.delayed.to_string(),
            queue.inflight.to_string(),
            unroutable(queue, workers).to_string(),
            paused,
        ]
    });
    table(&["QUEUE", "READY", "DELAYED", "INFLIGHT", "UNROUTABLE", "PAUSED"], rows)
}
