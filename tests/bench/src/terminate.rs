//! Terminate through a whole worker: an operator's process writes, a worker reads and stops one guest among a hundred.
//!
//! Both use the same store by connections of their own, as two processes do. Every place of the worker is taken, and a
//! native task waits for one: when it begins, the place is free. Over Redis the one guest is alone, as peers are measured.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use stem_core::backend::control::Position;
use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Answer, Command, Drain, Order};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{Namespace, RequestId, TaskId, TaskName};
use stem_core::observe::{AttemptEnd, AttemptFacts, Ending, Observer, Seen, Trace};
use stem_core::outcome::StopReason;
use stem_core::revoke::RevokeRequest;
use stem_core::time::Clock;
use stem_engine::manifest::HandlerManifest;
use stem_engine::modules::{self, Found};
use stem_engine::worker::WorkerHandle;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock, Worker, WorkerConfig};
use stem_services::RedisServer;
use tokio::sync::mpsc;

use crate::attempts::runtime;
use crate::figure::{Goal, RATIO};
use crate::process::Place;
use crate::{Row, row, spread};

/// Terminations in one figure.
const ROUNDS: usize = 300;
/// The same as whole processes.
const PROCESSES: usize = 100;
const NEIGHBOURS: usize = 100;
/// Loops of a neighbour that comes to an end: about 100 ms of a core.
const WORK: u32 = 100_000_000;
const PATIENCE: Duration = Duration::from_mins(1);

const ENDLESS: &str = r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (loop $l (br $l)) (i32.const 0)))"#;

