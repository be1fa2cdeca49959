//! [`WorkerConfig`]: plain, complete, valid.

use std::time::Duration;

use stem_core::id::{Namespace, QueueName, WorkerId};
use stem_core::limits::Limits;

/// How a worker works. Every field has a value; [`new`](WorkerConfig::new) gives those that suit most.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its name; unique among the live workers of its namespace.
    pub id: WorkerId,
    /// The scope of control commands, revocations and heartbeats.
    pub namespace: Namespace,
    /// What it serves, in this order of preference.
    pub queues: Vec<QueueName>,
    /// Attempts that may run at once, inline and isolate together.
    pub concurrency: usize,
    /// The most deliveries that one request to the broker may take. A permit stands behind each, so it never fetches
    /// what cannot start; a smaller number spreads a short backlog over more workers.
    pub prefetch: usize,
    /// How long a lease is; renewed after a third of it.
    pub lease: Duration,
    /// A task whose leases ran out unsettled so often is poison.
    pub max_losses: u32,
    /// The grace of a revocation with terminate that names none.
    pub terminate_grace: Duration,
    /// How long a soft drain waits before it becomes hard.
    pub soft_grace: Duration,
    /// How often it says that it lives.
    pub heartbeat_interval: Duration,
    /// How long a task whose name no worker knows may wait before it is given up.
    pub unroutable_after: Duration,
    /// No handler gets more than this.
    pub limits_cap: Limits,
    /// Whether SIGTERM, SIGINT and SIGQUIT drain it warm, soft and hard.
    pub signal_handlers: bool,
}

impl WorkerConfig {
    /// The usual settings: queue `default`, namespace `stem`, four attempts for each core, leases of 15 s.
    pub fn new(id: WorkerId) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            id,
            namespace: Namespace::new("stem").expect("a constant that follows the rules"),
            queues: vec![
                QueueName::new(crate::client::DEFAULT_QUEUE)
                    .expect("a constant that follows the rules"),
            ],
            concurrency: cores * 4,
            prefetch: cores * 4,
            lease: Duration::from_secs(15),
            max_losses: 5,
            terminate_grace: Duration::ZERO,
            soft_grace: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(5),
            unroutable_after: Duration::from_hours(168),
            limits_cap: Limits {
                memory_bytes: 1 << 30,
                cpu: Duration::from_hours(24),
                hard: Duration::from_hours(24),
                result_bytes: 8 << 20,
                log_bytes: 8 << 20,
                ..Limits::DEFAULT
            },
            signal_handlers: false,
        }
    }
}
