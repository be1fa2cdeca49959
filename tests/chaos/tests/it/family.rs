//! Workers are killed while their tasks enqueue tasks; each child comes to be, and none twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stem_chaos::dice::Dice;
use stem_chaos::lab::Lab;
use stem_chaos::place::Place;
use stem_chaos::process::{Process, Program};
use stem_chaos::server::Server;
use stem_chaos::{CHILD_LATER, CHILD_NOW};
use stem_core::backend::result::RecordFilter;
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::TaskName;
use stem_core::task::{TaskRecord, TaskState};
use stem_engine::{Client, EnqueueOptions, SystemClock};
use stem_services::Fsync;

use crate::{count, number};

const WORKERS: usize = 3;
/// Of each kind, for each parent.
const CHILDREN: usize = 3;
const LEASE_MS: u64 = 1_000;
/// Between the children at once and those that wait for the success, and so the least that a parent takes.
const BETWEEN_MS: u64 = 60;
/// Between two kills.
const CALM: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));
/// Killing ends after this, whether all is done or not.
const LONGEST: Duration = Duration::from_mins(1);

fn records(lab: &Lab, name: &str) -> Vec<TaskRecord> {
    let name = Some(TaskName::new(name).unwrap());
    let filter = RecordFilter { name, limit: 10_000_000, ..RecordFilter::default() };
    lab.wait(lab.backends().results.list(&filter)).unwrap()
}

fn enqueue(lab: &Lab, parents: usize) {
    let client = Client::new(lab.backends().clone(), std::sync::Arc::new(SystemClock));
    let payload = Payload::json(format!(r#"{{"children":{CHILDREN},"ms":{BETWEEN_MS}}}"#));
    let envelope = |_| {
        let name = TaskName::new("family").unwrap();
        client.envelope(name, payload.clone(), EnqueueOptions::default()).unwrap()
    };
    let envelopes: Vec<Envelope> = (0..parents).map(envelope).collect();
    lab.wait(client.enqueue_all(&envelopes)).unwrap();
}

/// Kills workers until every parent has ended. Returns all records, by name.
fn families(what: &str, place: Place) -> (usize, BTreeMap<&'static str, Vec<TaskRecord>>) {
    let parents = usize::try_from(number("STEM_TEST_FAMILIES", 150)).unwrap();
    let mut dice = Dice::from_env();
    let lab = Lab::new(place);
    let args = [("lease-ms", LEASE_MS), ("concurrency", 4)];
    let mut workers: Vec<Process> =
        (1..=WORKERS).map(|n| lab.start(Program::Worker, &format!("w{n}"), &args)).collect();
    for worker in &workers {
        worker.follow().until_ready();
    }
    enqueue(&lab, parents);
    let start = Instant::now();
    let mut kills = 0;
    while start.elapsed() < LONGEST
        && records(&lab, "family").iter().any(|one| !one.state.is_final())
    {
        std::thread::sleep(dice.between(CALM.0, CALM.1));
        workers.iter_mut().for_each(Process::must_live);
        let indices: Vec<usize> = (0..WORKERS).collect();
        let index = *dice.pick(&indices).unwrap();
        workers[index].kill();
        workers[index].restart();
        kills += 1;
    }
    let stored = lab.drain(&mut workers);
    assert_eq!(stored.deliveries, 0, "{what}: some are left");
    let names = ["family", CHILD_NOW, CHILD_LATER];
    let all: BTreeMap<_, _> = names.into_iter().map(|name| (name, records(&lab, name))).collect();
    workers.iter_mut().for_each(Process::stop);
    let again = all["family"].iter().filter(|one| one.delivery_count > 1).count();
    println!("{what}: {kills} kills, {again} of {parents} parents were delivered again");
    assert!(again > 0, "nothing was interrupted");
    for (name, count) in [("family", parents), (CHILD_NOW, parents * CHILDREN)] {
        assert_eq!(all[name].len(), count, "{what}: those with ids or keys are one each");
        all[name].iter().for_each(succeeded);
    }
    count(all.values().map(Vec::len).sum());
    (parents, all)
}

#[track_caller]
fn succeeded(record: &TaskRecord) {
    assert_eq!(record.state, TaskState::Succeeded, "{record:?}");
}

fn exactly_once(what: &str, place: Place) {
    let (parents, all) = families(what, place);
    // They have no keys, so an attempt that did not succeed would show in their number.
    assert_eq!(all[CHILD_LATER].len(), parents * CHILDREN, "{what}");
    all[CHILD_LATER].iter().for_each(succeeded);
}

#[test]
fn children_come_to_be_once_however_workers_die_on_redis() {
    let server = Server::redis(Fsync::Everysec);
    exactly_once("redis", Place::all_in_one(&server.url()));
}

#[test]
fn children_come_to_be_once_however_workers_die_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stem.db");
    exactly_once("sqlite", Place::all_in_one(&format!("sqlite:{}", path.display())));
}

#[test]
fn children_come_to_be_once_however_workers_die_on_postgres() {
    let server = Server::postgres();
    exactly_once("postgres", Place::all_in_one(&server.url()));
}

/// Over two services nothing is atomic: no child is lost, and only those with keys are one each. A worker that dies between
/// the record of a child and its enqueueing leaves the record behind.
#[test]
fn no_child_is_lost_however_workers_die_with_records_elsewhere() {
    let (redis, postgres) = (Server::redis(Fsync::Everysec), Server::postgres());
    let place = Place { broker: redis.url(), results: postgres.url(), revokes: postgres.url() };
    let (parents, all) = families("redis with results in postgres", place);
    let (unborn, born): (Vec<_>, Vec<_>) =
        all[CHILD_LATER].iter().partition(|one| one.state == TaskState::Queued);
    assert!(unborn.iter().all(|one| one.delivery_count == 0), "{unborn:?}");
    born.iter().copied().for_each(succeeded);
    assert!(born.len() >= parents * CHILDREN, "{} came to be", born.len());
}
