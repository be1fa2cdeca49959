//! `stem task …`

#![expect(
    clippy::doc_markdown,
    reason = "these comments are help texts, which show backticks as they are"
)]
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use stem_core::envelope::{MAX_RETRIES, MEDIA_TYPE_BYTES, Priority};
use stem_core::id::{Digest, QueueName, TaskId, TaskName, UniqueKey};
use stem_core::task::TaskState;
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;
use stem_engine::units::duration;

use super::{JsonArg, NamespaceArg, PolicyArg};

/// `stem task …`
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Store a task durably; prints its id
    #[command(
        after_help = "Without arguments the task gets {}. With --wait the id goes to standard error and the result to standard output.
With --module only that build runs it, whichever serves its name; `stem module show` prints digests.

Examples:
  stem task enqueue word-count --json-args '{\"text\":\"a b a\"}'
  stem task enqueue render-image --args-file args.json --wait > picture.png
  stem task enqueue shrink --args-file photo.jpg --media-type image/jpeg --wait > small.jpg
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
    /// Begin a project: a task that works, its test, and how it is built
    #[command(
        after_help = "It is written into a new folder of that name, with all that it needs of Stem; nothing is downloaded.

Examples:
  stem task new add-up --lang rust
  stem task new add-up --lang python --json"
    )]
    New {
        /// The task's name, and the folder's
        name: TaskName,
        /// What to write it in
        #[arg(long, value_name = "LANGUAGE")]
        lang: Language,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Build the module of a project
    #[command(
        after_help = "Does what [build] in the folder's stem.toml says, and puts the module where [handlers] says. Tools that the project pins are
downloaded into it at the first time; what those that must be there need is said if it is missing. What tools say goes to standard
error, the module's path to standard output. Exit code 1 if the build fails, 2 if a tool is missing.

Examples:
  stem task build
  stem task build add-up --json"
    )]
    Build {
        /// The project
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Test the task of a project natively, without WebAssembly and without a worker
    #[command(
        after_help = "Does what [build] in the folder's stem.toml says. Exit code 1 if a test fails, 2 if a tool is missing.

Examples:
  stem task test
  stem task test add-up"
    )]
    Test {
        /// The project
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Run a module once, here, without a broker
    #[command(
        after_help = "It gets the limits, the grants and the host functions a worker would give it: those of the stem.toml beside the file
that names it, capped by the policy if there is one; else the defaults and no grants. Checkpoints are kept until it ends. Ctrl-C stops it.

Examples:
  stem task run --args '{\"numbers\":[1,2,3]}'
  stem task run word-count.wasm --args '{\"text\":\"a b a\"}'
  stem task run render-image.wasm --args-file args.json > picture.png
  stem task run shrink.wasm --args-file photo.jpg --media-type image/jpeg > small.jpg
  stem task run fetch.wasm --policy ./policy.toml"
    )]
    Run {
        /// The module, or a project's folder [default: the current folder]
        module: Option<PathBuf>,
        /// What modules may reach.
        #[command(flatten)]
        policy: PolicyArg,
        /// What it is given.
        #[command(flatten)]
        input: RunInput,
        /// Its task name, where the manifest has several for it [default: the manifest's, else the file's]
        #[arg(long)]
        name: Option<TaskName>,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
}

/// What a project is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Rust
    Rust,
    /// JavaScript
    #[value(name = "js", alias = "javascript")]
    Javascript,
    /// TypeScript
    #[value(name = "ts", alias = "typescript")]
    Typescript,
    /// Python
    #[value(alias = "py")]
    Python,
    /// C
    C,
    /// Go
    Go,
}

impl Language {
    /// As people write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Javascript => "JavaScript",
            Self::Typescript => "TypeScript",
            Self::Python => "Python",
            Self::C => "C",
            Self::Go => "Go",
        }
    }
}

/// What a local run is given.
#[derive(Args, Clone, Debug)]
pub struct RunInput {
    /// The arguments.
    #[command(flatten)]
    pub arguments: RunArguments,
    /// What the file holds [default: application/json]
    #[arg(long, value_name = "TYPE", value_parser = media_type, requires = "args_file")]
    pub media_type: Option<String>,
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
    #[arg(value_name = "-", value_parser = ["-"], groups = ["arguments", "bytes"])]
    pub stdin: Option<String>,
    /// The arguments, as JSON [default: {}]
    #[arg(long, value_name = "J", group = "arguments")]
    pub json_args: Option<String>,
    /// Read the arguments from this file; - is standard input
    #[arg(long, value_name = "F", groups = ["arguments", "bytes"])]
    pub args_file: Option<PathBuf>,
    /// What the file or standard input holds [default: application/json]
    #[arg(long, value_name = "TYPE", value_parser = media_type, requires = "bytes")]
    pub media_type: Option<String>,
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
    /// Only the build with this digest may run it, whichever serves the name
    #[arg(long, value_name = "DIGEST")]
    pub module: Option<Digest>,
    /// A header for the handler (repeatable)
    #[arg(long, value_name = "K=V", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// On whose behalf: the header `tenant`, by which workers with quotas share themselves out
    #[arg(long, value_name = "NAME", value_parser = Tenant::new)]
    pub tenant: Option<Tenant>,
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

pub(super) fn priority(text: &str) -> Result<Priority, String> {
    let level = text
        .parse::<u8>()
        .map_err(|_| format!("{text:?} is not a whole number from 0 to 9 (9 goes first)"))?;
    Priority::new(level)
}

fn media_type(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let (kind, rest) = text.split_once('/').unwrap_or_default();
    let named = kind.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && !rest.is_empty();
    if named && printable && text.len() <= MEDIA_TYPE_BYTES {
        return Ok(text.to_owned());
    }
    Err(format!(
        "write TYPE/SUBTYPE as in image/png, with at most {MEDIA_TYPE_BYTES} printable ASCII characters"
    ))
}

pub(super) fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
