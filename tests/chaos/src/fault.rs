//! [`Fault`]: what is done to a run, and for how long.

use std::time::Duration;

use crate::history::SERVER_KILLED;

/// What is done to a server, to the network before it, or to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Killed, and started again.
    ServerKilled,
    /// Told to end at once, as an administrator would; started again.
    ServerStopped,
    /// SIGSTOP: connections stay open, and nothing answers.
    ServerFrozen,
    /// All its connections are ended, by itself.
    ConnectionsCut,
    /// It takes no writes.
    ReadOnly,
    /// It has no memory left for writes.
    OutOfMemory,
    /// Redis forgets the scripts that it was given.
    ScriptsForgotten,
    /// The files of Redis may grow no more.
    DiskFull,
    /// 100 ms, each way.
    NetworkSlow,
    /// Nothing arrives, and nobody is told.
    NetworkSilent,
    /// Connections break in the middle of something.
    NetworkTorn,
    /// Clients are told that connections are over, and the server is not.
    NetworkHalfClosed,
    /// SIGKILL to a worker, and its next life.
    WorkerKilled,
    /// SIGSTOP to a worker, for longer than its leases.
    WorkerFrozen,
    /// SIGKILL to a producer, and its next life.
    ProducerKilled,
}

use Fault::{
    ConnectionsCut, DiskFull, NetworkHalfClosed, NetworkSilent, NetworkSlow, NetworkTorn,
    OutOfMemory, ProducerKilled, ReadOnly, ScriptsForgotten, ServerFrozen, ServerKilled,
    ServerStopped, WorkerFrozen, WorkerKilled,
};

/// What a fault is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each server by itself.
    Server,
    /// Some worker.
    Worker,
    /// Some producer.
    Producer,
}

impl Fault {
    /// Kills, and a worker that is stopped past its leases.
    pub const KILLS: &[Self] = &[ServerKilled, WorkerKilled, WorkerFrozen, ProducerKilled];
    /// Servers that are in trouble, and processes that are killed meanwhile.
    pub const TROUBLES: &[Self] = &[
        ServerStopped,
        ServerFrozen,
        ConnectionsCut,
        ReadOnly,
        OutOfMemory,
        ScriptsForgotten,
        DiskFull,
        WorkerKilled,
        ProducerKilled,
    ];
    /// A bad network, and processes that are killed and stopped meanwhile.
    pub const NETWORK: &[Self] = &[
        NetworkSlow,
        NetworkSilent,
        NetworkTorn,
        NetworkHalfClosed,
        WorkerKilled,
        WorkerFrozen,
        ProducerKilled,
    ];

    /// Its name in histories and tables.
    pub fn kind(self) -> &'static str {
        match self {
            ServerKilled => SERVER_KILLED,
            ServerStopped => "server-stopped",
            ServerFrozen => "server-frozen",
            ConnectionsCut => "connections-cut",
            ReadOnly => "read-only",
            OutOfMemory => "out-of-memory",
            ScriptsForgotten => "scripts-forgotten",
            DiskFull => "disk-full",
            NetworkSlow => "network-slow",
            NetworkSilent => "network-silent",
            NetworkTorn => "network-torn",
            NetworkHalfClosed => "network-half-closed",
            WorkerKilled => "worker-killed",
            WorkerFrozen => "worker-frozen",
            ProducerKilled => "producer-killed",
        }
    }

    /// What it is done to.
    pub fn target(self) -> Target {
        match self {
            WorkerKilled | WorkerFrozen => Target::Worker,
            ProducerKilled => Target::Producer,
            _ => Target::Server,
        }
    }

    /// How long it lasts, at least and at most.
    pub fn lasts(self) -> (Duration, Duration) {
        let (least, most) = match self {
            ConnectionsCut | ScriptsForgotten | WorkerKilled | ProducerKilled => (0, 0),
            // Longer than the leases of a storm.
            WorkerFrozen => (2_300, 3_500),
            NetworkSlow | NetworkTorn => (500, 2_000),
            // Long enough for calls to be given up.
            NetworkSilent | NetworkHalfClosed | ServerFrozen => (500, 4_000),
            ServerKilled | ServerStopped | ReadOnly | OutOfMemory | DiskFull => (200, 1_000),
        };
        (Duration::from_millis(least), Duration::from_millis(most))
    }

    /// From its end until it comes again.
    pub fn pauses(self) -> (Duration, Duration) {
        let (least, most) = if self == WorkerFrozen { (2_000, 5_000) } else { (1_000, 3_000) };
        (Duration::from_millis(least), Duration::from_millis(most))
    }
}
