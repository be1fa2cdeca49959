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
    tell(context, args.control, order, None).await
}

pub(super) async fn resume(context: &Context, args: PauseArgs) -> Outcome {
    let order = Order::Resume { queues: distinct(args.queue) };
    tell(context, args.control, order, args.reason.as_deref()).await
}

fn distinct(mut queues: Vec<QueueName>) -> Vec<QueueName> {
    queues.sort();
    queues.dedup();
    queues
}

async fn tell(context: &Context, args: ControlArgs, order: Order, reason: Option<&str>) -> Outcome {
    let control = Control::open(context, args).await?;
    let mut request = control.request(order);
    if let Some(reason) = reason {
        // A resume has no other place for it: it reaches the workers with the name of who asks.
        request.requester = format!("{} ({reason})", request.requester);
    }
    let answers = ask(&control.backends, request).await?;
    answers.report(control.printer, &["UPDATED", "PAUSED"], |payload| {
        ["updated", "paused"].map(|key| cell(payload, key)).to_vec()
    })
}
