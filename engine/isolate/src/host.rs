//! The functions that guests may call, one interface a file, for components and for core modules alike.
//!
//! Every function begins with `AttemptState::enter`: a stopped attempt's next host call never returns.

pub(crate) mod abi;
mod checkpoint;
mod children;
mod config;
mod context;
mod denial;
pub(crate) mod files;
pub(crate) mod http;
mod kv;
mod lifecycle;
mod log;
pub(crate) mod proc_exit;
pub(crate) mod raw;
pub(crate) mod secrets;
pub(crate) mod stdio;
mod stop_events;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stem_core::backend::buckets::{Changed, Entry, When};
use stem_core::envelope::Payload;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::limits::Limits;
use stem_core::outcome::{StopHow, StopNotice};
use stem_core::task::Progress;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use self::abi::types::HostError;
use self::denial::Denials;
use self::files::{CoreFiles, FileRules};
pub use self::log::LogLevel;
pub(crate) use self::log::Logs;
use self::secrets::Placeholders;
use crate::exit::HostTrap;
use crate::granted::Granted;
use crate::interrupt::Shared;
use crate::isolate::AttemptSpec;
use crate::limiter::Limiter;

/// Why the worker could not do what a guest asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else owns the task: the guest is stopped.
    LeaseLost,
    /// The service behind it failed; asking again may work.
    Unavailable(String),
    /// The attempt has used up a count; the text names it.
    Quota(String),
    /// An argument is out of its bounds; the text names it.
    Invalid(String),
}

impl Refusal {
    /// Of a host that has no such service.
    fn nobody(does: &str) -> Self {
        Self::Unavailable(format!("nobody here {does}"))
    }
}

/// A task that a guest enqueues.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Which handler; the attempt's grants allow it.
    pub name: TaskName,
    /// Where it waits; `None` where its parent did.
    pub queue: Option<QueueName>,
    /// The arguments, within the bounds of an envelope.
    pub input: Payload,
    /// Not to be delivered earlier: from now, or from the success it waits for.
    pub delay: Option<Duration>,
    /// Children of one task with the same key are one child, over all attempts.
    pub dedup_key: Option<String>,
    /// The guest's own, within the bounds of an envelope.
    pub headers: BTreeMap<String, String>,
}

impl Child {
    /// To be run where its parent is, as soon as it is enqueued.
    pub fn new(name: TaskName, input: Payload) -> Self {
        Self { name, queue: None, input, delay: None, dedup_key: None, headers: BTreeMap::new() }
    }
}

/// When a child is enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// At once.
    Now,
    /// In the same step as the attempt's success; never if it does not succeed.
    OnSuccess,
}

/// What the worker does for one attempt. The functions without `async` are called often and must not wait.
#[async_trait]
pub trait AttemptHost: Send + Sync + fmt::Debug + 'static {
    /// Whether the task still belongs to this attempt, as far as this process can know. Asked where it begins, on its own
    /// thread: the process may have been stopped since the attempt was admitted, and others may have it by now.
    fn holds_lease(&self) -> bool {
        true
    }
    /// Takes the newest progress, already bounded and printable.
    fn progress(&self, progress: Progress);
    /// Takes a log line, already bounded, printable and within its rate.
    fn log(&self, level: LogLevel, message: &str, fields: &[(String, String)]);
    /// Whether anybody keeps lines of this level.
    fn log_enabled(&self, level: LogLevel) -> bool;
    /// Asks the broker for so much time from now; returns what is left of the lease.
    async fn extend_lease(&self, by: Duration) -> Result<Duration, Refusal>;
    /// The state that an earlier attempt saved.
    async fn load_checkpoint(&self) -> Result<Option<Vec<u8>>, Refusal>;
    /// Keeps state for the next attempt, already bounded.
    async fn save_checkpoint(&self, state: Vec<u8>) -> Result<(), Refusal>;
    /// Enqueues children, granted and bounded already, and answers their ids in order. With [`Release::OnSuccess`] they
    /// are only remembered. All or none are enqueued, as far as one call to the broker is all or none.
    async fn enqueue(&self, _: Vec<Child>, _: Release) -> Result<Vec<TaskId>, Refusal> {
        Err(Refusal::nobody("enqueues tasks"))
    }
    /// A value of a granted bucket.
    async fn read_bucket(&self, _: &str, _: &str) -> Result<Option<Entry>, Refusal> {
        Err(Refusal::nobody("keeps buckets"))
    }
    /// Writes a value of a bucket that is granted for writing, already bounded.
    async fn write_bucket(
        &self,
        _: &str,
        _: &str,
        _: Vec<u8>,
        _: When,
        _: Option<Duration>,
    ) -> Result<Changed, Refusal> {
        Err(Refusal::nobody("keeps buckets"))
    }
    /// Removes a value of a bucket that is granted for writing.
    async fn remove_from_bucket(&self, _: &str, _: &str, _: When) -> Result<Changed, Refusal> {
        Err(Refusal::nobody("keeps buckets"))
    }
}

/// What host functions know of the attempt they are called from.
pub(crate) struct AttemptState {
    pub(crate) shared: Arc<Shared>,
    pub(crate) host: Arc<dyn AttemptHost>,
    pub(crate) spec: Arc<AttemptSpec>,
    pub(crate) limits: Limits,
    pub(crate) limiter: Limiter,
    pub(crate) logs: Logs,
    pub(crate) granted: Arc<Granted>,
    /// What stands for secrets; requests get the secrets from it.
    pub(crate) placeholders: Placeholders,
    /// Tells what is denied; others that deny have a clone.
    pub(crate) denials: Denials,
    /// Secrets that the log says were revealed.
    revealed: BTreeSet<String>,
    /// Tasks that it has enqueued.
    enqueued: usize,
    /// Bytes that it has written into buckets.
    written: usize,
    calls: u64,
    calls_allowed: u64,
    extended: Option<(Instant, Duration)>,
}

