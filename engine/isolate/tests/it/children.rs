//! `children`: tasks that a guest enqueues, as far as the sandbox decides about them.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stem_core::envelope::Payload;
use stem_core::grants::NamePattern;
use stem_core::outcome::{Outcome, StopHow, StopReason};
use stem_isolate::{LogLevel, Refusal, Release};

use crate::bench::{Bench, failure, stopped, text, within};
use crate::guests::granted::Texts;
use crate::raw::answer;

fn bench(allowed: &[&str]) -> Bench {
    let mut bench = Bench::new();
    let patterns = allowed.iter().map(|pattern| NamePattern::new(pattern).unwrap());
    bench.granted.grants.children = patterns.collect();
    bench
}

/// A component that enqueues one task with every field set, or with the name only.
fn asks(name: &str, full: bool) -> String {
    let mut texts = Texts::new();
    let [name, queue, media_type, bytes, key, header, value] =
        [name, "images", "image/png", "PNG", "a.png", "tenant", "blue"].map(|text| texts.put(text));
    let pair = |to: u32, text: &str| format!("(call $pair (i32.const {to}) {text})");
    let some = u32::from(full);
    let run = format!(
        "{} (i32.store8 (i32.const 1032) (i32.const {some})) {} {} {}
         (i32.store8 (i32.const 1064) (i32.const {some})) (i64.store (i32.const 1072) (i64.const 1500))
         (i32.store8 (i32.const 1080) (i32.const {some})) {}
         (i32.store (i32.const 1092) (i32.const 1104)) (i32.store (i32.const 1096) (i32.const {some})) {} {}
         (call $enqueue (i32.const 1024) (i32.const 1) (i32.const {some}) (i32.const 256))
         (if (i32.load8_u (i32.const 256)) (then (return (call $refused))))
         (if (i32.ne (i32.load (i32.const 268)) (i32.const 1)) (then unreachable))
         (call $ok (i32.load (i32.load (i32.const 264))) (i32.load (i32.add (i32.const 4) (i32.load (i32.const 264)))))",
        pair(1024, &name),
        pair(1036, &queue),
        pair(1044, &media_type),
        pair(1052, &bytes),
        pair(1084, &key),
        pair(1104, &header),
        pair(1112, &value),
    );
    texts.task(&run).replace(
        "(func $refused",
        "(func $pair (param $to i32) (param $at i32) (param $len i32)
           (i32.store (local.get $to) (local.get $at)) (i32.store offset=4 (local.get $to) (local.get $len)))
         (func $refused",
    )
}

#[tokio::test]
async fn a_component_enqueues_what_is_granted() {
    let bench = bench(&["thumb.*"]);
    assert_eq!(text(&bench.run(&asks("thumb.small", true), b"").await), "child-1");
    assert_eq!(text(&bench.run(&asks("thumb.large", false), b"").await), "child-2");
    let children = bench.worker.children.lock().unwrap().clone();
    let (release, child) = &children[0];
    assert_eq!((*release, child.name.as_str()), (Release::OnSuccess, "thumb.small"));
    assert_eq!(child.queue.as_ref().map(AsRef::<str>::as_ref), Some("images"));
    let picture = Payload { media_type: "image/png".to_owned(), bytes: b"PNG".to_vec() };
    assert_eq!(child.input, picture);
    assert_eq!(child.delay, Some(Duration::from_millis(1500)));
    assert_eq!(child.dedup_key.as_deref(), Some("a.png"));
    assert_eq!(child.headers, [("tenant".to_owned(), "blue".to_owned())].into());
    let (release, child) = &children[1];
    assert_eq!(*release, Release::Now);
    assert_eq!((&child.queue, child.delay, &child.dedup_key), (&None, None, &None));
    assert!(child.headers.is_empty() && bench.worker.lines().is_empty());
}

#[tokio::test]
async fn a_name_that_no_grant_covers_is_denied_with_the_line_that_is_missing() {
    for allowed in [&[][..], &["thumb.large", "thumbs*"]] {
        let bench = bench(allowed);
        let ended = bench.run(&asks("thumb.small", true), b"").await;
        let line = "put children = [\"thumb.small\"] under [handlers.echo.grants] in stem.toml";
        assert_eq!(failure(&ended).0.message, format!("no grant covers it: {line}"));
        assert!(bench.worker.children.lock().unwrap().is_empty());
        let logs = bench.worker.logs.lock().unwrap().clone();
        assert_eq!(logs.len(), 1);
        assert_eq!(logs[0].level, LogLevel::Warn);
        assert!(logs[0].message.starts_with(&format!("denied: {line};")), "{}", logs[0].message);
    }
}

