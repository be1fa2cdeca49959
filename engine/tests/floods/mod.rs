//! Guests that call the worker without pause, beside others that share their worker.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use stem_conformance::{Faults, Faulty};
use stem_core::control::{Drain, Order};
use stem_core::id::TaskId;
use stem_core::outcome::{FailureKind, StopHow};
use stem_core::task::TaskState;
use stem_engine::{Backends, EnqueueOptions, WorkerBuilder, WorkerConfig};
use stem_isolate::{Compiler, IsolateRuntime, RuntimeConfig};

use super::support::*;
use super::until;

const GOOD: usize = 200;
/// Five flushes of progress a second.
const FLUSH: Duration = Duration::from_millis(200);

/// Beats, reports, logs and asks, as fast as it can.
const ASKS: &str = r#"(module
  (import "stem0" "heartbeat" (func $heartbeat (result i32)))
  (import "stem0" "progress" (func $progress (param i32 i32 i32) (result i32)))
  (import "stem0" "log" (func $log (param i32 i32 i32)))
  (import "stem0" "info" (func $info (param i32 i32) (result i32)))
  (import "stem0" "time_left" (func $time_left (param i32) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 512) "again and again")
  (func (export "stem_run") (result i32)
    (loop $again
      (drop (call $heartbeat))
      (drop (call $progress (i32.const 500) (i32.const 512) (i32.const 15)))
      (call $log (i32.const 2) (i32.const 512) (i32.const 15))
      (drop (call $info (i32.const 4096) (i32.const 4096)))
      (drop (call $time_left (i32.const 1)))
      (br $again))
    (i32.const 0)))"#;

/// The same with WASI: clocks, random bytes, polls of a time that has passed, yields, and lines on standard error.
const WASI: &str = r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 512) "again and again\n")
  (func (export "stem_run") (result i32)
    (i32.store (i32.const 0) (i32.const 512)) (i32.store (i32.const 4) (i32.const 16))
    (loop $again
      (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 64)))
      (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 64)))
      (drop (call $random (i32.const 65536) (i32.const 65536)))
      (drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 72)))
      (drop (call $yield))
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $again))
    (i32.const 0)))"#;

/// Calls once and ends.
const GOOD_ONE: &str = r#"(module
  (import "stem0" "heartbeat" (func $heartbeat (result i32)))
  (memory (export "memory") 1)
  (func (export "stem_run") (result i32) (drop (call $heartbeat)) (i32.const 0)))"#;

/// The two floods may do as much as anybody; a third has a rate that it is over at once.
const MANIFEST: &str = r#"
[handlers.asks]
source = "file:asks.wasm"
[handlers.wasi]
source = "file:wasi.wasm"
[handlers.good]
source = "file:good.wasm"
[handlers.over]
source = "file:asks.wasm"
[handlers.over.limits]
host-calls = 1000
"#;

fn write(dir: &Path) {
    for (name, text) in [("asks.wasm", ASKS), ("wasi.wasm", WASI), ("good.wasm", GOOD_ONE)] {
        std::fs::write(dir.join(name), wat::parse_str(text).unwrap()).unwrap();
    }
    std::fs::write(dir.join("stem.toml"), MANIFEST).unwrap();
}

/// The CPU time of these attempts in milliseconds; 0 for one that has none yet.
async fn cpu(backends: &Backends, tasks: &[TaskId]) -> Vec<f64> {
    let order = Order::Inspect { include_revoked: false };
    let id = format!("inspect-{}", uuid::Uuid::now_v7());
    let inspected = command(backends, &id, order).await;
    let rows = inspected["active"].as_array().unwrap();
    let of = |task: &TaskId| rows.iter().find(|row| row["id"] == task.as_str());
    let cpu = |row: &Value| row["cpuMs"].as_f64().unwrap_or(0.0);
    tasks.iter().map(|task| of(task).map_or(0.0, cpu)).collect()
}

