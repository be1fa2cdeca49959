//! What a task costs while few or very many wait. The backlog is kept at its depth: for each task that is done another
//! one is enqueued, so that both depths are charged for the same work. Both stand side by side and are looked at in
//! turns, so that what else the machine does meets both alike; the middle of the looks counts.

use std::time::{Duration, Instant};

use stem_core::backend::broker::Pause;
use stem_core::envelope::Payload;
use stem_core::id::{QueueName, TaskName};
use stem_core::time::Clock as _;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use stem_services::{RedisServer, RedisSettings};

use crate::figure::RATIO;
use crate::measure::{cpu_seconds, resident_bytes};
use crate::process::Process;
use crate::{Row, row, spread};

const FEW: u64 = 1_000;
const MANY: u64 = 1_000_000;
/// Enqueued in one call, at the beginning.
const BATCH: u64 = 1_000;
/// Enqueued in one call, while a worker takes them: small beside the shallow backlog.
const REFILL: u64 = 200;
/// Tasks that do not count, and tasks of one look.
const WARM_UP: u64 = 5_000;
const TASKS: u64 = 12_000;
/// Looks at each depth.
const LOOKS: usize = 5;
const CONCURRENCY: usize = 64;
const PATIENCE: Duration = Duration::from_mins(5);

/// What a task costs at one depth.
struct Look {
    worker_us: f64,
    redis_us: f64,
    tasks_per_s: f64,
}

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let mut few = Depth::new(FEW).await?;
    let mut many = Depth::new(MANY).await?;
    let (mut at_few, mut at_many) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        at_few.push(few.look().await?);
        at_many.push(many.look().await?);
    }
    let mut rows = Vec::new();
    let mut both = Vec::new();
    for (what, depth, looks) in [("1,000", &few, &at_few), ("1,000,000", &many, &at_many)] {
        let name = format!("backlog of {what} on Redis, AOF everysec, isolate no-op");
        let middle = |of: fn(&Look) -> f64| {
            let mut figures: Vec<f64> = looks.iter().map(of).collect();
            spread(&mut figures).0
        };
        let resident = resident_bytes(depth.worker.pid())? / 1e6;
        rows.push(row(format!("{name}: enqueued, {BATCH} at once"), depth.filled_seconds, "s"));
        rows.push(row(format!("{name}: CPU of the worker"), middle(|l| l.worker_us), "µs/task"));
        rows.push(row(format!("{name}: CPU of Redis"), middle(|l| l.redis_us), "µs/task"));
        rows.push(row(format!("{name}: throughput"), middle(|l| l.tasks_per_s), "tasks/s"));
        rows.push(row(format!("{name}: worker's resident memory"), resident, "MB"));
        both.push((middle(|l| l.worker_us + l.redis_us), resident));
    }
    if let [(few_us, few_mb), (many_us, many_mb)] = both[..] {
        let what = "CPU of both for a task at 1,000,000 over that at 1,000";
        rows.push(row(what, many_us / few_us, RATIO).at_most(1.15));
        let what = "worker's memory at 1,000,000 over that at 1,000";
        rows.push(row(what, many_mb / few_mb, RATIO).at_most(1.15));
    }
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

    async fn settled(&self) -> anyhow::Result<u64> {
        Ok(self.pushed.saturating_sub(left(&self.client).await?))
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

/// A Redis with so many tasks in it, and its worker; the queue is paused while nobody looks.
struct Depth {
    tasks: u64,
    filled_seconds: f64,
    producer: Producer,
    worker: Process,
    server: RedisServer,
}

impl Depth {
    async fn new(tasks: u64) -> anyhow::Result<Self> {
        // Rewriting the file after the filling would be charged to the tasks that are measured, at one depth only.
        let extra = ["--auto-aof-rewrite-percentage", "0"].map(str::to_owned).to_vec();
        let server = RedisServer::with(RedisSettings { extra, ..RedisSettings::default() });
        let backends = Backends::all_in_one(crate::redis(&server.url()).await?);
        let client = Client::new(backends, std::sync::Arc::new(SystemClock));
        let mut producer = Producer { client, name: crate::peer::NAME.parse()?, pushed: 0 };
        let at = Instant::now();
        while producer.pushed < tasks {
            producer.push(BATCH).await?;
        }
        let filled_seconds = at.elapsed().as_secs_f64();
        let worker = Process::isolate_worker(&server.url(), CONCURRENCY, CONCURRENCY)?;
        let mut depth = Self { tasks, filled_seconds, producer, worker, server };
        depth.producer.keep(tasks, WARM_UP).await?;
        depth.pause(true).await?;
        Ok(depth)
    }

    async fn pause(&self, paused: bool) -> anyhow::Result<()> {
        let queue = QueueName::new(stem_engine::client::DEFAULT_QUEUE)?;
        let pause = paused.then(|| Pause { reason: None, since: SystemClock.now() });
        self.producer.client.backends().broker.set_paused(&queue, pause).await?;
        Ok(())
    }

    async fn look(&mut self) -> anyhow::Result<Look> {
        self.pause(false).await?;
        let first = self.producer.settled().await?;
        let cpu = || anyhow::Ok((cpu_seconds(self.worker.pid())?, cpu_seconds(self.server.pid())?));
        let (at, before) = (Instant::now(), cpu()?);
        let last = self.producer.keep(self.tasks, first + TASKS).await?;
        let (span, after) = (at.elapsed(), cpu()?);
        self.pause(true).await?;
        #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
        let tasks = (last - first) as f64;
        Ok(Look {
            worker_us: (after.0 - before.0) * 1e6 / tasks,
            redis_us: (after.1 - before.1) * 1e6 / tasks,
            tasks_per_s: tasks / span.as_secs_f64(),
        })
    }
}
