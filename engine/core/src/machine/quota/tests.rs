use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn tenant(number: usize) -> Tenant {
    if number == 0 { Tenant::UNNAMED } else { Tenant::new(&format!("t{number}")).unwrap() }
}

fn queue(number: usize) -> QueueName {
    QueueName::new(format!("q{number}")).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_000_000 + millis)
}

fn any_quota() -> impl Strategy<Value = Quota> {
    let rate = (1..40u32, prop_oneof![Just(1), Just(60)])
        .prop_map(|(starts, seconds)| Rate { starts, per: Duration::from_secs(seconds) });
    let memory = (1..8u64).prop_map(|count| count * 100 * MIB);
    (proptest::option::of(1..6usize), proptest::option::of(rate), proptest::option::of(memory))
        .prop_map(|(concurrency, rate, memory_bytes)| Quota { concurrency, rate, memory_bytes })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let tenants = proptest::collection::btree_map((0..4usize).prop_map(tenant), any_quota(), 0..3);
    let queues = proptest::collection::btree_map((0..2usize).prop_map(queue), any_quota(), 0..2);
    (any_quota(), tenants, queues).prop_map(|(each, tenants, queues)| Rules {
        each,
        tenants,
        queues,
    })
}

#[derive(Clone, Debug)]
enum Step {
    /// A claim, of which these wait in each queue, whose handlers have limits of so many MiB (0: native).
    Claim {
        waiting: Vec<(usize, usize)>,
        ask: usize,
        mib: u64,
    },
    End(usize),
    Pass(u16),
    Change(Rules),
}

fn any_step() -> impl Strategy<Value = Step> {
    let waiting = proptest::collection::vec((0..2usize, 0..4usize), 0..12);
    prop_oneof![
        4 => (waiting, 1..9usize, prop_oneof![Just(0), 1..900u64])
            .prop_map(|(waiting, ask, mib)| Step::Claim { waiting, ask, mib }),
        4 => any::<usize>().prop_map(Step::End),
        2 => (0..3_000u16).prop_map(Step::Pass),
        1 => any_rules().prop_map(Step::Change),
    ]
}

/// What is in hand, counted beside the ledger.
#[derive(Default)]
struct Hands(Vec<(Held, usize, usize, u64)>);

impl Hands {
    fn held(&self, is: impl Fn(usize, usize) -> bool) -> (usize, u64) {
        let own = self.0.iter().filter(|(_, queue, tenant, _)| is(*queue, *tenant));
        own.fold((0, 0), |(count, bytes), (_, _, _, more)| (count + 1, bytes + more))
    }
}

fn within(quota: Quota, (count, bytes): (usize, u64), set_aside: bool) -> bool {
    quota.concurrency.is_none_or(|most| count <= most)
        && (!set_aside || quota.memory_bytes.is_none_or(|most| bytes <= most))
}

