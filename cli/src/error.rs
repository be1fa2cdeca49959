//! [`CliError`]: what happened, to what, and what to do about it.

use std::fmt;

use stem_core::backend::{BackendError, ErrorClass};
use stem_core::envelope::EnvelopeError;
use stem_engine::EnqueueError;
use stem_engine::signing::NoKey;

use crate::exit::Ending;

/// An error as a person reads it: `error: <what>`, then `hint: <what to do>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// Decides the exit code.
    pub ending: Ending,
    /// What happened, to what.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// What a command's own code returns.
pub type Outcome = Result<Ending, CliError>;

impl CliError {
    /// An error with this ending.
    pub fn new(ending: Ending, what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self { ending, what: what.to_string(), hint: hint.to_string() }
    }

    /// Wrong usage or configuration.
    pub fn usage(what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::new(Ending::Usage, what, hint)
    }

    /// It ran and failed.
    pub fn failed(what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::new(Ending::Failed, what, hint)
    }

    /// What was asked for is not there.
    pub fn nothing(what: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self::new(Ending::Nothing, what, hint)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\nhint: {}", self.what, self.hint)
    }
}

impl std::error::Error for CliError {}

impl From<BackendError> for CliError {
    fn from(error: BackendError) -> Self {
        let hint = match error.class() {
            ErrorClass::Transient if is_server(&error.service) => {
                "see that it runs, that it can be reached and that the URL is right (`stem config show`), and try again; `stem health` shows when it answers"
            }
            ErrorClass::Transient => {
                "look at what else uses it and try again; `stem health` shows when it answers"
            }
            ErrorClass::Refused => {
                "make it usable for this user, or name another; `stem config show` shows where each URL comes from"
            }
            ErrorClass::Corrupt => {
                "check that the URL is the right one (`stem config show`); a damaged file of revocations is mended by `stem revokes repair`, a damaged database by a backup"
            }
            ErrorClass::Unsupported => {
                "use another kind of store for this; `stem config show` shows which one is in use"
            }
        };
        Self::new(Ending::of_backend(error.class()), error, hint)
    }
}

/// Whether a service, by its name, is a program apart, which can be down; a file can only be busy.
fn is_server(service: &str) -> bool {
    ["redis:", "postgres:"].iter().any(|kind| service.starts_with(kind))
}

impl From<EnvelopeError> for CliError {
    fn from(error: EnvelopeError) -> Self {
        let hint = match &error {
            EnvelopeError::PayloadTooLarge { .. } => {
                "put the data where the task can fetch it and pass a reference"
            }
            EnvelopeError::Field { .. } => {
                "see `stem task enqueue --help` for what each option takes"
            }
        };
        Self::usage(format!("the task cannot be enqueued: {error}"), hint)
    }
}

impl From<NoKey> for CliError {
    fn from(error: NoKey) -> Self {
        Self::usage(
            error,
            "`stem keys list` shows the keys that are read here, and until when each is good; `stem keys new` makes one",
        )
    }
}

impl From<EnqueueError> for CliError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Envelope(error) => error.into(),
            EnqueueError::NoKey(error) => error.into(),
            EnqueueError::Backend(error) => error.into(),
        }
    }
}
