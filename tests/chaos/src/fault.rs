//! [`Fault`]: what is done to a run, and for how long.

use std::time::Duration;

use crate::history::{SERVER_KILLED, WORKER_OUT_OF_MEMORY};

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
    /// It is told that it has no memory left for writes.
    OutOfMemory,
    /// A value of somebody else's takes the memory that it has left.
    MemoryFilled,
    /// Redis forgets the scripts that it was given.
    ScriptsForgotten,
    /// The file system of its files has no room left.
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
    /// A worker gets no more memory, until it has died of that, and its next life.
    WorkerOutOfMemory,
    /// SIGKILL to a producer, and its next life.
    ProducerKilled,
}

use Fault::{
    ConnectionsCut, DiskFull, MemoryFilled, NetworkHalfClosed, NetworkSilent, NetworkSlow,
    NetworkTorn, OutOfMemory, ProducerKilled, ReadOnly, ScriptsForgotten, ServerFrozen,
    ServerKilled, ServerStopped, WorkerFrozen, WorkerKilled, WorkerOutOfMemory,
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
        MemoryFilled,
        ScriptsForgotten,
        DiskFull,
        WorkerKilled,
        WorkerOutOfMemory,
        ProducerKilled,
    ];
    /// No room, and no memory.
    pub const SHORTAGES: &[Self] = &[DiskFull, MemoryFilled, WorkerOutOfMemory];
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
            MemoryFilled => "memory-filled",
            ScriptsForgotten => "scripts-forgotten",
            DiskFull => "disk-full",
            NetworkSlow => "network-slow",
            NetworkSilent => "network-silent",
            NetworkTorn => "network-torn",
            NetworkHalfClosed => "network-half-closed",
            WorkerKilled => "worker-killed",
            WorkerFrozen => "worker-frozen",
            WorkerOutOfMemory => WORKER_OUT_OF_MEMORY,
            ProducerKilled => "producer-killed",
        }
    }

    /// What it is done to.
    pub fn target(self) -> Target {
        match self {
            WorkerKilled | WorkerFrozen | WorkerOutOfMemory => Target::Worker,
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
            ServerKilled | ServerStopped | ReadOnly | OutOfMemory => (200, 1_000),
            // Long enough for what there is of room in files to be used up.
            DiskFull | MemoryFilled => (500, 3_000),
            // If it does not die before.
            WorkerOutOfMemory => (5_000, 10_000),
        };
        (Duration::from_millis(least), Duration::from_millis(most))
    }

    /// From its end until it comes again.
    pub fn pauses(self) -> (Duration, Duration) {
        let (least, most) = if self == WorkerFrozen { (2_000, 5_000) } else { (1_000, 3_000) };
        (Duration::from_millis(least), Duration::from_millis(most))
    }
}
