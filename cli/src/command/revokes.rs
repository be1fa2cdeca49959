//! `stem revokes …`

mod list;
mod prune;
mod repair;
mod undo;

use super::Context;
use crate::args::Revokes;
use crate::error::Outcome;

pub(super) async fn run(context: &Context, command: Revokes) -> Outcome {
    match command {
        Revokes::List { namespace, json } => list::run(context, namespace, json).await,
        Revokes::Undo { task, namespace, json } => undo::run(context, task, namespace, json).await,
        Revokes::Repair { json } => repair::run(context, json).await,
        Revokes::Prune { namespace, json } => prune::run(context, namespace, json).await,
    }
}
