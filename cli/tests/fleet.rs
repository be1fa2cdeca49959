//! The command line on servers: Redis, Postgres, and the two mixed.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stem_services::{PostgresServer, RedisServer, RedisSettings};
use support::Place;
use support::started::Started;

/// A command that ends at once.
const ECHO: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";

/// Where tasks wait, results lie and revocations are kept.
struct Fleet {
    name: &'static str,
    broker: String,
    results: String,
    revokes: String,
    // Kept as long as the fleet.
    _redis: Option<RedisServer>,
    _databases: Vec<stem_services::Database>,
}

fn fleets() -> Vec<Fleet> {
    let shared = PostgresServer::shared();
    let (one, two) = (shared.database(), shared.database());
    let (redis, mixed) = (RedisServer::start(), RedisServer::start());
    let fleet = |name, broker: &str, results: &str, revokes: &str, server, databases| Fleet {
        name,
        broker: broker.to_owned(),
        results: results.to_owned(),
        revokes: revokes.to_owned(),
        _redis: server,
        _databases: databases,
    };
    let (on_redis, on_mixed) = (redis.url(), mixed.url());
    let (on_one, on_two) = (one.url().to_owned(), two.url().to_owned());
    vec![
        fleet("redis", &on_redis, &on_redis, &on_redis, Some(redis), vec![]),
        fleet("postgres", &on_one, &on_one, &on_one, None, vec![one]),
        fleet("mixed", &on_mixed, &on_two, &on_two, Some(mixed), vec![two]),
    ]
}

#[test]
fn a_task_goes_through_and_an_operator_sees_and_stops_it() {
    for fleet in fleets() {
        let place = Place::new();
        let env = [
            ("STEM_BROKER_URL", fleet.broker.as_str()),
            ("STEM_RESULT_BACKEND_URL", fleet.results.as_str()),
            ("STEM_REVOKE_STORE_URL", fleet.revokes.as_str()),
        ];
        let stem = |words: &[&str]| place.stem_env(&env, words);
        stem(&["health"]).expect(0);
        stem(&["task", "enqueue", "echo", "--json-args", "{\"n\":1}", "--id", "one"]).expect(0);
        stem(&["task", "enqueue", "echo", "--id", "never"]).expect(0);
        stem(&["task", "enqueue", "nobody-knows", "--id", "odd", "--queue", "other"]).expect(0);
        // Nobody is there yet: the order is kept.
        let revoked = stem(&["worker", "revoke", "--task", "never", "--json"]).expect(0).json();
        assert_eq!(revoked["persisted"][0]["taskId"], "never", "{}", fleet.name);
        place.write("modules/echo.wasm", wat::parse_str(ECHO).unwrap());
        let mut worker = place
            .command(&["worker", "start", "--name", "w", "--modules", "modules"])
            .envs(env)
            .spawn()
            .unwrap();
        // Its first line says that it is ready.
        let mut said = String::new();
        BufReader::new(worker.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("ready"), "{}: {said}", fleet.name);
        let pinged = stem(&["worker", "ping", "--json"]).expect(0).json();
        assert_eq!(pinged["replies"].as_array().unwrap().len(), 1, "{}", fleet.name);
        let waited = stem(&["task", "wait", "one", "--json", "--timeout", "30s"]).expect(0).json();
        assert_eq!(waited["state"], "succeeded", "{}", fleet.name);
        stem(&["task", "wait", "never", "--timeout", "30s"]);
        let never = stem(&["task", "show", "never", "--json"]).expect(0).json();
        assert_eq!((&never["state"], &never["startedAt"]), (&json!("revoked"), &json!(null)));
        let queues = stem(&["queue", "list", "--json"]).expect(0).json();
        assert_eq!(queues.as_array().unwrap().len(), 2, "{queues}");
        let purged = stem(&["queue", "purge", "other", "--yes", "--json"]).expect(0).json();
        assert_eq!(purged["purged"], 1);
        // Its record is gone too, wherever it lay.
        stem(&["task", "show", "odd"]).expect(3);
        stem(&["worker", "stats"]).expect(0);
        let status = stem(&["worker", "status", "--json"]).expect(0);
        assert!(status.stdout.contains("alive"), "{status:?}");
        stem(&["worker", "shutdown"]).expect(0);
        assert!(worker.wait().unwrap().success(), "{}", fleet.name);
    }
}

