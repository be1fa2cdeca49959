//! One attempt: a store, its limits, one call, and how it ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use stem_core::envelope::Payload;
use stem_core::limits::{Limits, Usage};
use stem_core::outcome::{Failure, FailureKind, Outcome, RetryAdvice, StopHow, StopReason};
use stem_host_abi::{command, limits, stop};
use tokio::sync::{Semaphore, oneshot};
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use crate::config;
use crate::exit::{self, Circumstances, HostTrap};
use crate::granted::Granted;
use crate::host::abi::{self, types};
use crate::host::files::{self, FileRules, Files, Scratches};
use crate::host::http::{Http, Network};
use crate::host::raw::RawState;
use crate::host::stdio::Output;
use crate::host::{AttemptHost, AttemptState, ComponentState, CoreState, LogLevel, Logs};
use crate::interrupt::{Driver, InterruptHandle, Shared};
use crate::limiter::{Limiter, Refused};
use crate::module::{self, Linked, Module, ModuleKind, OnFailure};
use crate::report::{Kind, Report};
use crate::runtime::IsolateRuntime;

/// Handles (streams, pollables, descriptors) a guest may hold at once.
const HANDLES: usize = 4_096;
/// Random bytes a guest may ask for in one call.
const RANDOM_BYTES: u64 = 64 << 10;
/// Bytes a guest may pass to the host in one call, beside its result: above every argument's own bound, so that those
/// answer first, and small enough that copying cannot be felt.
const CALL_BYTES: usize = 2 << 20;

/// Facts about the attempt that the guest is told. As JSON it is the answer to `stem0.info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskInfo {
    /// The task.
    pub task_id: String,
    /// Its handler.
    pub task_name: String,
    /// Its queue.
    pub queue: String,
    /// 1 for the first.
    pub attempt: u32,
    /// Retries included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Milliseconds since 1970.
    pub enqueued_at_ms: u64,
    /// The task that enqueued this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// The first of the chain.
    pub root_id: String,
    /// The same in every attempt.
    pub idempotency_key: String,
    /// W3C `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
    /// The producer's own.
    pub headers: Vec<(String, String)>,
}

/// What to run.
#[derive(Debug)]
pub struct AttemptSpec {
    /// The arguments.
    pub input: Payload,
    /// What the guest is told.
    pub info: TaskInfo,
    /// What it may use. The hard limit is told to the guest and enforced by whoever holds the [`InterruptHandle`].
    pub limits: Limits,
    /// What a failure without words means.
    pub on_failure: OnFailure,
    /// What it may reach.
    pub granted: Arc<Granted>,
}

/// How an attempt ended, and what it used.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// How.
    pub outcome: Outcome,
    /// What.
    pub usage: Usage,
}

/// An attempt under way.
#[derive(Debug)]
pub struct RunningIsolate {
    /// Stops and watches it.
    pub interrupt: InterruptHandle,
    exit: oneshot::Receiver<Exit>,
}

impl RunningIsolate {
    /// Waits for the end. No guest code runs any more when this returns. Dropping it stops nothing.
    pub async fn exit(self) -> Exit {
        self.exit.await.unwrap_or_else(|_| Exit {
            outcome: Outcome::Stopped {
                reason: StopReason::Shutdown,
                how: StopHow::Preempted,
                elapsed: Duration::ZERO,
            },
            usage: Usage::default(),
        })
    }

    /// Both parts.
    pub fn into_parts(self) -> (InterruptHandle, impl Future<Output = Exit> + Send) {
        (self.interrupt.clone(), self.exit())
    }
}

impl IsolateRuntime {
    /// Starts an attempt on the guests' threads. Instantiating runs guest code too, so it happens there.
    pub fn start(
        self: &Arc<Self>,
        module: &Arc<Module>,
        spec: AttemptSpec,
        host: Arc<dyn AttemptHost>,
    ) -> RunningIsolate {
        let (exit, receiver) = oneshot::channel();
        let shared = Arc::new(Shared::new(spec.limits.cpu, exit));
        let interrupt = InterruptHandle::new(Arc::clone(&shared), Arc::clone(&self.ticker));
        let mut spec = spec;
        spec.limits.memory_bytes = spec.limits.memory_bytes.min(self.memory_cap_bytes);
        spec.limits.table_entries = spec.limits.table_entries.min(config::TABLE_ENTRIES as u64);
        // Not this runtime itself: an attempt must not keep alive what drives it.
        let sandbox = Sandbox {
            engine: self.engine.clone(),
            slices: self.ticker.slices(),
            room: Arc::clone(&self.room),
            network: Arc::clone(&self.network),
            scratches: Arc::clone(&self.scratches),
        };
        let call = run(sandbox, Arc::clone(module), spec, host, Arc::clone(&shared));
        shared.fill(Box::pin(call));
        Driver::spawn(&shared, self.guests(), self.timers(), &self.ticker);
        RunningIsolate { interrupt, exit: receiver }
    }
}

