//! What a worker notes in the audit log, if it has one: the orders that it obeys, and whatever it refuses.

use serde_json::{Map, Value, json};
use stem_core::backend::broker::Delivery;
use stem_core::control::{Command, Order};
use stem_core::seal::{By, Refused, Role};

use super::super::shared::Shared;
use crate::audit::{Entry, Verdict, listed};

/// What is known of a command that does nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// What it says, if it could be read.
    pub(super) command: Option<&'a Command>,
    /// Whose signature over it holds.
    pub(super) by: Option<&'a By>,
    /// The key that it names, which proves nothing; or why it cannot be read.
    pub(super) said: &'a str,
}

/// An order that is obeyed. Questions change nothing.
pub(super) fn accepted(shared: &Shared, command: &Command, by: Option<&By>) {
    if let Some(auditor) = &shared.audit
        && command.order.role() == Role::Control
    {
        let entry = auditor.entry(Verdict::Accepted, command.order.as_str());
        auditor.note(of_command(entry, command, by));
    }
}

/// A command that does nothing.
pub(super) fn refused(shared: &Shared, reason: Refused, known: Known<'_>) {
    let Some(auditor) = &shared.audit else { return };
    auditor.note_refused(shared.now(), || {
        let what = known.command.map_or("command", |command| command.order.as_str());
        let entry = auditor.entry(Verdict::Refused, what);
        let entry = Entry { reason: Some(reason.to_string()), ..entry };
        match known.command {
            Some(command) => of_command(entry, command, known.by),
            None => Entry {
                namespace: Some(shared.config.namespace.clone()),
                about: Some(known.said)
                    .filter(|said| !said.is_empty())
                    .map(|said| json!({ "says": said })),
                ..entry
            },
        }
    });
}

/// A task that runs no code.
pub(in crate::worker) fn refused_task(shared: &Shared, delivery: &Delivery, reason: Refused) {
    let Some(auditor) = &shared.audit else { return };
    auditor.note_refused(shared.now(), || {
        let envelope = &delivery.envelope;
        let mut about =
            json!({ "task": envelope.id, "name": envelope.name, "queue": delivery.receipt.queue });
        if let Some(sealed) = &envelope.seal {
            // It proves nothing.
            about["says"] = json!(sealed.seal().key);
        }
        let entry = auditor.entry(Verdict::Refused, "task");
        Entry { reason: Some(reason.to_string()), about: Some(about), ..entry }
    });
}

fn of_command(entry: Entry, command: &Command, by: Option<&By>) -> Entry {
    Entry {
        namespace: Some(command.namespace.clone()),
        request: Some(command.request_id.clone()),
        requester: Some(command.requester.clone()),
        key: by.map(|by| by.key.clone()),
        about: about(command),
        ..entry
    }
}

fn about(command: &Command) -> Option<Value> {
    let mut about = Map::new();
    let mut put = |key: &str, value: Value| about.insert(key.to_owned(), value);
    match &command.order {
        Order::Ping {} | Order::Inspect { .. } | Order::Stats {} => {}
        Order::Revoke { revocations } => {
            put("tasks", json!(listed(revocations.iter().map(|revocation| &revocation.task_id))));
            if revocations.iter().any(|revocation| revocation.request.terminate) {
                put("terminate", json!(true));
            }
        }
        Order::Shutdown { mode, grace_ms } => {
            put("mode", json!(mode.as_str()));
            grace_ms.map(|grace| put("graceMs", json!(grace)));
        }
        Order::Pause { queues, reason } | Order::Resume { queues, reason } => {
            put("queues", json!(listed(queues.iter())));
            reason.as_ref().map(|reason| put("reason", json!(reason)));
        }
    }
    if let Some(targets) = &command.targets {
        put("workers", json!(listed(targets.iter())));
    }
    (!about.is_empty()).then_some(Value::Object(about))
}
