//! Claims with [shares](stem_core::machine::share::Shares): who is over a quota is passed over, the others take turns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use stem_core::backend::Records;
use stem_core::backend::broker::{Delivery, ReceiveRequest};
use stem_core::backend::dead_letter::Replayed;
use stem_core::envelope::{Envelope, Priority, wire};
use stem_core::machine::share::{LOOKED_AT, Share, Shares};
use stem_core::settlement::{Settle, Settlement};
use stem_core::task::TaskState;
use stem_core::tenant::{HEADER, Tenant};

use crate::dead_letter::letter;
use crate::fixture::*;
use crate::queue::pause;
use crate::{Backends, Harness};

crate::cases! { ($) tenants_suite tenants:
    a_broker_says_that_it_knows_shares,
    a_tenant_without_room_is_passed_over,
    a_tenant_gets_no_more_than_its_room_over_names_and_queues,
    a_queue_gives_no_more_than_its_room,
    tenants_take_turns_from_whoever_is_next,
    whoever_has_the_fewest_in_hand_goes_first,
    priority_counts_within_a_tenant,
    what_is_passed_over_keeps_its_place_and_its_counts,
    without_shares_the_order_is_that_of_enqueueing_whatever_the_tenants,
    a_value_that_is_no_name_is_the_unnamed_tenant,
    a_delay_and_a_retry_and_a_lost_lease_keep_the_tenant,
    a_release_and_a_replay_keep_the_tenant,
    a_child_has_the_tenant_of_its_header,
    what_is_kept_for_nobody_stays_nobodys_whatever_its_header_says,
    a_paused_queue_gives_nobody_a_turn,
    counts_purges_and_burials_are_of_all_tenants,
    what_cannot_be_read_is_nobodys_share,
    many_without_room_hide_nobody,
    three_hundred_tenants_all_get_a_turn,
    waiting_with_shares_wakes_up_for_whoever_has_room,
    receivers_with_shares_hold_everything_once,
    a_dropped_claim_with_shares_holds_nothing,
    claims_take_what_the_core_would_choose,
}

fn of(h: &dyn Harness, id: &str, tenant: &str) -> Envelope {
    let mut envelope = envelope(h, id);
    envelope.headers.insert(HEADER.to_owned(), tenant.to_owned());
    envelope
}

/// For each of these so much room, and so many in hand; for any other tenant the last.
fn shares<const N: usize>(tenants: [(&str, usize, usize); N], others: usize) -> Shares {
    let share = |(name, room, held)| (Tenant::stored(name), Share { room, held });
    let tenants = tenants.into_iter().map(share).collect();
    Shares { queues: BTreeMap::new(), tenants, others, from: Tenant::UNNAMED }
}

fn sharing(max: usize, shares: Shares) -> ReceiveRequest {
    ReceiveRequest { shares: Some(Arc::new(shares)), ..asking(max) }
}

/// Nothing for these tenants, and plenty for all others.
fn without<const N: usize>(closed: [&str; N]) -> ReceiveRequest {
    sharing(10, shares(closed.map(|name| (name, 0, 1)), 10))
}

async fn a_broker_says_that_it_knows_shares(h: &dyn Harness) {
    assert!(h.connect().await.broker.knows_shares());
}

async fn a_tenant_without_room_is_passed_over(h: &dyn Harness) {
    let b = h.connect().await;
    let flood: Vec<_> = (0..50).map(|n| of(h, &format!("a{n}"), "a")).collect();
    put(&b, &flood).await;
    put(&b, &[of(h, "b", "b"), envelope(h, "nobodys")]).await;
    let came = receive(&b, &without(["a"])).await;
    let came: Vec<_> =
        came.iter().map(|it| (it.receipt.task.as_str(), it.tenant.as_str())).collect();
    assert_eq!(came, [("b", "b"), ("nobodys", "-")]);
    assert_eq!(ids(&b, &without(["a", "b"])).await, [""; 0]);
    assert_eq!(ids(&b, &sharing(2, shares([], 10))).await, ["a0", "a1"]);
}