impl AttemptState {
    pub(crate) fn new(
        shared: Arc<Shared>,
        host: Arc<dyn AttemptHost>,
        spec: &Arc<AttemptSpec>,
        logs: Logs,
    ) -> Self {
        let limits = spec.limits.clone();
        let limiter = Limiter::new(limits.memory_bytes, limits.table_entries, Arc::clone(&shared));
        Self {
            denials: Denials::new(&spec.info.task_name, Arc::clone(&host)),
            shared,
            host,
            spec: Arc::clone(spec),
            calls_allowed: limits.host_calls_per_second,
            limits,
            limiter,
            logs,
            granted: Arc::clone(&spec.granted),
            placeholders: Placeholders::new(Arc::clone(&spec.granted)),
            revealed: BTreeSet::new(),
            enqueued: 0,
            written: 0,
            calls: 0,
            extended: None,
        }
    }

    /// Ends the guest here if it is to stop, or calls too often.
    fn enter(&mut self) -> wasmtime::Result<()> {
        if let Some((reason, _)) = self.shared.stop() {
            return Err(wasmtime::Error::new(HostTrap::Stopped {
                reason,
                how: StopHow::Checkpoint,
            }));
        }
        self.calls += 1;
        if self.calls > self.calls_allowed {
            // What the rate allows by now, and a second's worth on top. Looked at only when the last allowance is used
            // up, so that the clock is read rarely.
            let seconds = self.shared.running_for().as_secs().saturating_add(1);
            self.calls_allowed = self.limits.host_calls_per_second.saturating_mul(seconds);
            if self.calls > self.calls_allowed {
                return Err(wasmtime::Error::new(HostTrap::HostCallFlood));
            }
        }
        Ok(())
    }

    /// [`enter`](Self::enter), and notes that the guest is alive.
    fn checkpoint(&mut self) -> wasmtime::Result<()> {
        self.enter()?;
        self.shared.checkpoint();
        Ok(())
    }

    /// The pending notice, which the guest is told now.
    fn notice(&mut self) -> Option<StopNotice> {
        let notice = self.shared.notice();
        if let Some(notice) = &notice {
            self.shared.told(notice.code);
        }
        notice
    }

    fn trap_lease_lost() -> wasmtime::Error {
        wasmtime::Error::new(HostTrap::Stopped {
            reason: stem_core::outcome::StopReason::LeaseLost,
            how: StopHow::Checkpoint,
        })
    }

    /// Until the hard limit.
    fn left(&self) -> Duration {
        self.limits.hard.saturating_sub(self.shared.running_for())
    }

    /// Waits; `true` if the time passed, `false` if a notice came. A stop never comes back from here: it traps.
    async fn wait(&mut self, duration: Duration) -> wasmtime::Result<bool> {
        let shared = Arc::clone(&self.shared);
        // Not cut to the hard limit: that ends the attempt by itself, and a sleep that returned early would be a lie.
        let timer = tokio::time::sleep(duration);
        tokio::pin!(timer);
        loop {
            let woken = shared.woken.notified();
            tokio::pin!(woken);
            // Registered before the flags are looked at, so that what is set in between is not missed.
            woken.as_mut().enable();
            self.enter()?;
            if self.notice().is_some() {
                return Ok(false);
            }
            tokio::select! {
                () = &mut timer => {
                    self.enter()?;
                    return Ok(true);
                }
                () = woken => {}
            }
        }
    }

    /// Asks the broker for more time, at most once a second; in between what is known is the answer.
    async fn extend(&mut self, by: Duration) -> wasmtime::Result<Result<Duration, Refusal>> {
        self.checkpoint()?;
        if let Some((at, left)) = self.extended
            && at.elapsed() < Duration::from_secs(1)
        {
            return Ok(Ok(left.saturating_sub(at.elapsed())));
        }
        let host = Arc::clone(&self.host);
        let answer = self.unless_stopped(host.extend_lease(by.min(self.left()))).await?;
        match answer {
            Ok(left) => {
                self.extended = Some((Instant::now(), left));
                Ok(Ok(left))
            }
            Err(Refusal::LeaseLost) => Err(Self::trap_lease_lost()),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Asks the worker, and puts what it refuses into the guest's words.
    async fn ask<T>(
        &mut self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> wasmtime::Result<Result<T, HostError>> {
        match self.unless_stopped(work).await? {
            Err(Refusal::LeaseLost) => Err(Self::trap_lease_lost()),
            answer => Ok(answer.map_err(Into::into)),
        }
    }

    /// Waits for the worker, and no longer than until the attempt is stopped.
    async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> wasmtime::Result<T> {
        let shared = Arc::clone(&self.shared);
        tokio::pin!(work);
        loop {
            let woken = shared.woken.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if let Some((reason, _)) = shared.stop() {
                return Err(wasmtime::Error::new(HostTrap::Stopped {
                    reason,
                    how: StopHow::Checkpoint,
                }));
            }
            tokio::select! {
                done = &mut work => return Ok(done),
                () = woken => {}
            }
        }
    }
}

/// The state behind a component.
pub(crate) struct ComponentState {
    pub(crate) wasi: WasiCtx,
    /// Before the table: its going says that what lies in there is not finished.
    pub(crate) http: http::Http,
    pub(crate) table: ResourceTable,
    pub(crate) files: FileRules,
    pub(crate) attempt: AttemptState,
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// The state behind a core module.
pub(crate) struct CoreState {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) files: CoreFiles,
    pub(crate) attempt: AttemptState,
    pub(crate) raw: raw::RawState,
}
