//! A flood of some tenants, against a worker with quotas and against one without: real processes, on one database.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use stem_core::envelope::{Envelope, Payload, Priority};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::task::{TaskRecord, TaskState};
use stem_core::tenant::HEADER;
use stem_core::time::Clock;
use stem_engine::SystemClock;

use crate::lab::Lab;
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
    let id = TaskId::new(format!("{tenant}-{number}")).unwrap();
    let (name, queue) = (TaskName::new("crunch").unwrap(), QueueName::new("default").unwrap());
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
    let mut starts: Vec<i64> =
        hasty.iter().filter_map(|record| Some(record.started_at?.unix_millis())).collect();
    starts.sort_unstable();
    for (first, from) in starts.iter().enumerate() {
        let within = starts[first..].iter().take_while(|at| **at < from + 1_000).count();
        // A second's worth at once, a second's worth in the second; taken is not yet started.
        assert!(within <= 5 + 5 + 3, "{within} in a second");
    }
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
