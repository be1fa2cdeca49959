//! What one attempt costs: a fresh isolate with its call, result and end, beside an inline handler, both through a whole
//! worker on the memory backend, and the isolate alone.

pub(crate) mod ceiling;
mod chain;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::envelope::Payload;
use stem_core::id::TaskName;
use stem_core::limits::Limits;
use stem_core::outcome::Outcome;
use stem_core::task::Progress;
use stem_engine::modules::ModuleHandler;
use stem_engine::{Backends, Client, SystemClock, Worker, WorkerConfig};
use stem_isolate::{
    AttemptHost, AttemptSpec, Compiler, IsolateRuntime, LogLevel, Module, OnFailure, Refusal,
    RuntimeConfig, TaskInfo,
};

use crate::figure::RATIO;
use crate::{Cost, Row, row, spread};

/// Attempts in one figure.
const ATTEMPTS: u32 = 20_000;
/// Figures of which the middle is told.
const ROUNDS: usize = 5;

pub(crate) fn runtime(isolates: u32, threads: usize) -> anyhow::Result<Arc<IsolateRuntime>> {
    Ok(IsolateRuntime::new(&RuntimeConfig {
        isolates,
        memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
        threads,
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::InProcess,
        cache_dir: None,
        scratch_dir: None,
    })?)
}

/// A host that keeps nothing.
#[derive(Debug)]
pub(crate) struct Nobody;

#[async_trait]
impl AttemptHost for Nobody {
    fn progress(&self, _: Progress) {}
    fn log(&self, _: LogLevel, _: &str, _: &[(String, String)]) {}
    fn log_enabled(&self, _: LogLevel) -> bool {
        false
    }
    async fn extend_lease(&self, by: Duration) -> Result<Duration, Refusal> {
        Ok(by)
    }
    async fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, Refusal> {
        Ok(None)
    }
    async fn save_checkpoint(&self, _: Vec<u8>) -> Result<(), Refusal> {
        Ok(())
    }
}

pub(crate) fn spec(input: &str) -> AttemptSpec {
    AttemptSpec {
        input: Payload::json(input),
        info: TaskInfo {
            task_id: "bench".to_owned(),
            task_name: "bench".to_owned(),
            queue: "default".to_owned(),
            attempt: 1,
            max_attempts: Some(1),
            enqueued_at_ms: 0,
            parent_id: None,
            root_id: "bench".to_owned(),
            idempotency_key: "bench".to_owned(),
            trace_parent: None,
            headers: vec![],
        },
        limits: Limits::DEFAULT,
        on_failure: OnFailure::Retry,
        granted: std::sync::Arc::default(),
    }
}

/// What the Rust example component is given: the smallest input that goes through all of it.
pub(crate) const INPUT: &str = r#"{"items":[1,2,3],"delayMs":0}"#;

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let crunch = crate::example("crunch")?;
    let mut sides = [Side::new(1, &crunch).await?, Side::new(2, &crunch).await?];
    // In turns, so that whatever else the machine does is in both.
    for _ in 0..ROUNDS {
        for side in &mut sides {
            side.round().await?;
        }
    }
    let mut rates = Vec::new();
    for side in &mut sides {
        let threads = side.threads;
        let what = format!("isolate alone, Rust component, {threads} guest thread(s)");
        let allocator = side.isolates.allocator();
        let (cpu, ..) = spread(&mut side.cpu);
        let cpu = row(format!("{what}, {allocator:?}: CPU"), cpu, "µs/attempt");
        rows.push(if threads == 1 { cpu.at_most(25.0) } else { cpu });
        let (inside, ..) = spread(&mut side.inside);
        let name = format!("  of which inside the attempt, {threads} guest thread(s)");
        rows.push(row(name, inside, "µs/attempt"));
        let (rate, ..) = spread(&mut side.rates);
        rows.push(row(what, rate, "attempts/s"));
        rates.push(rate);
        driven(side, 2_000).await?;
        let cost = Cost::of(driven(side, ATTEMPTS)).await?;
        rows.push(row(
            format!("isolate from another runtime, {threads} guest thread(s), hops included: CPU"),
            each(&cost),
            "µs/attempt",
        ));
    }
    if let [one, two] = rates[..] {
        rows.push(row("isolate alone, 2 guest threads over 1", two / one, RATIO).at_least(1.7));
    }
    let one = rates.first().copied().unwrap_or(f64::NAN);
    let (mut apart, mut processes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        apart.push(ceiling::two_sandboxes(&crunch).await? / one);
        processes.push(ceiling::two_processes()? / one);
    }
    let what = "this machine's ceiling, two over one";
    rows.push(row(format!("{what}: sandboxes of a thread each"), spread(&mut apart).0, RATIO));
    rows.push(row(format!("{what}: processes of a thread each"), spread(&mut processes).0, RATIO));
    let inline = through_worker(None, "null").await?;
    let isolate = through_worker(Some(&crunch), INPUT).await?;
    rows.push(row("worker on memory, inline no-op: CPU", inline, "µs/task"));
    rows.push(row("worker on memory, isolate (Rust component): CPU", isolate, "µs/task"));
    rows.push(row("isolate over inline: CPU", isolate - inline, "µs/task").at_most(40.0));
    Ok(rows)
}

