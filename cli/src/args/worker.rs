//! `stem worker …`

#![expect(
    clippy::doc_markdown,
    reason = "these comments are help texts, which show backticks as they are"
)]
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use stem_core::control::Drain;
use stem_core::id::{Digest, QueueName, TaskId, TrustClass, WorkerId};
use stem_core::time::Timestamp;
use stem_engine::RevokePolicy;
use stem_engine::units::{bytes, duration, write_duration};

use super::{DiagnoseArgs, HealthcheckArgs, JsonArg, Multi, NamespaceArg, PolicyArg};
use crate::telemetry::address;

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
  stem worker start --modules ./modules --autoscale 1..8
  stem worker start --modules ./modules --metrics 127.0.0.1:9464
  stem worker start --print-config"
    )]
    Start(Box<WorkerStart>),
    /// Start, stop and watch several workers of this machine by name
    #[command(
        subcommand,
        after_help = "Examples:
  stem worker multi start alpha beta -- --modules ./modules
  stem worker multi status alpha beta
  stem worker multi restart --rolling alpha beta -- --modules ./modules
  stem worker multi stop alpha beta"
    )]
    Multi(Multi),
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
With --module DIGEST a build is recalled (`stem module show` prints digests): what runs on it is stopped and goes back to its queue, tasks whose name it serves wait until
another serves it, and those that only it may run go to the dead letters.

Examples:
  stem worker revoke --task 0198c0de-0000-7000-8000-000000000000
  stem worker revoke --task a --task b --terminate --grace 10s --reason 'wrong input'
  stem worker revoke --task a --cooperative --expires-in never
  stem worker revoke --module \"$digest\" --reason 'leaks memory'"
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
WITHOUT PROGRESS: of the tasks that run there, the one whose last checkpoint (or start) is the longest ago, as of the heartbeat.

Examples:
  stem worker status
  stem worker status --follow --json
  stem worker status --worker mailer-1 --stale-after 30s"
    )]
    Status(StatusArgs),
    /// See whether the worker of a PID file lives; for probes
    #[command(
        after_help = "Without --ready it reads the PID file and /proc and asks no service: a few milliseconds, and an outage makes nobody
unhealthy. Only the process that wrote the file and still holds it counts; another one that got its number does not. Run it
as the worker's user: nobody else's file is believed.
A process that was stopped (SIGSTOP, a debugger) is there: code 0, a warning, and \"process\":\"stopped\" in the document.
With --ready it is not.
With --ready the worker must also take tasks: it neither starts nor drains, the broker answers, its last heartbeat is fresh.

Exit code: 0 it lives (and is ready), 1 it does not (or is not), 2 wrong usage, 5 with --ready: a service cannot be reached.

Examples:
  stem worker healthcheck --pidfile /run/stem/alpha.pid
  stem worker healthcheck --pidfile /run/stem/alpha.pid --ready --timeout 2s --json
  stem worker healthcheck --pidfile /run/stem/alpha.pid --quiet"
    )]
    Healthcheck(HealthcheckArgs),
    /// Look at everything a worker needs, and say what is wrong and what to do
    #[command(
        after_help = "Without --pidfile and --logfile it looks at those that STEM_WORKER_PIDFILE and STEM_WORKER_LOGFILE name, if they do.
Services are looked at where a URL is set; what is set unsafely is a warning that says what would be lost.

Exit code: 0 no check failed, or with warnings only; 1 a check failed; 2 wrong usage.

