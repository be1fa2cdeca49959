//! `stem worker healthcheck`: whether the worker of a PID file lives; with `--ready` also whether it takes tasks.
//!
//! The first needs the file and `/proc` alone. It must cost next to nothing and must not fail when a service is away, or
//! an outage would have every worker restarted; so it goes its own way before settings are read or threads are started.

use std::path::Path;

use serde::Serialize;
use stem_core::control::{Heartbeat, WorkerState};
use stem_core::id::WorkerId;
use stem_core::time::{Clock, Timestamp};
use stem_engine::{SystemClock, units};

use super::super::Context;
use crate::args::HealthcheckArgs;
use crate::connect;
use crate::control::millis;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::nodes::pidfile::{self, Dead, Found, Record, Why};
use crate::nodes::process::Condition;
use crate::output::{Printer, say};
use crate::settings::Settings;

/// The answer as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    status: &'static str,
    node: String,
    pidfile: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    logfile: Option<String>,
    #[serde(flatten)]
    process: Process,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(flatten)]
    readiness: Option<Readiness>,
}

/// What is known of the process.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<WorkerId>,
    #[serde(rename = "process", skip_serializing_if = "Option::is_none")]
    condition: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_seconds: Option<f64>,
}

/// Whether it takes tasks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    ready: bool,
    state: WorkerState,
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat_age_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Why a check fails.
#[derive(Debug)]
struct Problem {
    code: &'static str,
    error: CliError,
}

impl Problem {
    fn new(code: &'static str, what: String, hint: impl std::fmt::Display) -> Self {
        Self { code, error: CliError::failed(what, hint) }
    }
}

/// A worker whose process lives.
struct Living {
    record: Box<Record>,
    condition: Condition,
}

/// Liveness: the PID file and `/proc`, and nothing else.
pub(in crate::command) fn live(args: &HealthcheckArgs) -> Outcome {
    let (mut report, found) = look(args);
    if let Err(problem) = &found {
        report.status = "error";
        report.error = Some(problem.code);
    }
    answer(args, &report, found.err())
}

/// Readiness: the same, then what the worker says of itself, then the broker and the heartbeat.
pub(super) async fn ready(context: &Context, args: HealthcheckArgs) -> Outcome {
    let settings = context.settings(|flags| flags.timeout = args.timeout)?;
    let (mut report, found) = look(&args);
    let living = match found {
        Ok(living) => living,
        Err(problem) => {
            report.status = "error";
            report.error = Some(problem.code);
            return answer(&args, &report, Some(problem));
        }
    };
    let mut readiness = Readiness {
        ready: false,
        state: living.record.state,
        broker: None,
        heartbeat_age_ms: None,
        reason: None,
    };
    let problem = match takes_tasks(&living, &settings, &mut readiness).await {
        Err(problem) if problem.error.ending == Ending::Usage => return Err(problem.error),
        checked => checked.err(),
    };
    readiness.ready = problem.is_none();
    readiness.reason = problem.as_ref().map(|problem| problem.code);
    report.status = if readiness.ready { "ok" } else { "not-ready" };
    report.readiness = Some(readiness);
    answer(&args, &report, problem)
}

/// Writes the report, and what is wrong.
fn answer(args: &HealthcheckArgs, report: &Report, problem: Option<Problem>) -> Outcome {
    let printer = Printer::new(args.json.json);
    if printer.is_json() || (problem.is_none() && !args.quiet) {
        printer.print(report, || line(report))?;
    }
    if let Some(problem) = problem {
        return Err(problem.error);
    }
    if report.process.condition == Some(Condition::Stopped.as_str()) {
        let pid = report.process.pid.unwrap_or_default();
        say(format!(
            "warning: process {pid} is there and stopped (SIGSTOP, a debugger), so it does nothing; kill -CONT {pid} lets it go on"
        ));
    }
    Ok(Ending::Done)
}

fn line(report: &Report) -> String {
    let Process { pid, worker, uptime_seconds, .. } = &report.process;
    let what = if report.readiness.is_some() { "takes tasks" } else { "is alive" };
    format!(
        "worker {} {what} (node {}, process {}, for {:.1}s)",
        worker.as_ref().map_or("?", WorkerId::as_str),
        report.node,
        pid.unwrap_or_default(),
        uptime_seconds.unwrap_or_default()
    )
}

/// The report of a living process, or of none, with what is wrong.
fn look(args: &HealthcheckArgs) -> (Report, Result<Living, Problem>) {
    let path = &args.pidfile;
    let mut process = Process::default();
    let mut named = None;
    let found = match pidfile::look(path) {
        Ok(found) => judge(path, found, &mut process, &mut named),
        Err(error) => Err(Problem { code: "invalid-pid", error }),
    };
    let node = args.node.clone().or(named);
    let report = Report {
        status: "ok",
        node: node.map_or_else(|| file_node(path), |node| node.to_string()),
        pidfile: path.display().to_string(),
        logfile: args.logfile.as_ref().map(|path| path.display().to_string()),
        process,
        error: None,
        readiness: None,
    };
    (report, found)
}

