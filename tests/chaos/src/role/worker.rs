//! A worker that is killed: native handlers, and a history of what its backends answer. Ends with its standard input.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use stem_core::envelope::Payload;
use stem_core::id::{TaskId, TaskName, WorkerId};
use stem_core::time::{Clock, Timestamp};
use stem_engine::{
    Child, Release, SystemClock, TaskContext, TaskError, Worker, WorkerBuilder, WorkerConfig,
};

use super::guest;
use crate::history::{Ended, Event, Held, Journal};
use crate::place::Place;
use crate::record::{Tokens, recorded};
use crate::{CAREFUL, CHILD_LATER, CHILD_NOW};

/// So that the next life of a worker that was killed need not wait long for its name.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Between two steps of a clock that jumps.
const JUMP: Duration = Duration::from_millis(500);
/// What most tasks ask the system for in their middle, and give back at once. It costs nothing, as they do not touch it; a
/// worker that gets no more memory dies of it. More than the allocator ever keeps for itself: 64 MiB for each thread.
const SCRATCH: usize = 128 << 20;
/// A task is not poison because the run kills its workers.
const LOSSES: u32 = 1_000;

/// Its settings.
#[derive(Debug, clap::Args)]
pub struct Args {
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
    /// Its wall clock is this much ahead, in every other half of a second.
    #[arg(long, default_value_t = 0)]
    clock_jumps_ms: u64,
    /// So many guests at once, of those that write values; none if 0.
    #[arg(long, default_value_t = 0)]
    isolates: u32,
    #[command(flatten)]
    place: Place,
}

/// Never steps.
#[derive(Debug)]
struct Steady {
    wall: Timestamp,
    since: Instant,
}

impl Clock for Steady {
    fn now(&self) -> Timestamp {
        self.wall.after(self.since.elapsed())
    }
}

/// Half of the time it is wrong.
#[derive(Debug)]
struct Jumping {
    since: Instant,
    by: Duration,
}

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        let right = SystemClock.now();
        let is_right = (self.since.elapsed().as_millis() / JUMP.as_millis()).is_multiple_of(2);
        if is_right { right } else { right.after(self.by) }
    }
}

/// What `sleepy` and `careful` are given.
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

/// As somebody would who has to unpack something.
fn ask_for_memory() {
    std::hint::black_box(vec![0_u8; SCRATCH]);
}

async fn nap(
    journal: Arc<Journal>,
    tokens: Arc<Tokens>,
    context: TaskContext,
    length: Duration,
) -> Result<(), TaskError> {
    let mut run = Run::start(&journal, &tokens, &context)?;
    if !length.is_zero() {
        tokio::time::sleep(length / 2).await;
        ask_for_memory();
        tokio::time::sleep(length / 2).await;
    }
    run.returned = true;
    Ok(())
}

/// Does what an attempt may do before it ends: checkpoints, and a child with a key. What is refused is left, as a handler
/// would that hears of nothing; so it goes on for as long as it can when its lease is lost.
async fn careful(
    journal: Arc<Journal>,
    tokens: Arc<Tokens>,
    context: TaskContext,
    length: Duration,
    has_children: bool,
) -> Result<(), TaskError> {
    let mut run = Run::start(&journal, &tokens, &context)?;
    // Whether it is stored is for the journal, which hears it before we do.
    let _ = context.save_checkpoint(b"begun".to_vec()).await;
    tokio::time::sleep(length / 2).await;
    ask_for_memory();
    let _ = context.save_checkpoint(b"half".to_vec()).await;
    tokio::time::sleep(length / 2).await;
    if has_children {
        let name = TaskName::new(CHILD_NOW).map_err(|error| TaskError::fatal("chaos", error))?;
        let child =
            Child { dedup_key: Some("one".to_owned()), ..Child::new(name, Payload::json("{}")) };
        journal.write(Event::WantsChildren(run.held.clone()));
        if context.enqueue(vec![child], Release::Now).await.is_ok() {
            journal.write(Event::ChildrenOk(run.held.clone()));
        }
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
    let (now, later) = (child(CHILD_NOW)?, child(CHILD_LATER)?);
    let keyed = (0..args.children)
        .map(|number| Child { dedup_key: Some(number.to_string()), ..now.clone() })
        .collect();
    context.enqueue(keyed, Release::Now).await?;
    tokio::time::sleep(Duration::from_millis(args.ms)).await;
    context.enqueue(vec![later; args.children], Release::OnSuccess).await?;
    run.returned = true;
    Ok(())
}

/// Works until it is told to drain.
pub async fn run(args: Args) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let process = format!("{}.{}", args.name, args.life);
    let journal = Arc::new(Journal::open(&args.directory, &process)?);
    journal.write(Event::Boots);
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
    let guests = match args.isolates {
        0 => None,
        isolates => Some(guest::load(&args.directory, isolates, &config).await?),
    };
    let both = || (Arc::clone(&journal), Arc::clone(&tokens));
    let short = |(journal, tokens): (Arc<Journal>, Arc<Tokens>)| {
        move |context, _: serde_json::Value| {
            nap(Arc::clone(&journal), Arc::clone(&tokens), context, Duration::ZERO)
        }
    };
    let (sleepy, parent, writer) = (both(), both(), both());
    let ready = Arc::clone(&journal);
    let jumps = Duration::from_millis(args.clock_jumps_ms);
    let builder = Worker::builder(backends, config)
        .inline("noop", short(both()))?
        .inline(CHILD_NOW, short(both()))?
        .inline(CHILD_LATER, short(both()))?
        .inline("family", move |context, args: Family| {
            family(Arc::clone(&parent.0), Arc::clone(&parent.1), context, args)
        })?
        .inline(CAREFUL, move |context, args: Nap| {
            let (journal, tokens) = (Arc::clone(&writer.0), Arc::clone(&writer.1));
            // By a clock that jumps it takes a lease that it was told of late for as long as its answer took. That is
            // known, and would be found here.
            let has_children = jumps.is_zero();
            careful(journal, tokens, context, Duration::from_millis(args.ms), has_children)
        })?
        .inline("sleepy", move |context, args: Nap| {
            let length = Duration::from_millis(args.ms);
            nap(Arc::clone(&sleepy.0), Arc::clone(&sleepy.1), context, length)
        })?;
    let builder = if jumps.is_zero() {
        builder
    } else {
        let since = Instant::now();
        let steady = Steady { wall: SystemClock.now(), since };
        builder.clocks(Arc::new(steady), Arc::new(Jumping { since, by: jumps }))
    };
    let builder = match guests {
        None => builder,
        Some((runtime, handlers)) => {
            handlers.into_iter().fold(builder.isolates(runtime), WorkerBuilder::module)
        }
    };
    let worker = builder.build()?.on_ready(move |_| {
        ready.write(Event::Ready);
    });
    worker.run().await?;
    Ok(())
}
