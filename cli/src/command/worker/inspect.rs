//! `stem worker inspect`

use std::fmt::Write;

use serde_json::Value;
use stem_core::control::{Answer, Order};
use stem_core::text::printable;
use stem_engine::units;

use super::super::Context;
use super::{Control, cell, span};
use crate::args::ControlArgs;
use crate::control::{Answers, ask};
use crate::error::Outcome;
use crate::output::table;

pub(super) async fn run(context: &Context, args: ControlArgs, no_revoked: bool) -> Outcome {
    let control = Control::open(context, args).await?;
    let order = Order::Inspect { include_revoked: !no_revoked };
    let answers = ask(&control.backends, control.request(order)).await?;
    control.printer.print(&answers.document(), || text(&answers))?;
    answers.explain()
}

fn items<'a>(payload: &'a Value, key: &str) -> &'a [Value] {
    payload[key].as_array().map_or(&[], Vec::as_slice)
}

/// What the process has given up, and what of it is not to be had; `None` where the worker does not know.
fn hardening(facts: &Value) -> Option<String> {
    if facts.is_null() || facts["mode"] == "off" {
        return facts["mode"].as_str().map(str::to_owned);
    }
    let mut parts = Vec::new();
    parts.extend((facts["noNewPrivs"] == true).then(|| "no_new_privs".to_owned()));
    parts.extend(facts["landlockAbi"].as_i64().map(|abi| format!("landlock (abi {abi})")));
    parts.extend((facts["seccomp"] == true).then(|| "seccomp".to_owned()));
    parts.extend(
        items(facts, "off")
            .iter()
            .filter_map(Value::as_str)
            .map(|why| format!("no {}", printable(why, 200))),
    );
    parts.extend((facts["superuser"] == true).then(|| "runs as root".to_owned()));
    Some(parts.join(", "))
}

/// Each worker with what it runs and what it holds back.
fn text(answers: &Answers) -> String {
    let mut text = String::new();
    for reply in &answers.replies {
        let Answer::Ok { payload } = &reply.answer else { continue };
        let active = items(payload, "active");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {}, {} running",
            reply.worker,
            cell(payload, "state"),
            active.len()
        );
        if let Some(hardening) = hardening(&payload["hardening"]) {
            let _ = writeln!(text, "  hardening: {hardening}");
        }
        if !payload["classes"].is_null() {
            let _ = writeln!(text, "  trust classes: {}", cell(payload, "classes"));
        }
        let paused = items(payload, "pausedQueues");
        if !paused.is_empty() {
            let _ = writeln!(text, "  paused queues: {}", cell(payload, "pausedQueues"));
        }
        if !active.is_empty() {
            let rows = active.iter().map(|task| {
                let terminating = if matches!(task["terminating"], Value::Null | Value::Bool(false))
                {
                    ""
                } else {
                    "terminating"
                };
                vec![
                    format!("  {}", cell(task, "id")),
                    cell(task, "task"),
                    cell(task, "queue"),
                    cell(task, "attempt"),
                    cell(task, "kind"),
                    span(task, "runtimeMs"),
                    if task["neverCheckpointed"] == true {
                        "never".to_owned()
                    } else {
                        span(task, "lastCheckpointMsAgo")
                    },
                    span(task, "leaseExpiresInMs"),
                    terminating.to_owned(),
                ]
            });
            text += &table(
                &["  ID", "TASK", "QUEUE", "ATTEMPT", "KIND", "RUNTIME", "CHECKPOINT", "LEASE", ""],
                rows,
            );
        }
        let quotas = items(payload, "quotas");
        if !quotas.is_empty() {
            let size = |row: &Value, key: &str| {
                row[key].as_u64().map_or_else(|| "-".to_owned(), units::write_bytes)
            };
            let rows = quotas.iter().map(|row| {
                vec![
                    format!("  {} {}", cell(row, "scope"), cell(row, "name")),
                    format!("{}/{}", cell(row, "inflight"), cell(row, "concurrency")),
                    cell(row, "rate"),
                    format!("{}/{}", size(row, "memoryBytes"), size(row, "memoryQuotaBytes")),
                    cell(row, "heldBackBy"),
                ]
            });
            text += &table(&["  QUOTA OF", "RUNNING", "RATE", "MEMORY", "HELD BACK BY"], rows);
        }
        let serves =
            |release: &&Value| release["state"] != "serving" && release["state"] != "canary";
        let idle: Vec<_> = items(payload, "releases").iter().filter(serves).collect();
        if !idle.is_empty() {
            let rows = idle.into_iter().map(|release| {
                vec![
                    format!("  {}", cell(release, "task")),
                    cell(release, "version"),
                    cell(release, "state"),
                    cell(release, "problem"),
                ]
            });
            text += &table(&["  RELEASE NOT SERVED", "VERSION", "STATE", "PROBLEM"], rows);
        }
        let revoked = items(payload, "revoked");
        if !revoked.is_empty() {
            let rows = revoked.iter().map(|record| {
                vec![
                    format!("  {}", cell(record, "taskId")),
                    cell(record, "terminate"),
                    cell(record, "requestedBy"),
                    cell(record, "expiresAt"),
                    cell(record, "reason"),
                ]
            });
            text += &table(&["  REVOKED", "TERMINATE", "BY", "EXPIRES", "REASON"], rows);
        }
    }
    text
}
