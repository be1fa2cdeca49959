//! Places for attempts: so many may be taken now, and whoever waits for one is woken.
//!
//! A semaphore would not do: the number changes while the worker runs, and fewer places must be told apart from taken
//! ones. Nobody is ever thrown out of a place; when there are fewer, those that become free are not given out again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
struct Count {
    limit: usize,
    taken: usize,
    /// Until when nobody is to join whoever is there, at the longest.
    alone: Option<Instant>,
}

/// The places of one worker.
#[derive(Debug)]
pub(super) struct Slots {
    count: Mutex<Count>,
    /// Something changed that may make a place free.
    freed: Notify,
}

/// One or more places; given back when dropped.
#[derive(Debug)]
pub(super) struct Taken {
    slots: Arc<Slots>,
    places: usize,
}

/// Nobody joins whoever has this, while it is kept and its time is not over. Its own place is another matter.
#[derive(Debug)]
pub(super) struct Alone {
    slots: Arc<Slots>,
    until: Instant,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let count = Mutex::new(Count { limit, taken: 0, alone: None });
        Arc::new(Self { count, freed: Notify::new() })
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many may be taken at once, now.
    pub(super) fn limit(&self) -> usize {
        self.count().limit
    }

    /// How many are taken, more than the limit for a while after it was lowered.
    pub(super) fn taken(&self) -> usize {
        self.count().taken
    }

    /// From now on so many.
    pub(super) fn set_limit(&self, limit: usize) {
        self.count().limit = limit;
        self.freed.notify_one();
    }

    /// Takes so many, however many are free: the caller has asked [`limit`](Self::limit) and [`taken`](Self::taken), and
    /// is the only one that takes any.
    pub(super) fn take(self: &Arc<Self>, places: usize) -> Taken {
        self.count().taken += places;
        Taken { slots: Arc::clone(self), places }
    }

    /// Lets nobody else join from now until then; the caller is the only one that takes places.
    pub(super) fn reserve(self: &Arc<Self>, until: Instant) -> Alone {
        self.count().alone = Some(until);
        Alone { slots: Arc::clone(self), until }
    }

    /// Until when nobody may join, if that is so now.
    pub(super) fn alone_until(&self) -> Option<Instant> {
        self.count().alone.filter(|until| *until > Instant::now())
    }

    /// Waits until something may have become free. One waiter; a change before the call counts, so none is missed.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Taken {
    /// One of these, on its own; `None` if there is none left.
    pub(super) fn split_one(&mut self) -> Option<Self> {
        self.places = self.places.checked_sub(1)?;
        Some(Self { slots: Arc::clone(&self.slots), places: 1 })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.places > 0 {
            let mut count = self.slots.count();
            count.taken -= self.places;
            drop(count);
            self.slots.freed.notify_one();
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let mut count = self.slots.count();
        // Another one may have begun after the time of this one was over.
        if count.alone == Some(self.until) {
            count.alone = None;
        }
        drop(count);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_that_is_given_back_wakes_whoever_waits() {
        let slots = Slots::new(1);
        let mut taken = slots.take(1);
        let one = taken.split_one().unwrap();
        assert!(taken.split_one().is_none());
        drop(taken);
        assert_eq!(slots.taken(), 1);
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move {
                while slots.taken() > 0 {
                    slots.freed().await;
                }
            }
        });
        drop(one);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_joins_one_that_is_alone_for_so_long() {
        const LONG: std::time::Duration = std::time::Duration::from_mins(1);
        let slots = Slots::new(3);
        let own = slots.take(1);
        let alone = slots.reserve(Instant::now() + LONG);
        assert!(slots.alone_until().is_some());
        tokio::time::sleep(LONG).await;
        assert_eq!(slots.alone_until(), None, "its time is over");
        let next = slots.reserve(Instant::now() + LONG);
        drop(alone);
        assert!(slots.alone_until().is_some(), "the first takes nothing from the next");
        drop((own, next));
        assert_eq!((slots.alone_until(), slots.taken()), (None, 0));
    }

    #[tokio::test]
    async fn fewer_places_throw_nobody_out_and_more_wake_the_waiter() {
        let slots = Slots::new(3);
        let taken = slots.take(3);
        slots.set_limit(1);
        assert_eq!((slots.limit(), slots.taken()), (1, 3));
        drop(taken);
        assert_eq!(slots.taken(), 0);
        slots.set_limit(2);
        slots.freed().await;
    }
}
