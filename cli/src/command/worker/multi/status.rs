//! `stem worker multi status`

use super::super::super::Context;
use super::report::{Line, finish};
use super::{findable, roster};
use crate::args::NodesArgs;
use crate::error::{CliError, Outcome};
use crate::nodes::pidfile::{Dead, Found, Why};
use crate::nodes::process::Condition;
use crate::nodes::roster::Node;
use crate::output::Printer;

pub(super) fn run(context: &Context, args: &NodesArgs) -> Outcome {
    findable(args)?;
    let roster = roster(context, args)?;
    let lines: Vec<Line> = roster.nodes.iter().map(line).collect();
    finish(Printer::new(args.json.json), "status", &lines)
}

fn line(node: &Node) -> Line {
    let name = &node.name;
    let found = node.look();
    let rest = |how: &str| {
        let hint = match &found {
            Ok(found) if found.gives_way() => format!("`stem worker multi start {name}` starts it"),
            _ => format!(
                "a start leaves {} alone; look at what is there, and remove it",
                node.pidfile.display()
            ),
        };
        CliError::nothing(format!("node {name} does not run: {how}"), hint)
    };
    match &found {
        Ok(Found::Alive(record, seen)) => {
            // A frozen process is alive, and what its file says of it is old.
            let status = match seen.condition {
                Condition::Running => record.state.as_str(),
                Condition::Stopped => "frozen",
            };
            Line::new(node, status).of(record)
        }
        Ok(Found::Absent) => Line::new(node, "not-running").failed(rest("it has no PID file")),
        Ok(Found::Dead(Dead { pid, why, .. })) => {
            let how = match why {
                Why::NotRunning => format!("its process {pid} is gone"),
                Why::Recycled => format!("its process is gone, and the number {pid} is another's now"),
                Why::NotHolding => format!("process {pid} does not hold the PID file"),
            };
            Line::new(node, "not-running").failed(rest(&how))
        }
        Ok(Found::Invalid { problem }) => {
            let how = format!("nobody holds its PID file, and {problem}");
            Line::new(node, "not-running").failed(rest(&how))
        }
        Ok(Found::Held { problem }) => Line::new(node, "unknown").failed(CliError::failed(
            format!("node {name}: somebody holds the PID file {}: {problem}", node.pidfile.display()),
            "ask where it was started: on another machine, or in another container, that shares the directory?",
        )),
        Err(error) => Line::new(node, "unknown").failed(error.clone()),
    }
}
