//! Tasks that take their worker down, among many that do not: each is given up after a few lives, and takes nobody with it.
//!
//! `STEM_TEST_POISON` says how many of them there are, with a hundred others for each; five if it is not set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::task::{TaskRecord, TaskState};
use stem_core::time::Clock;
use stem_engine::SystemClock;

use crate::lab::{Lab, PATIENCE, Worker, number};
use crate::store::Store;

/// For each that kills.
const OTHERS: usize = 100;
/// A worker takes a task for poison that has lost so many.
const LIVES: usize = 5;
/// What a task that kills says when it has begun.
const LAST_WORDS: &str = "it takes its worker down";

/// Says its last words, and computes until somebody ends its worker.
const KILLER: &str = r#"(module
  (import "stem0" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "it takes its worker down")
  (func (export "stem_run") (result i32)
    (call $log (i32.const 4) (i32.const 0) (i32.const 24))
    (loop (br 0))
    (i32.const 0)))"#;
/// Waits for 50 ms.
const NAP: &str = r#"(module
  (import "stem0" "sleep" (func $sleep (param i64) (result i32)))
  (memory (export "memory") 1)
  (func (export "stem_run") (result i32) (call $sleep (i64.const 50))))"#;
/// Waits for 3 s.
const REST: &str = r#"(module
  (import "stem0" "sleep" (func $sleep (param i64) (result i32)))
  (memory (export "memory") 1)
  (func (export "stem_run") (result i32) (call $sleep (i64.const 3000))))"#;

fn killers() -> usize {
    usize::try_from(number("STEM_TEST_POISON", 5)).unwrap()
}

fn task(name: &str, number: usize) -> Envelope {
    let id = TaskId::new(format!("{name}-{number}")).unwrap();
    let (name, queue) = (TaskName::new(name).unwrap(), QueueName::new("default").unwrap());
    Envelope::new(id, name, queue, Payload::json("{}"), SystemClock.now())
}

/// Which of them have begun in this life of a worker, by what they said in it.
fn begun_by(log: &str, killers: usize) -> BTreeSet<usize> {
    let said = log.lines().filter(|line| line.contains(LAST_WORDS));
    let words: BTreeSet<&str> = said
        .flat_map(|line| line.split(|it: char| !it.is_ascii_alphanumeric() && it != '-'))
        .collect();
    (0..killers).filter(|number| words.contains(format!("killer-{number}").as_str())).collect()
}

fn modules(lab: &Lab) {
    std::fs::create_dir(lab.path("modules")).unwrap();
    for (name, text) in [("killer", KILLER), ("nap", NAP), ("rest", REST)] {
        let path = lab.path(&format!("modules/{name}.wasm"));
        std::fs::write(path, wat::parse_str(text).unwrap()).unwrap();
    }
}

fn start(lab: &Lab, lease: &str) -> Worker {
    let words = ["worker", "start", "--modules", "modules", "--concurrency", "8"];
    lab.worker_from(&[words.as_slice(), &["--lease", lease]].concat())
}

fn has_ended(record: &TaskRecord) -> bool {
    matches!(record.state, TaskState::Succeeded | TaskState::Failed)
}

