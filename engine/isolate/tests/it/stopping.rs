//! Stopping: at every moment, among many neighbours, gently and by force; and exactly one end each time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stem_core::outcome::{Outcome, StopHow, StopNotice, StopReason};
use stem_isolate::{Exit, InterruptHandle, IsolateRuntime, RuntimeConfig};

use crate::bench::{
    Bench, SLOTS, Worker, assert_preempted, block_on, computing, config, exit, limits, spec,
    stopped, text, within,
};
use crate::commands::command_02;
use crate::guests::{SPIN, good, raw, task, task_with};

fn notice(code: &'static str) -> StopNotice {
    StopNotice { code, message: String::new(), force_after: None }
}

/// Waits for a notice without pause, then gives up in good order.
fn beats() -> String {
    task(
        "(call $here)
         (loop $again (call $heartbeat (i32.const 256)) (br_if $again (i32.eqz (i32.load8_u (i32.const 256)))))
         (call $err (i32.const 2) (i32.const 16) (i32.const 4))",
    )
}

/// Says that it has begun, then waits for a notice.
fn waits() -> String {
    task("(call $here) (call $sleep (i64.const -1) (i32.const 256)) (call $answer (i32.const 1))")
}

/// Every slot of the pool is free: so many isolates exist at once. Only for a sandbox of the test's own.
pub(crate) async fn assert_all_slots_are_free(bench: &Bench) {
    let worker: Arc<Worker> = Arc::default();
    let module = bench.load(&waits()).await;
    let isolates: Vec<_> = (0..SLOTS)
        .map(|_| bench.runtime.start(&module, spec(b"", limits()), worker.clone()).into_parts())
        .collect();
    within(async {
        while worker.updates.load(Ordering::SeqCst) < u64::from(SLOTS) {
            worker.called.notified().await;
        }
    })
    .await;
    for (interrupt, end) in isolates {
        interrupt.notify(notice("worker-drain"));
        assert_eq!(text(&within(end).await).as_bytes(), [1]);
    }
}

#[tokio::test]
async fn before_it_has_begun() {
    let bench = Bench::of(&RuntimeConfig { threads: 1, ..config() }).await;
    // One guest holds the only thread inside a host function, until it is let go.
    let (go, gate) = std::sync::mpsc::channel();
    *bench.worker.gate.lock().unwrap() = Some(gate);
    let holder = bench.load(&task("(call $here) (call $answer (i32.const 0))")).await;
    let held = bench.start(&holder, b"");
    within(bench.worker.called.notified()).await;
    let spin = bench.load(&task(SPIN)).await;
    for force in [true, false] {
        let (interrupt, end) = bench.start(&spin, b"").into_parts();
        interrupt.stop(StopReason::Shutdown, force);
        if force {
            // While the thread is still held: nobody has to poll it.
            assert_eq!(stopped(&within(end).await), (StopReason::Shutdown, StopHow::BeforeStart));
            interrupt.stop(StopReason::Revoked, true);
        } else {
            go.send(()).unwrap();
            assert_eq!(stopped(&within(end).await), (StopReason::Shutdown, StopHow::BeforeStart));
        }
    }
    assert_eq!(text(&exit(held).await), "");
    assert_eq!(bench.worker.updates.load(Ordering::SeqCst), 1, "the others never ran");
    assert_all_slots_are_free(&bench).await;
}

#[tokio::test]
async fn at_each_moment_once_and_the_slot_is_free_again() {
    let bench = Bench::of(&config()).await;
    let start = "(func $begin (call $here) (loop $again (br $again))) (start $begin)";
    for guest in [task_with(start, "", "(unreachable)"), task(SPIN)] {
        for _ in 0..5 {
            let module = bench.load(&guest).await;
            assert_preempted(&bench.run_and_stop(&module, crate::bench::When::Called).await);
        }
    }
    // In every host call that waits; the worker never answers.
    let hangs = Arc::new(Worker::default());
    hangs.hangs.store(true, Ordering::SeqCst);
    let hanging = Bench { worker: hangs, ..bench.clone() };
    for call in [
        "(call $extend-lease (i64.const 1000) (i32.const 256))",
        "(call $load (i32.const 256))",
        "(call $save (i32.const 0) (i32.const 10) (i32.const 256))",
    ] {
        for _ in 0..5 {
            let module = hanging.load(&task(&format!("{call} (call $answer (i32.const 1))"))).await;
            let ended = hanging.run_and_stop(&module, crate::bench::When::Called).await;
            assert_eq!(stopped(&ended).0, StopReason::Revoked, "{call}");
        }
    }
    for guest in [
        waits(),
        raw(
            "",
            "",
            "(drop (call $progress (i32.const 1) (i32.const 0) (i32.const 0))) (call $sleep (i64.const 999999999))",
        ),
    ] {
        for _ in 0..5 {
            let module = bench.load(&guest).await;
            let ended = bench.run_and_stop(&module, crate::bench::When::Called).await;
            assert_eq!(stopped(&ended).0, StopReason::Revoked);
        }
    }
    // In a call of WASI.
    let module = bench
        .load(&command_02("0.2.12", "", "(call $block (call $after (i64.const -1))) (i32.const 0)"))
        .await;
    for _ in 0..5 {
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        computing(&interrupt, Duration::from_nanos(1)).await;
        interrupt.stop(StopReason::Revoked, true);
        assert_preempted(&within(end).await);
    }
    // After it has returned.
    let module = bench.load(&good()).await;
    for _ in 0..20 {
        let (interrupt, end) = bench.start(&module, b"abc").into_parts();
        assert_eq!(text(&within(end).await), "ABC");
        interrupt.stop(StopReason::LeaseLost, true);
        interrupt.stop(StopReason::Revoked, false);
        interrupt.notify(notice("revoked"));
    }
    assert_all_slots_are_free(&bench).await;
}

