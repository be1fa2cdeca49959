//! Pushed modules on the memory backend: what serves, on trial, pinned, recalled, refused, and while the store is away.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use stem_core::backend::dead_letter::Replayed;
use stem_core::backend::modules::{Assigned, History, Pushed, Removed};
use stem_core::backend::{BackendError, ErrorClass, Health, ModuleStore, ServiceId};
use stem_core::control::{Drain, Order};
use stem_core::id::{Digest, Namespace, TaskId, TaskName};
use stem_core::release::{Assignment, Canary, Catalogue, Percent, Push, PushId, Rollout};
use stem_core::revoke::{RevokeRequest, module_key};
use stem_core::task::TaskState;
use stem_engine::policy::PolicyFile;
use stem_engine::signing::{PublisherKey, Trust};
use stem_engine::{Backends, EnqueueOptions, TaskError, WorkerBuilder, WorkerConfig, manifest};
use stem_isolate::{Compiler, IsolateRuntime, RuntimeConfig, admission};
use stem_memory::Memory;

mod strange;
mod support;

use support::*;

fn runtime() -> Arc<IsolateRuntime> {
    IsolateRuntime::new(&runtime_config()).unwrap()
}

fn runtime_config() -> RuntimeConfig {
    RuntimeConfig {
        isolates: 16,
        memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
        threads: 2,
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::InProcess,
        cache_dir: None,
        scratch_dir: None,
    }
}

/// A module whose result is this digit.
fn says(digit: u8) -> Vec<u8> {
    let text = format!(
        r#"(module (import "stem0" "output_write" (func $out (param i32 i32) (result i32))) (memory (export "memory") 1)
           (data (i32.const 0) "{digit}") (func (export "stem_run") (result i32) (call $out (i32.const 0) (i32.const 1))))"#
    );
    wat::parse_str(text).unwrap()
}

/// A module that computes for ever.
fn spins() -> Vec<u8> {
    let text = r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (loop (br 0)) (i32.const 0)))"#;
    wat::parse_str(text).unwrap()
}

fn job() -> TaskName {
    TaskName::new("job").unwrap()
}

fn release_of(wasm: &[u8]) -> Push {
    Push {
        id: PushId::fresh(),
        name: job(),
        digest: admission::digest(wasm),
        size: wasm.len() as u64,
        manifest: manifest::plain_text(&job(), "job.wasm"),
        pushed_by: None,
        signatures: Vec::new(),
    }
}

async fn push(store: &dyn ModuleStore, wasm: &[u8], rollout: Rollout) -> Digest {
    let push = release_of(wasm);
    store.put(&push.digest, wasm).await.unwrap();
    assert!(matches!(store.push(&push, rollout).await.unwrap(), Pushed::Release(_)));
    push.digest
}

fn percent(percent: u8) -> Percent {
    Percent::new(percent).unwrap()
}

async fn worker(backends: &Backends, runtime: &Arc<IsolateRuntime>) -> Bench {
    start_with(backends, runtime, |builder| builder.pushed_modules(None)).await
}

async fn start_with(
    backends: &Backends,
    runtime: &Arc<IsolateRuntime>,
    more: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
) -> Bench {
    start_leasing(config().lease, backends, runtime, more).await
}

/// With leases of this length. A build is waited for a third of one.
async fn start_leasing(
    lease: Duration,
    backends: &Backends,
    runtime: &Arc<IsolateRuntime>,
    more: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
) -> Bench {
    let builder = |builder: WorkerBuilder| more(builder.isolates(Arc::clone(runtime)));
    start(backends.clone(), WorkerConfig { lease, ..config() }, builder).await
}

/// The result of a task, and what its record says made it.
async fn outcome(bench: &Bench, task: &TaskId) -> (String, Digest, String) {
    let record = bench.ended(task).await;
    assert_eq!(record.state, TaskState::Succeeded, "{record:?}");
    let module = record.module.unwrap();
    let result = String::from_utf8(record.result.unwrap().bytes).unwrap();
    (result, module.digest, module.version.unwrap())
}

async fn run(bench: &Bench) -> (String, Digest, String) {
    let task = bench.enqueue("job", EnqueueOptions::default()).await;
    outcome(bench, &task).await
}

