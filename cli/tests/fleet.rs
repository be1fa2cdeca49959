//! The command line on servers: Redis, Postgres, and the two mixed.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use std::io::{BufRead, BufReader};

use serde_json::json;
use stem_services::{PostgresServer, RedisServer, RedisSettings};
use support::Place;

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
