//! `kv`: values in buckets, as far as the sandbox decides about them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stem_core::grants::BucketGrant;
use stem_core::outcome::{Outcome, StopHow, StopReason};
use stem_isolate::Refusal;

use crate::bench::{Bench, computing, failure, stopped, text, within};
use crate::guests::granted::Texts;
use crate::raw::answer;

fn bench(granted: &[(&str, bool)]) -> Bench {
    let mut bench = Bench::new();
    let grant = |(bucket, write): &(&str, bool)| BucketGrant {
        bucket: (*bucket).to_owned(),
        write: *write,
    };
    bench.granted.grants.kv = granted.iter().map(grant).collect();
    bench
}

/// A component that puts its input under a key, reads it back, and removes it if the version is right.
fn puts_and_gets() -> String {
    let mut texts = Texts::new();
    let (bucket, key) = (texts.put("thumbs"), texts.put("a.png"));
    texts.task(&format!(
        "(call $put {bucket} {key} (local.get $in) (local.get $len)
           (i32.const 1) (i64.const 0) (i32.const 1) (i64.const 60000) (i32.const 256))
         (if (i32.load8_u (i32.const 256)) (then (return (call $refused))))
         (if (i64.ne (i64.load (i32.const 264)) (i64.const 1)) (then unreachable))
         ;; it is there now: conflict
         (call $put {bucket} {key} (local.get $in) (local.get $len)
           (i32.const 1) (i64.const 0) (i32.const 0) (i64.const 0) (i32.const 256))
         (if (i32.ne (i32.load8_u (i32.const 264)) (i32.const 4)) (then unreachable))
         ;; another version: conflict
         (call $remove {bucket} {key} (i32.const 2) (i64.const 9) (i32.const 256))
         (if (i32.ne (i32.load8_u (i32.const 264)) (i32.const 4)) (then unreachable))
         (call $get {bucket} {key} (i32.const 288))
         (if (i32.load8_u (i32.const 288)) (then unreachable))
         (if (i32.eqz (i32.load8_u (i32.const 296))) (then unreachable))
         (if (i64.ne (i64.load (i32.const 312)) (i64.const 1)) (then unreachable))
         (call $remove {bucket} {key} (i32.const 2) (i64.const 1) (i32.const 256))
         (if (i32.load8_u (i32.const 256)) (then unreachable))
         ;; gone: not found
         (call $remove {bucket} {key} (i32.const 0) (i64.const 0) (i32.const 256))
         (if (i32.ne (i32.load8_u (i32.const 264)) (i32.const 3)) (then unreachable))
         (call $get {bucket} {key} (i32.const 256))
         (if (i32.load8_u (i32.const 264)) (then unreachable))
         (call $ok (i32.load (i32.const 304)) (i32.load (i32.const 308)))"
    ))
}

#[tokio::test]
async fn a_component_puts_gets_and_removes_by_version() {
    let bench = bench(&[("other", false), ("thumbs", true)]);
    assert_eq!(text(&bench.run(&puts_and_gets(), b"\0\x01value").await), "\0\x01value");
    assert!(bench.worker.buckets.lock().unwrap().is_empty());
    assert!(bench.worker.lines().is_empty());
}

#[tokio::test]
async fn a_bucket_that_no_grant_covers_is_denied_with_the_line_that_is_missing() {
    for granted in [&[][..], &[("thumbs", false), ("thumb", true), ("*", true)]] {
        let bench = bench(granted);
        let ended = bench.run(&puts_and_gets(), b"value").await;
        let line = "put kv = [\"thumbs:rw\"] under [handlers.echo.grants] in stem.toml";
        assert_eq!(failure(&ended).0.message, format!("no grant covers it: {line}"));
        assert_eq!(bench.worker.lines().len(), 1);
        assert!(bench.worker.lines()[0].contains(line));
        assert!(bench.worker.buckets.lock().unwrap().is_empty());
    }
}

/// What a core module is answered; its value is `value`, and what it reads goes to 65536, with the version at 65528.
async fn call(bench: &Bench, function: &str, bucket: &str, key: &str, rest: &str) -> i64 {
    let mut texts = Texts::new();
    let value = texts.put("value");
    let place = format!("{} {}", texts.put(bucket), texts.put(key));
    let call = match function {
        "get" => {
            format!(
                "(i64.extend_i32_s (call $kv_get {place} (i32.const 65536) (i32.const 99) (i32.const 65528)))"
            )
        }
        "put" => format!("(call $kv_put {place} {value} {rest})"),
        _ => format!("(i64.extend_i32_s (call $kv_remove {place} {rest}))"),
    };
    answer(bench, texts.escaped(), &call).await
}

