//! `stem worker multi stop` and `stopwait`

use std::time::Duration;

use super::super::super::Context;
use super::report::{Line, finish};
use super::{each, roster};
use crate::args::NodesArgs;
use crate::error::Outcome;
use crate::nodes::roster::Node;
use crate::nodes::stop::{Stopped, stop};
use crate::output::Printer;

/// With a bound it ends in SIGKILL, without it waits.
pub(super) fn run(context: &Context, args: &NodesArgs, patience: Option<Duration>) -> Outcome {
    let roster = roster(context, args)?;
    let lines = each(&roster.nodes, |node| end(node, patience));
    let action = if patience.is_some() { "stop" } else { "stopwait" };
    finish(Printer::new(args.json.json), action, &lines)
}

pub(super) fn end(node: &Node, patience: Option<Duration>) -> Line {
    match stop(node, patience) {
        Ok(Stopped::NotRunning) => Line::new(node, "not-running"),
        Ok(Stopped::Ended(record)) => Line::new(node, "stopped").of(&record),
        Ok(Stopped::Killed(record)) => Line::new(node, "killed").of(&record),
        Err(error) => Line::new(node, "failed").failed(error),
    }
}
