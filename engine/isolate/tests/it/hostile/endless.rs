//! Guests that never end: loops wherever guest code runs, recursion, bulk operations, waiting for nothing. Numbers are those of the
//! attacks' list.

use std::time::{Duration, Instant};

use stem_core::outcome::{FailureKind, Outcome, RetryAdvice, StopReason};

use super::{LOOP, stopped_while_computing};
use crate::bench::{
    Bench, When, assert_preempted, computing, failure, kind_and_code, stopped, text, within,
};
use crate::commands::command_02;
use crate::guests::{SPIN, Task, command, raw, task, task_with};

// 1

#[tokio::test]
async fn an_endless_loop_in_run_is_stopped() {
    stopped_while_computing(&task(LOOP)).await;
}

#[tokio::test]
async fn an_endless_loop_in_the_start_function_is_stopped() {
    stopped_while_computing(&task_with(
        "(func $begin (loop $again (br $again))) (start $begin)",
        "",
        "(unreachable)",
    ))
    .await;
    stopped_while_computing(&raw(
        "(func $begin (loop $again (br $again))) (start $begin)",
        "",
        "(i32.const 0)",
    ))
    .await;
}

#[tokio::test]
async fn an_endless_loop_in_initialize_is_stopped() {
    let initialize = "(func (export \"_initialize\") (loop $again (br $again)))";
    stopped_while_computing(&raw(initialize, "", "(i32.const 0)")).await;
    stopped_while_computing(&command(initialize, "", "")).await;
}

#[tokio::test]
async fn an_endless_loop_in_realloc_is_stopped() {
    stopped_while_computing(&Task { realloc: LOOP, ..Task::default() }.wat()).await;
}

#[tokio::test]
async fn an_endless_loop_in_post_return_is_stopped() {
    stopped_while_computing(
        &Task { post_return: "(loop $again (br $again))", ..Task::default() }.wat(),
    )
    .await;
}

#[tokio::test]
async fn an_endless_loop_in_a_resource_destructor_is_stopped() {
    let drops = Task {
        imports: r#"(core module $end-m (func (export "end") (param i32) (loop $again (br $again))))
            (core instance $end (instantiate $end-m))
            (type $thing (resource (rep i32) (dtor (core func $end "end"))))"#,
        lowered: "(core func $new (canon resource.new $thing)) (core func $drop (canon resource.drop $thing))",
        exports: "(export \"new\" (func $new)) (export \"drop\" (func $drop))",
        more: "(import \"host\" \"new\" (func $new (param i32) (result i32))) (import \"host\" \"drop\" (func $drop (param i32)))---",
        run: "(call $drop (call $new (i32.const 1))) (call $answer (i32.const 0))",
        ..Task::default()
    };
    stopped_while_computing(&drops.wat()).await;
}

// 2, 3

#[tokio::test]
async fn recursion_ends_in_a_stack_overflow_and_nothing_worse() {
    let bench = Bench::new();
    let locals = "(local i64)".repeat(2_000);
    let each = |text: fn(u32) -> String| (1..2_000).map(text).collect::<Vec<_>>().concat();
    let uses = each(|n| format!("(local.set {n} (i64.extend_i32_u (local.get 0)))"));
    let sums = each(|n| format!("(drop (i64.add (local.get {n}) (i64.const 1)))"));
    for more in [
        "(func $down (param i32) (call $down (local.get 0)) (i32.store (i32.const 0) (local.get 0)))".to_owned(),
        "(func $down (param i32) (call $up (local.get 0)) (i32.store (i32.const 0) (local.get 0)))
         (func $up (param i32) (call $down (local.get 0)) (i32.store (i32.const 4) (local.get 0)))"
            .to_owned(),
        format!("(func $down (param i32) {locals} {uses} (call $down (local.get 0)) {sums} (i64.store (i32.const 0) (local.get 1999)))"),
    ] {
        let ended = bench.run(&task_with(&more, "", "(call $down (i32.const 1)) (unreachable)"), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "stack-overflow"));
    }
    // And from as deep as it gets, into the host.
    let deep = "(func $down (param i32) (call $here) (call $down (local.get 0)) (i32.store (i32.const 0) (local.get 0)))";
    let ended =
        bench.run(&task_with(deep, "", "(call $down (i32.const 1)) (unreachable)"), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "stack-overflow"));
}

#[tokio::test]
async fn a_loop_of_tail_calls_is_stopped() {
    stopped_while_computing(&task_with(
        "(func $one (param i32) (result i32) (return_call $two (local.get 0)))
         (func $two (param i32) (result i32) (return_call $one (local.get 0)))",
        "",
        "(call $one (i32.const 1))",
    ))
    .await;
}

