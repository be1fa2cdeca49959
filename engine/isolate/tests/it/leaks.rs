//! What one tenant leaves behind, the next must not find.

use stem_core::outcome::StopReason;
use stem_isolate::RuntimeConfig;
use stem_isolate::config::Allocator;

use crate::bench::{Bench, config, exit, text, within};
use crate::guests::raw;

/// Looks for anything that is not zero in 2 MiB of memory, a table and a global; then, if its input says so, fills all of
/// them, and returns, traps or computes for ever. The image differs by `data`, so that slots change their module too.
fn tenant(data: &str) -> String {
    raw(
        "(table $t 100 funcref) (global $g (mut i64) (i64.const 0)) (elem declare func $f) (func $f)",
        data,
        "(local $at i32) (local $end i32)
         (if (i32.eq (i32.const -1) (memory.grow (i32.const 30))) (then unreachable))
         (local.set $end (i32.mul (memory.size) (i32.const 65536)))
         ;; The image ends before 1024.
         (local.set $at (i32.const 1024))
         (loop $scan
           (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (return (i32.const 1))))
           (local.set $at (i32.add (local.get $at) (i32.const 8)))
           (br_if $scan (i32.lt_u (local.get $at) (local.get $end))))
         (local.set $at (i32.const 0))
         (loop $scan
           (if (i32.eqz (ref.is_null (table.get $t (local.get $at)))) (then (return (i32.const 2))))
           (local.set $at (i32.add (local.get $at) (i32.const 1)))
           (br_if $scan (i32.lt_u (local.get $at) (i32.const 100))))
         (if (i64.ne (global.get $g) (i64.const 0)) (then (return (i32.const 3))))
         (drop (call $input_read (i32.const 1024) (i64.const 0) (i32.const 1)))
         (local.set $at (i32.load8_u (i32.const 1024)))
         (memory.fill (i32.const 0) (i32.const 0xa5) (local.get $end))
         (table.fill $t (i32.const 0) (ref.func $f) (i32.const 100))
         (global.set $g (i64.const 0x5ec2e75ec2e7))
         (drop (call $progress (i32.const -1) (i32.const 0) (i32.const 0)))
         (if (i32.eq (local.get $at) (i32.const 116)) (then unreachable))
         (if (i32.eq (local.get $at) (i32.const 108)) (then (loop $again (br $again))))
         (i32.const 0)",
    )
}

#[tokio::test]
async fn nothing_of_a_tenant_is_left_for_the_next() {
    // One slot's worth of neighbours, so that slots are used again at once.
    let bench = Bench::of(&RuntimeConfig { isolates: 1, threads: 1, ..config() }).await;
    println!("allocator: {:?}", bench.runtime.allocator());
    if cfg!(target_os = "linux") {
        assert!(
            matches!(bench.runtime.allocator(), Allocator::Pool { .. }),
            "{:?}",
            bench.runtime.allocator()
        );
    }
    let tenants = [bench.load(&tenant("one")).await, bench.load(&tenant("another, longer")).await];
    for round in 0..240 {
        let module = &tenants[round % 3 % 2];
        match round % 4 {
            // Ends well; the next round finds what it left.
            0 | 2 => assert_eq!(text(&exit(bench.start(module, b"e")).await), "", "round {round}"),
            1 => {
                let ended = exit(bench.start(module, b"t")).await;
                let (kind, code) = crate::bench::kind_and_code(&ended);
                assert_eq!(
                    (kind, code),
                    (stem_core::outcome::FailureKind::Trap, "unreachable"),
                    "round {round}"
                );
            }
            _ => {
                // Each ended round left one permit of a wake-up behind; only the newest update counts.
                let seen = bench.worker.updates.load(std::sync::atomic::Ordering::SeqCst);
                let (interrupt, end) = bench.start(module, b"l").into_parts();
                within(async {
                    while bench.worker.updates.load(std::sync::atomic::Ordering::SeqCst) == seen {
                        bench.worker.called.notified().await;
                    }
                })
                .await;
                interrupt.stop(StopReason::Revoked, true);
                crate::bench::assert_preempted(&within(end).await);
            }
        }
    }
    bench.assert_good_task_runs().await;
}
