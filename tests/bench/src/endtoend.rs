//! Tasks from the enqueue to the stored result, through a whole worker: on memory, and durably on SQLite.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stem_core::envelope::{Envelope, Payload};
use stem_core::id::TaskName;
use stem_core::task::TaskState;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock, Worker, WorkerConfig};

use crate::figure::Goal;
use crate::{Cost, Row, messages, row, spread};

/// Tasks in one throughput figure.
const TASKS: u32 = 20_000;
/// Enqueued in one call.
const BATCH: usize = 500;
/// Single tasks in the latency figure.
const SINGLES: usize = 200;

/// What a store is held against.
#[derive(Clone, Copy)]
struct Goals {
    tasks_per_s: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

const NONE: Goals = Goals { tasks_per_s: None, p50_ms: None, p99_ms: None };
const SQLITE: Goals = Goals { tasks_per_s: Some(2_000.0), p50_ms: Some(6.0), p99_ms: Some(15.0) };
const REDIS: Goals = Goals { tasks_per_s: None, p50_ms: Some(1.0), p99_ms: Some(3.0) };

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let memory = Backends::all_in_one(stem_memory::Memory::new(Arc::new(SystemClock)));
    measure("memory", memory.clone(), memory, NONE, &mut rows).await?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("stem.db");
    let open = async || crate::sqlite(&path).await.map(Backends::all_in_one);
    // Two connections, as a producer's process and a worker's would have them.
    measure("SQLite, durable", open().await?, open().await?, SQLITE, &mut rows).await?;
    let server = stem_services::RedisServer::start();
    let url = server.url();
    let open = async || crate::redis(&url).await.map(Backends::all_in_one);
    measure("Redis, AOF everysec", open().await?, open().await?, REDIS, &mut rows).await?;
    let mut bare =
        tokio::task::spawn_blocking(move || messages::rounds(&server, SINGLES)).await??;
    let (p50, p99, _) = spread(&mut bare);
    let what = "  control: the same messages from bare sockets, nothing else done";
    rows.push(row(format!("{what}: p50"), p50, "ms"));
    rows.push(row(format!("{what}: p99"), p99, "ms"));
    let server = stem_services::PostgresServer::start();
    let url = server.database();
    let open = async || crate::postgres(&url).await.map(Backends::all_in_one);
    measure("Postgres, durable", open().await?, open().await?, NONE, &mut rows).await?;
    Ok(rows)
}

async fn measure(
    what: &str,
    worker: Backends,
    producer: Backends,
    goals: Goals,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let config =
        WorkerConfig { concurrency: 128, prefetch: 128, ..WorkerConfig::new("bench".parse()?) };
    let worker = Worker::builder(worker, config)
        .inline("bench", |_, (): ()| async move { Ok(()) })?
        .build()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    let client = Client::new(producer, Arc::new(SystemClock));
    let name: TaskName = "bench".parse()?;
    push_and_wait(&client, &name, "null", 2_000).await?;
    let cost = Cost::of(push_and_wait(&client, &name, "null", TASKS)).await?;
    let mut singles = Vec::new();
    for _ in 0..SINGLES {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let at = Instant::now();
        let task =
            client.enqueue(name.clone(), Payload::json("null"), EnqueueOptions::default()).await?;
        client.finished(&task.id, None).await?;
        singles.push(at.elapsed().as_secs_f64() * 1e3);
    }
    handle.shutdown(stem_core::control::Drain::Warm, None);
    running.await??;
    let rate = f64::from(TASKS) / cost.wall.as_secs_f64();
    let rate = row(format!("end to end on {what}"), rate, "tasks/s");
    rows.push(Row { goal: goals.tasks_per_s.map(Goal::AtLeast), ..rate });
    rows.push(row(
        format!("end to end on {what}: CPU"),
        cost.cpu.as_secs_f64() * 1e6 / f64::from(TASKS),
        "µs/task",
    ));
    let (p50, p99, _) = spread(&mut singles);
    for (part, value, bound) in [("p50", p50, goals.p50_ms), ("p99", p99, goals.p99_ms)] {
        let latency = row(format!("idle, enqueue → result on {what}: {part}"), value, "ms");
        rows.push(Row { goal: bound.map(Goal::AtMost), ..latency });
    }
    Ok(())
}

/// Enqueues so many tasks in batches.
pub(crate) async fn push(
    client: &Client,
    name: &TaskName,
    input: &str,
    count: u32,
) -> anyhow::Result<Vec<Envelope>> {
    let envelopes: Vec<Envelope> = (0..count)
        .map(|_| client.envelope(name.clone(), Payload::json(input), EnqueueOptions::default()))
        .collect::<Result<_, _>>()?;
    for batch in envelopes.chunks(BATCH) {
        client.enqueue_all(batch).await?;
    }
    Ok(envelopes)
}

/// Enqueues so many tasks in batches while a worker runs, and waits until the last has succeeded.
pub(crate) async fn push_and_wait(
    client: &Client,
    name: &TaskName,
    input: &str,
    count: u32,
) -> anyhow::Result<()> {
    for envelope in push(client, name, input, count).await?.iter().rev() {
        let record = client.finished(&envelope.id, Some(Duration::from_mins(2))).await?;
        let state = record.map(|record| record.state);
        anyhow::ensure!(state == Some(TaskState::Succeeded), "{} is {state:?}", envelope.id);
    }
    Ok(())
}
