//! One attempt: a store, its limits, one call, and how it ended.

mod command;
mod component;
mod info;
mod outcomes;
mod setup;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use stem_core::envelope::Payload;
use stem_core::limits::{Limits, Usage};
use stem_core::outcome::{Outcome, StopHow, StopReason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wasmtime::{Engine, Store};
use wasmtime_wasi::WasiCtxBuilder;

use self::command::Entry;
pub use self::info::TaskInfo;
use crate::config;
use crate::granted::Granted;
use crate::host::files::{self, FileRules, Files, Place};
use crate::host::http::{Http, Network};
use crate::host::{AttemptHost, AttemptState, ComponentState, LogLevel, Logs};
use crate::interrupt::{Driver, InterruptHandle, Shared};
use crate::module::{Linked, Module, ModuleKind, OnFailure};
use crate::runtime::IsolateRuntime;

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
            files: Arc::clone(&self.files),
        };
        let input = std::mem::take(&mut spec.input.bytes);
        let mut run = Run {
            sandbox,
            module: Arc::clone(module),
            logs: Logs::new(Arc::clone(&host), spec.limits.log_bytes),
            spec: Arc::new(spec),
            shared: Arc::clone(&shared),
            host,
            files: None,
        };
        // A block, which keeps what it captures once; the future of a function keeps its arguments twice.
        shared.fill(Box::pin(async move { run.go(input).await }));
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
    files: Arc<Place>,
}

/// One attempt. Thousands of them may wait at once: what lies in here lies there for each.
struct Run {
    sandbox: Sandbox,
    module: Arc<Module>,
    /// Without the input's bytes, which go to the guest.
    spec: Arc<AttemptSpec>,
    shared: Arc<Shared>,
    host: Arc<dyn AttemptHost>,
    logs: Logs,
    files: Option<Files>,
}

impl Run {
    async fn go(&mut self, mut input: Vec<u8>) -> Outcome {
        // Isolates that were just stopped hold their slots until they are taken down; the next ones wait here for them
        // instead of failing. Given back when everything below is gone.
        let room = Arc::clone(&self.sandbox.room)
            .acquire_many_owned(self.module.slots)
            .await
            .expect("the semaphore is never closed");
        if !self.host.holds_lease() {
            return Outcome::not_begun();
        }
        let _room = if self.spec.granted.needs_files() {
            match Box::pin(self.with_files(&mut input, room)).await {
                Ok(files) => self.files = Some(files),
                Err(outcome) => return outcome,
            }
            None
        } else {
            Some(room)
        };
        // From here on guest code may run.
        self.shared.begin();
        let module = Arc::clone(&self.module);
        // Only the most frequent kind has its place in this future; the others would make it larger.
        let outcome = match &module.linked {
            Linked::Task(pre) => self.task(pre, input).await,
            Linked::Command(pre) => Box::pin(self.command(pre, input)).await,
            Linked::CoreCommand(pre) => Box::pin(self.core(pre, input, Entry::Start)).await,
            Linked::Raw(pre) => Box::pin(self.core(pre, input, Entry::Run)).await,
        };
        match self.logs.dropped() {
            0 => {}
            dropped => self.host.log(
                LogLevel::Warn,
                &format!("{dropped} log lines were dropped in this attempt"),
                &[],
            ),
        }
        outcome
    }

    /// What host functions know of the attempt.
    fn attempt(&self) -> AttemptState {
        let (shared, host) = (Arc::clone(&self.shared), Arc::clone(&self.host));
        AttemptState::new(shared, host, &self.spec, self.logs.clone())
    }

    /// The attempt's files, which give the room back when they are gone. An error is the attempt's outcome.
    async fn with_files(
        &self,
        input: &mut Vec<u8>,
        room: OwnedSemaphorePermit,
    ) -> Result<Files, Outcome> {
        let is_command = self.module.kind == ModuleKind::Command;
        if is_command && self.spec.granted.input_file.is_some() {
            *input = files::as_file(std::mem::take(input), &self.spec.input.media_type);
        }
        let payload = is_command.then_some(input);
        let place = Arc::clone(&self.sandbox.files);
        Files::prepare(place, Arc::clone(&self.spec.granted), payload, room).await
    }

    /// Gives the WASI side the attempt's files. An error is the attempt's outcome.
    async fn mounted(&self, wasi: WasiCtxBuilder) -> Result<(WasiCtxBuilder, FileRules), Outcome> {
        match &self.files {
            Some(files) => files.mount(wasi).await.map(|wasi| (wasi, files.rules())),
            None => Ok((wasi, FileRules::default())),
        }
    }

    /// The store of a component, with everything that the attempt is given. An error is the attempt's outcome.
    async fn component_store(
        &self,
        wasi: WasiCtxBuilder,
    ) -> Result<Store<ComponentState>, Outcome> {
        let (mut wasi, files) = self.mounted(wasi).await?;
        let attempt = self.attempt();
        let http = Http::new(&attempt, Arc::clone(&self.sandbox.network));
        let state =
            ComponentState { wasi: wasi.build(), http, table: setup::resources(), files, attempt };
        Ok(setup::component_store(&self.sandbox, state))
    }
}
