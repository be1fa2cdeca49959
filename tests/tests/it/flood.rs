//! A flood of some tenants, against workers with quotas and against one without: real processes, on SQLite, Redis and
//! Postgres.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use stem_core::envelope::{Envelope, Payload, Priority};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::task::{TaskRecord, TaskState};
use stem_core::tenant::HEADER;
use stem_core::time::Clock;
use stem_engine::SystemClock;
use stem_services::{PostgresServer, RedisServer};

use crate::lab::{Lab, all_on};
use crate::store::Store;

/// Of each that floods; more than the eight places do while the test runs.
const FLOOD: usize = 1_500;
/// Asked for by the modest one, one after another.
const MODEST: usize = 10;
/// A task of `crunch` may have 32 MiB.
const QUOTAS: &str = r#"
[tenants."*"]
concurrency = 3
[tenants.hungry]
memory = "70MiB"
[tenants.hasty]
rate = "5/s"
"#;

/// A task of 50 ms.
fn task(tenant: &str, number: usize, priority: u8) -> Envelope {
    named("crunch", tenant, number, priority)
}

fn named(name: &str, tenant: &str, number: usize, priority: u8) -> Envelope {
    in_queue("default", name, tenant, number, priority)
}

fn in_queue(queue: &str, name: &str, tenant: &str, number: usize, priority: u8) -> Envelope {
    let id = TaskId::new(format!("{tenant}-{number}")).unwrap();
    let (name, queue) = (TaskName::new(name).unwrap(), QueueName::new(queue).unwrap());
    let payload = Payload::json(r#"{"items":[1],"delayMs":50}"#);
    Envelope {
        priority: Priority::new(priority).unwrap(),
        headers: BTreeMap::from([(HEADER.to_owned(), tenant.to_owned())]),
        ..Envelope::new(id, name, queue, payload, SystemClock.now())
    }
}

fn of<'a>(records: &'a [TaskRecord], tenant: &str) -> Vec<&'a TaskRecord> {
    let begins = format!("{tenant}-");
    records.iter().filter(|record| record.id.as_str().starts_with(&begins)).collect()
}

/// The most of these that ran at one moment.
fn at_once(records: &[&TaskRecord]) -> i32 {
    let mut moments = Vec::new();
    for record in records {
        moments.extend(record.started_at.map(|at| (at, 1)));
        moments.extend(record.started_at.and(record.finished_at).map(|at| (at, -1)));
    }
    // What ends in a millisecond is not there with what starts in it.
    moments.sort();
    let (mut now, mut most) = (0, 0);
    for (_, step) in moments {
        now += step;
        most = most.max(now);
    }
    most
}

/// Of a rate of 5 in a second.
fn assert_five_in_a_second(records: &[&TaskRecord]) {
    let mut starts: Vec<i64> =
        records.iter().filter_map(|record| Some(record.started_at?.unix_millis())).collect();
    starts.sort_unstable();
    for (first, from) in starts.iter().enumerate() {
        let within = starts[first..].iter().take_while(|at| **at < from + 1_000).count();
        // A second's worth at once, a second's worth in the second; taken is not yet started.
        assert!(within <= 5 + 5 + 3, "{within} in a second");
    }
}

fn is_held_back(inspected: &Value, tenant: &str, by: &str) -> bool {
    let rows = inspected["replies"][0]["payload"]["quotas"].as_array().unwrap();
    rows.iter().any(|row| row["name"] == tenant && row["heldBackBy"] == by)
}

