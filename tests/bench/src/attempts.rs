//! What one attempt costs: a fresh isolate with its call, result and end, beside an inline handler, both through a whole
//! worker on the memory backend, and the isolate alone.

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
    AttemptHost, AttemptSpec, Compiler, IsolateRuntime, LogLevel, OnFailure, Refusal,
    RuntimeConfig, TaskInfo,
};

use crate::figure::RATIO;
use crate::{Cost, Row, row};

/// Attempts in one figure.
const ATTEMPTS: u32 = 20_000;

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
    let mut rates = Vec::new();
    for threads in [1, 2] {
        let isolates = runtime(64, threads)?;
        let module = isolates.load(&crunch).await?;
        let host: Arc<dyn AttemptHost> = Arc::new(Nobody);
        // CPU time of the guests' threads inside attempts, in nanoseconds: instantiating and running, without the end.
        let inside = std::sync::atomic::AtomicU64::new(0);
        let attempts = async |count: u32| -> anyhow::Result<()> {
            // A few at once, so that every thread has work.
            let mut running = tokio::task::JoinSet::new();
            for _ in 0..count {
                if running.len() >= threads * 4
                    && let Some(exit) = running.join_next().await
                {
                    let exit: stem_isolate::Exit = exit?;
                    anyhow::ensure!(
                        matches!(exit.outcome, Outcome::Succeeded(_)),
                        "{:?}",
                        exit.outcome
                    );
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a small positive number"
                    )]
                    let nanos = (exit.usage.cpu_ms * 1e6) as u64;
                    inside.fetch_add(nanos, std::sync::atomic::Ordering::Relaxed);
                }
                running.spawn(isolates.start(&module, spec(INPUT), Arc::clone(&host)).exit());
            }
            while running.join_next().await.is_some() {}
            Ok(())
        };
        attempts(2_000).await?;
        inside.store(0, std::sync::atomic::Ordering::Relaxed);
        let cost = Cost::of(attempts(ATTEMPTS)).await?;
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a few seconds")]
        let inside =
            inside.load(std::sync::atomic::Ordering::Relaxed) as f64 / 1e3 / f64::from(ATTEMPTS);
        rows.push(row(
            format!("  of which inside the attempt, {threads} guest thread(s)"),
            inside,
            "µs/attempt",
        ));
        let allocator = isolates.allocator();
        let cpu = row(
            format!("isolate alone, Rust component, {threads} guest thread(s), {allocator:?}: CPU"),
            cost.cpu.as_secs_f64() * 1e6 / f64::from(ATTEMPTS),
            "µs/attempt",
        );
        rows.push(if threads == 1 { cpu.at_most(25.0) } else { cpu });
        let rate = f64::from(ATTEMPTS) / cost.wall.as_secs_f64();
        rows.push(row(format!("isolate alone, {threads} guest thread(s)"), rate, "attempts/s"));
        rates.push(rate);
    }
    if let [one, two] = rates[..] {
        rows.push(row("isolate alone, 2 guest threads over 1", two / one, RATIO).at_least(1.7));
    }
    let inline = through_worker(None, "null").await?;
    let isolate = through_worker(Some(&crunch), INPUT).await?;
    rows.push(row("worker on memory, inline no-op: CPU", inline, "µs/task"));
    rows.push(row("worker on memory, isolate (Rust component): CPU", isolate, "µs/task"));
    rows.push(row("isolate over inline: CPU", isolate - inline, "µs/task").at_most(40.0));
    Ok(rows)
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
    Ok(cost.cpu.as_secs_f64() * 1e6 / f64::from(ATTEMPTS))
}
