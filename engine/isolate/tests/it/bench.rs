//! A bench: one sandbox that the tests of this binary share, and a worker that records what guests ask of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::buckets::{Changed, Entry, When as Condition};
use stem_core::envelope::Payload;
use stem_core::id::TaskId;
use stem_core::limits::Limits;
use stem_core::outcome::{Failure, FailureKind, Outcome, RetryAdvice, StopHow, StopReason};
use stem_core::task::Progress;
use stem_isolate::{
    AttemptHost, AttemptSpec, Child, Compiler, Exit, Granted, InterruptHandle, IsolateRuntime,
    LoadError, LogLevel, Module, OnFailure, Refusal, Release, RunningIsolate, RuntimeConfig,
    TaskInfo,
};
use tokio::sync::Notify;

use crate::guests;

/// Isolates of the shared sandbox; its pool is a quarter and 8 larger.
pub(crate) const ISOLATES: u32 = 16;
/// Slots of its pool.
pub(crate) const SLOTS: u32 = ISOLATES + ISOLATES / 4 + 8;
/// Longer than anything here takes on a slow machine, and short enough to name the test that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Limits that every good guest here fits in.
pub(crate) fn limits() -> Limits {
    Limits {
        memory_bytes: 16 << 20,
        table_entries: 1_000,
        cpu: Duration::from_secs(20),
        soft: None,
        hard: Duration::from_mins(1),
        result_bytes: 64 << 10,
        log_bytes: 1 << 20,
        host_calls_per_second: 10_000_000,
    }
}

/// How the shared sandbox is set up.
pub(crate) fn config() -> RuntimeConfig {
    RuntimeConfig {
        isolates: ISOLATES,
        memory_cap_bytes: 64 << 20,
        threads: 2,
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::InProcess,
        cache_dir: None,
        scratch_dir: None,
    }
}

/// Values with the time they have to live, by bucket and key.
pub(crate) type Values = BTreeMap<(String, String), (Entry, Option<Duration>)>;

/// A worker that keeps what it is told and answers as it is set.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) progress: Mutex<Vec<Progress>>,
    pub(crate) updates: AtomicU64,
    pub(crate) logs: Mutex<Vec<Line>>,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) checkpoint: Mutex<Option<Vec<u8>>>,
    pub(crate) extensions: Mutex<Vec<Duration>>,
    pub(crate) children: Mutex<Vec<(Release, Child)>>,
    pub(crate) buckets: Mutex<Values>,
    pub(crate) versions: AtomicU64,
    pub(crate) refusal: Mutex<Option<Refusal>>,
    /// Calls that may wait do so for ever.
    pub(crate) hangs: AtomicBool,
    /// `progress` panics.
    pub(crate) panics: AtomicBool,
    /// `progress` holds its thread until this gives way.
    pub(crate) gate: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
    /// Told at every progress update and every waiting call.
    pub(crate) called: Notify,
}

