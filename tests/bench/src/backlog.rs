//! What a task costs while few or very many wait. The backlog is kept at its depth: for each task that is done another
//! one is enqueued, so that both depths are charged for the same work.

use std::time::{Duration, Instant};

use stem_core::envelope::Payload;
use stem_core::id::TaskName;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use stem_services::{RedisServer, RedisSettings};

use crate::figure::RATIO;
use crate::measure::{cpu_seconds, resident_bytes};
use crate::process::Process;
use crate::{Row, row};

const FEW: u64 = 1_000;
const MANY: u64 = 1_000_000;
/// Enqueued in one call, at the beginning.
const BATCH: u64 = 1_000;
/// Enqueued in one call, while a worker takes them: small beside the shallow backlog.
const REFILL: u64 = 200;
/// Tasks that do not count, and tasks that do.
const WARM_UP: u64 = 5_000;
const TASKS: u64 = 30_000;
const CONCURRENCY: usize = 64;
const PATIENCE: Duration = Duration::from_mins(5);

/// What one depth came to.
struct Seen {
    filled_seconds: f64,
    worker_us: f64,
    redis_us: f64,
    tasks_per_s: f64,
    resident_mb: f64,
}

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let few = at(FEW).await?;
    let many = at(MANY).await?;
    let mut rows = Vec::new();
    for (what, seen) in [("1,000", &few), ("1,000,000", &many)] {
        let name = format!("backlog of {what} on Redis, AOF everysec, isolate no-op");
        rows.push(row(format!("{name}: enqueued, {BATCH} at once"), seen.filled_seconds, "s"));
        rows.push(row(format!("{name}: CPU of the worker"), seen.worker_us, "µs/task"));
        rows.push(row(format!("{name}: CPU of Redis"), seen.redis_us, "µs/task"));
        rows.push(row(format!("{name}: throughput"), seen.tasks_per_s, "tasks/s"));
        rows.push(row(format!("{name}: worker's resident memory"), seen.resident_mb, "MB"));
    }
    let ratio = (many.worker_us + many.redis_us) / (few.worker_us + few.redis_us);
    rows.push(
        row("CPU of both for a task at 1,000,000 over that at 1,000", ratio, RATIO).at_most(1.15),
    );
    let ratio = many.resident_mb / few.resident_mb;
    rows.push(row("worker's memory at 1,000,000 over that at 1,000", ratio, RATIO).at_most(1.15));
    Ok(rows)
}

struct Producer {
    client: Client,
    name: TaskName,
    pushed: u64,
}

impl Producer {
    async fn push(&mut self, count: u64) -> anyhow::Result<()> {
        let input = Payload::json(crate::attempts::INPUT);
        let envelopes = (0..count)
            .map(|_| {
                self.client.envelope(self.name.clone(), input.clone(), EnqueueOptions::default())
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.client.enqueue_all(&envelopes).await?;
        self.pushed += count;
        Ok(())
    }

    /// Keeps so many waiting until so many are done.
    async fn keep(&mut self, depth: u64, done: u64) -> anyhow::Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = left(&self.client).await?;
            let settled = self.pushed.saturating_sub(left);
            if settled >= done {
                return Ok(settled);
            }
            anyhow::ensure!(Instant::now() < deadline, "{settled} of {done} are done");
            if left + REFILL <= depth {
                self.push(REFILL).await?;
            } else {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}

/// Tasks that wait or are in a worker's hands.
pub(crate) async fn left(client: &Client) -> anyhow::Result<u64> {
    let queues = client.backends().broker.queues().await?;
    Ok(queues.iter().map(|queue| queue.ready + queue.inflight).sum())
}

async fn at(depth: u64) -> anyhow::Result<Seen> {
    // Rewriting the file after the filling would be charged to the tasks that are measured, at one depth only.
    let extra = ["--auto-aof-rewrite-percentage", "0"].map(str::to_owned).to_vec();
    let server = RedisServer::with(RedisSettings { extra, ..RedisSettings::default() });
    let backends = Backends::all_in_one(crate::redis(&server.url()).await?);
    let client = Client::new(backends, std::sync::Arc::new(SystemClock));
    let mut producer = Producer { client, name: crate::peer::NAME.parse()?, pushed: 0 };
    let at = Instant::now();
    while producer.pushed < depth {
        producer.push(BATCH).await?;
    }
    let filled_seconds = at.elapsed().as_secs_f64();
    let worker = Process::isolate_worker(&server.url(), CONCURRENCY, CONCURRENCY)?;
    let cpu = || anyhow::Ok((cpu_seconds(worker.pid())?, cpu_seconds(server.pid())?));
    let first = producer.keep(depth, WARM_UP).await?;
    let (at, before) = (Instant::now(), cpu()?);
    let last = producer.keep(depth, first + TASKS).await?;
    let (span, after) = (at.elapsed(), cpu()?);
    #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
    let tasks = (last - first) as f64;
    Ok(Seen {
        filled_seconds,
        worker_us: (after.0 - before.0) * 1e6 / tasks,
        redis_us: (after.1 - before.1) * 1e6 / tasks,
        tasks_per_s: tasks / span.as_secs_f64(),
        resident_mb: resident_bytes(worker.pid())? / 1e6,
    })
}
