//! A node's end: SIGTERM to the process that its file proves, and SIGKILL only if the operator wants that and time is up.

use std::io;
use std::time::Duration;

use rustix::process::Signal;

use super::pidfile::{self, Dead, Found, Record, Why};
use super::process::Condition;
use super::roster::Node;
use super::target::Target;
use crate::error::CliError;

/// How long the system may take to end a process that was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How a node came to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It did not run.
    NotRunning,
    /// It ended by itself after SIGTERM.
    Ended(Box<Record>),
    /// It had to be killed.
    Killed(Box<Record>),
}

/// Ends a node and waits until it has ended; after `patience`, if there is a bound, by force. A file that proves no
/// living process of ours gets nobody signalled: that of a dead worker is removed, any other is an error.
pub fn stop(node: &Node, patience: Option<Duration>) -> Result<Stopped, CliError> {
    let path = &node.pidfile;
    let distrust = |problem: &str| {
        CliError::failed(
            format!(
                "node {}: nobody was signalled, since the PID file {} proves nothing: {problem}",
                node.name,
                path.display()
            ),
            "look which process runs (`ps`), stop it by hand, and remove the file",
        )
    };
    let (record, seen) = match node.look()? {
        Found::Absent => return Ok(Stopped::NotRunning),
        Found::Dead(Dead { pid, record: None, why: Why::Recycled }) => {
            return Err(distrust(&format!(
                "it holds the number {pid} and nothing that proves which process was meant"
            )));
        }
        Found::Dead(Dead { pid, why: Why::NotHolding, .. }) => {
            return Err(distrust(&pidfile::not_holding(pid)));
        }
        Found::Dead(_) => {
            pidfile::clear(path)?;
            return Ok(Stopped::NotRunning);
        }
        Found::Invalid { problem } | Found::Held { problem } => return Err(distrust(&problem)),
        Found::Alive(record, seen) => (record, seen),
    };
    let pid = record.identity.pid;
    let refuse = |error: io::Error| {
        CliError::failed(
            format!("node {}: process {pid} cannot be stopped: {error}", node.name),
            "run this as the user whose process it is, on the machine (or in the container) where it runs",
        )
    };
    let Some(target) = Target::of(record.identity).map_err(refuse)? else {
        pidfile::clear(path)?;
        return Ok(Stopped::NotRunning);
    };
    target.signal(Signal::TERM).map_err(refuse)?;
    if seen.condition == Condition::Stopped {
        // One that was frozen would never hear it.
        target.signal(Signal::CONT).map_err(refuse)?;
    }
    if target.wait(patience).map_err(refuse)? {
        pidfile::clear(path)?;
        return Ok(Stopped::Ended(record));
    }
    target.signal(Signal::KILL).map_err(refuse)?;
    if !target.wait(Some(KILL_PATIENCE)).map_err(refuse)? {
        return Err(CliError::failed(
            format!("node {}: process {pid} does not end, though it was killed", node.name),
            "the system holds it, often for a disk or network file system that does not answer",
        ));
    }
    pidfile::clear(path)?;
    Ok(Stopped::Killed(record))
}
