//! `stem worker shutdown`

use std::time::Duration;

use stem_core::control::{Drain, Order};

use super::super::Context;
use super::{Control, cell};
use crate::args::{ControlArgs, Mode};
use crate::control::ask;
use crate::error::{CliError, Outcome};

pub(super) async fn run(
    context: &Context,
    args: ControlArgs,
    mode: Mode,
    grace: Option<Duration>,
) -> Outcome {
    let mode = Drain::from(mode);
    if grace.is_some() && mode != Drain::Soft {
        return Err(CliError::usage(
            format!(
                "--grace says when a soft shutdown becomes hard, and --mode is {}",
                mode.as_str()
            ),
            "add --mode soft, or leave --grace out",
        ));
    }
    let control = Control::open(context, args).await?;
    let grace_ms = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
    let answers =
        ask(&control.backends, control.request(Order::Shutdown { mode, grace_ms })).await?;
    answers.report(control.printer, &["MODE", "STATE", "ACTIVE", "ALREADY"], |payload| {
        ["mode", "state", "active", "already"].map(|key| cell(payload, key)).to_vec()
    })
}
