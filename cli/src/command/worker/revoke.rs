//! `stem worker revoke`: first into the store, then to the workers. If the store fails, nobody is told anything.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};
use stem_core::backend::{BackendError, RevokeStore};
use stem_core::control::{Order, REVOCATIONS};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevokeRequest, module_key, module_of};
use stem_core::seal::Role;
use stem_engine::revocations::time_to_count_from;
use stem_engine::{RevokePolicy, SystemClock};

use super::super::Context;
use super::super::revokes::called;
use super::{Control, cell};
use crate::args::{Expiry, RevokeArgs};
use crate::connect::Opener;
use crate::control::{Answers, ask, may_order};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say, table};
use crate::view::how_text;
use crate::{connect, identity};

pub(super) async fn run(context: &Context, args: RevokeArgs) -> Outcome {
    let requester = args.requester.clone().unwrap_or_else(identity::user);
    let timeout_flag = args.control.timeout;
    if let Some(build) = args.task.iter().find_map(module_of) {
        return Err(CliError::usage(
            format!("--task module:{build} is no task's id: it stands for a build"),
            format!("recall the build with --module {build}"),
        ));
    }
    let named = args.task.len() + args.module.len();
    if named > REVOCATIONS {
        return Err(CliError::usage(
            format!(
                "{named} tasks and builds are named, and one order takes {REVOCATIONS} at most"
            ),
            "revoke them by several commands",
        ));
    }
    let settings = Control::settings(context, &args.control)?;
    connect::refuse_memory(&settings.revoke_store_url, "the revocation")?;
    let namespace = &settings.namespace.value;
    let keys = settings.signing.open()?;
    may_order(&keys, Role::Control, namespace)?;
    // The store first and alone: a broker that is away must not keep the order from being stored.
    let mut opener = Opener::new(&settings);
    let revokes = opener.revokes().await?;
    let now = time_to_count_from(&*revokes, &SystemClock).await?;
    let revoke = RevokeRequest {
        terminate: args.terminate || args.cooperative || args.grace.is_some(),
        cooperative: args.cooperative,
        grace_ms: args.grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
        reason: args.reason,
        requested_by: Some(requester.clone()),
        expires_at: args.expires_in.unwrap_or(Expiry::DEFAULT).counted_from(now),
    };
    let tasks: BTreeSet<TaskId> = args.task.into_iter().collect();
    let modules: BTreeSet<TaskId> = args.module.iter().map(module_key).collect();
    // A build that is recalled must not run on, and is no better after a month.
    let recall = RevokeRequest {
        terminate: true,
        expires_at: args.expires_in.unwrap_or(Expiry::Never).counted_from(now),
        ..revoke.clone()
    };
    let tasks = tasks.into_iter().map(|task| (task, revoke.clone()));
    let requests: Vec<(TaskId, RevokeRequest)> =
        tasks.chain(modules.into_iter().map(|module| (module, recall.clone()))).collect();
    let mut results = None;
    let tell = async |order| {
        let mut request = Control::request_with(&settings, &keys, &args.control, order);
        request.requester = requester;
        if let Some(grace) = args.grace.filter(|_| timeout_flag.is_none()) {
            // A worker answers when the task has stopped, which may take the whole grace.
            request.timeout += grace;
        }
        request.send_to_nobody = true;
        let backends = opener.all(RevokePolicy::FailClosed).await?;
        let answers = ask(&backends, request).await?;
        results = Some(backends.results);
        Ok(answers)
    };
    let (persisted, asked) = store_then_tell(&*revokes, namespace, &requests, tell).await?;
    let untold = Answers::nobody_asked(namespace);
    let answers = asked.as_ref().unwrap_or(&untold);
    let mut document = answers.document();
    document.insert("persisted".to_owned(), json!(persisted));
    document.insert("store".to_owned(), json!(settings.revoke_store_url.value.to_string()));
    document.insert("acknowledgedBy".to_owned(), json!(answers.acknowledged_by()));
    if asked.is_err() {
        // It is stored, so it holds; whoever asked must learn that, too.
        document.insert("broadcast".to_owned(), json!("pending"));
    }
    Printer::new(args.control.json.json).print(&document, || text(&persisted, answers))?;
    let answers = asked.map_err(|mut error| {
        error.what =
            format!("the revocation is stored, and the workers could not be told: {}", error.what);
        error.hint = format!("workers also follow the store, within a second; {}", error.hint);
        error
    })?;
    for (task, _) in requests.iter().filter(|(key, _)| module_of(key).is_none()) {
        let Some(results) = &results else { break };
        // Only a courtesy, so an error says nothing: the order holds whatever the records know.
        if matches!(results.fetch(task).await, Ok(None)) {
            say(format!("note: no task {task} is known yet; the order holds if it comes"));
        }
    }
    if answers.expected.is_empty() {
        say(format!(
            "note: no worker is alive in namespace {namespace}; the next one to start obeys"
        ));
        return Ok(Ending::Done);
    }
    answers.explain()
}

/// Stores revocations, and then has the workers told what was stored. An error means that nobody was told; once they are
/// stored, whether the workers could be told is no error of this, since workers follow the store too.
pub(in crate::command) async fn store_then_tell(
    revokes: &dyn RevokeStore,
    namespace: &Namespace,
    requests: &[(TaskId, RevokeRequest)],
    tell: impl AsyncFnOnce(Order) -> Result<Answers, CliError>,
) -> Result<(Vec<Revocation>, Result<Answers, CliError>), BackendError> {
    let persisted = revokes.revoke(namespace, requests).await?;
    let told = tell(Order::Revoke { revocations: persisted.clone() }).await;
    Ok((persisted, told))
}

fn text(persisted: &[Revocation], answers: &Answers) -> String {
    let mut text = String::new();
    for revocation in persisted {
        let kept = revocation
            .request
            .expires_at
            .map_or_else(|| "for ever".to_owned(), |at| format!("until {at}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "revoked {}: {}; the order is kept {kept}",
            called(&revocation.task_id),
            how_text(&revocation.request)
        );
    }
    let rows: Vec<Vec<String>> = answers
        .replies
        .iter()
        .filter_map(|reply| match &reply.answer {
            stem_core::control::Answer::Ok { payload } => Some(vec![
                reply.worker.to_string(),
                cell(payload, "applied"),
                cell(payload, "inflight"),
                terminated(payload),
            ]),
            stem_core::control::Answer::Error { .. } => None,
        })
        .collect();
    if !rows.is_empty() {
        text += &table(&["WORKER", "APPLIED", "INFLIGHT", "TERMINATED"], rows);
    }
    text
}

fn terminated(payload: &Value) -> String {
    let ended: Vec<String> = payload["terminated"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|task| {
            let elapsed = match task["elapsedMs"].as_f64() {
                Some(elapsed) if task["how"] != "before-start" => format!(", {elapsed:.3} ms"),
                _ => String::new(),
            };
            format!("{} ({}{elapsed})", cell(task, "id"), cell(task, "how"))
        })
        .collect();
    if ended.is_empty() { "-".to_owned() } else { ended.join(", ") }
}
