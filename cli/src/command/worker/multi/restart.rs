//! `stem worker multi restart`

use stem_engine::units;

use super::super::super::Context;
use super::report::{Line, finish};
use super::start::start;
use super::stop::of;
use super::{each, findable, launches};
use crate::args::MultiRestart;
use crate::error::{CliError, Outcome};
use crate::nodes::launch::Launch;
use crate::nodes::stop::{Stopped, stop};
use crate::output::{Printer, say};

pub(super) fn run(context: &Context, args: &MultiRestart) -> Outcome {
    findable(&args.launch.nodes)?;
    let launches = launches(context, &args.launch)?;
    for launch in &launches {
        launch.check()?;
    }
    let anew = |launch: &Launch| {
        let ended = stop(&launch.node, Some(args.timeout));
        if ended.is_err() {
            return of(&launch.node, ended);
        }
        let killed = matches!(ended, Ok(Stopped::Killed(_)));
        if killed {
            say(format!(
                "warning: node {} did not end within {} and was killed; what it was at is delivered again when its lease is over\nhint: give it more time with --timeout",
                launch.node.name,
                units::write_duration(args.timeout)
            ));
        }
        start(launch, args.timeout).killed(killed)
    };
    let lines = if args.rolling { roll(&launches, anew) } else { each(&launches, anew) };
    finish(Printer::new(args.launch.nodes.json.json), "restart", &lines)
}

/// One after the other. The first that is not restarted is the last that is touched.
fn roll(launches: &[Launch], anew: impl Fn(&Launch) -> Line) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut broken = None;
    for launch in launches {
        if let Some(first) = &broken {
            let left = CliError::failed(
                format!(
                    "node {} was left as it was, since node {first} was not restarted",
                    launch.node.name
                ),
                "mend that one, then restart the rest",
            );
            lines.push(Line::new(&launch.node, "untouched").failed(left));
            continue;
        }
        let line = anew(launch);
        if line.has_failed() {
            broken = Some(launch.node.name.clone());
        }
        lines.push(line);
    }
    lines
}
