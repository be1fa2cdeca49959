//! Where a claim with shares looks: a lane is what is ready in one queue of one task name and one tenant.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use stem_core::id::QueueName;
use stem_core::machine::share::Shares;
use stem_core::tenant::Tenant;

/// Deliveries that one claim looks at, over all lanes, unless there are more lanes than this: some milliseconds of work,
/// whatever waits. What it leaves for that is for the next claim.
const LOOKED_AT: usize = 8_192;

/// One lane of a queue that is known from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) tenant: Tenant,
}

/// The lanes of a queue, found name by name in the order of tenants.
#[derive(Debug, Default)]
pub(crate) struct Lanes(BTreeMap<String, BTreeSet<Tenant>>);

/// Of names and tenants, as they are stored.
impl FromIterator<(String, String)> for Lanes {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(found: I) -> Self {
        let mut lanes = Self::default();
        for (name, tenant) in found {
            lanes.0.entry(name).or_default().insert(Tenant::stored(&tenant));
        }
        lanes
    }
}

impl Lanes {
    /// Names with so many that there may be more, where at most so many were looked for.
    pub(crate) fn cut_off(&self, most: usize) -> Vec<String> {
        let long = self.0.iter().filter(|(_, tenants)| tenants.len() >= most);
        long.map(|(name, _)| name.clone()).collect()
    }

    /// Adds what lies behind whoever had the last turn, where the first look from the beginning was [cut off](Self::cut_off),
    /// and leaves of each name as many as are to be looked at, from there on.
    pub(crate) fn go_on(&mut self, behind: Self, most: usize) {
        for (name, more) in behind.0 {
            let known = self.0.entry(name).or_default();
            for tenant in std::mem::replace(known, more) {
                if known.len() < most {
                    known.insert(tenant);
                }
            }
        }
    }

    /// Those whose tenant has room.
    pub(crate) fn with_room(self, shares: &Shares) -> Vec<Lane> {
        let all = self.0.into_iter().flat_map(|(name, tenants)| {
            tenants.into_iter().map(move |tenant| Lane { name: name.clone(), tenant })
        });
        all.filter(|lane| shares.of(&lane.tenant).room > 0).collect()
    }
}

/// How far to look into each of so many lanes, for at most so many deliveries.
pub(crate) fn depth(lanes: usize, missing: usize) -> usize {
    missing.min((LOOKED_AT / lanes.max(1)).max(1))
}

/// A delivery near the head of its lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) lane: usize,
    pub(crate) priority: i64,
    pub(crate) seq: i64,
}

/// Which of these heads go, in the order in which they go.
pub(crate) fn choose(
    mut heads: Vec<Head>,
    lanes: &[Lane],
    shares: &mut Shares,
    queue: &QueueName,
    max: usize,
) -> Vec<Head> {
    heads.sort_by_key(|head| (std::cmp::Reverse(head.priority), head.seq));
    let ready: Vec<Tenant> = heads.iter().map(|head| lanes[head.lane].tenant.clone()).collect();
    let chosen = shares.choose(queue, &ready, max);
    chosen.into_iter().map(|index| heads[index].clone()).collect()
}

#[cfg(test)]
mod tests {
    use stem_core::machine::share::{LOOKED_AT, Share};

    use super::*;

    fn found(numbers: impl IntoIterator<Item = usize>) -> Lanes {
        numbers.into_iter().map(|n| ("job".to_owned(), format!("t{n:04}"))).collect()
    }

    #[test]
    fn of_too_many_lanes_those_are_looked_at_that_come_next_and_around() {
        let shares = |from| Shares {
            queues: BTreeMap::new(),
            tenants: [(Tenant::stored("t0001"), Share { room: 0, held: 1 })].into(),
            others: 1,
            from: Tenant::stored(from),
        };
        let most = LOOKED_AT + 1;
        assert!(found(0..most - 1).cut_off(most).is_empty());
        for (from, behind, seen) in [
            // Behind the first look, in the midst of it, and so far that none follows.
            ("t0400", 401..480, (0..178).chain(401..480).collect::<Vec<_>>()),
            ("t0100", 101..101 + most, (101..101 + most).collect()),
            ("t0480", 0..0, (0..most).collect()),
        ] {
            let mut lanes = found(0..most);
            assert_eq!(lanes.cut_off(most), ["job"]);
            lanes.go_on(found(behind), most);
            let tenants = lanes.with_room(&shares(from));
            let tenants: Vec<_> = tenants.iter().map(|lane| lane.tenant.to_string()).collect();
            let seen = seen.into_iter().filter(|n| *n != 1).map(|n| format!("t{n:04}"));
            assert_eq!(tenants, seen.collect::<Vec<_>>(), "{from}");
        }
    }

    #[test]
    fn few_lanes_are_looked_into_deeply_and_many_are_not() {
        assert_eq!(depth(1, 500), 500);
        assert_eq!(depth(256, 500), 32);
        assert_eq!(depth(100_000, 500), 1);
        assert_eq!(depth(0, 3), 3);
    }
}