proptest! {
    /// Q1: no claim and no start brings a tenant or a queue over its quota, whatever ended or changed before; and when
    /// nothing is in hand any more, everybody has room again, at once or at a time that is told.
    #[test]
    fn nobody_has_more_in_hand_than_its_quota(
        rules in any_rules(),
        steps in proptest::collection::vec(any_step(), 1..60),
    ) {
        let mut ledger = Ledger::new(Arc::new(rules));
        let (mut hands, mut now) = (Hands::default(), 0);
        for step in steps {
            match step {
                Step::Pass(millis) => now += i64::from(millis),
                Step::Change(rules) => ledger.set_rules(Arc::new(rules)),
                Step::End(which) => {
                    if !hands.0.is_empty() {
                        let (held, ..) = hands.0.swap_remove(which % hands.0.len());
                        ledger.ended(&held);
                    }
                }
                Step::Claim { waiting, ask, mib } => {
                    let mut shares = ledger.shares(at(now), ask);
                    let mut came = Vec::new();
                    for number in 0..2 {
                        let ready: Vec<usize> = waiting
                            .iter()
                            .filter(|(queue, _)| *queue == number)
                            .map(|(_, tenant)| *tenant)
                            .collect();
                        let whose: Vec<Tenant> = ready.iter().map(|one| tenant(*one)).collect();
                        let left = ask - came.len();
                        let chosen = shares.choose(&queue(number), &whose, left);
                        came.extend(chosen.into_iter().map(|index| (number, ready[index])));
                    }
                    for (from, whose) in came {
                        let held = ledger.taken(at(now), &queue(from), &tenant(whose));
                        hands.0.push((held, from, whose, 0));
                        let of_tenant = ledger.rules().of(&tenant(whose));
                        let of_queue = ledger.rules().of_queue(&queue(from));
                        prop_assert!(within(of_tenant, hands.held(|_, tenant| tenant == whose), false));
                        prop_assert!(within(of_queue, hands.held(|queue, _| queue == from), false));
                        let last = hands.0.len() - 1;
                        let Some(bytes) = ledger.reserve(&mut hands.0[last].0, mib * MIB) else {
                            let (held, ..) = hands.0.swap_remove(last);
                            ledger.ended(&held);
                            continue;
                        };
                        hands.0[last].3 = bytes;
                        ledger.started(at(now), &mut hands.0[last].0);
                        if bytes > 0 {
                            prop_assert!(within(of_tenant, hands.held(|_, tenant| tenant == whose), true));
                            prop_assert!(within(of_queue, hands.held(|queue, _| queue == from), true));
                        }
                    }
                }
            }
        }
        for (held, ..) in hands.0.drain(..) {
            ledger.ended(&held);
        }
        let shares = ledger.shares(at(now), 8);
        if shares.others == 0 || shares.tenants.values().any(|share| share.room == 0)
            || shares.queues.values().any(|room| *room == 0)
        {
            let next = ledger.next_start();
            prop_assert!(next.is_some_and(|next| next > at(now)), "{shares:?} {next:?}");
        }
        // Nothing is kept of those who have all that they may have.
        ledger.shares(at(now + 3_600_000), 8);
        prop_assert!(ledger.tenants.is_empty() && ledger.queues.is_empty());
    }

    /// Q2: in no stretch of time do more start than its rate gives for it and may start at once; some of what is taken
    /// starts late, and some never.
    #[test]
    fn no_more_start_than_the_rate_gives(
        (starts, seconds) in (1..200u32, prop_oneof![Just(1), Just(60), Just(3_600)]),
        steps in proptest::collection::vec((0..2_000i64, 0..4usize, 0..4usize), 1..120),
        stand in proptest::option::of(0..1_000_000_000_000i64),
    ) {
        let rate = Rate { starts, per: Duration::from_secs(seconds) };
        let each = Quota { rate: Some(rate), ..Quota::default() };
        let mut ledger = Ledger::new(Arc::new(Rules { each, ..Rules::default() }));
        let (mut now, mut waiting, mut started) = (0, Vec::new(), Vec::new());
        for (index, (pass, start, drop)) in steps.into_iter().enumerate() {
            now += pass;
            // As long as the machine may stand still.
            now += stand.filter(|_| index == 60).unwrap_or(0);
            let share = ledger.shares(at(now), 16).of(&tenant(1));
            for _ in 0..share.room {
                waiting.push(ledger.taken(at(now), &queue(0), &tenant(1)));
            }
            for _ in 0..start.min(waiting.len()) {
                let mut held = waiting.remove(0);
                ledger.started(at(now), &mut held);
                started.push(now);
                ledger.ended(&held);
            }
            for _ in 0..drop.min(waiting.len()) {
                ledger.ended(&waiting.remove(0));
            }
        }
        let per = i128::from(seconds) * 1_000;
        for (first, from) in started.iter().enumerate() {
            for (last, to) in started.iter().enumerate().skip(first) {
                let count = i128::try_from(last - first + 1).unwrap();
                let may = i128::from(rate.burst()) * per + i128::from(starts) * i128::from(to - from);
                prop_assert!(count * per <= may, "{count} from {from} to {to}");
            }
        }
    }
}

