//! A worker is stopped with tasks in flight, for longer than their leases. Others do the tasks, soon; what it still tries
//! when it goes on changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stem_chaos::checker::Rules;
use stem_chaos::dice::Dice;
use stem_chaos::history::{Event, Moment};
use stem_chaos::lab::Lab;
use stem_chaos::place::Place;
use stem_chaos::process::{Process, Program, Tail, until};
use stem_chaos::server::Server;
use stem_core::id::TaskId;
use stem_core::task::TaskState;
use stem_services::Fsync;

use crate::{must_hold, number};

/// In flight in each of the two workers.
const TASKS: usize = 8;
const LEASE: Duration = Duration::from_millis(500);
/// How long the worker is stopped, in leases.
const LEASES: u32 = 3;
/// Long enough for all tasks of a worker to be in flight at once. When the worker goes on, some of its tasks have ended
/// elsewhere and some are still running there: only then does it matter whose token is shown.
const NAP: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(1_600));
/// The worker is stopped so long after all its tasks have begun, at most.
const LATER: Duration = Duration::from_millis(300);
/// Tasks a second for a worker that is stopped at any moment, until the producer is killed.
const RATE: u64 = 200;
const ENDLESS: u64 = 1_000_000;
/// From the stop until others have done what the worker had in hand: its lease, and what may be lost on a busy machine. What
/// is printed is far below.
const RESCUE: Duration = Duration::from_secs(30);

fn starts(tail: &mut Tail) -> usize {
    tail.count(|line| matches!(line.2, Event::Start(_)))
}

fn ends(tail: &mut Tail) -> usize {
    tail.count(|line| matches!(line.2, Event::End { .. }))
}

fn freeze_again_and_again(what: &str, server: &Server) {
    let mut dice = Dice::from_env();
    let rounds = number("STEM_TEST_ROUNDS", 5);
    let lab = Lab::new(Place::all_in_one(&server.url()));
    let args = [("lease-ms", u64::try_from(LEASE.as_millis()).unwrap())];
    let start = |name| lab.start(Program::Worker, name, &args);
    let mut workers = vec![start("frozen"), start("other")];
    let mut tails: Vec<Tail> = workers.iter().map(Process::follow).collect();
    tails.iter_mut().for_each(Tail::until_ready);
    let mut zombies = 0;
    for round in 1..=rounds {
        let nap = |n| {
            let id = TaskId::new(format!("r{round}-{n}")).unwrap();
            (id, dice.between(NAP.0, NAP.1))
        };
        let naps: Vec<_> = (1..=2 * TASKS).map(nap).collect();
        let tail = &mut tails[0];
        let before = starts(tail);
        lab.enqueue(&naps);
        until("eight tasks in flight", || starts(tail) >= before + TASKS);
        std::thread::sleep(dice.between(Duration::ZERO, LATER));
        workers[0].freeze();
        zombies += starts(tail) - ends(tail);
        std::thread::sleep(LEASE * LEASES);
        workers[0].thaw();
        until("the last of the old attempts to end", || starts(tail) == ends(tail));
        let stored = lab.drain(&mut workers);
        assert_eq!(stored.deliveries, 0, "round {round}: deliveries are left");
    }
    let stored = lab.drain(&mut workers);
    let refused =
        tails[0].count(|line| matches!(line.2, Event::SettleStale(_) | Event::RenewStale(_)));
    println!(
        "{what}: {rounds} rounds, {zombies} attempts outlived their lease, {refused} refusals"
    );
    assert!(zombies > 0, "{what}: nothing was in flight");
    must_hold(what, &lab.verdict(workers, &stored, Rules::STRICT));
}

/// What a worker that was stopped holds: delivered to it, and not settled as far as it knows.
fn in_hand(tail: &mut Tail) -> BTreeSet<TaskId> {
    let mut tasks = BTreeSet::new();
    for line in tail.look() {
        match &line.2 {
            Event::Lease { held, .. } => {
                tasks.insert(held.task.clone());
            }
            Event::SettleOk(settle) | Event::SettleStale(settle) => {
                tasks.remove(&settle.task);
            }
            _ => {}
        }
    }
    tasks
}

/// The longest time in which nothing of this kind happened, from `since` until now.
fn longest_pause(tail: &mut Tail, since: Moment, meant: impl Fn(&Event) -> bool) -> Duration {
    let now = Moment::now();
    let times = tail.look().iter().filter(|line| line.0 >= since && meant(&line.2));
    let times: Vec<Moment> = [since].into_iter().chain(times.map(|line| line.0)).collect();
    let ends = times.iter().skip(1).chain([&now]);
    times.iter().zip(ends).map(|(from, to)| to.since(*from)).max().unwrap_or_default()
}

