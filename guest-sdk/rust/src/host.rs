//! The seam between a task and whoever runs it: the worker (through generated bindings) or a test host.
//!
//! Which of the two it is, is known when the task is compiled. So no table of functions stands between them, and a module
//! imports only what its task calls: its imports are an honest list of what it needs to be granted.

use std::time::{Duration, SystemTime};

use crate::children::{Child, Release};
use crate::error::{HostError, StopNotice};
use crate::kv::{Entry, When};
use crate::log::Level;
use crate::progress::Progress;

/// Whoever runs this task.
#[cfg(target_family = "wasm")]
pub(crate) type Here = crate::wasm::Worker;
/// Whoever runs this task.
#[cfg(not(target_family = "wasm"))]
pub(crate) type Here = crate::testing::TestAttempt;

/// Facts about the attempt now running.
#[derive(Clone, Debug)]
pub(crate) struct TaskInfo {
    pub(crate) task_id: String,
    pub(crate) task_name: String,
    pub(crate) queue: String,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) enqueued_at: SystemTime,
    pub(crate) parent_id: Option<String>,
    pub(crate) root_id: String,
    pub(crate) idempotency_key: String,
    pub(crate) trace_parent: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
}

/// The host's functions, with the meaning that the WIT files give them. A function does not return when the attempt is to end by force.
pub(crate) trait Host {
    fn info(&self) -> TaskInfo;
    fn heartbeat(&self) -> Option<StopNotice>;
    fn extend_lease(&self, by: Duration) -> Result<Duration, HostError>;
    fn progress(&self, update: &Progress) -> Result<Option<StopNotice>, HostError>;
    fn stop_requested(&self) -> Option<StopNotice>;
    fn time_left(&self) -> (Option<Duration>, Option<Duration>);
    fn sleep(&self, duration: Duration) -> Result<(), HostError>;
    fn log(&self, level: Level, message: &str, fields: &[(String, String)]);
    fn log_enabled(&self, level: Level) -> bool;
    fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, HostError>;
    fn save_checkpoint(&self, state: &[u8]) -> Result<(), HostError>;
    fn enqueue(&self, children: Vec<Child>, release: Release) -> Result<Vec<String>, HostError>;
    fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, HostError>;
    fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<u64, HostError>;
    fn remove(&self, bucket: &str, key: &str, when: When) -> Result<(), HostError>;
    fn setting(&self, key: &str) -> Result<Option<String>, HostError>;
    fn placeholder(&self, secret: &str) -> Result<String, HostError>;
    fn reveal(&self, secret: &str) -> Result<Vec<u8>, HostError>;
}
