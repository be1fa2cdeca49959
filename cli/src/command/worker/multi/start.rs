//! `stem worker multi start`

use std::time::Duration;

use super::super::super::Context;
use super::report::{Line, finish};
use super::{each, launches};
use crate::args::MultiStart;
use crate::error::{CliError, Outcome};
use crate::nodes::launch::{Failure, Launch};
use crate::output::Printer;

pub(super) fn run(context: &Context, args: &MultiStart) -> Outcome {
    let launches = launches(context, &args.launch)?;
    for launch in &launches {
        launch.check()?;
    }
    if args.foreground {
        let [launch] = &launches[..] else {
            return Err(CliError::usage(
                format!("--foreground is for one node, and {} are named", launches.len()),
                "name one, or leave --foreground out",
            ));
        };
        return Err(launch.become_it());
    }
    let lines = each(&launches, |launch| start(launch, args.timeout));
    finish(Printer::new(args.launch.nodes.json.json), "start", &lines)
}

pub(super) fn start(launch: &Launch, patience: Duration) -> Line {
    let line = |status| Line::new(&launch.node, status).log(&launch.logfile);
    match launch.start(patience) {
        Ok(record) => line("running").of(&record),
        Err(Failure::Running(record, error)) => line("already-running").of(&record).failed(error),
        Err(Failure::NotReady(pid, error)) => line("starting").pid(pid).failed(error),
        Err(Failure::Failed(error)) => line("failed").failed(error),
    }
}
