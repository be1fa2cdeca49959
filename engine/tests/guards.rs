//! What keeps a worker within bounds: how many run at once, how long a module is kept, and what it does without a
//! revoke store.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

mod floods;
mod quotas;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use stem_core::backend::{BackendError, ErrorClass, Health, RevokeStore, ServiceId};
use stem_core::control::Drain;
use stem_core::id::{Namespace, TaskId, TaskName};
use stem_core::outcome::StopHow;
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::task::TaskState;
use stem_core::time::Timestamp;
use stem_engine::{
    AutoscaleRules, Backends, EnqueueOptions, RevokePolicy, Worker, WorkerBuilder, WorkerConfig,
};
use stem_isolate::{Compiler, IsolateRuntime, RuntimeConfig};
use tokio::sync::Semaphore;

use support::*;

/// Polls until the value is as wanted.
async fn until<T: PartialEq + std::fmt::Debug>(wanted: T, mut look: impl AsyncFnMut() -> T) {
    let mut last = None;
    let poll = async {
        loop {
            let now = look().await;
            if now == wanted {
                return;
            }
            last = Some(now);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, poll).await;
    assert!(done.is_ok(), "still {last:?}, and not {wanted:?}");
}

async fn concurrency(backends: &Backends) -> Value {
    let stats = stats(backends).await;
    json!([
        stats["minConcurrency"],
        stats["activeConcurrency"],
        stats["maxConcurrency"],
        stats["autoscale"],
    ])
}

/// One that runs, until dropped.
struct Runs(Arc<AtomicUsize>);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A handler that runs until it is let go, and counts how many run at once.
fn held(
    gate: &Arc<Semaphore>,
    most: &Arc<AtomicUsize>,
) -> impl FnOnce(WorkerBuilder) -> WorkerBuilder {
    let (gate, most, running) = (Arc::clone(gate), Arc::clone(most), Arc::new(AtomicUsize::new(0)));
    move |builder| {
        let handler = move |_, _: Value| {
            let (gate, most, running) =
                (Arc::clone(&gate), Arc::clone(&most), Arc::clone(&running));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _runs = Runs(running);
                gate.acquire().await.unwrap().forget();
                Ok(())
            }
        };
        builder.inline("held", handler).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrency_follows_the_backlog_between_its_bounds() {
    let (gate, most) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let backends = Backends::all_in_one(memory());
    let rules = AutoscaleRules {
        tick: Duration::from_millis(20),
        scale_up_cooldown: Duration::from_millis(20),
        scale_down_cooldown: Duration::from_millis(20),
        idle_period: Duration::from_millis(60),
        ..AutoscaleRules::between(1, 4)
    };
    let config = WorkerConfig { concurrency: 4, autoscale: Some(rules), ..config() };
    let bench = start(backends.clone(), config, held(&gate, &most)).await;
    assert_eq!(concurrency(&backends).await, json!([1, 1, 4, true]));
    let mut tasks = Vec::new();
    for _ in 0..12 {
        tasks.push(bench.enqueue("held", EnqueueOptions::default()).await);
    }
    until(4, async || most.load(Ordering::SeqCst)).await;
    assert_eq!(concurrency(&backends).await, json!([1, 4, 4, true]));
    // One task stays in hand: as long as it runs, no place goes.
    gate.add_permits(11);
    until(1, async || stats(&backends).await["inflight"].as_u64().unwrap()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(concurrency(&backends).await, json!([1, 4, 4, true]));
    gate.add_permits(1);
    until(json!([1, 1, 4, true]), async || concurrency(&backends).await).await;
    for task in &tasks {
        assert_eq!(bench.ended(task).await.state, TaskState::Succeeded);
    }
    assert_eq!(most.load(Ordering::SeqCst), 4);
    // And what is left still works.
    gate.add_permits(1);
    let last = bench.enqueue("held", EnqueueOptions::default()).await;
    bench.ended(&last).await;
    bench.stop(Drain::Warm).await;
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused() {
    let with = |change: fn(&mut WorkerConfig)| {
        let mut config = config();
        config.concurrency = 4;
        change(&mut config);
        Worker::builder(Backends::all_in_one(memory()), config).build().unwrap_err().to_string()
    };
    let error = with(|config| config.autoscale = Some(AutoscaleRules::between(1, 8)));
    assert!(error.contains("autoscale goes up to 8, and concurrency is 4"), "{error}");
    let error = with(|config| config.autoscale = Some(AutoscaleRules::between(5, 4)));
    assert!(error.contains("above the most"), "{error}");
    let error = with(|config| config.max_tasks_per_isolate = Some(0));
    assert!(error.contains("above 0"), "{error}");
}

/// A module whose memory has so many pages.
fn module_with_pages(pages: u32) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module (memory (export "memory") {pages}) (func (export "stem_run") (result i32) (i32.const 0)))"#
    ))
    .unwrap()
}

