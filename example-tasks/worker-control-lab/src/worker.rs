//! One of the lab's workers: the engine, embedded, with one native handler and two modules.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use stem_core::id::{QueueName, WorkerId};
use stem_engine::{Backends, SystemClock, TaskContext, TaskError, Worker, WorkerConfig, modules};
use stem_isolate::{Compiler, IsolateRuntime, RuntimeConfig};
use stem_sql::{Sqlite, SqliteOptions};

/// The first argument with which a worker starts this program to compile a module.
pub(crate) const COMPILE: &str = "__compile";
/// The modules it serves: one that reaches checkpoints, and one that never looks up.
pub(crate) const GUESTS: [&str; 2] = ["crunch", "spin"];
/// The native handler.
pub(crate) const NATIVE: &str = "await-file";

const BROKER: &str = "STEM_BROKER_URL";
/// How long to wait for the database's lock while another process holds it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts at once.
const CONCURRENCY: u32 = 4;
/// Four times the usual, both: a machine whose disk stands still for seconds must not make a live worker look dead.
const LEASE: Duration = Duration::from_mins(1);
const HEARTBEAT: Duration = Duration::from_secs(20);
/// From one checkpoint of the native handler to the next.
const STEP: Duration = Duration::from_millis(20);

/// What the script tells a worker.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    name: WorkerId,
    #[arg(long, value_delimiter = ',')]
    queue: Vec<QueueName>,
    #[arg(long)]
    modules: PathBuf,
    /// Where compiled modules are kept.
    #[arg(long)]
    cache: PathBuf,
    /// The process of the script.
    #[arg(long)]
    parent: u32,
}

/// Arguments of the native handler.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AwaitFile {
    /// The file, as seen from the worker's directory.
    file: PathBuf,
}

/// What the native handler returns.
#[derive(Debug, Serialize)]
struct Arrived {
    bytes: u64,
}

/// The native handler: waits until a file is there. Small steps with a checkpoint each, as in any handler that an
/// operator is to stop.
async fn await_file(context: TaskContext, args: AwaitFile) -> Result<Arrived, TaskError> {
    loop {
        context.heartbeat()?;
        match std::fs::metadata(&args.file) {
            Ok(file) => return Ok(Arrived { bytes: file.len() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(TaskError::retryable("unreadable", error)),
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Works until it is told to leave.
pub(crate) fn run(args: Args) -> Result<()> {
    // However the script ends, also by SIGKILL: no worker is left behind, not even one that is stopped.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    ensure!(std::os::unix::process::parent_id() == args.parent, "the script is gone already");
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let url = std::env::var(BROKER).context(BROKER)?;
    let Some(path) = url.strip_prefix("sqlite://").map(PathBuf::from) else {
        bail!("{BROKER} is not a sqlite:// URL");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the worker's threads")?;
    runtime.block_on(work(path, args))
}

async fn work(path: PathBuf, args: Args) -> Result<()> {
    let clock = Arc::new(SystemClock);
    let options = SqliteOptions { path, clock, create: true, busy_timeout: BUSY_TIMEOUT };
    let backends = Backends::all_in_one(Sqlite::open(options).await?);
    let config = WorkerConfig {
        queues: args.queue,
        concurrency: CONCURRENCY as usize,
        prefetch: CONCURRENCY as usize,
        lease: LEASE,
        heartbeat_interval: HEARTBEAT,
        signal_handlers: true,
        ..WorkerConfig::new(args.name)
    };
    let isolates = Arc::new(IsolateRuntime::new(&RuntimeConfig {
        isolates: CONCURRENCY,
        memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
        threads: std::thread::available_parallelism().map_or(1, NonZero::get),
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::Child {
            program: std::env::current_exe()?,
            args: vec![COMPILE.to_owned()],
            env: Vec::new(),
        },
        cache_dir: Some(args.cache),
        scratch_dir: None,
    })?);
    let cap = config.limits_cap.clone();
    let mut builder = Worker::builder(backends, config)
        .isolates(Arc::clone(&isolates))
        .inline(NATIVE, await_file)?;
    let found = modules::find(&args.modules)?;
    for guest in GUESTS {
        let guest =
            found.get(&guest.parse()?).with_context(|| format!("no module serves {guest}"))?;
        builder = builder.module(modules::load(&isolates, guest, &cap).await?);
    }
    builder
        .build()?
        .on_ready(|ready| {
            let queues: Vec<_> = ready.queues.iter().map(QueueName::as_str).collect();
            println!("{} is ready for queue {}", ready.worker, queues.join(", "));
        })
        .run()
        .await?;
    Ok(())
}
