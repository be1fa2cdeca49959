//! Stopping: from the order until no guest code runs, for guests that compute and guests that wait, alone and among many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stem_core::outcome::{Outcome, StopReason};
use stem_isolate::{AttemptHost, IsolateRuntime, Module, RunningIsolate};

use crate::attempts::{Nobody, runtime, spec};
use crate::{Row, row, spread};

/// Stops in one figure.
const ROUNDS: usize = 300;

/// A core module is all that is needed: what is measured is the host.
const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (loop $l (br $l)) (i32.const 0)))"#;
const SLEEPS: &str = r#"(module
    (import "stem0" "sleep" (func $sleep (param i64) (result i32)))
    (memory (export "memory") 1)
    (func (export "stem_run") (result i32) (drop (call $sleep (i64.const 3600000))) (i32.const 0)))"#;

pub(crate) async fn run() -> anyhow::Result<Vec<Row>> {
    let isolates = runtime(256, 2)?;
    let loops = isolates.load(&wat::parse_str(LOOPS)?).await?;
    let sleeps = isolates.load(&wat::parse_str(SLEEPS)?).await?;
    let mut rows = Vec::new();
    for (what, module, neighbours) in [
        ("a computing guest, alone", &loops, 0),
        ("a computing guest among 100", &loops, 100),
        ("a waiting guest, alone", &sleeps, 0),
        ("a waiting guest among 100 computing", &sleeps, 100),
    ] {
        let others: Vec<_> = (0..neighbours).map(|_| start(&isolates, &loops)).collect();
        let mut exits = Vec::new();
        let mut wakes = Vec::new();
        for _ in 0..ROUNDS {
            let victim = start(&isolates, module);
            tokio::time::sleep(Duration::from_millis(3)).await;
            wakes.push(wake_another_thread());
            let at = Instant::now();
            victim.interrupt.stop(StopReason::Revoked, true);
            let exit = victim.exit().await;
            exits.push(at.elapsed().as_secs_f64() * 1e3);
            anyhow::ensure!(matches!(exit.outcome, Outcome::Stopped { .. }), "{:?}", exit.outcome);
        }
        for other in others {
            other.interrupt.stop(StopReason::Revoked, true);
            other.exit().await;
        }
        let (p50, p99, max) = spread(&mut exits);
        rows.push(row(format!("stop {what}: p50"), p50, "ms"));
        let bound = if neighbours == 0 { 2.0 } else { 5.0 };
        rows.push(row(format!("stop {what}: p99"), p99, "ms").at_most(bound));
        rows.push(row(format!("stop {what}: max"), max, "ms"));
        let (_, p99, _) = spread(&mut wakes);
        let control = format!("  control beside {what}: one thread wakes another: p99");
        rows.push(row(control, p99, "ms"));
    }
    Ok(rows)
}

fn start(isolates: &Arc<IsolateRuntime>, module: &Arc<Module>) -> RunningIsolate {
    let host: Arc<dyn AttemptHost> = Arc::new(Nobody);
    isolates.start(module, spec("{}"), host)
}

/// The time one OS thread needs to wake another: nothing can be stopped faster than that.
fn wake_another_thread() -> f64 {
    let (ask, asked) = std::sync::mpsc::channel::<Instant>();
    let (answer, answered) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        if let Ok(at) = asked.recv() {
            let _ = answer.send(at.elapsed());
        }
    });
    std::thread::sleep(Duration::from_millis(1));
    let _ = ask.send(Instant::now());
    let took = answered.recv().unwrap_or_default();
    let _ = thread.join();
    took.as_secs_f64() * 1e3
}
