//! Revoke stores with each fault that they can have, when a worker starts and later: nobody takes a task who cannot know
//! whether it is revoked, and all goes on once the store can be read.
//!
//! | fault | file | SQLite | Redis | Postgres |
//! |---|---|---|---|---|
//! | away | a directory | a directory | killed | killed |
//! | wrong password | has none | has none | the user has another | the user has another |
//! | damaged | a bit is another | other bytes | keys of another kind | a table is gone |
//! | silent | a pipe that nobody writes to | nothing keeps its readers waiting | frozen | frozen |
//!
//! The store in a worker's own memory has none of them; `engine/tests/guards.rs` plants them there. What SQLite has open
//! it goes on reading whatever becomes of the name, so nothing is to be put there while processes run, and it has its
//! faults at the start alone.
//!
//! `STEM_TEST_FAULT` says for how many seconds each later fault lasts; two if it is not set.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use stem_services::{PostgresServer, RedisServer};

use crate::lab::{Lab, Worker, modules, number};

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Away,
    Password,
    Damaged,
    Silent,
}

use Fault::{Away, Damaged, Password, Silent};

/// How long a fault lasts once it was noticed.
fn lasts() -> Duration {
    Duration::from_secs(number("STEM_TEST_FAULT", 2))
}

/// A store that can be broken and mended.
trait Breakable {
    fn url(&self) -> String;
    fn set_broken(&self, fault: Fault);
    fn mend(&self, fault: Fault);
    /// A way to the store that is good while the worker's is not, if there is one.
    fn whole(&self, fault: Fault) -> Option<String>;
}

struct File(Lab);

impl File {
    fn path(&self) -> PathBuf {
        self.0.path("revokes.jsonl")
    }

    fn kept(&self) -> PathBuf {
        self.0.path("kept.jsonl")
    }
}

impl Breakable for File {
    fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    fn set_broken(&self, fault: Fault) {
        fs::rename(self.path(), self.kept()).unwrap();
        match fault {
            Away => fs::create_dir(self.path()).unwrap(),
            Damaged => {
                let mut bytes = fs::read(self.kept()).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(self.path(), bytes).unwrap();
            }
            Silent => assert!(Command::new("mkfifo").arg(self.path()).status().unwrap().success()),
            Password => unreachable!("a file has none"),
        }
    }

    fn mend(&self, fault: Fault) {
        if fault == Away {
            fs::remove_dir(self.path()).unwrap();
        }
        fs::rename(self.kept(), self.path()).unwrap();
    }

    fn whole(&self, _: Fault) -> Option<String> {
        Some(format!("file://{}", self.kept().display()))
    }
}

struct Database(Lab);

impl Database {
    fn start() -> Self {
        let database = Self(Lab::new());
        fs::create_dir(database.0.path("revokes")).unwrap();
        database
    }

    fn path(&self) -> PathBuf {
        self.0.path("revokes/revokes.db")
    }
}

impl Breakable for Database {
    fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    /// With the files beside it.
    fn set_broken(&self, fault: Fault) {
        fs::rename(self.0.path("revokes"), self.0.path("kept")).unwrap();
        fs::create_dir(self.0.path("revokes")).unwrap();
        match fault {
            Away => fs::create_dir(self.path()).unwrap(),
            Damaged => fs::write(self.path(), vec![7_u8; 8192]).unwrap(),
            Password | Silent => unreachable!("it cannot be so"),
        }
    }

    fn mend(&self, _: Fault) {
        fs::remove_dir_all(self.0.path("revokes")).unwrap();
        fs::rename(self.0.path("kept"), self.0.path("revokes")).unwrap();
    }

    fn whole(&self, _: Fault) -> Option<String> {
        None
    }
}

impl Breakable for RedisServer {
    fn url(&self) -> String {
        format!("redis://reader:right@127.0.0.1:{}/0", self.port())
    }

    fn set_broken(&self, fault: Fault) {
        let command = |words: &[&str]| self.command(words).unwrap();
        match fault {
            Away => self.kill(),
            Password => {
                command(&["ACL", "SETUSER", "reader", "resetpass", ">other"]);
                command(&["CLIENT", "KILL", "USER", "reader"]);
            }
            Damaged => {
                for key in command(&["KEYS", "*"]).lines() {
                    command(&["RENAME", key, &format!("kept {key}")]);
                    command(&["SET", key, "of another kind"]);
                }
            }
            Silent => self.freeze(),
        }
    }

