//! Core modules: the same functions by number and offset.

use std::time::Duration;

use stem_core::outcome::{FailureKind, Outcome, RetryAdvice, StopHow, StopNotice, StopReason};
use stem_isolate::{ModuleKind, OnFailure};

use crate::bench::{Bench, exit, failure, kind_and_code, spec, stopped, text, within};
use crate::guests::raw;

#[tokio::test]
async fn the_payload_is_read_in_parts_and_the_result_written_in_parts() {
    let bench = Bench::new();
    let module = raw(
        "",
        "",
        "(local $off i64) (local $got i32)
         (block $done (loop $next
           (local.set $got (call $input_read (i32.const 1024) (local.get $off) (i32.const 3)))
           (br_if $done (i32.eqz (local.get $got)))
           (drop (call $output_write (i32.const 1024) (local.get $got)))
           (local.set $off (i64.add (local.get $off) (i64.extend_i32_u (local.get $got))))
           (br $next)))
         (i64.ne (local.get $off) (call $input_len))",
    );
    let ended = bench.run(&module, b"[1,2,3,4]").await;
    assert_eq!(text(&ended), "[1,2,3,4]");
    assert_eq!(bench.load(&module).await.kind(), ModuleKind::Raw);
}

/// Runs one expression and writes its low byte, negated for a negative answer, as a digit.
pub(crate) async fn answer(bench: &Bench, data: &str, call: &str) -> i64 {
    let module = raw(
        "",
        data,
        &format!(
            "(local $answer i64) (local.set $answer {call})
             (i64.store (i32.const 1024) (local.get $answer))
             (call $output_write (i32.const 1024) (i32.const 8))"
        ),
    );
    let ended = bench.run(&module, b"input").await;
    match &ended.outcome {
        Outcome::Succeeded(payload) => {
            i64::from_le_bytes(payload.bytes.clone().try_into().unwrap())
        }
        other => panic!("{call}: {other:?}"),
    }
}

#[tokio::test]
async fn every_function_answers_as_its_table_says() {
    let mut bench = Bench::new();
    bench.limits.soft = None;
    bench.limits.hard = Duration::from_secs(50);
    let narrow = |call: &str| format!("(i64.extend_i32_s {call})");
    for (call, expected) in [
        (narrow("(call $heartbeat)"), 0),
        (narrow("(call $input_read (i32.const 2048) (i64.const 5) (i32.const 9))"), 0),
        (narrow("(call $input_read (i32.const 2048) (i64.const 3) (i32.const 9))"), 2),
        (narrow("(call $input_read (i32.const 2048) (i64.const -1) (i32.const 9))"), -2),
        (narrow("(call $input_read (i32.const 2048) (i64.const 0) (i32.const -9))"), -2),
        (narrow("(call $output_write (i32.const 0) (i32.const -1))"), -2),
        (narrow("(call $output_write (i32.const 0) (i32.const 65537))"), -3),
        (narrow("(call $progress (i32.const 500) (i32.const 512) (i32.const 4))"), 0),
        (narrow("(call $progress (i32.const -1) (i32.const 512) (i32.const 0))"), 0),
        (narrow("(call $progress (i32.const 1001) (i32.const 512) (i32.const 0))"), -2),
        (narrow("(call $progress (i32.const 1) (i32.const 512) (i32.const 1025))"), -3),
        (narrow("(call $progress (i32.const 1) (i32.const 516) (i32.const 1))"), -2),
        (narrow("(call $fail (i32.const 9) (i64.const 0) (i32.const 512) (i32.const 4))"), -2),
        (narrow("(call $fail (i32.const 1) (i64.const 0) (i32.const 0) (i32.const 32769))"), -3),
        (narrow("(call $sleep (i64.const 1))"), 0),
        (narrow("(call $sleep (i64.const -1))"), -2),
        (narrow("(call $info (i32.const 2048) (i32.const -1))"), -2),
        (narrow("(call $stop_notice (i32.const 2048) (i32.const 99))"), -4),
        ("(call $extend_lease (i64.const 90000))".to_owned(), 40_000),
        ("(call $extend_lease (i64.const -1))".to_owned(), -2),
        (narrow("(call $checkpoint_load (i32.const 2048) (i32.const 9))"), -4),
        (narrow("(call $checkpoint_load (i32.const 2048) (i32.const -1))"), -4),
        (narrow("(call $checkpoint_save (i32.const 512) (i32.const -1))"), -2),
        (narrow("(call $checkpoint_save (i32.const 512) (i32.const 4))"), 0),
        (narrow("(call $checkpoint_load (i32.const 2048) (i32.const 2))"), 4),
        (narrow("(call $checkpoint_load (i32.const 2048) (i32.const -1))"), -2),
        ("(call $time_left (i32.const 0))".to_owned(), -1),
        ("(call $time_left (i32.const 7))".to_owned(), -2),
        ("(call $input_len)".to_owned(), 5),
    ] {
        assert_eq!(answer(&bench, "half\\ff", &call).await, expected, "{call}");
    }
    let left = answer(&bench, "", "(call $time_left (i32.const 1))").await;
    assert!((20_000..=50_000).contains(&left), "{left}");
    let told = bench.worker.progress.lock().unwrap().clone();
    assert_eq!((told[0].fraction, told[0].message.as_deref()), (Some(0.5), Some("half")));
    assert_eq!((told[1].fraction, told[1].message.as_deref()), (None, None));
    assert_eq!(told.len(), 2, "what was refused is not published");
}

