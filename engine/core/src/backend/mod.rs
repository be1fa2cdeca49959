//! The traits that a backend implements, split by who calls them.
//!
//! | trait | called by | holds |
//! |---|---|---|
//! | [`Broker`] | workers, producers | envelopes, leases, queues |
//! | [`ResultBackend`] | workers, whoever waits | records, results, progress, checkpoints |
//! | [`RevokeStore`] | operators, workers | revocations |
//! | [`ControlPlane`] | operators, workers | commands and replies |
//! | [`Presence`] | workers, operators | heartbeats |
//! | [`DeadLetters`] | operators | envelopes that were given up |
//! | [`ModuleStore`] | publishers, workers | builds of modules, and which serve |
//! | [`Buckets`] | tasks | small shared values |
//!
//! The doctrine: a stale token, an absent task, a duplicate are values. An `Err` means that the backend could not do
//! its work; [`BackendError::class`] says what a caller can do about it. Every call is bounded in time by the backend.
//! Every call is cancel-safe in this sense: a dropped call has either happened whole or not at all.

pub mod broker;
pub mod buckets;
pub mod control;
pub mod dead_letter;
pub mod modules;
pub mod presence;
pub mod result;
pub mod revoke;

use std::error::Error;
use std::fmt;

pub use broker::Broker;
pub use buckets::Buckets;
pub use control::ControlPlane;
pub use dead_letter::DeadLetters;
pub use modules::ModuleStore;
pub use presence::Presence;
pub use result::ResultBackend;
pub use revoke::RevokeStore;

/// Names one service, for instance one database file. A broker and a result backend with equal ids can make a move
/// and its record one atomic step; see [`Records`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceId(pub String);

/// Whether the broker keeps the task's record in the same atomic step as its own move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Broker and result backend are the same service: one step does both.
    Here,
    /// The caller writes the record to the result backend itself, before it settles.
    Elsewhere,
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Try again: the service is away, busy, locked or slow.
    Transient,
    /// The service answers and refuses to write: read-only, full, not permitted. An operator must act.
    Refused,
    /// What is stored cannot be read.
    Corrupt,
    /// This backend cannot do that, ever.
    Unsupported,
}

/// A backend could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{service}: failed to {action}: {problem}")]
pub struct BackendError {
    /// Which service, without secrets.
    pub service: String,
    /// What was tried, completing "failed to …".
    pub action: &'static str,
    /// What went wrong.
    pub problem: String,
    class: ErrorClass,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl BackendError {
    /// An error of this class.
    pub fn new(
        class: ErrorClass,
        service: impl fmt::Display,
        action: &'static str,
        problem: impl fmt::Display,
    ) -> Self {
        Self {
            service: service.to_string(),
            action,
            problem: problem.to_string(),
            class,
            source: None,
        }
    }

    /// Keeps the underlying error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a caller can do about it.
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}

/// What a backend says of its own health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Which service, without secrets.
    pub service: String,
    /// What it is and how it is set, for people.
    pub detail: String,
    /// What is unsafe about how it is set, each with its remedy.
    pub warnings: Vec<String>,
}
