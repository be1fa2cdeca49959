//! The whole surface of the command line, on one page. What each command does lies in [`crate::command`].

#![expect(
    clippy::doc_markdown,
    reason = "these comments are help texts, which show backticks as they are"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use stem_core::control::Drain;
use stem_core::envelope::{MAX_RETRIES, Priority};
use stem_core::id::{Namespace, QueueName, TaskId, TaskName, UniqueKey, WorkerId};
use stem_core::settlement::DeadReason;
use stem_core::task::TaskState;
use stem_core::time::Timestamp;
use stem_engine::units::duration;

/// Runs tasks that are WebAssembly modules, durably and in a sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "stem",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Examples:
  stem worker start --modules ./modules
  stem task enqueue word-count --json-args '{\"text\":\"a b a\"}' --wait
  stem task list --state failed
  stem help exit-codes
  stem help environment")]
pub struct Cli {
    /// Which services, and which settings file.
    #[command(flatten)]
    pub services: ServiceArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes: they beat the environment and the file.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Services")]
pub struct ServiceArgs {
    /// Read settings from this file instead of stem.toml in the current directory
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where tasks wait (sqlite:///path, memory://) [env: STEM_BROKER_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub broker: Option<String>,
    /// Where records and results are kept; default: the broker [env: STEM_RESULT_BACKEND_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub backend: Option<String>,
    /// Where revocations are kept; default: the result backend [env: STEM_REVOKE_STORE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub revoke_store: Option<String>,
}

/// How the answer is written.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArg {
    /// Write one JSON document to standard output
    #[arg(long)]
    pub json: bool,
}

/// The scope of control commands, revocations and heartbeats.
#[derive(Args, Clone, Debug)]
pub struct NamespaceArg {
    /// Scope of workers, commands and revocations [env: STEM_CONTROL_NAMESPACE, STEM_WORKER_NAMESPACE] [default: stem]
    #[arg(long, value_name = "NS")]
    pub namespace: Option<Namespace>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start workers, look at them, steer them
    #[command(
        subcommand,
        after_help = "Examples:
  stem worker start --modules ./modules --concurrency 4
  stem worker ping
  stem worker revoke --task 0198c0de-0000-7000-8000-000000000000 --terminate
  stem worker shutdown --mode soft --grace 30s"
    )]
    Worker(Worker),
    /// Look at revocations and take them back
    #[command(
        subcommand,
        after_help = "Examples:
  stem revokes list
  stem revokes undo --task 0198c0de-0000-7000-8000-000000000000"
    )]
    Revokes(Revokes),
    /// Enqueue tasks, follow them, fetch their results
    #[command(
        subcommand,
        after_help = "Examples:
  stem task enqueue word-count --json-args '{\"text\":\"a b a\"}' --wait
  stem task show 0198c0de-0000-7000-8000-000000000000
  stem task run word-count.wasm --args '{\"text\":\"a b a\"}'"
    )]
    Task(Task),
    /// Look at modules before a worker is given them
    #[command(
        subcommand,
        after_help = "Example:
  stem module check word-count.wasm"
    )]
    Module(Module),
    /// Look at tasks that were given up; replay or remove them
    #[command(
        subcommand,
        after_help = "Examples:
  stem dlq list --reason poison
  stem dlq replay --name word-count --since 2026-11-22T08:00:00Z --yes"
    )]
    Dlq(Dlq),
    /// Look at queues; empty, pause and resume them
    #[command(
        subcommand,
        after_help = "Examples:
  stem queue list
  stem queue pause mail --reason 'the relay is down'"
    )]
    Queue(Queue),
    /// See every setting and where it comes from
    #[command(
        subcommand,
        after_help = "Example:
  stem config show --json"
    )]
    Config(Config),
    /// Ask broker, result backend and revoke store whether they can be used
    #[command(
        after_help = "Exit code: 0 all can be used, 1 one answers and is unhealthy, 5 one cannot be reached or refuses to write.

