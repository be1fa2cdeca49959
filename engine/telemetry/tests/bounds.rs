//! However many names a worker is given, and however they look, its page stays small and can be read.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::limits::Usage;
use stem_core::observe::{AttemptEnd, AttemptFacts, Ending, Observer, Seen};
use stem_core::outcome::{Failure, FailureKind};
use stem_telemetry::{Endpoint, Identity, Options, Telemetry};

fn start() -> Telemetry {
    let identity = Identity { service: "test", attributes: Vec::new() };
    Telemetry::start(Options { identity, page: true, collector: None, numbers: true }).unwrap()
}

fn page(telemetry: &Telemetry) -> String {
    let page = telemetry.open_page("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut stream = TcpStream::connect(page.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// One attempt from its start to its end.
fn attempt(
    observer: &dyn Observer,
    queue: &QueueName,
    name: &TaskName,
    task: &TaskId,
    ending: Ending,
) {
    let waited = Some(Duration::from_millis(1));
    let facts = AttemptFacts { queue, name, task, attempt: 1, parent: None, waited };
    assert!(observer.started(&facts).is_none(), "nobody records traces");
    let failure = Failure::new(FailureKind::Trap, "code", "message");
    let end = AttemptEnd {
        ending,
        failure: Some(&failure),
        ran: Some(Duration::from_millis(2)),
        usage: Some(Usage { cpu_ms: 1.0, peak_memory_bytes: 1 << 20 }),
    };
    observer.ended(&facts, &end);
}

#[test]
fn ten_thousand_names_make_no_more_than_a_thousand_series_and_ids_make_none() {
    let telemetry = start();
    let observer = telemetry.observer();
    let long = "x".repeat(100);
    for number in 0..10_000 {
        let queue = QueueName::new(format!("q{}", number % 7)).unwrap();
        let name = TaskName::new(format!("a.b:c-{long}_{number}")).unwrap();
        let task = TaskId::new(format!("id-{number}")).unwrap();
        attempt(&*observer, &queue, &name, &task, Ending::Succeeded);
        observer.saw(Seen::LeaseReclaimed(&queue, &name));
    }
    let page = page(&telemetry);
    let started: Vec<&str> =
        page.lines().filter(|line| line.starts_with("stem_tasks_started_total{")).collect();
    assert_eq!(started.len(), 1_001, "a thousand, and one for all others");
    let others = started.iter().find(|line| line.contains("(other)")).unwrap();
    assert!(others.ends_with(" 9000"), "{others}");
    assert!(!page.contains("id-"), "ids are labels");
    assert!(!page.contains("overflow"), "the library's own bound was reached first");
    assert!(page.len() < 32 << 20, "{} bytes", page.len());
}

#[test]
fn every_end_of_every_pair_has_its_own_number() {
    let telemetry = start();
    let observer = telemetry.observer();
    let (queue, task) = (QueueName::new("q").unwrap(), TaskId::new("t").unwrap());
    for number in 0..400 {
        let name = TaskName::new(format!("n{number}")).unwrap();
        for ending in Ending::ALL {
            attempt(&*observer, &queue, &name, &task, ending);
        }
    }
    let page = page(&telemetry);
    assert!(!page.contains("overflow"));
    let count = |beginning: &str| page.lines().filter(|line| line.starts_with(beginning)).count();
    assert_eq!(count("stem_task_duration_seconds_count{"), 400 * Ending::ALL.len());
    assert_eq!(count("stem_tasks_failed_total{kind=\"trap\""), 400);
}

/// With a collector that takes connections and says nothing.
fn start_unheard() -> (Telemetry, TcpListener) {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("http://{}", deaf.local_addr().unwrap());
    let identity = Identity { service: "test", attributes: Vec::new() };
    let collector = Some(Endpoint::parse(&at).unwrap());
    let options = Options { identity, page: true, collector, numbers: true };
    (Telemetry::start(options).unwrap(), deaf)
}

#[test]
fn telemetry_that_is_dropped_waits_for_no_collector() {
    let (telemetry, _deaf) = start_unheard();
    let observer = telemetry.observer();
    let (queue, name) = (QueueName::new("q").unwrap(), TaskName::new("n").unwrap());
    drop(telemetry.producer(None, &queue, &name).expect("it is recorded"));
    let begun = Instant::now();
    drop(telemetry);
    drop(observer);
    // One request takes five seconds, and there is one for each signal.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn spans_that_do_not_fit_are_dropped_and_counted_and_nobody_waits() {
    let (telemetry, _deaf) = start_unheard();
    let observer = telemetry.observer();
    let (queue, name) = (QueueName::new("q").unwrap(), TaskName::new("n").unwrap());
    let task = TaskId::new("t").unwrap();
    let facts = AttemptFacts {
        queue: &queue,
        name: &name,
        task: &task,
        attempt: 1,
        parent: None,
        waited: None,
    };
    let end = AttemptEnd { ending: Ending::Succeeded, failure: None, ran: None, usage: None };
    let begun = Instant::now();
    for _ in 0..20_000 {
        observer.started(&facts).expect("it is recorded").end(&end);
    }
    // One request to the collector would have taken five seconds.
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    let page = page(&telemetry);
    let dropped = "stem_telemetry_spans_dropped_total{reason=\"queue-full\"} ";
    let dropped = page.lines().find_map(|line| line.strip_prefix(dropped)).expect("it is counted");
    assert!(dropped.parse::<u64>().unwrap() > 10_000, "{dropped}");
    let begun = Instant::now();
    assert!(!telemetry.shutdown(Duration::from_millis(100)), "they cannot have been sent");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
