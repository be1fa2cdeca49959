//! [`Fact`]: what happens in a simulated world. Facts are at once the trace and what is judged.

use std::fmt;
use std::sync::Arc;

use stem_core::backend::broker::{Published, Renewed, Settled};
use stem_core::backend::dead_letter::Replayed;
use stem_core::backend::result::Recorded;
use stem_core::control::{Drain, WorkerState};
use stem_core::id::{LeaseToken, QueueName, RequestId, TaskId, WorkerId};
use stem_core::observe::{Ending, Gauges};
use stem_core::revoke::{RevokeRequest, Version};
use stem_core::settlement::{DeadReason, Receipt, Settle, Settlement};
use stem_core::task::TaskState;
use stem_core::time::Timestamp;

use crate::plan::Declared;

/// Milliseconds of the world since it began, by a clock that only it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ms(pub u64);

/// What an undisturbed clock shows when the world begins, in milliseconds since 1970.
pub const EPOCH: i64 = 1_795_305_600_000;

impl Ms {
    /// So much later.
    #[must_use]
    pub fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that lies ahead.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// What an undisturbed clock shows.
    pub fn shown(self) -> Timestamp {
        Timestamp::from_unix_millis(EPOCH.saturating_add_unsigned(self.0))
    }
}

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

/// A simulated machine, on which one process runs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostId {
    /// Runs a worker.
    Worker(u8),
    /// Runs producers and operators.
    Client(u8),
}

impl HostId {
    /// Whether producers and operators are there.
    pub fn is_client(self) -> bool {
        matches!(self, Self::Client(_))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(n) => write!(f, "w{n}"),
            Self::Client(n) => write!(f, "c{n}"),
        }
    }
}

/// One start of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// Where it runs.
    pub host: HostId,
    /// 1 for the first process there.
    pub start: u32,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.host, self.start)
    }
}

/// The call that a server executes at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Now, in the world.
    pub at: Ms,
    /// Now, by the server's clock.
    pub clock: Timestamp,
    /// Who called.
    pub caller: Caller,
    /// When, in the world.
    pub sent: Ms,
}

/// A delivery, without the process that holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// The task.
    pub task: TaskId,
    /// Which delivery of it.
    pub token: LeaseToken,
}

impl From<&Receipt> for Held {
    fn from(receipt: &Receipt) -> Self {
        Self { task: receipt.task.clone(), token: receipt.token }
    }
}

/// A settlement, as far as it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// With these bytes.
    Succeed(Vec<u8>),
    /// For good.
    Fail(DeadReason),
    /// To be tried again.
    Retry {
        /// Not earlier than this.
        not_before: Timestamp,
    },
    /// By an operator's order.
    Revoke {
        /// In the operator's words.
        reason: Option<String>,
        /// Who.
        requested_by: Option<String>,
    },
    /// Too late.
    Expire,
    /// Back, uncounted.
    Release,
    /// A leftover.
    Discard,
}

impl Move {
    /// Of this settlement.
    pub fn of(settle: &Settle) -> Self {
        match &settle.settlement {
            Settlement::Succeed(payload) => Self::Succeed(payload.bytes.clone()),
            Settlement::Fail { reason, .. } => Self::Fail(*reason),
            Settlement::Retry { not_before, .. } => Self::Retry { not_before: *not_before },
            Settlement::Revoke(end) => {
                Self::Revoke { reason: end.reason.clone(), requested_by: end.requested_by.clone() }
            }
            Settlement::Expire => Self::Expire,
            Settlement::Release => Self::Release,
            Settlement::Discard => Self::Discard,
        }
    }

    /// Whether nothing happens to the task after it, short of a replay. A leftover's end is not the task's.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeed(_) | Self::Fail(_) | Self::Revoke { .. } | Self::Expire)
    }
}

/// How a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned these bytes, as JSON.
    Succeeded(Vec<u8>),
    /// It returned an error.
    Failed {
        /// Which is never tried again.
        fatal: bool,
    },
    /// It saw that it is to stop, and stopped.
    Interrupted,
    /// It panicked.
    Panicked,
    /// It was stopped where it was, or its process died.
    Dropped,
}

/// Why a process is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was killed.
    Crash,
    /// It ended in good order.
    Drained,
    /// A live worker had its name.
    NameTaken,
    /// It could not start, as a service refused.
    Refused,
    /// It ended with an error, or a part of it panicked.
    Broke(String),
}

/// A service that a host may be cut off from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKind {
    /// Broker, control plane, dead letters.
    Broker,
    /// Results, presence.
    Records,
    /// Revocations.
    Revokes,
}

impl ServiceKind {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Broker, Self::Records, Self::Revokes];
}