Examples:
  stem health
  stem health --json --broker sqlite:///var/lib/stem/stem.db"
    )]
    Health(JsonArg),
    /// Write a completion script for a shell
    #[command(after_help = "Examples:
  stem completions bash > ~/.local/share/bash-completion/completions/stem
  stem completions fish > ~/.config/fish/completions/stem.fish")]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: CompletionShell,
    },
    /// Write the manual page
    #[command(after_help = "Examples:
  stem man > stem.1
  stem man --dir ./man")]
    Man {
        /// Write a page for each command into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Explain a command, the exit codes, or the environment
    #[command(after_help = "Examples:
  stem help task enqueue
  stem help exit-codes
  stem help environment")]
    Help {
        /// exit-codes, environment, or the words of a command
        #[arg(value_name = "TOPIC")]
        topic: Vec<String>,
    },
}

/// Shells with completions.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CompletionShell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl From<CompletionShell> for Shell {
    fn from(shell: CompletionShell) -> Self {
        match shell {
            CompletionShell::Bash => Self::Bash,
            CompletionShell::Zsh => Self::Zsh,
            CompletionShell::Fish => Self::Fish,
        }
    }
}

/// `stem worker …`
#[derive(Debug, Subcommand)]
pub enum Worker {
    /// Start a worker in the foreground; prints one line when it is ready
    #[command(
        after_help = "SIGTERM finishes what runs (warm), SIGINT asks it to stop (soft), SIGQUIT or a second SIGINT stops it at once (hard).
What is interrupted goes back to its queue.

Examples:
  stem worker start --modules ./modules
  stem worker start --queue mail,reports --modules ./modules --lease 30s
  stem worker start --print-config"
    )]
    Start(Box<WorkerStart>),
    /// Ask workers whether they are there
    #[command(after_help = "Examples:
  stem worker ping
  stem worker ping --worker mailer-1,mailer-2 --timeout 500ms --json")]
    Ping(ControlArgs),
    /// See what runs now, and what is revoked
    #[command(after_help = "Example:
  stem worker inspect --worker mailer-1 --no-revoked")]
    Inspect {
        /// Whom.
        #[command(flatten)]
        control: ControlArgs,
        /// Leave out the list of revocations
        #[arg(long)]
        no_revoked: bool,
    },
    /// See counters, depths and settings
    #[command(after_help = "Example:
  stem worker stats --json")]
    Stats(ControlArgs),
    /// Order that tasks must not (further) run
    #[command(
        after_help = "The order is stored first, then told to the workers; one that starts later obeys it too.
Without --terminate, --grace or --cooperative an attempt that runs is left to finish.

Examples:
  stem worker revoke --task 0198c0de-0000-7000-8000-000000000000
  stem worker revoke --task a --task b --terminate --grace 10s --reason 'wrong input'
  stem worker revoke --task a --cooperative --expires-in never"
    )]
    Revoke(RevokeArgs),
    /// Stop workers
    #[command(
        after_help = "warm: take nothing new, finish what runs. soft: ask what runs to stop, after the grace stop it. hard: stop it at once.
What is interrupted goes back to its queue. A harder mode may follow a softer one.

Examples:
  stem worker shutdown
  stem worker shutdown --worker mailer-1 --mode soft --grace 30s"
    )]
    Shutdown {
        /// Whom.
        #[command(flatten)]
        control: ControlArgs,
        /// How
        #[arg(long, value_enum, default_value = "warm")]
        mode: Mode,
        /// With --mode soft: how long to wait before force; default: the worker's --soft-grace
        #[arg(long, value_name = "D", value_parser = duration)]
        grace: Option<Duration>,
    },
    /// Tell workers to take nothing from queues
    #[command(after_help = "Example:
  stem worker pause --queue mail --reason 'the relay is down'")]
    Pause(PauseArgs),
    /// Tell workers to take from queues again
    #[command(after_help = "Example:
  stem worker resume --queue mail")]
    Resume(PauseArgs),
    /// See which workers there are, by their heartbeats, without asking them
    #[command(
        after_help = "alive: heard in time. stale: not heard for longer than three of its heartbeats (or --stale-after).
gone: said goodbye, or not heard for ten times as long.

Examples:
  stem worker status
  stem worker status --follow --json
  stem worker status --worker mailer-1 --stale-after 30s"
    )]
    Status(StatusArgs),
}

