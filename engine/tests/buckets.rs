//! Guests that share values, through a worker on the memory backend. On servers: `cli/tests/fleet.rs`.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

use std::sync::Arc;

use stem_core::backend::buckets::When;
use stem_core::control::Drain;
use stem_core::task::TaskState;
use stem_engine::{Backends, EnqueueOptions};
use stem_isolate::{Compiler, IsolateRuntime, RuntimeConfig};

mod support;

use support::*;

/// Adds 1 to the byte that is kept as `n` in the bucket `counts`, and returns it.
const COUNTS: &str = r#"(module
  (import "stem0" "output_write" (func $write (param i32 i32) (result i32)))
  (import "stem0" "kv_get" (func $get (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "stem0" "kv_put" (func $put (param i32 i32 i32 i32 i32 i32 i32 i64 i64) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "counts")
  (data (i32.const 16) "n")
  (func (export "stem_run") (result i32)
    (local $got i32) (local $put i64)
    (loop $again
      (i32.store8 (i32.const 64) (i32.const 0))
      (local.set $got (call $get (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 72)))
      (i32.store8 (i32.const 64) (i32.add (i32.load8_u (i32.const 64)) (i32.const 1)))
      (local.set $put (call $put (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 1) (i32.const 64) (i32.const 1)
        (select (i32.const 1) (i32.const 2) (i32.eq (local.get $got) (i32.const -4))) (i64.load (i32.const 72)) (i64.const 0)))
      (br_if $again (i64.eq (local.get $put) (i64.const -5)))
      (if (i64.lt_s (local.get $put) (i64.const 1)) (then unreachable)))
    (call $write (i32.const 64) (i32.const 1))))"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_count_together_and_lose_nothing() {
    const TASKS: u8 = 40;
    for backends in both_ways() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("job.wasm"), wat::parse_str(COUNTS).unwrap()).unwrap();
        let manifest = "[handlers.job]\nsource = \"file:job.wasm\"\n[handlers.job.grants]\nkv = [\"counts:rw\"]\n";
        std::fs::write(dir.path().join("stem.toml"), manifest).unwrap();
        let runtime = IsolateRuntime::new(&RuntimeConfig {
            isolates: 16,
            memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
            threads: 2,
            slice: RuntimeConfig::SLICE,
            compiler: Compiler::InProcess,
            cache_dir: None,
            scratch_dir: None,
        })
        .unwrap();
        let (policy, cap) = (config().policy.current(), config().limits_cap);
        let loaded = stem_engine::modules::load_dir(&runtime, dir.path(), &policy, &cap);
        let [handler] = <[_; 1]>::try_from(loaded.await.unwrap()).unwrap();
        let bench = start(Backends::clone(&backends), config(), |builder| {
            builder.isolates(Arc::clone(&runtime)).module(handler)
        })
        .await;
        let mut tasks = Vec::new();
        for _ in 0..TASKS {
            tasks.push(bench.enqueue("job", EnqueueOptions::default()).await);
        }
        let mut counts = Vec::new();
        for task in &tasks {
            let record = bench.ended(task).await;
            assert_eq!(record.state, TaskState::Succeeded, "{record:?}");
            counts.push(record.result.unwrap().bytes[0]);
        }
        counts.sort_unstable();
        assert_eq!(counts, (1..=TASKS).collect::<Vec<_>>());
        let left = backends.buckets.read("counts", "n").await.unwrap().unwrap();
        assert_eq!(left.value, [TASKS]);
        backends.buckets.write("counts", "n", &[100], When::Always, None).await.unwrap();
        let last = bench.enqueue("job", EnqueueOptions::default()).await;
        assert_eq!(bench.ended(&last).await.result.unwrap().bytes, [101]);
        bench.stop(Drain::Warm).await;
    }
}