/// A task on the bucket `counts`, by the digit of its payload. 0 counts up and returns 10 more than it came to; 1 puts a
/// value that is gone after 400 ms; 2 says whether that is there; 3 removes the count, and says whether it was there.
const KV: &str = r#"(module
  (import "stem0" "input_read" (func $read (param i32 i64 i32) (result i32)))
  (import "stem0" "output_write" (func $write (param i32 i32) (result i32)))
  (import "stem0" "kv_get" (func $get (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "stem0" "kv_put" (func $put (param i32 i32 i32 i32 i32 i32 i32 i64 i64) (result i64)))
  (import "stem0" "kv_remove" (func $remove (param i32 i32 i32 i32 i32 i64) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "counts")
  (data (i32.const 16) "runs")
  (data (i32.const 32) "brief")
  ;; the value at 64, its version at 72, what is returned at 96
  (func $count
    (local $got i32) (local $put i64)
    (loop $again
      (local.set $got (call $get (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 4) (i32.const 64) (i32.const 4) (i32.const 72)))
      (if (i32.eq (local.get $got) (i32.const -4))
        (then (i32.store (i32.const 64) (i32.const 0)))
        (else (if (i32.ne (local.get $got) (i32.const 4)) (then unreachable))))
      (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
      (local.set $put (call $put (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 4) (i32.const 64) (i32.const 4)
        (select (i32.const 1) (i32.const 2) (i32.eq (local.get $got) (i32.const -4))) (i64.load (i32.const 72)) (i64.const 0)))
      (br_if $again (i64.eq (local.get $put) (i64.const -5)))
      (if (i64.lt_s (local.get $put) (i64.const 1)) (then unreachable)))
    (i32.store8 (i32.const 96) (i32.add (i32.const 49) (i32.div_u (i32.load (i32.const 64)) (i32.const 10))))
    (i32.store8 (i32.const 97) (i32.add (i32.const 48) (i32.rem_u (i32.load (i32.const 64)) (i32.const 10))))
    (drop (call $write (i32.const 96) (i32.const 2))))
  (func $say (param $answer i32) (param $yes i32)
    (if (i32.and (i32.ne (local.get $answer) (local.get $yes)) (i32.ne (local.get $answer) (i32.const -4))) (then unreachable))
    (i32.store8 (i32.const 96) (i32.add (i32.const 48) (i32.eq (local.get $answer) (local.get $yes))))
    (drop (call $write (i32.const 96) (i32.const 1))))
  (func (export "stem_run") (result i32)
    (local $op i32)
    (drop (call $read (i32.const 128) (i64.const 0) (i32.const 1)))
    (local.set $op (i32.sub (i32.load8_u (i32.const 128)) (i32.const 48)))
    (if (i32.eq (local.get $op) (i32.const 0)) (then (call $count)))
    (if (i32.eq (local.get $op) (i32.const 1)) (then
      (if (i64.lt_s (call $put (i32.const 0) (i32.const 6) (i32.const 32) (i32.const 5) (i32.const 0) (i32.const 6)
          (i32.const 0) (i64.const 0) (i64.const 400)) (i64.const 1)) (then unreachable))
      (call $say (i32.const 0) (i32.const 0))))
    (if (i32.eq (local.get $op) (i32.const 2)) (then
      (call $say (call $get (i32.const 0) (i32.const 6) (i32.const 32) (i32.const 5) (i32.const 64) (i32.const 6) (i32.const 72))
        (i32.const 6))))
    (if (i32.eq (local.get $op) (i32.const 3)) (then
      (call $say (call $remove (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 4) (i32.const 0) (i64.const 0))
        (i32.const 0))))
    (i32.const 0)))"#;

const KV_MANIFEST: &str =
    "[handlers.kv]\nsource = \"file:kv.wasm\"\n[handlers.kv.grants]\nkv = [\"counts:rw\"]\n";

/// Values that tasks share are the store's, whatever it is: counted by several workers at once, there for those that come
/// later, gone in time and when they are removed.
#[test]
fn tasks_share_values_through_whatever_keeps_results() {
    const TASKS: usize = 24;
    let file = "sqlite://stem.db".to_owned();
    let sqlite = Fleet {
        name: "sqlite",
        broker: file.clone(),
        results: file.clone(),
        revokes: file,
        _redis: None,
        _databases: vec![],
    };
    for fleet in fleets().into_iter().chain([sqlite]) {
        let place = Place::new();
        place.write("modules/kv.wasm", wat::parse_str(KV).unwrap());
        place.write("modules/stem.toml", KV_MANIFEST);
        let env = [
            ("STEM_BROKER_URL", fleet.broker.as_str()),
            ("STEM_RESULT_BACKEND_URL", fleet.results.as_str()),
            ("STEM_REVOKE_STORE_URL", fleet.revokes.as_str()),
        ];
        let stem = |words: &[&str]| place.stem_env(&env, words).expect(0);
        let start = |name: &str| {
            let words = ["--name", name, "--modules", "modules", "--concurrency", "4"];
            Started::new(&place, &env, &words)
        };
        let run = |op: &str| -> Value {
            let made =
                stem(&["task", "enqueue", "kv", "--json-args", op, "--wait", "--json"]).json();
            assert_eq!(made["state"], "succeeded", "{}: {made}", fleet.name);
            made["result"].clone()
        };
        let workers = [start("a"), start("b")];
        let ids: Vec<String> = (0..TASKS).map(|n| format!("t{n}")).collect();
        for id in &ids {
            stem(&["task", "enqueue", "kv", "--json-args", "0", "--id", id]);
        }
        let mut counts: Vec<u64> = ids
            .iter()
            .map(|id| {
                let made = stem(&["task", "wait", id, "--json", "--timeout", "60s"]).json();
                made["result"].as_u64().unwrap_or_else(|| panic!("{}: {made}", fleet.name))
            })
            .collect();
        counts.sort_unstable();
        let wanted: Vec<u64> = (11..=10 + TASKS as u64).collect();
        assert_eq!(counts, wanted, "{}: each counted once", fleet.name);
        drop(workers);
        let _worker = start("c");
        assert_eq!(run("0"), 11 + TASKS, "{}", fleet.name);
        assert_eq!(
            (run("3"), run("3"), run("0")),
            (json!(1), json!(0), json!(11)),
            "{}",
            fleet.name
        );
        run("1");
        let since = Instant::now();
        while run("2") != 0 {
            assert!(since.elapsed() < Duration::from_mins(1), "{}: it stays", fleet.name);
        }
    }
}

#[test]
fn a_server_that_is_set_unsafely_is_named_and_refused_with_strict() {
    let server = RedisServer::with(RedisSettings { appendonly: false, ..RedisSettings::default() });
    let place = Place::new();
    let url = server.url();
    let env = [("STEM_BROKER_URL", url.as_str())];
    let health = place.stem_env(&env, &["health"]).expect(0);
    assert!(health.stderr.contains("set appendonly yes"), "{health:?}");
    let strict = place.stem_env(&env, &["worker", "start", "--strict"]).expect(2).complains();
    assert!(strict.stderr.contains("set appendonly yes"), "{strict:?}");
    server.command(&["CONFIG", "SET", "appendonly", "yes"]).unwrap();
    let shown = place.stem_env(&env, &["worker", "start", "--strict", "--print-config", "--json"]);
    assert!(shown.expect(0).stdout.contains("--strict"));
}

/// The order must be kept even where the broker cannot be reached.
#[test]
fn a_revoke_is_stored_while_the_broker_is_away() {
    let store = RedisServer::start();
    let place = Place::new();
    let url = store.url();
    let env = [
        ("STEM_BROKER_URL", "redis://127.0.0.1:1"),
        ("STEM_RESULT_BACKEND_URL", url.as_str()),
        ("STEM_REVOKE_STORE_URL", url.as_str()),
    ];
    let ran = place.stem_env(&env, &["worker", "revoke", "--task", "t", "--json"]).expect(5);
    let said = ran.json();
    assert_eq!(
        (&said["broadcast"], &said["persisted"][0]["taskId"]),
        (&json!("pending"), &json!("t"))
    );
    assert!(ran.stderr.contains("the revocation is stored"), "{ran:?}");
    let listed = place.stem_env(&env, &["revokes", "list", "--json"]).expect(0);
    assert!(listed.stdout.contains("\"t\""), "{listed:?}");
}