#[tokio::test]
async fn info_and_log_are_text_of_the_guests_choice() {
    let bench = Bench::new();
    let module = raw(
        "",
        "line one\\n\\1b[31m",
        "(local $len i32)
         (call $log (i32.const 3) (i32.const 512) (i32.const 14))
         (local.set $len (call $info (i32.const 2048) (i32.const 4096)))
         (call $output_write (i32.const 2048) (local.get $len))",
    );
    let told = text(&bench.run(&module, b"").await);
    assert!(told.starts_with("{\"task_id\":\"task-1\","), "{told}");
    assert_eq!(bench.worker.lines(), ["line one\\n\\u{1b}[31m"]);
}

#[tokio::test]
async fn failures_are_the_last_fail_or_what_the_manifest_says() {
    let bench = Bench::new();
    let json = r#"{\"code\":\"busy\",\"message\":\"later\"}"#;
    let fails = |kind: u32, delay: u32| {
        raw(
            "",
            json,
            &format!(
                "(drop (call $fail (i32.const {kind}) (i64.const {delay}) (i32.const 512) (i32.const 33))) (i32.const 1)"
            ),
        )
    };
    let ended = bench.run(&fails(1, 0), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "busy"));
    assert_eq!(failure(&ended).1, RetryAdvice::Policy);
    let ended = bench.run(&fails(1, 250), b"").await;
    assert_eq!(failure(&ended).1, RetryAdvice::After(Duration::from_millis(250)));
    assert_eq!(failure(&bench.run(&fails(2, 0), b"").await).1, RetryAdvice::Never);
    assert_eq!(failure(&bench.run(&fails(3, 0), b"").await).1, RetryAdvice::Never);

    let silent = raw("", "", "(i32.const 7)");
    let ended = bench.run(&silent, b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "exit-7"));
    assert_eq!(failure(&ended).1, RetryAdvice::Policy);
    let module = bench.load(&silent).await;
    let mut spec = spec(b"", bench.limits.clone());
    spec.on_failure = OnFailure::Fail;
    let ended = exit(bench.runtime.start(&module, spec, bench.worker.clone())).await;
    assert_eq!(failure(&ended).1, RetryAdvice::Never);
}

#[tokio::test]
async fn a_notice_is_seen_and_a_drain_hands_the_task_back() {
    for (call, kind) in
        [("(call $heartbeat)", 3), ("(i32.eq (i32.const -8) (call $sleep (i64.const 3600000)))", 1)]
    {
        let bench = Bench::new();
        let module = bench
            .load(&raw(
                "",
                r#"{\"code\":\"c\",\"message\":\"m\"}"#,
                &format!(
                    "(drop (call $progress (i32.const -1) (i32.const 0) (i32.const 0)))
                     (loop $again (br_if $again (i32.eqz {call})))
                     (call $fail (i32.const {kind}) (i64.const 0) (i32.const 512) (i32.const 26))
                     (i32.add (i32.const 1))"
                ),
            ))
            .await;
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        within(bench.worker.called.notified()).await;
        interrupt.notify(StopNotice {
            code: "worker-drain",
            message: String::new(),
            force_after: None,
        });
        assert_eq!(
            stopped(&within(end).await),
            (StopReason::Shutdown, StopHow::Checkpoint),
            "{call}"
        );
    }
}

/// Waits for a notice without a heartbeat and does this then.
fn told(then: &str) -> String {
    raw(
        "",
        r#"{\"code\":\"c\",\"message\":\"m\"}"#,
        &format!(
            "(local $len i32)
             (drop (call $progress (i32.const -1) (i32.const 0) (i32.const 0)))
             (loop $again
               (local.set $len (call $stop_notice (i32.const 2048) (i32.const 4096)))
               (br_if $again (i32.eq (local.get $len) (i32.const -4))))
             {then}"
        ),
    )
}