/// What an attempt needs of the runtime.
struct Sandbox {
    engine: Engine,
    slices: Arc<AtomicU64>,
    room: Arc<Semaphore>,
    network: Arc<Network>,
    scratches: Arc<Scratches>,
}

/// A store with every limit set.
fn store<T: 'static>(
    sandbox: &Sandbox,
    state: T,
    attempt: impl Fn(&mut T) -> &mut AttemptState + Copy + Send + Sync + 'static,
) -> Store<T> {
    let mut store = Store::new(&sandbox.engine, state);
    store.limiter(move |state| -> &mut dyn wasmtime::ResourceLimiter {
        let limiter: &mut Limiter = &mut attempt(state).limiter;
        limiter
    });
    store.set_hostcall_fuel(CALL_BYTES);
    store.set_epoch_deadline(1);
    let slices = Arc::clone(&sandbox.slices);
    let mut slice = slices.load(Ordering::Relaxed);
    store.epoch_deadline_callback(move |mut context| {
        let shared = &attempt(context.data_mut()).shared;
        if let Some(reason) = shared.forced() {
            return Err(wasmtime::Error::new(HostTrap::Stopped {
                reason,
                how: StopHow::Preempted,
            }));
        }
        if shared.cpu_is_used_up() {
            return Err(wasmtime::Error::new(HostTrap::CpuLimit));
        }
        // The epoch also rises when somebody else is stopped; only the end of a slice makes a guest give way.
        let now = slices.load(Ordering::Relaxed);
        Ok(if std::mem::replace(&mut slice, now) == now {
            UpdateDeadline::Continue(1)
        } else {
            UpdateDeadline::Yield(1)
        })
    });
    store
}

/// The WASI side of an attempt: nothing but output, clocks and randomness; files come to it later.
fn wasi(
    spec: &AttemptSpec,
    stdout: Output,
    stderr: Output,
    stdin: Option<Vec<u8>>,
) -> WasiCtxBuilder {
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdout(stdout).stderr(stderr).max_random_size(RANDOM_BYTES).arg(&spec.info.task_name);
    if let Some(stdin) = stdin {
        wasi.stdin(MemoryInputPipe::new(stdin));
    }
    wasi
}

/// What a command finds in its environment and after its name. No setting stands for what the contract says.
fn environment(wasi: &mut WasiCtxBuilder, spec: &AttemptSpec) {
    wasi.args(&spec.granted.arguments);
    let is_ours = |name: &str| name.starts_with("STEM_") || name == command::ENV_TRACEPARENT;
    for (name, value) in spec.granted.settings.iter().filter(|(name, _)| !is_ours(name)) {
        wasi.env(name, value);
    }
    let info = &spec.info;
    let deadline = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_add(spec.limits.hard);
    wasi.env(command::ENV_TASK_ID, &info.task_id)
        .env(command::ENV_TASK_NAME, &info.task_name)
        .env(command::ENV_QUEUE, &info.queue)
        .env(command::ENV_ATTEMPT, info.attempt.to_string())
        .env(command::ENV_DEADLINE_MS, abi::millis(deadline).to_string())
        .env(command::ENV_IDEMPOTENCY_KEY, &info.idempotency_key)
        .env(command::ENV_MEDIA_TYPE, &spec.input.media_type);
    if let Some(attempts) = info.max_attempts {
        wasi.env(command::ENV_MAX_ATTEMPTS, attempts.to_string());
    }
    if let Some(trace) = &info.trace_parent {
        wasi.env(command::ENV_TRACEPARENT, trace);
    }
}

