//! `stem worker multi restart`

use super::super::super::Context;
use super::report::{Line, finish};
use super::start::start;
use super::stop::end;
use super::{each, launches};
use crate::args::MultiRestart;
use crate::error::{CliError, Outcome};
use crate::nodes::launch::Launch;
use crate::output::Printer;

pub(super) fn run(context: &Context, args: &MultiRestart) -> Outcome {
    let launches = launches(context, &args.launch)?;
    for launch in &launches {
        launch.check()?;
    }
    let anew = |launch: &Launch| {
        let ended = end(&launch.node, Some(args.timeout));
        if ended.has_failed() { ended } else { start(launch, args.timeout) }
    };
    let lines = if args.rolling { roll(&launches, anew) } else { each(&launches, anew) };
    finish(Printer::new(args.launch.nodes.json.json), "restart", &lines)
}

/// One after the other. The first that does not get ready is the last that is touched.
fn roll(launches: &[Launch], anew: impl Fn(&Launch) -> Line) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut broken = None;
    for launch in launches {
        if let Some(first) = &broken {
            let left = CliError::failed(
                format!(
                    "node {} was left as it was, since node {first} did not get ready",
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