Examples:
  stem worker diagnose
  stem worker diagnose --env-file /etc/stem/worker.env
  stem worker diagnose --pidfile /run/stem/alpha.pid --logfile /var/log/stem/alpha.log
  stem worker diagnose --env-file ./worker.env --json"
    )]
    Diagnose(DiagnoseArgs),
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
    /// The worker's id; unique among live workers [env: STEM_WORKER_NODE] [default: HOST-PID-SUFFIX]
    #[arg(long, value_name = "ID")]
    pub name: Option<WorkerId>,
    /// Serve this queue (repeatable, or with commas; the preferred first) [env: STEM_WORKER_QUEUES] [default: default]
    #[arg(long, value_name = "Q", value_delimiter = ',')]
    pub queue: Vec<QueueName>,
    /// Serve the modules of this directory and of those right below it; changes are picked up while it runs. What it has goes before what `stem module push` shipped
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// How modules are capped, and the values behind the names in their manifests.
    #[command(flatten)]
    pub policy: PolicyArg,
    /// Serve only task names to which the policy gives this trust class (repeatable, or with commas); of others nothing is fetched, compiled or run [env: STEM_WORKER_CLASSES] [default: every name]
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    pub class: Vec<TrustClass>,
    /// Give each tenant and each queue no more of this worker than this file allows, and let tenants take turns; it is followed while the worker runs [env: STEM_QUOTAS]
    #[arg(long, value_name = "FILE")]
    pub quotas: Option<PathBuf>,
    /// Run only pushed modules that a publisher signed whose public key and name stand on a line of this file, as it is at the moment [env: STEM_MODULE_TRUST]
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Believe commands and tasks by the public keys of this file, which also says what must be signed; it is followed while the worker runs, see `stem keys new` [env: STEM_SIGNING_PUBLIC_KEYS]
    #[arg(long, value_name = "FILE")]
    pub signers: Option<PathBuf>,
    /// Note in this file which orders are obeyed, and what is refused; see `stem audit` [env: STEM_AUDIT_LOG]
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Attempts that may run at once [default: four for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,
    /// Change with the backlog how many attempts may run at once, from MIN up to MAX
    #[arg(long, value_name = "MIN..MAX", value_parser = autoscale, conflicts_with = "concurrency")]
    pub autoscale: Option<(u32, u32)>,
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
    /// Prepare a module anew after so many attempts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_tasks_per_isolate: Option<u64>,
    /// Prepare a module anew after an attempt that had so much memory (64MiB, 1GiB, …)
    #[arg(long, value_name = "SIZE", value_parser = positive_bytes)]
    pub max_memory_per_isolate: Option<u64>,
    /// What to do while the revoke store cannot be read: take no task, or take tasks that may be revoked [default: fail-closed]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub revoke_policy: Option<Policy>,
    /// With fail-closed: how old the last look at the revoke store may become before no task is taken [default: 1m]
    #[arg(long, value_name = "D", value_parser = duration)]
    pub max_revocation_staleness: Option<Duration>,
    /// Give up what the process does not need, for good: files that no setting names, new privileges, rare system calls [env: STEM_HARDENING] [default: auto]
    #[arg(long, value_enum, value_name = "MODE")]
    pub hardening: Option<Hardening>,
    /// Let Prometheus read the worker's metrics at http://ADDR/metrics; port 0 takes a free one [env: STEM_METRICS]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub metrics: Option<SocketAddr>,
    /// Do not start where a service is set so that tasks or revocations could be lost
    #[arg(long)]
    pub strict: bool,
    /// Leave SIGTERM, SIGINT and SIGQUIT as they are
    #[arg(long)]
    pub no_signal_handlers: bool,
    /// Write this PID file, exclusively, and hold it until the end [env: STEM_WORKER_PIDFILE]
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
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

/// What to do while the revoke store cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Take no task.
    FailClosed,
    /// Take tasks that may be revoked.
    FailOpen,
}

impl From<Policy> for RevokePolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::FailClosed => Self::FailClosed,
            Policy::FailOpen => Self::FailOpen,
        }
    }
}

/// How much of what it does not need a process gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hardening {
    /// What the kernel can.
    Auto,
    /// Nothing.
    Off,
    /// All of it, or the worker does not start.
    Require,
}

impl From<Hardening> for stem_harden::Mode {
    fn from(hardening: Hardening) -> Self {
        match hardening {
            Hardening::Auto => Self::Auto,
            Hardening::Off => Self::Off,
            Hardening::Require => Self::Require,
        }
    }
}

/// The most attempts that a worker may run at once.
const MOST: u32 = 10_000;

fn autoscale(text: &str) -> Result<(u32, u32), String> {
    let bounds =
        text.split_once("..").and_then(|(min, max)| Some((min.parse().ok()?, max.parse().ok()?)));
    match bounds {
        Some((min, max)) if 1 <= min && min <= max && max <= MOST => Ok((min, max)),
        _ => Err(format!("write MIN..MAX with 1 <= MIN <= MAX <= {MOST}, for instance 1..8")),
    }
}

fn positive_bytes(text: &str) -> Result<u64, String> {
    match bytes(text) {
        Ok(0) => Err("give more than 0 bytes".to_owned()),
        size => size,
    }
}

/// `stem worker revoke`
#[derive(Args, Clone, Debug)]
pub struct RevokeArgs {
    /// Whom to tell.
    #[command(flatten)]
    pub control: ControlArgs,
    /// The task (repeatable, or with commas)
    #[arg(long, value_name = "ID", value_delimiter = ',', required_unless_present = "module")]
    pub task: Vec<TaskId>,
    /// A build of a module (repeatable, or with commas): what runs on it is stopped and goes back to its queue, and it runs nothing any more; implies --terminate
    #[arg(long, value_name = "DIGEST", value_delimiter = ',')]
    pub module: Vec<Digest>,
    /// Also stop an attempt that runs
    #[arg(long)]
    pub terminate: bool,
    /// Stop a running attempt with a notice first and force after so long; implies --terminate [default: the worker's --terminate-grace, 0s]
    #[arg(long, value_name = "D", value_parser = duration, conflicts_with = "cooperative")]
    pub grace: Option<Duration>,
    /// Stop a running attempt only at a checkpoint, never by force; implies --terminate
    #[arg(long)]
    pub cooperative: bool,
    /// When the order may be forgotten: a duration, or never [default: 30d; for a module never]
    #[arg(long, value_name = "D", value_parser = duration_or_never)]
    pub expires_in: Option<Expiry>,
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

impl Expiry {
    /// Longer than a task may wait for its time, as far as that is known.
    pub const DEFAULT: Self = Self::After(Duration::from_hours(30 * 24));

    /// The time, where there is one.
    pub fn counted_from(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::After(span) => Some(now.after(span)),
            Self::Never => None,
        }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(span) => f.write_str(&write_duration(*span)),
            Self::Never => f.write_str("never"),
        }
    }
}

pub(super) fn duration_or_never(text: &str) -> Result<Expiry, String> {
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

pub(super) fn words(text: &str) -> Result<String, String> {
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
