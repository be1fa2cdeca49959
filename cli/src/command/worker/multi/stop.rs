//! `stem worker multi stop` and `stopwait`

use std::time::Duration;

use super::super::super::Context;
use super::report::{Line, finish};
use super::{each, findable, roster};
use crate::args::NodesArgs;
use crate::error::{CliError, Outcome};
use crate::nodes::roster::Node;
use crate::nodes::stop::{Stopped, stop};
use crate::output::Printer;

/// With a bound it ends in SIGKILL, without it waits.
pub(super) fn run(context: &Context, args: &NodesArgs, patience: Option<Duration>) -> Outcome {
    findable(args)?;
    let roster = roster(context, args)?;
    let lines = each(&roster.nodes, |node| of(node, stop(node, patience)));
    let action = if patience.is_some() { "stop" } else { "stopwait" };
    finish(Printer::new(args.json.json), action, &lines)
}

/// What became of a node that was to end.
pub(super) fn of(node: &Node, ended: Result<Stopped, CliError>) -> Line {
    match ended {
        Ok(Stopped::NotRunning) => Line::new(node, "not-running"),
        Ok(Stopped::Ended(record)) => Line::new(node, "stopped").of(&record),
        Ok(Stopped::Killed(record)) => Line::new(node, "killed").of(&record),
        Err(error) => Line::new(node, "failed").failed(error),
    }
}
