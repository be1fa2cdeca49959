//! [`Client`]: what producers and operators do with tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::broker::Published;
use stem_core::backend::dead_letter::{DeadFilter, Replayed};
use stem_core::backend::result::{Recorded, Until};
use stem_core::backend::{BackendError, Records};
use stem_core::envelope::{Envelope, EnvelopeError, Payload, Priority};
use stem_core::id::{Digest, LeaseToken, Namespace, QueueName, TaskId, TaskName, UniqueKey};
use stem_core::retry::RetryPolicy;
use stem_core::revoke::{Revocation, RevokeRequest};
use stem_core::task::TaskRecord;
use stem_core::time::{Clock, Timestamp};
use tokio::time::Instant;

use crate::Backends;
use crate::signing::{Keys, NoKey};

/// The queue of tasks whose producer names none.
pub const DEFAULT_QUEUE: &str = "default";

/// The longest that one call waits for a record. The store looks by itself meanwhile.
const LOOK: Duration = Duration::from_mins(1);

/// What a producer may choose; everything else is given.
#[derive(Clone, Debug)]
pub struct EnqueueOptions {
    /// Where it waits.
    pub queue: QueueName,
    /// Order within the queue.
    pub priority: Priority,
    /// Not to be delivered earlier.
    pub not_before: Option<Timestamp>,
    /// Not to be started later.
    pub expires_at: Option<Timestamp>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// A hard limit shorter than the worker's.
    pub timeout: Option<Duration>,
    /// Its id; a second enqueue with it changes nothing.
    pub id: Option<TaskId>,
    /// While a task with this key is not final, another enqueue changes nothing.
    pub unique_key: Option<UniqueKey>,
    /// Only this build may run it, whichever serves the name.
    pub module: Option<Digest>,
    /// W3C `traceparent`.
    pub trace_parent: Option<String>,
    /// The producer's own.
    pub headers: BTreeMap<String, String>,
}

impl Default for EnqueueOptions {
    fn default() -> Self {
        Self {
            queue: QueueName::new(DEFAULT_QUEUE).expect("a constant that follows the rules"),
            priority: Priority::DEFAULT,
            not_before: None,
            expires_at: None,
            retry: RetryPolicy::DEFAULT,
            timeout: None,
            id: None,
            unique_key: None,
            module: None,
            trace_parent: None,
            headers: BTreeMap::new(),
        }
    }
}

/// What became of an enqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The task: the new one, or the one that was there.
    pub id: TaskId,
    /// Nothing was stored, since a task with this id or unique key was there.
    pub deduplicated: bool,
}

/// Why nothing was enqueued.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The task breaks a bound.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Tasks must be signed here, and there is no key.
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// A service could not do its work.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Enqueues tasks, looks at them, waits for them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    backends: Backends,
    clock: Arc<dyn Clock>,
    keys: Arc<Keys>,
}

impl Client {
    /// A client of these services.
    pub fn new(backends: Backends, clock: Arc<dyn Clock>) -> Self {
        Self { backends, clock, keys: Keys::none() }
    }

