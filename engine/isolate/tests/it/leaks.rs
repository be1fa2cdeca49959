//! What one tenant leaves behind, the next must not find.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use stem_core::outcome::{FailureKind, StopReason};
use stem_isolate::config::Allocator;
use stem_isolate::{Module, RuntimeConfig};

use crate::bench::{Bench, assert_preempted, block_on, config, exit, kind_and_code, text, within};
use crate::guests::raw;
use crate::planted::found;

/// How many there are one after the other, unless `STEM_TEST_LEAKS` says otherwise.
const TENANTS: usize = 10_000;

/// What a tenant fills, in the order in which the next one looks.
const FILLS: [&str; 3] = [
    "(memory.fill (i32.const 0) (i32.const 0xa5) (local.get $end))",
    "(table.fill $t (i32.const 0) (ref.func $f) (i32.const 100))",
    "(global.set $g (i64.const 0x5ec2e75ec2e7))",
];

/// Looks for anything that is not zero in 640 KiB of memory, of which less than half stays mapped, a table and a global;
/// then fills all of them and returns, traps or computes for ever, as its input says. The image differs by `data`, so that
/// slots change their module too.
fn tenant(data: &str) -> String {
    tenant_with("", data)
}

/// The same, with something done before it looks.
fn tenant_with(before: &str, data: &str) -> String {
    let fills = FILLS.concat();
    let run = format!(
        "(local $at i32) (local $end i32)
         (if (i32.eq (i32.const -1) (memory.grow (i32.const 8))) (then unreachable))
         (local.set $end (i32.mul (memory.size) (i32.const 65536)))
         {before}
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
         {fills}
         (drop (call $progress (i32.const -1) (i32.const 0) (i32.const 0)))
         (if (i32.eq (local.get $at) (i32.const 116)) (then unreachable))
         (if (i32.eq (local.get $at) (i32.const 108)) (then (loop $again (br $again))))
         (i32.const 0)"
    );
    let things = "(table $t 100 funcref) (global $g (mut i64) (i64.const 0)) (elem declare func $f) (func $f)";
    raw(things, data, &run)
}

#[tokio::test]
async fn nothing_of_a_tenant_is_left_for_the_next() {
    let tenants = std::env::var("STEM_TEST_LEAKS");
    let tenants =
        tenants.map_or(TENANTS, |text| text.parse().expect("STEM_TEST_LEAKS is a number"));
    // One slot's worth of neighbours, so that slots are used again at once.
    let pool = RuntimeConfig { isolates: 1, threads: 1, ..config() };
    // There is no pool of memories that are larger than the address space of each.
    let mapped = RuntimeConfig { memory_cap_bytes: 8 << 30, ..pool.clone() };
    let (pool, mapped) = (Bench::of(&pool).await, Bench::of(&mapped).await);
    println!("allocators: {:?}, {:?}", pool.runtime.allocator(), mapped.runtime.allocator());
    if cfg!(target_os = "linux") {
        assert!(matches!(pool.runtime.allocator(), Allocator::Pool { .. }));
    }
    assert_eq!(mapped.runtime.allocator(), Allocator::OnDemand);
    one_after_the_other(&pool, tenants * 9 / 10).await;
    one_after_the_other(&mapped, tenants / 10).await;
}

async fn one_after_the_other(bench: &Bench, count: usize) {
    let tenants = [bench.load(&tenant("one")).await, bench.load(&tenant("another, longer")).await];
    for round in 0..count {
        one(bench, &tenants[round % 3 % 2], round).await;
    }
    bench.assert_good_task_runs().await;
}

async fn one(bench: &Bench, module: &Arc<Module>, round: usize) {
    match round % 10 {
        1 => {
            let ended = exit(bench.start(module, b"t")).await;
            assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "unreachable"), "{round}");
        }
        5 => {
            // Each ended round left one permit of a wake-up behind; only the newest update counts.
            let seen = bench.worker.updates.load(Ordering::SeqCst);
            let (interrupt, end) = bench.start(module, b"l").into_parts();
            within(async {
                while bench.worker.updates.load(Ordering::SeqCst) == seen {
                    bench.worker.called.notified().await;
                }
            })
            .await;
            interrupt.stop(StopReason::Revoked, true);
            assert_preempted(&within(end).await);
        }
        // Ends well; the next round finds what it left.
        _ => assert_eq!(text(&exit(bench.start(module, b"e")).await), "", "round {round}"),
    }
}

#[test]
fn a_planted_leak_is_found_wherever_it_is() {
    let bench = Bench::new();
    for (number, fill) in (1..).zip(FILLS) {
        let module = block_on(bench.load(&tenant_with(fill, "one")));
        // A round that is to end well, and one that is to trap.
        for round in [0, 1] {
            let said = found(|| block_on(one(&bench, &module, round)));
            assert!(said.contains(&format!("exit-{number}")), "{fill}: {said}");
        }
    }
    stem_services::count("plants", 3);
}
