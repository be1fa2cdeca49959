//! `stem queue pause` and `stem queue resume`: for every worker, also those that start later.

use serde_json::json;
use stem_core::backend::broker::Pause;
use stem_core::backend::{BackendError, Broker};
use stem_core::id::QueueName;
use stem_core::time::Clock;
use stem_engine::SystemClock;

use super::super::Context;
use crate::args::JsonArg;
use crate::connect;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::Printer;

pub(super) async fn pause(
    context: &Context,
    names: Vec<QueueName>,
    reason: Option<String>,
    json: JsonArg,
) -> Outcome {
    let pause = Pause { reason, since: SystemClock.now() };
    set(context, names, Some(&pause), json).await
}

pub(super) async fn resume(context: &Context, names: Vec<QueueName>, json: JsonArg) -> Outcome {
    set(context, names, None, json).await
}

/// Pauses queues, or resumes them; says for which ones that changed anything.
pub(in crate::command) async fn set_paused(
    broker: &dyn Broker,
    names: &[QueueName],
    pause: Option<&Pause>,
) -> Result<Vec<QueueName>, BackendError> {
    let mut updated = Vec::new();
    for name in names {
        if broker.set_paused(name, pause.cloned()).await? {
            updated.push(name.clone());
        }
    }
    Ok(updated)
}

async fn set(
    context: &Context,
    mut names: Vec<QueueName>,
    pause: Option<&Pause>,
    json: JsonArg,
) -> Outcome {
    names.sort();
    names.dedup();
    let settings = context.settings(|_| {})?;
    if pause.is_some() {
        connect::refuse_memory(&settings.broker_url, "the pause")?;
    }
    let broker = connect::broker(&settings).await?;
    let updated = set_paused(&*broker, &names, pause).await?;
    let paused: Vec<QueueName> = broker
        .queues()
        .await?
        .into_iter()
        .filter(|queue| queue.paused.is_some())
        .map(|queue| queue.name)
        .collect();
    let (now, already) = if pause.is_some() {
        ("paused", "was paused already")
    } else {
        ("resumed", "was not paused")
    };
    Printer::new(json.json).print(&json!({"updated": updated, "paused": paused}), || {
        let lines: Vec<String> = names
            .iter()
            .map(|name| format!("{name} {}", if updated.contains(name) { now } else { already }))
            .collect();
        lines.join("\n")
    })?;
    Ok(Ending::Done)
}
