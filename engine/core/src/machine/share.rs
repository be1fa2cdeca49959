//! [`Shares`]: how much of one claim each tenant and each queue may have, and whose turn it is.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::id::QueueName;
use crate::tenant::Tenant;

/// So many tenants that have room are looked at in one claim, for each queue and task name, so that thousands of them
/// cost a bounded claim. It begins behind [`Shares::from`]; whoever is not looked at now has a turn later.
pub const LOOKED_AT: usize = 256;
/// So many in all names of a queue together, but for [`LOOKED_AT_LEAST`] of each.
const LOOKED_AT_IN_ALL: usize = 1_024;
const LOOKED_AT_LEAST: usize = 16;

/// How much one tenant may have of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// At most so many.
    pub room: usize,
    /// So many are in the worker's hands already.
    pub held: usize,
}

/// What one claim may give to whom. Made by a [`Ledger`](super::quota::Ledger) for each claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// At most so many from each of these queues, all tenants together; the others are not bounded.
    pub queues: BTreeMap<QueueName, usize>,
    /// Those of whom something is known: whoever has something in hand, or has no room.
    pub tenants: BTreeMap<Tenant, Share>,
    /// The room of each tenant that is not in `tenants`, at least 1; it has nothing in hand.
    pub others: usize,
    /// Got the last delivery that could start. The turn is with the next after it, in the order of names, and around.
    pub from: Tenant,
}

impl Shares {
    /// What this tenant may have.
    pub fn of(&self, tenant: &Tenant) -> Share {
        let unknown = Share { room: self.others, held: 0 };
        self.tenants.get(tenant).copied().unwrap_or(unknown)
    }

    /// The most that this queue may give, all tenants together.
    pub fn room_of(&self, queue: &QueueName) -> usize {
        self.queues.get(queue).copied().unwrap_or(usize::MAX)
    }

    /// How many tenants of one queue and name a look at so many names has to pass over or take up, so that [`LOOKED_AT`]
    /// with room are among them wherever there are so many; of many names fewer each.
    pub fn looked_at(&self, names: usize) -> usize {
        let each = (LOOKED_AT_IN_ALL / names.max(1)).clamp(LOOKED_AT_LEAST, LOOKED_AT);
        each + self.tenants.values().filter(|share| share.room == 0).count()
    }

    /// What is left of these when deliveries of these queues and tenants have gone.
    #[must_use]
    pub fn without<'a>(&self, gone: impl IntoIterator<Item = (&'a QueueName, &'a Tenant)>) -> Self {
        let mut left = self.clone();
        for (queue, tenant) in gone {
            left.choose(queue, std::slice::from_ref(tenant), 1);
        }
        left
    }

    /// Whether there is somebody to whom the claim gives nothing.
    pub fn holds_back(&self) -> bool {
        let tenants = self.tenants.values().map(|share| share.room);
        self.queues.values().copied().chain(tenants).any(|room| room == 0)
    }

    /// Which of a queue's ready deliveries go, in the order in which they go: at most `max`, and no more than the queue
    /// and each tenant have room for. `ready` says whose each of them is; those of one tenant stand in the order in
    /// which they go, by priority and then by the time of enqueueing. The answer are indices into it.
    ///
    /// Again and again one goes of the tenant that has the fewest, in hand and by this claim; of several such the next
    /// after the one that got the last. So a tenant's priorities and its backlog count against itself alone. What goes
    /// is taken off the shares: the next queue of the same claim is asked with the same ones.
    pub fn choose(&mut self, queue: &QueueName, ready: &[Tenant], max: usize) -> Vec<usize> {
        let mut waiting: BTreeMap<&Tenant, Waiting> = BTreeMap::new();
        for (index, tenant) in ready.iter().enumerate().rev() {
            let none = || Waiting { share: self.of(tenant), indices: Vec::new() };
            waiting.entry(tenant).or_insert_with(none).indices.push(index);
        }
        waiting.retain(|_, waiting| waiting.share.room > 0);
        let most = max.min(self.room_of(queue));
        let mut chosen = Vec::new();
        while chosen.len() < most {
            // In the order of names; the first of several that are alike is taken.
            let turns = waiting.iter_mut();
            let turn = turns.min_by_key(|(tenant, next)| (next.share.held, **tenant <= &self.from));
            let Some((&tenant, next)) = turn else { break };
            chosen.extend(next.indices.pop());
            next.share.room -= 1;
            next.share.held += 1;
            self.tenants.insert(tenant.clone(), next.share);
            self.from = tenant.clone();
            if next.share.room == 0 || next.indices.is_empty() {
                waiting.remove(tenant);
            }
        }
        if let Some(room) = self.queues.get_mut(queue) {
            *room -= chosen.len();
        }
        chosen
    }
}

/// What of one tenant waits.
struct Waiting {
    share: Share,
    /// The next is the last.
    indices: Vec<usize>,
}

#[cfg(test)]
mod tests;
