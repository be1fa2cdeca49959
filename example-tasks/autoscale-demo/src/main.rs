//! `autoscale-demo`: a backlog that comes and goes like a square wave, and a worker whose concurrency follows it.
//!
//! One process: a producer, a real worker on a SQLite file, and somebody who looks at both ten times a second. Every
//! decision is printed with what it was made from; at the end all of it is drawn.

mod decisions;
mod plot;
mod wave;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use stem_core::backend::result::RecordFilter;
use stem_core::control::Drain;
use stem_core::task::{TaskRecord, TaskState};
use stem_engine::units::duration;
use stem_engine::{AutoscaleRules, Backends, Client, SystemClock, Worker, WorkerConfig};
use stem_sql::{Sqlite, SqliteOptions};

use self::decisions::{Change, Decisions};
use self::wave::{NAME, Seen, Wave};

/// More records than any run leaves.
const ALL: usize = 1_000_000;
/// By how much a decision may be told later than it was made.
const TOLD_WITHIN: f64 = 0.2;
/// How long each task takes. It waits, as for a service somewhere, so it is the places that bound how many are done.
const TASK: Duration = Duration::from_millis(200);

/// A backlog that comes and goes, and a worker whose concurrency follows it.
#[derive(Debug, Parser)]
#[command(name = "autoscale-demo")]
struct Cli {
    /// The least that may run at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    min: usize,
    /// The most that may run at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    max: usize,
    /// How long tasks come, and then how long none do
    #[arg(long, value_name = "D", value_parser = duration, default_value = "8s")]
    half: Duration,
    /// How many waves
    #[arg(long, value_name = "N", default_value_t = 2)]
    waves: u32,
    /// Tasks each second while they come
    #[arg(long, value_name = "N", default_value_t = 30)]
    rate: u32,
    /// Where to draw it
    #[arg(long, value_name = "FILE", default_value = "autoscale.svg")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match tokio::runtime::Runtime::new()
        .context("no threads")
        .and_then(|runtime| runtime.block_on(run(Cli::parse())))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ten times the usual pace, so that half a minute shows it.
fn rules(cli: &Cli) -> AutoscaleRules {
    AutoscaleRules {
        tick: Duration::from_millis(200),
        scale_up_cooldown: Duration::from_millis(400),
        scale_down_cooldown: Duration::from_millis(600),
        idle_period: Duration::from_secs(2),
        ..AutoscaleRules::between(cli.min, cli.max)
    }
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
async fn run(cli: Cli) -> Result<()> {
    let rules = rules(&cli);
    rules.check().map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let decisions = Decisions::listen();
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let store = Sqlite::open(SqliteOptions {
        path: dir.path().join("stem.db"),
        clock: Arc::new(SystemClock),
        create: true,
        busy_timeout: Duration::from_secs(5),
    })
    .await?;
    let backends = Backends::all_in_one(store);
    let config = WorkerConfig {
        concurrency: cli.max,
        prefetch: cli.max,
        autoscale: Some(rules.clone()),
        signal_handlers: false,
        ..WorkerConfig::new("scaled".parse()?)
    };
    let worker = Worker::builder(backends.clone(), config)
        .inline(NAME, |_, ()| async {
            tokio::time::sleep(TASK).await;
            Ok(())
        })?
        .build()?;
    let (handle, gauges) = (worker.handle(), worker.gauges());
    let working = tokio::spawn(worker.run());

    println!(
        "{} waves: {} tasks/s for {:?}, then none for {:?}; each takes {TASK:?}; {}..{} at once",
        cli.waves, cli.rate, cli.half, cli.half, cli.min, cli.max
    );
    let client = Client::new(backends, Arc::new(SystemClock));
    let wave = Wave { rate: cli.rate, half: cli.half, waves: cli.waves };
    // What is left of the last wave has to be done, and all places given up again, one by one.
    let settle =
        rules.idle_period + (rules.scale_down_cooldown + rules.tick) * u32::try_from(cli.max)?;
    let (seen, sent) = wave.run(&client, &gauges, &decisions, settle).await?;

    handle.shutdown(Drain::Warm, None);
    working.await.context("the worker broke")??;
    let made = decisions.take();
    plot::draw(&cli.out, &seen, &made, &rules)?;
    println!("{} decisions that changed something; drawn in {}", made.len(), cli.out.display());
    let filter = RecordFilter { limit: ALL, ..RecordFilter::default() };
    let records = client.backends().results.list(&filter).await?;
    check(&cli, &seen)?;
    all_done_at_once(&records, sent)?;
    let turns = directions_keep(&made, &rules)?;
    println!(
        "{} tasks, each done at its first delivery; {turns} changes of direction, each after its cool-down",
        records.len()
    );
    Ok(())
}

/// No task is cut off to have fewer at work: each has ended by its first attempt.
fn all_done_at_once(records: &[TaskRecord], sent: u64) -> Result<()> {
    ensure!(
        u64::try_from(records.len())? == sent,
        "{} of {sent} tasks are on record",
        records.len()
    );
    for record in records {
        let (state, deliveries) = (record.state, record.delivery_count);
        let done = state == TaskState::Succeeded && deliveries == 1;
        ensure!(done, "task {} is {} after {deliveries} deliveries", record.id, state.as_str());
    }
    Ok(())
}

/// How often the direction changed; an error if that was once before the cool-down was over.
fn directions_keep(made: &[Change], rules: &AutoscaleRules) -> Result<usize> {
    let mut turns = 0;
    #[expect(clippy::cast_precision_loss, reason = "a few places")]
    let start = Change { at: 0.0, to: rules.min as f64 };
    let all: Vec<&Change> = std::iter::once(&start).chain(made).collect();
    for three in all.windows(3) {
        let [before, one, other] = three else { continue };
        let (up, was_up) = (other.to > one.to, one.to > before.to);
        if up == was_up {
            continue;
        }
        turns += 1;
        let cooldown = if up { rules.scale_up_cooldown } else { rules.scale_down_cooldown };
        let after = other.at - one.at;
        ensure!(
            after >= cooldown.as_secs_f64() - TOLD_WITHIN,
            "the direction changed {after:.2} s after the last change, and not {cooldown:?}"
        );
    }
    Ok(turns)
}

/// What must hold of any run.
fn check(cli: &Cli, seen: &[Seen]) -> Result<()> {
    let at = || seen.iter().map(|seen| seen.concurrency);
    ensure!(at().all(|at| (cli.min..=cli.max).contains(&at)), "it left its bounds");
    ensure!(cli.min == cli.max || at().any(|at| at > cli.min), "it never grew");
    let last = seen.last().context("nothing was seen")?;
    ensure!(last.concurrency == cli.min, "it ended at {} and not at {}", last.concurrency, cli.min);
    ensure!(last.depth == 0 && last.inflight == 0, "tasks are left");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_direction_before_its_cool_down_is_told() {
        let rules = AutoscaleRules {
            scale_up_cooldown: Duration::from_secs(1),
            scale_down_cooldown: Duration::from_secs(2),
            ..AutoscaleRules::between(1, 8)
        };
        let turns = |made: &[(f64, f64)]| {
            let made: Vec<Change> = made.iter().map(|&(at, to)| Change { at, to }).collect();
            directions_keep(&made, &rules)
        };
        assert_eq!(turns(&[]).unwrap(), 0);
        assert_eq!(turns(&[(1.0, 2.0), (1.1, 3.0)]).unwrap(), 0);
        assert_eq!(turns(&[(1.0, 2.0), (3.0, 1.0), (4.0, 2.0)]).unwrap(), 2);
        assert!(turns(&[(1.0, 2.0), (2.5, 1.0)]).is_err());
        assert!(turns(&[(1.0, 2.0), (3.0, 1.0), (3.5, 2.0)]).is_err());
    }
}
