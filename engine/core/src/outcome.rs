//! How an attempt ended, as data. A guest's failure is a value here, never an error of ours.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::envelope::Payload;

/// Why an attempt failed, as a closed set that scripts can branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The handler returned an error.
    Error,
    /// The guest trapped, or an inline handler panicked.
    Trap,
    /// The hard limit on wall time passed.
    TimeLimit,
    /// The guest needed more memory or table entries than it may have.
    MemoryLimit,
    /// The guest used up its CPU time, or flooded the host with calls.
    CpuLimit,
    /// The result, an argument of a host call, or the payload is over its size limit.
    PayloadTooLarge,
    /// Another delivery of the task took over; also used when a task took its worker down too often.
    LeaseLost,
    /// The module cannot be loaded, linked or instantiated.
    BadModule,
}

impl FailureKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Error,
        Self::Trap,
        Self::TimeLimit,
        Self::MemoryLimit,
        Self::CpuLimit,
        Self::PayloadTooLarge,
        Self::LeaseLost,
        Self::BadModule,
    ];

    /// The word used in JSON, logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Trap => "trap",
            Self::TimeLimit => "time-limit",
            Self::MemoryLimit => "memory-limit",
            Self::CpuLimit => "cpu-limit",
            Self::PayloadTooLarge => "payload-too-large",
            Self::LeaseLost => "lease-lost",
            Self::BadModule => "bad-module",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Longest failure code, in bytes; a longer one is cut.
pub const CODE_BYTES: usize = 64;
/// Longest failure message, in bytes; a longer one is cut.
pub const MESSAGE_BYTES: usize = 4096;

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The closed set.
    pub kind: FailureKind,
    /// A short machine word, the author's or ours (`result-too-large`, `stack-overflow`, `invalid-arguments`).
    pub code: String,
    /// For people.
    pub message: String,
    /// What the handler attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Payload>,
}

impl Failure {
    /// A failure without detail. Code and message are made printable and cut to their bounds.
    pub fn new(kind: FailureKind, code: &str, message: &str) -> Self {
        Self {
            kind,
            code: crate::text::printable(code, CODE_BYTES),
            message: crate::text::printable(message, MESSAGE_BYTES),
            detail: None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind, self.code, self.message)
    }
}

/// Whether a failed attempt may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAdvice {
    /// As the task's retry policy says.
    Policy,
    /// As the policy says, and not before this much time has passed.
    After(Duration),
    /// Never: it would fail again.
    Never,
}

/// Why the host stopped an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// The hard limit on wall time passed.
    TimeLimit,
    /// The worker is shutting down; the task goes back to its queue.
    Shutdown,
    /// An operator recalled the build that it runs; the task goes back to its queue.
    Recalled,
    /// An operator revoked the task with terminate.
    Revoked,
    /// Somebody else owns the task now, or the lease could not be renewed in time.
    LeaseLost,
}

/// How a stop came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopHow {
    /// The task had not begun.
    BeforeStart,
    /// The handler reached a checkpoint, or gave up by itself after a stop notice.
    Checkpoint,
    /// The host stopped it where it was.
    Preempted,
}

impl StopHow {
    /// The word used in JSON, logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeStart => "before-start",
            Self::Checkpoint => "checkpoint",
            Self::Preempted => "preempted",
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The handler returned a result.
    Succeeded(Payload),
    /// The handler, or a limit, ended it.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether to try again.
        retry: RetryAdvice,
    },
    /// The host stopped it.
    Stopped {
        /// Why.
        reason: StopReason,
        /// Where.
        how: StopHow,
        /// From the order to stop until no guest code ran any more.
        elapsed: Duration,
    },
}

impl Outcome {
    /// A failure that the retry policy decides about.
    pub fn failed(kind: FailureKind, code: &str, message: &str) -> Self {
        Self::Failed { failure: Failure::new(kind, code, message), retry: RetryAdvice::Policy }
    }

    /// A failure that is never tried again.
    pub fn fatal(kind: FailureKind, code: &str, message: &str) -> Self {
        Self::Failed { failure: Failure::new(kind, code, message), retry: RetryAdvice::Never }
    }

    /// Nothing of the handler ran, and that is no fault of the task's: its delivery goes back.
    pub fn not_begun() -> Self {
        Self::Stopped {
            reason: StopReason::Shutdown,
            how: StopHow::BeforeStart,
            elapsed: Duration::ZERO,
        }
    }
}

/// The worker asks a handler to finish early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopNotice {
    /// Why, as a word: `revoked`, `soft-time-limit`, `worker-drain`, `worker-stop`.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// When the worker will stop the handler by force; `None` if it does not mean to.
    pub force_after: Option<Duration>,
}