async fn a_tenant_gets_no_more_than_its_room_over_names_and_queues(h: &dyn Harness) {
    let b = h.connect().await;
    let on = |id, on: &str, named: &str| Envelope {
        queue: queue(on),
        name: name(named),
        ..of(h, id, "a")
    };
    put(&b, &[on("1", "q", "job"), on("2", "q", "other"), on("3", "q", "job")]).await;
    put(&b, &[on("4", "r", "other"), on("5", "r", "job"), of(h, "6", "b")]).await;
    let request = |room| ReceiveRequest {
        queues: vec![queue("q"), queue("r")],
        names: Arc::new([name("other"), name("job")]),
        ..sharing(10, shares([("a", room, 0), ("b", 0, 3)], 10))
    };
    assert_eq!(ids(&b, &request(4)).await, ["1", "2", "3", "4"]);
    assert_eq!(ids(&b, &request(4)).await, ["5"]);
}

async fn a_queue_gives_no_more_than_its_room(h: &dyn Harness) {
    let b = h.connect().await;
    let on = |id, on: &str, tenant: &str| Envelope { queue: queue(on), ..of(h, id, tenant) };
    put(&b, &[on("1", "q", "a"), on("2", "q", "b"), on("3", "q", "c"), on("4", "r", "a")]).await;
    let request = |room| {
        let shares = Shares { queues: [(queue("q"), room)].into(), ..shares([], 10) };
        ReceiveRequest { queues: vec![queue("q"), queue("r")], ..sharing(10, shares) }
    };
    assert_eq!(ids(&b, &request(2)).await, ["1", "2", "4"]);
    assert_eq!(ids(&b, &request(0)).await, [""; 0]);
    assert_eq!(ids(&b, &request(2)).await, ["3"]);
}

async fn tenants_take_turns_from_whoever_is_next(h: &dyn Harness) {
    let b = h.connect().await;
    for (id, tenant) in
        [("a1", "a"), ("a2", "a"), ("a3", "a"), ("B1", "B"), ("c1", "c"), ("c2", "c")]
    {
        put(&b, &[of(h, id, tenant)]).await;
    }
    put(&b, &[envelope(h, "n1"), envelope(h, "n2")]).await;
    let from = |max, name| sharing(max, Shares { from: Tenant::stored(name), ..shares([], 10) });
    // Around by the bytes of the names, in which capitals come first and nobody's before all.
    assert_eq!(ids(&b, &from(3, "a")).await, ["c1", "n1", "B1"]);
    assert_eq!(ids(&b, &from(10, "-")).await, ["a1", "c2", "n2", "a2", "a3"]);
}

async fn whoever_has_the_fewest_in_hand_goes_first(h: &dyn Harness) {
    let b = h.connect().await;
    for n in 0..4 {
        put(&b, &[of(h, &format!("a{n}"), "a"), of(h, &format!("b{n}"), "b")]).await;
    }
    let request = sharing(5, shares([("a", 10, 3), ("b", 10, 1)], 10));
    assert_eq!(ids(&b, &request).await, ["b0", "b1", "a0", "b2", "a1"]);
}

async fn priority_counts_within_a_tenant(h: &dyn Harness) {
    let b = h.connect().await;
    let level = |id, tenant: &str, level| Envelope {
        priority: Priority::new(level).unwrap(),
        ..of(h, id, tenant)
    };
    put(&b, &[level("a1", "a", 5), level("b1", "b", 0), level("a2", "a", 9)]).await;
    put(&b, &[level("b2", "b", 1), level("a3", "a", 9)]).await;
    assert_eq!(ids(&b, &sharing(4, shares([], 10))).await, ["a2", "b2", "a3", "b1"]);
}