#[tokio::test]
async fn a_gentle_stop_takes_effect_at_a_checkpoint_and_nowhere_else() {
    let bench = Bench::new();
    let spin = bench.load(&task(SPIN)).await;
    let (interrupt, end) = bench.start(&spin, b"").into_parts();
    within(bench.worker.called.notified()).await;
    interrupt.stop(StopReason::Shutdown, false);
    let mut end = Box::pin(end);
    // It goes on for as long as one cares to watch.
    let before = interrupt.usage().cpu_ms;
    within(async {
        while interrupt.usage().cpu_ms < before + 50.0 {
            assert!(futures_poll(&mut end).await.is_none(), "it ended");
            tokio::task::yield_now().await;
        }
    })
    .await;
    interrupt.stop(StopReason::TimeLimit, true);
    assert_eq!(
        stopped(&within(end).await),
        (StopReason::Shutdown, StopHow::Preempted),
        "the weightier reason stands"
    );

    for guest in [beats(), waits()] {
        let module = bench.load(&guest).await;
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        within(bench.worker.called.notified()).await;
        interrupt.stop(StopReason::Revoked, false);
        assert_eq!(stopped(&within(end).await), (StopReason::Revoked, StopHow::Checkpoint));
    }
    bench.assert_good_task_runs().await;
}

/// Looks at a future once.
async fn futures_poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn a_weightier_reason_replaces_a_lighter_one_and_force_stays() {
    let bench = Bench::new();
    let spin = bench.load(&task(SPIN)).await;
    let (interrupt, end) = bench.start(&spin, b"").into_parts();
    within(bench.worker.called.notified()).await;
    interrupt.stop(StopReason::TimeLimit, false);
    interrupt.stop(StopReason::LeaseLost, false);
    interrupt.stop(StopReason::Revoked, true);
    assert_eq!(stopped(&within(end).await), (StopReason::LeaseLost, StopHow::Preempted));
    // A gentle order right behind one by force must not call that back, though its reason is weightier.
    for _ in 0..20 {
        let (interrupt, end) = bench.start(&spin, b"").into_parts();
        within(bench.worker.called.notified()).await;
        interrupt.stop(StopReason::TimeLimit, true);
        interrupt.stop(StopReason::Revoked, false);
        let (reason, how) = stopped(&within(end).await);
        assert!(matches!(reason, StopReason::TimeLimit | StopReason::Revoked));
        assert_eq!(how, StopHow::Preempted);
    }
    bench.assert_good_task_runs().await;
}

/// Percentiles of some times, as text.
fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    format!("p50 {:?}, p90 {:?}, p99 {:?}, max {:?}", at(50), at(90), at(99), at(100))
}

async fn time_to_stop(interrupt: &InterruptHandle, end: impl Future<Output = Exit>) -> Duration {
    let began = Instant::now();
    interrupt.stop(StopReason::Revoked, true);
    let ended = within(end).await;
    let took = began.elapsed();
    assert_eq!(stopped(&ended).0, StopReason::Revoked);
    assert!(took < Duration::from_secs(20), "{took:?}");
    took
}

