//! Progress on its way out: the newest of each attempt, flushed together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stem_core::id::{LeaseToken, TaskId};
use stem_core::observe::Service;
use stem_core::settlement::Receipt;
use stem_core::task::Progress;
use tokio::sync::Notify;

use super::shared::Shared;

/// The shortest time between two flushes: five a second, as the guest interface says.
const FLUSH: Duration = Duration::from_millis(200);

/// What has not been written yet.
#[derive(Debug, Default)]
pub(super) struct ProgressBook {
    unwritten: Mutex<HashMap<(TaskId, LeaseToken), (Receipt, Progress)>>,
    newest: Mutex<HashMap<(TaskId, LeaseToken), Progress>>,
    dirty: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProgressBook {
    /// Takes the newest progress of an attempt. Called from guests' threads; never waits for I/O.
    pub(super) fn put(&self, receipt: &Receipt, progress: Progress) {
        let key = (receipt.task.clone(), receipt.token);
        lock(&self.newest).insert(key.clone(), progress.clone());
        lock(&self.unwritten).insert(key, (receipt.clone(), progress));
        self.dirty.notify_one();
    }

    /// The newest progress of an attempt in hand.
    pub(super) fn newest(&self, receipt: &Receipt) -> Option<Progress> {
        lock(&self.newest).get(&(receipt.task.clone(), receipt.token)).cloned()
    }

    /// What this attempt has not written yet; it is over.
    pub(super) fn take_last(&self, receipt: &Receipt) -> Option<Progress> {
        let key = (receipt.task.clone(), receipt.token);
        lock(&self.newest).remove(&key);
        lock(&self.unwritten).remove(&key).map(|(_, progress)| progress)
    }

    fn take_all(&self) -> Vec<(Receipt, Progress)> {
        std::mem::take(&mut *lock(&self.unwritten)).into_values().collect()
    }
}

/// Writes progress until the worker ends. A write that fails is lost: the next one replaces it anyway.
pub(super) async fn flush(shared: Arc<Shared>) {
    loop {
        shared.progress.dirty.notified().await;
        let batch = shared.progress.take_all();
        if !batch.is_empty()
            && let Err(error) = shared.backends.results.record_progress(&batch).await
        {
            shared.saw_failure(Service::Results, &error);
            tracing::debug!(%error, updates = batch.len(), "progress was not written");
        }
        tokio::time::sleep(FLUSH).await;
    }
}