async fn what_is_passed_over_keeps_its_place_and_its_counts(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[of(h, "a1", "a"), of(h, "b1", "b"), of(h, "a2", "a"), of(h, "b2", "b")]).await;
    let before = (record(&b, "a1").await, record(&b, "a2").await);
    assert_eq!(ids(&b, &without(["a"])).await, ["b1", "b2"]);
    assert_eq!(ids(&b, &without(["a"])).await, [""; 0]);
    assert_eq!((record(&b, "a1").await, record(&b, "a2").await), before);
    let came = receive(&b, &asking(10)).await;
    let seen = |delivery: &Delivery| {
        let Delivery { receipt, attempt, deliveries, losses, .. } = delivery;
        (receipt.task.to_string(), receipt.token.0, *attempt, *deliveries, *losses)
    };
    let seen: Vec<_> = came.iter().map(seen).collect();
    assert_eq!(seen, [("a1".to_owned(), 1, 1, 1, 0), ("a2".to_owned(), 1, 1, 1, 0)]);
}

async fn without_shares_the_order_is_that_of_enqueueing_whatever_the_tenants(h: &dyn Harness) {
    let b = h.connect().await;
    let high = Envelope { priority: Priority::new(9).unwrap(), ..of(h, "4", "z") };
    put(&b, &[of(h, "1", "b"), envelope(h, "2"), of(h, "3", "a"), high, of(h, "5", "b")]).await;
    // Before anybody asked for turns, and after.
    assert_eq!(ids(&b, &asking(2)).await, ["4", "1"]);
    assert_eq!(ids(&b, &without(["a", "b", "-"])).await, [""; 0]);
    put(&b, &[of(h, "6", "a"), envelope(h, "7")]).await;
    assert_eq!(ids(&b, &asking(10)).await, ["2", "3", "5", "6", "7"]);
}

async fn a_value_that_is_no_name_is_the_unnamed_tenant(h: &dyn Harness) {
    let b = h.connect().await;
    let longer = "x".repeat(65);
    let values = ["a b", "-", "", "/", "é", longer.as_str()];
    for (n, value) in values.iter().enumerate() {
        put(&b, &[of(h, &format!("t{n}"), value)]).await;
    }
    put(&b, &[of(h, "named", &"x".repeat(64))]).await;
    assert_eq!(ids(&b, &without(["-"])).await, ["named"]);
    let came = receive(&b, &without([])).await;
    assert_eq!(came.len(), values.len());
    assert!(came.iter().all(|delivery| delivery.tenant.is_unnamed()), "{came:?}");
    // The envelope is as it was sent.
    assert_eq!(came[0].envelope.headers[HEADER], "a b");
}

/// Passed over while its tenant has no room, and delivered on its account when it has.
async fn take_of_a(b: &Backends) -> Delivery {
    assert_eq!(receive(b, &without(["a"])).await, []);
    let mut came = receive(b, &without(["-"])).await;
    assert_eq!(came.len(), 1, "{came:?}");
    assert_eq!(came[0].tenant.as_str(), "a");
    came.remove(0)
}

async fn a_delay_and_a_retry_and_a_lost_lease_keep_the_tenant(h: &dyn Harness) {
    let b = h.connect().await;
    let later = h.now().after(Duration::from_secs(5));
    put(&b, &[Envelope { not_before: Some(later), ..of(h, "t", "a") }]).await;
    h.advance(Duration::from_secs(5));
    let delivery = take_of_a(&b).await;
    finish(h, &b, &delivery, retry_at(h.now().after(Duration::from_secs(5)))).await;
    h.advance(Duration::from_secs(5));
    assert_eq!(take_of_a(&b).await.attempt, 2);
    h.advance(PAST_LEASE);
    let delivery = take_of_a(&b).await;
    assert_eq!((delivery.attempt, delivery.losses), (2, 1));
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    assert_eq!(receive(&b, &without([])).await, []);
}