    fn mend(&self, fault: Fault) {
        let command = |words: &[&str]| self.command(words).unwrap();
        match fault {
            Away => {
                self.restart();
                allow(self);
            }
            Password => allow(self),
            Damaged => {
                for kept in command(&["KEYS", "kept *"]).lines() {
                    command(&["RENAME", kept, kept.trim_start_matches("kept ")]);
                }
            }
            Silent => self.thaw(),
        }
    }

    fn whole(&self, fault: Fault) -> Option<String> {
        (fault == Password).then(|| RedisServer::url(self))
    }
}

/// The user of the URL, which is not kept through a restart.
fn allow(server: &RedisServer) {
    let user = ["ACL", "SETUSER", "reader", "on", "resetpass", ">right", "~*", "&*", "+@all"];
    server.command(&user).unwrap();
}

struct Guarded(PostgresServer);

impl Guarded {
    /// A server that asks `reader` for a password, and nobody else.
    fn start() -> Self {
        let server = PostgresServer::start();
        let rules = server.execute("SHOW hba_file").unwrap();
        let asked = "host all reader 127.0.0.1/32 scram-sha-256\n";
        let others = fs::read_to_string(&rules).unwrap();
        fs::write(&rules, format!("{asked}{others}")).unwrap();
        server.execute("CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'right'").unwrap();
        server.execute("SELECT pg_reload_conf()").unwrap();
        Self(server)
    }

    fn run(&self, sql: &str) {
        self.0.execute(sql).unwrap();
    }
}

impl Breakable for Guarded {
    fn url(&self) -> String {
        format!("postgres://reader:right@127.0.0.1:{}/postgres", self.0.port())
    }

    fn set_broken(&self, fault: Fault) {
        match fault {
            Away => self.0.kill(),
            Password => {
                self.run("ALTER ROLE reader PASSWORD 'other'");
                self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'");
            }
            Damaged => self.run("ALTER TABLE stem.revocations RENAME TO kept"),
            Silent => self.0.freeze(),
        }
    }

    fn mend(&self, fault: Fault) {
        match fault {
            Away => self.0.restart(),
            Password => self.run("ALTER ROLE reader PASSWORD 'right'"),
            Damaged => self.run("ALTER TABLE stem.kept RENAME TO revocations"),
            Silent => self.0.thaw(),
        }
    }

    fn whole(&self, fault: Fault) -> Option<String> {
        (fault == Password).then(|| self.0.url())
    }
}

/// A worker beside a store.
struct Fleet<'a> {
    lab: &'a Lab,
    url: String,
}

impl Fleet<'_> {
    fn env(&self) -> [(&str, &str); 1] {
        [("STEM_REVOKE_STORE_URL", &self.url)]
    }

    fn enqueue(&self, ids: &[&str]) {
        for id in ids {
            self.lab.enqueue("word-count", r#"{"text":"x"}"#, &["--id", id]);
        }
    }

    /// Stores there that it is revoked, and tells nobody.
    fn revoke(&self, id: &str, url: &str) {
        let words = ["worker", "revoke", "--task", id, "--worker", "nobody"];
        let said = self.lab.stem_with(&words, &[("STEM_REVOKE_STORE_URL", url)]);
        assert!([0, 3].contains(&said.code), "{}", said.stderr);
    }

    fn start(&self) -> Worker {
        self.lab.worker_with(&["--max-revocation-staleness", "2s"], &self.env())
    }

    fn stats(&self) -> Value {
        let said = self.lab.stem(&["worker", "stats", "--timeout", "1m", "--json"]).ok().json();
        said["replies"][0]["payload"].clone()
    }

    #[track_caller]
    fn assert_untouched(&self, id: &str, at: &str) {
        let record = self.lab.show(id);
        assert_eq!(
            (
                &record["state"],
                &record["attempt"],
                &record["deliveryCount"],
                record.get("startedAt")
            ),
            (&json!("queued"), &json!(0), &json!(0), None),
            "{at}: {record}"
        );
    }
}

