//! Which commands change something, and what is noted of each.

use serde_json::{Value, json};
use stem_core::control::Drain;
use stem_core::seal::Role;
use stem_core::settlement::DeadReason;
use stem_engine::units::write_duration;

use super::Act;
use crate::args::{
    Command, ControlArgs, DeadChange, Dlq, Key, Keys, Module, NamespaceArg, Queue, RevokeArgs,
    Revokes, Since, Worker,
};

/// What a command line orders; `None` if it changes nothing but tasks of its own, or is only to say what it would do.
pub fn of(command: &Command) -> Option<Act> {
    match command {
        Command::Worker(command) => worker(command),
        Command::Revokes(command) => revokes(command),
        Command::Module(command) => module(command),
        Command::Dlq(Dlq::Replay(change)) => dead("dlq replay", change),
        Command::Dlq(Dlq::Purge(change)) => dead("dlq purge", change),
        Command::Queue(command) => queue(command),
        Command::Keys(command) => keys(command),
        _ => None,
    }
}

/// Without what was not said.
fn said(mut about: Value) -> Value {
    if let Value::Object(map) = &mut about {
        map.retain(|_, value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            _ => true,
        });
    }
    about
}

fn act(what: &'static str, about: Value) -> Act {
    Act { what, is_scoped: false, namespace: None, about: said(about) }
}

fn scoped(what: &'static str, scope: &NamespaceArg, about: Value) -> Act {
    let namespace = scope.namespace.clone();
    Act { what, is_scoped: true, namespace, about: said(about) }
}

fn ordered(what: &'static str, control: &ControlArgs, mut about: Value) -> Act {
    about["workers"] = json!(control.worker);
    scoped(what, &control.namespace, about)
}

fn worker(command: &Worker) -> Option<Act> {
    Some(match command {
        Worker::Revoke(RevokeArgs {
            control,
            task,
            module,
            terminate,
            grace,
            cooperative,
            reason,
            requester,
            ..
        }) => {
            let about = json!({
                "tasks": task,
                "modules": module,
                "terminate": terminate,
                "cooperative": cooperative,
                "grace": grace.map(write_duration),
                "reason": reason,
                "requester": requester,
            });
            ordered("worker revoke", control, about)
        }
        Worker::Shutdown { control, mode, grace } => {
            let about =
                json!({ "mode": Drain::from(*mode).as_str(), "grace": grace.map(write_duration) });
            ordered("worker shutdown", control, about)
        }
        Worker::Pause(args) => ordered(
            "worker pause",
            &args.control,
            json!({ "queues": args.queue, "reason": args.reason }),
        ),
        Worker::Resume(args) => ordered(
            "worker resume",
            &args.control,
            json!({ "queues": args.queue, "reason": args.reason }),
        ),
        _ => return None,
    })
}

fn revokes(command: &Revokes) -> Option<Act> {
    Some(match command {
        Revokes::Undo { task, module, namespace, .. } => {
            let about = json!({ "task": task, "module": module });
            scoped("revokes undo", namespace, about)
        }
        Revokes::Prune { namespace, .. } => scoped("revokes prune", namespace, json!({})),
        Revokes::Repair { .. } => act("revokes repair", json!({})),
        Revokes::List { .. } => return None,
    })
}

fn module(command: &Module) -> Option<Act> {
    Some(match command {
        Module::Push(args) if !args.dry.dry_run => act(
            "module push",
            json!({
                "file": args.file.display().to_string(),
                "name": args.name,
                "canary": args.canary,
                "hold": args.hold,
            }),
        ),
        Module::Rollback(args) if !args.dry.dry_run => {
            act("module rollback", json!({ "name": args.name, "to": args.to }))
        }
        Module::Promote(args) if !args.dry.dry_run => {
            act("module promote", json!({ "name": args.name, "version": args.version }))
        }
        Module::Canary(args) if !args.dry.dry_run => act(
            "module canary",
            json!({ "name": args.name, "percent": args.percent, "version": args.version }),
        ),
        Module::Remove(args) if !args.consent.dry_run => {
            act("module remove", json!({ "name": args.name, "version": args.version }))
        }
        Module::Key(Key::New { file, .. }) => {
            act("module key new", json!({ "file": file.display().to_string() }))
        }
        _ => return None,
    })
}

fn dead(what: &'static str, change: &DeadChange) -> Option<Act> {
    if change.consent.dry_run {
        return None;
    }
    let filter = &change.filter;
    let tasks: Vec<_> = change.ids.iter().chain(&filter.id).collect();
    Some(act(
        what,
        json!({
            "tasks": tasks,
            "queue": filter.queue,
            "name": filter.name,
            "reason": filter.reason.map(|reason| DeadReason::from(reason).as_str()),
            "since": filter.since.map(|since| match since {
                Since::At(time) => time.to_string(),
                Since::Ago(span) => write_duration(span),
            }),
            "limit": filter.limit,
        }),
    ))
}

fn queue(command: &Queue) -> Option<Act> {
    Some(match command {
        Queue::Purge { name, consent, .. } if !consent.dry_run => {
            act("queue purge", json!({ "queues": [name] }))
        }
        Queue::Pause { names, reason, .. } => {
            act("queue pause", json!({ "queues": names, "reason": reason }))
        }
        Queue::Resume { names, .. } => act("queue resume", json!({ "queues": names })),
        Queue::Purge { .. } | Queue::List { .. } => return None,
    })
}

fn keys(command: &Keys) -> Option<Act> {
    Some(match command {
        Keys::New(args) => {
            let roles: Vec<&str> =
                args.role.iter().map(|role| Role::from(*role).as_str()).collect();
            let about = json!({
                "id": args.id,
                "roles": roles,
                "namespaces": args.for_namespace,
                "queues": args.for_queue,
                "workers": args.for_worker,
                "validFor": args.valid_for.map(write_duration),
            });
            act("keys new", about)
        }
        Keys::Rotate(args) => act("keys rotate", json!({ "id": args.id, "as": args.as_id })),
        Keys::Retire(args) => act("keys retire", json!({ "id": args.id, "at": args.at })),
        Keys::List { .. } => return None,
    })
}
