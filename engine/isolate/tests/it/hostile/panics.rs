//! A fault of ours in the worst place: what a host function waits for, or the worker behind it, panics while it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::outcome::{FailureKind, Outcome, StopHow, StopNotice, StopReason};
use stem_core::task::Progress;
use stem_isolate::{AttemptHost, Exit, InterruptHandle, LogLevel, Module, Refusal, RunningIsolate};
use tokio::sync::Notify;

use crate::bench::{
    Bench, SLOTS, assert_preempted, computing, config, exit, kind_and_code, limits, spec, stopped,
    text, within,
};
use crate::commands::command_02;
use crate::guests::{good, raw, task};
use crate::stopping::assert_all_slots_are_free;

/// What a test sees of a [`Fragile`] worker.
#[derive(Debug, Default)]
struct Seen {
    called: Notify,
    panicked: AtomicU64,
    /// Calls are answered; else they wait for ever.
    answers: AtomicBool,
    /// The worker itself panics when it goes.
    ends_badly: AtomicBool,
}

/// A worker whose calls panic when what they wait with is dropped.
#[derive(Debug)]
struct Fragile(Arc<Seen>);

struct Breaks(Arc<Seen>);

impl Drop for Breaks {
    fn drop(&mut self) {
        self.0.panicked.fetch_add(1, Ordering::SeqCst);
        panic!("what a host function held was told to panic");
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        if self.0.ends_badly.load(Ordering::SeqCst) {
            self.0.panicked.fetch_add(1, Ordering::SeqCst);
            panic!("the worker was told to panic when it goes");
        }
    }
}

impl Fragile {
    async fn answer<T>(&self, answer: T) -> Result<T, Refusal> {
        let _breaks = Breaks(Arc::clone(&self.0));
        self.0.called.notify_one();
        if !self.0.answers.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(answer)
    }
}

#[async_trait]
impl AttemptHost for Fragile {
    fn progress(&self, _: Progress) {}

    fn log(&self, _: LogLevel, _: &str, _: &[(String, String)]) {}

    fn log_enabled(&self, _: LogLevel) -> bool {
        false
    }

    async fn extend_lease(&self, by: Duration) -> Result<Duration, Refusal> {
        self.answer(by).await
    }

    async fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, Refusal> {
        self.answer(None).await
    }

    async fn save_checkpoint(&self, _: Vec<u8>) -> Result<(), Refusal> {
        self.answer(()).await
    }
}

impl Seen {
    fn start(self: &Arc<Self>, bench: &Bench, module: &Arc<Module>) -> RunningIsolate {
        let host = Arc::new(Fragile(Arc::clone(self)));
        bench.runtime.start(module, spec(b"abc", limits()), host)
    }

    /// Starts, and waits until the guest is in the call.
    async fn called(self: &Arc<Self>, bench: &Bench, module: &Arc<Module>) -> RunningIsolate {
        let isolate = self.start(bench, module);
        within(self.called.notified()).await;
        isolate
    }

    /// What stopped guests leave behind is taken down after their end is told.
    async fn until_panicked(&self, times: u64) {
        within(async {
            while self.panicked.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
                std::thread::yield_now();
            }
        })
        .await;
    }
}

/// One call that waits for the worker, in each way to make one; the deepest with guest frames below it.
async fn callers(bench: &Bench) -> Vec<Arc<Module>> {
    let texts = [
        task(
            "(call $save (i32.const 0) (i32.const 4) (i32.const 256)) (call $answer (i32.const 1))",
        ),
        task("(call $load (i32.const 256)) (call $answer (i32.const 1))"),
        raw("", "", "(call $checkpoint_save (i32.const 0) (i32.const 4))"),
        raw(
            "(func $down (param $left i32) (result i64)
               (if (result i64) (local.get $left)
                 (then (call $down (i32.sub (local.get $left) (i32.const 1))))
                 (else (call $extend_lease (i64.const 1000)))))",
            "",
            "(i32.wrap_i64 (call $down (i32.const 100)))",
        ),
    ];
    let mut modules = Vec::new();
    for text in &texts {
        modules.push(bench.load(text).await);
    }
    modules
}

/// Neighbours that compute and wait meanwhile, and end well when they are told to.
async fn neighbours(bench: &Bench) -> Vec<(InterruptHandle, RunningIsolate)> {
    let computes = task(
        "(loop $again (call $heartbeat (i32.const 256)) (br_if $again (i32.eqz (i32.load8_u (i32.const 256)))))
         (call $answer (i32.const 0))",
    );
    let waits = task("(call $sleep (i64.const -1) (i32.const 256)) (call $answer (i32.const 0))");
    let mut neighbours = Vec::new();
    for guest in [computes, waits] {
        let isolate = bench.start(&bench.load(&guest).await, b"");
        computing(&isolate.interrupt, Duration::from_nanos(1)).await;
        neighbours.push((isolate.interrupt.clone(), isolate));
    }
    neighbours
}