/// Whom a control command addresses.
#[derive(Args, Clone, Debug)]
pub struct ControlArgs {
    /// Only this worker (repeatable, or with commas); default: every live one
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub worker: Vec<WorkerId>,
    /// Which scope.
    #[command(flatten)]
    pub namespace: NamespaceArg,
    /// How long to wait for answers (250ms, 5s, 2m, …) [env: STEM_CONTROL_TIMEOUT] [default: 5s]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem worker start`
#[derive(Args, Clone, Debug)]
pub struct WorkerStart {
    /// The worker's id; unique among live workers [default: <host>-<pid>-<suffix>]
    #[arg(long, value_name = "ID")]
    pub name: Option<WorkerId>,
    /// Serve this queue (repeatable, or with commas; the preferred first) [env: STEM_WORKER_QUEUES] [default: default]
    #[arg(long, value_name = "Q", value_delimiter = ',')]
    pub queue: Vec<QueueName>,
    /// Serve the modules of this directory and of those right below it; changes are picked up while it runs
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Attempts that may run at once [default: four for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,
    /// The most deliveries one request may take [default: concurrency × STEM_PREFETCH_MULTIPLIER]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub prefetch: Option<u32>,
    /// How long a task belongs to this worker unless renewed; renewed after a third [default: 15s]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub lease: Option<Duration>,
    /// The grace of a revocation that names none [default: 0s]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub terminate_grace: Option<Duration>,
    /// How long a soft shutdown waits before it becomes hard [default: 10s]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub soft_grace: Option<Duration>,
    /// Leave SIGTERM, SIGINT and SIGQUIT as they are
    #[arg(long)]
    pub no_signal_handlers: bool,
    /// Print what the worker would run with, and where it comes from, and do not start it
    #[arg(long)]
    pub print_config: bool,
    /// Which scope.
    #[command(flatten)]
    pub namespace: NamespaceArg,
    /// How to say that it is ready.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem worker revoke`
#[derive(Args, Clone, Debug)]
pub struct RevokeArgs {
    /// Whom to tell.
    #[command(flatten)]
    pub control: ControlArgs,
    /// The task (repeatable, or with commas)
    #[arg(long, value_name = "ID", value_delimiter = ',', required = true)]
    pub task: Vec<TaskId>,
    /// Also stop an attempt that runs
    #[arg(long)]
    pub terminate: bool,
    /// Stop a running attempt with a notice first and force after so long; implies --terminate [default: the worker's --terminate-grace, 0s]
    #[arg(long, value_name = "D", value_parser = duration, conflicts_with = "cooperative")]
    pub grace: Option<Duration>,
    /// Stop a running attempt only at a checkpoint, never by force; implies --terminate
    #[arg(long)]
    pub cooperative: bool,
    /// When the order may be forgotten: a duration, or never
    #[arg(long, value_name = "D", value_parser = duration_or_never, default_value = "30d")]
    pub expires_in: Expiry,
    /// Why; shown in the task's record
    #[arg(long, value_name = "TEXT", value_parser = words)]
    pub reason: Option<String>,
    /// Who asks; shown in the task's record [default: the user name]
    #[arg(long, value_name = "NAME", value_parser = words)]
    pub requester: Option<String>,
}

/// When something may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// After so long.
    After(Duration),
    /// Never.
    Never,
}

fn duration_or_never(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry::Never);
    }
    match duration(text) {
        Ok(span) if span.is_zero() => {
            Err("it would be forgotten at once; give a longer time, or never".to_owned())
        }
        Ok(span) => Ok(Expiry::After(span)),
        Err(problem) => Err(format!("{problem}, or never")),
    }
}

/// Longest reason or name of a requester, in bytes.
const WORDS_BYTES: usize = 500;

fn words(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.len() > WORDS_BYTES || text.chars().any(char::is_control) {
        return Err(format!("give 1 to {WORDS_BYTES} bytes of text without control characters"));
    }
    Ok(text.to_owned())
}

/// How a worker stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Finish what runs.
    Warm,
    /// Ask it to stop, then force it.
    Soft,
    /// Stop it at once.
    Hard,
}

impl From<Mode> for Drain {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Warm => Self::Warm,
            Mode::Soft => Self::Soft,
            Mode::Hard => Self::Hard,
        }
    }
}

/// `stem worker pause` and `stem worker resume`
#[derive(Args, Clone, Debug)]
pub struct PauseArgs {
    /// Whom.
    #[command(flatten)]
    pub control: ControlArgs,
    /// Which queue (repeatable, or with commas)
    #[arg(long, value_name = "Q", value_delimiter = ',', required = true)]
    pub queue: Vec<QueueName>,
    /// Why; told to the workers
    #[arg(long, value_name = "TEXT", value_parser = words)]
    pub reason: Option<String>,
}