async fn a_release_and_a_replay_keep_the_tenant(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[of(h, "t", "a")]).await;
    // Taken without shares, for which the tenant counts for nothing.
    let delivery = take(&b).await;
    finish(h, &b, &delivery, Settlement::Release).await;
    let delivery = take_of_a(&b).await;
    finish(h, &b, &delivery, fail()).await;
    let replayed = b.dead.replay(&[letter(&b, "t").await], Records::Here).await.unwrap();
    assert_eq!(replayed, [Replayed::Queued]);
    let delivery = take_of_a(&b).await;
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    assert_eq!(receive(&b, &without([])).await, []);
}

async fn a_child_has_the_tenant_of_its_header(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    let children = vec![of(h, "one", "a"), envelope(h, "two"), of(h, "three", "b")];
    let end = settle(h, &parent, Settlement::Succeed(result()));
    b.broker.settle(&[Settle { children, ..end }], Records::Here).await.unwrap();
    assert_eq!(ids(&b, &without(["a", "-"])).await, ["three"]);
    assert_eq!(ids(&b, &without(["a"])).await, ["two"]);
    assert_eq!(ids(&b, &without([])).await, ["one"]);
}

/// As what was enqueued by a Stem that knew no tenants.
async fn what_is_kept_for_nobody_stays_nobodys_whatever_its_header_says(h: &dyn Harness) {
    let b = h.connect().await;
    let bytes = wire::encode(&of(h, "t", "a"));
    h.plant_raw_envelope(&queue("q"), &task("t"), &name("job"), &bytes).await;
    assert_eq!(receive(&b, &without(["-"])).await, []);
    let delivery = receive(&b, &without(["a"])).await.remove(0);
    assert_eq!(delivery.tenant, Tenant::UNNAMED);
    finish(h, &b, &delivery, Settlement::Release).await;
    assert_eq!(receive(&b, &without(["-"])).await, []);
    finish(h, &b, &take(&b).await, fail()).await;
    b.dead.replay(&[letter(&b, "t").await], Records::Here).await.unwrap();
    assert_eq!(receive(&b, &without(["-"])).await, []);
    let delivery = receive(&b, &without(["a"])).await.remove(0);
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
}

async fn a_paused_queue_gives_nobody_a_turn(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[of(h, "1", "a"), envelope(h, "2")]).await;
    pause(h, &b, "q").await;
    assert_eq!(ids(&b, &without([])).await, [""; 0]);
    b.broker.set_paused(&queue("q"), None).await.unwrap();
    assert_eq!(ids(&b, &without([])).await, ["1", "2"]);
}

async fn counts_purges_and_burials_are_of_all_tenants(h: &dyn Harness) {
    let b = h.connect().await;
    let other = |id, tenant: &str| Envelope { name: name("other"), ..of(h, id, tenant) };
    put(&b, &[of(h, "1", "a"), envelope(h, "2"), other("3", "a"), of(h, "4", "b")]).await;
    let status = b.broker.queues().await.unwrap().remove(0);
    assert_eq!((status.ready, &*status.names), (4, &[(name("job"), 3), (name("other"), 1)][..]));

    h.advance(Duration::from_mins(1));
    let known = [name("job")];
    assert_eq!(b.broker.bury_unroutable(&known, h.now(), Records::Here).await.unwrap(), 1);
    assert_eq!(state(&b, "3").await, TaskState::Failed);

    assert_eq!(purge(&b, "q").await, ["1", "2", "4"]);
    assert_eq!(receive(&b, &without([])).await, []);
    assert_eq!(b.broker.queues().await.unwrap()[0].ready, 0);
    // Nothing of them is left in the way.
    put(&b, &[of(h, "1", "b"), envelope(h, "4")]).await;
    assert_eq!(ids(&b, &without(["-"])).await, ["1"]);
    assert_eq!(ids(&b, &asking(10)).await, ["4"]);
}

