//! Modules that nobody would write, pushed and then run as tasks by a whole worker: each task ends once, and the worker
//! goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use stem_core::backend::modules::Pushed;
use stem_core::control::Drain;
use stem_core::outcome::FailureKind;
use stem_core::release::Rollout;
use stem_core::retry::RetryPolicy;
use stem_core::task::{TaskRecord, TaskState};
use stem_engine::{Backends, EnqueueOptions};

use super::{job, outcome, push, release_of, runtime, says};
use crate::support::{PATIENCE, config, memory, start, stats};

/// The sandbox's own tests make twenty times as many, of other seeds.
#[path = "../../isolate/tests/it/smith/make.rs"]
#[allow(dead_code, reason = "which modules repeat themselves is a matter of the sandbox's tests")]
mod make;

/// How many there are.
const MODULES: u64 = 1_000;
/// After so many comes a good task. The store keeps a hundred releases of a name.
const BATCH: u64 = 40;
const SEED: u64 = 8_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_pushed_its_task_ends_once_and_the_good_one_serves_on() {
    let backends = Backends::all_in_one(memory());
    let store = &*backends.modules;
    let good = push(store, &says(7), Rollout::Whole).await;
    let runtime = runtime();
    let mut config = config();
    // Long enough for a build to be fetched and compiled behind the others of its batch.
    config.lease = Duration::from_secs(30);
    let bench =
        start(backends.clone(), config, |builder| builder.isolates(runtime).pushed_modules(None))
            .await;
    let once = RetryPolicy { max_retries: 0, ..RetryPolicy::DEFAULT };
    let mut ended = BTreeMap::<String, u64>::new();
    for first in (SEED..SEED + MODULES).step_by(usize::try_from(BATCH).unwrap()) {
        let mut tasks = Vec::new();
        for seed in first..first + BATCH {
            let made = make::module(seed);
            let mut release = release_of(&made.bytes);
            release.manifest.push_str(limits(made.ends));
            store.put(&release.digest, &made.bytes).await.unwrap();
            let pushed = store.push(&release, Rollout::Held).await.unwrap();
            assert!(matches!(pushed, Pushed::Release(_)), "{pushed:?}, seed {seed}");
            let options = EnqueueOptions {
                module: Some(release.digest),
                retry: once.clone(),
                ..EnqueueOptions::default()
            };
            tasks.push((made, bench.enqueue("job", options).await));
        }
        for (made, task) in &tasks {
            *ended.entry(ending(made, &bench.ended(task).await)).or_default() += 1;
        }
        let task = bench.enqueue("job", EnqueueOptions::default()).await;
        assert_eq!(outcome(&bench, &task).await, ("7".to_owned(), good, "r1".to_owned()));
    }
    println!("{ended:#?}");
    let count = |beginning: &str| -> u64 {
        let matching = ended.iter().filter(|(ending, _)| ending.starts_with(beginning));
        matching.map(|(_, count)| count).sum()
    };
    for beginning in ["succeeded", "trap", "error", "bad-module, module-refused", "cpu-limit"] {
        assert!(count(beginning) > 0, "none ended with {beginning}");
    }
    let goods = MODULES / BATCH;
    let counters = counters(&backends, MODULES + goods).await;
    assert_eq!(counters["succeeded"], count("succeeded") + goods, "{counters}");
    assert_eq!(counters["failed"], MODULES - count("succeeded"), "{counters}");
    for nothing in ["retried", "revoked", "terminated", "leaseLost"] {
        assert_eq!(counters[nothing], 0, "{counters}");
    }
    bench.stop(Drain::Warm).await;
}

/// The worker's counters as soon as so many have ended. A record says that a task has ended before its worker counts it.
async fn counters(backends: &Backends, ended: u64) -> serde_json::Value {
    let counted = async {
        loop {
            let counters = stats(backends).await["counters"].take();
            let of = |end: &str| counters[end].as_u64().unwrap();
            if of("succeeded") + of("failed") >= ended {
                return counters;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("each is counted")
}

/// Little enough that what loops or waits keeps nobody for long; and CPU time for all that ends by itself.
fn limits(ends: bool) -> &'static str {
    if ends {
        "[handlers.job.limits]\ncpu = \"20s\"\nhard = \"200ms\"\n"
    } else {
        "[handlers.job.limits]\ncpu = \"5ms\"\nhard = \"200ms\"\n"
    }
}

fn ending(made: &make::Made, record: &TaskRecord) -> String {
    let seed = made.seed;
    assert_eq!(record.attempt, 1, "{record:?}, seed {seed}");
    if record.state == TaskState::Succeeded {
        return "succeeded".to_owned();
    }
    assert_eq!(record.state, TaskState::Failed, "{record:?}, seed {seed}");
    let failure = record.failure.as_ref().unwrap();
    assert!(failure.kind != FailureKind::LeaseLost, "{record:?}, seed {seed}");
    assert!(failure.code != "host-panic", "{record:?}, seed {seed}");
    assert!(!made.ends || failure.code != "cpu-limit", "{record:?}, seed {seed}");
    if failure.kind == FailureKind::BadModule {
        assert_eq!(failure.code, "module-refused", "{record:?}, seed {seed}");
        let is_invalid = failure.message.contains("cannot be compiled");
        assert!(!(is_invalid && made.is_of_the_profile), "{record:?}, seed {seed}");
    }
    assert_eq!(record.name, job());
    format!("{}, {}", failure.kind.as_str(), failure.code)
}
