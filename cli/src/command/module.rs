//! `stem module …`

mod assign;
mod check;
mod key;
mod list;
mod needs;
mod push;
mod remove;
mod shelf;

use super::Context;
use crate::args::Module;
use crate::error::Outcome;

pub(super) async fn run(context: &Context, command: Module) -> Outcome {
    match command {
        Module::Check(args) => check::run(context, args).await,
        Module::Push(args) => push::run(context, args).await,
        Module::List(json) => list::run(context, json).await,
        Module::Show { name, json } => list::show(context, name, json).await,
        Module::Rollback(args) => assign::rollback(context, args).await,
        Module::Promote(args) => assign::promote(context, args).await,
        Module::Canary(args) => assign::canary(context, args).await,
        Module::Remove(args) => remove::run(context, args).await,
        Module::Key(command) => key::run(&command),
    }
}
