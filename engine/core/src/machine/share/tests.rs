use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn tenant(number: usize) -> Tenant {
    if number == 0 { Tenant::UNNAMED } else { Tenant::new(&format!("t{number:03}")).unwrap() }
}

fn queue() -> QueueName {
    QueueName::new("q").unwrap()
}

fn open(room: usize) -> Shares {
    Shares {
        queues: BTreeMap::new(),
        tenants: BTreeMap::new(),
        others: room,
        from: Tenant::UNNAMED,
    }
}

fn any_shares() -> impl Strategy<Value = Shares> {
    let share = (0..5usize, 0..5usize).prop_map(|(room, held)| Share { room, held });
    let tenants = proptest::collection::btree_map((0..6usize).prop_map(tenant), share, 0..6);
    let narrow = proptest::option::of(0..9usize);
    (tenants, 1..5usize, narrow, (0..6usize).prop_map(tenant)).prop_map(
        |(tenants, others, room, from)| {
            let queues = room.map(|room| (queue(), room)).into_iter().collect();
            Shares { queues, tenants, others, from }
        },
    )
}

proptest! {
    /// Q3, Q4: as many go as have room, nobody goes over its room, and nobody who goes has more than one more than
    /// somebody who could have gone.
    #[test]
    fn as_many_go_as_have_room_and_those_with_the_fewest_first(
        before in any_shares(),
        ready in proptest::collection::vec((0..8usize).prop_map(tenant), 0..30),
        max in 0..12usize,
    ) {
        let mut after = before.clone();
        let chosen = after.choose(&queue(), &ready, max);
        let everybody: BTreeSet<&Tenant> = ready.iter().collect();
        let waiting = |tenant: &Tenant| ready.iter().filter(|one| *one == tenant).count();
        let went = |tenant: &Tenant| chosen.iter().filter(|at| ready[**at] == *tenant).count();
        let possible: usize =
            everybody.iter().map(|tenant| waiting(tenant).min(before.of(tenant).room)).sum();
        prop_assert_eq!(chosen.len(), possible.min(max).min(before.room_of(&queue())));
        if let Some(room) = before.queues.get(&queue()) {
            prop_assert_eq!(after.queues[&queue()], room - chosen.len());
        }
        for tenant in &everybody {
            let (old, new) = (before.of(tenant), after.of(tenant));
            prop_assert!(went(tenant) <= old.room);
            prop_assert_eq!((new.room, new.held), (old.room - went(tenant), old.held + went(tenant)));
            // Its own, in their order, from the first.
            let own = |all: Vec<usize>| -> Vec<usize> {
                all.into_iter().filter(|at| ready[*at] == **tenant).collect()
            };
            let first = own((0..ready.len()).collect());
            prop_assert_eq!(&own(chosen.clone())[..], &first[..went(tenant)]);
            if went(tenant) < waiting(tenant) && new.room > 0 {
                for other in everybody.iter().filter(|other| went(other) > 0) {
                    prop_assert!(after.of(other).held <= new.held + 1, "{} before {}", other, tenant);
                }
            }
        }
        prop_assert_eq!(after.from, chosen.last().map_or(before.from, |last| ready[*last].clone()));
    }
}

/// What a producer can say of its tasks, that they are urgent or many, gets it no second turn before others had one.
#[test]
fn everybody_has_a_turn_before_anybody_has_a_second() {
    let mut from = Tenant::UNNAMED;
    let ready: Vec<Tenant> = (0..300).flat_map(|number| [tenant(number), tenant(number)]).collect();
    for _round in 0..2 {
        let mut went = BTreeSet::new();
        for _claim in 0..300 {
            // Whatever went is over before the next claim.
            let mut shares = Shares { from, ..open(1) };
            let chosen = shares.choose(&queue(), &ready, 1);
            went.insert(ready[chosen[0]].clone());
            from = shares.from;
        }
        assert_eq!(went.len(), 300);
    }
}

#[test]
fn one_claim_over_two_queues_is_one_claim() {
    let (a, b) = (tenant(1), tenant(2));
    let mut shares = open(3);
    assert_eq!(shares.choose(&queue(), &[a.clone(), a.clone(), b.clone()], 9), [0, 2, 1]);
    let other = QueueName::new("other").unwrap();
    // Two of three are used up.
    assert_eq!(shares.choose(&other, &[a.clone(), a, b.clone(), b], 9), [2, 0, 3]);
}

#[test]
fn those_without_room_take_nobodys_place_in_a_look() {
    let mut shares = open(1);
    for (names, each) in [(0, 256), (1, 256), (4, 256), (5, 204), (64, 16), (1_000_000, 16)] {
        assert_eq!(shares.looked_at(names), each);
    }
    for number in 0..5 {
        shares.tenants.insert(tenant(number), Share { room: number % 2, held: 1 });
    }
    assert_eq!(shares.looked_at(1), LOOKED_AT + 3);
}