struct Modules {
    runtime: Arc<IsolateRuntime>,
    dir: tempfile::TempDir,
}

impl Modules {
    fn new() -> Self {
        let config = RuntimeConfig {
            isolates: 4,
            memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
            threads: 1,
            slice: RuntimeConfig::SLICE,
            compiler: Compiler::InProcess,
            cache_dir: None,
            scratch_dir: None,
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("small.wasm"), module_with_pages(1)).unwrap();
        std::fs::write(dir.path().join("large.wasm"), module_with_pages(16)).unwrap();
        Self { runtime: IsolateRuntime::new(&config).unwrap(), dir }
    }

    async fn start(&self, backends: Backends, config: WorkerConfig) -> Bench {
        let cap = config.limits_cap.clone();
        let policy = config.policy.current();
        let modules = stem_engine::modules::load_dir(&self.runtime, self.dir.path(), &policy, &cap)
            .await
            .unwrap();
        start(backends, config, |builder| {
            let builder = builder.isolates(Arc::clone(&self.runtime));
            modules
                .into_iter()
                .fold(builder, WorkerBuilder::module)
                .inline("native", |_, _: Value| async move { Ok(()) })
                .unwrap()
        })
        .await
    }
}

async fn run(bench: &Bench, name: &str, times: usize) {
    for _ in 0..times {
        let task = bench.enqueue(name, EnqueueOptions::default()).await;
        let record = bench.ended(&task).await;
        assert_eq!(record.state, TaskState::Succeeded, "{record:?}");
    }
}