/// What a link or a service is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// Nothing passes.
    Down {
        /// Callers are told at once; otherwise they wait in vain.
        quick: bool,
    },
    /// Each way takes so much longer, in milliseconds.
    Slow(u64),
    /// Calls wait, and are made when it ends.
    Held,
    /// Writes are refused; only of a service.
    ReadOnly,
}

/// A method of a backend, by its name: `broker.renew`.
pub type Method = &'static str;

/// What a call met on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// It arrived this much later, in milliseconds.
    SlowThere(u64),
    /// Its answer did.
    SlowBack(u64),
    /// It did not arrive.
    LostRequest {
        /// The caller is told at once.
        quick: bool,
    },
    /// Its answer did not.
    LostReply {
        /// The caller is told at once.
        quick: bool,
    },
    /// It was made again, so many milliseconds after.
    Twice(u64),
    /// It was refused, and not made.
    Refused,
}

/// What a command asks for, in a word and what is needed to judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Are you there?
    Ping,
    /// What is revoked?
    Inspect {
        /// Whether the revocations are to be listed.
        revoked: bool,
    },
    /// Counts.
    Stats,
    /// Apply these.
    Revoke,
    /// Stop.
    Shutdown(Drain),
    /// Pause queues.
    Pause,
    /// Resume queues.
    Resume,
}

/// Where the world is in its course.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything may go wrong.
    Storm,
    /// Everything is good again; every task must have ended at `bound`.
    Healed {
        /// In the world's time.
        bound: Ms,
    },
    /// The dead letters were replayed with scripts that succeed; again to be ended at `bound`.
    Replayed {
        /// In the world's time.
        bound: Ms,
    },
    /// All workers were told to stop.
    Draining,
    /// Nothing happens any more.
    Over,
}

