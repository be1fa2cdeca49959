//! Progress on its way out: the newest of each attempt, flushed together.

use std::collections::{HashMap, HashSet};
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

type Key = (TaskId, LeaseToken);

/// What of each attempt in hand is the newest, and what of that has not been written yet.
#[derive(Debug, Default)]
pub(super) struct ProgressBook {
    pages: Mutex<Pages>,
    dirty: Notify,
}

#[derive(Debug, Default)]
struct Pages {
    unwritten: HashMap<Key, Receipt>,
    /// On its way at this moment. A settlement may overtake it, after which it would be stale.
    leaving: HashSet<Key>,
    newest: HashMap<Key, Progress>,
}

fn key(receipt: &Receipt) -> Key {
    (receipt.task.clone(), receipt.token)
}

impl ProgressBook {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the newest progress of an attempt. Called from guests' threads; never waits for I/O.
    pub(super) fn put(&self, receipt: &Receipt, progress: Progress) {
        let mut pages = self.pages();
        pages.newest.insert(key(receipt), progress);
        pages.unwritten.insert(key(receipt), receipt.clone());
        drop(pages);
        self.dirty.notify_one();
    }

    /// The newest progress of an attempt in hand.
    pub(super) fn newest(&self, receipt: &Receipt) -> Option<Progress> {
        self.pages().newest.get(&key(receipt)).cloned()
    }

    /// What of this attempt is not known to be written; it is over.
    pub(super) fn take_last(&self, receipt: &Receipt) -> Option<Progress> {
        let key = key(receipt);
        let mut pages = self.pages();
        let newest = pages.newest.remove(&key);
        let unwritten = pages.unwritten.remove(&key).is_some();
        newest.filter(|_| unwritten || pages.leaving.contains(&key))
    }

    /// What is to be written now, until [`written`](Self::written) is called.
    fn take_all(&self) -> Vec<(Receipt, Progress)> {
        let mut pages = self.pages();
        let unwritten = std::mem::take(&mut pages.unwritten);
        pages.leaving = unwritten.keys().cloned().collect();
        let newest =
            |(key, receipt): (Key, Receipt)| Some((receipt, pages.newest.get(&key)?.clone()));
        unwritten.into_iter().filter_map(newest).collect()
    }

    fn written(&self) {
        self.pages().leaving.clear();
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
        shared.progress.written();
        tokio::time::sleep(FLUSH).await;
    }
}

#[cfg(test)]
mod tests {
    use stem_core::id::Incarnation;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_last_progress_goes_with_the_settlement_unless_it_was_written() {
        let receipt = Receipt {
            task: TaskId::new("t").unwrap(),
            token: LeaseToken(1),
            owner: Incarnation(Uuid::nil()),
            queue: stem_core::id::QueueName::new("q").unwrap(),
        };
        let half = Progress { fraction: Some(0.5), message: None, data: None };
        let book = ProgressBook::default();
        book.put(&receipt, half.clone());
        assert_eq!(book.take_last(&receipt), Some(half.clone()), "not written");

        book.put(&receipt, half.clone());
        assert_eq!(book.take_all(), [(receipt.clone(), half.clone())]);
        assert_eq!(book.take_last(&receipt), Some(half.clone()), "on its way");

        book.put(&receipt, half.clone());
        book.take_all();
        book.written();
        assert_eq!(book.newest(&receipt), Some(half));
        assert_eq!((book.take_last(&receipt), book.newest(&receipt)), (None, None), "written");
    }
}