/// Calls `children_enqueue` with this text; the ids go to 65536.
async fn enqueue(bench: &Bench, json: &str, release: i32) -> i64 {
    let mut texts = Texts::new();
    let json = texts.put(json);
    let call = format!(
        "(i64.extend_i32_s (call $children_enqueue {json} (i32.const {release}) (i32.const 65536) (i32.const 4096)))"
    );
    answer(bench, texts.escaped(), &call).await
}

#[tokio::test]
async fn core_modules_enqueue_by_json_and_get_the_ids_as_json() {
    let bench = bench(&["thumb.*"]);
    let mut texts = Texts::new();
    let json = texts.put(include_str!("../../../../host-abi/golden/children.json"));
    let run = format!(
        "(local $len i32)
         (local.set $len (call $children_enqueue {json} (i32.const 1) (i32.const 65536) (i32.const 4096)))
         (call $output_write (i32.const 65536) (local.get $len))"
    );
    assert_eq!(text(&bench.run(&texts.raw(&run), b"").await), r#"["child-1","child-2"]"#);
    let children = bench.worker.children.lock().unwrap().clone();
    assert_eq!(children[0].1.input, Payload::json(r#"{"picture":"a.png"}"#));
    assert_eq!(children[1].1.input.bytes, b"\x89PNG");
    assert!(children.iter().all(|(release, _)| *release == Release::OnSuccess));
}

#[tokio::test]
async fn what_is_out_of_its_bounds_is_refused_as_a_whole() {
    let bench = bench(&["a*"]);
    let with = |more: &str| format!(r#"[{{"task_name":"a"}},{{"task_name":"a",{more}}}]"#);
    let headers = |count: usize| {
        let each: Vec<_> = (0..count).map(|number| format!(r#""h{number}":"v""#)).collect();
        with(&format!(r#""headers":{{{}}}"#, each.join(",")))
    };
    for (json, code) in [
        (String::new(), -2),
        (r#"{"task_name":"a"}"#.to_owned(), -2),
        (r#"[{"task_name":""}]"#.to_owned(), -2),
        (r#"[{"task_name":"a b"}]"#.to_owned(), -2),
        (r#"[{"task_name":"b"}]"#.to_owned(), -1),
        (r#"[{"task_name":"a"},{"task_name":"b"}]"#.to_owned(), -1),
        (with(r#""queue":"no good""#), -2),
        (with(r#""dedup_key":"""#), -2),
        (with(r#""dedup_key":"with space""#), -2),
        (with(r#""delay_ms":-1"#), -2),
        (with(r#""input_base64":"AA==","input":1"#), -2),
        (with(r#""input_base64":"AA==""#), -2),
        (with(r#""headers":{"":"v"}"#), -2),
        (headers(65), -2),
        (with(&format!(r#""headers":{{"h":"{}"}}"#, "v".repeat(4096))), -2),
        (format!("[{}]", vec![r#"{"task_name":"a"}"#; 101].join(",")), -2),
    ] {
        assert_eq!(enqueue(&bench, &json, 0).await, code, "{json}");
    }
    assert_eq!(enqueue(&bench, r#"[{"task_name":"a"}]"#, 2).await, -2, "no such release");
    assert!(bench.worker.children.lock().unwrap().is_empty(), "all or none");
    assert_eq!(enqueue(&bench, &headers(64), 0).await, 21);
    let long = with(&format!(r#""delay_ms":{}"#, u64::MAX));
    assert_eq!(enqueue(&bench, &long, 0).await, 21);
    let longest = bench.worker.children.lock().unwrap()[3].1.delay;
    assert_eq!(longest, Some(Duration::from_hours(24 * 365)));
    assert_eq!(enqueue(&bench, "[]", 0).await, 2);
}

/// Enqueues `json` again and again until it is refused; returns the code, and how often it was not.
pub(crate) fn floods(json: &str) -> String {
    let mut texts = Texts::new();
    let json = texts.put(json);
    texts.raw(&format!(
        "(local $code i32) (local $count i32)
         (loop $again
           (local.set $code (call $children_enqueue {json} (i32.const 0) (i32.const 65536) (i32.const 4096)))
           (if (i32.ge_s (local.get $code) (i32.const 0))
             (then (local.set $count (i32.add (local.get $count) (i32.const 1))) (br $again))))
         (i32.store (i32.const 1024) (i32.sub (i32.const 0) (local.get $code)))
         (i32.store (i32.const 1028) (local.get $count))
         (call $output_write (i32.const 1024) (i32.const 8))"
    ))
}

#[track_caller]
fn two_numbers(exit: &stem_isolate::Exit) -> (u32, u32) {
    let Outcome::Succeeded(payload) = &exit.outcome else { panic!("{exit:?}") };
    let number = |at: usize| u32::from_le_bytes(payload.bytes[at..at + 4].try_into().unwrap());
    (number(0), number(4))
}

#[tokio::test]
async fn a_flood_of_children_ends_at_its_quota() {
    let bench = bench(&["a"]);
    let three = r#"[{"task_name":"a"},{"task_name":"a"},{"task_name":"a"}]"#;
    let ended = bench.run(&floods(three), b"").await;
    assert_eq!(two_numbers(&ended), (6, 333));
    assert_eq!(bench.worker.children.lock().unwrap().len(), 999);
    // The next attempt has a quota of its own; what is above that is the worker's to bound.
    let ended = bench.run(&floods(r#"[{"task_name":"a"}]"#), b"").await;
    assert_eq!(two_numbers(&ended), (6, 1000));
}

#[tokio::test]
async fn a_guest_that_tries_name_after_name_does_not_fill_the_log() {
    let bench = bench(&["a"]);
    let mut texts = Texts::new();
    let mut calls = String::new();
    for number in 0..200 {
        let json = texts.put(&format!(r#"[{{"task_name":"b{}"}}]"#, number % 100));
        write!(
            calls,
            "(if (i32.ne (i32.const -1) (call $children_enqueue {json} (i32.const 0) (i32.const 65536) (i32.const 9)))
               (then unreachable))"
        )
        .unwrap();
    }
    let ended = bench.run(&texts.raw(&format!("{calls} (i32.const 0)")), b"").await;
    assert_eq!(text(&ended), "");
    assert_eq!(bench.worker.lines().len(), 17);
    assert!(bench.worker.children.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_the_worker_refuses_reaches_the_guest_and_counts_for_nothing() {
    let bench = bench(&["a"]);
    let json = r#"[{"task_name":"a"}]"#;
    for (refusal, code) in [
        (Refusal::Unavailable("broker".to_owned()), -7),
        (Refusal::Quota("depth".to_owned()), -6),
        (Refusal::Invalid("queue".to_owned()), -2),
    ] {
        *bench.worker.refusal.lock().unwrap() = Some(refusal);
        assert_eq!(enqueue(&bench, json, 0).await, code);
    }
    *bench.worker.refusal.lock().unwrap() = Some(Refusal::LeaseLost);
    let ended = bench.run(&floods(json), b"").await;
    assert_eq!(stopped(&ended), (StopReason::LeaseLost, StopHow::Checkpoint));
    *bench.worker.refusal.lock().unwrap() = None;
    assert_eq!(enqueue(&bench, json, 0).await, 11);
}

#[tokio::test]
async fn a_stop_ends_an_enqueue_that_waits() {
    let bench = bench(&["thumb.*", "a"]);
    bench.worker.hangs.store(true, Ordering::SeqCst);
    for guest in [asks("thumb.small", true), floods(r#"[{"task_name":"a"}]"#)] {
        let module = bench.load(&guest).await;
        for (force, how) in [(false, StopHow::Checkpoint), (true, StopHow::Preempted)] {
            let (interrupt, end) = bench.start(&module, b"").into_parts();
            within(bench.worker.called.notified()).await;
            // Its first poll is over: it really waits.
            crate::bench::computing(&interrupt, Duration::from_nanos(1)).await;
            interrupt.stop(StopReason::Revoked, force);
            assert_eq!(stopped(&within(end).await), (StopReason::Revoked, how));
        }
    }
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn a_text_over_its_bound_is_refused_before_it_is_read() {
    let bench = bench(&["a"]);
    let grown = "(drop (memory.grow (i32.const 64)))";
    let call = format!(
        "(block (result i64) {grown}
           (i64.extend_i32_s (call $children_enqueue (i32.const 0) (i32.const 2097153) (i32.const 0) (i32.const 0) (i32.const 0))))"
    );
    assert_eq!(answer(&bench, "", &call).await, -3);
    // Over the bound of a payload: a megabyte of spaces, and one more byte.
    let json = |spaces: usize| format!(r#"[{{"task_name":"a","input":"{}"}}]"#, " ".repeat(spaces));
    let (fits, over) = (json((1 << 20) - 2), json((1 << 20) - 1));
    for (json, code) in [(fits, 11), (over, -3)] {
        let run = format!(
            "(local $got i32) {grown}
             (drop (call $input_read (i32.const 131072) (i64.const 0) (i32.const {len})))
             (local.set $got (call $children_enqueue (i32.const 131072) (i32.const {len}) (i32.const 0) (i32.const 65536) (i32.const 99)))
             (i32.store (i32.const 1024) (local.get $got)) (i32.store (i32.const 1028) (i32.const 0))
             (call $output_write (i32.const 1024) (i32.const 8))",
            len = json.len()
        );
        let ended = bench.run(&Texts::new().raw(&run), json.as_bytes()).await;
        assert_eq!(two_numbers(&ended).0.cast_signed(), code);
    }
}
