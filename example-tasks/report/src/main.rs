//! `report-worker`: a worker with one inline handler, `report`. What an application does that brings native handlers of
//! its own: open the backends, name the handlers, run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use report::{Report, ReportError};
use serde::Deserialize;
use stem_engine::{Backends, SystemClock, TaskContext, TaskError, Worker, WorkerConfig};
use stem_sql::{Sqlite, SqliteOptions};

/// What is reported on when the arguments bring no text.
const SEATTLE: &str = include_str!("../data/seattle-weather.csv");
const BROKER: &str = "STEM_BROKER_URL";
/// How long to wait for the database's lock while another process holds it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The task's arguments.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    /// The file's text; the weather of Seattle if there is none.
    csv: Option<String>,
}

/// The task.
async fn report(context: TaskContext, args: Args) -> Result<Report, TaskError> {
    let text = args.csv.as_deref().unwrap_or(SEATTLE);
    context.heartbeat()?;
    #[expect(clippy::cast_precision_loss, reason = "arguments are far shorter than an f64 counts")]
    let read = |read: usize, all: usize| {
        context.progress(read as f64 / all as f64, &format!("{read} of {all} bytes"))
    };
    report::report(text, read).map_err(|error| match error {
        // The worker asked for the end, and knows what it means.
        ReportError::Stopped(interrupted) => interrupted.into(),
        refused @ ReportError::Csv { .. } => TaskError::fatal("invalid-csv", refused),
        refused @ ReportError::Empty => TaskError::fatal("empty-csv", refused),
    })
}

/// The database's file.
fn database(url: Option<&str>) -> Result<PathBuf> {
    let hint = format!("hint: {BROKER}=sqlite:///absolute/path/to/stem.db");
    let Some(url) = url else { bail!("{BROKER} is not set\n{hint}") };
    match url.strip_prefix("sqlite://") {
        // Escapes and parameters are for programs that read URLs in full.
        Some(path) if !path.is_empty() && !path.contains(['%', '?']) => Ok(path.into()),
        Some(_) => bail!("{BROKER} is not sqlite:// and a plain path\n{hint}"),
        None => bail!("{BROKER} is not a sqlite:// URL, the only kind this worker opens\n{hint}"),
    }
}

async fn work(path: PathBuf) -> Result<()> {
    let clock = Arc::new(SystemClock);
    let options = SqliteOptions { path, clock, create: true, busy_timeout: BUSY_TIMEOUT };
    let backends = Backends::all_in_one(Sqlite::open(options).await?);
    let name = format!("report-worker-{}", std::process::id()).parse()?;
    let config = WorkerConfig { signal_handlers: true, ..WorkerConfig::new(name) };
    Worker::builder(backends, config)
        .inline("report", report)?
        .build()?
        .on_ready(|ready| println!("{} is ready for report, on queue default", ready.worker))
        .run()
        .await?;
    Ok(())
}

fn run() -> Result<()> {
    let url = match std::env::var(BROKER) {
        Ok(url) => Some(url),
        Err(std::env::VarError::NotPresent) => None,
        Err(error) => return Err(anyhow!(error).context(BROKER)),
    };
    let path = database(url.as_deref())?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the worker's threads")?;
    runtime.block_on(work(path))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_sqlite_path_is_taken() {
        assert_eq!(database(Some("sqlite:///a/b.db")).unwrap(), PathBuf::from("/a/b.db"));
        for url in [None, Some("redis://x"), Some("sqlite://"), Some("sqlite:///a%20b"), Some("/a")]
        {
            let problem = database(url).unwrap_err().to_string();
            assert!(problem.contains("hint: STEM_BROKER_URL=sqlite://"), "{url:?}: {problem}");
        }
    }
}