fn ledger(text: &[(usize, Quota)]) -> Ledger {
    let tenants = text.iter().map(|(number, quota)| (tenant(*number), *quota)).collect();
    Ledger::new(Arc::new(Rules { tenants, ..Rules::default() }))
}

#[test]
fn memory_that_does_not_fit_is_not_asked_for_again_before_something_ends() {
    let memory = |mib: u64| Quota { memory_bytes: Some(mib * MIB), ..Quota::default() };
    let mut ledger = ledger(&[(1, memory(512))]);
    let room = |ledger: &mut Ledger| ledger.shares(at(0), 8).of(&tenant(1)).room;
    // Nothing is known of what it needs.
    assert_eq!(room(&mut ledger), 8);
    let mut held: Vec<Held> = (0..3).map(|_| ledger.taken(at(0), &queue(0), &tenant(1))).collect();
    let granted: Vec<_> = held.iter_mut().map(|held| ledger.reserve(held, 200 * MIB)).collect();
    assert_eq!(granted, [Some(200 * MIB), Some(200 * MIB), None]);
    ledger.ended(&held.remove(2));
    assert_eq!(room(&mut ledger), 0);
    assert_eq!(ledger.rows()[1].at, Some(Bound::Memory));
    ledger.ended(&held.remove(0));
    // Now it is known.
    assert_eq!(room(&mut ledger), 1);
    // One that may have more than its tenant gets what its tenant has, when that has nothing else.
    let mut large = ledger.taken(at(0), &queue(0), &tenant(1));
    assert_eq!(ledger.reserve(&mut large, 900 * MIB), None);
    ledger.ended(&large);
    ledger.ended(&held.remove(0));
    // With the last that it had in hand, what is known of it is forgotten.
    assert_eq!(room(&mut ledger), 8);
    let mut large = ledger.taken(at(0), &queue(0), &tenant(1));
    assert_eq!(ledger.reserve(&mut large, 900 * MIB), Some(512 * MIB));
}

/// Two tenants of one queue whose memory is bounded, one with large tasks and one with small ones, both without end.
#[test]
fn a_bounded_queue_serves_large_and_small_tasks_in_turn() {
    let memory = Quota { memory_bytes: Some(1024 * MIB), ..Quota::default() };
    let rules = Rules { queues: [(queue(0), memory)].into(), ..Rules::default() };
    let needs = [1024 * MIB, 64 * MIB];
    for places in [2, 3, 4, 8, 16] {
        let mut ledger = Ledger::new(Arc::new(rules.clone()));
        let (mut hands, mut ended) = (std::collections::VecDeque::new(), [0, 0]);
        while ended.iter().sum::<u32>() < 300 {
            let ask = places - hands.len();
            let waiting: Vec<_> = (0..ask).flat_map(|_| [tenant(1), tenant(2)]).collect();
            let mut shares = ledger.shares(at(0), ask);
            let came = shares.choose(&queue(0), &waiting, ask);
            let mut came: Vec<_> = (came.into_iter())
                .map(|index| (index % 2, ledger.taken(at(0), &queue(0), &waiting[index])))
                .collect();
            for (whose, mut held) in came.drain(..) {
                match ledger.reserve(&mut held, needs[whose]) {
                    Some(_) => {
                        ledger.started(at(0), &mut held);
                        hands.push_back((whose, held));
                    }
                    None => ledger.ended(&held),
                }
            }
            let (whose, held) = hands.pop_front().expect("what is alone fits");
            ledger.ended(&held);
            ended[whose] += 1;
        }
        assert!(ended.iter().all(|ended| *ended > 20), "{places} places: {ended:?}");
    }
}

