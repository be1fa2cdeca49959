//! Core modules: the same functions by number and offset.

use std::time::Duration;

use stem_core::outcome::{FailureKind, RetryAdvice, StopHow, StopNotice, StopReason};
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
        stem_core::outcome::Outcome::Succeeded(payload) => {
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