async fn what_cannot_be_read_is_nobodys_share(h: &dyn Harness) {
    let b = h.connect().await;
    h.plant_raw_envelope(&queue("q"), &task("bad"), &name("job"), b"\x00garbage").await;
    put(&b, &[envelope(h, "good"), envelope(h, "late")]).await;
    assert_eq!(ids(&b, &sharing(10, shares([], 1))).await, ["good"]);
    assert_eq!(state(&b, "bad").await, TaskState::Failed);
    assert_eq!(ids(&b, &sharing(10, shares([], 1))).await, ["late"]);
}

async fn many_without_room_hide_nobody(h: &dyn Harness) {
    let b = h.connect().await;
    let names: Vec<String> = (0..LOOKED_AT + 40).map(|n| format!("t{n:04}")).collect();
    let flood: Vec<_> = names.iter().map(|it| of(h, it, it)).collect();
    put(&b, &flood).await;
    put(&b, &[of(h, "last", "z")]).await;
    let closed = Share { room: 0, held: 1 };
    let tenants = names.iter().map(|it| (Tenant::stored(it), closed)).collect();
    let shares = Shares { tenants, ..shares([], 10) };
    assert_eq!(ids(&b, &sharing(10, shares)).await, ["last"]);
}

async fn three_hundred_tenants_all_get_a_turn(h: &dyn Harness) {
    const TENANTS: usize = LOOKED_AT + 44;
    let b = h.connect().await;
    let two = |n| {
        let tenant = format!("t{n:04}");
        [of(h, &format!("{tenant}-1"), &tenant), of(h, &format!("{tenant}-2"), &tenant)]
    };
    let all: Vec<_> = (0..TENANTS).flat_map(two).collect();
    for some in all.chunks(200) {
        put(&b, some).await;
    }
    let mut from = Tenant::stored("t0100");
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < TENANTS {
        let shares = Shares { from: from.clone(), ..shares([], 1) };
        let came = receive(&b, &sharing(100, shares)).await;
        from = came.last().expect("all of them wait").tenant.clone();
        for delivery in came {
            // A second one only when everybody had a first.
            assert!(seen.insert(delivery.tenant), "{}", delivery.receipt.task);
        }
    }
}

async fn waiting_with_shares_wakes_up_for_whoever_has_room(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[of(h, "a", "a")]).await;
    let waiting = {
        let b = h.connect().await;
        let request = ReceiveRequest { wait: LONG, ..without(["a"]) };
        tokio::spawn(async move { ids(&b, &request).await })
    };
    // The case holds in whatever order the two come; this makes it the interesting one nearly always.
    tokio::time::sleep(Duration::from_millis(40)).await;
    put(&b, &[of(h, "b", "b")]).await;
    assert_eq!(waiting.await.unwrap(), ["b"]);
}

async fn receivers_with_shares_hold_everything_once(h: &dyn Harness) {
    const TASKS: usize = 60;
    let b = h.connect().await;
    let all: Vec<_> = (0..TASKS).map(|n| of(h, &format!("t{n}"), &format!("{}", n % 3))).collect();
    put(&b, &all).await;
    let mut receivers = Vec::new();
    for owner in [A, B, A, B] {
        let b = h.connect().await;
        let request = ReceiveRequest { owner, ..sharing(3, shares([("1", 1, 0)], 2)) };
        receivers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let some = ids(&b, &request).await;
                if some.is_empty() {
                    return mine;
                }
                mine.extend(some);
            }
        }));
    }
    let mut taken = Vec::new();
    for receiver in receivers {
        taken.extend(receiver.await.unwrap());
    }
    assert_eq!(taken.len(), TASKS);
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), TASKS);
}

