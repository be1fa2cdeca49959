//! How an attempt ends without a result, how the host refuses a call, and what a stop notice says.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use stem_host_abi::{command, limits, stop};

use crate::payload::{Binary, Output};

/// Why an attempt has no result.
///
/// ```
/// use std::time::Duration;
/// use stem_guest::TaskError;
///
/// let busy = TaskError::retryable("upstream-busy", "the map service answered 503")
///     .retry_after(Duration::from_secs(30))
///     .detail(&503);
/// assert!(busy.is_retryable());
/// assert_eq!(busy.to_string(), "upstream-busy: the map service answered 503");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TaskError {
    pub(crate) kind: FailureKind,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) detail: Option<Binary>,
    pub(crate) not_before: Option<Duration>,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Another attempt, if the retry policy allows one.
    Retryable,
    /// The task becomes a dead letter.
    Fatal,
    /// The task is cancelled, provided that a stop notice was pending; else as `Fatal`.
    Cancelled,
}

impl TaskError {
    /// A failure that another attempt may not meet. `code` is a short word for machines (cut at 64 bytes), `message` a
    /// sentence for people (cut at 4,096 bytes).
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureKind::Retryable, code.into(), message.into())
    }

    /// A failure that every attempt would meet.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureKind::Fatal, code.into(), message.into())
    }

    /// The handler gave up because it was asked to. Counts as fatal when no stop notice was pending.
    pub fn cancelled(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureKind::Cancelled, code.into(), message.into())
    }

    fn new(kind: FailureKind, code: String, message: String) -> Self {
        Self { kind, code, message, detail: None, not_before: None }
    }

    /// The earliest time from now at which another attempt makes sense, at most 24 hours. It can lengthen the delay of
    /// the retry policy, not shorten it, and means something for retryable failures only.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.not_before = Some(delay);
        self
    }

    /// Keeps `detail` with the task as JSON, at most 16 KiB. A value that serde cannot write is left out: a failure
    /// should not be replaced by another about its description.
    #[must_use]
    pub fn detail<T: Serialize + ?Sized>(mut self, detail: &T) -> Self {
        self.detail = serde_json::to_vec(detail).ok().map(Binary::json);
        self
    }

    /// Keeps bytes of any media type with the task, at most 16 KiB.
    #[must_use]
    pub fn detail_bytes(mut self, detail: Binary) -> Self {
        self.detail = Some(detail);
        self
    }

    /// The line by which a WASI command tells its worker of this failure, without a line end: `stem-error: ` and a JSON
    /// object. For commands written in Rust, which have no [`task`](macro@crate::task); print it to standard error and exit
    /// with failure. A line over 4,096 bytes would not be read, so the detail is left out and the message cut where needed.
    pub fn stem_error_line(&self) -> String {
        let mut detail =
            self.detail.as_ref().and_then(|detail| serde_json::from_slice(&detail.bytes).ok());
        let mut message = self.message.as_str();
        loop {
            let line =
                format!("{}{}", command::STEM_ERROR_PREFIX, self.report(message, detail.as_ref()));
            if line.len() <= command::STEM_ERROR_LINE_BYTES
                || (detail.is_none() && message.is_empty())
            {
                return line;
            }
            if detail.take().is_none() {
                message = &message[..message.floor_char_boundary(message.len() / 2)];
            }
        }
    }

    fn report(&self, message: &str, detail: Option<&serde_json::Value>) -> String {
        let kind = match self.kind {
            FailureKind::Retryable => command::KIND_RETRYABLE,
            FailureKind::Fatal => command::KIND_FATAL,
            FailureKind::Cancelled => command::KIND_CANCELLED,
        };
        let code = &self.code[..self.code.floor_char_boundary(limits::FAILURE_CODE_BYTES)];
        let retry_after_ms = self.not_before.filter(|_| self.is_retryable());
        let retry_after_ms =
            retry_after_ms.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        let report = Report { kind, code, message, retry_after_ms, detail };
        serde_json::to_string(&report).expect("text, a number and a JSON value can be written")
    }

    /// What follows this failure.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Whether another attempt may follow.
    pub fn is_retryable(&self) -> bool {
        self.kind == FailureKind::Retryable
    }

    /// The short word for machines.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What is kept with the task besides code and message.
    pub fn kept_detail(&self) -> Option<&Binary> {
        self.detail.as_ref()
    }

    /// The delay asked for, if one was.
    pub fn not_before(&self) -> Option<Duration> {
        self.not_before
    }
}