async fn run(
    sandbox: Sandbox,
    module: Arc<Module>,
    mut spec: AttemptSpec,
    host: Arc<dyn AttemptHost>,
    shared: Arc<Shared>,
) -> Outcome {
    // Isolates that were just stopped hold their slots until they are taken down; the next ones wait here for them
    // instead of failing. Given back when everything below is gone.
    let room = Arc::clone(&sandbox.room)
        .acquire_many_owned(module.slots)
        .await
        .expect("the semaphore is never closed");
    if !host.holds_lease() {
        return Outcome::not_begun();
    }
    let logs = Logs::new(Arc::clone(&host), spec.limits.log_bytes);
    let mut input = std::mem::take(&mut spec.input.bytes);
    let spec = Arc::new(spec);
    let (files, _room) = if spec.granted.needs_files() {
        if module.kind == ModuleKind::Command && spec.granted.input_file.is_some() {
            input = files::as_file(input, &spec.input.media_type);
        }
        let payload = (module.kind == ModuleKind::Command).then_some(&mut input);
        let scratches = Arc::clone(&sandbox.scratches);
        match Files::prepare(scratches, Arc::clone(&spec.granted), payload, room).await {
            Ok(files) => (Some(files), None),
            Err(outcome) => return outcome,
        }
    } else {
        (None, Some(room))
    };
    let attempt = AttemptState::new(Arc::clone(&shared), Arc::clone(&host), &spec, logs.clone());
    let run = Run { sandbox, spec, shared, logs: logs.clone(), files };
    let outcome = match &module.linked {
        Linked::Task(pre) => run.task(pre, input, attempt).await,
        Linked::Command(pre) => run.command(pre, input, attempt).await,
        Linked::CoreCommand(pre) => run.core(pre, input, attempt, Entry::Start).await,
        Linked::Raw(pre) => run.core(pre, input, attempt, Entry::Run).await,
    };
    match logs.dropped() {
        0 => {}
        dropped => host.log(
            LogLevel::Warn,
            &format!("{dropped} log lines were dropped in this attempt"),
            &[],
        ),
    }
    outcome
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Start,
    Run,
}

struct Run {
    sandbox: Sandbox,
    spec: Arc<AttemptSpec>,
    shared: Arc<Shared>,
    logs: Logs,
    files: Option<Files>,
}

impl Run {
    /// Gives the WASI side the attempt's files. An error is the attempt's outcome.
    async fn mounted(&self, wasi: WasiCtxBuilder) -> Result<(WasiCtxBuilder, FileRules), Outcome> {
        match &self.files {
            Some(files) => files.mount(wasi).await.map(|wasi| (wasi, files.rules())),
            None => Ok((wasi, FileRules::default())),
        }
    }

    /// Where a command prints: its result, unless that is in a file.
    fn printed(&self) -> Output {
        match &self.spec.granted.result_file {
            Some(_) => Output::lines(self.logs.clone(), LogLevel::Info),
            None => Output::result(self.spec.limits.result_bytes),
        }
    }

    fn classify(&self, error: &wasmtime::Error, limiter: &Limiter) -> Outcome {
        exit::classify(
            error,
            &Circumstances {
                shared: &self.shared,
                refused: limiter.refused(),
                memory_limit: self.spec.limits.memory_bytes,
                table_limit: self.spec.limits.table_entries,
                result_limit: self.spec.limits.result_bytes,
            },
        )
    }

    /// The result, or the failure of one that is too large.
    fn succeeded(&self, result: Payload) -> Outcome {
        if result.bytes.len() as u64 > self.spec.limits.result_bytes {
            return exit::result_too_large(self.spec.limits.result_bytes);
        }
        Outcome::Succeeded(result)
    }

    /// A guest that gave up: in good order if it was asked to, otherwise it cannot dodge a failure this way.
    fn cancelled(&self, failure: Failure) -> Outcome {
        let reason = match self.shared.notice().map(|notice| notice.code) {
            Some(stop::REVOKED) => StopReason::Revoked,
            Some(stop::SOFT_TIME_LIMIT) => StopReason::TimeLimit,
            Some(_) => StopReason::Shutdown,
            None => return Outcome::Failed { failure, retry: RetryAdvice::Never },
        };
        Outcome::Stopped { reason, how: StopHow::Checkpoint, elapsed: self.shared.stopping_for() }
    }