/// `stem worker status`
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Only this worker (repeatable, or with commas)
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub worker: Vec<WorkerId>,
    /// Which scope.
    #[command(flatten)]
    pub namespace: NamespaceArg,
    /// Go on, and write a line for every change; with --json one object a line
    #[arg(long)]
    pub follow: bool,
    /// Wait so long for a first worker; with --follow: end when nothing was heard for so long
    #[arg(long, value_name = "D", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Call a worker stale when it was not heard for so long [default: three of its heartbeats]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub stale_after: Option<Duration>,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem revokes …`
#[derive(Debug, Subcommand)]
pub enum Revokes {
    /// List the revocations in force
    #[command(after_help = "Example:
  stem revokes list --json")]
    List {
        /// Which scope.
        #[command(flatten)]
        namespace: NamespaceArg,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Take a revocation back, so that the task may run
    #[command(after_help = "A task that was already ended by it stays revoked.

Example:
  stem revokes undo --task 0198c0de-0000-7000-8000-000000000000")]
    Undo {
        /// The task
        #[arg(long, value_name = "ID")]
        task: TaskId,
        /// Which scope.
        #[command(flatten)]
        namespace: NamespaceArg,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove what has expired from the store
    #[command(after_help = "Example:
  stem revokes prune")]
    Prune {
        /// Which scope.
        #[command(flatten)]
        namespace: NamespaceArg,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
}

/// `stem task …`
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Store a task durably; prints its id
    #[command(
        after_help = "Without arguments the task gets {}. With --wait the id goes to standard error and the result to standard output.

Examples:
  stem task enqueue word-count --json-args '{\"text\":\"a b a\"}'
  stem task enqueue render-image --args-file args.json --wait > picture.png
  echo '{\"to\":\"ann\"}' | stem task enqueue mail - --delay 10m --unique mail:ann"
    )]
    Enqueue(Box<EnqueueArgs>),
    /// Show everything that is known of a task
    #[command(after_help = "Example:
  stem task show 0198c0de-0000-7000-8000-000000000000 --json")]
    Show {
        /// The task
        id: TaskId,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Follow a task to its end and print its result
    #[command(
        after_help = "With --json the task's record is printed instead of the result. Exit code 1 if it did not succeed.

Example:
  stem task wait 0198c0de-0000-7000-8000-000000000000 --timeout 5m"
    )]
    Wait {
        /// The task
        id: TaskId,
        /// Give up after so long; the task goes on
        #[arg(long, value_name = "D", value_parser = duration)]
        timeout: Option<Duration>,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// List tasks, the newest first
    #[command(after_help = "Examples:
  stem task list --state failed --limit 20
  stem task list --queue mail --json")]
    List {
        /// In this state: queued, running, retrying, succeeded, failed, revoked or expired
        #[arg(long)]
        state: Option<TaskState>,
        /// In this queue
        #[arg(long, value_name = "Q")]
        queue: Option<QueueName>,
        /// With this name
        #[arg(long)]
        name: Option<TaskName>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Print the bytes a task returned
    #[command(
        after_help = "Exit code 3 while there is no result yet, 1 if the task ended without one.

Examples:
  stem task result 0198c0de-0000-7000-8000-000000000000
  stem task result 0198c0de-0000-7000-8000-000000000000 --output picture.png"
    )]
    Result {
        /// The task
        id: TaskId,
        /// Write them to this file, whole or not at all
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Run a module once, here, without a broker
    #[command(
        after_help = "It gets the limits and the host functions a worker would give it: those of the stem.toml beside the file
that names it, else the defaults. Checkpoints are kept until it ends. Ctrl-C stops it.

Examples:
  stem task run word-count.wasm --args '{\"text\":\"a b a\"}'
  stem task run render-image.wasm --args-file args.json > picture.png"
    )]
    Run {
        /// The module
        file: PathBuf,
        /// The arguments
        #[command(flatten)]
        arguments: RunArguments,
        /// Its task name, where the manifest has several for it [default: the manifest's, else the file's]
        #[arg(long)]
        name: Option<TaskName>,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
}

