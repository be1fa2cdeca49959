//! What `stem module push`, `rollback` and the like take.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stem_core::id::TaskName;
use stem_core::release::Percent;

use super::{ConsentArgs, JsonArg, PolicyArg};

/// `stem module check`
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The module
    pub file: PathBuf,
    /// Which of its task names is meant, where the manifest has several for it [default: the first]
    #[arg(long, value_name = "NAME")]
    pub name: Option<TaskName>,
    /// Say what it gets when it is pushed, not when it lies in a worker's --modules
    #[arg(long)]
    pub pushed: bool,
    /// What modules may reach.
    #[command(flatten)]
    pub policy: PolicyArg,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem module push`
#[derive(Args, Clone, Debug)]
pub struct PushArgs {
    /// The module
    pub file: PathBuf,
    /// The task name it is to serve [default: as the manifest says, else the file's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<TaskName>,
    /// What says its limits and grants [default: the stem.toml beside the file, if it names it]
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Let it serve so many of a hundred tasks first (10%), beside what serves now
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with = "hold")]
    pub canary: Option<Percent>,
    /// Let it serve nothing yet
    #[arg(long)]
    pub hold: bool,
    /// Sign it with this publisher's key (repeatable); see `stem module key new`
    #[arg(long, value_name = "FILE")]
    pub sign_key: Vec<PathBuf>,
    /// What to change.
    #[command(flatten)]
    pub dry: DryRunArg,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// Whether anything is changed.
#[derive(Args, Clone, Copy, Debug)]
pub struct DryRunArg {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `stem module rollback`
#[derive(Args, Clone, Debug)]
pub struct RollbackArgs {
    /// The task name
    pub name: TaskName,
    /// Which version is to serve [default: with a canary the one beside it, else the one that served before]
    #[arg(long, value_name = "VERSION")]
    pub to: Option<u32>,
    /// What to change.
    #[command(flatten)]
    pub dry: DryRunArg,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem module promote`
#[derive(Args, Clone, Debug)]
pub struct PromoteArgs {
    /// The task name
    pub name: TaskName,
    /// Which version is to serve [default: the canary]
    #[arg(long, value_name = "VERSION")]
    pub version: Option<u32>,
    /// What to change.
    #[command(flatten)]
    pub dry: DryRunArg,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem module canary`
#[derive(Args, Clone, Debug)]
pub struct CanaryArgs {
    /// The task name
    pub name: TaskName,
    /// So many of a hundred tasks (10%)
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub percent: Percent,
    /// Which version is on trial [default: the one that is already]
    #[arg(long, value_name = "VERSION")]
    pub version: Option<u32>,
    /// What to change.
    #[command(flatten)]
    pub dry: DryRunArg,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem module remove`
#[derive(Args, Clone, Debug)]
pub struct RemoveArgs {
    /// The task name
    pub name: TaskName,
    /// The version
    pub version: u32,
    /// Whether to do it.
    #[command(flatten)]
    pub consent: ConsentArgs,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem module key …`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a publisher's key; prints its public half
    #[command(
        after_help = "The file holds the secret and is only for this user. What is there is never written over.
Workers trust a publisher whose public key and name stand on a line of the file that --trust names.

Example:
  stem module key new publisher.key"
    )]
    New {
        /// Where to write it
        file: PathBuf,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
    /// Print the public half of a publisher's key
    #[command(after_help = "Example:
  stem module key show publisher.key")]
    Show {
        /// The key
        file: PathBuf,
        /// How to answer.
        #[command(flatten)]
        json: JsonArg,
    },
}

fn percent(text: &str) -> Result<Percent, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let number: u8 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a whole number of percent, for instance 10%"))?;
    Percent::new(number)
}
