//! The whole surface of the command line: the commands here, the flags of the three large groups in a file each. What each command does lies in [`crate::command`].

#![expect(
    clippy::doc_markdown,
    reason = "these comments are help texts, which show backticks as they are"
)]

mod audit;
mod dead;
mod keys;
mod module;
mod multi;
mod probe;
mod task;
mod top;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use stem_core::id::{Digest, Namespace, QueueName, TaskId, TaskName};
use stem_engine::units::duration;

pub use self::audit::*;
pub use self::dead::*;
pub use self::keys::*;
pub use self::module::*;
pub use self::multi::*;
pub use self::probe::*;
pub use self::task::*;
pub use self::top::*;
use self::worker::words;
pub use self::worker::*;

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
    /// Where tasks wait (sqlite:///path, redis://host, postgres://host/database, …) [env: STEM_BROKER_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub broker: Option<String>,
    /// Where records and results are kept; default: the broker [env: STEM_RESULT_BACKEND_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub backend: Option<String>,
    /// Where revocations are kept (also file:///path or a bare path); default: the result backend [env: STEM_REVOKE_STORE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub revoke_store: Option<String>,
    /// Where pushed modules are kept (also file:///directory or a bare path); default: the broker [env: STEM_MODULE_STORE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub module_store: Option<String>,
}

/// How the answer is written.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArg {
    /// Write one JSON document to standard output
    #[arg(long)]
    pub json: bool,
}

/// What modules may reach.
#[derive(Args, Clone, Debug)]
pub struct PolicyArg {
    /// Give modules no more than this file allows, and the values of settings, secrets and inputs that it holds [env: STEM_POLICY]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
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
    /// Watch workers, queues and running tasks on a terminal, and steer them by keys
    #[command(
        after_help = "Tab goes from table to table; t terminates a task, r revokes it, p pauses or resumes a queue, d drains a worker.
Each asks first, and says what will happen to what. ? shows all keys, q leaves. 80 x 24 are enough.

Examples:
  stem top
  stem top --queue mail --interval 250ms
  stem --broker redis://queue.example.com top --namespace blue"
    )]
    Top(TopArgs),
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
    /// Look at modules, and ship them to the workers
    #[command(
        subcommand,
        after_help = "Examples:
  stem module check word-count.wasm
  stem module push word-count.wasm --canary 10%
  stem module promote word-count
  stem module rollback word-count"
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
    /// Make and list the keys that commands, replies and tasks are signed with
    #[command(
        subcommand,
        after_help = "Examples:
  stem keys new ops --role control
  stem keys rotate ops --lead 1h --overlap 7d
  stem keys list"
    )]
    Keys(Keys),
    /// Read who ordered what on this machine, and what was refused
    #[command(
        after_help = "Workers note the orders that they obey and whatever they refuse; `stem` notes each order of this user before it is done, and
how it ended. It does so where audit-log (STEM_AUDIT_LOG) names a file; each user has one of his own. The newest entries come last.
KEY is proven by a signature; who a command says has asked is not.
Exit code: 0 there are entries, or with --verify they are as they were written; 1 they are not, or the log cannot be read; 2 no log is
set; 3 there is none, or nothing in it fits.

Examples:
  stem audit --since 24h --refused
  stem audit --what revoke --key ops-20261122 --json
  stem audit --follow
  stem audit --verify --file /var/lib/stem/audit.jsonl"
    )]
    Audit(AuditArgs),
    /// See every setting and where it comes from
    #[command(
        subcommand,
        after_help = "Example:
  stem config show --json"
    )]
    Config(Config),
    /// Ask broker, result backend, revoke store and module store whether they can be used
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
    /// Take a revocation back, so that the task, or the build, may run
    #[command(
        after_help = "A task that was already ended by it stays revoked; one that waited for a recalled build goes on.

