//! Shipping modules with real processes: pushed under load, on trial, rolled back, recalled, signed.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stem_core::envelope::Payload;
use stem_core::id::{TaskId, TaskName};
use stem_core::release::{Push, PushId, Rollout};
use stem_core::task::{TaskRecord, TaskState};
use stem_engine::{Client, EnqueueOptions, SystemClock};
use stem_services::{PostgresServer, RedisServer};
use support::Place;
use support::started::Started;

const PATIENCE: Duration = Duration::from_mins(2);

/// A module that computes for a moment and answers this digit.
fn says(digit: u8) -> Vec<u8> {
    let text = format!(
        r#"(module (import "stem0" "output_write" (func $out (param i32 i32) (result i32))) (memory (export "memory") 1)
           (data (i32.const 0) "{digit}")
           (func (export "stem_run") (result i32) (local $left i32)
             (local.set $left (i32.const 2000000))
             (loop (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if 0 (local.get $left)))
             (call $out (i32.const 0) (i32.const 1))))"#
    );
    wat::parse_str(text).unwrap()
}

/// A module that computes for ever.
fn spins() -> Vec<u8> {
    let text = r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (loop (br 0)) (i32.const 0)))"#;
    wat::parse_str(text).unwrap()
}

fn file(place: &Place, name: &str, wasm: Vec<u8>) -> String {
    place.write(name, wasm).display().to_string()
}

/// Ships a module for the task name `job`; its document.
#[track_caller]
fn push(place: &Place, name: &str, wasm: Vec<u8>, more: &[&str]) -> Value {
    let file = file(place, name, wasm);
    let mut words = vec!["module", "push", &file, "--name", "job", "--json"];
    words.extend(more);
    place.stem(&words).expect(0).json()
}

fn digest(document: &Value) -> String {
    document["digest"].as_str().unwrap().to_owned()
}

