//! Guests that flood their worker with calls, lines, output.

use std::sync::atomic::Ordering;

use stem_core::outcome::{FailureKind, RetryAdvice, StopReason};

use crate::bench::{Bench, When, failure, kind_and_code, stopped, text};
use crate::commands::command_02;
use crate::guests::{command, raw, task};

// 11

/// Calls the host a million times, then ends.
fn flood(call: &str) -> String {
    task(&format!(
        "(local $n i32)
         (loop $again {call} (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $again (i32.lt_u (local.get $n) (i32.const 1000000))))
         (call $answer (i32.const 0))"
    ))
}

#[tokio::test]
async fn a_flood_of_host_calls_is_counted_merged_and_stoppable() {
    let mut bench = Bench::new();
    bench.limits.host_calls_per_second = 20_000;
    let beats = flood("(call $heartbeat (i32.const 256))");
    let ended = bench.run(&beats, b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::CpuLimit, "host-call-limit"));
    assert_eq!(failure(&ended).1, RetryAdvice::Never);

    bench.limits.host_calls_per_second = 10_000_000;
    assert_eq!(text(&bench.run(&beats, b"").await), "");
    let logs = flood(
        "(call $write (i32.const 2) (i32.const 16) (i32.const 16) (i32.const 0) (i32.const 0))",
    );
    assert_eq!(text(&bench.run(&logs, b"").await), "");
    let lines = bench.worker.lines();
    assert!((500..5_000).contains(&lines.len()), "{}", lines.len());
    assert!(lines.iter().any(|line| line.contains("log lines are dropped")));
    assert!(
        lines.last().unwrap().ends_with("log lines were dropped in this attempt"),
        "{:?}",
        lines.last()
    );
    let dropped: u64 = lines.last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(dropped + lines.len() as u64 - 2, 1_000_000);

    // While it floods, it is stopped like any other.
    let module = bench.load(&task("(loop $again (call $here) (br $again)) (unreachable)")).await;
    assert_eq!(stopped(&bench.run_and_stop(&module, When::Called).await).0, StopReason::Revoked);
}

// 12

#[tokio::test]
async fn a_log_line_is_cut_escaped_and_cannot_pretend_to_be_another() {
    let bench = Bench::new();
    let long = task(
        "(drop (memory.grow (i32.const 32)))
         (memory.fill (i32.const 1024) (i32.const 97) (i32.const 1500000))
         (i32.store8 (i32.const 1025) (i32.const 10)) (i32.store8 (i32.const 1026) (i32.const 27))
         (call $write (i32.const 2) (i32.const 1024) (i32.const 1500000) (i32.const 0) (i32.const 0))
         (call $answer (i32.const 0))",
    );
    assert_eq!(text(&bench.run(&long, b"").await), "");
    let line = bench.worker.lines().pop().unwrap();
    assert!(line.starts_with("a\\n\\u{1b}aaa"), "{}", &line[..20]);
    assert!(line.ends_with('…') && line.len() <= 4_096 + 10, "{}", line.len());
    assert!(!line.chars().any(char::is_control));

    // For a core module nothing is copied that is not kept, so the length does not matter at all.
    let longer = raw(
        "",
        "",
        "(drop (memory.grow (i32.const 200))) (call $log (i32.const 2) (i32.const 16) (i32.const 13000000)) (i32.const 0)",
    );
    assert_eq!(text(&bench.run(&longer, b"").await), "");
    assert!(bench.worker.lines().pop().unwrap().len() <= 4_096 + 10);

    // A component's string is copied before it is seen; one of many MB is over what one call may copy.
    let huge = task(
        "(drop (memory.grow (i32.const 200)))
         (call $write (i32.const 2) (i32.const 0) (i32.const 13000000) (i32.const 0) (i32.const 0))
         (call $answer (i32.const 0))",
    );
    let ended = bench.run(&huge, b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "call-too-large"));
}

// 13

#[tokio::test]
async fn progress_of_many_megabytes_and_text_that_is_none_are_refused() {
    let bench = Bench::new();
    let update = |len: u32, fill: u32| {
        task(&format!(
            "(drop (memory.grow (i32.const 200)))
             (memory.fill (i32.const 1024) (i32.const {fill}) (i32.const 1000000))
             (call $progress (i32.const 0) (f64.const 0) (i32.const 1) (i32.const 1024) (i32.const {len})
               (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 256))
             (i32.store8 (i32.const 257) (i32.load8_u (i32.const 264))) (call $answer (i32.const 2))"
        ))
    };
    assert_eq!(text(&bench.run(&update(1_000_000, 97), b"").await).as_bytes(), [1, 2], "too-large");
    let ended = bench.run(&update(13_000_000, 97), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "call-too-large"));
    let ended = bench.run(&update(100, 255), b"").await;
    assert_eq!(kind_and_code(&ended).0, FailureKind::Trap);
    assert!(failure(&ended).0.message.contains("utf-8"), "{:?}", failure(&ended));
    assert_eq!(bench.worker.updates.load(Ordering::SeqCst), 0);
}

// 14

#[tokio::test]
async fn a_flood_of_output_is_bounded() {
    let bench = Bench::new();
    // Standard output: over the result's limit.
    let out = command(
        "",
        "",
        "(loop $again (drop (call $write (i32.const 1) (i32.const 1024) (i32.const 65536))) (br $again))",
    );
    let ended = bench.run(&out, b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "result-too-large"));
    // Standard error: 100,000 lines, then success.
    let err = command(
        "",
        "line\\n",
        "(local $n i32)
         (loop $again (drop (call $write (i32.const 2) (i32.const 512) (i32.const 5)))
           (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $again (i32.lt_u (local.get $n) (i32.const 100000))))",
    );
    let ended = bench.run(&err, b"").await;
    assert_eq!(text(&ended), "");
    let lines = bench.worker.lines();
    assert!((500..3_000).contains(&lines.len()), "{}", lines.len());
    assert!(lines.last().unwrap().ends_with("log lines were dropped in this attempt"));
    // One line without an end, of 60 MB: what is kept of it does not grow.
    let endless = command(
        "",
        "",
        "(local $n i32)
         (memory.fill (i32.const 1024) (i32.const 97) (i32.const 65536))
         (loop $again (drop (call $write (i32.const 2) (i32.const 1024) (i32.const 65536)))
           (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $again (i32.lt_u (local.get $n) (i32.const 1000))))",
    );
    let bench = Bench::new();
    assert_eq!(text(&bench.run(&endless, b"").await), "");
    assert_eq!(bench.worker.lines().len(), 1);
    assert!(bench.worker.log_bytes.load(Ordering::SeqCst) <= 4_106);
    // Both from a component that is no command: log lines.
    let out = command_02(
        "0.2.12",
        "",
        "(local $out i32) (local.set $out (call $stdout))
         (loop $again (call $write (local.get $out) (i32.const 2048) (i32.const 4096) (i32.const 1024)) (br $again)) (unreachable)",
    );
    let ended = bench.run(&out, b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "result-too-large"));
}
