//! What went wrong inside a call, before it is known which call it belongs to.

use std::fmt::Display;
use std::io::{self, ErrorKind};

use stem_core::backend::{BackendError, ErrorClass, ServiceId};

use crate::wire::Unreadable;

/// A class, words for people, and where they came from.
#[derive(Debug)]
pub(crate) struct Fault {
    class: ErrorClass,
    problem: String,
    source: Option<io::Error>,
}

impl Fault {
    pub(crate) fn refused(problem: impl Into<String>) -> Self {
        Self { class: ErrorClass::Refused, problem: problem.into(), source: None }
    }

    pub(crate) fn transient(problem: impl Into<String>) -> Self {
        Self { class: ErrorClass::Transient, problem: problem.into(), source: None }
    }

    /// A file that was there and is not any more. It says nothing about what was revoked.
    pub(crate) fn gone() -> Self {
        Self::transient(
            "the file is gone; put it back, or revoke something to begin a new one without the old records",
        )
    }

    /// A line that cannot be read, by its place.
    pub(crate) fn corrupt(line: u64, offset: u64, why: &Unreadable) -> Self {
        let remedy = match why {
            Unreadable::Newer(_) => "upgrade stem on this machine",
            Unreadable::Damaged(_) => "`stem revokes repair` keeps every readable record",
        };
        let problem = format!("line {line} (byte {offset}) cannot be read: {why}; {remedy}");
        Self { class: ErrorClass::Corrupt, problem, source: None }
    }

    /// What no version of ours wrote, or was damaged.
    pub(crate) fn damaged(problem: impl Into<String>) -> Self {
        Self { class: ErrorClass::Corrupt, problem: problem.into(), source: None }
    }

    /// Work that did not come to its end.
    pub(crate) fn lost(error: &tokio::task::JoinError) -> Self {
        Self::transient(if error.is_panic() {
            "the call broke down"
        } else {
            "the runtime is shutting down"
        })
    }

    /// A system call on the file or what lies beside it.
    pub(crate) fn io(what: impl Display, error: io::Error) -> Self {
        let problem = match error.kind() {
            ErrorKind::PermissionDenied => format!("{what}: {error}; check its permissions"),
            _ => format!("{what}: {error}"),
        };
        Self { class: class(&error), problem, source: Some(error) }
    }

    /// A write that was taken back.
    pub(crate) fn not_stored(error: io::Error) -> Self {
        let advice = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space",
            ErrorKind::FileTooLarge => "; raise the limit of file sizes (ulimit -f)",
            _ => "",
        };
        let problem = format!("not stored: {error}{advice}; earlier records are intact");
        Self { class: ErrorClass::Refused, problem, source: Some(error) }
    }

    /// The error of one call.
    pub(crate) fn during(self, service: &ServiceId, action: &'static str) -> BackendError {
        let error = BackendError::new(self.class, &service.0, action, self.problem);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

/// What only an operator can change is refused; the rest may pass.
fn class(error: &io::Error) -> ErrorClass {
    let looping = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::FileTooLarge
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidFilename
        | ErrorKind::InvalidInput => ErrorClass::Refused,
        _ if looping => ErrorClass::Refused,
        _ => ErrorClass::Transient,
    }
}
