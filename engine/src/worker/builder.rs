//! [`WorkerBuilder`]: what a worker is put together from.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stem_core::id::{NameError, TaskName};
use stem_core::observe::{Observer, Unobserved};
use stem_core::release::Release;
use stem_core::time::Clock;
use stem_isolate::IsolateRuntime;
use tokio::sync::watch;

use super::ahead::Ahead;
use super::classes::Classes;
use super::config::WorkerConfig;
use super::driver::{Worker, WorkerError};
use super::handler::{Handler, Serving};
use crate::audit::Auditor;
use crate::clock::{SteadyClock, SystemClock};
use crate::inline::{self, TaskContext, TaskError};
use crate::modules::ModuleHandler;
use crate::signing::{Keys, Trust, TrustFile, Untrusted};
use crate::{Backends, modules};

/// A shorter staleness would pass between two looks of a healthy store.
const STALENESS_LEAST: Duration = Duration::from_secs(2);

/// Whose pushed modules run.
#[derive(Debug)]
pub(super) enum Publishers {
    /// Of everybody who can write to the store.
    Anybody,
    /// Of those on this list, as it is at the moment.
    Listed(Arc<TrustFile>),
}

impl Publishers {
    /// Whether what they published may run.
    pub(super) fn check(&self, release: &Release) -> Result<(), Untrusted> {
        match self {
            Self::Anybody => Ok(()),
            Self::Listed(trust) => trust.current().publisher_of(release).map(drop),
        }
    }

    /// Follows the list's file until dropped; never ends; cancel-safe.
    pub(super) async fn follow(&self) {
        match self {
            Self::Anybody => std::future::pending().await,
            Self::Listed(trust) => trust.follow().await,
        }
    }

    /// Learns of every change of the list, if there is one.
    pub(super) fn subscribe(&self) -> Option<watch::Receiver<Arc<Trust>>> {
        match self {
            Self::Anybody => None,
            Self::Listed(trust) => Some(trust.subscribe()),
        }
    }
}

/// What a worker takes the time from.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    /// For leases and limits, which a stepped wall clock must neither end nor prolong.
    pub(super) steady: Arc<dyn Clock>,
    /// For times that other machines set or read.
    pub(super) wall: Arc<dyn Clock>,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { steady: Arc::new(SteadyClock::start()), wall: Arc::new(SystemClock) }
    }
}

/// Puts a [`Worker`] together.
#[derive(Debug)]
pub struct WorkerBuilder {
    pub(super) backends: Backends,
    pub(super) config: WorkerConfig,
    pub(super) handlers: BTreeMap<TaskName, Handler>,
    pub(super) isolates: Option<Arc<IsolateRuntime>>,
    pub(super) modules_dir: Option<PathBuf>,
    /// Whether what was pushed is served, and whose.
    pub(super) pushed: Option<Publishers>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) keys: Arc<Keys>,
    pub(super) audit: Option<Arc<Auditor>>,
    pub(super) clocks: Clocks,
    /// Where native handlers run; nowhere yet, if the worker is to have threads for them.
    pub(super) inline_on: Option<tokio::runtime::Handle>,
    /// The revocations, where they are read already.
    pub(super) ahead: Option<Ahead>,
}

impl WorkerBuilder {
    pub(super) fn new(backends: Backends, config: WorkerConfig) -> Self {
        Self {
            backends,
            config,
            handlers: BTreeMap::new(),
            isolates: None,
            modules_dir: None,
            pushed: None,
            observer: Arc::new(Unobserved),
            keys: Keys::none(),
            audit: None,
            clocks: Clocks::default(),
            inline_on: None,
            ahead: None,
        }
    }

    /// Serves a name with a native handler. Arguments are read from JSON, the result is written as JSON; arguments that
    /// do not fit fail the task for good, with code `invalid-arguments`. The handler runs on threads that the worker
    /// keeps for it.
    pub fn inline<Args, Out, Run, Running>(
        mut self,
        name: &str,
        run: Run,
    ) -> Result<Self, NameError>
    where
        Args: DeserializeOwned + Send + 'static,
        Out: Serialize + 'static,
        Run: Fn(TaskContext, Args) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<Out, TaskError>> + Send + 'static,
    {
        self.handlers.insert(TaskName::new(name)?, Handler::Inline(inline::erase(run)));
        Ok(self)
    }

    /// Runs isolates in this sandbox. Needed for modules.
    #[must_use]
    pub fn isolates(mut self, runtime: Arc<IsolateRuntime>) -> Self {
        self.isolates = Some(runtime);
        self
    }

    /// Tells somebody what happens. The sandbox has its own [`observe`](IsolateRuntime::observe).
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Signs replies and the tasks that handlers enqueue with these keys, and judges commands and tasks by them. They are
    /// followed while the worker runs.
    #[must_use]
    pub fn keys(mut self, keys: Arc<Keys>) -> Self {
        self.keys = keys;
        self
    }

    /// Notes there which orders are obeyed, and what is refused. Whoever has made it closes it when the worker has ended.
    #[must_use]
    pub fn audit(mut self, auditor: Arc<Auditor>) -> Self {
        self.audit = Some(auditor);
        self
    }

