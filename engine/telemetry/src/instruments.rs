//! The instruments behind the table of metrics, and those that are told apart by queue and task.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram, Meter};
use stem_core::id::{QueueName, TaskName};
use stem_core::observe::{AttemptEnd, Ending};
use stem_core::outcome::FailureKind;

use crate::names::{self, Kind, Metric};

/// So many pairs of queue and task have numbers of their own; what comes after that shares one more. A worker serves
/// the names of its modules, and modules may come and go for years.
pub(crate) const PAIRS: usize = 1_000;
/// The label of those that share.
pub(crate) const OTHER: &str = "(other)";

pub(crate) fn counter(meter: &Meter, metric: &Metric) -> Counter<u64> {
    meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.about).build()
}

fn histogram(meter: &Meter, metric: &Metric) -> Histogram<f64> {
    let Kind::Histogram(bounds) = metric.kind else { unreachable!("a constant of the table") };
    meter
        .f64_histogram(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.about)
        .with_boundaries(bounds.to_vec())
        .build()
}

/// What is counted at each end of an attempt.
#[derive(Debug)]
struct PerPair {
    started: Counter<u64>,
    succeeded: Counter<u64>,
    failed: Counter<u64>,
    retried: Counter<u64>,
    revoked: Counter<u64>,
    expired: Counter<u64>,
    released: Counter<u64>,
    lost: Counter<u64>,
    reclaimed: Counter<u64>,
    duration: Histogram<f64>,
    waited: Histogram<f64>,
    cpu: Histogram<f64>,
    memory: Histogram<f64>,
}

/// The instruments of one worker.
pub(crate) struct Instruments {
    per_pair: Arc<PerPair>,
    pairs: RwLock<Pairs>,
    others: OnceLock<Arc<Pair>>,
    pub(crate) renewed: Counter<u64>,
    pub(crate) stopped: Histogram<f64>,
    pub(crate) recycled: Counter<u64>,
    pub(crate) commands: Counter<u64>,
    pub(crate) refused: Counter<u64>,
    pub(crate) unsigned: Counter<u64>,
    pub(crate) quota_reached: Counter<u64>,
    pub(crate) service_errors: Counter<u64>,
    pub(crate) compiled: Histogram<f64>,
    pub(crate) cache: Counter<u64>,
}

#[derive(Default)]
struct Pairs {
    by_queue: HashMap<QueueName, HashMap<TaskName, Arc<Pair>>>,
    count: usize,
}

impl fmt::Debug for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instruments").finish_non_exhaustive()
    }
}

impl Instruments {
    pub(crate) fn new(meter: &Meter) -> Self {
        let per_pair = PerPair {
            started: counter(meter, &names::STARTED),
            succeeded: counter(meter, &names::SUCCEEDED),
            failed: counter(meter, &names::FAILED),
            retried: counter(meter, &names::RETRIED),
            revoked: counter(meter, &names::REVOKED),
            expired: counter(meter, &names::EXPIRED),
            released: counter(meter, &names::RELEASED),
            lost: counter(meter, &names::LEASE_LOST),
            reclaimed: counter(meter, &names::LEASE_RECLAIMED),
            duration: histogram(meter, &names::DURATION),
            waited: histogram(meter, &names::WAITED),
            cpu: histogram(meter, &names::GUEST_CPU),
            memory: histogram(meter, &names::GUEST_MEMORY),
        };
        Self {
            per_pair: Arc::new(per_pair),
            pairs: RwLock::default(),
            others: OnceLock::new(),
            renewed: counter(meter, &names::LEASE_RENEWED),
            stopped: histogram(meter, &names::STOPPED),
            recycled: counter(meter, &names::RECYCLED),
            commands: counter(meter, &names::COMMANDS),
            refused: counter(meter, &names::REFUSED),
            unsigned: counter(meter, &names::UNSIGNED),
            quota_reached: counter(meter, &names::QUOTA_REACHED),
            service_errors: counter(meter, &names::SERVICE_ERRORS),
            compiled: histogram(meter, &names::COMPILED),
            cache: counter(meter, &names::CACHE),
        }
    }

    /// The numbers of a queue and a task: one look under a lock that is shared, but for the first look at each pair.
    pub(crate) fn pair(&self, queue: &QueueName, task: &TaskName) -> Arc<Pair> {
        let known = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(pair) = known.by_queue.get(queue).and_then(|tasks| tasks.get(task)) {
            return Arc::clone(pair);
        }
        let full = known.count >= PAIRS;
        drop(known);
        if full {
            return self.others();
        }
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        // Others may have been here in between, with this pair or with the last that has a place.
        let known = pairs.by_queue.get(queue).is_some_and(|tasks| tasks.contains_key(task));
        if !known && pairs.count >= PAIRS {
            return self.others();
        }
        let Pairs { by_queue, count } = &mut *pairs;
        let tasks = by_queue.entry(queue.clone()).or_default();
        let pair = tasks.entry(task.clone()).or_insert_with(|| {
            *count += 1;
            Pair::new(&self.per_pair, queue.as_str(), task.as_str())
        });
        Arc::clone(pair)
    }

    fn others(&self) -> Arc<Pair> {
        Arc::clone(self.others.get_or_init(|| Pair::new(&self.per_pair, OTHER, OTHER)))
    }
}

