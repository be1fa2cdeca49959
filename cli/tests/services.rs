//! Every command on an empty store, and on a store that cannot be used.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::os::unix::fs::PermissionsExt;

use support::{Place, WITH_SERVICES};

/// The code on an empty store.
fn on_empty(words: &[&str]) -> i32 {
    match words {
        ["worker", "revoke", ..]
        | ["revokes", "list" | "prune"]
        | ["task", "enqueue" | "list", ..]
        | ["module" | "dlq", "list"]
        | ["queue", "list" | "pause" | "resume", ..]
        | ["health"] => 0,
        ["worker" | "revokes" | "task" | "module" | "dlq" | "queue", ..] => 3,
        other => panic!("no expectation for {other:?}"),
    }
}

#[test]
fn nothing_there_has_one_code_in_text_and_json() {
    for words in WITH_SERVICES.iter().filter(|words| words[1..] != ["start"]) {
        let code = on_empty(words);
        let text = Place::new().stem(words).expect(code);
        let mut words = words.to_vec();
        words.push("--json");
        let json = Place::new().stem(&words).expect(code).json_or_nothing();
        if code == 0 {
            json.json();
        } else {
            text.complains();
            json.complains();
        }
    }
}

#[test]
fn an_unusable_store_is_code_5_with_the_path_and_a_hint() {
    for (name, prepare) in [
        (
            "garbage",
            (|place: &Place| {
                place.write("bad.db", vec![7u8; 8192]);
            }) as fn(&Place),
        ),
        ("a directory", |place| std::fs::create_dir(place.path("bad.db")).unwrap()),
        ("read-only", |place| {
            let path = place.write("bad.db", "");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o400)).unwrap();
        }),
    ] {
        let place = Place::new();
        prepare(&place);
        let url = format!("sqlite://{}", place.path("bad.db").display());
        for words in WITH_SERVICES {
            for json in [false, true] {
                let mut words = words.to_vec();
                words.extend(json.then_some("--json"));
                let ran =
                    place.stem_env(&[("STEM_BROKER_URL", &url)], &words).expect(5).complains();
                assert!(ran.stderr.contains("bad.db"), "{name} {words:?}: {}", ran.stderr);
                if json {
                    ran.json_or_nothing();
                } else if words != ["health"] {
                    assert!(ran.stdout.is_empty(), "{ran:?}");
                }
            }
        }
    }
}

#[test]
fn a_locked_store_is_code_5_and_nothing_is_lost() {
    let place = Place::new();
    place.stem(&["task", "enqueue", "x", "--id", "first"]).expect(0);
    // A reader keeps the log's index alive; the lock on it is what a writer needs.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let keeper = runtime.block_on(place.backends());
    let index = place.database().with_extension("db-shm");
    let index = std::fs::OpenOptions::new().read(true).write(true).open(index).unwrap();
    let locked =
        rustix::fs::fcntl_lock(&index, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    if locked.is_err() {
        // Our own reader holds a part of it; let it go first.
        drop(keeper);
        drop(runtime);
        rustix::fs::fcntl_lock(&index, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
    let ran = place.stem(&["task", "enqueue", "x", "--id", "second"]).expect(5).complains();
    ran.says("stem.db").says("hint: look at what else uses it");
    drop(index);
    place.stem(&["task", "show", "first"]).expect(0);
    place.stem(&["task", "show", "second"]).expect(3);
}

#[test]
fn health_tells_each_service() {
    let place = Place::new();
    place.write("bad.db", vec![7u8; 8192]);
    let ran = place
        .stem_env(&[("STEM_REVOKE_STORE_URL", "sqlite://bad.db")], &["health", "--json"])
        .expect(5);
    let checks = ran.json();
    assert_eq!(checks["status"], "unavailable");
    let ok: Vec<_> = checks["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (&check["check"], &check["ok"]))
        .collect();
    assert_eq!(
        serde_json::json!(ok),
        serde_json::json!([
            ["broker", true],
            ["results", true],
            ["revokes", false],
            ["modules", true]
        ])
    );
    assert_eq!(place.stem(&["health", "--json"]).expect(0).json()["status"], "ok");
}

#[test]
fn a_server_that_is_not_there_is_code_5_and_a_url_that_cannot_be_one_is_code_2() {
    let place = Place::new();
    // Nothing listens on port 1.
    for url in [
        "redis://u:hunter2@127.0.0.1:1",
        "rediss://u:hunter2@127.0.0.1:1/0?prefix=blue",
        "postgres://u:hunter2@127.0.0.1:1/d",
        "postgresql://u:hunter2@127.0.0.1:1/d",
    ] {
        for words in WITH_SERVICES {
            let ran = place.stem_env(&[("STEM_BROKER_URL", url)], words).expect(5).complains();
            assert!(ran.stderr.contains("127.0.0.1:1"), "{ran:?}");
            assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
        }
        let ran = place.stem_env(&[("STEM_BROKER_URL", url)], &["queue", "list"]).expect(5);
        ran.says("hint: see that it runs");
    }
    for url in [
        "redis://",
        "redis://u:hunter2@h/x",
        "rediss://h?nonsense=1",
        "postgres://u:hunter2@h",
        "postgres://u:hunter2@h/d?sslmod=require",
        "postgres://u:hunter2@h/d?sslmode=sometimes",
        "postgres://u:hunter2@h/d?schema=No",
    ] {
        let ran = place.stem_env(&[("STEM_BROKER_URL", url)], &["health"]).expect(2).complains();
        assert!(
            ran.stderr.contains("supported are") || ran.stderr.contains("Where tasks wait"),
            "{ran:?}"
        );
        assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    }
    let unknown =
        place.stem_env(&[("STEM_BROKER_URL", "sqlit:///x")], &["health"]).expect(2).complains();
    assert!(unknown.stderr.contains("did you mean sqlite://"), "{unknown:?}");
    // A file of lines keeps revocations and nothing else.
    let file = format!("file://{}", place.path("revokes").display());
    for store in [file.as_str(), "revokes.ndjson"] {
        place.stem_env(&[("STEM_REVOKE_STORE_URL", store)], &["revokes", "list"]).expect(0);
    }
    for variable in ["STEM_BROKER_URL", "STEM_RESULT_BACKEND_URL"] {
        place.stem_env(&[(variable, &file)], &["health"]).expect(2).complains();
    }
}

#[test]
fn memory_is_refused_where_a_write_would_be_lost() {
    let place = Place::new();
    for words in [
        &["task", "enqueue", "x"][..],
        &["worker", "revoke", "--task", "t"],
        &["queue", "pause", "q"],
    ] {
        let ran = place.stem_env(&[("STEM_BROKER_URL", "memory://")], words).expect(2).complains();
        assert!(ran.stderr.contains("this process's own memory"), "{ran:?}");
    }
    place.stem_env(&[("STEM_BROKER_URL", "memory://")], &["task", "list"]).expect(0);
    place.stem_env(&[("STEM_BROKER_URL", "memory://")], &["worker", "ping"]).expect(3);
    place
        .stem_env(&[("STEM_BROKER_URL", "memory://")], &["health"])
        .expect(0)
        .says("nothing outlives the process");
}
