//! `stem dlq …`

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::settlement::DeadReason;
use stem_core::time::Timestamp;
use stem_engine::units::duration;

use super::JsonArg;

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

pub(super) fn since(text: &str) -> Result<Since, String> {
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
