//! [`WorkerConfig`]: plain, complete, valid.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use stem_core::id::{Namespace, QueueName, TrustClass, WorkerId};
use stem_core::limits::Limits;

pub use stem_core::machine::autoscale::Rules as AutoscaleRules;

use crate::policy::PolicyFile;
use crate::quotas::QuotaFile;

/// What a worker does while it cannot read the revocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevokePolicy {
    /// Takes no task: not before it has read all of them, and not while they are stale.
    #[default]
    FailClosed,
    /// Takes tasks with what it knows, so a revoked task may run.
    FailOpen,
}

impl RevokePolicy {
    /// The word used in JSON, logs and flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailClosed => "fail-closed",
            Self::FailOpen => "fail-open",
        }
    }
}

/// What the worker's process has given up, as whoever made the worker knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hardening {
    /// What was wanted: `auto`, `off` or `require`.
    pub mode: &'static str,
    /// Whether a program that it starts can have no more privileges than it has.
    pub no_new_privs: bool,
    /// The version of Landlock by which files are bounded; `None` if they are not.
    pub landlock_abi: Option<i32>,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// What of these was wanted and is not there: its name, and why.
    pub off: Vec<String>,
    /// Where it may write, if files are bounded.
    pub writable: Vec<String>,
    /// Whether it has the rights of root.
    pub superuser: bool,
}

/// How a worker works. Every field has a value; [`new`](WorkerConfig::new) gives those that suit most.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its name; unique among the live workers of its namespace.
    pub id: WorkerId,
    /// The scope of control commands, revocations and heartbeats.
    pub namespace: Namespace,
    /// What it serves, in this order of preference.
    pub queues: Vec<QueueName>,
    /// Attempts that may run at once, inline and isolate together; with `autoscale`, the most that ever may.
    pub concurrency: usize,
    /// Changes with the backlog how many may run at once, from its `min` up to `concurrency`; absent, it is always
    /// `concurrency`. Its `max` must be `concurrency`.
    pub autoscale: Option<AutoscaleRules>,
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
    /// What to do while the revocations cannot be read.
    pub revoke_policy: RevokePolicy,
    /// With [`RevokePolicy::FailClosed`]: a running worker whose last look at the revoke store is longer ago takes
    /// nothing until it can look again. At least 2 s.
    pub max_revocation_staleness: Duration,
    /// A module that has begun so many attempts is prepared anew before the next. Native handlers get new threads, so
    /// one that keeps a connection or a pool between attempts must not count on the runtime of its first use.
    pub max_tasks_per_isolate: Option<u64>,
    /// A module of which an attempt had so much memory is prepared anew after it. By instance and exact, not the
    /// process's.
    pub max_memory_per_isolate: Option<u64>,
    /// How often it says that it lives.
    pub heartbeat_interval: Duration,
    /// How long a task whose name no worker knows may wait before it is given up.
    pub unroutable_after: Duration,
    /// No handler gets more than this.
    pub limits_cap: Limits,
    /// What handlers may reach; followed while the worker runs.
    pub policy: Arc<PolicyFile>,
    /// How much each tenant and queue may have; followed while the worker runs. Absent, tenants count for nothing.
    pub quotas: Option<Arc<QuotaFile>>,
    /// Only tasks whose names the policy gives one of these classes; none: whatever the class. Of other names nothing is
    /// fetched, compiled or run.
    pub classes: Vec<TrustClass>,
    /// Whether SIGTERM, SIGINT and SIGQUIT drain it warm, soft and hard.
    pub signal_handlers: bool,
    /// What `inspect` and `stats` say of its process; nothing if absent.
    pub hardening: Option<Hardening>,
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
            autoscale: None,
            prefetch: cores * 4,
            lease: Duration::from_secs(15),
            max_losses: 5,
            terminate_grace: Duration::ZERO,
            soft_grace: Duration::from_secs(10),
            revoke_policy: RevokePolicy::FailClosed,
            max_revocation_staleness: Duration::from_mins(1),
            max_tasks_per_isolate: None,
            max_memory_per_isolate: None,
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
            policy: Arc::default(),
            quotas: None,
            classes: Vec::new(),
            signal_handlers: false,
            hardening: None,
        }
    }
}
