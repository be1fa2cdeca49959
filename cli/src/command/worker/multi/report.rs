//! What became of each node: for people and programs, and as one exit code.

use serde::Serialize;
use stem_core::id::WorkerId;
use stem_core::time::Timestamp;

use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::nodes::pidfile::Record;
use crate::nodes::roster::Node;
use crate::output::{Printer, say, table};

/// One node. What is not known is not there.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    node: WorkerId,
    index: u32,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<WorkerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    pidfile: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    logfile: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    killed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    failure: Option<CliError>,
}

impl Line {
    pub(super) fn new(node: &Node, status: &'static str) -> Self {
        Self {
            node: node.name.clone(),
            index: node.index,
            status,
            pid: None,
            worker: None,
            since: None,
            pidfile: node.pidfile.display().to_string(),
            logfile: None,
            killed: false,
            error: None,
            failure: None,
        }
    }

    pub(super) fn of(mut self, record: &Record) -> Self {
        self.pid = Some(record.identity.pid);
        self.worker = Some(record.about.worker.clone());
        self.since = Some(record.since);
        self
    }

    pub(super) fn pid(mut self, pid: Option<u32>) -> Self {
        self.pid = self.pid.or(pid);
        self
    }

    pub(super) fn log(mut self, path: &std::path::Path) -> Self {
        self.logfile = Some(path.display().to_string());
        self
    }

    /// What ran before it had to be killed.
    pub(super) fn killed(mut self, killed: bool) -> Self {
        self.killed = killed;
        self
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Not as it should be; decides the exit code.
    pub(super) fn failed(mut self, failure: CliError) -> Self {
        self.error = Some(failure.what.clone());
        self.failure = Some(failure);
        self
    }
}

#[derive(Serialize)]
struct Document<'a> {
    action: &'a str,
    nodes: &'a [Line],
}

/// Prints all of them, then what went wrong. The exit code is that of the failures if they agree, else 1.
pub(super) fn finish(printer: Printer, action: &str, lines: &[Line]) -> Outcome {
    printer.print(&Document { action, nodes: lines }, || text(lines))?;
    let failures: Vec<&CliError> = lines.iter().filter_map(|line| line.failure.as_ref()).collect();
    for failure in &failures {
        say(failure);
    }
    Ok(match failures.split_first() {
        None => Ending::Done,
        Some((first, others)) if others.iter().all(|other| other.ending == first.ending) => {
            first.ending
        }
        Some(_) => Ending::Failed,
    })
}

fn text(lines: &[Line]) -> String {
    let with_logs = lines.iter().any(|line| line.logfile.is_some());
    let mut header = vec!["NODE", "STATUS", "PID", "WORKER", "PIDFILE"];
    if with_logs {
        header.push("LOGFILE");
    }
    let dash = || "-".to_owned();
    let row = |line: &Line| {
        let mut row = vec![
            line.node.to_string(),
            line.status.to_owned(),
            line.pid.map_or_else(dash, |pid| pid.to_string()),
            line.worker.as_ref().map_or_else(dash, WorkerId::to_string),
            line.pidfile.clone(),
        ];
        if with_logs {
            row.push(line.logfile.clone().unwrap_or_else(dash));
        }
        row
    };
    table(&header, lines.iter().map(row))
}