/// One queue and one task: each number is found once and then only added to. All but the first come to be when they are
/// needed, since most tasks never expire and fail in one or two ways.
#[derive(Debug)]
pub(crate) struct Pair {
    instruments: Arc<PerPair>,
    labels: [KeyValue; 2],
    started: BoundCounter<u64>,
    succeeded: OnceLock<BoundCounter<u64>>,
    revoked: OnceLock<BoundCounter<u64>>,
    expired: OnceLock<BoundCounter<u64>>,
    released: OnceLock<BoundCounter<u64>>,
    lost: OnceLock<BoundCounter<u64>>,
    reclaimed: OnceLock<BoundCounter<u64>>,
    failed: [OnceLock<BoundCounter<u64>>; FailureKind::ALL.len()],
    retried: [OnceLock<BoundCounter<u64>>; FailureKind::ALL.len()],
    duration: [OnceLock<BoundHistogram<f64>>; Ending::ALL.len()],
    waited: OnceLock<BoundHistogram<f64>>,
    cpu: OnceLock<BoundHistogram<f64>>,
    memory: OnceLock<BoundHistogram<f64>>,
}

impl Pair {
    fn new(instruments: &Arc<PerPair>, queue: &str, task: &str) -> Arc<Self> {
        let labels =
            [KeyValue::new("queue", queue.to_owned()), KeyValue::new("task", task.to_owned())];
        Arc::new(Self {
            started: instruments.started.bind(&labels),
            instruments: Arc::clone(instruments),
            labels,
            succeeded: OnceLock::new(),
            revoked: OnceLock::new(),
            expired: OnceLock::new(),
            released: OnceLock::new(),
            lost: OnceLock::new(),
            reclaimed: OnceLock::new(),
            failed: Default::default(),
            retried: Default::default(),
            duration: Default::default(),
            waited: OnceLock::new(),
            cpu: OnceLock::new(),
            memory: OnceLock::new(),
        })
    }

    pub(crate) fn started(&self, waited: Option<f64>) {
        self.started.add(1);
        if let Some(waited) = waited {
            self.waited.get_or_init(|| self.instruments.waited.bind(&self.labels)).record(waited);
        }
    }

    pub(crate) fn reclaimed(&self) {
        self.count(&self.reclaimed, &self.instruments.reclaimed);
    }

    pub(crate) fn ended(&self, end: &AttemptEnd<'_>) {
        let instruments = &self.instruments;
        match end.ending {
            Ending::Succeeded => self.count(&self.succeeded, &instruments.succeeded),
            Ending::Failed => self.count_kind(&self.failed, &instruments.failed, end),
            Ending::Retried => self.count_kind(&self.retried, &instruments.retried, end),
            Ending::Revoked => self.count(&self.revoked, &instruments.revoked),
            Ending::Expired => self.count(&self.expired, &instruments.expired),
            Ending::Released => self.count(&self.released, &instruments.released),
            Ending::LeaseLost => self.count(&self.lost, &instruments.lost),
            // The first leaves no trace anywhere; the second is seen again as a lease that was reclaimed.
            Ending::Discarded | Ending::Abandoned => {}
        }
        if let Some(ran) = end.ran {
            let [queue, task] = self.labels.clone();
            self.duration[end.ending as usize]
                .get_or_init(|| {
                    let outcome = KeyValue::new("outcome", end.ending.as_str());
                    instruments.duration.bind(&[queue, task, outcome])
                })
                .record(ran.as_secs_f64());
        }
        if let Some(usage) = end.usage {
            let task = &self.labels[1..];
            self.cpu.get_or_init(|| instruments.cpu.bind(task)).record(usage.cpu_ms / 1e3);
            #[expect(
                clippy::cast_precision_loss,
                reason = "a memory of 2^53 bytes is more than any machine has"
            )]
            let peak = usage.peak_memory_bytes as f64;
            self.memory.get_or_init(|| instruments.memory.bind(task)).record(peak);
        }
    }

    fn count(&self, bound: &OnceLock<BoundCounter<u64>>, counter: &Counter<u64>) {
        bound.get_or_init(|| counter.bind(&self.labels)).add(1);
    }

    fn count_kind(
        &self,
        bound: &[OnceLock<BoundCounter<u64>>],
        counter: &Counter<u64>,
        end: &AttemptEnd<'_>,
    ) {
        // A failure that nobody described is an error of the handler.
        let kind = end.failure_kind().unwrap_or(FailureKind::Error);
        let bind = || {
            let [queue, task] = self.labels.clone();
            counter.bind(&[queue, task, KeyValue::new("kind", kind.as_str())])
        };
        bound[kind as usize].get_or_init(bind).add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::*;

    #[test]
    fn every_kind_and_ending_has_a_place_of_its_own() {
        for (place, kind) in FailureKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        for (place, ending) in Ending::ALL.into_iter().enumerate() {
            assert_eq!(ending as usize, place);
        }
    }

    #[test]
    fn what_comes_after_the_last_pair_shares_one_and_waits_for_nobody() {
        let provider = SdkMeterProvider::builder().build();
        let instruments = Arc::new(Instruments::new(&provider.meter("test")));
        let queue = QueueName::new("q").unwrap();
        let name = |number: usize| TaskName::new(format!("t{number}")).unwrap();
        let first = instruments.pair(&queue, &name(0));
        for number in 0..PAIRS {
            instruments.pair(&queue, &name(number));
        }
        let one = instruments.pair(&queue, &name(PAIRS));
        assert!(Arc::ptr_eq(&one, &instruments.pair(&queue, &name(PAIRS + 1))));
        assert!(Arc::ptr_eq(&first, &instruments.pair(&queue, &name(0))));
        assert_eq!(one.labels[1].value.as_str(), OTHER);
        // Whoever looks at the same time is not in the way.
        let looking = instruments.pairs.read().unwrap();
        let (found, wait) = mpsc::channel();
        let (theirs, late) = (Arc::clone(&instruments), name(PAIRS + 2));
        std::thread::spawn(move || found.send(theirs.pair(&queue, &late)));
        let pair = wait.recv_timeout(Duration::from_mins(1)).expect("it took the lock for itself");
        drop(looking);
        assert!(Arc::ptr_eq(&one, &pair));
    }
}
