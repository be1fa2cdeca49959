//! What grows how: tasks/s and the latency of an idle worker against concurrency, payload and workers, each alone while
//! the others stay, through processes on a private Redis. The task is an isolate that does nothing.
//!
//! Each point is short, so single points scatter; the shape is what counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use stem_core::backend::broker::Pause;
use stem_core::envelope::{Envelope, PAYLOAD_BYTES, Payload};
use stem_core::id::{QueueName, TaskName};
use stem_core::task::TaskState;
use stem_core::time::Clock as _;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use stem_services::RedisServer;

use crate::backlog::left;
use crate::plot::{self, Axis, Point};
use crate::process::Process;
use crate::{Row, row, spread};

const CONCURRENCY: [usize; 6] = [1, 4, 16, 64, 256, 512];
const PAYLOAD: [usize; 6] = [100, 1 << 10, 8 << 10, 64 << 10, 256 << 10, PAYLOAD_BYTES];
const WORKERS: [usize; 4] = [1, 2, 4, 8];
/// What stays while another grows.
const BASE: Load = Load { concurrency: 64, payload: 100, workers: 1 };

/// Tasks of one point, and what they may be in bytes together.
const TASKS: usize = 20_000;
const BYTES: usize = 96 << 20;
/// One call to the broker.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 8 << 20;
/// What a worker takes in one request. Redis closes a connection that listens and has 32 MiB waiting for it, so that many
/// large payloads at once would never arrive.
const PREFETCH: usize = 64;
const REQUEST_BYTES: usize = 8 << 20;
/// No point runs longer: what is done by then counts.
const SPAN: Duration = Duration::from_millis(1_500);
/// Latencies of one point, after some that do not count.
const SINGLES: usize = 100;
const WARM_UP: usize = 20;
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Clone, Copy)]
struct Load {
    concurrency: usize,
    payload: usize,
    workers: usize,
}

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let folder = crate::target_dir().join("bench");
    std::fs::create_dir_all(&folder)?;
    let concurrency = CONCURRENCY.map(|concurrency| Load { concurrency, ..BASE });
    let payload = PAYLOAD.map(|payload| Load { payload, ..BASE });
    let workers = WORKERS.map(|workers| Load { workers, ..BASE });
    for (axis, loads) in [
        (Axis::Concurrency, &concurrency[..]),
        (Axis::Payload, &payload[..]),
        (Axis::Workers, &workers[..]),
    ] {
        let mut points = Vec::new();
        for load in loads {
            let at = match axis {
                Axis::Concurrency => load.concurrency,
                Axis::Payload => load.payload,
                Axis::Workers => load.workers,
            };
            let what = format!("Redis, AOF everysec, {} {}", axis.name(), axis.label(at));
            let point = measure(*load, at).await.with_context(|| what.clone())?;
            rows.push(row(format!("{what}: throughput"), point.tasks_per_s, "tasks/s"));
            rows.push(row(format!("{what}: idle, enqueue → result: p50"), point.p50_ms, "ms"));
            rows.push(row(format!("{what}: idle, enqueue → result: p99"), point.p99_ms, "ms"));
            points.push(point);
        }
        plot::draw(&folder.join(format!("growth-{}.svg", axis.name())), axis, &points)?;
    }
    Ok(rows)
}

/// One point on a Redis that has nothing in it.
async fn measure(load: Load, at: usize) -> anyhow::Result<Point> {
    let server = RedisServer::start();
    let backends = Backends::all_in_one(crate::redis(&server.url()).await?);
    let producer = Producer {
        client: Client::new(backends, Arc::new(SystemClock)),
        name: crate::peer::NAME.parse()?,
        payload: Payload::json(format!("\"{}\"", "x".repeat(load.payload.saturating_sub(2)))),
    };
    let prefetch = load.concurrency.min(PREFETCH).min(REQUEST_BYTES / load.payload);
    let workers: Vec<Process> = (0..load.workers)
        .map(|_| Process::isolate_worker(&server.url(), load.concurrency, prefetch))
        .collect::<Result<_, _>>()?;
    until(PATIENCE, async || Ok(producer.ready().await? == load.workers)).await?;
    let mut singles = producer.singles().await?;
    let tasks_per_s = producer.throughput().await?;
    drop(workers);
    let (p50_ms, p99_ms, _) = spread(&mut singles);
    Ok(Point { at, tasks_per_s, p50_ms, p99_ms })
}

struct Producer {
    client: Client,
    name: TaskName,
    payload: Payload,
}

impl Producer {
    /// Workers that are heard of.
    async fn ready(&self) -> anyhow::Result<usize> {
        let namespace = stem_core::id::Namespace::new("stem")?;
        let (heartbeats, _) = self.client.backends().presence.workers(&namespace).await?;
        Ok(heartbeats.len())
    }

    fn envelope(&self) -> anyhow::Result<Envelope> {
        let options = EnqueueOptions::default();
        Ok(self.client.envelope(self.name.clone(), self.payload.clone(), options)?)
    }

    /// One task at a time, in milliseconds.
    async fn singles(&self) -> anyhow::Result<Vec<f64>> {
        let mut figures = Vec::new();
        for _ in 0..WARM_UP + SINGLES {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let envelope = self.envelope()?;
            let at = Instant::now();
            self.client.enqueue_all(std::slice::from_ref(&envelope)).await?;
            let record = self.client.finished(&envelope.id, Some(PATIENCE)).await?;
            figures.push(at.elapsed().as_secs_f64() * 1e3);
            let state = record.map(|record| record.state);
            anyhow::ensure!(state == Some(TaskState::Succeeded), "{} is {state:?}", envelope.id);
        }
        Ok(figures.split_off(WARM_UP))
    }

    /// Everything is enqueued while the queue is paused, so that enqueueing costs the workers nothing. The clock runs
    /// from the first tenth, when all workers are at it, until all are done or the time is over.
    async fn throughput(&self) -> anyhow::Result<f64> {
        let size = self.payload.bytes.len();
        let tasks = TASKS.min(BYTES / size);
        let batch = BATCH.min(BATCH_BYTES / size).max(1);
        let queue = QueueName::new(stem_engine::client::DEFAULT_QUEUE)?;
        let broker = &self.client.backends().broker;
        let pause = Pause { reason: None, since: SystemClock.now() };
        broker.set_paused(&queue, Some(pause)).await?;
        let mut pushed = 0;
        while pushed < tasks {
            let envelopes: Vec<Envelope> =
                (0..batch).map(|_| self.envelope()).collect::<Result<_, _>>()?;
            self.client.enqueue_all(&envelopes).await?;
            pushed += batch;
        }
        broker.set_paused(&queue, None).await?;
        let done = async || {
            let left = usize::try_from(left(&self.client).await?)?;
            anyhow::Ok(pushed.saturating_sub(left))
        };
        until(PATIENCE, async || Ok(done().await? >= pushed / 10)).await?;
        let (first, at) = (done().await?, Instant::now());
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = done().await?;
            if now == pushed || at.elapsed() >= SPAN {
                #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
                let tasks = (now - first) as f64;
                return Ok(tasks / at.elapsed().as_secs_f64());
            }
        }
    }
}

/// Looks every few milliseconds whether something is so.
async fn until(
    patience: Duration,
    mut so: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while !so().await? {
        anyhow::ensure!(Instant::now() < deadline, "nothing happened for {patience:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