    /// A failure that may be tried again. A guest that was told of a drain and asks to run again has done what was
    /// asked; no attempt is used up.
    fn retryable(&self, failure: Failure, retry: RetryAdvice) -> Outcome {
        if self.shared.told_of_shutdown() {
            return Outcome::Stopped {
                reason: StopReason::Shutdown,
                how: StopHow::Checkpoint,
                elapsed: self.shared.stopping_for(),
            };
        }
        Outcome::Failed { failure, retry }
    }

    /// A failure whose detail was over its bound is noted in the log.
    fn noted(&self, (failure, left_out): (Failure, Option<usize>)) -> Failure {
        if let Some(size) = left_out {
            let line = format!("the failure's detail of {size} bytes was left out");
            self.logs.write(LogLevel::Warn, &line, &[]);
        }
        failure
    }

    /// A failure as its author told it.
    fn reported(&self, report: Report) -> Outcome {
        let retry = report.retry();
        let failure = self.noted((report.failure, report.left_out));
        match report.kind {
            Kind::Retryable => self.retryable(failure, retry),
            Kind::Fatal => Outcome::Failed { failure, retry: RetryAdvice::Never },
            Kind::Cancelled => self.cancelled(failure),
        }
    }

    /// A failure without words. A guest that was refused memory has mostly failed of that: runtimes that find none exit.
    fn failed_silently(&self, code: &str, message: &str, refused: Option<Refused>) -> Outcome {
        if let Some(refused) = refused {
            let Limits { memory_bytes, table_entries, .. } = self.spec.limits;
            return exit::over_memory(refused, memory_bytes, table_entries);
        }
        match self.spec.on_failure {
            OnFailure::Retry => Outcome::failed(FailureKind::Error, code, message),
            OnFailure::Fail => Outcome::fatal(FailureKind::Error, code, message),
        }
    }

    async fn task(
        &self,
        pre: &abi::IsolatePre<ComponentState>,
        input: Vec<u8>,
        attempt: AttemptState,
    ) -> Outcome {
        let stdout = Output::lines(self.logs.clone(), LogLevel::Info);
        let stderr = Output::lines(self.logs.clone(), LogLevel::Info);
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let http = Http::new(&attempt, Arc::clone(&self.sandbox.network));
        let wasi = wasi(&self.spec, stdout.clone(), stderr.clone(), None);
        let (mut wasi, files) = match self.mounted(wasi).await {
            Ok(mounted) => mounted,
            Err(outcome) => return outcome,
        };
        let state = ComponentState { wasi: wasi.build(), http, table, files, attempt };
        let mut store = store(&self.sandbox, state, |state| &mut state.attempt);
        store.set_max_component_handles(HANDLES);
        let media_type = self.spec.input.media_type.clone();
        let called = async {
            let isolate = pre.instantiate_async(&mut store).await?;
            // The result's bytes are counted too: a result just over its own bound is told as that.
            store.set_hostcall_fuel(
                CALL_BYTES
                    + usize::try_from(self.spec.limits.result_bytes).unwrap_or(usize::MAX / 4),
            );
            let input = types::Payload { media_type, bytes: input };
            isolate.stem_task_handler().call_run(&mut store, &input).await
        }
        .await;
        stdout.finish();
        stderr.finish();
        match called {
            Ok(Ok(result)) => self.succeeded(abi::payload(result)),
            Ok(Err(types::TaskError::Retryable(retryable))) => {
                let failure = self.noted(abi::failure(retryable.cause));
                let retry = retryable.not_before.map_or(RetryAdvice::Policy, |ms| {
                    RetryAdvice::After(Duration::from_millis(ms))
                });
                self.retryable(failure, retry)
            }
            Ok(Err(types::TaskError::Fatal(failure))) => Outcome::Failed {
                failure: self.noted(abi::failure(failure)),
                retry: RetryAdvice::Never,
            },
            Ok(Err(types::TaskError::Cancelled(failure))) => {
                self.cancelled(self.noted(abi::failure(failure)))
            }
            Err(error) => self.classify(&error, &store.data().attempt.limiter),
        }
    }

