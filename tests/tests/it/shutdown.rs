//! Sixteen tasks in flight, and every way to stop their worker at any moment: nothing is lost, nothing is used up,
//! and what was finished is not done again.
//!
//! `STEM_TEST_ROUNDS` says how many rounds each test goes, `STEM_TEST_SEED` repeats what a run has printed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use stem_core::task::{TaskRecord, TaskState};
use stem_services::RedisServer;

use crate::lab::{Lab, Worker, all_on, number};
use crate::store::Store;

const TASKS: usize = 16;
/// How long a soft shutdown waits before force.
const GRACE: Duration = Duration::from_millis(400);
/// What a task that ends by itself takes at most, started with fifteen others.
const LONGEST: Duration = Duration::from_secs(1);
/// What an exit may take beyond that on a machine that is busy; far less than a lease.
const SPARE: Duration = Duration::from_secs(20);

/// One thing that an operator does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Signal(&'static str),
    Command(&'static str),
}

const TERM: Step = Step::Signal("-TERM");
const INT: Step = Step::Signal("-INT");
const QUIT: Step = Step::Signal("-QUIT");
const WARM: Step = Step::Command("warm");
const SOFT: Step = Step::Command("soft");
const HARD: Step = Step::Command("hard");

/// Tasks by name and arguments.
type Kinds = Vec<(&'static str, String)>;

fn kinds(kinds: &[(&'static str, &str)]) -> Kinds {
    kinds.iter().map(|(name, args)| (*name, (*args).to_owned())).collect()
}

/// They end by themselves, soon.
fn short() -> Kinds {
    kinds(&[
        ("crunch", r#"{"items":[1,2,3],"delayMs":100}"#),
        ("crunch", r#"{"items":[1,2,3],"delayMs":200}"#),
        ("word-count", r#"{"text":"one two three"}"#),
    ])
}

/// They never end within a test: computing, asleep, at a checkpoint every tenth of a second; and short ones between.
fn mixed() -> Kinds {
    let endless = format!(r#"{{"items":{},"delayMs":10}}"#, json!(vec![1; 20_000]));
    kinds(&[
        ("spin", "{}"),
        ("crunch", r#"{"items":[1,2,3],"delayMs":600000}"#),
        ("crunch", &endless),
        ("spin", "{}"),
        ("crunch", r#"{"items":[1,2,3],"delayMs":200}"#),
    ])
}

/// Repeatable random numbers (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("STEM_TEST_SEED").map_or_else(
            |_| SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
            |text| text.parse().expect("a whole number"),
        );
        println!("STEM_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn pause(&mut self, longest_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.below(longest_ms)));
    }
}

/// Each way once, or as often as is asked for.
fn rounds(ways: usize) -> usize {
    usize::try_from(number("STEM_TEST_ROUNDS", 0)).unwrap().max(ways)
}

fn records(lab: &Lab) -> BTreeMap<String, Value> {
    let all = lab.stem(&["task", "list", "--limit", "100000", "--json"]).ok().json();
    let all = all.as_array().unwrap().iter();
    all.map(|record| (record["id"].as_str().unwrap().to_owned(), record.clone())).collect()
}

fn count(records: &BTreeMap<String, Value>, state: &str) -> usize {
    records.values().filter(|record| record["state"] == state).count()
}

fn start(lab: &Lab) -> Worker {
    let (tasks, grace) = (TASKS.to_string(), format!("{}ms", GRACE.as_millis()));
    // Leases far longer than a test: what comes back was given back.
    lab.worker(&["--name", "w", "--concurrency", &tasks, "--lease", "10m", "--soft-grace", &grace])
}

/// Measures beside a wait how long the disk kept a small write waiting, since a worker's last writes wait as long.
struct Disk {
    over: Arc<AtomicBool>,
    stalled: std::thread::JoinHandle<Duration>,
}

impl Disk {
    /// A write that takes so long is nothing unusual.
    const USUAL: Duration = Duration::from_millis(50);

    fn watch(lab: &Lab) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (stop, path) = (Arc::clone(&over), lab.path("disk"));
        let stalled = std::thread::spawn(move || {
            let mut stalled = Duration::ZERO;
            while !stop.load(Relaxed) {
                let since = Instant::now();
                let mut file = std::fs::File::create(&path).unwrap();
                file.write_all(&[7; 4096]).unwrap();
                file.sync_all().unwrap();
                stalled += since.elapsed().saturating_sub(Self::USUAL);
                std::thread::sleep(Duration::from_millis(5));
            }
            stalled
        });
        Self { over, stalled }
    }

    fn stalled(self) -> Duration {
        self.over.store(true, Relaxed);
        self.stalled.join().unwrap()
    }
}

/// Goes these ways in turn, with a new worker each time; what one round gives back is in flight in the next.
fn go(ways: &[&[Step]], kinds: &Kinds) {
    let mut dice = Dice::new();
    let lab = Lab::new();
    let mut slowest = Duration::ZERO;
    let rounds = rounds(ways.len());
    for round in 0..rounds {
        let way = ways[round % ways.len()];
        let mut worker = start(&lab);
        let before = records(&lab);
        for number in count(&before, "queued") + count(&before, "running")..TASKS {
            let (name, args) = &kinds[number % kinds.len()];
            lab.enqueue(name, args, &[]);
        }
        // Mostly with all of them running, sometimes while they are being fetched and started.
        let enough = if dice.below(3) > 0 { 0 } else { TASKS / 2 };
        let left = |lab: &Lab| count(&records(lab), "queued");
        lab.wait_for("the start of the tasks", left, |left| *left <= enough);
        dice.pause(150);
        let at = format!("round {round}, {way:?}");
        for (number, step) in way.iter().enumerate() {
            if number > 0 {
                dice.pause(100);
            }
            take(&lab, &worker, *step, &at);
        }
        let disk = Disk::watch(&lab);
        let since = Instant::now();
        assert_eq!(worker.wait(), 0, "{at}:\n{}", worker.log());
        let took = since.elapsed();
        let stalled = disk.stalled();
        let is_warm = way.iter().all(|step| [TERM, WARM].contains(step));
        let bound = SPARE + if is_warm { LONGEST } else { GRACE };
        assert!(
            took <= bound + stalled,
            "{at} took {took:?} of {bound:?}, with a disk that stalled for {stalled:?}:\n{}",
            worker.log()
        );
        let took = took.saturating_sub(stalled);
        slowest = slowest.max(took);
        assert!(!worker.log().contains("will run out"), "{at}:\n{}", worker.log());
        check(&lab, way, &at);
    }
    println!("{rounds} rounds, the slowest exit after {slowest:?}");
}

fn take(lab: &Lab, worker: &Worker, step: Step, at: &str) {
    match step {
        // It may be gone already; then there is nobody to be told.
        Step::Signal(signal) => worker.signal_if_there(signal),
        Step::Command(mode) => {
            let said = lab.stem(&[
                "worker",
                "shutdown",
                "--mode",
                mode,
                "--worker",
                "w",
                "--timeout",
                "3s",
            ]);
            assert!([0, 3].contains(&said.code), "{at}: {}", said.stderr);
        }
    }
}

/// Every task has its result or waits as if it had never been fetched, and the next worker can have it now.
fn check(lab: &Lab, way: &[Step], at: &str) {
    let records = records(lab);
    for record in records.values() {
        let state = record["state"].as_str().unwrap();
        assert!(["succeeded", "queued"].contains(&state), "{at}: {record}");
        for key in ["revocation", "failure"] {
            assert!(record.get(key).is_none(), "{at}: {key}: {record}");
        }
        if state == "succeeded" {
            assert_eq!(
                (&record["attempt"], &record["deliveryCount"]),
                (&json!(1), &json!(1)),
                "{at}: however often it was given back, this was its first: {record}"
            );
        } else {
            assert_eq!(
                (&record["attempt"], &record["deliveryCount"], record.get("startedAt")),
                (&json!(0), &json!(0), None),
                "{at}: as if it had never been fetched: {record}"
            );
        }
    }
    let queued = count(&records, "queued");
    if way == [TERM] || way == [WARM] {
        // What was still waiting when the drain began stays; what ran has ended.
        assert!(queued <= TASKS / 2, "{at}: {queued} were not finished");
    }
    let queue = lab.stem(&["queue", "list", "--json"]).ok().json()[0].clone();
    assert_eq!(
        (&queue["depth"], &queue["inflight"], &queue["delayed"]),
        (&json!(queued), &json!(0), &json!(0)),
        "{at}: {queue}"
    );
    for list in [&["dlq", "list", "--json"], &["revokes", "list", "--json"]] {
        assert_eq!(lab.stem(list).ok().json(), json!([]), "{at}: {list:?}");
    }
}

#[test]
fn warm_finishes_what_runs_and_repeats_nothing() {
    go(&[&[TERM], &[WARM], &[TERM, TERM], &[WARM, TERM], &[TERM, WARM, TERM]], &short());
}

#[test]
fn soft_gives_back_within_its_grace() {
    go(&[&[INT], &[SOFT], &[SOFT, WARM], &[INT, TERM]], &mixed());
}

#[test]
fn hard_gives_back_at_once() {
    go(&[&[QUIT], &[HARD], &[QUIT, QUIT], &[QUIT, TERM], &[QUIT, INT], &[HARD, SOFT]], &mixed());
}

/// Computes for ever, and never asks whether it should stop.
const ENDLESS: &str = r#"(module (memory (export "memory") 1)
  (func (export "stem_run") (result i32) (loop (br 0)) (i32.const 0)))"#;

#[test]
fn twice_as_many_loops_as_places_are_given_back_by_every_drain_that_stops() {
    const PLACES: usize = 4;
    let lab = Lab::new();
    let modules = lab.path("loops");
    std::fs::create_dir(&modules).unwrap();
    std::fs::write(modules.join("endless.wasm"), wat::parse_str(ENDLESS).unwrap()).unwrap();
    for _ in 0..2 * PLACES {
        lab.enqueue("endless", "{}", &[]);
    }
    let (modules, places) = (modules.to_str().unwrap().to_owned(), PLACES.to_string());
    let grace = format!("{}ms", GRACE.as_millis());
    // The same tasks in each round: whatever one takes from them, the next has less.
    for step in [INT, QUIT, SOFT, HARD, INT, QUIT] {
        let at = format!("{step:?}");
        let mut worker = lab.worker_from(&[
            "worker",
            "start",
            "--name",
            "w",
            "--modules",
            &modules,
            "--concurrency",
            &places,
            "--lease",
            "10m",
            "--soft-grace",
            &grace,
        ]);
        let computing = |lab: &Lab| {
            let said = lab.stem(&["worker", "inspect", "--json"]).ok().json();
            let rows = said["replies"][0]["payload"]["active"].as_array().unwrap().iter();
            rows.filter(|row| row["cpuMs"].as_f64().unwrap_or(0.0) > 0.0).count()
        };
        lab.wait_for("a loop in each place", computing, |count| *count == PLACES);
        let before = records(&lab);
        let counts = (count(&before, "running"), count(&before, "queued"));
        assert_eq!(counts, (PLACES, PLACES), "{at}");
        let since = Instant::now();
        take(&lab, &worker, step, &at);
        assert_eq!(worker.wait(), 0, "{at}:\n{}", worker.log());
        println!("{at} took {:?}", since.elapsed());
        check(&lab, &[step], &at);
        assert_eq!(count(&records(&lab), "queued"), 2 * PLACES, "{at}");
    }
}

#[test]
fn a_second_signal_or_command_hurries_and_never_slows() {
    go(
        &[
            &[INT, INT],
            &[TERM, INT],
            &[TERM, QUIT],
            &[TERM, INT, QUIT],
            &[TERM, INT, INT, TERM],
            &[WARM, SOFT, HARD],
            &[TERM, HARD],
            &[SOFT, INT],
        ],
        &mixed(),
    );
}

#[test]
fn a_task_that_obeys_a_soft_shutdown_goes_on_where_it_was() {
    let lab = Lab::new();
    let items: Vec<_> = (1..=60).map(|item| item.to_string()).collect();
    let args = format!(r#"{{"items":[{}],"delayMs":100}}"#, items.join(","));
    // A grace that nobody waits for: the task ends by itself at its next checkpoint.
    let mut worker = lab.worker(&["--soft-grace", "10m", "--lease", "10m"]);
    let id = lab.enqueue("crunch", &args, &[]);
    lab.until(&id, "under way", |record| record["progress"]["fraction"].as_f64() > Some(0.0));
    worker.signal("-INT");
    assert_eq!(worker.wait(), 0, "{}", worker.log());
    check(&lab, &[INT], "soft");
    assert_eq!(lab.show(&id)["state"], "queued");
    let _next = lab.worker(&[]);
    let record = lab.until_state(&id, "succeeded");
    assert_eq!((&record["attempt"], &record["deliveryCount"]), (&json!(1), &json!(1)), "{record}");
    assert_eq!(record["result"]["sum"], 1830, "{record}");
    assert!(record["result"]["resumedAt"].as_u64() >= Some(10), "it began anew: {record}");
}

/// What is wrong with the broker.
#[derive(Clone, Copy, Debug)]
enum Broker {
    Killed,
    Frozen,
}

/// Sixteen tasks in flight and no broker to give them back to: the worker ends all the same, and another has them when their
/// leases are over.
fn go_without_a_broker(broker: Broker, way: &[Step], dice: &mut Dice) {
    let at = format!("{broker:?}, {way:?}");
    let lab = Lab::new();
    let server = RedisServer::start();
    let url = server.url();
    let env = all_on(&url);
    let (tasks, grace) = (TASKS.to_string(), format!("{}ms", GRACE.as_millis()));
    let words = ["--concurrency", &tasks, "--lease", "2s", "--soft-grace", &grace];
    for _ in 0..TASKS {
        let args = r#"{"items":[1,2,3],"delayMs":500}"#;
        lab.stem_with(&["task", "enqueue", "crunch", "--json-args", args], &env).ok();
    }
    let mut worker = lab.worker_with(&words, &env);
    let records = |_: &Lab| Store::redis(&url).records(None);
    let begun =
        |records: &Vec<TaskRecord>| records.iter().all(|record| record.state != TaskState::Queued);
    lab.wait_for("their start", records, begun);
    dice.pause(300);
    match broker {
        Broker::Killed => server.kill(),
        Broker::Frozen => server.freeze(),
    }
    dice.pause(300);
    let since = Instant::now();
    for step in way {
        take(&lab, &worker, *step, &at);
        dice.pause(100);
    }
    let code = worker.wait();
    println!("{at}: code {code} after {:?}", since.elapsed());
    assert_eq!(code, 0, "{at}:\n{}", worker.log());
    assert!(since.elapsed() < SPARE + LONGEST * 2, "{at} took {:?}", since.elapsed());
    match broker {
        Broker::Killed => server.restart(),
        Broker::Frozen => server.thaw(),
    }
    let _next = lab.worker_with(&words, &env);
    let done = |records: &Vec<TaskRecord>| {
        records.iter().all(|record| record.state == TaskState::Succeeded)
    };
    let records = lab.wait_for("their ends", records, done);
    assert_eq!(records.len(), TASKS, "{at}");
    for record in &records {
        assert_eq!(record.attempt, 1, "{at}: {record:?}");
        assert!((1..=2).contains(&record.delivery_count), "{at}: {record:?}");
    }
    let dead = lab.stem_with(&["dlq", "list", "--json"], &env).ok().json();
    assert_eq!(dead, json!([]), "{at}");
}

#[test]
fn without_a_broker_a_worker_ends_and_its_tasks_come_back_with_their_leases() {
    let mut dice = Dice::new();
    let ways: [&[Step]; 5] = [&[TERM], &[INT], &[QUIT], &[TERM, INT], &[TERM, TERM, QUIT]];
    for round in 0..rounds(ways.len()) {
        let broker = if round % 2 == 0 { Broker::Killed } else { Broker::Frozen };
        go_without_a_broker(broker, ways[round % ways.len()], &mut dice);
    }
}