/// Refused here and run by another worker: under load without end nothing else would forget it.
#[test]
fn room_is_not_kept_for_ever_for_what_was_refused_and_does_not_come_again() {
    let memory = Quota { memory_bytes: Some(1_000 * MIB), ..Quota::default() };
    let mut ledger = ledger(&[(1, memory)]);
    let take = |ledger: &mut Ledger, mib: u64| {
        let mut held = ledger.taken(at(0), &queue(0), &tenant(1));
        let granted = ledger.reserve(&mut held, mib * MIB);
        (held, granted)
    };
    let mut hands =
        std::collections::VecDeque::from([take(&mut ledger, 100), take(&mut ledger, 100)]);
    let (large, granted) = take(&mut ledger, 900);
    assert_eq!(granted, None);
    ledger.ended(&large);
    let mut most = 0;
    for _ in 0..100 {
        let (oldest, _) = hands.pop_front().unwrap();
        ledger.ended(&oldest);
        let room = ledger.shares(at(0), 20).of(&tenant(1)).room;
        for _ in 0..room {
            let small = take(&mut ledger, 100);
            assert_eq!(small.1, Some(100 * MIB));
            hands.push_back(small);
        }
        most = most.max(hands.len());
    }
    assert_eq!(most, 10);
}

#[test]
fn of_tenants_with_nothing_in_hand_so_many_are_remembered() {
    let rate = Rate { starts: 10, per: Duration::from_hours(1) };
    let each = Quota { rate: Some(rate), ..Quota::default() };
    let mut ledger = Ledger::new(Arc::new(Rules { each, ..Rules::default() }));
    let named = |n: usize| Tenant::new(&format!("t{n}")).unwrap();
    let start = |ledger: &mut Ledger, n: usize| {
        let now = at(i64::try_from(n).unwrap());
        let mut held = ledger.taken(now, &queue(0), &named(n));
        ledger.started(now, &mut held);
        held
    };
    // One that is in hand is never forgotten.
    let kept = start(&mut ledger, 0);
    for n in 1..=2 * IDLE {
        let held = start(&mut ledger, n);
        ledger.ended(&held);
        if n % 100 == 0 {
            let known = ledger.shares(at(i64::try_from(n).unwrap()), 1).tenants.len();
            assert!(known <= IDLE + 1, "{known}");
        }
    }
    let shares = ledger.shares(at(i64::try_from(2 * IDLE).unwrap()), 1);
    assert_eq!((shares.of(&named(0)).held, shares.of(&named(2 * IDLE)).room), (1, 0));
    ledger.ended(&kept);
}

#[test]
fn a_tenant_of_its_own_has_what_it_names_and_else_what_each_has() {
    let each = Quota { concurrency: Some(4), memory_bytes: Some(9), ..Quota::default() };
    let own = Quota { concurrency: Some(12), ..Quota::default() };
    let rules = Rules { each, tenants: [(tenant(1), own)].into(), ..Rules::default() };
    assert_eq!(rules.of(&tenant(1)), Quota { concurrency: Some(12), ..each });
    assert_eq!((rules.of(&tenant(2)), rules.of(&tenant(0))), (each, each));
    let mut ledger = Ledger::new(Arc::new(rules));
    let shares = ledger.shares(at(0), 99);
    assert_eq!((shares.of(&tenant(1)).room, shares.of(&tenant(2)).room), (12, 4));
}

#[test]
fn each_time_that_a_bound_is_reached_counts_once() {
    let one = Quota { concurrency: Some(1), ..Quota::default() };
    let mut ledger = ledger(&[(1, one)]);
    for _ in 0..2 {
        let held = ledger.taken(at(0), &queue(0), &tenant(1));
        for _ in 0..3 {
            assert_eq!(ledger.shares(at(0), 8).of(&tenant(1)), Share { room: 0, held: 1 });
        }
        ledger.ended(&held);
        ledger.shares(at(0), 8);
    }
    assert_eq!(ledger.reached(), [(Bound::Concurrency, 2), (Bound::Rate, 0), (Bound::Memory, 0)]);
}
