//! Tasks from the command line: enqueue, show, wait, result, list, run, and module check.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stem_core::backend::broker::{Delivery, ReceiveRequest};
use stem_core::envelope::Payload;
use stem_core::id::{Incarnation, QueueName, TaskId, TaskName, WorkerId};
use stem_core::outcome::{Failure, FailureKind};
use stem_core::settlement::{DeadReason, Settle, Settlement};
use stem_core::time::Clock;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock};
use support::{Place, Ran, command_module, talking_spin};

fn worker() -> WorkerId {
    WorkerId::new("w").unwrap()
}

/// Plays the worker: takes the task.
async fn receive(backends: &Backends) -> Delivery {
    let request = ReceiveRequest {
        queues: vec![QueueName::new("default").unwrap()],
        names: Arc::from([TaskName::new("x").unwrap()]),
        max: 1,
        lease: Duration::from_mins(1),
        owner: Incarnation(uuid::Uuid::now_v7()),
        worker: worker(),
        wait: Duration::from_secs(5),
        records: backends.records(),
        shares: None,
    };
    let mut deliveries: Vec<Delivery> = backends.broker.receive(&request).await.unwrap();
    deliveries.pop().expect("a task waits")
}

/// Plays the worker: takes the task and settles it.
async fn settle(backends: &Backends, settlement: Settlement) {
    let delivery = receive(backends).await;
    let settle = Settle {
        receipt: delivery.receipt,
        settlement,
        at: SystemClock.now(),
        worker: worker(),
        attempt: delivery.attempt,
        usage: None,
        module: None,
        children: Vec::new(),
    };
    backends.broker.settle(&[settle], backends.records()).await.unwrap();
}

/// As Ctrl-C does.
fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

fn failed() -> Settlement {
    Settlement::Fail {
        failure: Failure::new(FailureKind::Error, "broken", "the disk is gone"),
        reason: DeadReason::Fatal,
    }
}

fn enqueue(place: &Place, id: &str) {
    let ran = place
        .stem(&["task", "enqueue", "x", "--id", id])
        .expect(0)
        .says("no live worker")
        .says("knows x");
    assert_eq!(ran.stdout, format!("{id}\n"));
}

#[test]
fn what_is_enqueued_is_shown_with_the_keys_of_the_interface() {
    let place = Place::new();
    let ran = place.stem(&["task", "enqueue", "x", "--json", "--json-args", "{\"a\":1}"]).expect(0);
    let enqueued = ran.json();
    assert_eq!(enqueued["deduplicated"], false);
    let id = enqueued["id"].as_str().unwrap();
    let shown = place.stem(&["task", "show", id, "--json"]).expect(0).json();
    let keys: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["attempt", "deliveryCount", "enqueuedAt", "id", "maxRetries", "name", "queue", "state"]
    );
    assert_eq!((&shown["state"], &shown["maxRetries"]), (&json!("queued"), &json!(3)));
    let at = shown["enqueuedAt"].as_str().unwrap();
    assert!(at.len() == 24 && at.ends_with('Z'), "{at}");
    let listed = place.stem(&["task", "list", "--json"]).expect(0).json();
    assert_eq!(listed, json!([shown]));
    assert!(place.stem(&["task", "show", id]).expect(0).stdout.contains("queued"));
}

#[test]
fn enqueueing_twice_changes_nothing() {
    let place = Place::new();
    enqueue(&place, "a");
    let again = place
        .stem(&["task", "enqueue", "x", "--id", "a", "--json"])
        .expect(0)
        .says("was there already")
        .json();
    assert_eq!(again, json!({"id": "a", "deduplicated": true}));
    let first = place.stem(&["task", "enqueue", "x", "--unique", "k", "--json"]).expect(0).json();
    let second = place.stem(&["task", "enqueue", "x", "--unique", "k", "--json"]).expect(0).json();
    assert_eq!((&second["id"], &second["deduplicated"]), (&first["id"], &json!(true)));
}

