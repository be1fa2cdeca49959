//! `stem queue …`

mod list;
mod pause;
mod purge;

pub(super) use self::list::unroutable;
pub(super) use self::pause::set_paused;

use super::Context;
use crate::args::Queue;
use crate::error::Outcome;

pub(super) async fn run(context: &Context, command: Queue) -> Outcome {
    match command {
        Queue::List { namespace, json } => list::run(context, namespace, json).await,
        Queue::Purge { name, consent, json } => purge::run(context, name, consent, json).await,
        Queue::Pause { names, reason, json } => pause::pause(context, names, reason, json).await,
        Queue::Resume { names, json } => pause::resume(context, names, json).await,
    }
}