#[test]
fn one_of_a_hundred_looping_guests_is_stopped_at_once_and_the_others_run_on() {
    block_on(async {
        let bench = Bench::of(&RuntimeConfig { isolates: 100, ..config() }).await;
        let (spin, beat) = (bench.load(&task(SPIN)).await, bench.load(&beats()).await);
        let mut spins: Vec<_> = (0..50).map(|_| bench.start(&spin, b"").into_parts()).collect();
        let beating: Vec<_> = (0..50).map(|_| bench.start(&beat, b"").into_parts()).collect();
        within(async {
            while bench.worker.updates.load(Ordering::SeqCst) < 100 {
                bench.worker.called.notified().await;
            }
        })
        .await;
        let before: Vec<_> =
            beating.iter().map(|(interrupt, _)| interrupt.usage().cpu_ms).collect();
        let mut times = vec![];
        for round in 0..150 {
            let (interrupt, end) = spins.swap_remove(round * 7 % spins.len());
            times.push(time_to_stop(&interrupt, end).await);
            spins.push(bench.start(&spin, b"").into_parts());
        }
        println!(
            "stop → exit, one of 100 looping guests on 2 threads: {}",
            percentiles(&mut times)
        );
        // Every neighbour moves on, and ends as it likes.
        within(async {
            for ((interrupt, _), before) in beating.iter().zip(before) {
                while interrupt.usage().cpu_ms <= before {
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
        for (interrupt, _) in &beating {
            interrupt.notify(notice("revoked"));
        }
        for (_, end) in beating {
            assert_eq!(stopped(&within(end).await), (StopReason::Revoked, StopHow::Checkpoint));
        }
        for (interrupt, _) in &spins {
            interrupt.stop(StopReason::Revoked, true);
        }
        for (_, end) in spins {
            assert_eq!(stopped(&within(end).await).0, StopReason::Revoked);
        }
        bench.assert_good_task_runs().await;
    });
}

#[test]
fn a_guest_on_a_core_and_one_that_waits_are_stopped_at_once() {
    block_on(async {
        let bench = Bench::of(&RuntimeConfig { isolates: 4, threads: 1, ..config() }).await;
        for (name, guest) in [("computing", task(SPIN)), ("waiting", waits())] {
            let module = bench.load(&guest).await;
            let mut times = vec![];
            for _ in 0..150 {
                let (interrupt, end) = bench.start(&module, b"").into_parts();
                within(bench.worker.called.notified()).await;
                if name == "waiting" {
                    // Its first poll is over: it really waits.
                    computing(&interrupt, Duration::from_nanos(1)).await;
                }
                times.push(time_to_stop(&interrupt, end).await);
            }
            println!("stop → exit, a {name} guest: {}", percentiles(&mut times));
        }
        bench.assert_good_task_runs().await;
    });
}

#[test]
fn a_thousand_random_interleavings_end_once_each() {
    block_on(async {
        let bench = Bench::of(&config()).await;
        // Beats some hundred times, then returns.
        let short = bench
            .load(&task(
                "(local $n i32)
                 (loop $again (call $heartbeat (i32.const 256)) (local.set $n (i32.add (local.get $n) (i32.const 1)))
                   (br_if $again (i32.lt_u (local.get $n) (i32.const 300))))
                 (call $answer (i32.const 0))",
            ))
            .await;
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let reasons = [
            StopReason::TimeLimit,
            StopReason::Shutdown,
            StopReason::Revoked,
            StopReason::LeaseLost,
        ];
        let (mut finished, mut ended_early) = (0, 0);
        for _ in 0..250 {
            // Four at a time, so that they meet in queues too.
            let four: Vec<_> = (0..4).map(|_| bench.start(&short, b"").into_parts()).collect();
            let orders: Vec<_> =
                (0..random(10)).map(|_| (random(4), random(3), random(4), random(3_000))).collect();
            let handles: Vec<_> = four.iter().map(|(interrupt, _)| interrupt.clone()).collect();
            let orderer = std::thread::spawn(move || {
                for (which, what, reason, pause) in orders {
                    for _ in 0..pause {
                        std::hint::spin_loop();
                    }
                    let handle = &handles[usize::try_from(which).unwrap()];
                    match what {
                        0 => handle.notify(notice("revoked")),
                        force => handle.stop(reasons[usize::try_from(reason).unwrap()], force == 1),
                    }
                }
            });
            for (interrupt, end) in four {
                match within(end).await.outcome {
                    Outcome::Succeeded(_) => finished += 1,
                    Outcome::Stopped { .. } => ended_early += 1,
                    Outcome::Failed { failure, .. } => panic!("{failure}"),
                }
                interrupt.stop(StopReason::LeaseLost, true);
            }
            orderer.join().unwrap();
        }
        println!("{finished} finished, {ended_early} were stopped");
        assert_eq!(finished + ended_early, 1_000);
        assert!(finished > 0 && ended_early > 0);
        assert_all_slots_are_free(&bench).await;
    });
}

#[test]
fn more_starts_than_the_pool_holds_wait_for_their_turn() {
    block_on(async {
        let bench = Bench::of(&RuntimeConfig { isolates: 4, ..config() }).await;
        let module = bench.load(&waits()).await;
        let isolates: Vec<_> = (0..60).map(|_| bench.start(&module, b"").into_parts()).collect();
        // A pool for 4 has 13 slots; the rest has not begun.
        within(async {
            while bench.worker.updates.load(Ordering::SeqCst) < 13 {
                bench.worker.called.notified().await;
            }
        })
        .await;
        for (interrupt, end) in isolates {
            interrupt.stop(StopReason::Revoked, true);
            assert_eq!(stopped(&within(end).await).0, StopReason::Revoked);
        }
        for _ in 0..20 {
            bench.assert_good_task_runs().await;
        }
    });
}

#[test]
fn one_that_waits_for_a_place_has_not_begun() {
    block_on(async {
        let bench = Bench::of(&RuntimeConfig { isolates: 4, ..config() }).await;
        let module = bench.load(&waits()).await;
        let mut running: Vec<_> = (0..13).map(|_| bench.start(&module, b"").into_parts()).collect();
        within(async {
            while bench.worker.updates.load(Ordering::SeqCst) < 13 {
                bench.worker.called.notified().await;
            }
        })
        .await;
        // Most of them have been polled by now, and found no place.
        let reasons = [StopReason::TimeLimit, StopReason::Shutdown, StopReason::Revoked];
        let waiting: Vec<_> =
            (0..30).map(|at| (reasons[at % 3], bench.start(&module, b"").into_parts())).collect();
        for (reason, (interrupt, end)) in waiting {
            interrupt.stop(reason, true);
            assert_eq!(stopped(&within(end).await), (reason, StopHow::BeforeStart));
        }
        // Gently: it learns of it when it has its place, and does not begin.
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        interrupt.stop(StopReason::Revoked, false);
        let (first, first_end) = running.remove(0);
        first.stop(StopReason::Revoked, true);
        assert_eq!(stopped(&within(first_end).await).0, StopReason::Revoked);
        assert_eq!(stopped(&within(end).await), (StopReason::Revoked, StopHow::BeforeStart));
        assert_eq!(bench.worker.updates.load(Ordering::SeqCst), 13, "none of them ran");
        for (interrupt, end) in running {
            interrupt.stop(StopReason::Revoked, true);
            assert_eq!(stopped(&within(end).await).0, StopReason::Revoked);
        }
        bench.assert_good_task_runs().await;
    });
}

#[test]
fn dropping_the_sandbox_ends_its_guests_and_its_threads() {
    block_on(async {
        for rounds in 0..5 {
            let bench = Bench::of(&RuntimeConfig { isolates: 4, threads: 2, ..config() }).await;
            let (spin, wait) = (bench.load(&task(SPIN)).await, bench.load(&waits()).await);
            let running: Vec<_> = [&spin, &spin, &spin, &wait]
                .into_iter()
                .map(|module| bench.start(module, b"").into_parts())
                .collect();
            within(async {
                while bench.worker.updates.load(Ordering::SeqCst) < 4 {
                    bench.worker.called.notified().await;
                }
            })
            .await;
            if rounds % 2 == 1 {
                // One that is just being taken down.
                running[3].0.stop(StopReason::Revoked, true);
            }
            let Bench { runtime, .. } = bench;
            let runtime = Arc::into_inner(runtime).expect("attempts do not hold the sandbox");
            drop::<IsolateRuntime>(runtime);
            for (interrupt, end) in running {
                let (reason, how) = stopped(&within(end).await);
                assert!(matches!(reason, StopReason::Shutdown | StopReason::Revoked));
                assert_ne!(how, StopHow::BeforeStart);
                interrupt.stop(StopReason::Revoked, true);
            }
        }
    });
}

#[tokio::test]
async fn a_guest_under_a_forced_stop_makes_no_further_host_call() {
    let bench = Bench::new();
    let module = bench.load(&task("(loop $again (call $here) (br $again)) (unreachable)")).await;
    for _ in 0..50 {
        let (interrupt, end) = bench.start(&module, b"").into_parts();
        within(bench.worker.called.notified()).await;
        interrupt.stop(StopReason::Revoked, true);
        assert_eq!(stopped(&within(end).await).0, StopReason::Revoked);
        let updates = bench.worker.updates.load(Ordering::SeqCst);
        bench.assert_good_task_runs().await;
        assert_eq!(bench.worker.updates.load(Ordering::SeqCst), updates);
        // Its last update may have left one wake-up behind.
        let _ = futures_poll(&mut Box::pin(bench.worker.called.notified())).await;
    }
}