#[tokio::test]
async fn the_pending_notice_is_told_as_json() {
    let bench = Bench::new();
    let module = bench
        .load(&told(
            "(if (i32.ne (local.get $len) (call $stop_notice (i32.const 0) (i32.const 0))) (then unreachable))
             (if (i32.ne (call $stop_notice (i32.const 0) (i32.const -1)) (i32.const -2)) (then unreachable))
             (call $output_write (i32.const 2048) (local.get $len))",
        ))
        .await;
    let notice = |code, message: &str, grace| StopNotice {
        code,
        message: message.to_owned(),
        force_after: grace,
    };
    for (notice, grace) in [
        (notice("worker-drain", "", None), None),
        (notice("revoked", "say \"why\" é", Some(Duration::from_hours(1))), Some(3_600_000)),
    ] {
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        within(bench.worker.called.notified()).await;
        interrupt.notify(notice.clone());
        let ended = within(end).await;
        let told: serde_json::Value = serde_json::from_str(&text(&ended)).unwrap();
        assert_eq!(
            (&told["code"], &told["message"]),
            (&notice.code.into(), &notice.message.into())
        );
        // What is left of it.
        let left = told.get("grace_ms").map(|left| left.as_u64().unwrap());
        assert_eq!(left.is_some(), grace.is_some(), "{told}");
        assert!(left <= grace, "{told}");
    }
}

#[tokio::test]
async fn whoever_asks_for_the_notice_of_a_drain_has_been_told_and_may_hand_the_task_back() {
    let bench = Bench::new();
    let module = bench
        .load(&told(
            "(drop (call $fail (i32.const 1) (i64.const 0) (i32.const 512) (i32.const 26))) (i32.const 1)",
        ))
        .await;
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    let message = String::new();
    interrupt.notify(StopNotice { code: "worker-stop", message, force_after: None });
    assert_eq!(stopped(&within(end).await), (StopReason::Shutdown, StopHow::Checkpoint));
}

#[tokio::test]
async fn a_refused_update_tells_no_notice_so_what_fails_after_it_has_failed() {
    let bench = Bench::new();
    let module = bench
        .load(&raw(
            "",
            r#"{\"code\":\"c\",\"message\":\"m\"}"#,
            // The checkpoint is there once the notice is.
            "(loop $again (br_if $again (i32.eq (i32.const -4) (call $checkpoint_load (i32.const 0) (i32.const 0)))))
             (if (i32.ne (i32.const -3) (call $progress (i32.const -1) (i32.const 0) (i32.const 1025))) (then unreachable))
             (drop (call $fail (i32.const 1) (i64.const 0) (i32.const 512) (i32.const 26))) (i32.const 1)",
        ))
        .await;
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    let message = String::new();
    interrupt.notify(StopNotice { code: "worker-drain", message, force_after: None });
    *bench.worker.checkpoint.lock().unwrap() = Some(Vec::new());
    assert_eq!(kind_and_code(&within(end).await), (FailureKind::Error, "c"));
}

#[tokio::test]
async fn a_raw_module_may_print_and_exit_by_preview_1() {
    let bench = Bench::new();
    let guest = |run: &str| {
        raw("", "said\\n12{\\\"code\\\":\\\"c\\\",\\\"message\\\":\\\"m\\\"}", run).replace(
            "(memory (export",
            "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func $proc_exit (param i32)))
             (import \"wasi_snapshot_preview1\" \"fd_write\" (func $fd_write (param i32 i32 i32 i32) (result i32)))
             (memory (export",
        )
    };
    let gives = "(drop (call $output_write (i32.const 517) (i32.const 2)))";
    let prints = "(i32.store (i32.const 0) (i32.const 512)) (i32.store (i32.const 4) (i32.const 5))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))";
    let exits = |code: i32| format!("(call $proc_exit (i32.const {code})) unreachable");
    let ended = bench.run(&guest(&format!("{gives} {prints} {}", exits(0))), b"").await;
    assert_eq!(text(&ended), "12");
    assert_eq!(bench.worker.lines(), ["said"]);
    for (code, named) in [(3, "exit-3"), (200, "exit-200"), (-1, "exit-255")] {
        let ended = bench.run(&guest(&exits(code)), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, named));
    }
    let tells = "(drop (call $fail (i32.const 2) (i64.const 0) (i32.const 519) (i32.const 26)))";
    let ended = bench.run(&guest(&format!("{tells} {}", exits(255))), b"").await;
    assert_eq!((kind_and_code(&ended).1, failure(&ended).1), ("c", RetryAdvice::Never));
}

#[tokio::test]
async fn a_result_that_is_refused_is_too_large_unless_the_guest_says_something_else() {
    let mut bench = Bench::new();
    bench.limits.result_bytes = 3;
    let json = r#"{\"code\":\"c\",\"message\":\"m\"}"#;
    let gives = "(call $output_write (i32.const 512) (i32.const 4))";
    let ended = bench.run(&raw("", json, gives), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "result-too-large"));
    assert_eq!(failure(&ended).1, RetryAdvice::Never);
    let says = "(drop (call $fail (i32.const 1) (i64.const 0) (i32.const 512) (i32.const 26)))";
    let ended = bench.run(&raw("", json, &format!("{says} {gives}")), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "c"));
}

