//! What the worker does for one attempt's host functions: progress, log, lease, checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::BackendError;
use stem_core::backend::result::Recorded;
use stem_core::id::{LeaseToken, TaskName};
use stem_core::observe::Service;
use stem_core::task::Progress;
use stem_isolate::{AttemptHost, LogLevel, Refusal};
use tokio::sync::oneshot;

use super::keeper::{RenewFor, RenewOrder};
use super::shared::{InHand, Shared};

/// One attempt's side of it. Its functions are called on other threads; backends are called from ours.
#[derive(Debug)]
pub(super) struct Host {
    shared: Arc<Shared>,
    hand: Arc<InHand>,
    name: String,
    /// The trace that the attempt belongs to, for lines in the log.
    trace_id: Option<String>,
    runtime: tokio::runtime::Handle,
    /// Whether there may be a checkpoint: this attempt saved one, or the task was delivered before.
    may_have_checkpoint: AtomicBool,
}

impl Host {
    pub(super) fn new(
        shared: &Arc<Shared>,
        hand: &Arc<InHand>,
        name: &TaskName,
        trace_id: Option<String>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            hand: Arc::clone(hand),
            name: name.to_string(),
            trace_id,
            runtime: tokio::runtime::Handle::current(),
            may_have_checkpoint: AtomicBool::new(hand.receipt.token > FIRST),
        }
    }

    /// A call to the result backend failed.
    fn unavailable(&self, error: &BackendError) -> Refusal {
        self.shared.saw_failure(Service::Results, error);
        Refusal::Unavailable(stem_core::text::printable(&error.problem, 500))
    }
}

/// The token of a task's first delivery ever; nobody can have saved a checkpoint before it.
pub(super) const FIRST: LeaseToken = LeaseToken(1);

fn worker_ends() -> Refusal {
    Refusal::Unavailable("the worker ends".to_owned())
}

#[async_trait]
impl AttemptHost for Host {
    fn holds_lease(&self) -> bool {
        self.shared.now().unix_millis() < self.hand.held_until.load(Ordering::Relaxed)
    }

    fn progress(&self, progress: Progress) {
        self.shared.progress.put(&self.hand.receipt, progress);
    }

    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        let fields = fields
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ");
        let (task, name) = (&self.hand.receipt.task, &self.name);
        let trace_id = self.trace_id.as_deref();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(target: "stem::task", %task, %name, trace_id, fields = (!fields.is_empty()).then_some(&fields), "{message}")
            };
        }
        match level {
            LogLevel::Trace => line!(trace),
            LogLevel::Debug => line!(debug),
            LogLevel::Info => line!(info),
            LogLevel::Warn => line!(warn),
            LogLevel::Error => line!(error),
        }
    }

    fn log_enabled(&self, level: LogLevel) -> bool {
        match level {
            LogLevel::Trace => tracing::enabled!(target: "stem::task", tracing::Level::TRACE),
            LogLevel::Debug => tracing::enabled!(target: "stem::task", tracing::Level::DEBUG),
            LogLevel::Info => tracing::enabled!(target: "stem::task", tracing::Level::INFO),
            LogLevel::Warn => tracing::enabled!(target: "stem::task", tracing::Level::WARN),
            LogLevel::Error => tracing::enabled!(target: "stem::task", tracing::Level::ERROR),
        }
    }

    async fn extend_lease(&self, by: Duration) -> Result<Duration, Refusal> {
        let (answer, waiting) = oneshot::channel();
        let order = RenewOrder {
            receipt: self.hand.receipt.clone(),
            lease: by.max(self.shared.config.lease),
            whom: RenewFor::Handler(answer),
        };
        self.shared.renewals.send(order).map_err(|_| worker_ends())?;
        waiting.await.map_err(|_| worker_ends())?
    }

    async fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, Refusal> {
        if !self.may_have_checkpoint.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let (results, task) =
            (Arc::clone(&self.shared.backends.results), self.hand.receipt.task.clone());
        let loaded = self.runtime.spawn(async move { results.load_checkpoint(&task).await }).await;
        loaded.map_err(|_| worker_ends())?.map_err(|error| self.unavailable(&error))
    }

    async fn save_checkpoint(&self, state: Vec<u8>) -> Result<(), Refusal> {
        self.may_have_checkpoint.store(true, Ordering::Relaxed);
        let (results, receipt) =
            (Arc::clone(&self.shared.backends.results), self.hand.receipt.clone());
        let saved = self
            .runtime
            .spawn(async move { results.save_checkpoint(&receipt, &state).await })
            .await;
        match saved.map_err(|_| worker_ends())? {
            Ok(Recorded::Stored) => Ok(()),
            Ok(Recorded::Stale) => Err(Refusal::LeaseLost),
            Err(error) => Err(self.unavailable(&error)),
        }
    }
}
