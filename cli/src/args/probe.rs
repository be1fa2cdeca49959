//! `stem worker healthcheck` and `stem worker diagnose`

#![expect(
    clippy::doc_markdown,
    reason = "these comments are help texts, which show backticks as they are"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use stem_core::id::WorkerId;
use stem_engine::units::duration;

use super::{JsonArg, PolicyArg};

/// `stem worker healthcheck`
#[derive(Args, Clone, Debug)]
pub struct HealthcheckArgs {
    /// The file in which the worker says which process it is; see STEM_WORKER_PIDFILE
    #[arg(long, value_name = "FILE")]
    pub pidfile: PathBuf,
    /// What to call the worker in the answer [default: as the file says, else the file's name up to its first dot]
    #[arg(long, value_name = "NODE")]
    pub node: Option<WorkerId>,
    /// Where the worker's log is; told in the answer, and not looked at
    #[arg(long, value_name = "FILE")]
    pub logfile: Option<PathBuf>,
    /// Ask the broker and the heartbeat too: does it take tasks?
    #[arg(long)]
    pub ready: bool,
    /// With --ready: how long to wait for the services [env: STEM_CONTROL_TIMEOUT] [default: 5s]
    #[arg(long, value_name = "D", value_parser = duration, requires = "ready")]
    pub timeout: Option<Duration>,
    /// Write nothing to people when all is well
    #[arg(long)]
    pub quiet: bool,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// `stem worker diagnose`
#[derive(Args, Clone, Debug)]
pub struct DiagnoseArgs {
    /// Look at the PID file of a worker, its directory and its process
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Look at a worker's log file and its directory
    #[arg(long, value_name = "FILE")]
    pub logfile: Option<PathBuf>,
    /// Look at an environment file, and at the services as a worker with these variables would
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Look at the modules of a worker, and at what its policy leaves of what they ask for
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Look at the policy of a worker.
    #[command(flatten)]
    pub policy: PolicyArg,
    /// Look at the quotas of a worker [env: STEM_QUOTAS]
    #[arg(long, value_name = "FILE")]
    pub quotas: Option<PathBuf>,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}