async fn a_dropped_claim_with_shares_holds_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[of(h, "t", "a")]).await;
    let request = ReceiveRequest { wait: LONG, ..without([]) };
    for micros in [50, 400] {
        let asked = receive(&b, &request);
        let taken = tokio::time::timeout(Duration::from_micros(micros), asked).await;
        let delivery = match taken {
            Ok(mut taken) => taken.remove(0),
            // Whatever the dropped call had begun is undone or never was.
            Err(_) => receive(&b, &request).await.remove(0),
        };
        assert_eq!((delivery.deliveries, delivery.losses), (1, 0));
        finish(h, &b, &delivery, Settlement::Release).await;
    }
}

/// What is waiting, and what is asked of it.
type Round = (Vec<(usize, usize, u8, bool)>, Vec<(usize, usize)>, usize, usize, usize);

/// Random tasks of few tenants in two queues and under two names, and random shares.
fn round() -> impl Strategy<Value = Round> {
    let waiting = (0..TENANTS.len(), 0..4usize, 4..7u8, any::<bool>());
    let share = (0..4usize, 0..3usize);
    (
        proptest::collection::vec(waiting, 0..40),
        proptest::collection::vec(share, TENANTS.len()),
        1..4usize,
        0..TENANTS.len(),
        1..20usize,
    )
}

/// In no order of any language, but those of bytes and of lengths.
const TENANTS: [&str; 6] = ["-", "b", "B", "ab", "a.b", "b:1"];

async fn claims_take_what_the_core_would_choose(h: &dyn Harness) {
    let b = h.connect().await;
    let mut runner = TestRunner::new(Config::default());
    for number in 0..12 {
        let drawn = round().new_tree(&mut runner).unwrap().current();
        let (tasks, rooms, others, from, max) = drawn.clone();
        let queues = [queue(&format!("{number}-one")), queue(&format!("{number}-two"))];
        let names = [name("job"), name("other")];
        let waiting: Vec<_> = tasks
            .iter()
            .enumerate()
            .map(|(n, (tenant, place, level, knows))| Envelope {
                queue: queues[place % 2].clone(),
                name: if *knows { names[place / 2].clone() } else { name("unknown") },
                priority: Priority::new(*level).unwrap(),
                ..of(h, &format!("{number}-{n}"), TENANTS[*tenant])
            })
            .collect();
        put(&b, &waiting).await;
        // One tenant is not listed.
        let listed = TENANTS.iter().zip(rooms).skip(1);
        let tenants = listed
            .map(|(name, (room, held))| (Tenant::stored(name), Share { room, held }))
            .collect();
        let bounds = [(queues[1].clone(), 5)].into();
        let shares =
            Shares { queues: bounds, tenants, others, from: Tenant::stored(TENANTS[from]) };
        let mut left = waiting.clone();
        let mut expected = Vec::new();
        let mut now = shares.clone();
        for queue in &queues {
            let is_meant = |it: &&Envelope| it.queue == *queue && names.contains(&it.name);
            let mut ready: Vec<_> = left.iter().filter(is_meant).cloned().collect();
            ready.sort_by_key(|it| std::cmp::Reverse(it.priority));
            let whose: Vec<_> = ready.iter().map(|it| Tenant::of(&it.headers)).collect();
            let chosen = now.choose(queue, &whose, max - expected.len());
            expected.extend(chosen.into_iter().map(|index| ready[index].id.to_string()));
        }
        let request = ReceiveRequest {
            queues: queues.to_vec(),
            names: Arc::new(names),
            ..sharing(max, shares)
        };
        assert_eq!(ids(&b, &request).await, expected, "{drawn:?}");
        // What is left is as it was: without shares it comes by priority and order.
        left.retain(|it| {
            request.names.contains(&it.name) && !expected.contains(&it.id.to_string())
        });
        left.sort_by_key(|it| (it.queue != queues[0], std::cmp::Reverse(it.priority)));
        let rest = ReceiveRequest { shares: None, max: 100, ..request };
        let left: Vec<_> = left.iter().map(|it| it.id.to_string()).collect();
        assert_eq!(ids(&b, &rest).await, left, "{drawn:?}");
    }
}
