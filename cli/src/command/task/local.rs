//! What stands in for a worker while a module runs here: it shows progress and logs, keeps checkpoints and values until this
//! process ends, and writes down what it is asked to enqueue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use stem_core::backend::BackendError;
use stem_core::backend::buckets::{Buckets, Changed, Entry, When};
use stem_core::id::TaskId;
use stem_core::settlement::CHILDREN_BYTES;
use stem_core::task::Progress;
use stem_engine::SystemClock;
use stem_engine::client::new_task_id;
use stem_engine::units::write_duration;
use stem_isolate::{AttemptHost, Child, LogLevel, Refusal, Release, log_at, log_enabled_at};
use stem_memory::Memory;
use tokio::sync::watch;

use crate::output::{payload_json, payload_line};

/// Stands in for a worker.
#[derive(Debug)]
pub(super) struct LocalHost {
    progress: watch::Sender<Option<Progress>>,
    checkpoint: Mutex<Option<Vec<u8>>>,
    buckets: Arc<dyn Buckets>,
    children: Mutex<Vec<Enqueued>>,
}

/// A task that the module would have enqueued.
#[derive(Clone, Debug)]
pub(super) struct Enqueued {
    id: TaskId,
    release: Release,
    child: Child,
}

impl LocalHost {
    /// One that passes progress on.
    pub(super) fn new(progress: watch::Sender<Option<Progress>>) -> Self {
        Self {
            progress,
            checkpoint: Mutex::default(),
            buckets: Memory::new(Arc::new(SystemClock)),
            children: Mutex::default(),
        }
    }

    /// What would be enqueued by now: with a success all of it, else what did not wait for one.
    pub(super) fn enqueued(&self, succeeded: bool) -> Vec<Enqueued> {
        let mut children = lock(&self.children).clone();
        children.retain(|child| succeeded || child.release == Release::Now);
        children
    }
}

impl Enqueued {
    /// As it stands in the JSON of a run.
    pub(super) fn view(&self) -> Value {
        let child = &self.child;
        json!({
            "id": self.id,
            "name": child.name,
            "queue": child.queue,
            "input": payload_json(&child.input),
            "delayMs": child.delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            "dedupKey": child.dedup_key,
            "headers": child.headers,
            "release": match self.release {
                Release::Now => "now",
                Release::OnSuccess => "on-success",
            },
        })
    }

    /// In a line for people.
    pub(super) fn line(&self) -> String {
        let child = &self.child;
        let queue = child.queue.as_ref().map(|queue| format!(" in {queue}")).unwrap_or_default();
        let delay = child.delay.map(|delay| format!(" after {}", write_duration(delay)));
        let (delay, input) = (delay.unwrap_or_default(), payload_line(&child.input));
        format!("would enqueue {}{queue}{delay}: {input}", child.name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(error: &BackendError) -> Refusal {
    Refusal::Unavailable(error.problem.clone())
}

#[async_trait]
impl AttemptHost for LocalHost {
    fn progress(&self, progress: Progress) {
        self.progress.send_replace(Some(progress));
    }

    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        let pairs: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let fields = if pairs.is_empty() { String::new() } else { format!(" {}", pairs.join(" ")) };
        log_at!(level, target: "stem::task", "{message}{fields}");
    }

    fn log_enabled(&self, level: LogLevel) -> bool {
        log_enabled_at!(level, target: "stem::task")
    }

    async fn extend_lease(&self, by: Duration) -> Result<Duration, Refusal> {
        // There is no lease: nobody else could take the task.
        Ok(by)
    }

    async fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, Refusal> {
        Ok(lock(&self.checkpoint).clone())
    }

    async fn save_checkpoint(&self, state: Vec<u8>) -> Result<(), Refusal> {
        *lock(&self.checkpoint) = Some(state);
        Ok(())
    }

    async fn enqueue(
        &self,
        children: Vec<Child>,
        release: Release,
    ) -> Result<Vec<TaskId>, Refusal> {
        let mut enqueued = lock(&self.children);
        let size = |child: &Child| child.input.bytes.len();
        let all = enqueued.iter().map(|other| size(&other.child)).chain(children.iter().map(size));
        if all.sum::<usize>() > CHILDREN_BYTES {
            let most = CHILDREN_BYTES >> 20;
            let problem = format!("children: those of an attempt have at most {most} MiB together");
            return Err(Refusal::Quota(problem));
        }
        let mut ids = Vec::with_capacity(children.len());
        for child in children {
            let same = enqueued.iter().find(|other| {
                child.dedup_key.is_some() && other.child.dedup_key == child.dedup_key
            });
            if let Some(same) = same {
                ids.push(same.id.clone());
                continue;
            }
            let id = new_task_id();
            ids.push(id.clone());
            enqueued.push(Enqueued { id, release, child });
        }
        Ok(ids)
    }

    async fn read_bucket(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Refusal> {
        self.buckets.read(bucket, key).await.map_err(|error| unavailable(&error))
    }

    async fn write_bucket(
        &self,
        bucket: &str,
        key: &str,
        value: Vec<u8>,
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, Refusal> {
        let written = self.buckets.write(bucket, key, &value, when, ttl).await;
        written.map_err(|error| unavailable(&error))
    }

    async fn remove_from_bucket(
        &self,
        bucket: &str,
        key: &str,
        when: When,
    ) -> Result<Changed, Refusal> {
        self.buckets.remove(bucket, key, when).await.map_err(|error| unavailable(&error))
    }
}