/// Runs tasks until one is made by this version.
async fn until_made_by(bench: &Bench, version: &str) -> (String, Digest, String) {
    let made = async {
        loop {
            let outcome = run(bench).await;
            if outcome.2 == version {
                return outcome;
            }
        }
    };
    tokio::time::timeout(PATIENCE, made).await.unwrap()
}

/// What a worker says of its releases, once one of them is in this state.
async fn until_release(backends: &Backends, state: &str) -> Value {
    let look = async {
        loop {
            let id = format!("inspect-{}", uuid::Uuid::now_v7());
            let said = command(backends, &id, Order::Inspect { include_revoked: false }).await;
            // Nothing is said before the store was read for the first time.
            let mut releases = said["releases"].as_array().into_iter().flatten();
            if let Some(found) = releases.find(|release| release["state"] == state) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap()
}

async fn recall(backends: &Backends, build: &Digest) {
    let request = (module_key(build), terminate());
    backends.revokes.revoke(&Namespace::new("stem").unwrap(), &[request]).await.unwrap();
}

async fn undo(backends: &Backends, build: &Digest) {
    let namespace = Namespace::new("stem").unwrap();
    assert!(backends.revokes.undo(&namespace, &module_key(build)).await.unwrap().is_some());
}

async fn assign(backends: &Backends, version: u32, canary: Option<Canary>) {
    let seen = backends.modules.history(&job()).await.unwrap().unwrap().assignment;
    let wanted = Some(Assignment { version, canary });
    assert_eq!(backends.modules.assign(&job(), seen, wanted).await.unwrap(), Assigned::Done);
}

/// Waits until nothing serves.
async fn until_idle(backends: &Backends) {
    let gone = async {
        while stats(backends).await["modules"] != serde_json::json!([]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_serves_at_once_and_each_result_says_what_made_it() {
    let backends = Backends::all_in_one(memory());
    let bench = worker(&backends, &runtime()).await;
    let early = bench.enqueue("job", EnqueueOptions::default()).await;
    let first = push(&*backends.modules, &says(1), Rollout::Whole).await;
    assert_eq!(outcome(&bench, &early).await, ("1".into(), first, "r1".into()));
    let second = push(&*backends.modules, &says(2), Rollout::Whole).await;
    assert_eq!(until_made_by(&bench, "r2").await, ("2".into(), second, "r2".into()));
    assign(&backends, 1, None).await;
    assert_eq!(until_made_by(&bench, "r1").await, ("1".into(), first, "r1".into()));
    let seen = backends.modules.history(&job()).await.unwrap().unwrap().assignment;
    backends.modules.assign(&job(), seen, None).await.unwrap();
    until_idle(&backends).await;
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_gets_its_tasks_and_no_others_until_it_is_promoted() {
    let backends = Backends::all_in_one(memory());
    let first = push(&*backends.modules, &says(1), Rollout::Whole).await;
    let second = push(&*backends.modules, &says(2), Rollout::Canary(percent(10))).await;
    let bench = worker(&backends, &runtime()).await;
    until_release(&backends, "canary").await;
    until_release(&backends, "serving").await;
    let mut ids = Vec::new();
    for _ in 0..1_000 {
        ids.push(bench.enqueue("job", EnqueueOptions::default()).await);
    }
    let trial =
        Assignment { version: 1, canary: Some(Canary { version: 2, percent: percent(10) }) };
    let mut on_trial = 0;
    for id in &ids {
        let (result, digest, version) = outcome(&bench, id).await;
        let expected = trial.version_for(id);
        on_trial += u32::from(expected == 2);
        assert_eq!((result, version), (expected.to_string(), format!("r{expected}")), "{id}");
        assert_eq!(digest, if expected == 2 { second } else { first });
    }
    assert!((60..160).contains(&on_trial), "{on_trial} of 1000");
    assign(&backends, 2, None).await;
    let promoted = async { while run(&bench).await.2 == "r1" {} };
    tokio::time::timeout(PATIENCE, promoted).await.unwrap();
    for _ in 0..20 {
        assert_eq!(run(&bench).await.1, second);
    }
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_loaded_leaves_the_old_one_in_service() {
    let backends = Backends::all_in_one(memory());
    push(&*backends.modules, &says(1), Rollout::Whole).await;
    let bench = worker(&backends, &runtime()).await;
    assert_eq!(run(&bench).await.2, "r1");
    push(&*backends.modules, b"no module at all", Rollout::Whole).await;
    let refused = until_release(&backends, "module-refused").await;
    assert!(refused["problem"].as_str().unwrap().contains("not a WebAssembly module"), "{refused}");
    assert_eq!(run(&bench).await.2, "r1");
    // Bytes that are not those of the digest, as a damaged store would give them.
    let third = release_of(&says(3));
    backends.modules.put(&third.digest, &says(4)).await.unwrap();
    backends.modules.push(&third, Rollout::Whole).await.unwrap();
    let other = async {
        loop {
            let damaged = until_release(&backends, "module-unavailable").await;
            if damaged["version"] == 3 {
                return damaged["problem"].as_str().unwrap().to_owned();
            }
        }
    };
    let problem = tokio::time::timeout(PATIENCE, other).await.unwrap();
    assert!(problem.contains("something else"), "{problem}");
    assert_eq!(run(&bench).await.2, "r1");
    // Storing it again puts it right, without a restart.
    backends.modules.put(&third.digest, &says(3)).await.unwrap();
    assert_eq!(until_made_by(&bench, "r3").await.0, "3");
    push(&*backends.modules, &says(5), Rollout::Whole).await;
    assert_eq!(until_made_by(&bench, "r4").await.0, "5");
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_task_runs_on_its_build_or_not_at_all() {
    let backends = Backends::all_in_one(memory());
    let first = push(&*backends.modules, &says(1), Rollout::Whole).await;
    push(&*backends.modules, &says(2), Rollout::Whole).await;
    let bench = worker(&backends, &runtime()).await;
    assert_eq!(run(&bench).await.2, "r2");
    let pinned = |digest| EnqueueOptions { module: Some(digest), ..EnqueueOptions::default() };
    for _ in 0..3 {
        let task = bench.enqueue("job", pinned(first)).await;
        assert_eq!(outcome(&bench, &task).await, ("1".into(), first, "r1".into()));
    }
    let unknown = bench.enqueue("job", pinned(Digest([9; 32]))).await;
    let record = bench.ended(&unknown).await;
    assert_eq!(
        (record.state, &*record.failure.unwrap().code),
        (TaskState::Failed, "module-unknown")
    );
    // What was not there a moment ago may be there now.
    let early = bench.enqueue("job", pinned(admission::digest(&says(3)))).await;
    assert_eq!(bench.ended(&early).await.failure.unwrap().code, "module-unknown");
    let third = push(&*backends.modules, &says(3), Rollout::Held).await;
    let task = bench.enqueue("job", pinned(third)).await;
    assert_eq!(outcome(&bench, &task).await.1, third);

    recall(&backends, &first).await;
    let known = async {
        loop {
            let id = format!("inspect-{}", uuid::Uuid::now_v7());
            let said = command(&backends, &id, Order::Inspect { include_revoked: true }).await;
            if said["revokedCount"] == 1 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, known).await.unwrap();
    let buried = bench.enqueue("job", pinned(first)).await;
    let record = bench.ended(&buried).await;
    assert_eq!(
        (record.state, &*record.failure.unwrap().code),
        (TaskState::Failed, "module-recalled")
    );
    undo(&backends, &first).await;
    let replayed = async {
        loop {
            // Whether the recall is over is known a moment later.
            assert_eq!(
                bench.client.replay(std::slice::from_ref(&buried)).await.unwrap(),
                [Replayed::Queued]
            );
            let record = bench.ended(&buried).await;
            if record.state == TaskState::Succeeded {
                return record.module.unwrap().digest;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, replayed).await.unwrap(), first);
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recall_stops_what_runs_parks_what_waits_and_a_push_sets_it_going() {
    for backends in [
        Backends::all_in_one(memory()),
        Backends { results: memory(), ..Backends::all_in_one(memory()) },
    ] {
        let runtime = runtime();
        let bad = push(&*backends.modules, &spins(), Rollout::Whole).await;
        let bench = worker(&backends, &runtime).await;
        let task = bench.enqueue("job", EnqueueOptions::default()).await;
        bench.until(&task, TaskState::Running).await;
        recall(&backends, &bad).await;
        let record = bench.until(&task, TaskState::Queued).await;
        assert_eq!(record.delivery_count, 0, "nothing is used up");
        // One that starts afterwards never runs it either.
        bench.stop(Drain::Warm).await;
        let bench = worker(&backends, &runtime).await;
        until_release(&backends, "recalled").await;
        let parked = bench.enqueue("job", EnqueueOptions::default()).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        for waiting in [&task, &parked] {
            let record = bench.client.show(waiting).await.unwrap().unwrap();
            assert_eq!(record.state, TaskState::Queued);
        }
        push(&*backends.modules, &says(2), Rollout::Whole).await;
        for waiting in [&task, &parked] {
            assert_eq!(outcome(&bench, waiting).await.0, "2");
            assert_eq!(bench.client.show(waiting).await.unwrap().unwrap().attempt, 1);
        }
        bench.stop(Drain::Warm).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recalled_canary_leaves_its_tasks_to_what_serves() {
    let backends = Backends::all_in_one(memory());
    push(&*backends.modules, &says(1), Rollout::Whole).await;
    let trial = push(&*backends.modules, &says(2), Rollout::Canary(percent(99))).await;
    let bench = worker(&backends, &runtime()).await;
    until_release(&backends, "canary").await;
    assert_eq!(until_made_by(&bench, "r2").await.0, "2");
    recall(&backends, &trial).await;
    until_release(&backends, "recalled").await;
    for _ in 0..20 {
        assert_eq!(run(&bench).await.2, "r1");
    }
    undo(&backends, &trial).await;
    assert_eq!(until_made_by(&bench, "r2").await.0, "2");
    bench.stop(Drain::Warm).await;
}

/// A store that can be away, and counts what is fetched.
#[derive(Debug)]
struct Shaky {
    store: Arc<Memory>,
    away: AtomicBool,
    fetched: AtomicUsize,
    /// Whoever has it for writing holds up what is fetched.
    hold: tokio::sync::RwLock<()>,
    /// A build that it does not give.
    withheld: Mutex<Option<Digest>>,
}

impl Shaky {
    fn new() -> Arc<Self> {
        let (away, fetched) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (hold, withheld) = (tokio::sync::RwLock::default(), Mutex::default());
        Arc::new(Self { store: memory(), away, fetched, hold, withheld })
    }

    fn reach(&self) -> Result<&dyn ModuleStore, BackendError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(BackendError::new(ErrorClass::Transient, "shaky", "answer", "it is away"));
        }
        Ok(&*self.store)
    }
}

#[async_trait]
impl ModuleStore for Shaky {
    fn service(&self) -> &ServiceId {
        ModuleStore::service(&*self.store)
    }
    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
        self.reach()?.put(digest, bytes).await
    }
    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let _free = self.hold.read().await;
        if *self.withheld.lock().unwrap() == Some(*digest) {
            return Err(BackendError::new(
                ErrorClass::Transient,
                "shaky",
                "read",
                "it is withheld",
            ));
        }
        self.reach()?.get(digest).await
    }
    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
        self.reach()?.push(push, rollout).await
    }
    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        wanted: Option<Assignment>,
    ) -> Result<Assigned, BackendError> {
        self.reach()?.assign(name, seen, wanted).await
    }
    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError> {
        self.reach()?.remove(name, version).await
    }
    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError> {
        self.reach()?.history(name).await
    }
    async fn catalogue(&self) -> Result<Catalogue, BackendError> {
        self.reach()?.catalogue().await
    }
    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
        self.reach()?.changed(seen, wait.min(Duration::from_millis(50))).await
    }
    async fn health(&self) -> Result<Health, BackendError> {
        ModuleStore::health(self.reach()?).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_gets_no_more_than_its_part_while_the_other_cannot_be_fetched() {
    let shaky = Shaky::new();
    let modules: Arc<dyn ModuleStore> = shaky.clone();
    let backends = Backends { modules, ..Backends::all_in_one(memory()) };
    let first = push(&*shaky.store, &says(1), Rollout::Whole).await;
    push(&*shaky.store, &says(2), Rollout::Canary(percent(10))).await;
    *shaky.withheld.lock().unwrap() = Some(first);
    let bench = worker(&backends, &runtime()).await;
    until_release(&backends, "module-unavailable").await;
    until_release(&backends, "canary").await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(bench.enqueue("job", EnqueueOptions::default()).await);
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    for id in &ids {
        assert_eq!(bench.client.show(id).await.unwrap().unwrap().state, TaskState::Queued);
    }
    *shaky.withheld.lock().unwrap() = None;
    let trial =
        Assignment { version: 1, canary: Some(Canary { version: 2, percent: percent(10) }) };
    for id in &ids {
        assert_eq!(outcome(&bench, id).await.0, trial.version_for(id).to_string(), "{id}");
    }
    // One that starts while what should serve the others is recalled leaves them to the trial.
    bench.stop(Drain::Warm).await;
    *shaky.withheld.lock().unwrap() = Some(first);
    recall(&backends, &first).await;
    let bench = worker(&backends, &runtime()).await;
    for _ in 0..20 {
        assert_eq!(run(&bench).await.2, "r2");
    }
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_task_waits_where_nothing_can_be_compiled() {
    let backends = Backends::all_in_one(memory());
    let build = push(&*backends.modules, &says(1), Rollout::Whole).await;
    let config = RuntimeConfig {
        compiler: Compiler::Child { program: "/nowhere".into(), args: Vec::new(), env: Vec::new() },
        ..runtime_config()
    };
    let (lease, runtime) = (Duration::from_millis(600), IsolateRuntime::new(&config).unwrap());
    let bench = start_leasing(lease, &backends, &runtime, |builder| {
        let builder = builder.pushed_modules(None);
        builder.inline("job", async |_, _: Value| Ok::<_, TaskError>(7)).unwrap()
    })
    .await;
    let options = EnqueueOptions { module: Some(build), ..EnqueueOptions::default() };
    let pinned = bench.enqueue("job", options).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let record = bench.client.show(&pinned).await.unwrap().unwrap();
    assert!(!record.state.is_final(), "{record:?}");
    bench.stop(Drain::Hard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_keeps_nobody_from_working() {
    let shaky = Shaky::new();
    let modules: Arc<dyn ModuleStore> = shaky.clone();
    let backends = Backends { modules, ..Backends::all_in_one(memory()) };
    let first = push(&*shaky.store, &says(1), Rollout::Whole).await;
    let (lease, runtime) = (Duration::from_secs(3), runtime());
    let bench =
        start_leasing(lease, &backends, &runtime, |builder| builder.pushed_modules(None)).await;
    assert_eq!(run(&bench).await.2, "r1");
    shaky.away.store(true, Ordering::Relaxed);
    let second = push(&*shaky.store, &says(2), Rollout::Whole).await;
    for _ in 0..20 {
        assert_eq!(run(&bench).await.2, "r1");
    }
    // A build that must be fetched is waited for, and uses up nothing.
    let options = EnqueueOptions { module: Some(second), ..EnqueueOptions::default() };
    let waiting = bench.enqueue("job", options).await;
    // Longer than one attempt waits.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!bench.client.show(&waiting).await.unwrap().unwrap().state.is_final());
    shaky.away.store(false, Ordering::Relaxed);
    assert_eq!(outcome(&bench, &waiting).await.1, second);
    let record = bench.client.show(&waiting).await.unwrap().unwrap();
    assert_eq!((record.attempt, record.delivery_count), (1, 1));
    assert_eq!(until_made_by(&bench, "r2").await.1, second);
    assert_ne!(first, second);
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_trusted_publisher_signed_is_not_even_fetched() {
    let shaky = Shaky::new();
    let modules: Arc<dyn ModuleStore> = shaky.clone();
    let backends = Backends { modules, ..Backends::all_in_one(memory()) };
    let key = PublisherKey::generate().unwrap();
    let trust = Arc::new(Trust::read(&format!("{} ann", key.public())).unwrap().into());
    let bench =
        start_with(&backends, &runtime(), |builder| builder.pushed_modules(Some(trust))).await;
    let unsigned = push(&*shaky.store, &says(1), Rollout::Whole).await;
    let said = until_release(&backends, "module-untrusted").await;
    assert!(said["problem"].as_str().unwrap().contains("not signed"), "{said}");
    assert_eq!(shaky.fetched.load(Ordering::Relaxed), 0);
    let mut release = release_of(&says(2));
    release.signatures = vec![key.sign(&release)];
    shaky.store.put(&release.digest, &says(2)).await.unwrap();
    shaky.store.push(&release, Rollout::Whole).await.unwrap();
    assert_eq!(run(&bench).await, ("2".into(), release.digest, "r2".into()));
    let options = EnqueueOptions { module: Some(unsigned), ..EnqueueOptions::default() };
    let pinned = bench.enqueue("job", options).await;
    let failure = bench.ended(&pinned).await.failure.unwrap();
    assert_eq!(failure.code, "module-untrusted");
    assert_eq!(shaky.fetched.load(Ordering::Relaxed), 1);
    // That somebody pushed the same build without a signature takes nothing from those who want the signed one.
    let signed = release.digest;
    let loose = Push { manifest: format!("{}\n", release.manifest), ..release_of(&says(2)) };
    shaky.store.push(&loose, Rollout::Held).await.unwrap();
    let mut other = release_of(&says(3));
    other.signatures = vec![key.sign(&other)];
    shaky.store.put(&other.digest, &says(3)).await.unwrap();
    shaky.store.push(&other, Rollout::Whole).await.unwrap();
    until_made_by(&bench, "r4").await;
    let options = EnqueueOptions { module: Some(signed), ..EnqueueOptions::default() };
    let pinned = bench.enqueue("job", options).await;
    assert_eq!(outcome(&bench, &pinned).await, ("2".into(), signed, "r2".into()));
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_has_itself_goes_before_what_was_pushed_and_can_be_recalled_too() {
    let backends = Backends::all_in_one(memory());
    push(&*backends.modules, &says(1), Rollout::Whole).await;
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.wasm"), says(7)).unwrap();
    let (policy, cap) = (config().policy.current(), config().limits_cap);
    let local = stem_engine::modules::load_dir(&runtime, dir.path(), &policy, &cap);
    let [handler] = <[_; 1]>::try_from(local.await.unwrap()).unwrap();
    let bench =
        start_with(&backends, &runtime, |builder| builder.pushed_modules(None).module(handler))
            .await;
    until_release(&backends, "shadowed").await;
    let task = bench.enqueue("job", EnqueueOptions::default()).await;
    let record = bench.ended(&task).await;
    assert_eq!(record.result.unwrap().bytes, b"7");
    recall(&backends, &admission::digest(&says(7))).await;
    // What was pushed takes its tasks over, until the recall is over.
    until_release(&backends, "serving").await;
    assert_eq!(run(&bench).await.2, "r1");
    let seen = backends.modules.history(&job()).await.unwrap().unwrap().assignment;
    backends.modules.assign(&job(), seen, None).await.unwrap();
    until_idle(&backends).await;
    let parked = bench.enqueue("job", EnqueueOptions::default()).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(bench.client.show(&parked).await.unwrap().unwrap().state, TaskState::Queued);
    undo(&backends, &admission::digest(&says(7))).await;
    assert_eq!(bench.ended(&parked).await.result.unwrap().bytes, b"7");
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recall_of_another_build_changes_nothing() {
    let backends = Backends::all_in_one(memory());
    push(&*backends.modules, &says(1), Rollout::Whole).await;
    let bench = worker(&backends, &runtime()).await;
    assert_eq!(run(&bench).await.0, "1");
    let request = (module_key(&Digest([3; 32])), RevokeRequest::default());
    backends.revokes.revoke(&Namespace::new("stem").unwrap(), &[request]).await.unwrap();
    for _ in 0..5 {
        assert_eq!(run(&bench).await.0, "1");
    }
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_changes_while_a_release_is_fetched_holds_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
    };
    write("[grants]\nkv = [\"seen\"]");
    let policy = Arc::new(PolicyFile::open(&path).unwrap());
    let shaky = Shaky::new();
    let modules: Arc<dyn ModuleStore> = shaky.clone();
    let backends = Backends { modules, ..Backends::all_in_one(memory()) };
    let config = WorkerConfig { policy: Arc::clone(&policy), ..config() };
    let runtime = runtime();
    let builder = |builder: WorkerBuilder| builder.isolates(runtime).pushed_modules(None);
    let bench = start(backends.clone(), config, builder).await;
    let held = shaky.hold.write().await;
    let mut release = release_of(&says(1));
    release.manifest.push_str("grants.kv = [\"seen\"]\n");
    shaky.store.put(&release.digest, &says(1)).await.unwrap();
    shaky.store.push(&release, Rollout::Whole).await.unwrap();
    let mut news = policy.subscribe();
    let changed = async {
        while shaky.fetched.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        write("[grants]");
        news.changed().await.unwrap();
    };
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
    drop(held);
    assert_eq!(run(&bench).await.0, "1");
    let module = stats(&backends).await["modules"][0].clone();
    assert_eq!((&module["task"], &module["grants"]), (&"job".into(), &Value::Null), "{module}");
    bench.stop(Drain::Warm).await;
}