Examples:
  stem revokes undo --task 0198c0de-0000-7000-8000-000000000000
  stem revokes undo --module sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    )]
    Undo {
        /// The task
        #[arg(long, value_name = "ID", required_unless_present = "module")]
        task: Option<TaskId>,
        /// The build of a module
        #[arg(long, value_name = "DIGEST", conflicts_with = "task")]
        module: Option<Digest>,
        /// Which scope.
        #[command(flatten)]
        namespace: NamespaceArg,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Set unreadable lines of a revoke file aside, so that the others can be read again
    #[command(
        after_help = "For a store that is a file. What an unreadable line ordered is not in force afterwards: look at the lines it
names, and revoke again what must not run.

Example:
  stem --revoke-store file:///var/lib/stem/revokes.jsonl revokes repair"
    )]
    Repair {
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

/// `stem module …`
#[derive(Debug, Subcommand)]
pub enum Module {
    /// Say what a module needs and gives, and whether a worker would admit it
    #[command(
        after_help = "Where a stem.toml beside the file names it, the manifest is checked too.
For each kind of grant it says what the manifest asks for, what the policy leaves of that, and which imports need it.
A module that lacks a grant is admitted with a warning: what it asks for is denied while it runs.
With --pushed it says what a worker with this policy gives the module when it comes from the module store: without a policy less than one of --modules gets.
Exit code 1 if the module is refused, 2 if the file, its manifest or the policy cannot be used.

Examples:
  stem module check word-count.wasm
  stem module check fetch.wasm --policy /etc/stem/policy.toml --json
  stem module check fetch.wasm --pushed"
    )]
    Check(CheckArgs),
    /// Ship a module to the workers, which change over to it without a restart
    #[command(
        after_help = "It is checked here as by `stem module check`, stored with the part of its manifest that describes it, and then served:
by every worker at once, to a part of the tasks (--canary), or not yet (--hold). Attempts that run finish on what they began
with. Pushing again what was pushed last makes no new version.
Exit code 1 if the module is refused or recalled, 2 if a file cannot be used.

Examples:
  stem module push word-count.wasm
  stem module push build/fetch.wasm --name fetch --manifest ./stem.toml
  stem module push word-count.wasm --canary 10% --sign-key publisher.key
  stem module push word-count.wasm --hold --json"
    )]
    Push(PushArgs),
    /// List what was pushed and serves
    #[command(after_help = "Example:
  stem module list --json")]
    List(JsonArg),
    /// Show every version that was pushed for a task name
    #[command(after_help = "Example:
  stem module show word-count --json")]
    Show {
        /// The task name
        name: TaskName,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Let a version serve that was there before; ends a canary
    #[command(
        after_help = "Without --to a canary is ended, and what serves beside it serves every task; where there is none, the version does
that served every task before this one, and the one before that where it is recalled or removed.

Examples:
  stem module rollback word-count
  stem module rollback word-count --to 3"
    )]
    Rollback(RollbackArgs),
    /// Let a canary, or another version, serve every task
    #[command(after_help = "Examples:
  stem module promote word-count
  stem module promote word-count --version 4")]
    Promote(PromoteArgs),
    /// Put a version on trial for a part of the tasks, or change how large a part
    #[command(
        after_help = "Which tasks those are is decided by their ids: as long as the versions stay, each stays with its build in every attempt,
and who is among 10% is among 50% too.

Examples:
  stem module canary word-count --percent 50%
  stem module canary word-count --percent 1% --version 4"
    )]
    Canary(CanaryArgs),
    /// Remove a version that serves nothing
    #[command(
        after_help = "Tasks that are pinned to its build go to the dead letters when they come up.

Examples:
  stem module remove word-count 3 --dry-run
  stem module remove word-count 3 --yes"
    )]
    Remove(RemoveArgs),
    /// Make and show the keys by which publishers sign what they push
    #[command(
        subcommand,
        after_help = "Examples:
  stem module key new publisher.key
  stem module push word-count.wasm --sign-key publisher.key"
    )]
    Key(Key),
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