    /// Signs the tasks that it enqueues with these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: Arc<Keys>) -> Self {
        self.keys = keys;
        self
    }

    /// The services.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Makes the envelope of a task, and checks it.
    pub fn envelope(
        &self,
        name: TaskName,
        payload: Payload,
        options: EnqueueOptions,
    ) -> Result<Envelope, EnvelopeError> {
        let id = options.id.unwrap_or_else(new_task_id);
        let envelope = Envelope {
            not_before: options.not_before,
            expires_at: options.expires_at,
            priority: options.priority,
            retry: options.retry,
            timeout: options.timeout,
            unique_key: options.unique_key,
            module: options.module,
            trace_parent: options.trace_parent,
            headers: options.headers,
            ..Envelope::new(id, name, options.queue, payload, self.clock.now())
        };
        envelope.check()?;
        Ok(envelope)
    }

    /// Stores a task durably. When this returns, it will run at least once, or be found revoked or expired.
    pub async fn enqueue(
        &self,
        name: TaskName,
        payload: Payload,
        options: EnqueueOptions,
    ) -> Result<Enqueued, EnqueueError> {
        let envelope = self.envelope(name, payload, options)?;
        let mut enqueued = self.enqueue_all(std::slice::from_ref(&envelope)).await?;
        Ok(enqueued.pop().expect("one answer for each envelope"))
    }

    /// Stores tasks in one step, signed where there are keys. The envelopes must have passed [`Envelope::check`].
    pub async fn enqueue_all(&self, envelopes: &[Envelope]) -> Result<Vec<Enqueued>, EnqueueError> {
        let mut sealed = Vec::new();
        if self.keys.is_configured() {
            sealed.extend_from_slice(envelopes);
            let now = self.clock.now();
            sealed.iter_mut().try_for_each(|envelope| self.keys.seal_task(envelope, now))?;
        }
        let envelopes = if sealed.is_empty() { envelopes } else { &sealed };
        let published = self.backends.publish(envelopes).await?;
        Ok(envelopes
            .iter()
            .zip(published)
            .map(|(envelope, published)| match published {
                Published::Stored => Enqueued { id: envelope.id.clone(), deduplicated: false },
                Published::Duplicate { existing } => Enqueued { id: existing, deduplicated: true },
            })
            .collect())
    }

    /// Puts dead letters back into their queues, the oldest first, with no attempt used up. Tasks without a dead letter are
    /// `Absent`, and so is one that somebody else replays meanwhile.
    pub async fn replay(&self, tasks: &[TaskId]) -> Result<Vec<Replayed>, BackendError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.backends.records();
        let mut letters = self.dead_tokens(tasks).await?;
        if records == Records::Elsewhere {
            // The record first: a redelivery that finds a final record is discarded. A crash in between leaves a record that
            // says queued beside a dead letter; the next replay heals it.
            letters = self.record_replays(letters).await?;
        }
        if letters.is_empty() {
            return Ok(vec![Replayed::Absent; tasks.len()]);
        }
        let replayed = self.backends.dead_letters.replay(&letters, records).await?;
        let mut answers: BTreeMap<TaskId, Replayed> =
            letters.into_iter().map(|(task, _)| task).zip(replayed).collect();
        Ok(tasks.iter().map(|task| answers.remove(task).unwrap_or(Replayed::Absent)).collect())
    }

    /// Under the tokens by which they are dead, so this changes nothing when it comes late, after another replay and all that
    /// followed. Answers those that wait again on record.
    async fn record_replays(
        &self,
        letters: Vec<(TaskId, LeaseToken)>,
    ) -> Result<Vec<(TaskId, LeaseToken)>, BackendError> {
        let recorded = self.backends.results.record_replayed(&letters).await?;
        let mut queued = Vec::with_capacity(letters.len());
        for (letter, answer) in letters.into_iter().zip(recorded) {
            if answer == Recorded::Stored || self.record_forgotten(&letter).await? {
                queued.push(letter);
            }
        }
        Ok(queued)
    }

    /// A record that has failed under a newer token than its dead letter has: the task was replayed and run meanwhile, and
    /// that is not what was asked for. Or the broker was restored from an older copy: then the same dead letter is there also
    /// after a look at the record, and is replayed under the token that the record knows.
    async fn record_forgotten(&self, letter: &(TaskId, LeaseToken)) -> Result<bool, BackendError> {
        let (task, token) = letter;
        let results = &self.backends.results;
        let Some(record) = results.fetch(task).await? else { return Ok(true) };
        if self.dead_tokens(std::slice::from_ref(task)).await?.first() != Some(letter) {
            return Ok(false);
        }
        let known = (task.clone(), (*token).max(record.token));
        Ok(results.record_replayed(&[known]).await?.first() == Some(&Recorded::Stored))
    }

    /// The tokens of those tasks that have a dead letter.
    async fn dead_tokens(
        &self,
        tasks: &[TaskId],
    ) -> Result<Vec<(TaskId, LeaseToken)>, BackendError> {
        let filter =
            DeadFilter { tasks: tasks.to_vec(), limit: tasks.len(), ..DeadFilter::default() };
        let letters = self.backends.dead_letters.list(&filter).await?;
        Ok(letters.into_iter().map(|letter| (letter.task, letter.token)).collect())
    }

    /// What became of a task so far.
    pub async fn show(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        self.backends.results.fetch(task).await
    }

    /// Waits until a task is final, and shows every change to `on_change` (newer may replace older). Returns the record
    /// as it is then, or as it is after `timeout`; `None` if there is no such task.
    pub async fn wait(
        &self,
        task: &TaskId,
        timeout: Option<Duration>,
        mut on_change: impl FnMut(&TaskRecord),
    ) -> Result<Option<TaskRecord>, BackendError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut shown = None;
        loop {
            let left = left(deadline);
            let until = Until::Other(shown.as_ref());
            let Some(record) = self.backends.results.watch(task, until, left).await? else {
                return Ok(None);
            };
            if shown.as_ref() != Some(&record) {
                on_change(&record);
            }
            if record.state.is_final() || left.is_zero() {
                return Ok(Some(record));
            }
            shown = Some(record);
        }
    }

    /// Waits until a task is final, without looking at what happens before. Returns the record as it is then, or as it is
    /// after `timeout`; `None` if there is no such task.
    pub async fn finished(
        &self,
        task: &TaskId,
        timeout: Option<Duration>,
    ) -> Result<Option<TaskRecord>, BackendError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = left(deadline);
            let record = self.backends.results.watch(task, Until::Final, left).await?;
            if left.is_zero() || record.as_ref().is_none_or(|record| record.state.is_final()) {
                return Ok(record);
            }
        }
    }

    /// Stores revocations durably; workers follow the store. Telling them at once is the control plane's business.
    pub async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        self.backends.revokes.revoke(namespace, requests).await
    }
}

/// How long one call may wait: until a deadline, and never so long that it would seem to hang.
fn left(deadline: Option<Instant>) -> Duration {
    deadline.map_or(LOOK, |deadline| deadline.saturating_duration_since(Instant::now()).min(LOOK))
}

/// A fresh id that sorts by time.
pub fn new_task_id() -> TaskId {
    TaskId::new(uuid::Uuid::now_v7().to_string()).expect("a UUID follows the rules for names")
}
