//! [`Worker`]: takes deliveries, runs attempts, obeys operators.
//!
//! The life of a task in a worker:
//!
//! | # | what happens | where |
//! |---|---|---|
//! | 1 | places are free: as many deliveries are asked for, under a lease | `intake` |
//! | 2 | each delivery gets an attempt machine: final already, revoked, expired, poison? settled at once. Else started | `attempt` |
//! | 3 | the handler runs: inline on the worker's own threads, or in an isolate on the guests' | `handler` |
//! | 4 | meanwhile leases are renewed in batches, progress is merged and flushed, revocations followed, commands answered | `keeper`, `progress`, `revocations`, `control` |
//! | 5 | the outcome becomes one settlement, made in a batch with others, and tried until the broker answers | `keeper` |
//! | 6 | a worn module is prepared anew, then the place is free again | `recycle`, `attempt` |
//!
//! Everything here runs on the caller's runtime, which should have nothing slow on it: guests and inline handlers have
//! threads of their own, so that none of them can delay a lease, a command or a timer.

mod ahead;
mod attempt;
mod autoscale;
mod builder;
mod children;
mod classes;
mod config;
mod control;
mod driver;
#[cfg(test)]
mod fence_tests;
mod handler;
mod host;
#[cfg(test)]
mod hydration_tests;
mod intake;
mod keeper;
mod pace;
mod presence;
mod progress;
mod quota;
mod recycle;
mod reload;
mod revocations;
mod routes;
mod shared;
mod shipping;
mod signals;
mod slots;
mod store_clock;
mod watchdog;

pub use builder::WorkerBuilder;
pub use config::{AutoscaleRules, Hardening, RevokePolicy, WorkerConfig};
pub use driver::{Ready, Worker, WorkerError, WorkerHandle};