async fn ping(backends: &Backends) -> Duration {
    let since = Instant::now();
    command(backends, &format!("ping-{}", uuid::Uuid::now_v7()), Order::Ping {}).await;
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_calls_in_half_of_the_places_keep_neither_tasks_nor_operators_waiting() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    // As many threads for guests as there are floods: none is left over for the others.
    let runtime = IsolateRuntime::new(&RuntimeConfig {
        isolates: 4,
        memory_cap_bytes: 1 << 20,
        threads: 2,
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::InProcess,
        cache_dir: None,
        scratch_dir: None,
    })
    .unwrap();
    let config = WorkerConfig { concurrency: 4, lease: Duration::from_secs(30), ..config() };
    let policy = config.policy.current();
    let modules =
        stem_engine::modules::load_dir(&runtime, dir.path(), &policy, &config.limits_cap).await;
    let faulty = Faulty::new(Faults::default());
    let inner = Backends::all_in_one(memory());
    let backends = Backends { results: faulty.results(Arc::clone(&inner.results)), ..inner };
    let bench = start(backends.clone(), config, |builder| {
        modules.unwrap().into_iter().fold(builder.isolates(runtime), WorkerBuilder::module)
    })
    .await;

    let mut floods = Vec::new();
    for name in ["asks", "wasi"] {
        floods.push(bench.enqueue(name, EnqueueOptions::default()).await);
    }
    let both = async || cpu(&backends, &floods).await.iter().all(|cpu| *cpu > 0.0);
    until(true, both).await;
    let (began, before) = (Instant::now(), cpu(&backends, &floods).await);
    let flushed = faulty.calls("results.record_progress");
    let mut good = Vec::new();
    for _ in 0..GOOD {
        good.push(bench.enqueue("good", EnqueueOptions::default()).await);
    }
    let over = bench.enqueue("over", EnqueueOptions::default()).await;
    let mut pings = vec![ping(&backends).await];
    let all_ended = async {
        for task in &good {
            let record = bench.ended(task).await;
            let counts = (record.attempt, record.delivery_count);
            assert_eq!((record.state, counts), (TaskState::Succeeded, (1, 1)), "{record:?}");
        }
    };
    let asking = async {
        loop {
            pings.push(ping(&backends).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = all_ended => {}
        () = asking => {}
    }
    let took = began.elapsed();
    let failure = bench.ended(&over).await.failure.unwrap();
    assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::CpuLimit, "host-call-limit"));
    pings.push(ping(&backends).await);

    // The floods went on through all of it, and came to the store in no more than its rhythm.
    let after = cpu(&backends, &floods).await;
    assert!(
        before.iter().zip(&after).all(|(before, after)| after > before),
        "{before:?} {after:?}"
    );
    let flushed = u128::from(faulty.calls("results.record_progress") - flushed);
    let rhythm = began.elapsed().as_millis() / FLUSH.as_millis() + 2;
    assert!(flushed <= rhythm, "{flushed} writes of progress where {rhythm} are due");
    pings.sort_unstable();
    println!(
        "{GOOD} tasks took {took:?} beside floods that used {after:?} ms; of {} pings the median took {:?} and the slowest {:?}; {flushed} writes of progress",
        pings.len(),
        pings[pings.len() / 2],
        pings.last().unwrap(),
    );
    for task in &floods {
        let record = bench.client.show(task).await.unwrap().unwrap();
        assert_eq!((record.state, record.attempt), (TaskState::Running, 1), "{record:?}");
        bench.revoke(task, terminate()).await;
        let record = bench.ended(task).await;
        assert_eq!(record.state, TaskState::Revoked, "{record:?}");
        // By force where it was, or by the next of its calls.
        assert_ne!(record.revocation.unwrap().how, StopHow::BeforeStart);
    }
    let last = bench.enqueue("good", EnqueueOptions::default()).await;
    assert_eq!(bench.ended(&last).await.state, TaskState::Succeeded);
    bench.stop(Drain::Warm).await;
}
