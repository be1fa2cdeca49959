//! The words a stop notice carries. An open set: a guest must treat a word it does not know as "finish early".

/// An operator revoked the task.
pub const REVOKED: &str = "revoked";

/// The attempt has run for its soft time limit.
pub const SOFT_TIME_LIMIT: &str = "soft-time-limit";

/// The worker takes no further tasks and waits for the running ones.
pub const WORKER_DRAIN: &str = "worker-drain";

/// The worker stops as soon as the grace time is over.
pub const WORKER_STOP: &str = "worker-stop";

/// Every word this version of the contract sends.
pub const STOP_CODES: [&str; 4] = [REVOKED, SOFT_TIME_LIMIT, WORKER_DRAIN, WORKER_STOP];
