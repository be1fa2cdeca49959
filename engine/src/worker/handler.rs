//! A handler of either kind, and an attempt of either kind under way.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stem_core::id::Digest;
use stem_core::limits::{Limits, Usage};
use stem_core::outcome::{StopNotice, StopReason};
use stem_core::release::Release;
use stem_core::task::ModuleRef;
use stem_isolate::{
    AttemptHost, AttemptSpec, Exit, Granted, InterruptHandle, IsolateRuntime, Module, TaskInfo,
};

use crate::inline::{self, InlineHandler, InlineInterrupt, InlineSpec};
use crate::manifest::HandlerManifest;
use crate::modules::ModuleHandler;
use crate::policy::{Origin, Policy};

/// What serves a task name.
#[derive(Clone)]
pub(super) enum Handler {
    /// Native.
    Inline(Arc<dyn InlineHandler>),
    /// WebAssembly.
    Isolate(Arc<Serving>),
}

/// A prepared module in service.
#[derive(Debug)]
pub(super) struct Serving {
    handler: ModuleHandler,
    /// What was pushed, if it was.
    pub(super) release: Option<Arc<Release>>,
    /// What it asks for, if it lies in the worker's directory: a policy that changes is asked again, whatever has become of
    /// the file.
    asks: Option<Arc<HandlerManifest>>,
    /// Attempts that began on it.
    pub(super) begun: AtomicU64,
}

impl Serving {
    pub(super) fn new(handler: ModuleHandler) -> Arc<Self> {
        Arc::new(Self { handler, release: None, asks: None, begun: AtomicU64::new(0) })
    }

    /// A module of the directory in service.
    pub(super) fn of_directory(handler: ModuleHandler, asks: Arc<HandlerManifest>) -> Arc<Self> {
        Arc::new(Self { handler, release: None, asks: Some(asks), begun: AtomicU64::new(0) })
    }

    /// A release in service.
    pub(super) fn of_release(handler: ModuleHandler, release: Arc<Release>) -> Arc<Self> {
        Arc::new(Self { handler, release: Some(release), asks: None, begun: AtomicU64::new(0) })
    }

    /// The same with its module prepared anew.
    pub(super) fn with_module(&self, module: Arc<Module>) -> Arc<Self> {
        let handler = ModuleHandler { module, ..self.handler.clone() };
        let (release, asks) = (self.release.clone(), self.asks.clone());
        Arc::new(Self { handler, release, asks, begun: AtomicU64::new(0) })
    }

    /// A module of the directory with what this policy gives it; `None` if it is none.
    pub(super) fn with_policy(&self, policy: &Policy, cap: &Limits) -> Option<Arc<Self>> {
        let asks = self.asks.as_ref()?;
        let resolved = policy.resolve(asks, Origin::Local, cap);
        resolved.warn(&self.name);
        let handler = ModuleHandler::new(asks, Arc::clone(&self.module), resolved);
        Some(Self::of_directory(handler, Arc::clone(asks)))
    }

    /// The same, as if no attempt had begun on it.
    pub(super) fn as_new(self: &Arc<Self>) -> Arc<Self> {
        self.begun.store(0, Ordering::Relaxed);
        Arc::clone(self)
    }
}

impl Deref for Serving {
    type Target = ModuleHandler;

    fn deref(&self) -> &ModuleHandler {
        &self.handler
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline"),
            Self::Isolate(module) => module.fmt(f),
        }
    }
}

/// The threads of native handlers. Native code that blocks cannot be waited for, so in the end they are left to
/// themselves; also when the worker never started.
#[derive(Debug)]
enum InlineThreads {
    /// The worker's; taken when this is dropped.
    Own(Option<tokio::runtime::Runtime>),
    /// Somebody else's.
    Given(tokio::runtime::Handle),
}

impl InlineThreads {
    fn start() -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
            .thread_name("stem-inline")
            .enable_all()
            .build()?;
        Ok(Arc::new(Self::Own(Some(runtime))))
    }

    fn handle(&self) -> &tokio::runtime::Handle {
        match self {
            Self::Own(runtime) => {
                runtime.as_ref().expect("taken only when this is dropped").handle()
            }
            Self::Given(handle) => handle,
        }
    }
}

impl Drop for InlineThreads {
    fn drop(&mut self) {
        if let Self::Own(runtime) = self
            && let Some(threads) = runtime.take()
        {
            threads.shutdown_background();
        }
    }
}

/// The threads that handlers run on.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) isolates: Option<Arc<IsolateRuntime>>,
    /// Each attempt keeps those it began on until it ends.
    inline: Mutex<Arc<InlineThreads>>,
}