/// The object of a `stem-error:` line, keys in the order of the contract's samples.
#[derive(Serialize)]
struct Report<'a> {
    kind: &'a str,
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a serde_json::Value>,
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for TaskError {}

/// What passing a stop notice up means: [`TaskError::cancelled`] for a revoked task, [`TaskError::retryable`] when it is
/// the worker or the time limit of this attempt that ends, since the task itself is still wanted.
impl From<StopNotice> for TaskError {
    fn from(notice: StopNotice) -> Self {
        let message =
            if notice.message.is_empty() { "asked to stop".to_owned() } else { notice.message };
        match notice.code.as_str() {
            stop::WORKER_DRAIN | stop::WORKER_STOP | stop::SOFT_TIME_LIMIT => {
                Self::retryable(notice.code, message)
            }
            _ => Self::cancelled(notice.code, message),
        }
    }
}

/// A refusal passed up fails the attempt: retryable for [`HostError::Unavailable`], [`HostError::Quota`] and
/// [`HostError::Stopping`], fatal for the others. The failure's code is that of [`HostError::code`].
impl From<HostError> for TaskError {
    fn from(error: HostError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error {
            HostError::Unavailable(_) | HostError::Quota(_) | HostError::Stopping => {
                Self::retryable(code, message)
            }
            HostError::Denied(_)
            | HostError::Invalid(_)
            | HostError::TooLarge(_)
            | HostError::NotFound
            | HostError::Conflict
            | HostError::Other(_) => Self::fatal(code, message),
        }
    }
}

/// The worker asks the handler to finish early. Until the grace time is over everything still works and a result
/// still counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopNotice {
    /// `revoked`, `soft-time-limit`, `worker-drain`, `worker-stop`, or a word from a later version.
    pub code: String,
    /// The reason for people; may be empty.
    pub message: String,
    /// Until the worker ends the attempt by force, if it means to.
    pub grace: Option<Duration>,
}

impl StopNotice {
    /// A notice without message and grace time, as tests need it.
    pub fn new(code: impl Into<String>) -> Self {
        Self { code: code.into(), message: String::new(), grace: None }
    }
}

/// How the host refuses a call. The attempt goes on; what follows is the handler's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostError {
    /// No grant covers the call; the text names the missing one.
    Denied(String),
    /// An argument is out of its range; the text names it.
    Invalid(String),
    /// An argument is over its bound, given in bytes.
    TooLarge(u64),
    /// The named thing does not exist.
    NotFound,
    /// A condition of the call did not hold; nothing was changed.
    Conflict,
    /// A rate or a count of this attempt is used up.
    Quota(String),
    /// The service behind the call did not do its work; the same call may succeed later.
    Unavailable(String),
    /// A stop notice is pending and cut the call short.
    Stopping,
    /// A refusal from a later version of the contract.
    Other(String),
}

impl HostError {
    /// A short word for machines, for instance `too-large`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "invalid",
            Self::TooLarge(_) => "too-large",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Quota(_) => "quota",
            Self::Unavailable(_) => "unavailable",
            Self::Stopping => "stopping",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "denied: {text}"),
            Self::Invalid(text) => write!(f, "invalid argument: {text}"),
            Self::TooLarge(bound) => write!(f, "over the bound of {bound} bytes"),
            Self::NotFound => f.write_str("not found"),
            Self::Conflict => f.write_str("the condition of the call did not hold"),
            Self::Quota(text) => write!(f, "quota used up: {text}"),
            Self::Unavailable(text) => write!(f, "unavailable: {text}"),
            Self::Stopping => f.write_str("cut short by a stop notice"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for HostError {}

/// The answer as the host gets it.
pub(crate) fn encode<O: Output>(result: Result<O, TaskError>) -> Result<Binary, TaskError> {
    result.and_then(Output::into_payload)
}
