//! `stem worker ping`

use stem_core::control::Order;

use super::super::Context;
use super::{Control, cell};
use crate::args::ControlArgs;
use crate::control::ask;
use crate::error::Outcome;

pub(super) async fn run(context: &Context, args: ControlArgs) -> Outcome {
    let control = Control::open(context, args).await?;
    let answers = ask(&control.backends, control.request(Order::Ping {})).await?;
    answers.report(control.printer, &["STATE", "QUEUES", "INFLIGHT", "BOOT"], |payload| {
        ["state", "queues", "inflight", "bootId"].map(|key| cell(payload, key)).to_vec()
    })
}