/// The operands of a condition and of a time to live.
fn when(when: i32, version: i64, ttl: i64) -> String {
    format!("(i32.const {when}) (i64.const {version}) (i64.const {ttl})")
}

#[tokio::test]
async fn core_modules_are_answered_by_version_and_code() {
    let bench = bench(&[("thumbs", true), ("fixed", false)]);
    let always = when(0, 0, 0);
    assert_eq!(call(&bench, "get", "thumbs", "k", "").await, -4);
    assert_eq!(call(&bench, "put", "thumbs", "k", &when(2, 1, 0)).await, -5);
    assert_eq!(call(&bench, "put", "thumbs", "k", &when(1, 0, 1500)).await, 1);
    assert_eq!(call(&bench, "put", "thumbs", "k", &when(1, 0, 0)).await, -5);
    assert_eq!(call(&bench, "put", "thumbs", "k", &when(2, 1, i64::MAX)).await, 2);
    let place = ("thumbs".to_owned(), "k".to_owned());
    let ttl = bench.worker.buckets.lock().unwrap()[&place].1;
    assert_eq!(ttl, Some(Duration::from_hours(24 * 3650)));
    assert_eq!(call(&bench, "get", "thumbs", "k", "").await, 5);

    let mut texts = Texts::new();
    let (bucket, key) = (texts.put("thumbs"), texts.put("k"));
    let reads = texts.raw(&format!(
        "(drop (call $kv_get {bucket} {key} (i32.const 65536) (i32.const 3) (i32.const 65528)))
         (if (i64.ne (i64.load (i32.const 65528)) (i64.const 2)) (then unreachable))
         (call $output_write (i32.const 65536) (i32.const 4))"
    ));
    assert_eq!(text(&bench.run(&reads, b"").await), "val\0", "no more than the buffer holds");

    assert_eq!(call(&bench, "put", "fixed", "k", &always).await, -1);
    assert_eq!(call(&bench, "remove", "fixed", "k", "(i32.const 0) (i64.const 0)").await, -1);
    assert_eq!(call(&bench, "get", "fixed", "k", "").await, -4);
    assert_eq!(call(&bench, "get", "absent", "k", "").await, -1);
    assert_eq!(call(&bench, "remove", "thumbs", "k", "(i32.const 2) (i64.const 1)").await, -5);
    assert_eq!(call(&bench, "remove", "thumbs", "k", "(i32.const 1) (i64.const 0)").await, -2);
    assert_eq!(call(&bench, "remove", "thumbs", "k", "(i32.const 2) (i64.const 2)").await, 0);
    assert_eq!(call(&bench, "remove", "thumbs", "k", "(i32.const 0) (i64.const 0)").await, -4);
    for (operands, code) in [(when(3, 0, 0), -2), (when(2, -1, 0), -2), (when(0, 0, -1), -2)] {
        assert_eq!(call(&bench, "put", "thumbs", "k", &operands).await, code, "{operands}");
    }
}

#[tokio::test]
async fn names_and_values_out_of_their_bounds_are_refused() {
    let long = "b".repeat(128);
    let bench = bench(&[("thumbs", true), (&long, true), ("a:rw", true)]);
    let always = when(0, 0, 0);
    for (bucket, key, code) in [
        ("", "k", -2),
        (" thumbs", "k", -2),
        ("thumbs\n", "k", -2),
        ("a:rw", "k", -2),
        ("thümbs", "k", -2),
        (&"b".repeat(129), "k", -3),
        ("thumbs", "", -2),
        ("thumbs", "a\0b", -2),
        ("thumbs", "a\u{85}b", -2),
        ("thumbs", &"k".repeat(513), -3),
    ] {
        assert_eq!(call(&bench, "put", bucket, key, &always).await, code, "{bucket} {key}");
        assert_eq!(call(&bench, "get", bucket, key, "").await, code, "{bucket} {key}");
    }
    assert_eq!(call(&bench, "put", &long, &"k".repeat(512), &always).await, 1);
    assert_eq!(call(&bench, "put", "thumbs", "Größe / 1", &always).await, 2);
    let mut texts = Texts::new();
    let place = format!("{} {}", texts.put("thumbs"), texts.put("k"));
    for (size, answered) in [(65_536, 3), (65_537, -3)] {
        let call = format!("(call $kv_put {place} (i32.const 0) (i32.const {size}) {always})");
        assert_eq!(answer(&bench, texts.escaped(), &call).await, answered);
    }
    assert!(bench.worker.lines().is_empty());
}