/// A log line as the worker got it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) level: LogLevel,
    pub(crate) message: String,
    pub(crate) fields: Vec<(String, String)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Worker {
    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.logs).iter().map(|line| line.message.clone()).collect()
    }

    pub(crate) fn last_progress(&self) -> Option<Progress> {
        lock(&self.progress).last().cloned()
    }

    async fn answer(&self) -> Result<(), Refusal> {
        self.called.notify_one();
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        lock(&self.refusal).clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl AttemptHost for Worker {
    fn progress(&self, progress: Progress) {
        assert!(!self.panics.load(Ordering::SeqCst), "the worker was told to panic");
        self.updates.fetch_add(1, Ordering::SeqCst);
        self.called.notify_one();
        if let Some(gate) = lock(&self.gate).take() {
            let _ = gate.recv();
        }
        let mut kept = lock(&self.progress);
        if kept.len() < 1_000 {
            kept.push(progress);
        } else {
            *kept.last_mut().unwrap() = progress;
        }
    }

    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        let bytes =
            fields.iter().fold(message.len(), |sum, (name, value)| sum + name.len() + value.len());
        self.log_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        let line = Line { level, message: message.to_owned(), fields: fields.to_vec() };
        lock(&self.logs).push(line);
    }

    fn log_enabled(&self, level: LogLevel) -> bool {
        level >= LogLevel::Debug
    }

    async fn extend_lease(&self, by: Duration) -> Result<Duration, Refusal> {
        lock(&self.extensions).push(by);
        self.answer().await.map(|()| by.min(Duration::from_secs(40)))
    }

    async fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, Refusal> {
        self.answer().await.map(|()| lock(&self.checkpoint).clone())
    }

    async fn save_checkpoint(&self, state: Vec<u8>) -> Result<(), Refusal> {
        self.answer().await.map(|()| *lock(&self.checkpoint) = Some(state))
    }

    async fn enqueue(
        &self,
        children: Vec<Child>,
        release: Release,
    ) -> Result<Vec<TaskId>, Refusal> {
        self.answer().await?;
        let mut enqueued = lock(&self.children);
        let ids = (enqueued.len() + 1..).take(children.len());
        let ids = ids.map(|number| TaskId::new(format!("child-{number}")).unwrap()).collect();
        enqueued.extend(children.into_iter().map(|child| (release, child)));
        Ok(ids)
    }

    async fn read_bucket(&self, bucket: &str, key: &str) -> Result<Option<Entry>, Refusal> {
        self.answer().await?;
        let place = (bucket.to_owned(), key.to_owned());
        Ok(lock(&self.buckets).get(&place).map(|(entry, _)| entry.clone()))
    }

    async fn write_bucket(
        &self,
        bucket: &str,
        key: &str,
        value: Vec<u8>,
        when: Condition,
        ttl: Option<Duration>,
    ) -> Result<Changed, Refusal> {
        self.answer().await?;
        let place = (bucket.to_owned(), key.to_owned());
        let mut buckets = lock(&self.buckets);
        if !when.holds(buckets.get(&place).map(|(entry, _)| entry.version)) {
            return Ok(Changed::Conflict);
        }
        let version = self.versions.fetch_add(1, Ordering::SeqCst) + 1;
        buckets.insert(place, (Entry { value, version }, ttl));
        Ok(Changed::Done(version))
    }

    async fn remove_from_bucket(
        &self,
        bucket: &str,
        key: &str,
        when: Condition,
    ) -> Result<Changed, Refusal> {
        self.answer().await?;
        let place = (bucket.to_owned(), key.to_owned());
        let mut buckets = lock(&self.buckets);
        let Some((Entry { version, .. }, _)) = buckets.get(&place).cloned() else {
            return Ok(Changed::Absent);
        };
        if !when.holds(Some(version)) {
            return Ok(Changed::Conflict);
        }
        buckets.remove(&place);
        Ok(Changed::Done(version))
    }
}

/// What a guest is told here.
pub(crate) fn info() -> TaskInfo {
    TaskInfo {
        task_id: "task-1".to_owned(),
        task_name: "echo".to_owned(),
        queue: "default".to_owned(),
        attempt: 2,
        max_attempts: Some(5),
        enqueued_at_ms: 1_767_225_600_123,
        parent_id: None,
        root_id: "root-1".to_owned(),
        idempotency_key: "key-1".to_owned(),
        trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        headers: vec![("tenant".to_owned(), "blue".to_owned())],
    }
}

/// An attempt at this input.
pub(crate) fn spec(input: &[u8], limits: Limits) -> AttemptSpec {
    AttemptSpec {
        input: Payload { media_type: stem_core::envelope::JSON.to_owned(), bytes: input.to_vec() },
        info: info(),
        limits,
        on_failure: OnFailure::Retry,
        granted: Arc::default(),
    }
}

/// A sandbox, a worker, and what a test does with them.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    pub(crate) runtime: Arc<IsolateRuntime>,
    pub(crate) worker: Arc<Worker>,
    pub(crate) limits: Limits,
    pub(crate) granted: Granted,
    pub(crate) good: Arc<Module>,
}

/// The sandbox that this binary's tests share, and the good module in it.
fn shared() -> &'static (Arc<IsolateRuntime>, Arc<Module>) {
    static SHARED: OnceLock<(Arc<IsolateRuntime>, Arc<Module>)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let runtime = IsolateRuntime::new(&config()).unwrap();
        let good = std::thread::scope(|scope| {
            scope.spawn(|| block_on(runtime.load(&wat(&guests::good()))).unwrap()).join().unwrap()
        });
        (runtime, good)
    })
}

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn wat(text: &str) -> Vec<u8> {
    match wat::parse_str(text) {
        Ok(bytes) => bytes,
        Err(error) => panic!("{error}\n{text}"),
    }
}

impl Bench {
    /// A new worker at the shared sandbox.
    pub(crate) fn new() -> Self {
        let (runtime, good) = shared();
        Self {
            runtime: Arc::clone(runtime),
            worker: Arc::default(),
            limits: limits(),
            granted: Granted::default(),
            good: Arc::clone(good),
        }
    }