    async fn command(
        &self,
        pre: &wasmtime_wasi::p2::bindings::CommandPre<ComponentState>,
        input: Vec<u8>,
        attempt: AttemptState,
    ) -> Outcome {
        let stdout = self.printed();
        let stderr = Output::lines(self.logs.clone(), LogLevel::Info);
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let http = Http::new(&attempt, Arc::clone(&self.sandbox.network));
        let mut wasi = wasi(&self.spec, stdout.clone(), stderr.clone(), Some(input));
        environment(&mut wasi, &self.spec);
        let (mut wasi, files) = match self.mounted(wasi).await {
            Ok(mounted) => mounted,
            Err(outcome) => return outcome,
        };
        let state = ComponentState { wasi: wasi.build(), http, table, files, attempt };
        let mut store = store(&self.sandbox, state, |state| &mut state.attempt);
        store.set_max_component_handles(HANDLES);
        let called = async {
            let command = pre.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        }
        .await;
        let report = stderr.finish();
        let refused = store.data().attempt.limiter.refused();
        match called {
            Ok(Ok(())) => self.command_ended(Some(0), &stdout, report, refused).await,
            Ok(Err(())) => self.command_ended(None, &stdout, report, refused).await,
            Err(error) => match error.downcast_ref::<I32Exit>() {
                // The exit call of WASI 0.2 knows success and failure only; a failure arrives as 1.
                Some(I32Exit(1)) => self.command_ended(None, &stdout, report, refused).await,
                Some(I32Exit(code)) => {
                    self.command_ended(Some(*code), &stdout, report, refused).await
                }
                None => self.command_broke(&error, &store.data().attempt.limiter, &stdout),
            },
        }
    }

    fn command_broke(
        &self,
        error: &wasmtime::Error,
        limiter: &Limiter,
        stdout: &Output,
    ) -> Outcome {
        // The preview 1 layer wraps a stream's trap in an error of its own.
        if stdout.is_over() && self.shared.forced().is_none() {
            return exit::result_too_large(self.spec.limits.result_bytes);
        }
        self.classify(error, limiter)
    }

    /// What a command's end means; `None` is a failure without a code.
    async fn command_ended(
        &self,
        code: Option<i32>,
        stdout: &Output,
        report: Option<Report>,
        refused: Option<Refused>,
    ) -> Outcome {
        stdout.finish();
        if code == Some(command::EXIT_OK) {
            let result = match (&self.spec.granted.result_file, &self.files) {
                (Some(path), Some(files)) => {
                    match files.result(path, self.spec.limits.result_bytes).await {
                        Ok(result) => result,
                        Err(outcome) => return outcome,
                    }
                }
                _ => stdout.take_result(),
            };
            return match result {
                Some(bytes) => {
                    self.succeeded(Payload { media_type: media_type_of(&bytes).to_owned(), bytes })
                }
                None => exit::result_too_large(self.spec.limits.result_bytes),
            };
        }
        let name = code.map_or_else(|| "exit".to_owned(), |code| format!("exit-{code}"));
        let words = "the command ended with a failure and told nothing on a stem-error: line";
        let kind = match code {
            Some(command::EXIT_RETRYABLE) => Some(Kind::Retryable),
            Some(command::EXIT_CANCELLED) => Some(Kind::Cancelled),
            Some(code) if command::FATAL_EXITS.contains(&code) => Some(Kind::Fatal),
            _ => None,
        };
        match (kind, report) {
            // A code that decides is stronger than the line's kind; the line still gives the words.
            (Some(kind), Some(report)) => self.reported(Report { kind, ..report }),
            (None, Some(report)) => self.reported(report),
            (Some(kind), None) => self.reported(Report {
                kind,
                failure: Failure::new(FailureKind::Error, &name, words),
                retry_after: Duration::ZERO,
                left_out: None,
            }),
            (None, None) => self.failed_silently(&name, words, refused),
        }
    }

