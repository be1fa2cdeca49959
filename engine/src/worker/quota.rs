//! What each tenant and queue has of this worker: the ledger, and what of it is in hand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stem_core::id::QueueName;
use stem_core::machine::quota::{Bound, Held, Ledger, Row};
use stem_core::machine::share::Shares;
use stem_core::observe::{Observer, Seen};
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;

use crate::quotas::QuotaFile;

/// The quotas of one worker.
#[derive(Debug)]
pub(super) struct Quotas {
    pub(super) file: Arc<QuotaFile>,
    ledger: Mutex<Ledger>,
}

/// A delivery in hand, on the accounts of its tenant and queue; off them when dropped.
#[derive(Debug)]
pub(super) struct Hold {
    quotas: Arc<Quotas>,
    held: Held,
}

impl Quotas {
    pub(super) fn new(file: Arc<QuotaFile>) -> Arc<Self> {
        let ledger = Mutex::new(Ledger::new(file.current()));
        Arc::new(Self { file, ledger })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a claim of so many may give to whom, by the file as it is now.
    pub(super) fn shares(&self, now: Timestamp, ask: usize, observer: &dyn Observer) -> Shares {
        let rules = self.file.current();
        let mut ledger = self.ledger();
        ledger.set_rules(rules);
        let before = ledger.reached();
        let shares = ledger.shares(now, ask);
        for ((bound, after), (_, before)) in ledger.reached().into_iter().zip(before) {
            (before..after).for_each(|_| observer.saw(Seen::QuotaReached(bound)));
        }
        shares
    }

    /// A delivery came.
    pub(super) fn take(
        self: &Arc<Self>,
        now: Timestamp,
        queue: &QueueName,
        tenant: &Tenant,
    ) -> Hold {
        Hold { held: self.ledger().taken(now, queue, tenant), quotas: Arc::clone(self) }
    }

    /// When somebody who has no start left gets the next.
    pub(super) fn next_start(&self) -> Option<Timestamp> {
        self.ledger().next_start()
    }

    /// Every account that has something in hand, or gets nothing more.
    pub(super) fn rows(&self) -> Vec<Row> {
        self.ledger().rows()
    }

    /// Whether somebody got nothing at the last look.
    pub(super) fn holds_back(&self) -> bool {
        self.rows().iter().any(|row| row.at.is_some())
    }

    /// How often somebody came to each bound.
    pub(super) fn reached(&self) -> [(Bound, u64); Bound::ALL.len()] {
        self.ledger().reached()
    }
}

impl Hold {
    /// Sets memory aside; answers how much it may have, or that it does not fit now and must not start.
    pub(super) fn reserve(&mut self, bytes: u64) -> Option<u64> {
        self.quotas.ledger().reserve(&mut self.held, bytes)
    }

    /// Its handler starts.
    pub(super) fn started(&mut self, now: Timestamp) {
        self.quotas.ledger().started(now, &mut self.held);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.quotas.ledger().ended(&self.held);
    }
}
