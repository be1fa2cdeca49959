//! Components for world `task`: each host function answers as its interface says.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stem_core::outcome::{FailureKind, RetryAdvice, StopHow, StopNotice, StopReason};
use stem_isolate::{LogLevel, ModuleKind, Refusal};

use crate::bench::{Bench, failure, kind_and_code, stopped, text, within};
use crate::guests::{self, Task, task, task_with};

fn notice(code: &'static str) -> StopNotice {
    StopNotice { code, message: "please".to_owned(), force_after: Some(Duration::from_secs(30)) }
}

#[tokio::test]
async fn a_result_comes_back_as_it_was_returned() {
    let bench = Bench::new();
    let ended = bench.run(&task("(call $ok (local.get $in) (local.get $len))"), b"{\"a\":1}").await;
    assert_eq!(text(&ended), "{\"a\":1}");
    assert!(ended.usage.peak_memory_bytes >= 2 << 16, "{:?}", ended.usage);
    assert_eq!(bench.good().kind(), ModuleKind::Component);
}

#[tokio::test]
async fn an_import_of_a_part_and_more_exports_than_needed_are_fine() {
    let bench = Bench::new();
    let text_of = task("(call $ok (i32.const 16) (i32.const 4))");
    let more = text_of.replace(
        "(export \"stem:task/handler@0.1.0\" (instance $handler)))",
        "(export \"stem:task/handler@0.1.0\" (instance $handler))\n(export \"acme:more/things\" (instance $handler)))",
    );
    assert_ne!(text_of, more);
    assert_eq!(text(&bench.run(&more, b"").await), "appl");
}

#[tokio::test]
async fn the_three_failures_say_what_is_next() {
    let bench = Bench::new();
    let fails = |kind: u32| {
        task_with(
            "",
            "busy",
            &format!("(call $err (i32.const {kind}) (i32.const 512) (i32.const 4))"),
        )
    };
    let ended = bench.run(&fails(0), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "busy"));
    assert_eq!(failure(&ended).1, RetryAdvice::Policy);
    assert_eq!(failure(&bench.run(&fails(1), b"").await).1, RetryAdvice::Never);
    // Nobody asked it to stop, so it has failed.
    assert_eq!(failure(&bench.run(&fails(2), b"").await).1, RetryAdvice::Never);

    let later = task_with(
        "",
        "busy",
        "(i32.store8 (i32.const 120) (i32.const 1)) (i64.store (i32.const 128) (i64.const 1500))
         (call $err (i32.const 0) (i32.const 512) (i32.const 4))",
    );
    let ended = bench.run(&later, b"").await;
    assert_eq!(failure(&ended).1, RetryAdvice::After(Duration::from_millis(1500)));
}

#[tokio::test]
async fn a_failures_detail_is_kept_up_to_its_bound_and_noted_beyond() {
    let bench = Bench::new();
    let detail = |size: u32| {
        task_with(
            "",
            "busy",
            &format!(
                "(i32.store8 (i32.const 96) (i32.const 1))
                 (i32.store (i32.const 100) (i32.const 16)) (i32.store (i32.const 104) (i32.const 16))
                 (i32.store (i32.const 108) (i32.const 1024)) (i32.store (i32.const 112) (i32.const {size}))
                 (call $err (i32.const 1) (i32.const 512) (i32.const 4))"
            ),
        )
    };
    let ended = bench.run(&detail(16_384), b"").await;
    assert_eq!(failure(&ended).0.detail.as_ref().unwrap().bytes.len(), 16_384);
    assert!(bench.worker.lines().is_empty());
    let ended = bench.run(&detail(16_385), b"").await;
    assert_eq!(
        (failure(&ended).0.detail.as_ref(), failure(&ended).0.message.as_str()),
        (None, "busy")
    );
    assert_eq!(bench.worker.lines(), ["the failure's detail of 16385 bytes was left out"]);
}

/// Waits for a notice, then gives up with this kind of failure, named by the notice's code.
fn gives_up(kind: u32) -> String {
    task(&format!(
        "(call $here)
         (loop $again (call $heartbeat (i32.const 256)) (br_if $again (i32.eqz (i32.load8_u (i32.const 256)))))
         (call $err (i32.const {kind}) (i32.load (i32.const 264)) (i32.load (i32.const 268)))"
    ))
}

