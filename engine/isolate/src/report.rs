//! Failures that commands and core modules tell as text: the `stem-error:` line, and what they give to `fail`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use stem_core::envelope::Payload;
use stem_core::outcome::{Failure, FailureKind, Outcome, RetryAdvice};
use stem_host_abi::{command, limits, raw};

/// What is to happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Retryable,
    Fatal,
    Cancelled,
}

/// A failure as its author told it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) kind: Kind,
    pub(crate) failure: Failure,
    pub(crate) retry_after: Duration,
}

#[derive(Deserialize)]
struct Words<'a> {
    #[serde(borrow, default)]
    kind: Option<std::borrow::Cow<'a, str>>,
    code: String,
    message: String,
    #[serde(default)]
    retry_after_ms: Option<u64>,
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
}

impl Words<'_> {
    fn failure(&self) -> Failure {
        let mut failure = Failure::new(FailureKind::Error, &self.code, &self.message);
        match self.detail.map(RawValue::get) {
            Some(detail) if detail.len() <= limits::FAILURE_DETAIL_BYTES => {
                failure.detail = Some(Payload::json(detail))
            }
            Some(detail) => {
                failure.message.push_str(&format!(" (detail of {} bytes left out)", detail.len()))
            }
            None => {}
        }
        failure
    }
}

impl Report {
    /// Reads what follows the prefix on a `stem-error:` line; `None` makes it an ordinary log line.
    pub(crate) fn from_line(json: &str) -> Option<Self> {
        let words: Words<'_> = serde_json::from_str(json).ok()?;
        let kind = match words.kind.as_deref()? {
            command::KIND_RETRYABLE => Kind::Retryable,
            command::KIND_FATAL => Kind::Fatal,
            command::KIND_CANCELLED => Kind::Cancelled,
            _ => return None,
        };
        let retry_after = Duration::from_millis(words.retry_after_ms.unwrap_or(0));
        Some(Self { kind, failure: words.failure(), retry_after })
    }

    /// Reads what a core module gives to `fail`; `None` is an invalid argument.
    pub(crate) fn from_call(kind: i32, delay_ms: i64, json: &str) -> Option<Self> {
        let words: Words<'_> = serde_json::from_str(json).ok()?;
        let kind = match kind {
            raw::FAIL_RETRYABLE => Kind::Retryable,
            raw::FAIL_FATAL => Kind::Fatal,
            raw::FAIL_CANCELLED => Kind::Cancelled,
            _ => return None,
        };
        Some(Self {
            kind,
            failure: words.failure(),
            retry_after: Duration::from_millis(u64::try_from(delay_ms).ok()?),
        })
    }

    /// The outcome. `cancelled` counts only when the guest was asked to stop; what that then means is the caller's.
    pub(crate) fn outcome(self, cancelled: impl FnOnce(Failure) -> Outcome) -> Outcome {
        match self.kind {
            Kind::Retryable if self.retry_after.is_zero() => {
                Outcome::Failed { failure: self.failure, retry: RetryAdvice::Policy }
            }
            Kind::Retryable => Outcome::Failed {
                failure: self.failure,
                retry: RetryAdvice::After(self.retry_after),
            },
            Kind::Fatal => Outcome::Failed { failure: self.failure, retry: RetryAdvice::Never },
            Kind::Cancelled => cancelled(self.failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixed(line: &str) -> Option<Report> {
        line.strip_prefix(command::STEM_ERROR_PREFIX).and_then(Report::from_line)
    }

    #[test]
    fn the_golden_lines_are_read_and_the_bad_ones_are_not() {
        let good = include_str!("../../../host-abi/golden/stem-error.good.txt");
        let expected: Vec<serde_json::Value> = serde_json::from_str(include_str!(
            "../../../host-abi/golden/stem-error.good.expected.json"
        ))
        .unwrap();
        assert_eq!(good.lines().count(), expected.len());
        for (line, expected) in good.lines().zip(expected) {
            let report = prefixed(line).expect(line);
            let kind = match report.kind {
                Kind::Retryable => "retryable",
                Kind::Fatal => "fatal",
                Kind::Cancelled => "cancelled",
            };
            assert_eq!(kind, expected["kind"], "{line}");
            assert_eq!(report.failure.code, expected["code"].as_str().unwrap());
            assert_eq!(
                report.retry_after,
                Duration::from_millis(expected["retry_after_ms"].as_u64().unwrap_or(0))
            );
            assert_eq!(report.failure.detail.is_some(), expected.get("detail").is_some());
        }
        for line in include_str!("../../../host-abi/golden/stem-error.bad.txt").lines() {
            assert_eq!(prefixed(line), None, "{line}");
        }
    }

    #[test]
    fn the_golden_failure_of_a_core_module_is_read() {
        let text = include_str!("../../../host-abi/golden/fail.json");
        let report = Report::from_call(raw::FAIL_RETRYABLE, 5, text).unwrap();
        assert_eq!((report.kind, report.retry_after), (Kind::Retryable, Duration::from_millis(5)));
        assert_eq!(Report::from_call(9, 0, text), None);
        assert_eq!(Report::from_call(raw::FAIL_FATAL, -1, text), None);
        assert_eq!(Report::from_call(raw::FAIL_FATAL, 0, "text"), None);
    }
}