fn freeze_at_any_moment(what: &str, server: &Server) {
    let mut dice = Dice::from_env();
    let rounds = number("STEM_TEST_ROUNDS", 5);
    let lab = Lab::new(Place::all_in_one(&server.url()));
    let args = [("lease-ms", u64::try_from(LEASE.as_millis()).unwrap())];
    let start = |name| lab.start(Program::Worker, name, &args);
    let mut workers = vec![start("frozen"), start("other")];
    let mut tails: Vec<Tail> = workers.iter().map(Process::follow).collect();
    tails.iter_mut().for_each(Tail::until_ready);
    let flow = [("count", ENDLESS), ("rate", RATE)];
    let mut producer = lab.start(Program::Producer, "p1", &flow);
    let mut enqueued = producer.follow();
    let mut slowest = [Duration::ZERO; 3];
    for round in 1..=rounds {
        let before = starts(&mut tails[0]);
        until("tasks to flow", || starts(&mut tails[0]) > before + TASKS);
        std::thread::sleep(dice.between(Duration::ZERO, LATER));
        workers[0].freeze();
        let frozen = Moment::now();
        let held = in_hand(&mut tails[0]);
        until("others to do what it had in hand", || {
            held.iter().all(|task| lab.state(task).is_none_or(TaskState::is_final))
        });
        let rescued = Moment::now().since(frozen);
        std::thread::sleep((LEASE * LEASES).saturating_sub(rescued));
        let settled = |event: &Event| matches!(event, Event::SettleOk(_));
        let stored = |event: &Event| matches!(event, Event::EnqOk(_));
        let took = [
            rescued,
            longest_pause(&mut tails[1], frozen, settled),
            longest_pause(&mut enqueued, frozen, stored),
        ];
        workers[0].thaw();
        println!("{what}, round {round}: {} in hand, rescued after {rescued:.1?}", held.len());
        for (slowest, took) in slowest.iter_mut().zip(took) {
            *slowest = took.max(*slowest);
        }
    }
    producer.kill();
    let stored = lab.drain(&mut workers);
    let [rescued, settled, enqueued] = slowest;
    println!(
        "{what}: done elsewhere after {rescued:.1?}, longest pause of settling {settled:.1?}, of enqueueing {enqueued:.1?}"
    );
    must_hold(what, &lab.verdict(workers, &stored, Rules::STRICT));
    assert!(rescued <= RESCUE, "{what}: what it had in hand was done only after {rescued:?}");
    for pause in [settled, enqueued] {
        assert!(pause <= RESCUE, "{what}: others stood still for {pause:?}");
    }
}

/// How often an attempt of a worker was about to ask for a write when its lease was over.
fn late_writers(tail: &mut Tail) -> usize {
    let mut leases = BTreeMap::new();
    let mut late = 0;
    for line in tail.look() {
        match &line.2 {
            Event::Lease { held, until } | Event::Renewed { held, until } => {
                leases.insert((held.task.clone(), held.token), *until);
            }
            Event::WantsWrite(held) => {
                let until = leases.get(&(held.task.clone(), held.token));
                late += usize::from(until.is_some_and(|until| *until < line.0));
            }
            _ => {}
        }
    }
    late
}

/// Which tasks of a worker have asked to write a value, and how often one was written.
fn writers(tail: &mut Tail) -> (BTreeSet<TaskId>, usize) {
    let mut asking = BTreeSet::new();
    let mut written = 0;
    for line in tail.look() {
        match &line.2 {
            Event::WantsWrite(held) => {
                asking.insert(held.task.clone());
            }
            Event::WriteOk(_) => written += 1,
            _ => {}
        }
    }
    (asking, written)
}

/// As often as guests are in the middle of writing, a worker is stopped; what they ask for when it goes on is refused.
#[test]
fn a_frozen_worker_writes_no_value_after_its_lease() {
    let (server, mut dice) = (Server::redis(Fsync::Everysec), Dice::from_env());
    let rounds = number("STEM_TEST_ROUNDS", 5);
    let lab = Lab::new(Place::all_in_one(&server.url()));
    lab.bring_writers();
    let lease = u64::try_from(LEASE.as_millis()).unwrap();
    let args = [("lease-ms", lease), ("isolates", TASKS as u64)];
    let start = |name| lab.start(Program::Worker, name, &args);
    let mut workers = vec![start("frozen"), start("other")];
    let mut tails: Vec<Tail> = workers.iter().map(Process::follow).collect();
    tails.iter_mut().for_each(Tail::until_ready);
    let mut held = 0;
    for round in 1..=rounds {
        let ids: Vec<_> =
            (1..=2 * TASKS).map(|n| TaskId::new(format!("r{round}-{n}")).unwrap()).collect();
        lab.enqueue_writers(&ids);
        until("eight tasks that write", || {
            let (asking, _) = writers(&mut tails[0]);
            ids.iter().filter(|id| asking.contains(id)).count() >= TASKS
        });
        std::thread::sleep(dice.between(Duration::ZERO, LATER));
        workers[0].freeze();
        held += in_hand(&mut tails[0]).len();
        std::thread::sleep(LEASE * LEASES);
        workers[0].thaw();
        let stored = lab.drain(&mut workers);
        assert_eq!(stored.deliveries, 0, "round {round}: deliveries are left");
    }
    let stored = lab.drain(&mut workers);
    let written: usize = tails.iter_mut().map(|tail| writers(tail).1).sum();
    let late = late_writers(&mut tails[0]);
    println!(
        "writers: {rounds} rounds, {held} attempts outlived their lease, {late} were about to write after it, {written} values written"
    );
    let verdict = lab.verdict(workers, &stored, Rules::STRICT);
    must_hold("writers", &verdict);
    assert!(verdict.counts.effects >= written && written > 0, "nothing was written");
    assert!(held > 0, "no attempt outlived its lease");
}

#[test]
fn a_frozen_worker_changes_nothing_after_its_lease() {
    freeze_again_and_again("redis", &Server::redis(Fsync::Everysec));
}

#[test]
fn a_frozen_worker_changes_nothing_after_its_lease_on_postgres() {
    freeze_again_and_again("postgres", &Server::postgres());
}

#[test]
fn a_worker_frozen_at_any_moment_keeps_nobody_waiting() {
    freeze_at_any_moment("redis", &Server::redis(Fsync::Everysec));
}

#[test]
fn a_worker_frozen_at_any_moment_keeps_nobody_waiting_on_postgres() {
    freeze_at_any_moment("postgres", &Server::postgres());
}
