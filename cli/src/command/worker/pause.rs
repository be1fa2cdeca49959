//! `stem worker pause` and `stem worker resume`

use stem_core::control::Order;
use stem_core::id::QueueName;

use super::super::Context;
use super::{Control, cell};
use crate::args::{ControlArgs, PauseArgs};
use crate::control::ask;
use crate::error::Outcome;

pub(super) async fn pause(context: &Context, args: PauseArgs) -> Outcome {
    let order = Order::Pause { queues: distinct(args.queue), reason: args.reason };
    tell(context, args.control, order).await
}

pub(super) async fn resume(context: &Context, args: PauseArgs) -> Outcome {
    let order = Order::Resume { queues: distinct(args.queue), reason: args.reason };
    tell(context, args.control, order).await
}

fn distinct(mut queues: Vec<QueueName>) -> Vec<QueueName> {
    queues.sort();
    queues.dedup();
    queues
}

async fn tell(context: &Context, args: ControlArgs, order: Order) -> Outcome {
    let control = Control::open(context, args).await?;
    let answers = ask(&control.backends, control.request(order)).await?;
    answers.report(control.printer, &["UPDATED", "PAUSED"], |payload| {
        ["updated", "paused"].map(|key| cell(payload, key)).to_vec()
    })
}
