//! `stem task enqueue`

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use stem_core::id::{QueueName, TaskName};
use stem_core::retry::RetryPolicy;
use stem_core::tenant;
use stem_core::time::Clock;
use stem_engine::{Client, EnqueueOptions, SystemClock};

use super::super::Context;
use super::arguments::{self, Origin};
use super::{client, unknown, wait};
use crate::args::EnqueueArgs;
use crate::connect;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::follow;
use crate::output::{Printer, say};
use crate::settings::Settings;
use crate::telemetry::OfProducer;
use crate::view::RecordView;

pub(super) async fn run(context: &Context, args: EnqueueArgs) -> Outcome {
    let settings = context.settings(|flags| {
        flags.namespace.clone_from(&args.namespace.namespace);
        flags.task_queue.clone_from(&args.queue);
        flags.max_retries = args.max_retries;
    })?;
    let payload = arguments::read(origin(&args), args.media_type.as_deref())?;
    let options = options(&args, &settings)?;
    let queue = options.queue.clone();
    connect::refuse_memory(&settings.broker_url, "the task")?;
    let keys = settings.signing.open()?;
    let client = client(&settings).await?.with_keys(keys);
    let trace = OfProducer::start(&settings, &context.environment, &queue, &args.name)?;
    let options = EnqueueOptions { trace_parent: trace.trace_parent(), ..options };
    let enqueued = match client.enqueue(args.name.clone(), payload, options).await {
        Ok(enqueued) => enqueued,
        Err(error) => {
            trace.failed().await;
            return Err(error.into());
        }
    };
    trace.enqueued(&enqueued).await;
    if enqueued.deduplicated {
        say(format!("note: task {} was there already; nothing was enqueued", enqueued.id));
    } else {
        warn_unless_known(&client, &settings, &args.name, &queue).await;
    }
    let printer = Printer::new(args.json.json);
    if !args.wait {
        let mut document = json!({ "id": enqueued.id, "deduplicated": enqueued.deduplicated });
        // The task that was there has a pin of its own, or none.
        if let (Some(digest), Value::Object(document)) = (&args.module, &mut document)
            && !enqueued.deduplicated
        {
            document.insert("module".to_owned(), json!(digest));
        }
        printer.print(&document, || enqueued.id.to_string())?;
        return Ok(Ending::Done);
    }
    say(format!("task {}", enqueued.id));
    let record = follow::to_the_end(&client, &enqueued.id, None, context.lively()).await?;
    let record = record.ok_or_else(|| unknown(&enqueued.id))?;
    let mut document = serde_json::to_value(RecordView::from(&record)).unwrap_or_default();
    if let Value::Object(document) = &mut document {
        document.insert("deduplicated".to_owned(), json!(enqueued.deduplicated));
    }
    wait::conclude(printer, &record, &document)
}

fn origin(args: &EnqueueArgs) -> Origin<'_> {
    match (&args.json_args, &args.args_file, &args.stdin) {
        (Some(text), _, _) => Origin::Text(text),
        (_, Some(path), _) => Origin::File(path),
        (_, _, Some(dash)) => Origin::File(Path::new(dash)),
        (None, None, None) => Origin::Nowhere,
    }
}

fn options(args: &EnqueueArgs, settings: &Settings) -> Result<EnqueueOptions, CliError> {
    let now = SystemClock.now();
    let mut headers = BTreeMap::new();
    for (name, value) in &args.header {
        if headers.insert(name.clone(), value.clone()).is_some() {
            return Err(CliError::usage(
                format!("--header {name} is given twice"),
                "give each header once",
            ));
        }
    }
    if let Some(tenant) = &args.tenant
        && headers.insert(tenant::HEADER.to_owned(), tenant.to_string()).is_some()
    {
        return Err(CliError::usage(
            "--tenant and --header tenant=… say the same thing",
            "give one of them",
        ));
    }
    Ok(EnqueueOptions {
        queue: settings.default_queue.value.clone(),
        priority: args.priority,
        not_before: args.delay.map(|delay| now.after(delay)).or(args.eta),
        expires_at: args.expires_in.map(|span| now.after(span)),
        retry: RetryPolicy { max_retries: settings.max_retries.value, ..RetryPolicy::DEFAULT },
        timeout: args.timeout,
        id: args.id.clone(),
        unique_key: args.unique.clone(),
        module: args.module,
        trace_parent: None,
        headers,
    })
}

/// Says so when no live worker would take the task. It is stored all the same.
async fn warn_unless_known(
    client: &Client,
    settings: &Settings,
    name: &TaskName,
    queue: &QueueName,
) {
    let namespace = &settings.namespace.value;
    let (heartbeats, now) = match client.backends().presence.workers(namespace).await {
        Ok(found) => found,
        Err(error) => {
            return say(format!("warning: the workers that are alive cannot be told: {error}"));
        }
    };
    let knows = heartbeats.iter().any(|worker| {
        worker.is_fresh(now) && worker.tasks.contains(name) && worker.queues.contains_key(queue)
    });
    if !knows {
        say(format!(
            "warning: no live worker in namespace {namespace} serves queue {queue} and knows {name}; the task waits for one"
        ));
    }
}
