//! Exit codes: what each means, and the one mapping from how a command ended.
//!
//! They are a public interface and the same with and without `--json`. `stem help exit-codes` prints [`Ending::ALL`].

use std::process::ExitCode;

use stem_core::backend::ErrorClass;

/// Done; every expected worker answered ok.
pub const DONE: u8 = 0;
/// It ran and failed.
pub const FAILED: u8 = 1;
/// Wrong usage or configuration; nothing was attempted.
pub const USAGE: u8 = 2;
/// What was asked for is not there, or nobody answered.
pub const NOTHING: u8 = 3;
/// Some of what was expected happened, and some did not.
pub const PARTIAL: u8 = 4;
/// A service cannot be reached, or refuses to write.
pub const UNAVAILABLE: u8 = 5;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// See [`DONE`].
    Done,
    /// See [`FAILED`].
    Failed,
    /// See [`USAGE`].
    Usage,
    /// See [`NOTHING`].
    Nothing,
    /// See [`PARTIAL`].
    Partial,
    /// See [`UNAVAILABLE`].
    Unavailable,
}

impl Ending {
    /// Every ending, by code.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Failed, Self::Usage, Self::Nothing, Self::Partial, Self::Unavailable];

    /// The one mapping.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => DONE,
            Self::Failed => FAILED,
            Self::Usage => USAGE,
            Self::Nothing => NOTHING,
            Self::Partial => PARTIAL,
            Self::Unavailable => UNAVAILABLE,
        }
    }

    /// What it means, and when it is seen.
    pub fn meaning(self) -> (&'static str, &'static str) {
        match self {
            Self::Done => (
                "done; every expected worker answered ok",
                "ping with all answers; a revocation stored while no worker is alive",
            ),
            Self::Failed => (
                "it ran and failed",
                "an error reply; an unhealthy check; the awaited task failed; module check refuses",
            ),
            Self::Usage => (
                "wrong usage or configuration",
                "an unknown flag; a bad duration or URL; malformed JSON; a module that cannot be used",
            ),
            Self::Nothing => (
                "nothing there",
                "no worker is alive or none answered; a node does not run; no such task or dead letter",
            ),
            Self::Partial => ("partial", "some expected workers did not answer and others did"),
            Self::Unavailable => (
                "unavailable",
                "broker, result backend, revoke store or module store cannot be reached, or refuses to write; the audit log cannot be written",
            ),
        }
    }

    /// How an error of a service ends a command.
    pub fn of_backend(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Transient | ErrorClass::Refused | ErrorClass::Corrupt => Self::Unavailable,
            ErrorClass::Unsupported => Self::Failed,
        }
    }
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(ending.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_ones_that_scripts_know() {
        assert_eq!(Ending::ALL.map(Ending::code), [0, 1, 2, 3, 4, 5]);
    }
}