/// Where the arguments of a local run come from.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub struct RunArguments {
    /// The arguments, as JSON [default: {}]
    #[arg(long, value_name = "J", visible_alias = "json-args")]
    pub args: Option<String>,
    /// Read the arguments from this file; - is standard input
    #[arg(long, value_name = "F")]
    pub args_file: Option<PathBuf>,
}

/// `stem task enqueue`
#[derive(Args, Clone, Debug)]
pub struct EnqueueArgs {
    /// Which handler
    pub name: TaskName,
    /// Read the arguments from standard input
    #[arg(value_name = "-", value_parser = ["-"], group = "arguments")]
    pub stdin: Option<String>,
    /// The arguments, as JSON [default: {}]
    #[arg(long, value_name = "J", group = "arguments")]
    pub json_args: Option<String>,
    /// Read the arguments from this file; - is standard input
    #[arg(long, value_name = "F", group = "arguments")]
    pub args_file: Option<PathBuf>,
    /// Where it waits [env: STEM_DEFAULT_QUEUE] [default: default]
    #[arg(long, value_name = "Q")]
    pub queue: Option<QueueName>,
    /// 0 to 9; the highest goes first
    #[arg(long, value_name = "N", value_parser = priority, default_value = "5")]
    pub priority: Priority,
    /// Not before so long from now
    #[arg(long, value_name = "D", value_parser = duration, conflicts_with = "eta")]
    pub delay: Option<Duration>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub eta: Option<Timestamp>,
    /// Give it up if it has not started after so long from now
    #[arg(long, value_name = "D", value_parser = duration)]
    pub expires_in: Option<Duration>,
    /// Retries after the first attempt [env: STEM_DEFAULT_MAX_RETRIES] [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_RETRIES)))]
    pub max_retries: Option<u32>,
    /// Stop an attempt after so long; shortens the worker's own limit
    #[arg(long, value_name = "D", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Its id; while a task has it, a second enqueue changes nothing [default: a new one]
    #[arg(long, value_name = "ID")]
    pub id: Option<TaskId>,
    /// While a task with this key has not ended, another enqueue changes nothing
    #[arg(long, value_name = "KEY")]
    pub unique: Option<UniqueKey>,
    /// A header for the handler (repeatable)
    #[arg(long, value_name = "K=V", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// Follow it to its end and print its result; exit code 1 if it did not succeed
    #[arg(long)]
    pub wait: bool,
    /// Which workers to look among for one that knows the name.
    #[command(flatten)]
    pub namespace: NamespaceArg,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

fn priority(text: &str) -> Result<Priority, String> {
    let level = text
        .parse::<u8>()
        .map_err(|_| format!("{text:?} is not a whole number from 0 to 9 (9 goes first)"))?;
    Priority::new(level)
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// `stem module …`
#[derive(Debug, Subcommand)]
pub enum Module {
    /// Say what a module needs and gives, and whether a worker would admit it
    #[command(
        after_help = "Where a stem.toml beside the file names it, the manifest is checked too.
Exit code 1 if the module is refused, 2 if the file or its manifest cannot be read.

Examples:
  stem module check word-count.wasm
  stem module check word-count.wasm --json"
    )]
    Check {
        /// The module
        file: PathBuf,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
}

/// `stem dlq …`
#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List tasks that were given up, the oldest first
    #[command(after_help = "Examples:
  stem dlq list
  stem dlq list --queue mail --reason retries-exhausted --since 24h --json")]
    List {
        /// Which.
        #[command(flatten)]
        filter: DeadArgs,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show one task that was given up, its arguments and every failed attempt
    #[command(after_help = "Example:
  stem dlq show 0198c0de-0000-7000-8000-000000000000")]
    Show {
        /// The task
        id: TaskId,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Put tasks back into their queues, with no attempt used up
    #[command(after_help = "Examples:
  stem dlq replay --name word-count --dry-run
  stem dlq replay 0198c0de-0000-7000-8000-000000000000 --yes")]
    Replay(DeadChange),
    /// Remove dead letters for good; the tasks' records stay
    #[command(after_help = "Examples:
  stem dlq purge --since 7d --reason fatal --dry-run
  stem dlq purge --queue mail --yes")]
    Purge(DeadChange),
}

/// Which dead letters are meant.
#[derive(Args, Clone, Debug)]
pub struct DeadArgs {
    /// This task (repeatable, or with commas)
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub id: Vec<TaskId>,
    /// From this queue
    #[arg(long, value_name = "Q")]
    pub queue: Option<QueueName>,
    /// With this name
    #[arg(long)]
    pub name: Option<TaskName>,
    /// For this reason
    #[arg(long, value_enum)]
    pub reason: Option<Reason>,
    /// Given up at or after this time (RFC 3339), or so long ago at most (24h)
    #[arg(long, value_name = "TIME|D", value_parser = since)]
    pub since: Option<Since>,
    /// At most so many, the oldest first [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: Option<u32>,
}

/// `stem dlq replay` and `stem dlq purge`
#[derive(Args, Clone, Debug)]
pub struct DeadChange {
    /// These tasks; the same as --id
    #[arg(value_name = "ID")]
    pub ids: Vec<TaskId>,
    /// Which.
    #[command(flatten)]
    pub filter: DeadArgs,
    /// Whether to do it.
    #[command(flatten)]
    pub consent: ConsentArgs,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// Whether to do what cannot be undone.
#[derive(Args, Clone, Copy, Debug)]
pub struct ConsentArgs {
    /// Only say what would be done
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do it without asking; needed where there is no terminal
    #[arg(long)]
    pub yes: bool,
}

/// A point in time, or a span back from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This time.
    At(Timestamp),
    /// So long ago.
    Ago(Duration),
}

fn since(text: &str) -> Result<Since, String> {
    match (duration(text), text.parse()) {
        (Ok(span), _) => Ok(Since::Ago(span)),
        (_, Ok(time)) => Ok(Since::At(time)),
        (Err(_), Err(_)) => Err(format!(
            "{text:?} is neither RFC 3339 with an offset (2026-11-22T08:00:00Z) nor a duration (250ms, 5s, 2m, 1h, 7d)"
        )),
    }
}

/// Why an envelope was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reason {
    /// Trying again is useless.
    Fatal,
    /// The last attempt failed.
    RetriesExhausted,
    /// It takes its workers down.
    Poison,
    /// It cannot be read.
    EnvelopeMalformed,
    /// It was written by a newer Stem.
    EnvelopeVersion,
    /// No worker knew its name in time.
    Unroutable,
}

impl From<Reason> for DeadReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Fatal => Self::Fatal,
            Reason::RetriesExhausted => Self::RetriesExhausted,
            Reason::Poison => Self::Poison,
            Reason::EnvelopeMalformed => Self::EnvelopeMalformed,
            Reason::EnvelopeVersion => Self::EnvelopeVersion,
            Reason::Unroutable => Self::Unroutable,
        }
    }
}

