//! Guests that take more memory or table entries than they may.

use stem_core::outcome::FailureKind;

use super::stopped_while_computing;
use crate::bench::{Bench, kind_and_code, resident, text};
use crate::guests::{command, raw, task, task_with};

// 4, 5

#[tokio::test]
async fn memory_is_bounded_over_all_memories_however_it_grows() {
    let mut bench = Bench::new();
    bench.limits.memory_bytes = 4 << 20;
    let before = resident();
    for run in [
        // To the maximum at once.
        "(if (i32.eq (i32.const -1) (memory.grow (i32.const 65000))) (then unreachable)) (unreachable)",
        // Page by page, writing to each.
        "(loop $again (if (i32.eq (i32.const -1) (memory.grow (i32.const 1))) (then unreachable))
           (memory.fill (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 65536)) (i32.const 1) (i32.const 65536)) (br $again))
         (unreachable)",
    ] {
        let ended = bench.run(&task(run), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::MemoryLimit, "memory-limit"));
        assert!(ended.usage.peak_memory_bytes <= 4 << 20, "{:?}", ended.usage);
    }
    // Several memories, each within the limit and together over it.
    let many = raw("(memory $a 30) (memory $b 30) (memory $c 30)", "", "(i32.const 0)");
    assert_eq!(
        kind_and_code(&bench.run(&many, b"").await),
        (FailureKind::MemoryLimit, "memory-limit")
    );
    let many = raw(
        "(memory $b 1)",
        "",
        "(drop (memory.grow 0 (i32.const 40)))
         (if (i32.eq (i32.const -1) (memory.grow $b (i32.const 40))) (then unreachable)) (i32.const 0)",
    );
    assert_eq!(
        kind_and_code(&bench.run(&many, b"").await),
        (FailureKind::MemoryLimit, "memory-limit")
    );
    // A refusal is a value: a guest may live with it.
    let lives =
        task("(drop (memory.grow (i32.const 65000))) (call $ok (i32.const 16) (i32.const 4))");
    assert_eq!(text(&bench.run(&lives, b"").await), "appl");
    // Runtimes that find no memory exit: that is the limit too, unless the guest says by itself what it was.
    let finds_none = "(drop (memory.grow (i32.const 65000)))";
    for silent in [
        command("", "", &format!("{finds_none} (call $proc_exit (i32.const 2))")),
        raw("", "", &format!("{finds_none} (i32.const 1)")),
    ] {
        let ended = bench.run(&silent, b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::MemoryLimit, "memory-limit"));
    }
    let told = "(drop (call $fail (i32.const 1) (i64.const 0) (i32.const 512) (i32.const 25)))";
    let told = raw(
        "",
        r#"{\"code\":\"a\",\"message\":\"\"}"#,
        &format!("{finds_none} {told} (i32.const 1)"),
    );
    assert_eq!(kind_and_code(&bench.run(&told, b"").await), (FailureKind::Error, "a"));
    // More memories than one isolate may have.
    let five = raw("(memory 1) (memory 1) (memory 1) (memory 1)", "", "(i32.const 0)");
    assert!(bench.try_load(&five).await.unwrap_err().to_string().contains("memories"));
    // More at the start than any isolate may have.
    let declared =
        raw("", "", "(i32.const 0)").replace("(export \"memory\") 2)", "(export \"memory\") 2000)");
    assert!(bench.try_load(&declared).await.unwrap_err().to_string().contains("byte size"));
    let grown = resident().saturating_sub(before);
    assert!(grown < 300 << 20, "{grown} bytes");
}

#[tokio::test]
async fn growing_for_ever_is_bounded_in_memory_and_ended_from_outside() {
    stopped_while_computing(&task(
        "(loop $again (drop (memory.grow (i32.const 1))) (br $again)) (unreachable)",
    ))
    .await;
    // The sandbox's own bound holds whatever the attempt was given.
    let mut bench = Bench::new();
    bench.limits.memory_bytes = u64::MAX;
    let ended = bench
        .run(&task("(loop $again (br_if $again (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) (unreachable)"), b"")
        .await;
    assert_eq!(kind_and_code(&ended), (FailureKind::MemoryLimit, "memory-limit"));
    assert!(ended.usage.peak_memory_bytes <= 64 << 20, "{:?}", ended.usage);
}

#[tokio::test]
async fn tables_are_bounded() {
    let bench = Bench::new();
    let grows = task_with(
        "(table $t 1 funcref)",
        "",
        "(if (i32.eq (i32.const -1) (table.grow $t (ref.null func) (i32.const 10000000))) (then unreachable)) (unreachable)",
    );
    assert_eq!(
        kind_and_code(&bench.run(&grows, b"").await),
        (FailureKind::MemoryLimit, "table-limit")
    );
    let declared = raw("(table 1001 funcref)", "", "(i32.const 0)");
    assert_eq!(
        kind_and_code(&bench.run(&declared, b"").await),
        (FailureKind::MemoryLimit, "table-limit")
    );
    let huge = raw("(table 10000000 funcref)", "", "(i32.const 0)");
    assert!(bench.try_load(&huge).await.unwrap_err().to_string().contains("table"));
}

// 7

#[tokio::test]
async fn data_segments_that_unfold_are_bounded_by_the_memory_they_go_to() {
    let bench = Bench::new();
    // 50,000 segments of 1 KiB over each other: 50 MB of writing from one file.
    let segment = format!("(data (i32.const 1024) \"{}\")", "x".repeat(100));
    let over = raw(&segment.repeat(50_000 - 1), "", "(i32.const 0)");
    assert_eq!(text(&bench.run(&over, b"").await), "");
    let more = raw(&"(data (i32.const 0) \"\")".repeat(50_000), "", "(i32.const 0)");
    assert!(bench.try_load(&more).await.unwrap_err().to_string().contains("segments"));
    // Beyond the memory.
    let outside = raw("(data (i32.const 131072) \"x\")", "", "(i32.const 0)");
    assert_eq!(
        kind_and_code(&bench.run(&outside, b"").await),
        (FailureKind::Trap, "memory-out-of-bounds")
    );
    // Far apart, in a memory that is too large.
    let sparse = raw("(data (i32.const 1000000000) \"x\")", "", "(i32.const 0)")
        .replace("(export \"memory\") 2)", "(export \"memory\") 16000)");
    assert!(bench.try_load(&sparse).await.is_err());
    bench.assert_good_task_runs().await;
}