#[test]
fn tasks_that_take_their_workers_down_are_given_up_and_every_other_ends_well() {
    let lab = Lab::new();
    modules(&lab);
    let killers = killers();
    let all = killers * (OTHERS + 1);
    // Each with half of its hundred before it and half behind it.
    let tasks: Vec<_> = (0..killers * OTHERS)
        .flat_map(|number| {
            let killer = (number % OTHERS == OTHERS / 2).then(|| task("killer", number / OTHERS));
            [task("nap", number)].into_iter().chain(killer)
        })
        .collect();
    assert_eq!(tasks.len(), all);
    let store = Store::open(&lab.database());
    tasks.chunks(500).for_each(|some| store.publish(some));

    let since = Instant::now();
    let mut starts = BTreeMap::new();
    let mut deaths = 0;
    let last = loop {
        let mut worker = start(&lab, "2s");
        let begun = until_one_begins_or_all_have_ended(&lab, &store, &worker, killers, all);
        if begun.is_empty() {
            break worker;
        }
        worker.signal("-KILL");
        worker.wait();
        deaths += 1;
        // With those that began while the first was being noticed.
        for number in begun_by(&worker.log(), killers) {
            *starts.entry(number).or_insert(0_usize) += 1;
        }
        assert!(deaths <= killers * LIVES, "workers die without end: {starts:?}");
    };
    println!("{all} tasks took {deaths} workers down, and {:?}", since.elapsed());
    drop(last);

    assert_eq!(starts.len(), killers, "{starts:?}");
    assert!(starts.values().all(|starts| *starts <= LIVES), "{starts:?}");
    let records = store.records(None);
    let (killed, others): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.name.as_str() == "killer");
    let lost: Vec<_> =
        others.iter().filter(|record| record.state != TaskState::Succeeded).collect();
    assert!(lost.is_empty(), "{} that kill nobody were lost: {lost:#?}", lost.len());
    assert!(others.iter().all(|record| record.attempt == 1), "a crash uses up no attempt");
    for record in killed {
        assert_eq!(record.failure.as_ref().unwrap().code, "poison", "{record:?}");
    }
    let dead = lab.stem(&["dlq", "list", "--limit", "10000", "--json"]).ok().json();
    let dead: Vec<_> = dead.as_array().unwrap().iter().map(|one| one["reason"].clone()).collect();
    assert_eq!(dead, vec!["poison"; killers]);
}

#[test]
fn what_has_one_life_left_is_not_lost_beside_another_that_kills() {
    let lab = Lab::new();
    modules(&lab);
    let store = Store::open(&lab.database());
    store.publish(&[task("rest", 0)]);
    let start = || start(&lab, "2s");
    // Four workers are lost while it is in hand, whoever is to blame.
    for life in 1..LIVES {
        let worker = start();
        let lives = u64::try_from(life).ok();
        lab.until("rest-0", "in hand", |record| record["deliveryCount"].as_u64() >= lives);
        worker.kill();
    }
    store.publish(&[task("killer", 0)]);
    // Its lease is over, so the next worker gets both at once.
    std::thread::sleep(Duration::from_secs(3));
    let mut said = String::new();
    loop {
        let worker = start();
        let begun = until_one_begins_or_all_have_ended(&lab, &store, &worker, 1, 2);
        said.push_str(&worker.log());
        worker.kill();
        if begun.is_empty() {
            break;
        }
    }
    let record = lab.show("rest-0");
    assert_eq!(record["state"], "succeeded", "it kills nobody: {record}\n{said}");
    assert_eq!(lab.show("killer-0")["failure"]["code"], "poison");
}

/// The ones that began; none if all tasks have ended.
fn until_one_begins_or_all_have_ended(
    lab: &Lab,
    store: &Store,
    worker: &Worker,
    killers: usize,
    all: usize,
) -> BTreeSet<usize> {
    let mut seen = 0;
    let mut since = Instant::now();
    loop {
        // Twice a second is enough for what is looked at in the store.
        for _ in 0..100 {
            let begun = begun_by(&worker.log(), killers);
            if !begun.is_empty() {
                return begun;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let records = store.records(None);
        let ended = records.iter().filter(|record| has_ended(record)).count();
        if ended == all {
            return BTreeSet::new();
        }
        if ended > seen {
            (seen, since) = (ended, Instant::now());
        }
        let queue = || lab.stem(&["queue", "list", "--json"]).stdout;
        // What runs alone has its worker for a minute at the longest.
        assert!(
            since.elapsed() < PATIENCE * 2,
            "only {ended} ended:\n{}\n{}",
            queue(),
            worker.log()
        );
    }
}