    /// Takes the time from these in place of the system's: `steady` for leases and limits, which must never step; `wall` for
    /// what others set or read. Before [`read_ahead`](Self::read_ahead).
    #[must_use]
    pub fn clocks(mut self, steady: Arc<dyn Clock>, wall: Arc<dyn Clock>) -> Self {
        self.clocks = Clocks { steady, wall };
        self
    }

    /// Runs native handlers on this runtime in place of threads of the worker's own. One that blocks there holds up whatever
    /// else runs on it.
    #[must_use]
    pub fn inline_on(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.inline_on = Some(runtime);
        self
    }

    /// Begins to read what is revoked now rather than when the worker runs, so that it is ready sooner after what else
    /// there is to prepare. Must be called on a Tokio runtime. Ends when the builder or its worker is dropped.
    #[must_use]
    pub fn read_ahead(mut self) -> Self {
        if self.ahead.is_none() {
            self.ahead = Some(Ahead::begin(&self.backends, &self.config, &*self.clocks.wall));
        }
        self
    }

    /// Serves a module's name.
    #[must_use]
    pub fn module(mut self, handler: ModuleHandler) -> Self {
        self.handlers.insert(handler.name.clone(), Handler::Isolate(Serving::new(handler)));
        self
    }

    /// Serves every module of a directory, and looks at it again every second: a changed module is picked up without a
    /// restart, and attempts that run finish on the one they began with. Fails if any module is refused now; one that is
    /// refused later is logged, and the old one stays.
    pub async fn modules_dir(mut self, dir: PathBuf) -> Result<Self, modules::ModulesError> {
        if let Some(runtime) = &self.isolates {
            let policy = self.config.policy.current();
            let cap = &self.config.limits_cap;
            let classes = Classes::of(&self.config);
            for (name, found) in modules::find(&dir)? {
                if !classes.serve(&name) {
                    continue;
                }
                let handler = modules::load_found(runtime, &found, &policy, cap).await?;
                let serving = Serving::of_directory(handler, Arc::new(found.manifest));
                self.handlers.insert(name, Handler::Isolate(serving));
            }
        }
        self.modules_dir = Some(dir);
        Ok(self)
    }

    /// Serves what is pushed to the module store, under every name for which the worker has no handler of its own: it is
    /// fetched when it begins to serve, and takes the place of what served without a restart. With a trust list, only
    /// releases that are signed by somebody on it, now: where a key is taken off the list, new attempts begin on nothing
    /// that only it has signed.
    #[must_use]
    pub fn pushed_modules(mut self, trust: Option<Arc<TrustFile>>) -> Self {
        self.pushed = Some(trust.map_or(Publishers::Anybody, Publishers::Listed));
        self
    }

    /// Checks that all parts are there. A queue that is named twice is served once, where it is named first.
    pub fn build(mut self) -> Result<Worker, WorkerError> {
        let mut named = BTreeSet::new();
        self.config.queues.retain(|queue| named.insert(queue.clone()));
        let needs_isolates = self.modules_dir.is_some()
            || self.pushed.is_some()
            || self.handlers.values().any(|handler| matches!(handler, Handler::Isolate(_)));
        if needs_isolates && self.isolates.is_none() {
            return Err(WorkerError::Config(
                "modules need a sandbox: call isolates() first".to_owned(),
            ));
        }
        if !self.config.classes.is_empty() && !self.config.policy.current().is_some() {
            return Err(WorkerError::Config(
                "names get their trust classes from a policy, and there is none".to_owned(),
            ));
        }
        if self.config.queues.is_empty() {
            return Err(WorkerError::Config("a worker needs at least one queue".to_owned()));
        }
        if self.config.concurrency == 0 || self.config.prefetch == 0 {
            return Err(WorkerError::Config(
                "concurrency and prefetch must be at least 1".to_owned(),
            ));
        }
        if let Some(rules) = &self.config.autoscale {
            rules.check().map_err(WorkerError::Config)?;
            if rules.max != self.config.concurrency {
                return Err(WorkerError::Config(format!(
                    "autoscale goes up to {}, and concurrency is {}; they must be the same",
                    rules.max, self.config.concurrency
                )));
            }
        }
        if self.config.max_tasks_per_isolate == Some(0)
            || self.config.max_memory_per_isolate == Some(0)
        {
            return Err(WorkerError::Config(
                "the guards that prepare a module anew must be above 0, or absent".to_owned(),
            ));
        }
        if self.config.max_revocation_staleness < STALENESS_LEAST {
            return Err(WorkerError::Config(format!(
                "max_revocation_staleness must be at least {STALENESS_LEAST:?}: the revoke store is looked at twice a second"
            )));
        }
        if self.config.quotas.is_some() && !self.backends.broker.knows_shares() {
            return Err(WorkerError::Config(format!(
                "the broker {} cannot give each tenant its share, so quotas would not hold",
                self.backends.broker.service().0
            )));
        }
        if self.config.lease.as_millis() < 100 {
            return Err(WorkerError::Config("a lease must be at least 100ms".to_owned()));
        }
        Worker::new(self)
    }
}
