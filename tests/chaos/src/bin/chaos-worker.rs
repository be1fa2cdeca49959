//! A worker that is killed: native handlers, and a history of what its backends answer. Ends with its standard input.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde::Deserialize;
use stem_chaos::history::{Ended, Event, Held, Journal};
use stem_chaos::place::Place;
use stem_chaos::record::{Tokens, recorded};
use stem_core::id::{TaskId, WorkerId};
use stem_engine::{TaskContext, TaskError, Worker, WorkerConfig};

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
    let (noop, sleepy) =
        ((Arc::clone(&journal), Arc::clone(&tokens)), (Arc::clone(&journal), tokens));
    let ready = Arc::clone(&journal);
    let worker = Worker::builder(backends, config)
        .inline("noop", move |context, _: serde_json::Value| {
            nap(Arc::clone(&noop.0), Arc::clone(&noop.1), context, Duration::ZERO)
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
