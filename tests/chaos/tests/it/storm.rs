//! Servers, workers and producers are killed and stopped again and again while tasks flow, and some tasks are revoked;
//! nothing is lost, nothing ends twice, and what is revoked does not start. So too while disks and memory are full.

use stem_chaos::checker::Rules;
use stem_chaos::dice::Dice;
use stem_chaos::fault::Fault;
use stem_chaos::history::WORKER_OUT_OF_MEMORY;
use stem_chaos::place::Place;
use stem_chaos::server::Server;
use stem_chaos::storm::{EVERYSEC, Plan, storm};
use stem_services::Fsync;

use crate::{must_hold, number};

/// How many tasks the largest storms have.
fn tasks() -> u64 {
    number("STEM_TEST_CHAOS", 18_000)
}

fn kill_storm(what: &str, servers: &[Server], place: Place, tasks: u64, rules: Rules) {
    // The clock of one worker is right half of the time, and an hour ahead for the other half.
    let plan = Plan { tasks, faults: Fault::KILLS, clock_jumps: true, rules };
    let (_lab, verdict) = storm(what, servers, place, plan, Dice::from_env());
    must_hold(what, &verdict);
    // Else the rules about them had nothing to find.
    assert!(verdict.counts.ended_revoked > 0, "{what}: nothing was revoked in time");
    assert!(verdict.counts.effects > 0, "{what}: nothing had an effect before its end");
}

fn on_one(what: &str, server: Server, tasks: u64, rules: Rules) {
    let place = Place::all_in_one(&server.url());
    kill_storm(what, &[server], place, tasks, rules);
}

#[test]
fn kill_storm_redis_everysec() {
    let rules = Rules { forgets: Some(EVERYSEC), ..Rules::STRICT };
    on_one("redis everysec", Server::redis(Fsync::Everysec), tasks(), rules);
}

#[test]
fn kill_storm_redis_always() {
    on_one("redis always", Server::redis(Fsync::Always), tasks(), Rules::STRICT);
}

#[test]
fn kill_storm_postgres() {
    // A task costs three times what it costs on Redis.
    on_one("postgres", Server::postgres(), tasks() / 2, Rules::STRICT);
}

#[test]
fn kill_storm_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stem.db");
    let place = Place::all_in_one(&format!("sqlite:{}", path.display()));
    kill_storm("sqlite", &[], place, tasks() * 3 / 8, Rules::STRICT);
}

#[test]
fn kill_storm_mixed() {
    let (redis, postgres) = (Server::redis(Fsync::Always), Server::postgres());
    let place = Place { broker: redis.url(), results: postgres.url(), revokes: postgres.url() };
    let rules = Rules { apart: true, ..Rules::STRICT };
    // Each task costs four transactions more, and either server is away for a third of the time.
    kill_storm("redis with results in postgres", &[redis, postgres], place, tasks() / 8, rules);
}

#[test]
fn in_a_calm_each_task_starts_once() {
    let server = Server::redis(Fsync::Everysec);
    let place = Place::all_in_one(&server.url());
    let tasks = number("STEM_TEST_CALM", 10_000);
    let plan = Plan { tasks, faults: &[], clock_jumps: false, rules: Rules::STRICT };
    let (_lab, verdict) = storm("a calm", &[server], place, plan, Dice::from_env());
    must_hold("a calm", &verdict);
    let counts = verdict.counts;
    assert!(counts.enqueued >= usize::try_from(tasks).unwrap(), "{counts:?}");
    assert_eq!(counts.duplicates, 0, "nobody loses a lease");
    let never_started = counts.ended_revoked - counts.terminated;
    assert_eq!(counts.starts, counts.enqueued - never_started, "{counts:?}");
}

/// Tasks of a storm in which disks and memory are full: so few that they are soon done, and so many that they need room.
const SHORT: u64 = 2_000;

/// What can be short is, each at least once and noticed.
fn shortages(what: &str, server: Server, rules: Rules) {
    let place = Place::all_in_one(&server.url());
    let servers = [server];
    let plan = Plan { tasks: SHORT, faults: Fault::SHORTAGES, clock_jumps: false, rules };
    let (_lab, verdict) = storm(what, &servers, place, plan, Dice::from_env());
    must_hold(what, &verdict);
    let times = |kind| verdict.faults.get(kind).copied().unwrap_or(0);
    for fault in Fault::SHORTAGES.iter().filter(|fault| servers[0].knows(**fault)) {
        assert!(times(fault.kind()) > 0, "{what}: no {}", fault.kind());
    }
    assert!(times(WORKER_OUT_OF_MEMORY) > 0, "{what}: no worker died of it");
    let felt = verdict.counts.declined + servers[0].complaints();
    assert!(felt > 0, "{what}: nobody was refused for want of room");
}

#[test]
fn shortages_redis() {
    let rules = Rules { forgets: Some(EVERYSEC), ..Rules::STRICT };
    shortages("redis, short of all", Server::redis_on_a_disk(Fsync::Everysec), rules);
}

#[test]
fn shortages_postgres() {
    shortages("postgres, short of all", Server::postgres_on_a_disk(), Rules::STRICT);
}

#[test]
fn shortages_sqlite() {
    shortages("sqlite, short of all", Server::sqlite_on_a_disk(), Rules::STRICT);
}