// 6

#[tokio::test]
async fn bulk_operations_over_all_memory_are_stopped() {
    for bulk in [
        "(memory.fill (i32.const 0) (i32.const 7) (i32.const 16000000))",
        "(memory.copy (i32.const 0) (i32.const 1) (i32.const 16000000))",
    ] {
        let bench = Bench::new();
        let module = bench
            .load(&task(&format!("(drop (memory.grow (i32.const 250))) (call $here) (loop $again {bulk} (br $again)) (unreachable)")))
            .await;
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        within(bench.worker.called.notified()).await;
        computing(&interrupt, Duration::from_millis(1)).await;
        let began = Instant::now();
        interrupt.stop(StopReason::Revoked, true);
        let ended = within(end).await;
        println!("{bulk}: ended after {:?}", began.elapsed());
        assert_preempted(&ended);
        bench.assert_good_task_runs().await;
    }
}

// 18

#[tokio::test]
async fn a_guest_that_waits_for_nothing_is_stopped() {
    let wait = "(call $block (call $after (i64.const -1))) (i32.const 0)";
    // 2,000 pollables in one list, none of them ever ready.
    let many = "(local $n i32)
        (loop $again
          (i32.store (i32.add (i32.const 8192) (local.get $n)) (call $after (i64.const -1)))
          (local.set $n (i32.add (local.get $n) (i32.const 4)))
          (br_if $again (i32.lt_u (local.get $n) (i32.const 8000))))
        (call $poll (i32.const 8192) (i32.const 2000) (i32.const 1024)) (i32.const 0)";
    for run in [wait, many] {
        // It cannot say where it is; a line on standard error is what shows that it has begun, and it waits right after.
        let bench = Bench::new();
        let module = bench.load(&command_02("0.2.12", "", run)).await;
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        waiting(&interrupt).await;
        interrupt.stop(StopReason::Revoked, true);
        assert_preempted(&within(end).await);
        bench.assert_good_task_runs().await;
    }
    // 100,000 times the same one: over the bounds of one call, or fine, but never for ever.
    let bench = Bench::new();
    let same = "(local $n i32) (local $p i32) (local.set $p (call $after (i64.const 1)))
        (loop $again
          (i32.store (i32.add (i32.const 8192) (local.get $n)) (local.get $p))
          (local.set $n (i32.add (local.get $n) (i32.const 4)))
          (br_if $again (i32.lt_u (local.get $n) (i32.const 240000))))
        (call $poll (i32.const 8192) (i32.const 60000) (i32.const 1024)) (i32.const 0)";
    let ended = bench.run(&command_02("0.2.12", "", same), b"").await;
    assert!(!matches!(ended.outcome, Outcome::Stopped { .. }), "{ended:?}");
    // Polling nothing is the guest's fault.
    let ended = bench
        .run(
            &command_02(
                "0.2.12",
                "",
                "(call $poll (i32.const 0) (i32.const 0) (i32.const 1024)) (i32.const 0)",
            ),
            b"",
        )
        .await;
    assert_eq!(kind_and_code(&ended).0, FailureKind::Trap);

    let bench = Bench::new();
    let sleeps = bench
        .load(&task("(call $here) (call $sleep (i64.const -1) (i32.const 256)) (unreachable)"))
        .await;
    let ended = bench.run_and_stop(&sleeps, When::Called).await;
    assert_eq!(stopped(&ended).0, StopReason::Revoked);
}

/// Waits until the guest has used CPU time: its first poll is over then, and it waits.
async fn waiting(interrupt: &stem_isolate::InterruptHandle) {
    computing(interrupt, Duration::from_nanos(1)).await;
}

// The limit on CPU time

#[tokio::test]
async fn cpu_time_is_limited_and_waiting_is_not_charged() {
    let mut bench = Bench::new();
    bench.limits.cpu = Duration::from_millis(60);
    let ended = bench.run(&task(SPIN), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::CpuLimit, "cpu-limit"));
    assert_eq!(failure(&ended).1, RetryAdvice::Never);
    assert!((60.0..1_000.0).contains(&ended.usage.cpu_ms), "{:?}", ended.usage);
    // Sleeps for three times its CPU time.
    let ended = bench
        .run(
            &task("(call $sleep (i64.const 180) (i32.const 256)) (call $answer (i32.const 1))"),
            b"",
        )
        .await;
    assert_eq!(text(&ended), "\0");
    assert!(ended.usage.cpu_ms < 60.0, "{:?}", ended.usage);
}
