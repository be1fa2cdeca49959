//! What a worker tells, as numbers and spans.

use std::fmt;

use opentelemetry::KeyValue;
use stem_core::backend::ErrorClass;
use stem_core::observe::{AttemptEnd, AttemptFacts, Observer, Seen, Trace};
use stem_core::outcome::StopReason;

use crate::instruments::Instruments;
use crate::traces::Traces;

/// The observer of one worker.
pub(crate) struct Told {
    instruments: Instruments,
    traces: Option<Traces>,
}

impl Told {
    pub(crate) fn new(instruments: Instruments, traces: Option<Traces>) -> Self {
        Self { instruments, traces }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

fn class(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Transient => "transient",
        ErrorClass::Refused => "refused",
        ErrorClass::Corrupt => "corrupt",
        ErrorClass::Unsupported => "unsupported",
    }
}

fn reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::TimeLimit => "time-limit",
        StopReason::Shutdown => "shutdown",
        StopReason::Recalled => "recalled",
        StopReason::Revoked => "revoked",
        StopReason::LeaseLost => "lease-lost",
    }
}

impl Observer for Told {
    fn is_watching(&self) -> bool {
        true
    }

    fn started(&self, attempt: &AttemptFacts<'_>) -> Option<Box<dyn Trace>> {
        let waited = attempt.waited.map(|waited| waited.as_secs_f64());
        self.instruments.pair(attempt.queue, attempt.name).started(waited);
        self.traces.as_ref()?.attempt(attempt)
    }

    fn ended(&self, attempt: &AttemptFacts<'_>, end: &AttemptEnd<'_>) {
        self.instruments.pair(attempt.queue, attempt.name).ended(end);
    }

    fn saw(&self, seen: Seen<'_>) {
        let on = &self.instruments;
        let label = |name: &'static str, word: &'static str| KeyValue::new(name, word);
        match seen {
            Seen::LeaseRenewed(queue) => {
                on.renewed.add(1, &[KeyValue::new("queue", queue.to_string())]);
            }
            Seen::LeaseReclaimed(queue, name) => on.pair(queue, name).reclaimed(),
            Seen::Stopped { reason: why, how, took } => on.stopped.record(
                took.as_secs_f64(),
                &[label("reason", reason(why)), label("how", how.as_str())],
            ),
            Seen::Recycled { reason } => on.recycled.add(1, &[label("reason", reason)]),
            Seen::Commanded { order, ok } => on.commands.add(
                1,
                &[label("command", order), label("outcome", if ok { "ok" } else { "error" })],
            ),
            Seen::Refused { kind, reason: why } => {
                on.refused.add(1, &[label("kind", kind.as_str()), label("reason", why.as_str())]);
            }
            Seen::Unsigned(kind) => on.unsigned.add(1, &[label("kind", kind.as_str())]),
            Seen::QuotaReached(bound) => {
                on.quota_reached.add(1, &[label("bound", bound.as_str())]);
            }
            Seen::ServiceFailed(service, failed) => on
                .service_errors
                .add(1, &[label("service", service.as_str()), label("class", class(failed))]),
            Seen::Compiled { ok, took } => on
                .compiled
                .record(took.as_secs_f64(), &[label("outcome", if ok { "ok" } else { "refused" })]),
            Seen::CacheAsked { hit } => {
                on.cache.add(1, &[label("outcome", if hit { "hit" } else { "miss" })]);
            }
        }
    }
}
