//! [`Ledger`]: what each tenant and each queue of one worker has in hand, and what of the next claim it may have.
//!
//! Nothing is shared between workers: each keeps to its own numbers, so there is nothing to agree on, to leak or to mend
//! after a crash. What a fleet gives a tenant is the sum over its workers.

mod account;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use self::account::Account;
use super::share::{Share, Shares};
use crate::id::QueueName;
use crate::tenant::Tenant;
use crate::time::Timestamp;

/// What one tenant or one queue may have of one worker; absent, there is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Attempts at once, at least 1.
    pub concurrency: Option<usize>,
    /// Starts in a time.
    pub rate: Option<Rate>,
    /// The memory limits of all its attempts together, in bytes, at least 1. No attempt gets a higher limit.
    pub memory_bytes: Option<u64>,
}

impl Quota {
    /// Its own bounds, and those of `below` where it has none.
    fn over(self, below: Self) -> Self {
        Self {
            concurrency: self.concurrency.or(below.concurrency),
            rate: self.rate.or(below.rate),
            memory_bytes: self.memory_bytes.or(below.memory_bytes),
        }
    }
}

/// So many starts in so long; as many at once as one second has, and at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1 to [`RATE_MOST`].
    pub starts: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

/// The most starts of a [`Rate`].
pub const RATE_MOST: u32 = 1_000_000;

/// The most tenants with nothing in hand whose starts are remembered: each is part of every claim. One that is forgotten
/// may start as much at once as one that never was there.
pub const IDLE: usize = 4_096;

/// Who may have how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Each tenant, on its own; for those in `tenants` where they have no bound of their own.
    pub each: Quota,
    /// These tenants.
    pub tenants: BTreeMap<Tenant, Quota>,
    /// These queues, all tenants together.
    pub queues: BTreeMap<QueueName, Quota>,
}

impl Rules {
    /// What holds for a tenant.
    pub fn of(&self, tenant: &Tenant) -> Quota {
        self.tenants.get(tenant).map_or(self.each, |own| own.over(self.each))
    }

    /// What holds for a queue.
    pub fn of_queue(&self, queue: &QueueName) -> Quota {
        self.queues.get(queue).copied().unwrap_or_default()
    }
}

/// A bound that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// As many attempts as it may have at once.
    Concurrency,
    /// It has started what it may for now.
    Rate,
    /// The next attempt does not fit beside those that it has.
    Memory,
}

impl Bound {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Concurrency, Self::Rate, Self::Memory];

    /// The word used in JSON, in tables and as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Rate => "rate",
            Self::Memory => "memory",
        }
    }
}

/// Whose account it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A queue's.
    Queue(QueueName),
    /// A tenant's.
    Tenant(Tenant),
}

/// An account, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub holder: Holder,
    /// What it may have.
    pub quota: Quota,
    /// Deliveries in hand.
    pub held: usize,
    /// The memory limits of its attempts together.
    pub reserved: u64,
    /// Why it gets nothing now, if so.
    pub at: Option<Bound>,
}

/// A delivery in hand, for its account: made by [`Ledger::taken`], the last word on it is
/// [`Ledger::ended`].
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    queue: QueueName,
    tenant: Tenant,
    /// What of the memory is its; `None` before it was asked for.
    reserved: Option<u64>,
    started: bool,
}

/// The accounts of one worker.
#[derive(Debug)]
pub struct Ledger {
    rules: Arc<Rules>,
    tenants: BTreeMap<Tenant, Account>,
    queues: BTreeMap<QueueName, Account>,
    /// Was the last whose delivery could start. One that went back got nothing, and its turn is still to come.
    last: Tenant,
    /// How often an account came to each bound, in the order of [`Bound::ALL`].
    reached: [u64; Bound::ALL.len()],
}

impl Ledger {
    /// With nothing in hand.
    pub fn new(rules: Arc<Rules>) -> Self {
        let (tenants, queues) = (BTreeMap::new(), BTreeMap::new());
        Self { rules, tenants, queues, last: Tenant::UNNAMED, reached: [0; Bound::ALL.len()] }
    }

