//! Every metric, in one table: what it is called, what it counts, by which labels.
//!
//! `docs/metrics.md` and the dashboard are held to it by tests. The names are those of OpenTelemetry; a page for
//! Prometheus writes them as [`Metric::on_the_page`] says.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// As it is now.
    Gauge,
    /// How often a value was below each of these bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// As UCUM writes it; in braces what is counted.
    pub unit: &'static str,
    /// By what it is told apart.
    pub labels: &'static [&'static str],
    /// For people.
    pub about: &'static str,
}

impl Metric {
    /// The name on a page for Prometheus; a histogram is there with `_bucket`, `_sum` and `_count` behind it.
    pub fn on_the_page(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }

    /// The word for its kind.
    pub fn kind_word(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

/// From a task that does nothing to one of an hour.
const DURATIONS: &[f64] =
    &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0];
/// A guest that computes is gone in a fifth of a millisecond; native code may take seconds, a grace minutes.
const STOPS: &[f64] = &[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 60.0];
/// An empty guest takes some ten microseconds; ten minutes are the usual limit.
const CPU: &[f64] = &[0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 600.0];
/// From one page to the cap of a worker.
const MEMORY: &[f64] = &[
    65_536.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    134_217_728.0,
    268_435_456.0,
    536_870_912.0,
    1_073_741_824.0,
];
/// From a module of a few functions to the bound of the compiler.
const COMPILES: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];

macro_rules! metrics {
    ($($constant:ident = $kind:expr, $name:literal, $unit:literal, [$($label:literal),*], $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: $kind,
                unit: $unit,
                labels: &[$($label),*],
                about: $about,
            };
        )*
        /// Every metric, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    STARTED = Kind::Counter, "stem.tasks.started", "{attempt}", ["queue", "task"], "Attempts whose handler was started.";
    SUCCEEDED = Kind::Counter, "stem.tasks.succeeded", "{task}", ["queue", "task"], "Tasks that ended with a result.";
    FAILED = Kind::Counter, "stem.tasks.failed", "{task}", ["queue", "task", "kind"], "Tasks that failed for good and went to the dead letters; those buried as unroutable are not included.";
    RETRIED = Kind::Counter, "stem.tasks.retried", "{attempt}", ["queue", "task", "kind"], "Attempts that failed and are followed by another.";
    REVOKED = Kind::Counter, "stem.tasks.revoked", "{task}", ["queue", "task"], "Tasks that ended by an operator's order.";
    EXPIRED = Kind::Counter, "stem.tasks.expired", "{task}", ["queue", "task"], "Tasks whose time to start had passed.";
    RELEASED = Kind::Counter, "stem.tasks.released", "{delivery}", ["queue", "task"], "Deliveries given back to their queue, with no attempt used up.";
    DURATION = Kind::Histogram(DURATIONS), "stem.task.duration", "s", ["queue", "task", "outcome"], "How long handlers ran, from their start to their end.";
    WAITED = Kind::Histogram(DURATIONS), "stem.task.wait.duration", "s", ["queue", "task"], "How long tasks were ready before their first attempt, by the clocks of producer and worker.";
    STOPPED = Kind::Histogram(STOPS), "stem.task.stop.duration", "s", ["reason", "how"], "Handlers that the host stopped: how long from the order until no code of them ran.";
    GUEST_CPU = Kind::Histogram(CPU), "stem.guest.cpu.time", "s", ["task"], "CPU time of a guest in one attempt.";
    GUEST_MEMORY = Kind::Histogram(MEMORY), "stem.guest.memory.peak", "By", ["task"], "The most linear memory of a guest in one attempt.";
    LEASE_RENEWED = Kind::Counter, "stem.lease.renewed", "{renewal}", ["queue"], "Leases prolonged.";
    LEASE_LOST = Kind::Counter, "stem.lease.lost", "{delivery}", ["queue", "task"], "Deliveries that somebody else owned before this worker could settle them, or whose record, in another service than the broker, already told of another end.";
    LEASE_RECLAIMED = Kind::Counter, "stem.lease.reclaimed", "{delivery}", ["queue", "task"], "Deliveries of tasks that a lost worker had held before, every later attempt included.";
    RECYCLED = Kind::Counter, "stem.worker.recycled", "{module}", ["reason"], "Modules prepared anew, and native handlers given new threads.";
    COMMANDS = Kind::Counter, "stem.control.commands", "{command}", ["command", "outcome"], "Commands of operators carried out (ok) or not (error).";
    REFUSED = Kind::Counter, "stem.signing.refused", "{message}", ["kind", "reason"], "Messages (task, command, reply) that were refused for want of a good signature, time or right.";
    UNSIGNED = Kind::Counter, "stem.signing.unsigned", "{message}", ["kind"], "Messages without a signature that were let through where that is permitted.";
    QUOTA_REACHED = Kind::Counter, "stem.quota.reached", "{time}", ["bound"], "Times that a tenant or a queue had all that its quota allows (concurrency, rate or memory) and got nothing more.";
    SERVICE_ERRORS = Kind::Counter, "stem.service.errors", "{call}", ["service", "class"], "Calls to the broker and the stores that failed.";
    COMPILED = Kind::Histogram(COMPILES), "stem.module.compile.duration", "s", ["outcome"], "Modules compiled (ok) or refused by the compiler (refused), and how long it took.";
    CACHE = Kind::Counter, "stem.module.cache.lookups", "{lookup}", ["outcome"], "Compiled code looked for in the cache, and found (hit) or not (miss).";
    SPANS_DROPPED = Kind::Counter, "stem.telemetry.spans.dropped", "{span}", ["reason"], "Spans that no collector got: the queue was full (queue-full), or it could not be reached (not-sent).";
    INFLIGHT = Kind::Gauge, "stem.worker.inflight", "{delivery}", [], "Deliveries in the worker's hands.";
    CONCURRENCY = Kind::Gauge, "stem.worker.concurrency", "{attempt}", [], "Attempts that may run at once, now.";
    REVOCATIONS = Kind::Gauge, "stem.revocations.known", "{revocation}", [], "Revocations that the worker knows.";
    REVOCATIONS_AGE = Kind::Gauge, "stem.revocations.age", "s", [], "How long ago the worker last read the revoke store to its end.";
    DEPTH = Kind::Gauge, "stem.queue.depth", "{task}", ["queue"], "Tasks that wait and are ready, in each queue of the worker; all workers of a queue report the same.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_and_nothing_is_told_apart_by_an_id() {
        let mut seen = BTreeSet::new();
        for metric in ALL {
            assert!(metric.name.starts_with("stem.") && seen.insert(metric.name), "{metric:?}");
            assert!(metric.about.ends_with('.'), "{metric:?}");
            for label in metric.labels {
                let bounded = [
                    "queue", "task", "kind", "outcome", "reason", "how", "command", "service",
                    "class", "bound",
                ];
                assert!(bounded.contains(label), "{metric:?}");
            }
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted() && bounds.len() < 20, "{metric:?}");
            }
        }
        assert_eq!(DURATION.on_the_page(), "stem_task_duration_seconds");
        assert_eq!(STARTED.on_the_page(), "stem_tasks_started_total");
        assert_eq!(GUEST_MEMORY.on_the_page(), "stem_guest_memory_peak_bytes");
    }
}
