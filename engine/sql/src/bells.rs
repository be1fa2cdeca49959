//! Waking whoever waits for a change of one kind.
//!
//! A bell says only that something may have changed; who hears it looks for itself. So ringing once too often costs a
//! look, and a ring that is lost costs time: every waiter also looks by itself now and then.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::BackendError;
use stem_core::backend::result::Until;
use stem_core::task::TaskRecord;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::Instant;

/// A waiter looks again at least this often. Bounds the harm of news that was lost, and of a clock that was set back.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A change this recent may have come between the caller's own look and its wait.
const RECENT: Duration = Duration::from_millis(25);

/// What a waiter waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Topic {
    Work,
    Records,
    Revocations,
    Control,
    Modules,
}

/// Who is to look again after a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topics(pub(crate) u8);

impl Topics {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const WORK: Self = Self(1);
    pub(crate) const RECORDS: Self = Self(2);
    pub(crate) const TASKS: Self = Self(1 | 2);
    pub(crate) const REVOCATIONS: Self = Self(4);
    pub(crate) const CONTROL: Self = Self(8);
    pub(crate) const MODULES: Self = Self(16);
    pub(crate) const OPERATORS: Self = Self(4 | 8 | 16);
    pub(crate) const ALL: Self = Self(31);
}

/// One generation for each topic, with the time of its change.
#[derive(Clone)]
pub(crate) struct Bells(Arc<[Sender<Instant>; 5]>);

impl Bells {
    pub(crate) fn new() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Sender::new(Instant::now()))))
    }

    /// Wakes whoever waits for one of these.
    pub(crate) fn ring(&self, topics: Topics) {
        for (index, bell) in self.0.iter().enumerate() {
            if topics.0 & (1 << index) != 0 {
                bell.send_replace(Instant::now());
            }
        }
    }

    /// From the return on, no ring goes unnoticed.
    pub(crate) fn listen(&self, topic: Topic) -> News {
        News(self.0[topic as usize].subscribe())
    }
}

/// A waiter's view of one topic.
pub(crate) struct News(Receiver<Instant>);

impl News {
    /// What came until now is known.
    pub(crate) fn seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits for what was not [seen](Self::seen), at most `wait`; says whether it came.
    pub(crate) async fn wait(&mut self, wait: Duration) -> bool {
        // The sender lives as long as the database that the caller holds; time running out is no news.
        tokio::time::timeout(wait, self.0.changed()).await.is_ok()
    }

    /// Waits for a caller that does not say what it has seen: after a recent change it waits only a little.
    pub(crate) async fn wait_loosely(&mut self, wait: Duration) {
        let changed = *self.0.borrow_and_update();
        let recent = changed.elapsed() < RECENT;
        self.wait(if recent { wait.min(RECENT) } else { wait }).await;
    }
}

/// Waits until the revision is another than this one, at most `wait`:
/// [`ModuleStore::changed`](stem_core::backend::ModuleStore::changed) by looking at each ring, and now and then without one.
pub(crate) async fn changed<F>(
    mut news: News,
    known: u64,
    wait: Duration,
    revision: impl Fn() -> F + Send,
) -> Result<(), BackendError>
where
    F: Future<Output = Result<u64, BackendError>> + Send,
{
    let started = Instant::now();
    loop {
        news.seen();
        let now = revision().await?;
        let left = wait.saturating_sub(started.elapsed());
        if now != known || left.is_zero() {
            return Ok(());
        }
        news.wait(left.min(LOOK_AGAIN)).await;
    }
}

/// Waits until a record is as asked, at most `wait`: [`ResultBackend::watch`](stem_core::backend::ResultBackend::watch) by
/// looking at each ring, and now and then without one.
pub(crate) async fn watch<F>(
    mut news: News,
    until: Until<'_>,
    wait: Duration,
    fetch: impl Fn() -> F + Send,
) -> Result<Option<TaskRecord>, BackendError>
where
    F: Future<Output = Result<Option<TaskRecord>, BackendError>> + Send,
{
    let started = Instant::now();
    loop {
        news.seen();
        let record = fetch().await?;
        let left = wait.saturating_sub(started.elapsed());
        if until.is_met(record.as_ref()) || left.is_zero() {
            return Ok(record);
        }
        news.wait(left.min(LOOK_AGAIN)).await;
    }
}