#[tokio::test]
async fn a_heartbeat_returns_the_notice_and_giving_up_then_is_a_stop() {
    for (kind, code, reason) in [
        (2, "revoked", StopReason::Revoked),
        (2, "soft-time-limit", StopReason::TimeLimit),
        (2, "worker-drain", StopReason::Shutdown),
        (0, "worker-drain", StopReason::Shutdown),
        (0, "worker-stop", StopReason::Shutdown),
    ] {
        let bench = Bench::new();
        let module = bench.load(&gives_up(kind)).await;
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        within(bench.worker.called.notified()).await;
        interrupt.notify(notice(code));
        assert_eq!(stopped(&within(end).await), (reason, StopHow::Checkpoint), "{code}");
    }
    let bench = Bench::new();
    let module = bench.load(&gives_up(0)).await;
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    interrupt.notify(notice("revoked"));
    assert_eq!(kind_and_code(&within(end).await), (FailureKind::Error, "revoked"));
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn a_task_may_finish_after_a_notice() {
    let bench = Bench::new();
    let module = bench
        .load(&task(
            "(call $here)
             (loop $again (call $stop-requested (i32.const 256)) (br_if $again (i32.eqz (i32.load8_u (i32.const 256)))))
             (call $ok (i32.load (i32.const 272)) (i32.load (i32.const 276)))",
        ))
        .await;
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    interrupt.notify(notice("worker-stop"));
    assert_eq!(text(&within(end).await), "please");
}

/// Sends one update and returns the answer's first bytes: tag, tag of notice or error, number or text length.
fn progress(fraction: &str, message: u32, data: u32) -> String {
    let some = |len: u32| u32::from(len > 0);
    task(&format!(
        "(memory.fill (i32.const 1024) (i32.const 120) (i32.const 32768))
         (call $progress (i32.const 1) (f64.const {fraction}) (i32.const {}) (i32.const 1024) (i32.const {message})
           (i32.const {}) (i32.const 16) (i32.const 16) (i32.const 1024) (i32.const {data}) (i32.const 256))
         (i32.store8 (i32.const 257) (i32.load8_u (i32.const 264)))
         (call $answer (i32.const 2))",
        some(message),
        some(data)
    ))
}

#[tokio::test]
async fn progress_is_bounded_and_what_is_out_of_bounds_is_not_published() {
    let bench = Bench::new();
    assert_eq!(text(&bench.run(&progress("0.5", 1_024, 16_384), b"").await), "\0\0");
    let told = bench.worker.last_progress().unwrap();
    assert_eq!(told.fraction, Some(0.5));
    assert_eq!(told.message.unwrap().len(), 1_024);
    assert_eq!(told.data.unwrap().bytes.len(), 16_384);
    for (update, tag) in [
        (progress("0.5", 1_025, 0), 2),
        (progress("0.5", 0, 16_385), 2),
        (progress("nan", 0, 0), 1),
        (progress("inf", 0, 0), 1),
        (progress("-0.01", 0, 0), 1),
        (progress("1.01", 0, 0), 1),
    ] {
        let answer = text(&bench.run(&update, b"").await);
        assert_eq!(answer.as_bytes(), [1, tag]);
    }
    assert_eq!(bench.worker.updates.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn time_left_is_within_the_limits() {
    let mut bench = Bench::new();
    bench.limits.hard = Duration::from_secs(50);
    let answer = |at: u32| {
        task(&format!(
            "(call $time-left (i32.const 256))
             (if (i64.gt_u (i64.load (i32.const {})) (i64.const 50000)) (then unreachable))
             (if (i64.lt_u (i64.load (i32.const {})) (i64.const 20000)) (then unreachable))
             (i32.store8 (i32.const 257) (i32.load8_u (i32.const 272)))
             (call $answer (i32.const 2))",
            at + 8,
            at + 8
        ))
    };
    assert_eq!(text(&bench.run(&answer(272), b"").await), "\0\u{1}");
    bench.limits.soft = Some(Duration::from_secs(40));
    assert_eq!(text(&bench.run(&answer(256), b"").await), "\u{1}\u{1}");
}

#[tokio::test]
async fn sleep_waits_and_a_notice_cuts_it_short() {
    let mut bench = Bench::new();
    let sleeps = |ms: u64| {
        task(&format!(
            "(call $here) (call $sleep (i64.const {ms}) (i32.const 256))
             (i32.store8 (i32.const 257) (i32.load8_u (i32.const 264))) (call $answer (i32.const 2))"
        ))
    };
    let began = Instant::now();
    assert_eq!(text(&bench.run(&sleeps(30), b"").await).as_bytes()[0], 0);
    assert!(began.elapsed() >= Duration::from_millis(30));

    // Longer than the hard limit, which is somebody else's to enforce: it does not return early.
    bench.limits.hard = Duration::from_millis(1);
    let began = Instant::now();
    assert_eq!(text(&bench.run(&sleeps(30), b"").await).as_bytes()[0], 0);
    assert!(began.elapsed() >= Duration::from_millis(30));

    let module = bench.load(&sleeps(3_600_000)).await;
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    interrupt.notify(notice("worker-drain"));
    assert_eq!(text(&within(end).await).as_bytes(), [1, 7], "stopping");
}

#[tokio::test]
async fn a_lease_is_extended_at_most_once_a_second() {
    let bench = Bench::new();
    let extends = task(
        "(call $extend-lease (i64.const 90000) (i32.const 256))
         (call $extend-lease (i64.const 90000) (i32.const 288))
         (if (i64.gt_u (i64.load (i32.const 296)) (i64.load (i32.const 264))) (then unreachable))
         (if (i64.ne (i64.load (i32.const 264)) (i64.const 40000)) (then unreachable))
         (i32.store8 (i32.const 257) (i32.load8_u (i32.const 264))) (call $answer (i32.const 1))",
    );
    assert_eq!(text(&bench.run(&extends, b"").await), "\0");
    assert_eq!(bench.worker.extensions.lock().unwrap().len(), 1);
    *bench.worker.refusal.lock().unwrap() = Some(Refusal::Unavailable("broker".to_owned()));
    let refused = task(
        "(call $extend-lease (i64.const 90000) (i32.const 256))
         (call $ok (i32.load (i32.const 272)) (i32.load (i32.const 276)))",
    );
    assert_eq!(text(&bench.run(&refused, b"").await), "broker");
    *bench.worker.refusal.lock().unwrap() = Some(Refusal::LeaseLost);
    let ended = bench.run(&refused, b"").await;
    assert_eq!(stopped(&ended), (StopReason::LeaseLost, StopHow::Checkpoint));
}

#[tokio::test]
async fn a_checkpoint_is_saved_loaded_bounded_and_fenced() {
    let bench = Bench::new();
    let load = task(
        "(call $load (i32.const 256))
         (if (i32.load8_u (i32.const 256)) (then unreachable))
         (if (i32.eqz (i32.load8_u (i32.const 264))) (then (return (call $ok (i32.const 16) (i32.const 4)))))
         (call $ok (i32.load (i32.const 268)) (i32.load (i32.const 272)))",
    );
    let save = |len: u32| {
        Task {
            run: &format!(
                "(drop (memory.grow (i32.const 8)))
                 (call $save (local.get $in) (i32.const {len}) (i32.const 256))
                 (i32.store8 (i32.const 257) (i32.load8_u (i32.const 264))) (call $answer (i32.const 2))"
            ),
            ..Task::default()
        }
        .wat()
    };
    assert_eq!(text(&bench.run(&load, b"").await), "appl", "nothing was saved");
    assert_eq!(text(&bench.run(&save(5), b"state").await).as_bytes()[0], 0);
    assert_eq!(text(&bench.run(&load, b"").await), "state");
    assert_eq!(text(&bench.run(&save(262_145), b"state").await).as_bytes(), [1, 2], "too-large");
    assert_eq!(text(&bench.run(&load, b"").await), "state", "the former value stays");
    assert_eq!(text(&bench.run(&save(262_144), b"state").await).as_bytes()[0], 0);
    *bench.worker.refusal.lock().unwrap() = Some(Refusal::Unavailable("store".to_owned()));
    assert_eq!(text(&bench.run(&save(5), b"state").await).as_bytes(), [1, 6], "unavailable");
    *bench.worker.refusal.lock().unwrap() = Some(Refusal::LeaseLost);
    assert_eq!(stopped(&bench.run(&save(5), b"state").await).0, StopReason::LeaseLost);
}

#[tokio::test]
async fn log_lines_arrive_with_level_and_fields() {
    let bench = Bench::new();
    // One field: name `key` at 520, value `value` at 523, described at 1024.
    let logs = task_with(
        "",
        "message!keyvalue",
        "(i32.store (i32.const 1024) (i32.const 520)) (i32.store (i32.const 1028) (i32.const 3))
         (i32.store (i32.const 1032) (i32.const 523)) (i32.store (i32.const 1036) (i32.const 5))
         (call $write (i32.const 3) (i32.const 512) (i32.const 7) (i32.const 1024) (i32.const 1))
         (call $write (i32.const 0) (i32.const 512) (i32.const 7) (i32.const 0) (i32.const 0))
         (call $answer (i32.const 0))",
    );
    assert_eq!(text(&bench.run(&logs, b"").await), "");
    let lines = bench.worker.logs.lock().unwrap().clone();
    assert_eq!(lines.len(), 1, "trace is off");
    assert_eq!((lines[0].level, lines[0].message.as_str()), (LogLevel::Warn, "message"));
    assert_eq!(lines[0].fields, [("key".to_owned(), "value".to_owned())]);
}

#[tokio::test]
async fn a_log_over_its_bytes_is_dropped_and_counted() {
    let mut bench = Bench::new();
    bench.limits.log_bytes = 20;
    let writes =
        "(call $write (i32.const 2) (i32.const 16) (i32.const 16) (i32.const 0) (i32.const 0))";
    let logs = task(&format!("{writes} {writes} {writes} (call $answer (i32.const 0))"));
    assert_eq!(text(&bench.run(&logs, b"").await), "");
    assert_eq!(
        bench.worker.lines(),
        [
            "application/json",
            "log lines are dropped: too many, or too much",
            "2 log lines were dropped in this attempt"
        ]
    );
}

#[tokio::test]
async fn an_event_loop_waits_for_the_notice_among_its_other_work() {
    let bench = Bench::new();
    let waits = Task {
        imports: r#"(import "wasi:io/poll@0.2.6" (instance $poll
            (export "pollable" (type $pollable (sub resource)))
            (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
          (alias export $poll "pollable" (type $pollable))
          (import "stem:task/stop-events@0.1.0" (instance $events
            (alias outer 1 $pollable (type $p)) (export "pollable" (type $pollable (eq $p)))
            (export "subscribe" (func (result (own $pollable))))))"#,
        lowered: r#"(core func $subscribe (canon lower (func $events "subscribe")))
          (core func $block (canon lower (func $poll "[method]pollable.block")))"#,
        exports: r#"(export "subscribe" (func $subscribe)) (export "block" (func $block))"#,
        more: r#"(import "host" "subscribe" (func $subscribe (result i32)))
          (import "host" "block" (func $block (param i32)))---"#,
        run: "(call $here) (call $block (call $subscribe)) (call $stop-requested (i32.const 256))
          (call $ok (i32.load (i32.const 264)) (i32.load (i32.const 268)))",
        ..Task::default()
    };
    let module = bench.load(&waits.wat()).await;
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    interrupt.notify(notice("soft-time-limit"));
    assert_eq!(text(&within(end).await), "soft-time-limit");
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn the_context_tells_what_the_attempt_is() {
    let bench = Bench::new();
    let text_at = |at: u32| {
        task(&format!(
            "(call $info (i32.const 256))
             (if (i32.ne (i32.load (i32.const 280)) (i32.const 2)) (then unreachable)) ;; attempt
             (if (i32.ne (i32.load (i32.const 288)) (i32.const 5)) (then unreachable)) ;; max-attempts
             (if (i32.load8_u (i32.const 304)) (then unreachable))                     ;; parent-id
             (if (i32.ne (i32.load (i32.const 348)) (i32.const 1)) (then unreachable)) ;; headers
             (call $ok (i32.load (i32.const {})) (i32.load (i32.const {})))",
            256 + at,
            260 + at
        ))
    };
    for (at, value) in [(0, "task-1"), (8, "echo"), (16, "default"), (60, "root-1"), (68, "key-1")]
    {
        assert_eq!(text(&bench.run(&text_at(at), b"").await), value);
    }
}

#[tokio::test]
async fn results_are_bounded_and_never_cut() {
    let bench = Bench::new();
    let limit = u32::try_from(bench.limits.result_bytes).unwrap();
    let returns = |len: u32| {
        task(&format!(
            "(drop (memory.grow (i32.const 120))) (call $ok (i32.const 0) (i32.const {len}))"
        ))
    };
    assert_eq!(text(&bench.run(&returns(limit), b"").await).len(), limit as usize);
    // Just over, far over, and over what may be copied in one call.
    for len in [limit + 1, 1 << 20, 7 << 20] {
        let ended = bench.run(&returns(len), b"").await;
        assert_eq!(
            kind_and_code(&ended),
            (FailureKind::PayloadTooLarge, "result-too-large"),
            "{len}"
        );
        assert_eq!(failure(&ended).1, RetryAdvice::Never);
    }
}

#[tokio::test]
async fn a_trap_fails_the_attempt_and_names_the_function() {
    let bench = Bench::new();
    let traps = task_with("(func $deep (unreachable))", "", "(call $deep) (unreachable)");
    let ended = bench.run(&traps, b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "unreachable"));
    assert!(failure(&ended).0.message.contains("(in deep)"), "{:?}", failure(&ended));
    assert_eq!(failure(&ended).1, RetryAdvice::Policy);
    let ended = bench.run(&task("(i32.load (i32.const -8))"), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "memory-out-of-bounds"));
    let ended = bench.run(&task("(i32.div_u (i32.const 1) (local.get $len))"), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "division-by-zero"));
}

#[tokio::test]
async fn a_guest_without_the_handlers_type_is_refused() {
    let bench = Bench::new();
    let wrong = guests::task("(call $answer (i32.const 0))")
        .replace("(instance $handler (export \"run\" (func $run)))", "(instance $handler)");
    let error = bench.try_load(&wrong).await.unwrap_err().to_string();
    assert!(error.contains("run"), "{error}");
}