    /// Other rules from now on. What is in hand stays, also where there is too much of it now. A rate that is another than
    /// before begins with all that it may have at once.
    pub fn set_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
    }

    /// The rules that hold.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// What a claim of at most `ask` may give to whom.
    pub fn shares(&mut self, now: Timestamp, ask: usize) -> Shares {
        let rules = Arc::clone(&self.rules);
        // What begins anew is as one that was never there.
        self.tenants.retain(|tenant, account| !account.is_fresh(now, rules.of(tenant)));
        self.queues.retain(|queue, account| !account.is_fresh(now, rules.of_queue(queue)));
        self.bound_idle();
        let reached = &mut self.reached;
        let mut look = |account: &mut Account, quota: Quota| {
            let before = account.at;
            let room = account.room(now, quota).min(ask);
            if let (None, Some(bound)) = (before, account.at) {
                reached[bound as usize] += 1;
            }
            Share { room, held: account.held }
        };
        let fresh = |quota: Quota| Account::default().room(now, quota).min(ask);
        let others = fresh(rules.each);
        let mut tenants: BTreeMap<Tenant, Share> = rules
            .tenants
            .keys()
            .map(|tenant| (tenant.clone(), Share { room: fresh(rules.of(tenant)), held: 0 }))
            .filter(|(_, share)| share.room != others)
            .collect();
        for (tenant, account) in &mut self.tenants {
            tenants.insert(tenant.clone(), look(account, rules.of(tenant)));
        }
        let mut queues: BTreeMap<QueueName, usize> =
            rules.queues.iter().map(|(queue, quota)| (queue.clone(), fresh(*quota))).collect();
        for (queue, account) in &mut self.queues {
            let room = look(account, rules.of_queue(queue)).room;
            if let Some(bounded) = queues.get_mut(queue) {
                *bounded = room;
            }
        }
        Shares { queues, tenants, others, from: self.last.clone() }
    }

    /// With a rate an account is kept until it may start as much as at first, and whoever enqueues chooses the names. Of
    /// too many that have nothing in hand those go that lack the least: half of them at once, so that this is not done for
    /// each claim.
    fn bound_idle(&mut self) {
        let is_idle = |account: &Account| account.held == 0;
        let mut idle: Vec<(Duration, Tenant)> = (self.tenants.iter())
            .filter(|(_, account)| is_idle(account))
            .map(|(tenant, account)| (account.until_full(), tenant.clone()))
            .collect();
        if idle.len() > IDLE {
            idle.sort();
            for (_, tenant) in &idle[..idle.len() - IDLE / 2] {
                self.tenants.remove(tenant);
            }
        }
    }

    /// A delivery came: it is in hand, and one start is used up.
    pub fn taken(&mut self, now: Timestamp, queue: &QueueName, tenant: &Tenant) -> Held {
        let (of_tenant, of_queue) = (self.rules.of(tenant), self.rules.of_queue(queue));
        self.tenants.entry(tenant.clone()).or_default().take(now, of_tenant);
        self.queues.entry(queue.clone()).or_default().take(now, of_queue);
        Held { queue: queue.clone(), tenant: tenant.clone(), reserved: None, started: false }
    }

    /// Its handler is known, whose limit of memory is `bytes`: sets so much aside, or what the quotas are if they are
    /// smaller, and answers how much that is. `None`: it does not fit beside what the tenant or the queue has in hand,
    /// and must not start; that has no room then until it does fit. For each delivery once.
    pub fn reserve(&mut self, held: &mut Held, bytes: u64) -> Option<u64> {
        let (of_tenant, of_queue) = (self.rules.of(&held.tenant), self.rules.of_queue(&held.queue));
        let tenant = self.tenants.get_mut(&held.tenant)?;
        let queue = self.queues.get_mut(&held.queue)?;
        let most = |quota: Quota| quota.memory_bytes.unwrap_or(u64::MAX);
        let bytes = bytes.min(most(of_tenant)).min(most(of_queue));
        if held.reserved.replace(0).is_some() {
            return None;
        }
        tenant.decided(bytes);
        queue.decided(bytes);
        let fits = (tenant.fits(bytes, of_tenant), queue.fits(bytes, of_queue));
        if fits != (true, true) {
            if !fits.0 {
                tenant.refuse(bytes);
            }
            if !fits.1 {
                queue.refuse(bytes);
            }
            return None;
        }
        tenant.set_aside(bytes, of_tenant);
        queue.set_aside(bytes, of_queue);
        held.reserved = Some(bytes);
        self.last = held.tenant.clone();
        Some(bytes)
    }

    /// Its handler starts.
    pub fn started(&mut self, now: Timestamp, held: &mut Held) {
        if !std::mem::replace(&mut held.started, true) {
            self.last = held.tenant.clone();
            self.both(held).for_each(|account| account.start(now));
        }
    }

    /// It is in hand no more. What never started gives its start back.
    pub fn ended(&mut self, held: &Held) {
        self.both(held).for_each(|account| account.end(held.reserved, held.started));
    }

    /// The accounts that a delivery is on.
    fn both(&mut self, held: &Held) -> impl Iterator<Item = &mut Account> {
        let tenant = self.tenants.get_mut(&held.tenant);
        tenant.into_iter().chain(self.queues.get_mut(&held.queue))
    }

    /// When the next start comes for somebody who has none left; `None` if nobody waits for one.
    pub fn next_start(&self) -> Option<Timestamp> {
        let accounts = self.tenants.values().chain(self.queues.values());
        accounts.filter_map(Account::next_start).min()
    }

    /// How often an account came to each bound since the start.
    pub fn reached(&self) -> [(Bound, u64); Bound::ALL.len()] {
        Bound::ALL.map(|bound| (bound, self.reached[bound as usize]))
    }

    /// Every account that has something in hand or is at a bound, as the last claim left it; queues before tenants.
    pub fn rows(&self) -> Vec<Row> {
        let row = |holder: Holder, account: &Account, quota: Quota| Row {
            holder,
            quota,
            held: account.held,
            reserved: account.reserved,
            at: account.at,
        };
        let queues = self.queues.iter().map(|(queue, account)| {
            row(Holder::Queue(queue.clone()), account, self.rules.of_queue(queue))
        });
        let tenants = self.tenants.iter().map(|(tenant, account)| {
            row(Holder::Tenant(tenant.clone()), account, self.rules.of(tenant))
        });
        let is_shown = |row: &Row| row.held > 0 || row.at.is_some();
        queues.chain(tenants).filter(is_shown).collect()
    }
}

#[cfg(test)]
mod tests;
