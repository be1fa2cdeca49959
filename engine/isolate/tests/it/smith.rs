//! Modules that nobody would write, made by wasm-smith of a seed: each is refused with words, or runs within its limits
//! and ends in a way that has a name.
//!
//! `STEM_TEST_SMITH` says how many there are in all. `STEM_TEST_SEED` says with which seed every part begins: a failure
//! prints the two that make its module again.

mod make;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stem_core::outcome::{FailureKind, Outcome, StopHow, StopReason};
use stem_isolate::compile::CompileError;
use stem_isolate::config::Allocator;
use stem_isolate::{Compiler, Exit, LoadError, Module, RuntimeConfig};
use tokio::sync::Semaphore;

use self::make::Made;
use crate::bench::{
    self, Bench, Worker, block_on, config, has_a_process_of_its_own, resident, wat, within,
};
use crate::guests::raw;
use crate::planted::found;
use crate::stopping::assert_all_slots_are_free;

/// How many modules there are unless `STEM_TEST_SMITH` says otherwise.
const MODULES: u64 = 20_000;
/// Parts, each a test of its own, so that several run at a time.
const PARTS: u64 = 4;
/// After so many comes a good task.
const BATCH: usize = 200;
/// How many are under way at once: those that wait cost nothing.
const AT_ONCE: usize = 8;
/// What a guest gets that does not end by itself: enough to do something.
const CPU: Duration = Duration::from_millis(5);
/// After this a guest is stopped, which mostly waits by then.
const HARD: Duration = Duration::from_millis(100);
/// How far the process may have grown from its third batch to its last. The allocator keeps some of what compiling
/// takes; a module that stayed, with its mapped code, would show after some hundred.
const GROWN: u64 = 32 << 20;

#[test]
fn whatever_a_module_is_it_is_refused_or_ends_first_quarter() {
    part(0);
}

#[test]
fn whatever_a_module_is_it_is_refused_or_ends_second_quarter() {
    part(1);
}

#[test]
fn whatever_a_module_is_it_is_refused_or_ends_third_quarter() {
    part(2);
}

#[test]
fn whatever_a_module_is_it_is_refused_or_ends_last_quarter() {
    part(3);
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}

/// What makes one module again, for messages.
fn again(seed: u64) -> String {
    format!("again with STEM_TEST_SEED={seed} STEM_TEST_SMITH=1")
}

fn part(part: u64) {
    let modules = number("STEM_TEST_SMITH").unwrap_or(MODULES).div_ceil(PARTS);
    let first = number("STEM_TEST_SEED").unwrap_or(part * 1_000_000_000);
    println!("STEM_TEST_SEED={first}, {modules} modules");
    block_on(async {
        let lab = Lab::new().await;
        let (mut ended, mut settled) = (BTreeMap::<String, u64>::new(), None);
        let seeds: Vec<u64> = (first..first + modules).collect();
        for (number, batch) in seeds.chunks(BATCH).enumerate() {
            for ending in lab.all(batch).await {
                *ended.entry(ending).or_default() += 1;
            }
            lab.pool.assert_good_task_runs().await;
            if number == 2 {
                settled = Some(resident());
            }
        }
        println!("{ended:#?}");
        stem_services::count("modules", ended.values().sum());
        assert_all_slots_are_free(&lab.pool).await;
        if let Some(settled) = settled {
            let now = resident();
            println!("resident: {} KiB after three batches, {} KiB now", settled >> 10, now >> 10);
            assert!(
                !has_a_process_of_its_own() || now < settled + GROWN,
                "grew from {settled} to {now} bytes"
            );
        }
        if modules * PARTS >= MODULES {
            assert_something_was_seen(&ended, modules);
        }
    });
}

/// Modules that are all refused, or all trap at once, would show nothing.
fn assert_something_was_seen(ended: &BTreeMap<String, u64>, modules: u64) {
    // Each at least once among so many.
    for (beginning, share) in [
        ("refused: invalid", 20),
        ("refused: not a task", 100),
        ("succeeded", 20),
        ("failed: error", 20),
        ("failed: trap", 5),
        ("failed: trap, unreachable", 20),
        ("failed: trap, memory-out-of-bounds", 50),
        ("failed: trap, stack-overflow", 100),
        ("failed: memory-limit", 1_000),
        ("failed: cpu-limit", 500),
        ("stopped", 2_000),
    ] {
        let matching = ended.iter().filter(|(ending, _)| ending.starts_with(beginning));
        let count: u64 = matching.map(|(_, count)| count).sum();
        assert!(count >= modules / share, "{beginning}: {count} of {modules}");
    }
}

/// Two sandboxes that must agree.
#[derive(Clone, Debug)]
struct Lab {
    /// From a pool, compiled here.
    pool: Bench,
    /// Mapped for each attempt, compiled in a child.
    mapped: Bench,
}

impl Lab {
    async fn new() -> Self {
        let mut pool = Bench::of(&config()).await;
        // No pool is made for memories of more than the address space that each has, so these are mapped.
        let program = env!("CARGO_BIN_EXE_stem-compile").into();
        let compiler = Compiler::Child { program, args: vec![], env: vec![] };
        let mapped = RuntimeConfig { memory_cap_bytes: 8 << 30, compiler, ..config() };
        let mut mapped = Bench::of(&mapped).await;
        assert_eq!(mapped.runtime.allocator(), Allocator::OnDemand);
        for bench in [&mut pool, &mut mapped] {
            bench.limits.table_entries = 50_000;
        }
        Self { pool, mapped }
    }

