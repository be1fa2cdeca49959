//! What an attempt came to, by what its guest said and by what its worker had told it.

use stem_core::envelope::Payload;
use stem_core::limits::Limits;
use stem_core::outcome::{Failure, FailureKind, Outcome, RetryAdvice, StopHow, StopReason};
use stem_host_abi::stop;

use super::Run;
use crate::exit::{self, Circumstances};
use crate::host::LogLevel;
use crate::limiter::{Limiter, Refused};
use crate::module::OnFailure;
use crate::report::{Kind, Report};

impl Run {
    pub(super) fn classify(&self, error: &wasmtime::Error, limiter: &Limiter) -> Outcome {
        exit::classify(
            error,
            &Circumstances {
                shared: &self.shared,
                refused: limiter.refused(),
                memory_limit: self.spec.limits.memory_bytes,
                table_limit: self.spec.limits.table_entries,
                result_limit: self.spec.limits.result_bytes,
            },
        )
    }

    /// The result, or the failure of one that is too large.
    pub(super) fn succeeded(&self, result: Payload) -> Outcome {
        if result.bytes.len() as u64 > self.spec.limits.result_bytes {
            return exit::result_too_large(self.spec.limits.result_bytes);
        }
        Outcome::Succeeded(result)
    }

    /// A guest that gave up: in good order if it was asked to, otherwise it cannot dodge a failure this way.
    pub(super) fn cancelled(&self, failure: Failure) -> Outcome {
        let reason = match self.shared.notice().map(|notice| notice.code) {
            Some(stop::REVOKED) => StopReason::Revoked,
            Some(stop::SOFT_TIME_LIMIT) => StopReason::TimeLimit,
            Some(_) => StopReason::Shutdown,
            None => return Outcome::Failed { failure, retry: RetryAdvice::Never },
        };
        Outcome::Stopped { reason, how: StopHow::Checkpoint, elapsed: self.shared.stopping_for() }
    }

    /// A failure that may be tried again. A guest that was told of a drain and asks to run again has done what was
    /// asked; no attempt is used up.
    pub(super) fn retryable(&self, failure: Failure, retry: RetryAdvice) -> Outcome {
        if self.shared.told_of_shutdown() {
            return Outcome::Stopped {
                reason: StopReason::Shutdown,
                how: StopHow::Checkpoint,
                elapsed: self.shared.stopping_for(),
            };
        }
        Outcome::Failed { failure, retry }
    }

    /// A failure whose detail was over its bound is noted in the log.
    pub(super) fn noted(&self, (failure, left_out): (Failure, Option<usize>)) -> Failure {
        if let Some(size) = left_out {
            let line = format!("the failure's detail of {size} bytes was left out");
            self.logs.write(LogLevel::Warn, &line, &[]);
        }
        failure
    }

    /// A failure as its author told it.
    pub(super) fn reported(&self, report: Report) -> Outcome {
        let retry = report.retry();
        let failure = self.noted((report.failure, report.left_out));
        match report.kind {
            Kind::Retryable => self.retryable(failure, retry),
            Kind::Fatal => Outcome::Failed { failure, retry: RetryAdvice::Never },
            Kind::Cancelled => self.cancelled(failure),
        }
    }

    /// A failure without words. A guest that was refused memory has mostly failed of that: runtimes that find none exit.
    pub(super) fn failed_silently(
        &self,
        code: &str,
        message: &str,
        refused: Option<Refused>,
    ) -> Outcome {
        if let Some(refused) = refused {
            let Limits { memory_bytes, table_entries, .. } = self.spec.limits;
            return exit::over_memory(refused, memory_bytes, table_entries);
        }
        match self.spec.on_failure {
            OnFailure::Retry => Outcome::failed(FailureKind::Error, code, message),
            OnFailure::Fail => Outcome::fatal(FailureKind::Error, code, message),
        }
    }
}
