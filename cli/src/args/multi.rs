//! `stem worker multi …`

#![expect(
    clippy::doc_markdown,
    reason = "these comments are help texts, which show backticks as they are"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use stem_core::id::{QueueName, WorkerId};
use stem_engine::units::duration;

use super::JsonArg;

/// `stem worker multi …`
#[derive(Debug, Subcommand)]
pub enum Multi {
    /// Start nodes in the background, and wait until they take tasks
    #[command(
        after_help = "Each node is a worker with a log file and a PID file of its own; its id is the node's name unless
the command says otherwise. What runs: --command or --command-line, else STEM_WORKER_COMMAND, else
`stem worker start`; the words after -- are added to it. It must start a worker in the end: it is
that one which writes the PID file.

In --pidfile, --logfile, --workdir and every word of the command: %n node, %N in upper case,
%h host, %i or %I its place in the list from 1, %d the time in UTC, %% a percent sign. Relative
paths of these three are below the current directory, those in the command below --workdir. Nodes
are not found by a --pidfile with %d in it.

Nodes go on when this command ends. A node that runs already is an error and left alone; one that
is not ready in time is left running. Exit code: that of a worker which ended before it was ready,
else 1 on any failure.

Examples:
  stem worker multi start alpha beta -- --modules ./modules --concurrency 4
  stem worker multi start alpha --command-line 'nice stem worker start --name %n-%h'
  stem worker multi start --env-file /etc/stem/stem.env --workdir /srv/stem/%n
  stem worker multi start alpha --foreground -- --modules ./modules"
    )]
    Start(Box<MultiStart>),
    /// End nodes: SIGTERM, wait, and SIGKILL after the timeout
    #[command(
        after_help = "All at the same time. SIGTERM lets a worker finish what it has begun; a task that SIGKILL cut off
is delivered again when its lease is over. Only the very process that wrote the PID file and still
holds it is signalled. A node that does not run is no error; what a dead one left is removed.

Examples:
  stem worker multi stop alpha beta
  stem worker multi stop alpha --timeout 5m"
    )]
    Stop {
        /// Whom.
        #[command(flatten)]
        nodes: NodesArgs,
        /// How long to wait for the end before SIGKILL
        #[arg(long, value_name = "D", value_parser = duration, default_value = "30s")]
        timeout: Duration,
    },
    /// End nodes with SIGTERM, and wait as long as that takes; never SIGKILL
    #[command(
        name = "stopwait",
        after_help = "Example:
  stem worker multi stopwait alpha beta"
    )]
    StopWait(NodesArgs),
    /// Stop nodes as stop does, and start them as start does
    #[command(
        after_help = "Everything is checked first: nothing is stopped that could not be started again. With --rolling
one node after the other, each ready before the next is stopped; the first that does not get ready
ends it, and the others run on untouched.

Examples:
  stem worker multi restart alpha beta -- --modules ./modules
  stem worker multi restart --rolling --timeout 2m --env-file /etc/stem/stem.env"
    )]
    Restart(Box<MultiRestart>),
    /// See whether nodes run
    #[command(
        after_help = "Exit code: 0 all of them run, 3 one does not, 1 the PID file of one is not to be trusted.

Examples:
  stem worker multi status alpha beta
  stem worker multi status alpha --json"
    )]
    Status(NodesArgs),
    /// See what start would run for each node, and where its files would be
    #[command(after_help = "Nothing is made and nothing is started.

Example:
  stem worker multi names alpha beta --logfile '/var/log/stem/%n.log'")]
    Names {
        /// Whom, and what.
        #[command(flatten)]
        launch: LaunchArgs,
    },
}

/// Which nodes.
#[derive(Args, Clone, Debug)]
pub struct NodesArgs {
    /// The nodes [env: STEMD_NODES, STEM_WORKER_NODES, with spaces between them]
    #[arg(value_name = "NODE")]
    pub nodes: Vec<WorkerId>,
    /// Where each node's PID file is; with %n in it, so that it is the same in every list of nodes [default: stem/run/%n.pid in the user's state directory; for root /var/run/stem/%n.pid]
    #[arg(long, value_name = "TEMPLATE")]
    pub pidfile: Option<String>,
    /// Read variables from this file; they beat the environment. Parsed and never sourced
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// How to answer.
    #[command(flatten)]
    pub json: JsonArg,
}

/// What a node is and runs.
#[derive(Args, Clone, Debug)]
pub struct LaunchArgs {
    /// Whom.
    #[command(flatten)]
    pub nodes: NodesArgs,
    /// Where each node's output goes, appended; opened anew on SIGHUP [default: stem/log/%n.log in the user's state directory; for root /var/log/stem/%n.log]
    #[arg(long, value_name = "TEMPLATE")]
    pub logfile: Option<String>,
    /// The directory that each node works in, made if it is not there [default: the current one]
    #[arg(long, value_name = "TEMPLATE")]
    pub workdir: Option<String>,
    /// One word of the command (repeatable) [default: `stem worker start`]
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// The whole command; its words are split as a shell does, and no shell runs [env: STEM_WORKER_COMMAND]
    #[arg(long, value_name = "WORDS", conflicts_with = "command")]
    pub command_line: Option<String>,
    /// The queues of the nodes (repeatable, or with commas), as STEM_WORKER_QUEUES tells them
    #[arg(long, value_name = "Q", value_delimiter = ',')]
    pub queue: Vec<QueueName>,
    /// Words that are added to the command, for instance flags of `stem worker start`
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<String>,
}

/// `stem worker multi start`
#[derive(Args, Clone, Debug)]
pub struct MultiStart {
    /// Whom, and what.
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// Run in the background; so it is unless --foreground is given
    #[arg(long)]
    pub detach: bool,
    /// Become the one node named, with this terminal as its output
    #[arg(long, conflicts_with_all = ["detach", "logfile", "json", "timeout"])]
    pub foreground: bool,
    /// How long to wait until a node takes tasks
    #[arg(long, value_name = "D", value_parser = duration, default_value = "1m")]
    pub timeout: Duration,
}

/// `stem worker multi restart`
#[derive(Args, Clone, Debug)]
pub struct MultiRestart {
    /// Whom, and what.
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// One node after the other, each ready before the next is stopped
    #[arg(long)]
    pub rolling: bool,
    /// How long to wait for a node's end before SIGKILL, and again until it takes tasks
    #[arg(long, value_name = "D", value_parser = duration, default_value = "1m")]
    pub timeout: Duration,
}