#[test]
fn a_flood_keeps_no_other_tenant_waiting_and_no_tenant_has_more_than_its_quota() {
    let lab = Lab::new();
    let mut open = lab.worker(&["--name", "open", "--concurrency", "8"]);
    let store = Store::open(&lab.database());
    for tenant in ["greedy", "hungry", "hasty"] {
        let flood: Vec<Envelope> = (0..FLOOD).map(|number| task(tenant, number, 9)).collect();
        store.publish(&flood);
    }
    store.publish(&[task("modest", 0, 0)]);
    // Without quotas the last is the last: who asks most, and shouts loudest, is served.
    let ended = |_: &Lab| store.records(Some(TaskState::Succeeded)).len();
    lab.wait_for("the flood", ended, |count| *count >= 200);
    assert_eq!(lab.show("modest-0")["state"], "queued");
    open.signal("-TERM");
    assert_eq!(open.wait(), 0);

    let quotas = lab.path("quotas.toml");
    std::fs::write(&quotas, QUOTAS).unwrap();
    std::fs::set_permissions(&quotas, PermissionsExt::from_mode(0o600)).unwrap();
    let with = ["--name", "fair", "--concurrency", "8", "--quotas", quotas.to_str().unwrap()];
    let mut fair = lab.worker(&with);
    lab.until_state("modest-0", "succeeded");
    for number in 1..=MODEST {
        store.publish(&[task("modest", number, 0)]);
        lab.until_state(&format!("modest-{number}"), "succeeded");
    }
    for (tenant, bound) in [("greedy", "concurrency"), ("hungry", "memory"), ("hasty", "rate")] {
        let look = |lab: &Lab| lab.stem(&["worker", "inspect", "--json"]).ok().json();
        lab.wait_for(bound, look, |inspected| is_held_back(inspected, tenant, bound));
    }
    let said = lab.stem(&["worker", "inspect"]).ok().stdout;
    assert!(said.contains("tenant greedy") && said.contains("HELD BACK BY"), "{said}");
    fair.signal("-TERM");
    assert_eq!(fair.wait(), 0);

    let records = store.records(None);
    let by_fair = |tenant: &str| -> Vec<&TaskRecord> {
        let mut own = of(&records, tenant);
        own.retain(|record| record.worker.as_ref().is_some_and(|it| it.as_str() == "fair"));
        own
    };
    // Their floods were there until the end.
    let waiting = records.iter().filter(|record| record.state == TaskState::Queued).count();
    assert!(waiting > FLOOD, "only {waiting} were left");
    let (greedy, hungry, hasty) = (by_fair("greedy"), by_fair("hungry"), by_fair("hasty"));
    assert_eq!(at_once(&greedy), 3);
    // Two of 32 MiB have room in 70.
    assert_eq!(at_once(&hungry), 2);
    // None of them was kept from what was its own.
    assert!(greedy.len() > MODEST && hungry.len() > MODEST, "{} {}", greedy.len(), hungry.len());
    assert_five_in_a_second(&hasty);
    for record in
        of(&records, "modest").into_iter().filter(|record| record.id.as_str() != "modest-0")
    {
        assert_eq!((record.attempt, record.delivery_count), (1, 1), "{record:?}");
        let (asked, began) = (record.enqueued_at, record.started_at.unwrap());
        let between =
            |other: &&&TaskRecord| other.started_at.is_some_and(|at| at > asked && at < began);
        let before = greedy.iter().chain(&hungry).chain(&hasty).filter(between).count();
        assert!(before <= 40, "{before} went before {record:?}");
    }
}

/// A task of `crunch` may have 32 MiB.
const QUEUES: &str = r#"
[queues.large]
memory = "70MiB"
[queues.slow]
rate = "5/s"
"#;

#[test]
fn a_queue_holds_no_more_memory_and_begins_no_more_often_than_its_quota() {
    let lab = Lab::new();
    let quotas = lab.path("quotas.toml");
    std::fs::write(&quotas, QUEUES).unwrap();
    std::fs::set_permissions(&quotas, PermissionsExt::from_mode(0o600)).unwrap();
    let with = ["--concurrency", "8", "--quotas", quotas.to_str().unwrap()];
    let queues = ["--queue", "large", "--queue", "slow", "--queue", "default"];
    let mut worker = lab.worker(&[with.as_slice(), &queues].concat());
    let store = Store::open(&lab.database());
    // Each queue has a tenant of its own name, for which nothing is set.
    for queue in ["large", "slow", "default"] {
        let flood: Vec<_> =
            (0..300).map(|number| in_queue(queue, "crunch", queue, number, 5)).collect();
        store.publish(&flood);
    }
    for (queue, bound) in [("large", "memory"), ("slow", "rate")] {
        let look = |lab: &Lab| lab.stem(&["worker", "inspect", "--json"]).ok().json();
        lab.wait_for(bound, look, |inspected| is_held_back(inspected, queue, bound));
    }
    let ended = |_: &Lab| {
        let records = store.records(Some(TaskState::Succeeded));
        ["large", "slow", "default"].map(|queue| of(&records, queue).len())
    };
    let wanted = |[large, slow, others]: [usize; 3]| large >= 40 && slow >= 15 && others >= 100;
    lab.wait_for("some of each queue", ended, |counts| wanted(*counts));
    worker.signal("-TERM");
    assert_eq!(worker.wait(), 0);
    let records = store.records(None);
    // Two of 32 MiB have room in 70.
    assert_eq!(at_once(&of(&records, "large")), 2);
    assert_five_in_a_second(&of(&records, "slow"));
    assert!(at_once(&of(&records, "default")) > 2, "the others had what was left");
}

/// Waits for 50 ms.
const NAP: &str = r#"(module
  (import "stem0" "sleep" (func $sleep (param i64) (result i32)))
  (memory (export "memory") 1)
  (func (export "stem_run") (result i32) (call $sleep (i64.const 50))))"#;
const NAP_MANIFEST: &str =
    "[handlers.nap]\nsource = \"file:nap.wasm\"\n[handlers.nap.limits]\nmemory = \"32MiB\"\n";
/// Of each tenant that floods there, and asked for at once.
const THOUSANDS: usize = 2_000;
/// So many tasks of others may go before each task of the modest one, over all workers: three tenants take turns, each
/// request of a worker has up to four turns, and what was in hand when the modest one came is done first.
const TURNS: usize = 40;