#[test]
fn options_are_carried() {
    let place = Place::new();
    let args = [
        "task",
        "enqueue",
        "x",
        "--id",
        "a",
        "--delay",
        "1h",
        "--priority",
        "9",
        "--expires-in",
        "2h",
        "--timeout",
        "5m",
        "--header",
        "who=ann",
        "--header",
        "why=a=b",
    ];
    place.stem(&args).expect(0);
    let queues = place.stem(&["queue", "list", "--json"]).expect(0).json();
    assert_eq!((&queues[0]["depth"], &queues[0]["delayed"]), (&json!(0), &json!(1)));
    assert!(place.stem(&["task", "show", "a"]).expect(0).stdout.contains("not before"));
    place
        .stem(&["task", "enqueue", "x", "--header", "a=1", "--header", "a=2"])
        .expect(2)
        .complains();
    let twice = ["task", "enqueue", "x", "--tenant", "a", "--header", "tenant=b"];
    place.stem(&twice).expect(2).complains();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_may_be_pinned_to_a_build() {
    let place = Place::new();
    let digest = format!("sha256:{}", "5a".repeat(32));
    let enqueue = |more: &[&str]| {
        let mut args = vec!["task", "enqueue", "x", "--id", "a", "--json", "--module"];
        args.extend(more);
        place.stem(&args)
    };
    let said = enqueue(&[&digest]).expect(0).json();
    assert_eq!(said, json!({"id": "a", "deduplicated": false, "module": digest}));
    // The one that was there is not pinned by asking again.
    let other = format!("sha256:{}", "00".repeat(32));
    assert_eq!(enqueue(&[&other]).expect(0).json(), json!({"id": "a", "deduplicated": true}));
    let backends = place.backends().await;
    let delivery = receive(&backends).await;
    assert_eq!(delivery.envelope.module.map(|digest| digest.to_string()), Some(digest));
    enqueue(&["5a5a"]).expect(2).complains().says("sha256:");
}

#[test]
fn bad_arguments_are_told_here_and_nothing_is_enqueued() {
    let place = Place::new();
    let malformed = "{\"a\": 1,\n  oops}";
    place.write("bad.json", malformed);
    for ran in [
        place.stem(&["task", "enqueue", "x", "--json-args", malformed]),
        place.stem(&["task", "enqueue", "x", "--args-file", "bad.json"]),
        place.stem_stdin(malformed.as_bytes(), &["task", "enqueue", "x", "-"]),
        place.stem_stdin(malformed.as_bytes(), &["task", "enqueue", "x", "--args-file", "-"]),
        place.stem(&["task", "run", "m.wasm", "--args", malformed]),
    ] {
        ran.expect(2).complains().says("line 2 column 3");
    }
    let large = place.write("large.json", format!("\"{}\"", "x".repeat(1 << 20)));
    place
        .stem(&["task", "enqueue", "x", "--args-file", large.to_str().unwrap()])
        .expect(2)
        .complains()
        .says("1048576");
    place
        .stem(&["task", "enqueue", "x", "--args-file", "absent.json"])
        .expect(2)
        .complains()
        .says("absent.json");
    assert_eq!(place.stem(&["task", "list", "--json"]).expect(0).json(), json!([]));
    place.stem_stdin(b"[1]", &["task", "enqueue", "x", "-"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_printed_as_it_is() {
    let place = Place::new();
    enqueue(&place, "a");
    place.stem(&["task", "result", "a"]).expect(3).complains().says("no result yet");
    let backends = place.backends().await;
    settle(&backends, Settlement::Succeed(Payload::json("{\"n\":1}"))).await;
    for command in ["wait", "result"] {
        assert_eq!(place.stem(&["task", command, "a"]).expect(0).stdout, "{\"n\":1}\n");
    }
    let waited = place.stem(&["task", "wait", "a", "--json"]).expect(0).json();
    assert_eq!((&waited["state"], &waited["result"]), (&json!("succeeded"), &json!({"n": 1})));
    assert_eq!(
        place.stem(&["task", "result", "a", "--json"]).expect(0).json()["result"],
        json!({"n": 1})
    );

    let png = [0x89, b'P', b'N', b'G', 0, 255];
    enqueue(&place, "b");
    settle(
        &backends,
        Settlement::Succeed(Payload { media_type: "image/png".into(), bytes: png.to_vec() }),
    )
    .await;
    assert_eq!(place.stem(&["task", "result", "b"]).expect(0).bytes, png);
    let written =
        place.stem(&["task", "result", "b", "--output", "b.png"]).expect(0).says("image/png");
    assert!(written.stdout.is_empty());
    assert_eq!(std::fs::read(place.path("b.png")).unwrap(), png);
    let shown = place.stem(&["task", "show", "b", "--json"]).expect(0).json();
    assert_eq!(shown["result"], json!({"mediaType": "image/png", "base64": "iVBORwD/"}));
    place.stem(&["task", "result", "b", "--output", "no/such/dir/b.png"]).expect(1).complains();
    let files: Vec<_> = std::fs::read_dir(place.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        files.iter().all(|name| !name.to_string_lossy().starts_with(".stem-result")),
        "{files:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_failed_is_code_1_with_kind_code_and_message() {
    let place = Place::new();
    enqueue(&place, "a");
    let backends = place.backends().await;
    settle(&backends, failed()).await;
    for command in ["wait", "result"] {
        let ran = place.stem(&["task", command, "a"]).expect(1).complains();
        assert!(ran.stdout.is_empty());
        ran.says("failed").says("error, code broken").says("the disk is gone");
    }
    let waited = place.stem(&["task", "wait", "a", "--json"]).expect(1).json();
    assert_eq!(
        waited["failure"],
        json!({"kind": "error", "code": "broken", "message": "the disk is gone"})
    );
    let listed = place.stem(&["task", "list", "--state", "failed", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(
        place.stem(&["task", "list", "--state", "queued", "--json"]).expect(0).json(),
        json!([])
    );
    assert_eq!(
        place.stem(&["task", "list", "--queue", "other", "--json"]).expect(0).json(),
        json!([])
    );
}

#[test]
fn enqueue_wait_follows_a_task_to_its_end() {
    let place = Place::new();
    // The store is made first: who makes it when two programs start at once is not asked here.
    place.stem(&["health"]).expect(0);
    for (json, settlement, code) in [
        (false, Settlement::Succeed(Payload::json("42")), 0),
        (true, Settlement::Succeed(Payload::json("42")), 0),
        (false, failed(), 1),
    ] {
        let mut args = vec!["task", "enqueue", "x", "--wait"];
        args.extend(json.then_some("--json"));
        let child = place.command(&args).spawn().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async { settle(&place.backends().await, settlement).await });
        let ran = Ran::of(child.wait_with_output().unwrap()).expect(code);
        assert!(ran.stderr.contains("task 0"), "the id is on standard error: {ran:?}");
        match (json, code) {
            (true, _) => {
                let record = ran.json();
                assert_eq!(
                    (&record["result"], &record["deduplicated"]),
                    (&json!(42), &json!(false))
                );
            }
            (false, 0) => assert_eq!(ran.stdout, "42\n"),
            (false, _) => {
                ran.complains().says("the disk is gone");
            }
        }
    }
}

#[test]
fn waiting_ends_by_time_or_by_ctrl_c_and_leaves_the_task_alone() {
    let place = Place::new();
    enqueue(&place, "a");
    place
        .stem(&["task", "wait", "a", "--timeout", "100ms"])
        .expect(1)
        .complains()
        .says("still queued");
    let mut child = place.command(&["task", "wait", "a"]).spawn().unwrap();
    // It says what it waits for once it does, and listens for the signal from then on.
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "queued\n");
    interrupt(&child);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("left alone") && rest.contains("stem task wait a"), "{rest}");
    assert_eq!(place.stem(&["task", "show", "a", "--json"]).expect(0).json()["state"], "queued");
}

#[test]
fn a_module_runs_here_without_a_broker() {
    let place = Place::new();
    place.write("m.wasm", command_module());
    let ran = place
        .stem(&["task", "run", "m.wasm"])
        .expect(0)
        .says("a line for the log")
        .says("m succeeded");
    assert_eq!(ran.stdout, "{\"ok\":true}\n");
    let ran = place.stem(&["task", "run", "m.wasm", "--json", "--name", "other"]).expect(0).json();
    assert_eq!(
        (&ran["state"], &ran["result"], &ran["name"]),
        (&json!("succeeded"), &json!({"ok": true}), &json!("other"))
    );
    assert!(!place.database().exists());

    place.write(
        "trap.wasm",
        wat::parse_str(
            "(module (memory (export \"memory\") 1) (func (export \"_start\") unreachable))",
        )
        .unwrap(),
    );
    place.stem(&["task", "run", "trap.wasm"]).expect(1).complains().says("trap");
    assert_eq!(
        place.stem(&["task", "run", "trap.wasm", "--json"]).expect(1).json()["failure"]["kind"],
        "trap"
    );
    place.stem(&["task", "run", "absent.wasm"]).expect(2).complains().says("absent.wasm");
    place.write("bad.wasm", "hello");
    place.stem(&["task", "run", "bad.wasm"]).expect(2).complains().says("not a WebAssembly module");
}

/// Puts a value, reads it back, and enqueues `b` at once and `a` with its success; fails if its payload is 1.
const REACHES_OUT: &str = r#"(module
  (import "stem0" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
  (import "stem0" "output_write" (func $output_write (param i32 i32) (result i32)))
  (import "stem0" "children_enqueue" (func $enqueue (param i32 i32 i32 i32 i32) (result i32)))
  (import "stem0" "kv_get" (func $get (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "stem0" "kv_put" (func $put (param i32 i32 i32 i32 i32 i32 i32 i64 i64) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "[{\"task_name\":\"a\",\"queue\":\"q\",\"delay_ms\":1500}]")
  (data (i32.const 512) "[{\"task_name\":\"b\",\"dedup_key\":\"k\"},{\"task_name\":\"b\",\"dedup_key\":\"k\"}]")
  (data (i32.const 800) "seen")
  (func (export "stem_run") (result i32)
    (drop (call $input_read (i32.const 1024) (i64.const 0) (i32.const 1)))
    (if (i64.lt_s (call $put (i32.const 800) (i32.const 4) (i32.const 800) (i32.const 1) (i32.const 1024) (i32.const 1)
      (i32.const 1) (i64.const 0) (i64.const 0)) (i64.const 0)) (then unreachable))
    (if (i32.ne (call $get (i32.const 800) (i32.const 4) (i32.const 800) (i32.const 1) (i32.const 2048) (i32.const 9)
      (i32.const 2040)) (i32.const 1)) (then unreachable))
    (drop (call $output_write (i32.const 2048) (i32.const 1)))
    (if (i32.lt_s (call $enqueue (i32.const 0) (i32.const 47) (i32.const 1) (i32.const 4096) (i32.const 999)) (i32.const 0))
      (then unreachable))
    (if (i32.lt_s (call $enqueue (i32.const 512) (i32.const 69) (i32.const 0) (i32.const 4096) (i32.const 999)) (i32.const 0))
      (then unreachable))
    (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 49))))"#;

#[test]
fn what_a_module_would_enqueue_is_told_and_its_values_last_as_long_as_it_runs() {
    let place = Place::new();
    place.write("m.wasm", wat::parse_str(REACHES_OUT).unwrap());
    place.write(
        "stem.toml",
        "[handlers.m]\nsource = \"file:m.wasm\"\n[handlers.m.grants]\nchildren = [\"*\"]\nkv = [\"seen:rw\"]\n",
    );
    let ran = place
        .stem(&["task", "run", "m.wasm", "--args", "7"])
        .expect(0)
        .says("would enqueue a in q after 1500ms: null")
        .says("would enqueue b: null");
    assert_eq!(ran.stdout, "7\n");
    let ran = place.stem(&["task", "run", "m.wasm", "--args", "7", "--json"]).expect(0).json();
    let children = ran["children"].as_array().unwrap();
    assert_eq!(children.len(), 2, "one for each key: {ran}");
    assert_eq!(
        (&children[0]["name"], &children[0]["release"]),
        (&json!("a"), &json!("on-success"))
    );
    assert_eq!((&children[0]["queue"], &children[0]["delayMs"]), (&json!("q"), &json!(1500)));
    assert_eq!((&children[1]["dedupKey"], &children[1]["release"]), (&json!("k"), &json!("now")));
    let ran = place.stem(&["task", "run", "m.wasm", "--args", "1", "--json"]).expect(1).json();
    let children = ran["children"].as_array().unwrap();
    assert_eq!((children.len(), &children[0]["name"]), (1, &json!("b")), "{ran}");
}

#[test]
fn the_manifest_beside_a_module_limits_it_and_ctrl_c_stops_it() {
    let place = Place::new();
    let spin = wat::parse_str(
        "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop (br 0))))",
    )
    .unwrap();
    place.write("spin/spin.wasm", &spin);
    place.write("spin/stem.toml", "[handlers.forever]\nsource = \"file:spin.wasm\"\n[handlers.forever.limits]\nhard = \"300ms\"\n");
    let ran = place.stem(&["task", "run", "spin/spin.wasm", "--json"]).expect(1).json();
    assert_eq!((&ran["name"], &ran["failure"]["kind"]), (&json!("forever"), &json!("time-limit")));
    place
        .stem(&["task", "run", "spin/spin.wasm", "--name", "foreve"])
        .expect(2)
        .complains()
        .says("did you mean forever?");
    place.write("spin/stem.toml", "[handlers.forever]\nsource = \"file:spin.wasm\"\nlimit = 1\n");
    place
        .stem(&["task", "run", "spin/spin.wasm"])
        .expect(2)
        .complains()
        .says("did you mean \"limits\"");

    place.write("spin.wasm", talking_spin());
    let mut child = place.command(&["task", "run", "spin.wasm", "--json"]).spawn().unwrap();
    let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(line.contains("a line for the log"), "{line}");
    interrupt(&child);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
    assert!(rest.contains("stopped by Ctrl-C") && rest.contains("hint: "), "{rest}");
    let ran = Ran::of(child.wait_with_output().unwrap()).expect(1);
    assert_eq!(ran.json()["state"], "stopped");
}

/// Returns the arguments as they are.
const ECHO: &str = r#"(module
  (import "stem0" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
  (import "stem0" "output_write" (func $output_write (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "stem_run") (result i32)
    (drop (call $output_write (i32.const 0) (call $input_read (i32.const 0) (i64.const 0) (i32.const 65536))))
    (i32.const 0)))"#;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_any_media_type_are_arguments() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    place.write("photo", &bytes);
    place.write("echo.wasm", wat::parse_str(ECHO).unwrap());
    let photo = ["--args-file", "photo", "--media-type", "image/jpeg"];
    let ran = place.stem(&[&["task", "run", "echo.wasm"], &photo[..]].concat()).expect(0);
    assert_eq!(ran.bytes, bytes);

    place.stem(&[&["task", "enqueue", "x"], &photo[..]].concat()).expect(0);
    place.stem_stdin(&bytes, &["task", "enqueue", "x", "-", "--media-type", "a/b"]).expect(0);
    let backends = place.backends().await;
    for media_type in ["image/jpeg", "a/b"] {
        let payload = receive(&backends).await.envelope.payload;
        assert_eq!((payload.media_type.as_str(), &payload.bytes), (media_type, &bytes));
    }

    for (more, words) in [
        (&["--args-file", "photo"][..], "say what they are with --media-type"),
        (&["--args-file", "photo", "--media-type", "a/b+json"], "not JSON"),
        (&["--args-file", "photo", "--media-type", "jpeg"], "image/png"),
        (&["--args-file", "photo", "--media-type", "a/\u{e9}"], "ASCII"),
        (&["--media-type", "image/jpeg"], "--args-file"),
    ] {
        for command in [&["task", "enqueue", "x"][..], &["task", "run", "echo.wasm"]] {
            place.stem(&[command, more].concat()).expect(2).complains().says(words);
        }
    }
    let said_twice = ["task", "enqueue", "x", "--json-args", "{}", "--media-type", "a/b"];
    place.stem(&said_twice).expect(2).complains();
}

/// Says very often how far it is, and at last that it is done.
const TALKS: &str = r#"(module
  (import "stem0" "progress" (func $progress (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "the end")
  (func (export "stem_run") (result i32)
    (local $n i32)
    (loop $again
      (drop (call $progress (i32.rem_u (local.get $n) (i32.const 1000)) (i32.const 0) (i32.const 3)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 100000))))
    (drop (call $progress (i32.const 1000) (i32.const 0) (i32.const 7)))
    (i32.const 0)))"#;

#[test]
fn progress_is_shown_as_often_as_a_worker_tells_it_and_the_last_of_it_always() {
    let place = Place::new();
    place.write("m.wasm", wat::parse_str(TALKS).unwrap());
    for _ in 0..8 {
        let ran = place.stem(&["task", "run", "m.wasm", "--json"]).expect(0);
        let shown: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("m: ")).collect();
        assert!(shown.last().unwrap().contains("the end"), "{shown:?}");
        // Five a second, the first and the last.
        let elapsed = Duration::from_secs_f64(ran.json()["elapsedMs"].as_f64().unwrap() / 1e3);
        let most = elapsed.as_millis() / 200 + 2;
        assert!(shown.len() as u128 <= most, "{} of {most}: {shown:?}", shown.len());
    }
}

/// Sleeps for long, and gives up when it is asked to.
const GIVES_UP: &str = r#"(module
  (import "stem0" "sleep" (func $sleep (param i64) (result i32)))
  (import "stem0" "fail" (func $fail (param i32 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "{\"code\":\"c\",\"message\":\"m\"}")
  (func (export "stem_run") (result i32)
    (drop (call $sleep (i64.const 600000)))
    (drop (call $fail (i32.const 3) (i64.const 0) (i32.const 0) (i32.const 26)))
    (i32.const 1)))"#;

#[test]
fn a_module_that_gives_up_at_its_soft_limit_did_not_reach_the_hard_one() {
    let place = Place::new();
    place.write("m.wasm", wat::parse_str(GIVES_UP).unwrap());
    let limits = "[handlers.m.limits]\nsoft = \"100ms\"\nhard = \"5m\"\n";
    place.write("stem.toml", format!("[handlers.m]\nsource = \"file:m.wasm\"\n{limits}"));
    let ran =
        place.stem(&["task", "run", "m.wasm", "--json"]).expect(1).says("soft limit of 100ms");
    assert_eq!(ran.json()["failure"]["kind"], "time-limit");
}

#[test]
fn a_project_s_manifest_holds_wherever_its_module_lies() {
    let place = Place::new();
    place.write("p/build/m.wasm", command_module());
    let handler = |name: &str| format!("[handlers.{name}]\nsource = \"file:build/m.wasm\"\n");
    place.write("p/stem.toml", handler("served"));
    let ran = place.stem(&["task", "run", "p", "--json"]).expect(0).json();
    assert_eq!(ran["name"], "served");
    place
        .stem(&["task", "run", "p", "--name", "serve"])
        .expect(2)
        .complains()
        .says("did you mean served?");
    place.write("p/stem.toml", handler("served") + &handler("other"));
    place.stem(&["task", "run", "p"]).expect(2).complains().says("choose one with --name");
    let ran = place.stem(&["task", "run", "p", "--name", "other", "--json"]).expect(0).json();
    assert_eq!(ran["name"], "other");
}

#[test]
fn module_check_tells_what_a_module_is_and_why_it_is_refused() {
    let place = Place::new();
    place.write("m.wasm", command_module());
    let checked = place.stem(&["module", "check", "m.wasm", "--json"]).expect(0).json();
    assert_eq!((&checked["verdict"], &checked["kind"]), (&json!("admitted"), &json!("command")));
    assert_eq!(checked["imports"], json!(["wasi_snapshot_preview1.fd_write"]));
    assert_eq!(checked["exports"], json!(["_start", "memory"]));
    assert_eq!(checked["digest"].as_str().map(str::len), Some(71));
    assert!(place.stem(&["module", "check", "m.wasm"]).expect(0).stdout.contains("admitted"));

    for (name, wat, words) in [
        (
            "evil",
            "(module (import \"evil\" \"shell\" (func)) (func (export \"_start\")))",
            "evil.shell",
        ),
        ("none", "(module (func (export \"main\")))", "not a task"),
        ("component", "(component)", "not a task"),
        ("invalid", "(module (func (export \"_start\") (result i32)))", "cannot be compiled"),
    ] {
        let file = format!("{name}.wasm");
        place.write(&file, wat::parse_str(wat).unwrap());
        place.stem(&["module", "check", &file]).expect(1).complains().says(words);
        let checked = place.stem(&["module", "check", &file, "--json"]).expect(1).json();
        assert_eq!((&checked["verdict"], &checked["admitted"]), (&json!("refused"), &json!(false)));
        assert!(checked["problem"].as_str().unwrap().contains(words), "{checked}");
        if name == "evil" {
            assert_eq!(checked["unknownImports"], json!(["evil.shell"]));
        }
    }
    for (name, bytes) in
        [("text.wasm", &b"(module)"[..]), ("empty.wasm", b""), (".hidden", b"\x7fELF")]
    {
        place.write(name, bytes);
        place
            .stem(&["module", "check", name])
            .expect(1)
            .complains()
            .says("not a WebAssembly module");
    }
    place.stem(&["module", "check", "absent.wasm"]).expect(2).complains().says("absent.wasm");
    place.stem(&["module", "check", "."]).expect(2).complains();
    // A worker refuses what the check refuses, in the same words; for it a bad module is bad configuration.
    place.write(
        "modules/evil.wasm",
        wat::parse_str("(module (import \"evil\" \"shell\" (func)) (func (export \"_start\")))")
            .unwrap(),
    );
    place
        .stem(&["worker", "start", "--modules", "modules"])
        .expect(2)
        .complains()
        .says("evil.shell");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_replayed_and_removed() {
    let place = Place::new();
    let backends = place.backends().await;
    for id in ["a", "b"] {
        enqueue(&place, id);
        settle(&backends, failed()).await;
    }
    let listed = place.stem(&["dlq", "list", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&listed[0]["id"], &listed[0]["reason"], &listed[0]["failure"]["code"]),
        (&json!("a"), &json!("fatal"), &json!("broken"))
    );
    for (filter, count) in [
        (&["--reason", "fatal"][..], 2),
        (&["--reason", "poison"], 0),
        (&["--queue", "other"], 0),
        (&["--name", "x"], 2),
        (&["--since", "1h"], 2),
        (&["--since", "2200-01-01T00:00:00Z"], 0),
        (&["--limit", "1"], 1),
        (&["--id", "b"], 1),
    ] {
        let words: Vec<&str> = ["dlq", "list", "--json"].iter().chain(filter).copied().collect();
        assert_eq!(
            place.stem(&words).expect(0).json().as_array().map(Vec::len),
            Some(count),
            "{filter:?}"
        );
    }
    let shown = place.stem(&["dlq", "show", "a", "--json"]).expect(0).json();
    assert_eq!((&shown["arguments"], &shown["maxRetries"]), (&json!({}), &json!(3)));
    assert!(place.stem(&["dlq", "show", "a"]).expect(0).stdout.contains("the disk is gone"));

    // Nothing happens without consent, and the count is named.
    for command in ["replay", "purge"] {
        place.stem(&["dlq", command]).expect(2).complains().says("2 dead letters").says("--yes");
        let dry =
            place.stem(&["dlq", command, "--dry-run", "--json"]).expect(0).says("would").json();
        assert_eq!((&dry["dryRun"], &dry["matched"]), (&json!(true), &json!(2)));
    }
    assert_eq!(
        place.stem(&["dlq", "list", "--json"]).expect(0).json().as_array().map(Vec::len),
        Some(2)
    );

    let replayed =
        place.stem(&["dlq", "replay", "a", "nope", "--yes", "--json"]).expect(4).complains().json();
    assert_eq!((&replayed["replayed"], &replayed["absent"]), (&json!(["a"]), &json!(["nope"])));
    assert_eq!(place.stem(&["task", "show", "a", "--json"]).expect(0).json()["state"], "queued");
    let purged = place.stem(&["dlq", "purge", "--yes", "--json"]).expect(0).json();
    assert_eq!(purged["purged"], 1);
    place.stem(&["dlq", "purge", "--yes"]).expect(0);
    place.stem(&["dlq", "show", "b"]).expect(3).complains();
}

#[test]
fn queues_are_listed_paused_resumed_and_emptied() {
    let place = Place::new();
    enqueue(&place, "a");
    let paused = place
        .stem(&["queue", "pause", "default", "mail", "--reason", "a break", "--json"])
        .expect(0)
        .json();
    assert_eq!(paused, json!({"updated": ["default", "mail"], "paused": ["default", "mail"]}));
    let listed = place.stem(&["queue", "list", "--json"]).expect(0).json();
    assert_eq!(
        (&listed[0]["paused"], &listed[0]["pauseReason"]),
        (&json!(true), &json!("a break"))
    );
    assert_eq!(
        (&listed[0]["unroutable"], &listed[0]["tasks"]),
        (&json!(1), &json!([{"name": "x", "count": 1}]))
    );
    let resumed = place.stem(&["queue", "resume", "default", "--json"]).expect(0).json();
    assert_eq!(resumed, json!({"updated": ["default"], "paused": ["mail"]}));
    assert!(
        place.stem(&["queue", "resume", "default"]).expect(0).stdout.contains("was not paused")
    );

    place
        .stem(&["queue", "purge", "defalt", "--yes"])
        .expect(3)
        .complains()
        .says("did you mean default?");
    place.stem(&["queue", "purge", "default"]).expect(2).complains().says("1 waiting task");
    place.stem(&["queue", "purge", "default", "--dry-run"]).expect(0).says("1 waiting task");
    let purged = place.stem(&["queue", "purge", "default", "--yes", "--json"]).expect(0).json();
    assert_eq!(purged["purged"], 1);
    place.stem(&["task", "show", "a"]).expect(3).complains();
}

/// Deeper than anything that reads JSON follows.
#[tokio::test(flavor = "multi_thread")]
async fn json_nested_a_hundred_thousand_deep_is_delivered_and_shown_as_bytes() {
    let place = Place::new();
    let backends = place.backends().await;
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let client = Client::new(backends.clone(), Arc::new(SystemClock));
    for id in ["a", "b"] {
        let id = Some(TaskId::new(id).unwrap());
        let options = EnqueueOptions { id, ..EnqueueOptions::default() };
        let name = TaskName::new("x").unwrap();
        client.enqueue(name, Payload::json(deep.as_bytes()), options).await.unwrap();
    }
    settle(&backends, Settlement::Succeed(Payload::json(deep.as_bytes()))).await;
    settle(&backends, failed()).await;
    let encoded = json!(stem_cli::output::base64(deep.as_bytes()));
    for command in ["show", "wait", "result"] {
        let document = place.stem(&["task", command, "a", "--json"]).expect(0).json();
        assert_eq!(document["result"]["base64"], encoded, "{command}");
    }
    assert_eq!(place.stem(&["task", "result", "a"]).expect(0).stdout, deep.clone() + "\n");
    place.stem(&["task", "show", "a"]).expect(0);
    place.stem(&["task", "list"]).expect(0);
    let letter = place.stem(&["dlq", "show", "b", "--json"]).expect(0).json();
    assert_eq!(letter["arguments"]["base64"], encoded);
    place.stem(&["dlq", "show", "b"]).expect(0);
    place.stem(&["dlq", "replay", "b", "--yes"]).expect(0);
    assert!(receive(&backends).await.envelope.payload.bytes == deep.as_bytes());
}

#[test]
fn more_revocations_than_one_order_takes_are_refused_before_any_is_stored() {
    let place = Place::new();
    let tasks = (0..10_001).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    place.stem(&["worker", "revoke", "--task", &tasks]).expect(2).complains().says("10001");
    place.stem(&["revokes", "list"]).expect(0);
}
