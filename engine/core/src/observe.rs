//! What those who watch a worker are told. Where it goes (a page, a collector, nowhere) is theirs to know.
//!
//! ```text
//! started ──► Trace (if it is traced) ──► ended
//!          seen: everything that is not the course of one attempt
//! ```
//! A worker calls these on its own threads, for every attempt: none of them may wait, and what they keep must be bounded
//! whatever names they are given.

use std::fmt;
use std::time::Duration;

use crate::backend::ErrorClass;
use crate::id::{QueueName, TaskId, TaskName};
use crate::limits::Usage;
use crate::machine::quota::Bound;
use crate::outcome::{Failure, FailureKind, StopHow, StopReason};
use crate::seal::{Purpose, Refused};
use crate::trace::TraceParent;

/// Watches one worker.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// Whether anybody looks. If not, what costs a call to a service or a look at a clock is not found out.
    fn is_watching(&self) -> bool;
    /// An attempt's handler is about to start. Answers with the attempt's trace if it is recorded.
    fn started(&self, attempt: &AttemptFacts<'_>) -> Option<Box<dyn Trace>>;
    /// A delivery left the worker's hands. Called once for each, also where no handler ran.
    fn ended(&self, attempt: &AttemptFacts<'_>, end: &AttemptEnd<'_>);
    /// Something else happened.
    fn saw(&self, seen: Seen<'_>);
}

/// The trace of one attempt. Ends when it is dropped, at the latest.
pub trait Trace: Send + Sync + fmt::Debug {
    /// What the handler is told, so that what it does lies below the attempt.
    fn parent(&self) -> TraceParent;
    /// Something happened to the attempt: a word, and words for people.
    fn event(&mut self, name: &'static str, about: &str);
    /// It is over.
    fn end(self: Box<Self>, end: &AttemptEnd<'_>);
}

/// Which attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFacts<'a> {
    /// Where the task waited.
    pub queue: &'a QueueName,
    /// Its handler.
    pub name: &'a TaskName,
    /// The task.
    pub task: &'a TaskId,
    /// 1 for the first.
    pub attempt: u32,
    /// Of its producer.
    pub parent: Option<TraceParent>,
    /// How long it was ready and waited, by the clocks of producer and worker; told at the start of a task's first
    /// attempt.
    pub waited: Option<Duration>,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
pub struct AttemptEnd<'a> {
    /// In a word.
    pub ending: Ending,
    /// Why, if it failed.
    pub failure: Option<&'a Failure>,
    /// How long its handler ran; absent if none did, or nobody looks.
    pub ran: Option<Duration>,
    /// What it used, where that is known.
    pub usage: Option<Usage>,
}

impl AttemptEnd<'_> {
    /// The kind of its failure.
    pub fn failure_kind(&self) -> Option<FailureKind> {
        self.failure.map(|failure| failure.kind)
    }
}

/// How a delivery left the worker's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a result.
    Succeeded,
    /// For good.
    Failed,
    /// And will be tried again.
    Retried,
    /// By an operator's order.
    Revoked,
    /// Too late to start.
    Expired,
    /// Back to its queue, uncounted.
    Released,
    /// A leftover of a task that was final.
    Discarded,
    /// Somebody else owns the task.
    LeaseLost,
    /// The broker could not be told; its lease runs out.
    Abandoned,
}

impl Ending {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::Failed,
        Self::Retried,
        Self::Revoked,
        Self::Expired,
        Self::Released,
        Self::Discarded,
        Self::LeaseLost,
        Self::Abandoned,
    ];

    /// The word used in labels and traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Retried => "retried",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Released => "released",
            Self::Discarded => "discarded",
            Self::LeaseLost => "lease-lost",
            Self::Abandoned => "abandoned",
        }
    }
}

/// A service of the worker, by what it does for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Deliveries, leases, settlements.
    Broker,
    /// Records, results, progress, checkpoints.
    Results,
    /// Revocations.
    Revokes,
    /// Commands and replies.
    Control,
    /// Heartbeats.
    Presence,
    /// Builds of modules.
    Modules,
}

impl Service {
    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Results => "results",
            Self::Revokes => "revokes",
            Self::Control => "control",
            Self::Presence => "presence",
            Self::Modules => "modules",
        }
    }
}

/// Something that happened. Words without a type are from sets in the code, never from outside.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// A lease was prolonged.
    LeaseRenewed(&'a QueueName),
    /// A task was taken whose lease ran out before, in the hands of a worker that was lost.
    LeaseReclaimed(&'a QueueName, &'a TaskName),
    /// The host stopped a handler, and it took so long from the order until no code of it ran.
    Stopped {
        /// Why.
        reason: StopReason,
        /// Where.
        how: StopHow,
        /// How long.
        took: Duration,
    },
    /// A module was prepared anew, or native handlers got new threads.
    Recycled {
        /// Why, as a word.
        reason: &'static str,
    },
    /// An operator's command was carried out, or could not be.
    Commanded {
        /// Which, as a word.
        order: &'static str,
        /// Whether the reply is ok.
        ok: bool,
    },
    /// A call to a service failed.
    ServiceFailed(Service, ErrorClass),
    /// A message was refused: it is not signed as it must be, out of its time, or beyond what its key may.
    Refused {
        /// What it is.
        kind: Purpose,
        /// Why.
        reason: Refused,
    },
    /// A message without a signature acts, where that is permitted and counted.
    Unsigned(Purpose),
    /// A tenant or a queue has all that a bound of its quota allows, and gets nothing more for now.
    QuotaReached(Bound),
    /// A module was compiled, or refused by the compiler.
    Compiled {
        /// Whether there is code now.
        ok: bool,
        /// How long.
        took: Duration,
    },
    /// Compiled code was looked for in the cache.
    CacheAsked {
        /// Whether it was there.
        hit: bool,
    },
}

/// What a worker is like at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Deliveries in hand.
    pub inflight: usize,
    /// How many attempts may run at once, now.
    pub concurrency: usize,
    /// Revocations it knows.
    pub revocations: usize,
    /// How long ago it last read the revoke store to its end; absent before the first time.
    pub revocations_age: Option<Duration>,
    /// Deliveries that wait in each queue it serves, as far as it has looked lately.
    pub depths: Vec<(QueueName, u64)>,
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn is_watching(&self) -> bool {
        false
    }

    fn started(&self, _: &AttemptFacts<'_>) -> Option<Box<dyn Trace>> {
        None
    }

    fn ended(&self, _: &AttemptFacts<'_>, _: &AttemptEnd<'_>) {}

    fn saw(&self, _: Seen<'_>) {}
}