async fn end_well(neighbours: Vec<(InterruptHandle, RunningIsolate)>) {
    for (interrupt, isolate) in neighbours {
        let code = stem_host_abi::stop::WORKER_DRAIN;
        interrupt.notify(StopNotice { code, message: String::new(), force_after: None });
        assert_eq!(text(&exit(isolate).await), "");
    }
}

/// Whether a stop by force took the call from where it waited. A guest whose slice was over just before may still be on
/// its way into the call, which then obeys by itself, and panics there.
fn is_preempted(ended: &Exit) -> bool {
    let is_stopped = matches!(ended.outcome, Outcome::Stopped { .. });
    if is_stopped {
        assert_preempted(ended);
    } else {
        assert_eq!(kind_and_code(ended), (FailureKind::Trap, "host-panic"));
    }
    is_stopped
}

#[tokio::test]
async fn a_panic_while_a_terminated_guests_call_goes_ends_nothing_but_that_attempt() {
    let bench = Bench::of(&config()).await;
    let (seen, neighbours) = (Arc::new(Seen::default()), neighbours(&bench).await);
    let (callers, mut panicked, mut preempted) = (callers(&bench).await, 0, 0);
    // More in all than the pool has slots: one that were lost each time would be missed.
    for _ in 0..SLOTS / 2 {
        for module in &callers {
            let (interrupt, end) = seen.called(&bench, module).await.into_parts();
            computing(&interrupt, Duration::from_nanos(1)).await;
            interrupt.stop(StopReason::Revoked, true);
            preempted += u64::from(is_preempted(&within(end).await));
            panicked += 1;
            seen.until_panicked(panicked).await;
        }
        bench.assert_good_task_runs().await;
    }
    end_well(neighbours).await;
    assert_all_slots_are_free(&bench).await;
    assert_eq!(seen.panicked.load(Ordering::SeqCst), panicked, "each panicked once");
    println!("{preempted} of {panicked} were taken from where they waited");
    assert!(preempted > 0, "none was taken from where it waited");
}

#[tokio::test]
async fn a_panic_while_a_call_ends_or_gives_way_to_a_stop_fails_the_attempt() {
    let bench = Bench::of(&config()).await;
    let (seen, neighbours) = (Arc::new(Seen::default()), neighbours(&bench).await);
    let callers = callers(&bench).await;
    for _ in 0..SLOTS / 2 {
        for module in &callers {
            seen.answers.store(true, Ordering::SeqCst);
            let ended = exit(seen.called(&bench, module).await).await;
            assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "host-panic"));
            // Without force the call is dropped by the guest's own thread.
            seen.answers.store(false, Ordering::SeqCst);
            let (interrupt, end) = seen.called(&bench, module).await.into_parts();
            interrupt.stop(StopReason::Revoked, false);
            assert_eq!(kind_and_code(&within(end).await), (FailureKind::Trap, "host-panic"));
        }
        bench.assert_good_task_runs().await;
    }
    end_well(neighbours).await;
    assert_all_slots_are_free(&bench).await;
}

#[tokio::test]
async fn a_panic_of_what_goes_after_the_guest_ends_nothing_but_that_attempt() {
    let bench = Bench::of(&config()).await;
    let seen = Arc::new(Seen::default());
    seen.ends_badly.store(true, Ordering::SeqCst);
    let module = bench.load(&good()).await;
    let prints = bench.load(&command_02("0.2.12", "", "(i32.const 0)")).await;
    let sleeps = task("(call $sleep (i64.const -1) (i32.const 256)) (call $answer (i32.const 0))");
    let sleeps = bench.load(&sleeps).await;
    for round in 0..u64::from(SLOTS) {
        // It goes in the last step of an attempt that ends by itself.
        for module in [&module, &prints] {
            let ended = exit(seen.start(&bench, module)).await;
            assert_eq!(kind_and_code(&ended), (FailureKind::Trap, "host-panic"));
        }
        let (interrupt, end) = seen.start(&bench, &sleeps).into_parts();
        computing(&interrupt, Duration::from_nanos(1)).await;
        interrupt.stop(StopReason::Revoked, true);
        is_preempted(&within(end).await);
        seen.until_panicked(3 * (round + 1)).await;
    }
    bench.assert_good_task_runs().await;
    assert_all_slots_are_free(&bench).await;
}

#[tokio::test]
async fn a_sandbox_that_goes_while_calls_wait_that_will_panic_ends_each_attempt() {
    let seen = Arc::new(Seen::default());
    let mut ends = Vec::new();
    {
        let bench = Bench::of(&config()).await;
        for module in callers(&bench).await {
            let (_, end) = seen.called(&bench, &module).await.into_parts();
            ends.push(end);
        }
    }
    let calls = ends.len() as u64;
    for end in ends {
        let ended = within(end).await;
        assert_eq!(stopped(&ended), (StopReason::Shutdown, StopHow::Preempted));
    }
    seen.until_panicked(calls).await;
    // And the process runs another.
    Bench::of(&config()).await.assert_good_task_runs().await;
}
