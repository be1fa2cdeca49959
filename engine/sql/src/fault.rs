//! What went wrong inside a statement, before it is known which call it belongs to.

use stem_core::backend::{BackendError, ErrorClass, ServiceId};

/// A class, and words for people. Cloned to every operation of a group that failed together.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) class: ErrorClass,
    pub(crate) problem: String,
}

impl Fault {
    pub(crate) fn new(class: ErrorClass, problem: impl Into<String>) -> Self {
        Self { class, problem: problem.into() }
    }

    /// A row that no Stem wrote, or that was damaged.
    pub(crate) fn corrupt(what: impl std::fmt::Display) -> Self {
        Self::new(ErrorClass::Corrupt, format!("what is stored cannot be read: {what}"))
    }

    /// The error of one call.
    pub(crate) fn during(self, service: &ServiceId, action: &'static str) -> BackendError {
        BackendError::new(self.class, &service.0, action, self.problem)
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::corrupt(error)
    }
}

impl From<stem_core::id::NameError> for Fault {
    fn from(error: stem_core::id::NameError) -> Self {
        Self::corrupt(error)
    }
}