/// Something that happened, once.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    // Told by the witness, in the order of the server; the caller is who called, the time is that of the server.
    /// A task was stored, or not.
    Published {
        /// Which.
        task: TaskId,
        /// In which queue.
        queue: QueueName,
        /// What the broker answered.
        answer: Published,
        /// Not to be delivered earlier.
        not_before: Option<Timestamp>,
        /// Not to start later.
        expires_at: Option<Timestamp>,
    },
    /// A delivery was handed out.
    Leased {
        /// Which.
        held: Held,
        /// Until then, by the server's clock.
        until: Timestamp,
        /// As asked, in milliseconds.
        asked: u64,
        /// From 1.
        attempt: u32,
        /// This one included.
        deliveries: u32,
        /// Leases that ran out.
        losses: u32,
        /// The request's largest number.
        max: usize,
    },
    /// A lease was to be prolonged by `asked` milliseconds.
    Renewed {
        /// Which.
        held: Held,
        /// Milliseconds.
        asked: u64,
        /// What the broker answered.
        answer: Renewed,
    },
    /// A delivery was to be settled at the broker.
    Settled {
        /// Which.
        held: Held,
        /// How.
        by: Move,
        /// What the broker answered.
        answer: Settled,
        /// Published in the same step.
        children: Vec<TaskId>,
    },
    /// A record was to say that an attempt runs.
    Begun {
        /// Which.
        held: Held,
        /// From 1.
        attempt: u32,
        /// What the result backend answered.
        answer: Recorded,
    },
    /// A settlement was to be recorded where records lie apart.
    Recorded {
        /// Which.
        held: Held,
        /// How.
        by: Move,
        /// What the result backend answered.
        answer: Recorded,
    },
    /// Progress was to be stored.
    Progressed {
        /// Whose.
        held: Held,
        /// What the result backend answered.
        answer: Recorded,
    },
    /// A checkpoint was to be stored.
    Saved {
        /// Whose.
        held: Held,
        /// What the result backend answered.
        answer: Recorded,
    },
    /// A revocation was stored.
    RevokeStored {
        /// The store's.
        version: Version,
        /// Which.
        task: TaskId,
        /// What was asked.
        request: RevokeRequest,
    },
    /// A revocation was taken back.
    UndoStored {
        /// The store's.
        version: Version,
        /// Which.
        task: TaskId,
    },
    /// The revocations were read.
    SinceRead {
        /// From there.
        after: Version,
        /// To there.
        upto: Version,
        /// So many.
        count: usize,
    },
    /// A command was stored.
    CommandStored {
        /// In the log.
        position: u64,
        /// Its request.
        id: RequestId,
        /// What it asks.
        order: Word,
        /// The revocations in it.
        versions: Vec<(TaskId, Version)>,
        /// Never executed later.
        expires_at: Timestamp,
        /// `None` is everyone.
        targets: Option<Vec<WorkerId>>,
    },
    /// Commands were handed out.
    CommandsGiven {
        /// In order.
        ids: Vec<RequestId>,
    },
    /// A reply was stored.
    Replied {
        /// To which.
        id: RequestId,
        /// Whether it says ok.
        ok: bool,
    },
    /// A worker asked for its name.
    Registered {
        /// Another live one has it.
        taken: bool,
    },
    /// A worker's heartbeat.
    Beat {
        /// What it says.
        state: WorkerState,
    },
    /// A dead letter was to go back.
    Replayed {
        /// Which.
        task: TaskId,
        /// By which it was found dead.
        token: LeaseToken,
        /// What the store answered.
        answer: Replayed,
    },
    /// A queue was paused or resumed.
    PauseSet {
        /// Which.
        queue: QueueName,
        /// Paused.
        paused: bool,
    },

    // Told by the world.
    /// A process began.
    Booted {
        /// What it should be like; nobody's for a client.
        config: Option<Arc<Declared>>,
    },
    /// A worker takes deliveries.
    Ready,
    /// A process is no more.
    Gone {
        /// Why.
        why: Why,
    },
    /// A process was stopped for so many milliseconds.
    Stopped(u64),
    /// It goes on.
    Continued,
    /// A link of this caller's host changed.
    Link {
        /// To which service.
        service: ServiceKind,
        /// Now.
        state: State,
    },
    /// A service changed.
    Service {
        /// Which.
        service: ServiceKind,
        /// Now.
        state: State,
    },
    /// The wall clock of a host was stepped by so many milliseconds; the server's if there is no caller.
    Stepped(i64),
    /// A call met a fault.
    Met {
        /// Which call.
        method: Method,
        /// Which of them, from 0.
        nth: u64,
        /// What.
        fault: Fault,
        /// When its last effect is over, at the latest.
        until: Ms,
    },
    /// The world's phase.
    Phase(Phase),
    /// What a worker is like; every half a second.
    Gauged(Gauges),

    // Told by the hosts: by their ends of the network and by what runs on them.
    /// A worker sends a request for deliveries.
    Asked {
        /// At most so many.
        max: usize,
    },
    /// Deliveries came.
    Held(Vec<Held>),
    /// Revocations were read by a call that was sent then.
    Learned {
        /// In the world.
        sent: Ms,
        /// From there.
        after: Version,
        /// To there; `after` if there was nothing.
        upto: Version,
        /// Revocations read, with their versions.
        revoked: Vec<(TaskId, Version)>,
        /// Those taken back.
        undone: Vec<(TaskId, Version)>,
    },
    /// Commands came.
    Heard(Vec<RequestId>),
    /// A renewal was answered to the caller.
    Prolonged(Vec<(Held, Renewed)>),
    /// A handler began.
    Started {
        /// For which delivery.
        held: Held,
        /// From 1.
        attempt: u32,
    },
    /// Something left the process that no token fences: the publishing of a child.
    Effect {
        /// Of which delivery.
        held: Held,
        /// The child.
        child: TaskId,
    },
    /// A handler ended.
    HandlerEnded {
        /// For which delivery.
        held: Held,
        /// How.
        end: End,
    },
    /// A delivery left the worker's hands.
    Retired {
        /// Which task; its newest delivery there.
        task: TaskId,
        /// How.
        ending: Ending,
    },
    /// A command was carried out.
    Commanded {
        /// Which, as a word.
        order: &'static str,
        /// Whether it worked.
        ok: bool,
    },
    /// A worker's answer to `inspect`, read by an operator: the revocations that it knows.
    Shows {
        /// Which worker.
        worker: WorkerId,
        /// What it lists, by task.
        versions: Vec<(TaskId, Version)>,
    },
    /// An operator has read a worker's reply.
    Answered {
        /// To which command.
        id: RequestId,
        /// Of which worker.
        worker: WorkerId,
    },
    /// A producer begins to store a task.
    Tried {
        /// Which.
        task: TaskId,
    },
    /// A producer was told that it is stored.
    Acknowledged {
        /// Which.
        task: TaskId,
    },
    /// An operator was told that a revocation is stored.
    RevokeAcknowledged {
        /// Which.
        task: TaskId,
        /// The store's.
        version: Version,
    },
    /// A worker is asked to stop: by its own process if there is a caller, else by a command.
    DrainAsked {
        /// Which.
        worker: WorkerId,
        /// How.
        mode: Drain,
        /// Milliseconds.
        grace: Option<u64>,
    },
}

/// What a store holds, asked of it itself, below whatever stands in front of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Could be taken now.
    pub ready: u64,
    /// Their time has not come.
    pub delayed: u64,
    /// Under a lease.
    pub inflight: u64,
    /// Given up.
    pub dead: Vec<TaskId>,
    /// Every record; only at the end of a phase, else empty.
    pub known: Vec<(TaskId, TaskState)>,
}