/// Two workers with quotas beside two floods of higher priority, which were there first: the few tasks of a third tenant end
/// while thousands still wait, and on no worker has anybody more than its quota.
fn few_end_while_thousands_wait(store: &Store, url: &str) {
    let lab = Lab::new();
    let modules = lab.path("naps");
    std::fs::create_dir(&modules).unwrap();
    std::fs::write(modules.join("nap.wasm"), wat::parse_str(NAP).unwrap()).unwrap();
    std::fs::write(modules.join("stem.toml"), NAP_MANIFEST).unwrap();
    let quotas = lab.path("quotas.toml");
    std::fs::write(&quotas, QUOTAS).unwrap();
    std::fs::set_permissions(&quotas, PermissionsExt::from_mode(0o600)).unwrap();
    for tenant in ["greedy", "hungry"] {
        let flood: Vec<_> = (0..THOUSANDS).map(|number| named("nap", tenant, number, 9)).collect();
        flood.chunks(500).for_each(|some| store.publish(some));
    }
    let few: Vec<_> = (0..MODEST).map(|number| named("nap", "modest", number, 0)).collect();
    store.publish(&few);

    let env = all_on(url);
    let (modules, quotas) = (modules.to_str().unwrap(), quotas.to_str().unwrap());
    let names = ["one", "two"];
    let mut workers = names.map(|name| {
        let words = ["worker", "start", "--name", name, "--concurrency", "4", "--modules", modules];
        lab.start(&[words.as_slice(), &["--quotas", quotas]].concat(), &env)
    });
    let ended = |_: &Lab| {
        // What each worker says of itself meanwhile.
        let said = lab.stem_with(&["worker", "inspect", "--json"], &env).ok().json();
        let replies = said["replies"].as_array().unwrap().iter();
        for row in replies.flat_map(|reply| reply["payload"]["quotas"].as_array().unwrap()) {
            for (tenant, most) in [("greedy", 3), ("hungry", 2)] {
                assert!(row["name"] != tenant || row["inflight"].as_u64() <= Some(most), "{row}");
            }
        }
        let records = store.records(Some(TaskState::Succeeded));
        let all = ["modest", "greedy", "hungry"].map(|tenant| of(&records, tenant).len());
        (all, said)
    };
    // Both floods have used what is theirs, too.
    let wanted = |[modest, greedy, hungry]: [usize; 3]| {
        modest == MODEST && greedy >= 3 * MODEST && hungry >= 3 * MODEST
    };
    lab.wait_for("the end of the few", ended, |(counts, _)| wanted(*counts));
    for worker in &mut workers {
        worker.signal("-TERM");
        assert_eq!(worker.wait(), 0, "{}", worker.log());
    }

    let records = store.records(None);
    assert_eq!(records.len(), 2 * THOUSANDS + MODEST);
    for record in &records {
        let counts = (record.attempt, record.delivery_count);
        let is_done = record.state == TaskState::Succeeded && counts == (1, 1);
        assert!(is_done || (record.state == TaskState::Queued && counts == (0, 0)), "{record:?}");
    }
    let few = of(&records, "modest");
    let last_began = few.iter().map(|record| record.started_at.unwrap()).max().unwrap();
    let last_ended = few.iter().map(|record| record.finished_at.unwrap()).max().unwrap();
    let floods = || records.iter().filter(|record| !record.id.as_str().starts_with("modest-"));
    let before = floods().filter(|it| it.started_at.is_some_and(|at| at < last_began)).count();
    let waited = floods().filter(|it| it.started_at.is_none_or(|at| at > last_ended)).count();
    println!(
        "{before} went before the last of the {MODEST}, and {waited} waited when it had ended"
    );
    assert!(before <= TURNS * MODEST, "{before} went before the last of the {MODEST}");
    assert!(waited >= THOUSANDS, "only {waited} waited when the last of the {MODEST} had ended");
    for name in names {
        let of_worker = |tenant: &str| -> Vec<&TaskRecord> {
            let mut own = of(&records, tenant);
            own.retain(|record| record.worker.as_ref().is_some_and(|it| it.as_str() == name));
            own
        };
        for (tenant, most) in [("greedy", 3), ("hungry", 2)] {
            let own = of_worker(tenant);
            assert!(at_once(&own) <= most, "{} of {tenant} at once on {name}", at_once(&own));
            assert!(!own.is_empty(), "{name} did nothing for {tenant}");
        }
    }
}

#[test]
fn on_redis_a_few_tasks_end_while_thousands_of_others_wait() {
    let server = RedisServer::start();
    few_end_while_thousands_wait(&Store::redis(&server.url()), &server.url());
}

#[test]
fn on_postgres_a_few_tasks_end_while_thousands_of_others_wait() {
    let database = PostgresServer::shared().database();
    few_end_while_thousands_wait(&Store::postgres(database.url()), database.url());
}