/// Counts down, and then returns 42.
fn counting() -> String {
    format!(
        r#"(module
            (import "stem0" "output_write" (func $write (param i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 0) "42")
            (func (export "stem_run") (result i32) (local $left i32)
                (local.set $left (i32.const {WORK}))
                (loop $l (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
                (call $write (i32.const 0) (i32.const 2))))"#
    )
}

/// Sees the last runaway's end from within the worker.
#[derive(Debug, Default)]
struct Witness(Mutex<Ends>);

#[derive(Debug, Default)]
struct Ends {
    /// When the worker had the order.
    received: Option<Instant>,
    /// When the delivery had left its hands, and with it the place.
    left: Option<Instant>,
}

impl Witness {
    /// From the receipt until the place was free, of the one since the last call.
    fn take(&self) -> Option<Duration> {
        let ends = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Some(ends.left?.duration_since(ends.received?))
    }
}

impl Observer for Witness {
    fn is_watching(&self) -> bool {
        true
    }

    fn started(&self, _: &AttemptFacts<'_>) -> Option<Box<dyn Trace>> {
        None
    }

    fn ended(&self, _: &AttemptFacts<'_>, end: &AttemptEnd<'_>) {
        if end.ending == Ending::Revoked {
            let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            ends.left = Some(Instant::now());
        }
    }

    fn saw(&self, seen: Seen<'_>) {
        if let Seen::Stopped { reason: StopReason::Revoked, took, .. } = seen {
            let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            ends.received = Instant::now().checked_sub(took);
        }
    }
}

struct Bench {
    worker: WorkerHandle,
    witness: Arc<Witness>,
    running: tokio::task::JoinHandle<Result<(), stem_engine::WorkerError>>,
    operator: Client,
    probes: mpsc::UnboundedReceiver<Instant>,
    namespace: Namespace,
    dir: tempfile::TempDir,
    server: Option<RedisServer>,
}

/// Where worker and operator meet.
#[derive(Clone, Copy, Debug)]
enum Store {
    Sqlite,
    Redis,
}

impl Bench {
    async fn start(store: Store, neighbours: usize) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("stem.db");
        let server = matches!(store, Store::Redis).then(RedisServer::start);
        let open = async || match &server {
            Some(server) => crate::redis(&server.url()).await.map(Backends::all_in_one),
            None => crate::sqlite(&path).await.map(Backends::all_in_one),
        };
        let isolates = runtime(u32::try_from(neighbours + 2)?, 2)?;
        let config = WorkerConfig {
            concurrency: neighbours + 1,
            prefetch: neighbours + 1,
            ..WorkerConfig::new("bench".parse()?)
        };
        let cap = config.limits_cap.clone();
        let witness = Arc::new(Witness::default());
        let mut builder = Worker::builder(open().await?, config)
            .isolates(Arc::clone(&isolates))
            .observer(Arc::clone(&witness) as Arc<dyn Observer>);
        for (name, text) in [("endless", ENDLESS.to_owned()), ("counting", counting())] {
            let path = dir.path().join(format!("{name}.wasm"));
            std::fs::write(&path, wat::parse_str(text)?)?;
            let mut manifest = HandlerManifest::plain(name.parse()?, format!("{name}.wasm"));
            // What runs for ever must not end by a limit while it is needed.
            manifest.limits.hard = Duration::from_hours(1);
            manifest.limits.cpu = Duration::from_hours(1);
            builder =
                builder.module(modules::load(&isolates, &Found { path, manifest }, &cap).await?);
        }
        let (began, probes) = mpsc::unbounded_channel();
        let worker = builder
            .inline("probe", move |_, (): ()| {
                let began = began.clone();
                async move {
                    // The bench may have ended.
                    let _ = began.send(Instant::now());
                    Ok(())
                }
            })?
            .build()?;
        let handle = worker.handle();
        let running = tokio::spawn(worker.run());
        let operator = Client::new(open().await?, Arc::new(SystemClock));
        let namespace = Namespace::new("stem")?;
        Ok(Self { worker: handle, witness, running, operator, probes, namespace, dir, server })
    }

    async fn enqueue(&self, name: &str, count: usize) -> anyhow::Result<Vec<TaskId>> {
        let name: TaskName = name.parse()?;
        let envelopes: Vec<Envelope> = (0..count)
            .map(|_| {
                self.operator.envelope(
                    name.clone(),
                    Payload::json("null"),
                    EnqueueOptions::default(),
                )
            })
            .collect::<Result<_, _>>()?;
        self.operator.enqueue_all(&envelopes).await?;
        Ok(envelopes.into_iter().map(|envelope| envelope.id).collect())
    }

    async fn ask(&self, order: Order) -> anyhow::Result<Value> {
        let now = SystemClock.now();
        let command = Command {
            request_id: RequestId::new(uuid::Uuid::now_v7().to_string())?,
            namespace: self.namespace.clone(),
            targets: None,
            order,
            issued_at: now,
            expires_at: now.after(PATIENCE),
            requester: "bench".to_owned(),
        };
        let control = &self.operator.backends().control;
        control.send(&CommandFrame::plain(&command)).await?;
        let replies =
            control.replies(&self.namespace, &command.request_id, Position(0), PATIENCE).await?;
        let reply = replies.first().map(|(_, text)| wire::reply(text.as_bytes())).transpose()?;
        match reply.map(|reply| reply.answer) {
            Some(Answer::Ok { payload }) => Ok(payload),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Waits until the guest has had a core: among a hundred that takes a while longer than to be started.
    async fn until_computing(&self, task: &TaskId) -> anyhow::Result<()> {
        let poll = async {
            loop {
                let seen = self.ask(Order::Inspect { include_revoked: false }).await?;
                let active = seen["active"].as_array().map_or(&[][..], Vec::as_slice);
                let row = active.iter().find(|row| row["id"] == task.as_str());
                if row.and_then(|row| row["cpuMs"].as_f64()).is_some_and(|used| used > 0.0) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, poll).await?
    }

    async fn terminate(&self, task: &TaskId) -> anyhow::Result<Value> {
        let request = RevokeRequest { terminate: true, ..RevokeRequest::default() };
        let store = &self.operator.backends().revokes;
        let revocations = store.revoke(&self.namespace, &[(task.clone(), request)]).await?;
        self.ask(Order::Revoke { revocations }).await
    }

    /// A page written to the disk of the store, beside everything else: no durable settlement is faster.
    async fn sync(&self) -> anyhow::Result<Duration> {
        let path = self.dir.path().join("control");
        tokio::task::spawn_blocking(move || {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            let at = Instant::now();
            file.write_all(&[1; 4096])?;
            file.sync_data()?;
            anyhow::Ok(at.elapsed())
        })
        .await?
    }

    async fn stop(self, mode: Drain) -> anyhow::Result<()> {
        self.worker.shutdown(mode, None);
        self.running.await??;
        Ok(())
    }
}

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let mut rows = latencies(Store::Sqlite, NEIGHBOURS, &AMONG).await?;
    rows.extend(latencies(Store::Redis, 0, &ALONE).await?);
    rows.extend(by_process().await?);
    rows.extend(neighbours().await?);
    Ok(rows)
}

/// What one situation is called, and what it is held against: for the trap, the free place, the reply and the next task
/// in that place, p50 and p99.
struct Situation {
    name: &'static str,
    trap: [Option<f64>; 2],
    free: [Option<f64>; 2],
    reply: [Option<f64>; 2],
    place: [Option<f64>; 2],
}

const AMONG: Situation = Situation {
    name: "terminate among 100, SQLite, durable",
    trap: [None, Some(5.0)],
    free: [None, Some(10.0)],
    reply: [None, None],
    place: [None, None],
};
/// The reply is written after the guest's end, so it bounds what is promised of that.
const ALONE: Situation = Situation {
    name: "terminate over Redis, AOF everysec",
    trap: [None, None],
    free: [None, None],
    reply: [Some(2.0), Some(6.0)],
    place: [Some(3.0), Some(8.0)],
};

async fn latencies(
    store: Store,
    neighbours: usize,
    situation: &Situation,
) -> anyhow::Result<Vec<Row>> {
    let mut bench = Bench::start(store, neighbours).await?;
    for task in bench.enqueue("endless", neighbours).await? {
        bench.until_computing(&task).await?;
    }
    let (mut freed, mut replied, mut trapped) = (Vec::new(), Vec::new(), Vec::new());
    let (mut left, mut synced) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let victim = bench.enqueue("endless", 1).await?.remove(0);
        bench.until_computing(&victim).await?;
        bench.enqueue("probe", 1).await?;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let at = Instant::now();
        let payload = bench.terminate(&victim).await?;
        replied.push(at.elapsed().as_secs_f64() * 1e3);
        let began = tokio::time::timeout(PATIENCE, bench.probes.recv()).await?;
        let began = began.ok_or_else(|| anyhow::anyhow!("the probes are gone"))?;
        freed.push(began.duration_since(at).as_secs_f64() * 1e3);
        let ended = &payload["terminated"][0];
        anyhow::ensure!(ended["how"] == "preempted", "{payload}");
        trapped.push(ended["elapsedMs"].as_f64().unwrap_or(f64::NAN));
        let free = bench.witness.take().context("the worker did not tell of its end")?;
        left.push(free.as_secs_f64() * 1e3);
        if matches!(store, Store::Sqlite) {
            synced.push(bench.sync().await?.as_secs_f64() * 1e3);
        }
    }
    bench.stop(Drain::Hard).await?;
    let mut rows = Vec::new();
    for (what, bounds, figures) in [
        ("worker's receipt → trap", situation.trap, &mut trapped),
        ("worker's receipt → place free, settled", situation.free, &mut left),
        ("operator's write → place runs another task", situation.place, &mut freed),
        ("operator's write → reply", situation.reply, &mut replied),
    ] {
        let what = format!("{}, {what}", situation.name);
        let (p50, p99, max) = spread(figures);
        for (part, value, bound) in [("p50", p50, bounds[0]), ("p99", p99, bounds[1])] {
            let part = row(format!("{what}: {part}"), value, "ms");
            rows.push(Row { goal: bound.map(Goal::AtMost), ..part });
        }
        rows.push(row(format!("{what}: max"), max, "ms"));
    }
    if !synced.is_empty() {
        let (p50, p99, _) = spread(&mut synced);
        let what = "  control beside it: one page written and synced";
        rows.push(row(format!("{what}: p50"), p50, "ms"));
        rows.push(row(format!("{what}: p99"), p99, "ms"));
    }
    Ok(rows)
}

/// `stem worker revoke --terminate` as somebody at a terminal has it: a process from its start to its exit, which comes after the
/// guest's end.
async fn by_process() -> anyhow::Result<Vec<Row>> {
    let bench = Bench::start(Store::Redis, 0).await?;
    let url = bench.server.as_ref().map(RedisServer::url).context("it is on Redis")?;
    let place = Place::new(url)?;
    let mut figures = Vec::new();
    for _ in 0..PROCESSES {
        let victim = bench.enqueue("endless", 1).await?.remove(0);
        bench.until_computing(&victim).await?;
        let words = ["worker", "revoke", "--terminate", "--json", "--task", victim.as_str()];
        let mut command = place.stem(&words)?;
        let at = Instant::now();
        // The worker lives on the runtime that waits here.
        let said = tokio::task::spawn_blocking(move || command.output()).await??;
        figures.push(at.elapsed().as_secs_f64() * 1e3);
        let text = String::from_utf8_lossy(&said.stdout);
        anyhow::ensure!(said.status.success(), "{}: {text}", said.status);
        anyhow::ensure!(text.contains("preempted"), "nothing was stopped: {text}");
    }
    bench.stop(Drain::Hard).await?;
    let (p50, p99, max) = spread(&mut figures);
    let what = "terminate over Redis, AOF everysec, by the stem program, process start → exit";
    Ok(vec![
        row(format!("{what}: p50"), p50, "ms").at_most(15.0),
        row(format!("{what}: p99"), p99, "ms"),
        row(format!("{what}: max"), max, "ms"),
    ])
}

/// A hundred guests that come to an end, beside one runaway that is left alone, and beside runaways that are terminated
/// again and again: the same competition for the cores, with and without terminations.
async fn neighbours() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut spans = Vec::new();
    for (what, killing) in [("one runaway", false), ("runaways that are terminated", true)] {
        let bench = Bench::start(Store::Sqlite, NEIGHBOURS).await?;
        let mut victim = bench.enqueue("endless", 1).await?.remove(0);
        bench.until_computing(&victim).await?;
        let began = SystemClock.now();
        let tasks = bench.enqueue("counting", NEIGHBOURS).await?;
        let mut killed = 0_u32;
        let mut ended = 0;
        let mut last = began;
        while let Some(task) = tasks.get(ended) {
            if killing {
                bench.terminate(&victim).await?;
                killed += 1;
                victim = bench.enqueue("endless", 1).await?.remove(0);
            }
            let record = bench.operator.wait(task, Some(Duration::from_millis(5)), |_| {}).await?;
            let Some(record) = record.filter(|record| record.state.is_final()) else { continue };
            let result = record.result.map(|result| result.bytes);
            anyhow::ensure!(result.as_deref() == Some(b"42"), "{task} is {:?}", record.state);
            last = last.max(record.finished_at.unwrap_or(last));
            ended += 1;
        }
        let span = last.since(began).as_secs_f64();
        let what =
            format!("100 computing tasks, SQLite, durable, beside {what}: until the last ended");
        rows.push(row(what, span, "s"));
        spans.push(span);
        if killing {
            let count = f64::from(killed);
            rows.push(row("  runaways that were terminated meanwhile", count, "tasks"));
        }
        bench.stop(Drain::Hard).await?;
    }
    if let [left_alone, terminated] = spans[..] {
        let what = "100 computing tasks beside terminations over beside one runaway";
        rows.push(row(what, terminated / left_alone, RATIO).at_most(1.1));
    }
    Ok(rows)
}