/// A sandbox with so many guest threads, and what was measured of it.
struct Side {
    threads: usize,
    isolates: Arc<IsolateRuntime>,
    module: Arc<Module>,
    /// Microseconds for each attempt, a figure for each round.
    cpu: Vec<f64>,
    inside: Vec<f64>,
    /// Attempts a second.
    rates: Vec<f64>,
}

impl Side {
    async fn new(threads: usize, wasm: &[u8]) -> anyhow::Result<Self> {
        let isolates = runtime(64, threads)?;
        let module = isolates.load(wasm).await?;
        let (cpu, inside, rates) = (Vec::new(), Vec::new(), Vec::new());
        let side = Self { threads, isolates, module, cpu, inside, rates };
        chain::attempts(&side.isolates, &side.module, side.at_once(), 2_000).await?;
        Ok(side)
    }

    /// A few for each thread, so that each has work.
    fn at_once(&self) -> usize {
        self.threads * 4
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        let mut inside = 0.0;
        let cost = Cost::of(async {
            inside =
                chain::attempts(&self.isolates, &self.module, self.at_once(), ATTEMPTS).await?;
            Ok(())
        });
        let cost = cost.await?;
        self.cpu.push(each(&cost));
        self.inside.push(inside);
        self.rates.push(f64::from(ATTEMPTS) / cost.wall.as_secs_f64());
        Ok(())
    }
}

/// CPU time for each of the attempts, in microseconds.
fn each(cost: &Cost) -> f64 {
    cost.cpu.as_secs_f64() * 1e6 / f64::from(ATTEMPTS)
}

/// Attempts that are started and awaited from this runtime: what two changes of threads add to each.
async fn driven(side: &Side, count: u32) -> anyhow::Result<()> {
    let host: Arc<dyn AttemptHost> = Arc::new(Nobody);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..count {
        if running.len() >= side.at_once()
            && let Some(exit) = running.join_next().await
        {
            let exit: stem_isolate::Exit = exit?;
            let outcome = exit.outcome;
            anyhow::ensure!(matches!(outcome, Outcome::Succeeded(_)), "{outcome:?}");
        }
        let attempt = side.isolates.start(&side.module, spec(INPUT), Arc::clone(&host));
        running.spawn(attempt.exit());
    }
    while running.join_next().await.is_some() {}
    Ok(())
}

/// CPU time of a whole worker for each task, with everything in memory and one guest thread.
async fn through_worker(module: Option<&[u8]>, input: &str) -> anyhow::Result<f64> {
    let backends = Backends::all_in_one(stem_memory::Memory::new(Arc::new(SystemClock)));
    let config =
        WorkerConfig { concurrency: 64, prefetch: 64, ..WorkerConfig::new("bench".parse()?) };
    let mut builder = Worker::builder(backends.clone(), config);
    let name: TaskName = "bench".parse()?;
    builder = match module {
        None => builder.inline("bench", |_, (): ()| async move { Ok(()) })?,
        Some(wasm) => {
            let isolates = runtime(64, 1)?;
            let module = isolates.load(wasm).await?;
            builder.isolates(isolates).module(ModuleHandler {
                name: name.clone(),
                module,
                limits: Limits::DEFAULT,
                on_failure: OnFailure::Retry,
                granted: std::sync::Arc::default(),
                version: None,
            })
        }
    };
    let worker = builder.build()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    let client = Client::new(backends, Arc::new(SystemClock));
    let drain =
        async |count: u32| crate::endtoend::push_and_wait(&client, &name, input, count).await;
    drain(2_000).await?;
    let cost = Cost::of(drain(ATTEMPTS)).await?;
    handle.shutdown(stem_core::control::Drain::Warm, None);
    running.await??;
    Ok(each(&cost))
}
