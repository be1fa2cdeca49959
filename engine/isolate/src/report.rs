//! Failures that commands and core modules tell as text: the `stem-error:` line, and what they give to `fail`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use stem_core::envelope::Payload;
use stem_core::outcome::{Failure, FailureKind, RetryAdvice};
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
    /// The size of a detail that was over its bound.
    pub(crate) left_out: Option<usize>,
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

impl<'a> Words<'a> {
    /// `None` unless it is one JSON object; the derived reader would also take an array of the values.
    fn read(json: &'a str) -> Option<Self> {
        let object = json.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{');
        if object { serde_json::from_str(json).ok() } else { None }
    }

    fn report(&self, kind: Kind, retry_after: Duration) -> Report {
        let mut failure = Failure::new(FailureKind::Error, &self.code, &self.message);
        let mut left_out = None;
        match self.detail.map(RawValue::get) {
            Some(detail) if detail.len() <= limits::FAILURE_DETAIL_BYTES => {
                failure.detail = Some(Payload::json(detail));
            }
            Some(detail) => left_out = Some(detail.len()),
            None => {}
        }
        Report { kind, failure, retry_after, left_out }
    }
}

impl Report {
    /// Reads what follows the prefix on a `stem-error:` line; `None` makes it an ordinary log line.
    pub(crate) fn from_line(json: &str) -> Option<Self> {
        let words = Words::read(json)?;
        let kind = match words.kind.as_deref()? {
            command::KIND_RETRYABLE => Kind::Retryable,
            command::KIND_FATAL => Kind::Fatal,
            command::KIND_CANCELLED => Kind::Cancelled,
            _ => return None,
        };
        Some(words.report(kind, Duration::from_millis(words.retry_after_ms.unwrap_or(0))))
    }

    /// Reads what a core module gives to `fail`; `None` is an invalid argument.
    pub(crate) fn from_call(kind: i32, delay_ms: i64, json: &str) -> Option<Self> {
        let words = Words::read(json)?;
        let kind = match kind {
            raw::FAIL_RETRYABLE => Kind::Retryable,
            raw::FAIL_FATAL => Kind::Fatal,
            raw::FAIL_CANCELLED => Kind::Cancelled,
            _ => return None,
        };
        Some(words.report(kind, Duration::from_millis(u64::try_from(delay_ms).ok()?)))
    }

    /// When to try again, for a retryable failure.
    pub(crate) fn retry(&self) -> RetryAdvice {
        if self.retry_after.is_zero() {
            RetryAdvice::Policy
        } else {
            RetryAdvice::After(self.retry_after)
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
        assert_eq!(Report::from_call(raw::FAIL_FATAL, 0, r#"[null,"code","message"]"#), None);
        let long = "d".repeat(limits::FAILURE_DETAIL_BYTES);
        let text = format!(r#"{{"code":"c","message":"m","detail":"{long}"}}"#);
        let report = Report::from_call(raw::FAIL_FATAL, 0, &text).unwrap();
        assert_eq!((report.failure.detail, report.left_out), (None, Some(long.len() + 2)));
    }
}
