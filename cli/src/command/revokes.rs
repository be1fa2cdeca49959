//! `stem revokes …`

mod list;
mod prune;
mod repair;
mod undo;

use stem_core::id::TaskId;
use stem_core::revoke::{module_key, module_of};

use super::Context;
use crate::args::Revokes;
use crate::error::Outcome;

pub(super) async fn run(context: &Context, command: Revokes) -> Outcome {
    match command {
        Revokes::List { namespace, json } => list::run(context, namespace, json).await,
        Revokes::Undo { task, module, namespace, json } => {
            let key = task.or_else(|| module.as_ref().map(module_key));
            let key = key.expect("the command line asks for one of them");
            undo::run(context, key, namespace, json).await
        }
        Revokes::Repair { json } => repair::run(context, json).await,
        Revokes::Prune { namespace, json } => prune::run(context, namespace, json).await,
    }
}

/// What a revocation is about, in a sentence.
pub(in crate::command) fn called(key: &TaskId) -> String {
    match module_of(key) {
        Some(module) => format!("module {module}"),
        None => format!("task {key}"),
    }
}