#[tokio::test]
async fn a_result_is_json_only_if_it_is_text() {
    let bench = Bench::new();
    for (data, media_type) in
        [("\\22\\c3\\a9\\22", "application/json"), ("\\22\\c3\\28\\22", "application/octet-stream")]
    {
        let gives = "(call $output_write (i32.const 512) (i32.const 4))";
        let ended = bench.run(&raw("", data, gives), b"").await;
        let Outcome::Succeeded(payload) = &ended.outcome else { panic!("{ended:?}") };
        assert_eq!(payload.media_type, media_type, "{data}");
    }
}

#[tokio::test]
async fn an_offset_outside_the_memory_traps() {
    let bench = Bench::new();
    for call in [
        "(call $output_write (i32.const -4) (i32.const 16))",
        "(call $input_read (i32.const 131070) (i64.const 0) (i32.const 16))",
        "(call $progress (i32.const 1) (i32.const 131070) (i32.const 16))",
        "(call $fail (i32.const 1) (i64.const 0) (i32.const -1) (i32.const 2147483647))",
        "(call $info (i32.const -1) (i32.const 2147483647))",
        "(call $checkpoint_save (i32.const -1) (i32.const 16))",
        "(call $children_enqueue (i32.const -1) (i32.const 16) (i32.const 0) (i32.const 0) (i32.const 0))",
        "(call $kv_get (i32.const 0) (i32.const 1) (i32.const -1) (i32.const 16) (i32.const 0) (i32.const 0) (i32.const 0))",
        "(call $config_get (i32.const -1) (i32.const 16) (i32.const 0) (i32.const 0))",
    ] {
        let ended = bench.run(&raw("", "", call), b"input").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "memory-out-of-bounds"), "{call}");
    }
    // One that never says where its memory is.
    let hidden = raw("", "", "(call $output_write (i32.const 0) (i32.const 1))")
        .replace("(memory (export \"memory\") 2)", "(memory 2)");
    let ended = bench.run(&hidden, b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "memory-out-of-bounds"));
}

#[tokio::test]
async fn initialize_runs_before_stem_run() {
    let bench = Bench::new();
    let module = raw(
        "(global $state (mut i32) (i32.const 0))
         (func (export \"_initialize\") (global.set $state (i32.const 1)))
         (func (export \"extra\") (param i64 f32))",
        "",
        "(i32.eqz (global.get $state))",
    );
    assert_eq!(text(&bench.run(&module, b"").await), "");
}

/// A core module that imports functions of preview 1 too.
fn with_preview_1(data: &str, run: &str) -> String {
    raw("", data, run).replacen(
        "(memory (export",
        "(import \"wasi_snapshot_preview1\" \"fd_write\" (func $fd_write (param i32 i32 i32 i32) (result i32)))
         (memory (export",
        1,
    )
}

#[tokio::test]
async fn a_failure_report_counts_on_a_commands_standard_error_and_nowhere_else() {
    let bench = Bench::new();
    let line = "stem-error: {\"kind\":\"fatal\",\"code\":\"c\",\"message\":\"m\"}";
    let data = line.replace('"', "\\\"");
    for stream in [1, 2] {
        let run = format!(
            "(i32.store (i32.const 0) (i32.const 512)) (i32.store (i32.const 4) (i32.const {}))
             (drop (call $fd_write (i32.const {stream}) (i32.const 0) (i32.const 1) (i32.const 8)))
             (i32.const 1)",
            line.len()
        );
        let ended = bench.run(&with_preview_1(&data, &run), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, "exit-1"));
    }
    assert_eq!(bench.worker.lines(), [line, line]);
}