    /// A new worker at a sandbox of its own.
    pub(crate) async fn of(config: &RuntimeConfig) -> Self {
        let runtime = IsolateRuntime::new(config).unwrap();
        let good = runtime.load(&wat(&guests::good())).await.unwrap();
        Self {
            runtime,
            worker: Arc::default(),
            limits: limits(),
            granted: Granted::default(),
            good,
        }
    }

    pub(crate) async fn load(&self, text: &str) -> Arc<Module> {
        self.try_load(text).await.unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    pub(crate) async fn try_load(&self, text: &str) -> Result<Arc<Module>, LoadError> {
        self.runtime.load(&wat(text)).await
    }

    pub(crate) fn start(&self, module: &Arc<Module>, input: &[u8]) -> RunningIsolate {
        let granted = Arc::new(self.granted.clone());
        let spec = AttemptSpec { granted, ..spec(input, self.limits.clone()) };
        self.runtime.start(module, spec, Arc::clone(&self.worker) as Arc<dyn AttemptHost>)
    }

    /// Loads, runs to the end, and checks that the sandbox is as good as before.
    pub(crate) async fn run(&self, text: &str, input: &[u8]) -> Exit {
        let module = self.load(text).await;
        let exit = exit(self.start(&module, input)).await;
        self.assert_good_task_runs().await;
        exit
    }

    /// Runs a guest that does not end by itself: stops it by force once it says (by progress) that it is where it
    /// wants to be, or after its first slices where it cannot say so.
    pub(crate) async fn run_and_stop(&self, module: &Arc<Module>, when: When) -> Exit {
        let (interrupt, end) = self.start(module, b"1").into_parts();
        match when {
            When::Called => within(self.worker.called.notified()).await,
            When::Computing => computing(&interrupt, Duration::from_millis(1)).await,
            When::Begun => computing(&interrupt, Duration::from_nanos(1)).await,
        }
        interrupt.stop(StopReason::Revoked, true);
        let exit = within(end).await;
        self.assert_good_task_runs().await;
        exit
    }

    /// The sandbox runs a good task correctly: input through memory, a host call, the result back.
    pub(crate) async fn assert_good_task_runs(&self) {
        let worker: Arc<Worker> = Arc::default();
        let spec = spec(b"good task", limits());
        let exit = exit(self.runtime.start(&self.good, spec, worker)).await;
        assert_eq!(text(&exit), "GOOD\0TASK", "{exit:?}");
    }

    pub(crate) fn good(&self) -> &Arc<Module> {
        &self.good
    }
}

/// When a guest is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// It called the worker.
    Called,
    /// It has used CPU time.
    Computing,
    /// Its first poll is over: it waits.
    Begun,
}

/// Waits until the guest has used so much CPU time. Watched, because a guest that calls nobody raises no event.
pub(crate) async fn computing(interrupt: &InterruptHandle, cpu: Duration) {
    let watch = async {
        while interrupt.usage().cpu_ms < cpu.as_secs_f64() * 1e3 {
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    };
    within(watch).await;
}

/// Waits, and fails instead of hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes milliseconds, not minutes")
}

pub(crate) async fn exit(isolate: RunningIsolate) -> Exit {
    within(isolate.exit()).await
}

/// Resident memory of this process in bytes.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Whether no other test runs in this process. Where others do, its memory says nothing.
pub(crate) fn has_a_process_of_its_own() -> bool {
    std::env::var_os("NEXTEST").is_some()
}

/// The result as text.
#[track_caller]
pub(crate) fn text(exit: &Exit) -> String {
    match &exit.outcome {
        Outcome::Succeeded(payload) => String::from_utf8(payload.bytes.clone()).unwrap(),
        other => panic!("no result: {other:?}"),
    }
}

/// The failure.
#[track_caller]
pub(crate) fn failure(exit: &Exit) -> (&Failure, RetryAdvice) {
    match &exit.outcome {
        Outcome::Failed { failure, retry } => (failure, *retry),
        other => panic!("no failure: {other:?}"),
    }
}

/// Kind and code of the failure.
#[track_caller]
pub(crate) fn kind_and_code(exit: &Exit) -> (FailureKind, &str) {
    let (failure, _) = failure(exit);
    (failure.kind, &failure.code)
}

/// Why and where it was stopped.
#[track_caller]
pub(crate) fn stopped(exit: &Exit) -> (StopReason, StopHow) {
    match &exit.outcome {
        Outcome::Stopped { reason, how, .. } => (*reason, *how),
        other => panic!("not stopped: {other:?}"),
    }
}

/// Checks a stop by force of a guest that was computing or waiting.
#[track_caller]
pub(crate) fn assert_preempted(exit: &Exit) {
    assert_eq!(stopped(exit), (StopReason::Revoked, StopHow::Preempted), "{exit:?}");
}