/// `stem queue …`
#[derive(Debug, Subcommand)]
pub enum Queue {
    /// List queues with what waits in them
    #[command(after_help = "unroutable counts waiting tasks whose name no live worker knows.

Example:
  stem queue list --json")]
    List {
        /// Which workers to look among.
        #[command(flatten)]
        namespace: NamespaceArg,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Remove every waiting task of a queue, records included; what runs goes on
    #[command(after_help = "Examples:
  stem queue purge mail --dry-run
  stem queue purge mail --yes")]
    Purge {
        /// The queue
        name: QueueName,
        /// Whether to do it.
        #[command(flatten)]
        consent: ConsentArgs,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Hand out nothing from queues, to any worker, until they are resumed
    #[command(after_help = "Example:
  stem queue pause mail reports --reason 'the relay is down'")]
    Pause {
        /// The queues
        #[arg(required = true, value_name = "NAME")]
        names: Vec<QueueName>,
        /// Why; shown by `stem queue list`
        #[arg(long, value_name = "TEXT", value_parser = words)]
        reason: Option<String>,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Hand out from queues again
    #[command(after_help = "Example:
  stem queue resume mail")]
    Resume {
        /// The queues
        #[arg(required = true, value_name = "NAME")]
        names: Vec<QueueName>,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
}

/// `stem config …`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print every setting with its value and where it comes from; secrets are masked
    #[command(after_help = "Examples:
  stem config show
  stem config show --json --config /etc/stem/stem.toml")]
    Show {
        /// Which scope.
        #[command(flatten)]
        namespace: NamespaceArg,
        /// As a control command would take it [env: STEM_CONTROL_TIMEOUT]
        #[arg(long, value_name = "D", value_parser = duration)]
        timeout: Option<Duration>,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
}