#[tokio::test]
async fn a_store_that_is_away_is_told_and_a_lost_lease_ends_the_guest() {
    let bench = bench(&[("thumbs", true)]);
    *bench.worker.refusal.lock().unwrap() = Some(Refusal::Unavailable("store".to_owned()));
    assert_eq!(call(&bench, "get", "thumbs", "k", "").await, -7);
    assert_eq!(call(&bench, "put", "thumbs", "k", &when(0, 0, 0)).await, -7);
    *bench.worker.refusal.lock().unwrap() = Some(Refusal::LeaseLost);
    let ended = bench.run(&puts_and_gets(), b"value").await;
    assert_eq!(stopped(&ended), (StopReason::LeaseLost, StopHow::Checkpoint));
}

#[tokio::test]
async fn a_stop_ends_a_call_that_waits() {
    let bench = bench(&[("thumbs", true)]);
    bench.worker.hangs.store(true, Ordering::SeqCst);
    let mut texts = Texts::new();
    let place = format!("{} {}", texts.put("thumbs"), texts.put("k"));
    let gets = texts
        .raw(&format!("(call $kv_get {place} (i32.const 65536) (i32.const 3) (i32.const 65528))"));
    let removes = texts.raw(&format!("(call $kv_remove {place} (i32.const 0) (i64.const 0))"));
    for guest in [puts_and_gets(), gets, removes] {
        let module = bench.load(&guest).await;
        for (force, how) in [(false, StopHow::Checkpoint), (true, StopHow::Preempted)] {
            let (interrupt, end) = bench.start(&module, b"value").into_parts();
            within(bench.worker.called.notified()).await;
            computing(&interrupt, Duration::from_nanos(1)).await;
            interrupt.stop(StopReason::Revoked, force);
            assert_eq!(stopped(&within(end).await), (StopReason::Revoked, how));
        }
    }
    bench.assert_good_task_runs().await;
}

/// Writes values of one size until something else than a version is answered, and answers how many there were.
fn writes_on(size: u32) -> String {
    let mut texts = Texts::new();
    let place = format!("{} {}", texts.put("thumbs"), texts.put("k"));
    texts.raw(&format!(
        "(local $made i32)
         (loop $more
           (if (i64.gt_s (call $kv_put {place} (i32.const 0) (i32.const {size}) {}) (i64.const 0))
             (then (local.set $made (i32.add (local.get $made) (i32.const 1))) (br $more))))
         (if (i64.ne (call $kv_put {place} (i32.const 0) (i32.const {size}) {}) (i64.const -6)) (then unreachable))
         (i32.store (i32.const 65536) (local.get $made))
         (call $output_write (i32.const 65536) (i32.const 4))",
        when(0, 0, 0),
        when(0, 0, 0)
    ))
}

#[tokio::test]
async fn an_attempt_writes_so_much_and_no_more() {
    let bench = bench(&[("thumbs", true)]);
    // Each is counted with its bucket and key, and as 512 bytes at least.
    for (size, made) in [(65_536, (64 << 20) / (65_536 + 7)), (1, (64 << 20) / 512)] {
        let Outcome::Succeeded(result) = bench.run(&writes_on(size), b"").await.outcome else {
            panic!("{size}")
        };
        assert_eq!(u32::from_le_bytes(result.bytes.try_into().unwrap()), made, "{size}");
    }
    // What is not made is not counted.
    let mut texts = Texts::new();
    let place = format!("{} {}", texts.put("thumbs"), texts.put("k"));
    let conflicts = texts.raw(&format!(
        "(local $tries i32)
         (loop $more
           (if (i64.ne (call $kv_put {place} (i32.const 0) (i32.const 65536) {}) (i64.const -5)) (then unreachable))
           (local.set $tries (i32.add (local.get $tries) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $tries) (i32.const 1100))))
         (i32.const 0)",
        when(1, 0, 0)
    ));
    assert!(matches!(bench.run(&conflicts, b"").await.outcome, Outcome::Succeeded(_)));
}
