//! The benchmark suite: everything in one run, so that ratios hold whatever the machine does.
//!
//! `cargo xtask bench`, or `cargo run --release -p stem-bench`. Prints a table and writes `target/bench.json`.
//! Figures decide nothing by themselves; the machine is named beside them.

mod attempts;
mod endtoend;
mod peer;
mod revocations;
mod stopping;
mod terminate;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use stem_engine::SystemClock;
use stem_redis::{Redis, RedisOptions};
use stem_sql::{Postgres, PostgresOptions, Sqlite, SqliteOptions};

/// One figure.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What it is held against, if anything.
    pub(crate) goal: &'static str,
}

/// A figure without a goal.
pub(crate) fn row(what: impl Into<String>, value: f64, unit: &'static str) -> Row {
    Row { what: what.into(), value, unit, goal: "" }
}

/// CPU time of this process, user and system.
pub(crate) fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Wall and CPU time of some work.
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Cost {
    pub(crate) async fn of(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Self> {
        let (cpu, wall) = (process_cpu(), Instant::now());
        work.await?;
        Ok(Self { wall: wall.elapsed(), cpu: process_cpu().saturating_sub(cpu) })
    }
}

/// The middle of some figures, and their 99th percentile and maximum.
pub(crate) fn spread(figures: &mut [f64]) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let at = |part: usize| {
        figures
            .get((figures.len() * part / 100).min(figures.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    };
    (at(50), at(99), figures.last().copied().unwrap_or(f64::NAN))
}

/// Where the workspace's build directory is.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")),
        PathBuf::from,
    )
}

/// A connection of its own to a SQLite file.
pub(crate) async fn sqlite(path: &std::path::Path) -> anyhow::Result<std::sync::Arc<Sqlite>> {
    let options = SqliteOptions {
        path: path.to_owned(),
        clock: std::sync::Arc::new(SystemClock),
        create: true,
        busy_timeout: Duration::from_secs(5),
    };
    Ok(Sqlite::open(options).await?)
}

/// A connection of its own to a Redis.
pub(crate) async fn redis(url: &str) -> anyhow::Result<std::sync::Arc<Redis>> {
    Ok(Redis::open(RedisOptions { url: url.to_owned(), clock: None }).await?)
}

/// A connection of its own to a Postgres database.
pub(crate) async fn postgres(url: &str) -> anyhow::Result<std::sync::Arc<Postgres>> {
    Ok(Postgres::open(PostgresOptions::new(url)).await?)
}

/// An example task's module.
pub(crate) fn example(name: &str) -> anyhow::Result<Vec<u8>> {
    let path = target_dir().join("stem-modules").join(name).join(format!("{name}.wasm"));
    std::fs::read(&path).with_context(|| {
        format!(
            "{} is not there; build the example tasks first: cargo xtask guests",
            path.display()
        )
    })
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches(['\t', ' ', ':']).to_owned());
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        "profile": if cfg!(debug_assertions) { "dev" } else { "release" },
    })
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn main() -> anyhow::Result<()> {
    if let Some(place) =
        std::env::args().nth(1).and_then(|arg| arg.strip_prefix("hydrate=").map(str::to_owned))
    {
        return revocations::hydrate(&place);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, arguments @ ..] = &arguments[..]
        && mode == "peer"
    {
        // A client that does one thing after the other needs one thread, and is spared the hops between several.
        let mut builder = match arguments {
            [mode] if mode == "rounds" => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(2).enable_all().build()?;
        return runtime.block_on(peer::run(arguments));
    }
    let machine = machine();
    println!("machine: {machine}");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rows = Vec::new();
    rows.extend(runtime.block_on(attempts::run())?);
    rows.extend(runtime.block_on(stopping::run())?);
    rows.extend(runtime.block_on(terminate::run())?);
    rows.extend(runtime.block_on(endtoend::run())?);
    rows.extend(runtime.block_on(revocations::run())?);
    let width = rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
    for row in &rows {
        println!("{:width$}  {:>12.2} {:<14} {}", row.what, row.value, row.unit, row.goal);
    }
    let figures: Vec<_> =
        rows.iter().map(|row| json!({ "what": row.what, "value": row.value, "unit": row.unit, "goal": row.goal })).collect();
    let path = target_dir().join("bench.json");
    std::fs::write(
        &path,
        serde_json::to_vec_pretty(&json!({ "machine": machine, "figures": figures }))?,
    )?;
    println!("written to {}", path.display());
    Ok(())
}