    async fn core(
        &self,
        pre: &wasmtime::InstancePre<CoreState>,
        input: Vec<u8>,
        attempt: AttemptState,
        entry: Entry,
    ) -> Outcome {
        let stdout = match entry {
            Entry::Start => self.printed(),
            Entry::Run => Output::lines(self.logs.clone(), LogLevel::Info),
        };
        let stderr = Output::lines(self.logs.clone(), LogLevel::Info);
        let stdin = (entry == Entry::Start).then(|| input.clone());
        let mut wasi = wasi(&self.spec, stdout.clone(), stderr.clone(), stdin);
        environment(&mut wasi, &self.spec);
        let info =
            serde_json::to_vec(&self.spec.info).expect("task info holds only text and numbers");
        let (mut wasi, files) = match self.mounted(wasi).await {
            Ok(mounted) => mounted,
            Err(outcome) => return outcome,
        };
        let raw = RawState::new(input, info);
        let state = CoreState { wasi: wasi.build_p1(), files: files.into(), attempt, raw };
        let mut store = store(&self.sandbox, state, |state| &mut state.attempt);
        let called = async {
            let instance = pre.instantiate_async(&mut store).await?;
            if let Some(initialize) = instance.get_func(&mut store, "_initialize") {
                initialize.typed::<(), ()>(&store)?.call_async(&mut store, ()).await?;
            }
            match entry {
                Entry::Start => started(&instance, &mut store).await,
                Entry::Run => {
                    let name = stem_host_abi::raw::EXPORT_RUN;
                    instance
                        .get_typed_func::<(), i32>(&mut store, name)?
                        .call_async(&mut store, ())
                        .await
                }
            }
        }
        .await;
        let line = stderr.finish();
        stdout.finish();
        let refused = store.data().attempt.limiter.refused();
        let told = store.data_mut().raw.report.take();
        let output = std::mem::take(&mut store.data_mut().raw.output);
        match (called, entry) {
            (Ok(0), Entry::Run) => self.succeeded(Payload {
                media_type: media_type_of(&output).to_owned(),
                bytes: output,
            }),
            (Ok(code), Entry::Run) => match told {
                Some(report) => self.reported(report),
                None => self.failed_silently(
                    &format!("exit-{code}"),
                    &format!("stem_run returned {code} and told nothing"),
                    refused,
                ),
            },
            (Ok(code), Entry::Start) => {
                self.command_ended(Some(code), &stdout, line.or(told), refused).await
            }
            (Err(error), _) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(code)) => {
                    self.command_ended(Some(*code), &stdout, line.or(told), refused).await
                }
                None => self.command_broke(&error, &store.data().attempt.limiter, &stdout),
            },
        }
    }
}

/// Runs a command, and returns its exit code where it does not exit by itself.
async fn started(
    instance: &wasmtime::Instance,
    store: &mut Store<CoreState>,
) -> wasmtime::Result<i32> {
    if instance.get_func(&mut *store, module::START).is_some() {
        let start = instance.get_typed_func::<(), ()>(&mut *store, module::START)?;
        return start.call_async(&mut *store, ()).await.map(|()| 0);
    }
    let start = instance.get_typed_func::<(), i32>(&mut *store, module::DELAYED_START)?;
    let code = start.call_async(&mut *store, ()).await?;
    if let Ok(exit) = instance.get_typed_func::<i32, ()>(&mut *store, module::DELAYED_EXIT) {
        exit.call_async(&mut *store, code).await?;
    }
    Ok(code)
}

/// What a command's output is: JSON if it is one JSON document, else bytes.
fn media_type_of(bytes: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
        stem_host_abi::JSON
    } else {
        stem_host_abi::OCTET_STREAM
    }
}

const _: () = assert!(
    CALL_BYTES > limits::CHECKPOINT_BYTES + limits::LOG_LINE_BYTES,
    "arguments answer before the fuel does"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_info_is_written_as_the_golden_samples_say() {
        let minimal = TaskInfo {
            task_id: "0198c5d2-7c1e-7b3a-9f00-2d1c5a6b7e8f".to_owned(),
            task_name: "render-image".to_owned(),
            queue: "default".to_owned(),
            attempt: 1,
            max_attempts: None,
            enqueued_at_ms: 1_767_225_600_123,
            parent_id: None,
            root_id: "0198c5d2-7c1e-7b3a-9f00-2d1c5a6b7e8f".to_owned(),
            idempotency_key: "0198c5d2-7c1e-7b3a-9f00-2d1c5a6b7e8f".to_owned(),
            trace_parent: None,
            headers: vec![],
        };
        assert_eq!(
            serde_json::to_string(&minimal).unwrap(),
            include_str!("../../../host-abi/golden/task-info.minimal.json")
        );
        let parent = "0198c5d2-7c1e-7b3a-9f00-000000000001".to_owned();
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let full = TaskInfo {
            attempt: 2,
            max_attempts: Some(4),
            parent_id: Some(parent.clone()),
            root_id: parent,
            trace_parent: Some(
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
            ),
            headers: vec![
                header("tenant", "blue"),
                header("note", "café"),
                header("tenant", "green"),
            ],
            ..minimal
        };
        assert_eq!(
            serde_json::to_string(&full).unwrap(),
            include_str!("../../../host-abi/golden/task-info.full.json")
        );
    }
}