impl Threads {
    /// Native handlers run on `inline_on`, or get threads of their own.
    pub(super) fn new(
        isolates: Option<Arc<IsolateRuntime>>,
        inline_on: Option<tokio::runtime::Handle>,
    ) -> io::Result<Self> {
        let inline = match inline_on {
            Some(handle) => Arc::new(InlineThreads::Given(handle)),
            None => InlineThreads::start()?,
        };
        Ok(Self { isolates, inline: Mutex::new(inline) })
    }

    fn inline(&self) -> Arc<InlineThreads> {
        Arc::clone(&self.inline.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives native handlers new threads, if they are ours; those that run keep theirs.
    pub(super) fn renew_inline(&self) -> io::Result<()> {
        if matches!(*self.inline(), InlineThreads::Given(_)) {
            return Ok(());
        }
        let fresh = InlineThreads::start()?;
        *self.inline.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

/// Stops and watches an attempt of either kind.
#[derive(Clone, Debug)]
pub(super) enum Interrupt {
    Inline(InlineInterrupt),
    Isolate(InterruptHandle),
}

impl Interrupt {
    pub(super) fn stop(&self, reason: StopReason, force: bool) {
        match self {
            Self::Inline(interrupt) => interrupt.stop(reason, force),
            Self::Isolate(interrupt) => interrupt.stop(reason, force),
        }
    }

    pub(super) fn notify(&self, notice: StopNotice) {
        match self {
            Self::Inline(interrupt) => interrupt.notify(notice),
            Self::Isolate(interrupt) => interrupt.notify(notice),
        }
    }

    pub(super) fn since_checkpoint(&self) -> Duration {
        match self {
            Self::Inline(interrupt) => interrupt.since_checkpoint(),
            Self::Isolate(interrupt) => interrupt.since_checkpoint(),
        }
    }

    pub(super) fn has_checkpointed(&self) -> bool {
        match self {
            Self::Inline(interrupt) => interrupt.has_checkpointed(),
            Self::Isolate(interrupt) => interrupt.has_checkpointed(),
        }
    }

    /// What it has used so far; nothing is known of native code.
    pub(super) fn usage(&self) -> Option<Usage> {
        match self {
            Self::Inline(_) => None,
            Self::Isolate(interrupt) => Some(interrupt.usage()),
        }
    }
}

/// An attempt under way.
pub(super) struct Started {
    pub(super) interrupt: Interrupt,
    pub(super) exit: Pin<Box<dyn Future<Output = Exit> + Send>>,
}

impl Handler {
    /// The word used in replies.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Inline(_) => "inline",
            Self::Isolate(_) => "isolate",
        }
    }

    /// What is written into the task's record.
    pub(super) fn module(&self) -> Option<ModuleRef> {
        match self {
            Self::Inline(_) => None,
            Self::Isolate(module) => Some(module.reference()),
        }
    }

    /// What it may reach; nothing is denied to native code.
    pub(super) fn granted(&self) -> Option<&Granted> {
        match self {
            Self::Inline(_) => None,
            Self::Isolate(module) => Some(&module.granted),
        }
    }

    /// The build, if it is one.
    pub(super) fn build(&self) -> Option<Digest> {
        match self {
            Self::Inline(_) => None,
            Self::Isolate(module) => Some(module.module.digest()),
        }
    }

    /// What an attempt gets.
    pub(super) fn limits(&self, cap: &Limits) -> Limits {
        match self {
            Self::Inline(_) => Limits::DEFAULT.capped_by(cap),
            Self::Isolate(module) => module.limits.clone(),
        }
    }

    /// The most memory that an attempt may have of its own; native code is not bounded by any.
    pub(super) fn memory(&self, cap: &Limits) -> u64 {
        match self {
            Self::Inline(_) => 0,
            Self::Isolate(_) => self.limits(cap).memory_bytes,
        }
    }

    /// Starts an attempt.
    pub(super) fn start(
        &self,
        threads: &Threads,
        input: stem_core::envelope::Payload,
        info: TaskInfo,
        limits: Limits,
        host: Arc<dyn AttemptHost>,
    ) -> Started {
        match (self, &threads.isolates) {
            (Self::Isolate(module), Some(runtime)) => {
                let granted = Arc::clone(&module.granted);
                let spec =
                    AttemptSpec { input, info, limits, on_failure: module.on_failure, granted };
                let (interrupt, exit) = runtime.start(&module.module, spec, host).into_parts();
                Started { interrupt: Interrupt::Isolate(interrupt), exit: Box::pin(exit) }
            }
            (Self::Isolate(_), None) => {
                unreachable!("the builder refuses modules without a sandbox")
            }
            (Self::Inline(handler), _) => {
                let spec = InlineSpec { input, info, limits };
                let threads = threads.inline();
                let (interrupt, exit) = inline::start(handler, spec, host, threads.handle());
                let exit = async move {
                    let exit = exit.await;
                    drop(threads);
                    exit
                };
                Started { interrupt: Interrupt::Inline(interrupt), exit: Box::pin(exit) }
            }
        }
    }
}