fn judge(
    path: &Path,
    found: Found,
    process: &mut Process,
    named: &mut Option<WorkerId>,
) -> Result<Living, Problem> {
    let mut tell = |record: &Record| {
        process.worker = Some(record.about.worker.clone());
        process.since = Some(record.since);
        process.uptime_seconds = Some(SystemClock.now().since(record.since).as_secs_f64());
        named.clone_from(&record.about.node);
    };
    let start = "start the worker; `stem worker diagnose` looks at everything it needs";
    let gives_way = found.gives_way();
    match found {
        Found::Alive(record, seen) => {
            tell(&record);
            process.pid = Some(record.identity.pid);
            process.condition = Some(seen.condition.as_str());
            Ok(Living { record, condition: seen.condition })
        }
        Found::Absent => Err(Problem::new(
            "pidfile-missing",
            format!("there is no PID file {}", path.display()),
            start,
        )),
        Found::Dead(Dead { pid, record, why }) => {
            process.pid = Some(pid);
            if let Some(record) = &record {
                tell(record);
                // It is not up any more, and nobody knows until when it was.
                process.uptime_seconds = None;
            }
            let (code, what) = match why {
                Why::NotRunning => ("process-not-running", format!("process {pid} is not running")),
                Why::NotHolding => (
                    "pid-recycled",
                    format!("process {pid} does not hold its PID file, so it is not that worker"),
                ),
                Why::Recycled if record.is_some() => (
                    "pid-recycled",
                    format!("process {pid} is another one, which began after the worker had ended"),
                ),
                Why::Recycled => (
                    "pid-recycled",
                    format!(
                        "nothing shows that process {pid} is the worker: the file is a number and nothing else"
                    ),
                ),
            };
            let hint = if gives_way {
                start
            } else {
                "look at what is there, and remove it; a worker that starts leaves it alone"
            };
            Err(Problem::new(code, format!("{what} (PID file {})", path.display()), hint))
        }
        Found::Invalid { problem } | Found::Held { problem } => Err(Problem::new(
            "invalid-pid",
            format!("the PID file {} is not one of a worker: {problem}", path.display()),
            "look at what is there; a worker writes its own file when it starts",
        )),
    }
}

/// `alpha` of `/run/stem/alpha.pid`.
fn file_node(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let node = name.split('.').find(|part| !part.is_empty()).unwrap_or_default();
    stem_core::text::printable(node, 200)
}

async fn takes_tasks(
    living: &Living,
    settings: &Settings,
    readiness: &mut Readiness,
) -> Result<(), Problem> {
    let worker = &living.record.about.worker;
    let pid = living.record.identity.pid;
    if living.condition == Condition::Stopped {
        return Err(Problem::new(
            "process-stopped",
            format!("worker {worker} is not ready: process {pid} is stopped (SIGSTOP, a debugger)"),
            format!("kill -CONT {pid} lets it go on"),
        ));
    }
    match living.record.state {
        WorkerState::Running => {}
        WorkerState::Starting => {
            return Err(Problem::new(
                "starting",
                format!("worker {worker} is not ready: it starts"),
                "wait; its log says what it waits for",
            ));
        }
        WorkerState::Draining | WorkerState::Stopped => {
            return Err(Problem::new(
                "draining",
                format!("worker {worker} is not ready: it drains, and takes nothing new"),
                "it ends when what runs has ended",
            ));
        }
    }
    let timeout = settings.control_timeout.value;
    let asked = tokio::time::timeout(timeout, heartbeat(&living.record, settings)).await;
    let away = |error| Problem { code: "service-unavailable", error };
    let (heartbeat, now) = asked
        .unwrap_or_else(|_| {
            let (url, waited) = (&settings.broker_url.value, units::write_duration(timeout));
            Err(CliError::new(
                Ending::Unavailable,
                format!("{url} and the heartbeats gave no answer within {waited}"),
                "`stem health` shows which service is away; a longer --timeout waits longer",
            ))
        })
        .map_err(away)?;
    readiness.broker = Some(settings.broker_url.value.to_string());
    let Some(heartbeat) = heartbeat else {
        return Err(Problem::new(
            "heartbeat-missing",
            format!(
                "worker {worker} is not ready: it has no heartbeat in {}, namespace {}",
                settings.result_backend_url.value, living.record.about.namespace
            ),
            "give this check the same STEM_BROKER_URL and STEM_RESULT_BACKEND_URL as the worker",
        ));
    };
    readiness.heartbeat_age_ms = Some(millis(now.since(heartbeat.seen_at)));
    if !heartbeat.is_fresh(now) {
        return Err(Problem::new(
            "heartbeat-stale",
            format!(
                "worker {worker} is not ready: its last heartbeat came {:.1}s ago",
                now.since(heartbeat.seen_at).as_secs_f64()
            ),
            "it cannot reach its result backend, or is stuck; its log says which",
        ));
    }
    Ok(())
}

/// The worker's heartbeat and the store's time, from services that answer.
async fn heartbeat(
    record: &Record,
    settings: &Settings,
) -> Result<(Option<Heartbeat>, Timestamp), CliError> {
    let (broker, presence) = connect::broker_and_presence(settings).await?;
    broker.health().await?;
    let (heartbeats, now) = presence.workers(&record.about.namespace).await?;
    let of_this = |heartbeat: &Heartbeat| {
        heartbeat.worker == record.about.worker && heartbeat.pid == record.identity.pid
    };
    Ok((heartbeats.into_iter().find(of_this), now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_called_as_its_file() {
        for (path, node) in [
            ("/run/stem/alpha.pid", "alpha"),
            ("beta.worker.pid", "beta"),
            (".hidden.pid", "hidden"),
            ("/", ""),
        ] {
            assert_eq!(file_node(Path::new(path)), node, "{path}");
        }
    }
}
