//! One account of a [`Ledger`](super::Ledger): a tenant's or a queue's.

use std::time::Duration;

use super::{Bound, Quota, Rate};
use crate::time::Timestamp;

/// A queue's tenants take turns: so many of them may come before the one that was refused comes again.
const TURNS: u8 = 16;

/// What one tenant or queue has in hand.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) held: usize,
    /// Of those, the ones whose memory was not asked for yet.
    undecided: usize,
    /// The memory set aside for the others.
    pub(super) reserved: u64,
    /// What the last one that needs memory asked for; 0 before the first.
    wanted: u64,
    /// What one asked for that did not fit; 0 where none waits for that. Smaller ones must not take what ends before it.
    refused: u64,
    /// Smaller ones that were given room since, though there was enough for it.
    overtaken: u8,
    bucket: Option<Bucket>,
    /// Why it had no room when it was last looked at.
    pub(super) at: Option<Bound>,
}

impl Account {
    /// How many more it may have now; notes by which bound none.
    pub(super) fn room(&mut self, now: Timestamp, quota: Quota) -> usize {
        let places = quota.concurrency.map_or(usize::MAX, |most| most.saturating_sub(self.held));
        let starts = self.bucket(now, quota).map_or(usize::MAX, |bucket| bucket.tokens());
        let fitting = self.fitting(quota);
        let bounds =
            [(places, Bound::Concurrency), (starts, Bound::Rate), (fitting, Bound::Memory)];
        self.at = bounds.iter().find(|(room, _)| *room == 0).map(|(_, bound)| *bound);
        places.min(starts).min(fitting)
    }

    /// How many more fit into the memory, if they are like the last one. Alone, any fits.
    fn fitting(&self, quota: Quota) -> usize {
        let Some(most) = quota.memory_bytes.filter(|_| self.wanted > 0) else { return usize::MAX };
        let free = most.saturating_sub(self.reserved);
        let wanted = self.wanted.max(self.refused).min(most);
        let places = usize::try_from(free / wanted).unwrap_or(usize::MAX);
        let alone = usize::from(self.reserved == 0 && self.undecided == 0);
        places.saturating_sub(self.undecided).max(alone)
    }

    pub(super) fn take(&mut self, now: Timestamp, quota: Quota) {
        self.held += 1;
        self.undecided += 1;
        if let Some(bucket) = self.bucket(now, quota) {
            bucket.take();
        }
    }

    /// One that was taken needs so much memory, and has it or goes back.
    pub(super) fn decided(&mut self, bytes: u64) {
        self.undecided = self.undecided.saturating_sub(1);
        if bytes > 0 {
            self.wanted = bytes;
        }
    }

    /// Whether so much fits beside what is set aside.
    pub(super) fn fits(&self, bytes: u64, quota: Quota) -> bool {
        let most = quota.memory_bytes.unwrap_or(u64::MAX);
        bytes == 0 || self.reserved.saturating_add(bytes) <= most
    }

    /// So much is set aside. With nothing beside it, whoever was refused had its chance, or is gone; also if so many others
    /// came where it would have fitted: another worker has run it.
    pub(super) fn set_aside(&mut self, bytes: u64, quota: Quota) {
        if bytes > 0 && self.refused > 0 {
            self.overtaken += u8::from(self.fits(self.refused, quota));
            if self.reserved == 0 || bytes >= self.refused || self.overtaken >= TURNS {
                self.refused = 0;
            }
        }
        self.reserved += bytes;
    }

    /// One did not fit: nothing more comes until it does.
    pub(super) fn refuse(&mut self, bytes: u64) {
        self.refused = self.refused.max(bytes);
        self.overtaken = 0;
    }

    /// One that was taken has started.
    pub(super) fn start(&mut self, now: Timestamp) {
        if let Some(bucket) = &mut self.bucket {
            bucket.fill(now);
            bucket.pending = bucket.pending.saturating_sub(1);
        }
    }

    pub(super) fn end(&mut self, reserved: Option<u64>, started: bool) {
        self.held = self.held.saturating_sub(1);
        match reserved {
            None => self.undecided = self.undecided.saturating_sub(1),
            Some(bytes) => self.reserved = self.reserved.saturating_sub(bytes),
        }
        if let Some(bucket) = self.bucket.as_mut().filter(|_| !started) {
            bucket.give_back();
        }
    }

    /// Whether it is as one that was never there.
    pub(super) fn is_fresh(&mut self, now: Timestamp, quota: Quota) -> bool {
        self.held == 0 && self.bucket(now, quota).is_none_or(|bucket| bucket.is_full())
    }

    /// After how long it may start as much as at first, if it starts nothing.
    pub(super) fn until_full(&self) -> Duration {
        self.bucket.as_ref().map_or(Duration::ZERO, Bucket::until_full)
    }

    /// When the next start comes, where none is left.
    pub(super) fn next_start(&self) -> Option<Timestamp> {
        self.bucket.as_ref().filter(|bucket| bucket.tokens() == 0).map(Bucket::next)
    }

    /// The starts that are left now, where there is a rate.
    fn bucket(&mut self, now: Timestamp, quota: Quota) -> Option<&mut Bucket> {
        if self.bucket.as_ref().map(|bucket| bucket.rate) != quota.rate {
            self.bucket = quota.rate.map(|rate| Bucket::full(rate, now));
        }
        let bucket = self.bucket.as_mut()?;
        bucket.fill(now);
        Some(bucket)
    }
}

/// Starts that are left, in whole numbers: each millisecond adds [`Rate::starts`], and a start takes as many as
/// [`Rate::per`] has milliseconds.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    level: u64,
    /// Starts that were taken out and have neither happened nor been given back: there is no room for others in their
    /// place, or those would be too many together.
    pending: u64,
    at: Timestamp,
}

impl Bucket {
    fn full(rate: Rate, at: Timestamp) -> Self {
        let mut bucket = Self { rate, level: 0, pending: 0, at };
        bucket.level = bucket.capacity();
        bucket
    }

    fn cost(&self) -> u64 {
        self.rate.millis()
    }

    fn capacity(&self) -> u64 {
        self.cost().saturating_mul(self.rate.burst().saturating_sub(self.pending))
    }

    fn fill(&mut self, now: Timestamp) {
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        let more = passed.saturating_mul(u64::from(self.rate.starts));
        self.level = self.level.saturating_add(more).min(self.capacity());
        self.at = self.at.max(now);
    }

    fn tokens(&self) -> usize {
        usize::try_from(self.level / self.cost()).unwrap_or(usize::MAX)
    }

    fn is_full(&self) -> bool {
        self.level == self.capacity()
    }

    fn take(&mut self) {
        self.level = self.level.saturating_sub(self.cost());
        self.pending += 1;
    }

    fn give_back(&mut self) {
        self.pending = self.pending.saturating_sub(1);
        self.level = self.level.saturating_add(self.cost()).min(self.capacity());
    }

    fn until_full(&self) -> Duration {
        let missing = self.capacity().saturating_sub(self.level);
        Duration::from_millis(missing.div_ceil(u64::from(self.rate.starts.max(1))))
    }

    /// When there is one more than now.
    fn next(&self) -> Timestamp {
        let missing = self.cost() - self.level % self.cost();
        self.at.after(Duration::from_millis(missing.div_ceil(u64::from(self.rate.starts.max(1)))))
    }
}

impl Rate {
    /// As many at once: those of one second, and at least one.
    pub fn burst(self) -> u64 {
        (u64::from(self.starts) * 1_000 / self.millis()).max(1)
    }

    fn millis(self) -> u64 {
        u64::try_from(self.per.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}