async fn recycled(backends: &Backends) -> u64 {
    stats(backends).await["counters"]["recycled"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_is_prepared_anew_after_its_attempts_and_not_before() {
    let modules = Modules::new();
    let backends = Backends::all_in_one(memory());
    let config = WorkerConfig { concurrency: 1, max_tasks_per_isolate: Some(3), ..config() };
    let bench = modules.start(backends.clone(), config).await;
    // The place of the last attempt is free when its module has been replaced.
    run(&bench, "small", 2).await;
    run(&bench, "large", 2).await;
    assert_eq!(recycled(&backends).await, 0, "each name counts for itself");
    run(&bench, "small", 1).await;
    until(1, async || recycled(&backends).await).await;
    run(&bench, "small", 6).await;
    until(3, async || recycled(&backends).await).await;
    // Native handlers get new threads before the attempt that would be one too many.
    run(&bench, "native", 3).await;
    assert_eq!(recycled(&backends).await, 3);
    run(&bench, "native", 1).await;
    assert_eq!(recycled(&backends).await, 4);
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_is_prepared_anew_after_an_attempt_with_much_memory() {
    let modules = Modules::new();
    let backends = Backends::all_in_one(memory());
    let config = WorkerConfig { concurrency: 1, max_memory_per_isolate: Some(1 << 20), ..config() };
    let bench = modules.start(backends.clone(), config).await;
    run(&bench, "small", 3).await;
    assert_eq!(recycled(&backends).await, 0);
    run(&bench, "large", 2).await;
    until(2, async || recycled(&backends).await).await;
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_lose_nothing_while_modules_are_recycled() {
    let modules = Modules::new();
    let backends = Backends::all_in_one(memory());
    let config = WorkerConfig { concurrency: 4, max_tasks_per_isolate: Some(2), ..config() };
    let bench = modules.start(backends.clone(), config).await;
    let mut tasks = Vec::new();
    for n in 0..60 {
        let name = if n % 2 == 0 { "small" } else { "large" };
        tasks.push(bench.enqueue(name, EnqueueOptions::default()).await);
    }
    for task in &tasks {
        let record = bench.ended(task).await;
        assert_eq!((record.state, record.delivery_count), (TaskState::Succeeded, 1), "{record:?}");
    }
    // 30 attempts of each, never more than 2 on one module, and the last of them is replaced too.
    until(30, async || recycled(&backends).await).await;
    bench.stop(Drain::Warm).await;
}

/// A revoke store that can be taken away.
#[derive(Debug)]
struct Fickle {
    inner: Arc<dyn RevokeStore>,
    away: AtomicBool,
}

impl Fickle {
    fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn there(&self) -> Result<(), BackendError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(BackendError::new(ErrorClass::Transient, "test", "answer", "it is away"));
        }
        Ok(())
    }
}

#[async_trait]
impl RevokeStore for Fickle {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        self.there()?;
        self.inner.time().await
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        self.inner.revoke(namespace, requests).await
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        self.inner.undo(namespace, task).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        self.there()?;
        self.inner.since(namespace, after, limit).await
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        self.inner.prune(namespace).await
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        self.there()?;
        self.inner.changed(wait).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}

fn fickle() -> (Arc<Fickle>, Backends) {
    let service = memory();
    let store = Arc::new(Fickle { inner: service.clone(), away: AtomicBool::new(true) });
    (store.clone(), Backends { revokes: store, ..Backends::all_in_one(service) })
}

fn good(builder: WorkerBuilder) -> WorkerBuilder {
    builder.inline("good", |_, _: Value| async move { Ok(()) }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_revocations_a_worker_is_not_ready_and_takes_nothing() {
    let (store, backends) = fickle();
    let client = stem_engine::Client::new(backends.clone(), Arc::new(stem_engine::SystemClock));
    let name = TaskName::new("good").unwrap();
    let payload = || stem_core::envelope::Payload::json("{}");
    let revoked = client.enqueue(name.clone(), payload(), EnqueueOptions::default()).await.unwrap();
    let free = client.enqueue(name, payload(), EnqueueOptions::default()).await.unwrap();
    let order = [(revoked.id.clone(), RevokeRequest::default())];
    client.revoke(&Namespace::new("stem").unwrap(), &order).await.unwrap();
    let starting = tokio::spawn(start(backends.clone(), config(), good));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!starting.is_finished(), "it is ready without the revocations");
    assert_eq!(client.show(&free.id).await.unwrap().unwrap().state, TaskState::Queued);
    store.set_away(false);
    let bench = starting.await.unwrap();
    assert_eq!(bench.ended(&free.id).await.state, TaskState::Succeeded);
    let record = bench.ended(&revoked.id).await;
    assert_eq!(record.state, TaskState::Revoked);
    assert_eq!(record.revocation.unwrap().how, StopHow::BeforeStart);
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_to_fail_open_starts_without_them_and_learns_them_later() {
    let (store, backends) = fickle();
    let config = WorkerConfig { revoke_policy: RevokePolicy::FailOpen, ..config() };
    let bench = start(backends.clone(), config, good).await;
    run(&bench, "good", 1).await;
    let shown = stats(&backends).await["revocations"].clone();
    assert_eq!((&shown["policy"], &shown["lastReadMsAgo"]), (&json!("fail-open"), &Value::Null));
    let later = TaskId::new("later").unwrap();
    bench.revoke(&later, RevokeRequest::default()).await;
    store.set_away(false);
    until(json!(1), async || stats(&backends).await["revocations"]["count"].clone()).await;
    let options = EnqueueOptions { id: Some(later.clone()), ..EnqueueOptions::default() };
    bench.enqueue("good", options).await;
    assert_eq!(bench.ended(&later).await.state, TaskState::Revoked);
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_revocations_grow_stale_takes_nothing_until_it_can_read_them() {
    let (store, backends) = fickle();
    store.set_away(false);
    let (gate, most) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let config = WorkerConfig { max_revocation_staleness: Duration::from_secs(2), ..config() };
    let bench = start(backends.clone(), config, held(&gate, &most)).await;
    let running = bench.enqueue("held", EnqueueOptions::default()).await;
    bench.until(&running, TaskState::Running).await;
    store.set_away(true);
    until(json!(true), async || stats(&backends).await["revocations"]["stale"].clone()).await;
    // A request that was under way may still have taken something; it waits for half a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let waiting = bench.enqueue("held", EnqueueOptions::default()).await;
    gate.add_permits(2);
    assert_eq!(bench.ended(&running).await.state, TaskState::Succeeded, "what runs, runs on");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(
        bench.client.show(&waiting).await.unwrap().unwrap().state,
        TaskState::Queued,
        "it was taken by a worker that does not know what is revoked"
    );
    store.set_away(false);
    assert_eq!(bench.ended(&waiting).await.state, TaskState::Succeeded);
    bench.stop(Drain::Warm).await;
}