    /// How the modules of these seeds ended.
    async fn all(&self, seeds: &[u64]) -> Vec<String> {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut under_way = Vec::new();
        for &seed in seeds {
            let (lab, turns) = (self.clone(), Arc::clone(&turns));
            under_way.push(tokio::spawn(async move {
                let _turn = turns.acquire().await.unwrap();
                lab.one(seed).await
            }));
        }
        let mut ended = Vec::new();
        for (one, seed) in under_way.into_iter().zip(seeds) {
            ended.push(one.await.unwrap_or_else(|error| panic!("{error}; {}", again(*seed))));
        }
        ended
    }

    async fn one(&self, seed: u64) -> String {
        let made = make::module(seed);
        let module = match self.pool.runtime.load(&made.bytes).await {
            Ok(module) => module,
            Err(error) => return refused(&made, &error),
        };
        let exit = run(&self.pool, &module, &made).await;
        if made.repeats {
            let module = self.mapped.runtime.load(&made.bytes).await;
            let module = module.unwrap_or_else(|error| panic!("{error}; {}", again(seed)));
            let other = run(&self.mapped, &module, &made).await;
            assert_eq!(exit.outcome, other.outcome, "{}", again(seed));
        }
        ended(&made, &exit)
    }
}

async fn run(bench: &Bench, module: &Arc<Module>, made: &Made) -> Exit {
    let mut bench = Bench { worker: Arc::<Worker>::default(), ..bench.clone() };
    if !made.ends {
        bench.limits.cpu = CPU;
    }
    let (interrupt, end) = bench.start(module, b"{\"of\":\"the seed\"}").into_parts();
    let mut end = std::pin::pin!(end);
    // What neither waits nor loops is given all the time that it takes.
    if !made.repeats {
        tokio::select! {
            exit = &mut end => return exit,
            () = tokio::time::sleep(HARD) => interrupt.stop(StopReason::TimeLimit, true),
        }
    }
    within(end).await
}

fn assert_words(words: &str, seed: u64) {
    let is_plain = !words.is_empty() && words.len() < 10_000;
    assert!(is_plain && !words.contains(char::is_control), "{words:?}; {}", again(seed));
}

fn refused(made: &Made, error: &LoadError) -> String {
    assert_words(&error.to_string(), made.seed);
    let reason = match error {
        LoadError::NotAdmitted(_) => "not admitted",
        LoadError::Compile(CompileError::Invalid(_)) => "invalid",
        LoadError::Compile(error) => panic!("{error}; {}", again(made.seed)),
        LoadError::UnknownImports(_) => "unknown imports",
        LoadError::NotATask { .. } => "not a task",
        LoadError::Link(_) => "not linked",
    };
    // What uses only what the sandbox has switched on is valid.
    assert!(reason != "invalid" || !made.is_of_the_profile, "{error}; {}", again(made.seed));
    format!("refused: {reason}")
}

fn ended(made: &Made, exit: &Exit) -> String {
    match &exit.outcome {
        Outcome::Succeeded(_) => "succeeded".to_owned(),
        Outcome::Failed { failure, .. } => {
            let is_the_guests = matches!(
                failure.kind,
                FailureKind::Error
                    | FailureKind::Trap
                    | FailureKind::MemoryLimit
                    | FailureKind::CpuLimit
                    | FailureKind::PayloadTooLarge
            );
            let code = failure.code.as_str();
            assert!(is_the_guests && code != "host-panic", "{failure:?}; {}", again(made.seed));
            assert!(!(made.ends && code == "cpu-limit"), "{failure:?}; {}", again(made.seed));
            assert_words(&failure.message, made.seed);
            // The codes of exits are as many as there are numbers.
            let code = if code.starts_with("exit-") { "exit" } else { code };
            format!("failed: {}, {code}", failure.kind.as_str())
        }
        Outcome::Stopped { reason, how, .. } => {
            assert_eq!(*reason, StopReason::TimeLimit, "{}", again(made.seed));
            assert!(!made.repeats, "{exit:?}; {}", again(made.seed));
            // On a busy machine one may not have had its turn by then.
            let begun = *how != StopHow::BeforeStart;
            if begun { "stopped" } else { "stopped before it began" }.to_owned()
        }
    }
}

#[test]
fn a_planted_panic_of_the_worker_is_no_guests_way_to_end() {
    let bench = Bench::new();
    let reports = "(call $progress (i32.const -1) (i32.const 0) (i32.const 0))";
    let bytes = wat(&raw("", "", reports));
    let made = Made { seed: 0, bytes, is_of_the_profile: true, ends: true, repeats: true };
    let once = || {
        block_on(async {
            let module = bench.runtime.load(&made.bytes).await.unwrap();
            bench::exit(bench.start(&module, b"1")).await
        })
    };
    assert_eq!(ended(&made, &once()), "succeeded");
    bench.worker.panics.store(true, Ordering::SeqCst);
    let said = found(|| drop(ended(&made, &once())));
    assert!(said.contains("host-panic"), "{said}");
    stem_services::count("plants", 1);
}
