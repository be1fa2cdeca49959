//! A worker that is killed: native handlers, and a history of what its backends answer. Ends with its standard input.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde::Deserialize;
use stem_chaos::history::{Ended, Event, Held, Journal};
use stem_chaos::place::Place;
use stem_chaos::record::{Tokens, recorded};
use stem_core::envelope::Payload;
use stem_core::id::{TaskId, TaskName, WorkerId};
use stem_engine::{Child, Release, TaskContext, TaskError, Worker, WorkerConfig};

/// So that the next life of a worker that was killed need not wait long for its name.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A task is not poison because the run kills its workers.
const LOSSES: u32 = 1_000;

#[derive(Debug, Parser)]
struct Args {
    /// The worker's name.
    #[arg(long)]
    name: WorkerId,
    /// Which start of it this is.
    #[arg(long)]
    life: u32,
    /// Where the history goes.
    #[arg(long)]
    directory: PathBuf,
    #[arg(long, default_value_t = 2_000)]
    lease_ms: u64,
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    #[command(flatten)]
    place: Place,
}

/// What `sleepy` is given.
#[derive(Debug, Deserialize)]
struct Nap {
    ms: u64,
}

/// What `family` is given.
#[derive(Debug, Deserialize)]
struct Family {
    children: usize,
    ms: u64,
}

/// A handler that runs. Its end is written down however it ends, short of a kill.
struct Run {
    journal: Arc<Journal>,
    held: Held,
    returned: bool,
}

impl Run {
    fn start(
        journal: &Arc<Journal>,
        tokens: &Tokens,
        context: &TaskContext,
    ) -> Result<Self, TaskError> {
        let wrong = |what: &str| TaskError::fatal("chaos", what);
        let task = TaskId::new(&context.info().task_id).map_err(|_| wrong("an id breaks rules"))?;
        let token = tokens.of(&task).ok_or_else(|| wrong("it was never delivered"))?;
        let held = Held { task, token };
        journal.write(Event::Start(held.clone()));
        Ok(Self { journal: Arc::clone(journal), held, returned: false })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let how = if self.returned { Ended::Returned } else { Ended::Dropped };
        self.journal.write(Event::End { held: self.held.clone(), how });
    }
}

async fn nap(
    journal: Arc<Journal>,
    tokens: Arc<Tokens>,
    context: TaskContext,
    length: Duration,
) -> Result<(), TaskError> {
    let mut run = Run::start(&journal, &tokens, &context)?;
    if !length.is_zero() {
        tokio::time::sleep(length).await;
    }
    run.returned = true;
    Ok(())
}

/// Enqueues children at once, with keys, and as many without keys that wait for its success.
async fn family(
    journal: Arc<Journal>,
    tokens: Arc<Tokens>,
    context: TaskContext,
    args: Family,
) -> Result<(), TaskError> {
    let mut run = Run::start(&journal, &tokens, &context)?;
    let child = |name: &str| -> Result<Child, TaskError> {
        let name = TaskName::new(name).map_err(|error| TaskError::fatal("chaos", error))?;
        Ok(Child::new(name, Payload::json("{}")))
    };
    let (now, later) = (child(stem_chaos::CHILD_NOW)?, child(stem_chaos::CHILD_LATER)?);
    let keyed = (0..args.children)
        .map(|number| Child { dedup_key: Some(number.to_string()), ..now.clone() })
        .collect();
    context.enqueue(keyed, Release::Now).await?;
    tokio::time::sleep(Duration::from_millis(args.ms)).await;
    context.enqueue(vec![later; args.children], Release::OnSuccess).await?;
    run.returned = true;
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    stem_chaos::end_with_stdin();
    let process = format!("{}.{}", args.name, args.life);
    let journal = Arc::new(Journal::open(&args.directory, &process)?);
    let tokens = Arc::new(Tokens::default());
    let backends = recorded(args.place.open_patiently().await?, &journal, &tokens);
    let config = WorkerConfig {
        concurrency: args.concurrency,
        prefetch: args.concurrency,
        lease: Duration::from_millis(args.lease_ms),
        max_losses: LOSSES,
        heartbeat_interval: HEARTBEAT,
        signal_handlers: true,
        ..WorkerConfig::new(args.name)
    };
    let both = || (Arc::clone(&journal), Arc::clone(&tokens));
    let short = |(journal, tokens): (Arc<Journal>, Arc<Tokens>)| {
        move |context, _: serde_json::Value| {
            nap(Arc::clone(&journal), Arc::clone(&tokens), context, Duration::ZERO)
        }
    };
    let (sleepy, parent) = (both(), both());
    let ready = Arc::clone(&journal);
    let worker = Worker::builder(backends, config)
        .inline("noop", short(both()))?
        .inline(stem_chaos::CHILD_NOW, short(both()))?
        .inline(stem_chaos::CHILD_LATER, short(both()))?
        .inline("family", move |context, args: Family| {
            family(Arc::clone(&parent.0), Arc::clone(&parent.1), context, args)
        })?
        .inline("sleepy", move |context, args: Nap| {
            let length = Duration::from_millis(args.ms);
            nap(Arc::clone(&sleepy.0), Arc::clone(&sleepy.1), context, length)
        })?
        .build()?
        .on_ready(move |_| {
            ready.write(Event::Ready);
        });
    worker.run().await?;
    Ok(())
}