/// A worker that is started meanwhile takes nothing and ends with code 5; the next one obeys what the store says.
fn at_the_start(store: &dyn Breakable, fault: Fault) {
    let lab = Lab::new();
    let fleet = Fleet { lab: &lab, url: store.url() };
    let at = format!("{fault:?} {} at the start", fleet.url);
    fleet.revoke("revoked", &fleet.url);
    fleet.enqueue(&["revoked", "free"]);
    store.set_broken(fault);
    let modules = modules();
    let words = ["worker", "start", "--modules", modules.to_str().unwrap()];
    let said = lab.stem_with(&words, &fleet.env());
    assert_eq!(said.code, 5, "{at}: {}", said.stderr);
    assert!(said.stdout.is_empty(), "{at}: it was ready: {}", said.stdout);
    for id in ["revoked", "free"] {
        fleet.assert_untouched(id, &at);
    }
    store.mend(fault);
    let _worker = fleet.start();
    lab.until_state("free", "succeeded");
    let record = lab.until_state("revoked", "revoked");
    assert_eq!(record["revocation"]["how"], "before-start", "{at}: {record}");
}

/// A worker that runs goes on with what it has, says that it does not know any more, takes nothing, and is well again by
/// itself.
fn later(store: &dyn Breakable, fault: Fault) {
    let lab = Lab::new();
    let fleet = Fleet { lab: &lab, url: store.url() };
    let at = format!("{fault:?} {} later", fleet.url);
    fleet.revoke("revoked", &fleet.url);
    let mut worker = fleet.start();
    let args = r#"{"items":[1,2,3],"delayMs":1500}"#;
    let running = lab.enqueue("crunch", args, &[]);
    lab.until_computing(&running);
    store.set_broken(fault);
    lab.wait_for(&at, |_| fleet.stats(), |stats| stats["revocations"]["stale"] == true);
    // A request that was under way may still take something; it waits for half a second.
    thread::sleep(Duration::from_secs(1));
    let whole = store.whole(fault);
    if let Some(url) = &whole {
        fleet.revoke("meanwhile", url);
    }
    fleet.enqueue(&["revoked", "meanwhile", "free"]);
    thread::sleep(lasts());
    let record = lab.until_state(&running, "succeeded");
    assert_eq!(record["deliveryCount"], 1, "{at}: what runs, runs on: {record}");
    for id in ["revoked", "meanwhile", "free"] {
        fleet.assert_untouched(id, &at);
    }
    let stats = fleet.stats();
    assert_eq!(
        (&stats["revocations"]["stale"], &stats["counters"]["started"]),
        (&json!(true), &json!(1)),
        "{at}: {stats}"
    );
    assert!(stats["revocations"]["lastReadMsAgo"].as_f64() > Some(2_000.0), "{at}: {stats}");
    store.mend(fault);
    lab.until_state("free", "succeeded");
    lab.until_state("revoked", "revoked");
    lab.until_state("meanwhile", if whole.is_some() { "revoked" } else { "succeeded" });
    assert!(worker.is_running(), "{at}: {}", worker.log());
    lab.wait_for(&at, |_| fleet.stats(), |stats| stats["revocations"]["stale"] == false);
}

/// Each case with a store of its own, all beside each other: they mostly wait.
fn beside<S: Breakable>(new: impl Fn() -> S + Sync, start: &[Fault], then: &[Fault]) {
    let new = &new;
    thread::scope(|scope| {
        for fault in start {
            scope.spawn(move || at_the_start(&new(), *fault));
        }
        for fault in then {
            scope.spawn(move || later(&new(), *fault));
        }
    });
}

#[test]
fn a_worker_takes_nothing_while_it_cannot_read_its_file_of_revocations() {
    beside(|| File(Lab::new()), &[Away, Damaged, Silent], &[Away, Damaged, Silent]);
}

#[test]
fn a_worker_takes_nothing_while_it_cannot_read_its_revocations_from_sqlite() {
    beside(Database::start, &[Away, Damaged], &[]);
}

#[test]
fn a_worker_takes_nothing_while_it_cannot_read_its_revocations_from_redis() {
    let start = || {
        let server = RedisServer::start();
        allow(&server);
        server
    };
    beside(start, &[Away, Password, Damaged, Silent], &[Away, Password, Damaged, Silent]);
}

#[test]
fn a_worker_takes_nothing_while_it_cannot_read_its_revocations_from_postgres() {
    beside(Guarded::start, &[Away, Password, Damaged, Silent], &[Away, Password, Damaged, Silent]);
}
