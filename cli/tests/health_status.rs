//! `stem worker status --follow` on every backend: a real worker that lives, falls silent, goes on and is killed, and what
//! it says of a task that makes no progress.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use stem_services::{PostgresServer, RedisServer};
use support::started::Started;
use support::{Place, talking_spin};

/// Long enough for a busy machine; a test that passes needs a fraction.
const PATIENCE: Duration = Duration::from_mins(1);

/// `status --follow --json` under way.
struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn new(place: &Place, broker: &str) -> Self {
        // It ends by itself when nothing comes any more, so that no line is waited for in vain.
        let words = ["--follow", "--json", "--stale-after", "500ms", "--timeout", "1m"];
        let mut command = place.command(&["worker", "status"]);
        let mut child = command.args(words).env("STEM_BROKER_URL", broker).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The first line that is as it should be.
    fn until(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ended: {what}")).unwrap();
            let seen: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(seen["worker"], "w", "{seen}");
            if is(&seen) {
                return seen;
            }
        }
        panic!("it does not come: {what}");
    }

    fn until_status(&mut self, status: &str) -> Value {
        self.until(status, |seen| seen["status"] == status)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn a_worker_is_followed_from_its_start_to_its_end(broker: &str) {
    let place = Place::new();
    place.write("modules/spin.wasm", talking_spin());
    let environment = [("STEM_BROKER_URL", broker), ("STEM_HEARTBEAT_INTERVAL", "100ms")];
    let worker = Started::new(&place, &environment, &["--name", "w", "--modules", "modules"]);
    let mut following = Following::new(&place, broker);
    let idle = following.until_status("alive");
    assert!(idle.get("oldestWithoutProgress").is_none(), "nothing runs: {idle}");

    let stem = |words: &[&str]| place.stem_env(&environment, words).expect(0);
    stem(&["task", "enqueue", "spin", "--id", "t"]);
    let quiet_for = |seen: &Value| seen["oldestWithoutProgress"]["lastCheckpointMsAgo"].as_u64();
    let busy = following.until("a quiet task", |seen| quiet_for(seen).is_some());
    let quiet = &busy["oldestWithoutProgress"];
    assert_eq!((&quiet["id"], &quiet["task"]), (&"t".into(), &"spin".into()), "{busy}");
    assert_eq!(quiet["attempt"], 1, "{busy}");
    assert!(quiet["startedAt"].as_str().unwrap().ends_with('Z'), "{busy}");
    let first = quiet_for(&busy).unwrap();
    following.until("it goes on without progress", |seen| {
        quiet_for(seen).is_some_and(|quiet| quiet > first)
    });
    let table = stem(&["worker", "status"]).stdout;
    assert!(table.contains("WITHOUT PROGRESS") && table.contains("s spin t"), "{table}");

    worker.signal(Signal::STOP);
    following.until_status("stale");
    worker.signal(Signal::CONT);
    following.until_status("alive");
    worker.kill();
    following.until_status("stale");
    following.until_status("gone");
}

#[test]
fn on_sqlite() {
    let place = Place::new();
    let url = format!("sqlite://{}", place.path("stem.db").display());
    a_worker_is_followed_from_its_start_to_its_end(&url);
}

#[test]
fn on_redis() {
    let server = RedisServer::start();
    a_worker_is_followed_from_its_start_to_its_end(&server.url());
}

#[test]
fn on_postgres() {
    let shared = PostgresServer::shared();
    let database = shared.database();
    a_worker_is_followed_from_its_start_to_its_end(database.url());
}
