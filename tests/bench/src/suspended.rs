//! Isolates that wait, as many as one worker may have: what they keep in memory, that all finish, and how fast all are
//! stopped. In a process of its own, with everything else in memory too.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use stem_core::control::Drain;
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::TaskName;
use stem_core::limits::Limits;
use stem_core::task::TaskState;
use stem_engine::modules::ModuleHandler;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock, Worker, WorkerConfig};
use stem_isolate::{IsolateRuntime, OnFailure};

use crate::measure::{cpu_seconds, resident_bytes};
use crate::{Row, row};

const WANTED: u32 = 10_000;
/// What the goal leaves for each: 700 MiB for all.
const KIB_EACH: f64 = 700.0 * 1024.0 / 10_000.0;
/// How finely is told what the machine allows.
const STEP: u32 = 100;
const PATIENCE: Duration = Duration::from_mins(2);
/// How long each sleeps that is to finish: longer than all need to begin.
const NAP_MS: u32 = 20_000;

#[expect(clippy::unused_async, reason = "each group is a future")]
pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let said = Command::new(std::env::current_exe()?).args(["child", "suspended"]).output()?;
    anyhow::ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said: Value = serde_json::from_slice(&said.stdout)?;
    let figure = |key: &str| said[key].as_f64().with_context(|| format!("{key} is missing"));
    let (count, resident) = (figure("count")?, figure("residentBytes")?);
    let what = "suspended isolates (Rust component) in one worker";
    let mib = row(
        format!("{what}: resident memory of the process"),
        resident / f64::from(1 << 20),
        "MiB",
    );
    Ok(vec![
        row(format!("{what}: as many as vm.max_map_count allows"), count, "isolates")
            .at_least(f64::from(WANTED)),
        // For fewer than were wanted the bound would mean something else.
        if count < f64::from(WANTED) { mib } else { mib.at_most(700.0) },
        row(format!("{what}: resident memory for each"), resident / 1024.0 / count, "KiB")
            .at_most(KIB_EACH),
        // The constant data of a guest is one set of pages that each isolate maps, and resident memory counts each mapping.
        row(
            format!("{what}: the same with shared pages counted once, for each"),
            figure("distinctBytes")? / 1024.0 / count,
            "KiB",
        ),
        row(
            format!("{what}: all finish, the latest after its nap by"),
            figure("lateSeconds")?,
            "s",
        ),
        row(
            format!("{what}: from a hard shutdown until all are stopped"),
            figure("stoppedSeconds")?,
            "s",
        )
        .at_most(0.5),
    ])
}

/// A sandbox for as many isolates as wanted, or as this machine allows: it refuses at once what the machine does not.
fn sandbox() -> anyhow::Result<(Arc<IsolateRuntime>, u32)> {
    let mut count = WANTED;
    loop {
        match crate::attempts::runtime(count, 2) {
            Ok(isolates) => return Ok((isolates, count)),
            Err(error) if count <= STEP => return Err(error),
            Err(_) => count -= STEP,
        }
    }
}

/// Measures, and prints what [`run`] reads.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) async fn child() -> anyhow::Result<()> {
    let (isolates, count) = sandbox()?;
    let module = isolates.load(&crate::example("crunch")?).await?;
    let backends = Backends::all_in_one(stem_memory::Memory::new(Arc::new(SystemClock)));
    let name: TaskName = "nap".parse()?;
    let places = usize::try_from(count)?;
    let config = WorkerConfig {
        concurrency: places,
        prefetch: places,
        ..WorkerConfig::new("bench".parse()?)
    };
    let worker = Worker::builder(backends.clone(), config)
        .isolates(isolates)
        .module(ModuleHandler {
            name: name.clone(),
            module,
            limits: Limits::DEFAULT,
            on_failure: OnFailure::Retry,
            granted: std::sync::Arc::default(),
            version: None,
        })
        .build()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    let client = Client::new(backends, Arc::new(SystemClock));

    let tasks = enqueue(&client, &name, count, NAP_MS).await?;
    until_all_run(&client, count).await?;
    let mut longest = Duration::ZERO;
    for task in &tasks {
        let record = client.finished(&task.id, Some(PATIENCE)).await?;
        let record = record.with_context(|| format!("{} has no record", task.id))?;
        let state = record.state;
        anyhow::ensure!(state == TaskState::Succeeded, "{} is {state:?}", task.id);
        if let (Some(began), Some(ended)) = (record.started_at, record.finished_at) {
            longest = longest.max(ended.since(began));
        }
    }
    drop(tasks);
    let late = longest.saturating_sub(Duration::from_millis(u64::from(NAP_MS)));

    enqueue(&client, &name, count, 3_600_000).await?;
    until_all_run(&client, count).await?;
    let resident = resident_bytes(std::process::id())?;
    let distinct = distinct_bytes()?;
    let at = Instant::now();
    handle.shutdown(Drain::Hard, None);
    running.await??;
    let stopped = at.elapsed();
    println!(
        "{}",
        json!({
            "count": count,
            "residentBytes": resident,
            "distinctBytes": distinct,
            "lateSeconds": late.as_secs_f64(),
            "stoppedSeconds": stopped.as_secs_f64(),
        })
    );
    Ok(())
}

/// What of this process is in memory now, each page divided by how often it is mapped.
fn distinct_bytes() -> anyhow::Result<f64> {
    let path = "/proc/self/smaps_rollup";
    let text = std::fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.strip_suffix("kB"))
        .with_context(|| format!("{path} has no Pss"))?;
    Ok(kib.trim().parse::<f64>()? * 1024.0)
}

async fn enqueue(
    client: &Client,
    name: &TaskName,
    count: u32,
    delay_ms: u32,
) -> anyhow::Result<Vec<Envelope>> {
    let input = json!({ "items": [1], "delayMs": delay_ms }).to_string();
    let envelopes: Vec<Envelope> = (0..count)
        .map(|_| client.envelope(name.clone(), Payload::json(&*input), EnqueueOptions::default()))
        .collect::<Result<_, _>>()?;
    client.enqueue_all(&envelopes).await?;
    Ok(envelopes)
}

/// Waits until so many are in the worker's hands, and it has nothing to do for them: then all have begun to sleep.
async fn until_all_run(client: &Client, count: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut most = 0;
    let mut cpu = f64::INFINITY;
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let queues = client.backends().broker.queues().await?;
        let inflight = queues.iter().map(|queue| queue.inflight).sum::<u64>();
        most = most.max(inflight);
        let now = cpu_seconds(std::process::id())?;
        if inflight == u64::from(count) && now - cpu < 0.05 {
            return Ok(());
        }
        cpu = now;
        anyhow::ensure!(Instant::now() < deadline, "only {most} of {count} slept at once");
    }
}
