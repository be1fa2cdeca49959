//! What the worker does for one attempt's host functions: progress, log, lease, checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::buckets::{Changed, Entry, When};
use stem_core::backend::result::Recorded;
use stem_core::backend::{BackendError, Buckets};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, TaskId, TaskName};
use stem_core::observe::Service;
use stem_core::task::Progress;
use stem_isolate::{AttemptHost, Child, LogLevel, Refusal, Release, log_at, log_enabled_at};
use tokio::sync::oneshot;

use super::children::Parent;
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
    parent: Parent,
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
        parent: Parent,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            hand: Arc::clone(hand),
            name: name.to_string(),
            trace_id,
            parent,
            runtime: tokio::runtime::Handle::current(),
            may_have_checkpoint: AtomicBool::new(hand.receipt.token > FIRST),
        }
    }

    /// What a call about a value takes along to the other threads.
    fn bucket(&self, bucket: &str, key: &str) -> (Arc<dyn Buckets>, String, String) {
        (Arc::clone(&self.shared.backends.buckets), bucket.to_owned(), key.to_owned())
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
        log_at!(level, target: "stem::task", %task, %name, trace_id, fields = (!fields.is_empty()).then_some(&fields), "{message}");
    }

    fn log_enabled(&self, level: LogLevel) -> bool {
        log_enabled_at!(level, target: "stem::task")
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

    async fn read_bucket(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Refusal> {
        let (buckets, bucket, key) = self.bucket(bucket, key);
        let read = self.runtime.spawn(async move { buckets.read(&bucket, &key).await }).await;
        read.map_err(|_| worker_ends())?.map_err(|error| self.unavailable(&error))
    }

    async fn write_bucket(
        &self,
        bucket: &str,
        key: &str,
        value: Vec<u8>,
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, Refusal> {
        // A process that was stopped past its lease must not change what another attempt counts on.
        if !self.holds_lease() {
            return Err(Refusal::LeaseLost);
        }
        let (buckets, bucket, key) = self.bucket(bucket, key);
        let written = self
            .runtime
            .spawn(async move { buckets.write(&bucket, &key, &value, when, ttl).await })
            .await;
        written.map_err(|_| worker_ends())?.map_err(|error| self.unavailable(&error))
    }

    async fn remove_from_bucket(
        &self,
        bucket: &str,
        key: &str,
        when: When,
    ) -> Result<Changed, Refusal> {
        // A process that was stopped past its lease must not change what another attempt counts on.
        if !self.holds_lease() {
            return Err(Refusal::LeaseLost);
        }
        let (buckets, bucket, key) = self.bucket(bucket, key);
        let removed =
            self.runtime.spawn(async move { buckets.remove(&bucket, &key, when).await }).await;
        removed.map_err(|_| worker_ends())?.map_err(|error| self.unavailable(&error))
    }

    async fn enqueue(
        &self,
        children: Vec<Child>,
        release: Release,
    ) -> Result<Vec<TaskId>, Refusal> {
        // A process that was stopped past its lease must not enqueue for somebody else's attempt.
        if !self.holds_lease() {
            return Err(Refusal::LeaseLost);
        }
        let now = self.shared.wall();
        let envelope_of = |child| -> Result<Envelope, Refusal> {
            let mut envelope = self.parent.envelope_of(child, now)?;
            let sealed = self.shared.keys.seal_task(&mut envelope, now);
            sealed.map_err(|problem| Refusal::Unavailable(problem.to_string()))?;
            Ok(envelope)
        };
        let envelopes = children.into_iter().map(envelope_of).collect::<Result<Vec<_>, _>>()?;
        let ids = envelopes.iter().map(|envelope| envelope.id.clone()).collect();
        let counted = self.hand.children.count(&envelopes)?;
        if release == Release::OnSuccess {
            return self.hand.children.keep(envelopes).map(|()| ids);
        }
        let shared = Arc::clone(&self.shared);
        let publishing = self.runtime.spawn(async move {
            let published = shared.backends.publish(&envelopes).await;
            published.inspect_err(|error| shared.saw_failure_of_either(error))
        });
        match publishing.await.map_err(|_| worker_ends())? {
            Ok(_) => Ok(ids),
            Err(error) => {
                self.hand.children.take_back(counted);
                Err(Refusal::Unavailable(stem_core::text::printable(&error.problem, 500)))
            }
        }
    }
}
