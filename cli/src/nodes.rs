//! Workers as nodes of this machine: named processes that are started, watched and stopped from the outside.
//!
//! | module | what it holds |
//! |---|---|
//! | [`roster`] | which nodes, and where their files are |
//! | [`env_file`], [`placeholders`] | variables for nodes, parsed and never sourced; `%n` and its kin |
//! | [`launch`], [`detach`] | a node's start in a session of its own, until it takes tasks |
//! | [`stop`], [`target`] | a node's end, by signals that reach nobody else |
//! | [`pidfile`], [`process`] | which process a node is, proven by a lock |
//! | [`own`], [`log`] | what the worker itself does as a node: its PID file, its log file |

pub mod detach;
pub mod env_file;
pub mod launch;
pub mod log;
pub mod own;
pub mod pidfile;
pub mod placeholders;
pub mod process;
pub mod roster;
pub mod safe;
pub mod stop;
pub mod target;