/// Looks until it is as wanted.
#[track_caller]
fn until<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let since = Instant::now();
    loop {
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        assert!(since.elapsed() < PATIENCE, "{what} never came: {seen:?}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[track_caller]
fn until_task(place: &Place, id: &str, state: &str) -> Value {
    let show = || place.stem(&["task", "show", id, "--json"]).expect(0).json();
    until(state, show, |record| record["state"] == state)
}

/// Waits until a task's guest has had CPU time: the record says running from the lease on, before any code ran.
#[track_caller]
fn until_computing(place: &Place, id: &str) {
    let look = || {
        let words = ["worker", "inspect", "--no-revoked", "--timeout", "1m", "--json"];
        let said = place.stem(&words).expect(0).json();
        let replies = said["replies"].as_array().unwrap().iter();
        let mut active = replies.flat_map(|reply| reply["payload"]["active"].as_array().unwrap());
        active.any(|row| row["id"] == id && row["cpuMs"].as_f64().unwrap_or(0.0) > 0.0)
    };
    until("computing", look, |computing| *computing);
}

/// The states of all releases that a worker says something of, by worker.
fn states(place: &Place) -> Vec<String> {
    let said = place.stem(&["worker", "inspect", "--no-revoked", "--json"]).expect(0).json();
    let replies = said["replies"].as_array().unwrap().iter();
    let releases = replies
        .flat_map(|reply| reply["payload"]["releases"].as_array().cloned().unwrap_or_default());
    releases.map(|release| release["state"].as_str().unwrap().to_owned()).collect()
}

async fn ended(client: &Client, id: &TaskId) -> TaskRecord {
    let record = client.wait(id, Some(PATIENCE), |_| {}).await.unwrap().unwrap();
    assert!(record.state.is_final(), "{record:?}");
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_under_load_fails_nothing_restarts_nothing_and_each_result_names_its_build() {
    let place = Place::new();
    let mut workers: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| Started::new(&place, &[], &["--name", name, "--concurrency", "4"]))
        .collect();
    let one = push(&place, "one.wasm", says(1), &[]);
    let client = Client::new(place.backends().await, Arc::new(SystemClock));
    let envelopes: Vec<_> = (0..1_000)
        .map(|_| {
            let (name, options) = (TaskName::new("job").unwrap(), EnqueueOptions::default());
            client.envelope(name, Payload::json("{}"), options).unwrap()
        })
        .collect();
    client.enqueue_all(&envelopes).await.unwrap();
    // The queue is in order, so so many have ended, nearly.
    let after = async |count: usize| drop(ended(&client, &envelopes[count].id).await);
    let off = |words: &[&str]| tokio::task::block_in_place(|| place.stem(words).expect(0).json());
    after(50).await;
    let two =
        tokio::task::block_in_place(|| push(&place, "two.wasm", says(2), &["--canary", "10%"]));
    assert_eq!(two["assignment"]["canary"], json!({"version": 2, "percent": 10}), "{two}");
    after(350).await;
    off(&["module", "promote", "job", "--json"]);
    after(600).await;
    let back = off(&["module", "rollback", "job", "--json"]);
    assert_eq!(back["assignment"], json!({"version": 1}), "{back}");
    let mut made = BTreeMap::<String, u32>::new();
    for envelope in &envelopes {
        let record = ended(&client, &envelope.id).await;
        assert_eq!(
            (record.state, record.attempt, record.delivery_count),
            (TaskState::Succeeded, 1, 1),
            "{record:?}"
        );
        let module = record.module.unwrap();
        let result = String::from_utf8(record.result.unwrap().bytes).unwrap();
        let build = if result == "1" { &one } else { &two };
        assert_eq!(module.digest.to_string(), digest(build));
        assert_eq!(module.version.unwrap(), format!("r{result}"));
        *made.entry(result).or_default() += 1;
    }
    assert!(made["1"] > 200 && made["2"] > 20, "{made:?}");
    for worker in &mut workers {
        assert!(worker.child.try_wait().unwrap().is_none(), "a worker was restarted");
    }
    let stats = off(&["worker", "stats", "--json"]);
    for reply in stats["replies"].as_array().unwrap() {
        let counters = &reply["payload"]["counters"];
        assert_eq!((&counters["failed"], &counters["retried"]), (&json!(0), &json!(0)), "{stats}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recall_stops_a_build_everywhere_parks_its_tasks_and_a_push_sets_them_going() {
    let place = Place::new();
    let _workers =
        ["a", "b"].map(|name| Started::new(&place, &[], &["--name", name, "--concurrency", "1"]));
    let bad = digest(&push(&place, "bad.wasm", spins(), &[]));
    let enqueue = |id: &str| {
        place.stem(&["task", "enqueue", "job", "--id", id, "--max-retries", "0"]).expect(0);
    };
    for id in ["one", "two", "three"] {
        enqueue(id);
    }
    for id in ["one", "two"] {
        until_computing(&place, id);
    }
    let said = place
        .stem(&["worker", "revoke", "--module", &bad, "--reason", "it spins", "--json"])
        .expect(0)
        .json();
    assert_eq!(said["persisted"][0]["taskId"], format!("module:{bad}"), "{said}");
    let replies = said["replies"].as_array().unwrap();
    let mut ended: Vec<_> = replies
        .iter()
        .flat_map(|reply| reply["payload"]["terminated"].as_array().unwrap())
        .map(|end| (end["id"].as_str().unwrap(), end["how"].as_str().unwrap()))
        .collect();
    ended.sort_unstable();
    assert_eq!(ended, [("one", "preempted"), ("two", "preempted")], "{said}");
    for end in replies.iter().flat_map(|reply| reply["payload"]["terminated"].as_array().unwrap()) {
        assert!(end["elapsedMs"].as_f64().unwrap() < 30_000.0, "{said}");
    }
    // One that starts afterwards knows, too.
    let _late = Started::new(&place, &[], &["--name", "c", "--concurrency", "4"]);
    until(
        "recalled",
        || states(&place),
        |states| states.len() == 3 && states.iter().all(|state| state == "recalled"),
    );
    enqueue("four");
    std::thread::sleep(Duration::from_secs(1));
    for id in ["one", "two", "three", "four"] {
        let record = place.stem(&["task", "show", id, "--json"]).expect(0).json();
        assert_eq!(
            (&record["state"], &record["deliveryCount"]),
            (&json!("queued"), &json!(0)),
            "{record}"
        );
    }
    let listed = place.stem(&["revokes", "list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["taskId"], format!("module:{bad}"), "{listed}");
    place
        .stem(&["module", "promote", "job", "--version", "1"])
        .expect(1)
        .complains()
        .says("recalled");
    push(&place, "good.wasm", says(2), &[]);
    for id in ["one", "two", "three", "four"] {
        let record = until_task(&place, id, "succeeded");
        assert_eq!(
            (&record["attempt"], &record["module"]["version"]),
            (&json!(1), &json!("r2")),
            "{record}"
        );
    }
    // What may run on nothing else is given up, and can be replayed once the recall is over.
    let pinned = ["task", "enqueue", "job", "--id", "pinned", "--module", &bad];
    place.stem(&pinned).expect(0);
    let record = until_task(&place, "pinned", "failed");
    assert_eq!(record["failure"]["code"], "module-recalled", "{record}");
    place.stem(&["dlq", "show", "pinned"]).expect(0);
    place.stem(&["revokes", "undo", "--module", &bad]).expect(0);
    place.stem(&["revokes", "undo", "--module", &bad]).expect(3).complains();
    assert_eq!(place.stem(&["revokes", "list", "--json"]).expect(0).json(), json!([]));
}

#[test]
fn what_nobody_trusted_signed_does_not_run() {
    let place = Place::new();
    let key = place.path("publisher.key").display().to_string();
    let made = place.stem(&["module", "key", "new", &key, "--json"]).expect(0).json();
    let public = made["publicKey"].as_str().unwrap();
    place.write("trust", format!("# publishers\n{public} ann\n"));
    let worker = Started::new(&place, &[("STEM_MODULE_TRUST", "trust")], &["--name", "a"]);
    push(&place, "one.wasm", says(1), &[]);
    until("untrusted", || states(&place), |states| *states == ["module-untrusted"]);
    let signed = push(&place, "one.wasm", says(1), &["--sign-key", &key]);
    assert_eq!((&signed["version"], &signed["signatures"][0]["key"]), (&json!(2), &json!(public)));
    place.stem(&["task", "enqueue", "job", "--id", "t"]).expect(0);
    assert_eq!(until_task(&place, "t", "succeeded")["module"]["version"], "r2");
    drop(worker);

    let loose = PathBuf::from(&key);
    std::fs::set_permissions(&loose, std::fs::Permissions::from_mode(0o644)).unwrap();
    place.stem(&["module", "key", "show", &key]).expect(2).complains().says("0644");
    std::fs::set_permissions(&loose, std::fs::Permissions::from_mode(0o600)).unwrap();
    let shown = place.stem(&["module", "key", "show", &key]).expect(0);
    assert_eq!(shown.stdout.trim(), public);
    place.stem(&["module", "key", "new", &key]).expect(1).complains().says("there already");
    assert_eq!(std::fs::metadata(&loose).unwrap().permissions().mode() & 0o777, 0o600);
    for (list, words) in [("", "no key"), ("x ann", "line 1")] {
        place.write("bad-trust", list);
        place.stem(&["worker", "start", "--trust", "bad-trust"]).expect(2).complains().says(words);
    }
    place.stem(&["worker", "start", "--trust", "nowhere"]).expect(2).complains();
}

#[test]
fn releases_are_listed_shown_changed_and_removed() {
    let place = Place::new();
    assert_eq!(place.stem(&["module", "list", "--json"]).expect(0).json(), json!([]));
    place.stem(&["module", "list"]).expect(0).says("nothing that was pushed serves");
    for words in [
        &["module", "show", "job"][..],
        &["module", "rollback", "job"],
        &["module", "promote", "job"],
        &["module", "canary", "job", "--percent", "5"],
        &["module", "remove", "job", "1", "--yes"],
    ] {
        place.stem(words).expect(3).complains().says("job");
    }
    let dry = push(&place, "one.wasm", says(1), &["--dry-run"]);
    assert_eq!(dry["dryRun"], true);
    assert_eq!(place.stem(&["module", "list", "--json"]).expect(0).json(), json!([]));

    let manifest = "[settings]\n[handlers.job]\nsource = \"file:two.wasm\"\nversion = \"1.2\"\n[handlers.other]\nsource = \"file:x.wasm\"\n";
    let one = push(&place, "one.wasm", says(1), &[]);
    assert_eq!((&one["version"], &one["assignment"]), (&json!(1), &json!({"version": 1})));
    assert_eq!(push(&place, "one.wasm", says(1), &[])["version"], 1, "the same makes no other");
    place.write("stem.toml", manifest);
    let two = push(&place, "two.wasm", says(2), &["--hold"]);
    assert_eq!((&two["version"], &two["assignment"]), (&json!(2), &json!({"version": 1})));
    let text = two["manifest"].as_str().unwrap();
    assert!(text.contains("1.2") && !text.contains("other"), "{text}");

    place.stem(&["module", "promote", "job"]).expect(3).complains().says("on trial");
    place
        .stem(&["module", "canary", "job", "--percent", "5%", "--version", "1"])
        .expect(2)
        .complains();
    place
        .stem(&["module", "canary", "job", "--percent", "0%", "--version", "2"])
        .expect(2)
        .complains();
    place
        .stem(&["module", "canary", "job", "--percent", "5%", "--version", "9"])
        .expect(3)
        .complains();
    let trial = ["module", "canary", "job", "--percent", "5%", "--version", "2", "--json"];
    let trial = place.stem(&trial).expect(0).json();
    assert_eq!(trial["assignment"]["canary"], json!({"version": 2, "percent": 5}), "{trial}");
    let listed = place.stem(&["module", "list", "--json"]).expect(0).json();
    assert_eq!(
        (listed.as_array().unwrap().len(), &listed[1]["canaryPercent"]),
        (2, &json!(5)),
        "{listed}"
    );
    assert!(place.stem(&["module", "list"]).expect(0).stdout.contains("5%"));
    place.stem(&["module", "rollback", "job", "--dry-run"]).expect(0).says("nothing was done");
    place.stem(&["module", "remove", "job", "2", "--yes"]).expect(1).complains().says("serves");
    place.stem(&["module", "promote", "job"]).expect(0);
    let shown = place.stem(&["module", "show", "job", "--json"]).expect(0).json();
    assert_eq!(
        (&shown["assignment"], shown["releases"].as_array().unwrap().len()),
        (&json!({"version": 2}), 2)
    );
    place.stem(&["module", "rollback", "job"]).expect(0);
    place.stem(&["module", "rollback", "job"]).expect(3).complains();
    place.stem(&["module", "rollback", "job", "--to", "2"]).expect(0);
    place.stem(&["module", "remove", "job", "1"]).expect(2).complains();
    place.stem(&["module", "remove", "job", "1", "--dry-run"]).expect(0);
    place.stem(&["module", "remove", "job", "1", "--yes"]).expect(0);
    place.stem(&["module", "remove", "job", "1", "--yes"]).expect(3).complains();
    assert!(place.stem(&["module", "show", "job"]).expect(0).stdout.contains("serves"));
}

#[test]
fn a_rollback_goes_to_what_served_before_and_not_to_what_was_only_held_or_tried() {
    let place = Place::new();
    push(&place, "one.wasm", says(1), &[]);
    push(&place, "two.wasm", says(2), &["--hold"]);
    push(&place, "three.wasm", says(3), &[]);
    push(&place, "four.wasm", says(4), &["--canary", "10%"]);
    push(&place, "five.wasm", says(5), &[]);
    let shown = place.stem(&["module", "show", "job", "--json"]).expect(0).json();
    assert_eq!(shown["before"], json!([1, 3]), "{shown}");
    let back = || {
        let said = place.stem(&["module", "rollback", "job", "--json"]).expect(0).json();
        said["assignment"].clone()
    };
    assert_eq!([back(), back()], [json!({"version": 3}), json!({"version": 1})]);
    place.stem(&["module", "rollback", "job"]).expect(3).complains().says("served before");
    // What is recalled is passed over.
    place.stem(&["module", "promote", "job", "--version", "3"]).expect(0);
    place.stem(&["module", "promote", "job", "--version", "5"]).expect(0);
    let three = digest(&push(&place, "three.wasm", says(3), &["--dry-run"]));
    place.stem(&["worker", "revoke", "--module", &three]).expect(0);
    assert_eq!(back(), json!({"version": 1}));
}

#[test]
fn a_trust_list_is_followed() {
    let place = Place::new();
    let key = |name: &str| {
        let file = place.path(name).display().to_string();
        let made = place.stem(&["module", "key", "new", &file, "--json"]).expect(0).json();
        (file, format!("{} {name}\n", made["publicKey"].as_str().unwrap()))
    };
    let ((ann, anns_line), (_, bobs_line)) = (key("ann"), key("bob"));
    place.write("trust", &anns_line);
    let _worker = Started::new(&place, &[], &["--name", "a", "--trust", "trust"]);
    push(&place, "one.wasm", says(1), &["--sign-key", &ann]);
    until("serving", || states(&place), |states| *states == ["serving"]);
    // A list that cannot be used changes nothing.
    place.write("trust", "nonsense");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(states(&place), ["serving"]);
    place.write("trust", &bobs_line);
    until("untrusted", || states(&place), |states| *states == ["module-untrusted"]);
    place.stem(&["task", "enqueue", "job", "--id", "t"]).expect(0);
    std::thread::sleep(Duration::from_secs(1));
    let record = place.stem(&["task", "show", "t", "--json"]).expect(0).json();
    assert_eq!(record["state"], "queued", "{record}");
    place.write("trust", bobs_line + &anns_line);
    assert_eq!(until_task(&place, "t", "succeeded")["module"]["version"], "r1");
}

#[tokio::test]
async fn what_others_wrote_into_a_release_does_nothing_to_a_terminal() {
    let place = Place::new();
    push(&place, "one.wasm", says(1), &[]);
    let modules = place.backends().await.modules;
    let name = TaskName::new("job").unwrap();
    let release = modules.history(&name).await.unwrap().unwrap().releases.remove(0);
    let evil = Push {
        id: PushId::fresh(),
        name,
        digest: release.digest,
        size: release.size,
        manifest: format!("{}# again\n", release.manifest),
        pushed_by: Some("\u{1b}]0;owned\u{7}\u{1b}[2J".to_owned()),
        signatures: Vec::new(),
    };
    modules.push(&evil, Rollout::Whole).await.unwrap();
    for words in [&["module", "list"][..], &["module", "show", "job"]] {
        let said = place.stem(words).expect(0).stdout;
        assert!(said.contains("owned") && !said.contains('\u{1b}'), "{said:?}");
    }
}

#[test]
fn a_directory_of_modules_that_others_may_change_is_warned_of_at_the_start() {
    let place = Place::new();
    let store = place.path("modules").display().to_string();
    let file = file(&place, "job.wasm", says(1));
    let env = [("STEM_MODULE_STORE_URL", store.as_str())];
    place.stem_env(&env, &["module", "push", &file]).expect(0);
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o770)).unwrap();
    let start = ["worker", "start", "--strict", "--name", "a"];
    place.stem_env(&env, &start).expect(2).complains().says("group");
}

#[test]
fn what_no_worker_would_take_is_not_pushed() {
    let place = Place::new();
    let evil = wat::parse_str(r#"(module (import "evil" "shell" (func)) (memory (export "memory") 1) (func (export "stem_run") (result i32) (i32.const 0)))"#).unwrap();
    let evil = file(&place, "evil.wasm", evil);
    place.stem(&["module", "push", &evil]).expect(1).complains().says("evil.shell");
    let text = file(&place, "text.wasm", b"hello".to_vec());
    place.stem(&["module", "push", &text]).expect(1).complains().says("not a WebAssembly module");
    place.stem(&["module", "push", "nowhere.wasm"]).expect(2).complains();
    let pipe = place.path("pipe.wasm").display().to_string();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    place.write("pipe.toml", "[handlers.pipe]\nsource = \"file:pipe.wasm\"\n");
    for words in
        [&["module", "push", &pipe][..], &["module", "push", &pipe, "--manifest", "pipe.toml"]]
    {
        place.stem(words).expect(2).complains().says("not a file");
    }
    let large = file(&place, "large.wasm", Vec::new());
    std::fs::File::options().write(true).open(&large).unwrap().set_len(1 << 30).unwrap();
    place.stem(&["module", "push", &large]).expect(1).complains().says("32MiB");
    let good = file(&place, "a b.wasm", says(1));
    place.stem(&["module", "push", &good]).expect(2).complains().says("--name");
    place
        .stem(&["module", "push", &good, "--name", "job", "--manifest", "none.toml"])
        .expect(2)
        .complains();
    place
        .stem(&["module", "push", &good, "--name", "job", "--sign-key", "none.key"])
        .expect(2)
        .complains();
    place
        .stem(&["module", "push", &good, "--name", "job", "--canary", "100%"])
        .expect(2)
        .complains();
    place.write("stem.toml", "[handlers.job]\nsource = \"file:a b.wasm\"\nkind = \"command\"\n");
    place.stem(&["module", "push", &good]).expect(1).complains().says("kind command");
    assert_eq!(place.stem(&["module", "list", "--json"]).expect(0).json(), json!([]));
    // A recalled build is not shipped again.
    std::fs::remove_file(place.path("stem.toml")).unwrap();
    let pushed = place.stem(&["module", "push", &good, "--name", "job", "--json"]).expect(0).json();
    let build = digest(&pushed);
    place.stem(&["worker", "revoke", "--module", &build]).expect(0);
    place
        .stem(&["module", "push", &good, "--name", "other"])
        .expect(1)
        .complains()
        .says("recalled");
    let shown = place.stem(&["module", "show", "job"]).expect(0);
    assert!(shown.stdout.contains("recalled"), "{shown:?}");
    for bad in ["sha256:1", "x"] {
        place.stem(&["worker", "revoke", "--module", bad]).expect(2).complains();
        place.stem(&["revokes", "undo", "--module", bad]).expect(2).complains();
    }
    let key = format!("module:{build}");
    place.stem(&["worker", "revoke", "--task", &key]).expect(2).complains().says("--module");
    place.stem(&["worker", "revoke"]).expect(2).complains();
    place.stem(&["revokes", "undo"]).expect(2).complains();
}

/// As after a failover that lost the newest push, or when somebody empties the store.
#[test]
fn a_version_that_is_given_out_again_for_another_build_serves_that() {
    let place = Place::new();
    let modules = place.path("modules");
    let directory = format!("file://{}", modules.display());
    let env = [("STEM_MODULE_STORE_URL", directory.as_str())];
    let stem = |words: &[&str]| place.stem_env(&env, words).expect(0);
    let push = |digit: u8| {
        let file = file(&place, "job.wasm", says(digit));
        let pushed = stem(&["module", "push", &file, "--json"]).json();
        assert_eq!(pushed["version"], 1, "{pushed}");
        pushed
    };
    push(1);
    let _worker = Started::new(&place, &env, &["--name", "a"]);
    let run = || stem(&["task", "enqueue", "job", "--wait", "--json"]).json();
    assert_eq!(run()["result"], 1);
    std::fs::remove_dir_all(modules.join("blobs")).unwrap();
    std::fs::remove_file(modules.join("catalogue.json")).unwrap();
    let second = push(2);
    let made = until("the other build", run, |record| record["result"] == 2);
    assert_eq!(made["module"]["digest"], second["digest"], "{made}");
}

/// Where modules are kept, and how a worker learns of them, is each store's own.
#[test]
fn a_worker_follows_whatever_store_keeps_the_modules() {
    let (server, postgres) = (RedisServer::start(), PostgresServer::shared());
    let (database, other) = (postgres.database(), postgres.database());
    let (redis, mixed) = (server.url(), format!("{}?prefix=mixed", server.url()));
    let database = database.url().to_owned();
    for (broker, modules) in [
        (Some(&redis), None),
        (Some(&database), None),
        (None, Some("modules")),
        (Some(&mixed), Some(other.url())),
    ] {
        let place = Place::new();
        let mut env = Vec::new();
        env.extend(broker.map(|url| ("STEM_BROKER_URL", url.as_str())));
        let directory = format!("file://{}", place.path("modules").display());
        let store = modules.map(|store| if store == "modules" { &directory } else { store });
        env.extend(store.map(|url| ("STEM_MODULE_STORE_URL", url)));
        let stem = |words: &[&str]| place.stem_env(&env, words).expect(0);
        let _worker = Started::new(&place, &env, &["--name", "a"]);
        for version in 1..=2 {
            let file = file(&place, "job.wasm", says(version));
            stem(&["module", "push", &file]);
            let made = until(
                "the version",
                || stem(&["task", "enqueue", "job", "--wait", "--json"]).json(),
                |record| record["module"]["version"] == format!("r{version}"),
            );
            assert_eq!(made["result"], version, "{env:?}: {made}");
        }
        let listed = stem(&["module", "list", "--json"]).json();
        assert_eq!((listed.as_array().unwrap().len(), &listed[0]["version"]), (1, &json!(2)));
        stem(&["worker", "revoke", "--module", &digest(&listed[0])]);
        stem(&["module", "rollback", "job"]);
        until(
            "the rollback",
            || stem(&["task", "enqueue", "job", "--wait", "--json"]).json(),
            |record| record["module"]["version"] == "r1",
        );
    }
}
