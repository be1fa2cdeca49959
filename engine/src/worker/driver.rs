//! The worker itself: starts its parts, obeys its lifecycle, and ends when nothing is left in hand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::BackendError;
use stem_core::backend::control::Position;
use stem_core::backend::presence::Registered;
use stem_core::control::{Drain, Heartbeat, WorkerState};
use stem_core::id::{QueueName, TaskName, WorkerId};
use stem_core::machine::lifecycle::{Effect, Event, Lifecycle};
use stem_core::observe::{Gauges, Service};
use stem_core::time::Timestamp;
use stem_isolate::IsolateRuntime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::ahead::Ahead;
use super::attempt::{Taken, see_through};
use super::builder::WorkerBuilder;
use super::config::RevokePolicy;
use super::config::WorkerConfig;
use super::handler::Threads;
use super::shared::{Parts, Shared, whole_millis};
use super::{
    autoscale, classes, control, intake, keeper, presence, progress, reload, revocations, shipping,
    signals, watchdog,
};
use crate::Backends;
use crate::modules::ModulesError;

/// The pause between two tries to reach a service at the start.
const START_PAUSE: Duration = Duration::from_millis(500);
/// How long a worker that is to fail open waits for the revocations before it starts without them.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// Time for the last heartbeat and the last replies.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a worker cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its parts do not fit together.
    #[error("{0}")]
    Config(String),
    /// A live worker has its name.
    #[error("a live worker has the name {worker} already; it was last heard at {seen_at}")]
    NameTaken {
        /// The name.
        worker: WorkerId,
        /// When the other was last heard.
        seen_at: Timestamp,
    },
    /// A service refuses for good.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Its modules cannot be used.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A thread or a signal handler cannot be had.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
}

/// A worker that is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its name.
    pub worker: WorkerId,
    /// What it serves.
    pub queues: Vec<QueueName>,
    /// The task names it knows.
    pub tasks: Vec<TaskName>,
    /// Attempts that may run at once; with autoscaling the most.
    pub concurrency: usize,
    /// With autoscaling the least.
    pub min_concurrency: Option<usize>,
}

type OnReady = Box<dyn FnOnce(&Ready) + Send>;

/// A worker that has not started yet.
pub struct Worker {
    shared: Arc<Shared>,
    isolates: Option<Arc<IsolateRuntime>>,
    modules_dir: Option<PathBuf>,
    /// Where releases come from, if they are served.
    pushed: Option<Arc<shipping::Source>>,
    pins: mpsc::UnboundedReceiver<shipping::PinOrder>,
    renewals: mpsc::UnboundedReceiver<keeper::RenewOrder>,
    settlements: mpsc::UnboundedReceiver<keeper::SettleOrder>,
    lifecycle: mpsc::UnboundedReceiver<Event>,
    on_ready: Option<OnReady>,
    ahead: Option<Ahead>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// Stops a worker from inside its process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkerHandle(Arc<Shared>);

impl WorkerHandle {
    /// Drains the worker; a harder mode replaces a softer one, never the reverse. For soft, `grace` is in place of the
    /// configured one. Does not wait: [`Worker::run`] returns when the worker has ended.
    pub fn shutdown(&self, mode: Drain, grace: Option<Duration>) {
        self.0.tell(Event::ShutdownAsked { mode, grace });
    }

    /// What the worker is doing, and each change of that until it is stopped.
    pub fn states(&self) -> watch::Receiver<WorkerState> {
        self.0.state.subscribe()
    }
}

impl Worker {
    /// Begins to put a worker together.
    pub fn builder(backends: Backends, config: WorkerConfig) -> WorkerBuilder {
        WorkerBuilder::new(backends, config)
    }

    pub(super) fn new(builder: WorkerBuilder) -> Result<Self, WorkerError> {
        let (renewals, renew_orders) = mpsc::unbounded_channel();
        let (settlements, settle_orders) = mpsc::unbounded_channel();
        let (lifecycle, lifecycle_events) = mpsc::unbounded_channel();
        let (pins, pin_orders) = mpsc::unbounded_channel();
        let store = Arc::clone(&builder.backends.modules);
        let pushed = builder
            .pushed
            .zip(builder.isolates.clone())
            .map(|(publishers, runtime)| Arc::new(shipping::Source { store, runtime, publishers }));
        let shared = Shared::new(Parts {
            config: builder.config,
            backends: builder.backends,
            keys: builder.keys,
            audit: builder.audit,
            threads: Threads::new(builder.isolates.clone(), builder.inline_on)?,
            handlers: builder.handlers,
            observer: builder.observer,
            clocks: builder.clocks,
            renewals,
            settlements,
            lifecycle,
            pins,
        });
        Ok(Self {
            shared: Arc::new(shared),
            isolates: builder.isolates,
            modules_dir: builder.modules_dir,
            pushed,
            pins: pin_orders,
            renewals: renew_orders,
            settlements: settle_orders,
            lifecycle: lifecycle_events,
            on_ready: None,
            ahead: builder.ahead,
        })
    }

    /// For stopping it from elsewhere.
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle(Arc::clone(&self.shared))
    }

    /// Looks what the worker is like whenever it is called; `None` once the worker is gone. Does not keep it.
    pub fn gauges(&self) -> impl Fn() -> Option<Gauges> + Clone + Send + Sync + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || Some(shared.upgrade()?.gauges())
    }

    /// Called once, when it takes deliveries.
    #[must_use]
    pub fn on_ready(mut self, call: impl FnOnce(&Ready) + Send + 'static) -> Self {
        self.on_ready = Some(Box::new(call));
        self
    }

    /// Works until it is drained. A shutdown loses and cancels nothing: what is interrupted goes back to its queue.
    /// Dropping this future is a hard stop without the giving back, which takes effect a moment later: leases run out.
    pub async fn run(self) -> Result<(), WorkerError> {
        // On the runtime's own threads, whatever thread waits for it: each delivery passes through here, and a hop from
        // thread to thread costs more than the rest of its way. Aborted when this future is dropped.
        let mut whole = JoinSet::new();
        whole.spawn(self.live().in_current_span());
        match whole.join_next().await.expect("it holds one task") {
            Ok(end) => end,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(WorkerError::System(std::io::Error::other(error))),
            },
        }
    }

    async fn live(self) -> Result<(), WorkerError> {
        let Self {
            shared,
            isolates,
            modules_dir,
            pushed,
            pins,
            renewals,
            settlements,
            mut lifecycle,
            mut on_ready,
            ahead,
        } = self;
        tracing::info!(worker = %shared.config.id, namespace = %shared.config.namespace, pid = std::process::id(), "starting");
        // Owns every part that runs beside the lifecycle; dropped, and so aborted, at the end.
        let mut parts = JoinSet::new();
        if shared.config.signal_handlers {
            parts.spawn(signals::listen(Arc::clone(&shared))?);
        }
        let mut machine = Lifecycle::new(shared.config.soft_grace);
        let mut effects = Vec::new();
        let started = tokio::select! {
            // An order to stop counts before a start of the same moment.
            biased;
            // Nothing is in hand yet, so any order to stop ends it.
            () = asked_to_stop(&mut lifecycle) => Ok(None),
            position = start(&shared, ahead) => position.map(Some),
        };
        let position = match started {
            Ok(Some(position)) => position,
            Ok(None) => {
                // The name may be taken by now; nobody should have to wait until it is stale.
                let _ = tokio::time::timeout(GOODBYE, presence::say_goodbye(&shared)).await;
                return Ok(());
            }
            Err(error) => {
                if !matches!(error, WorkerError::NameTaken { .. }) {
                    let _ = tokio::time::timeout(GOODBYE, presence::say_goodbye(&shared)).await;
                }
                return Err(error);
            }
        };
        parts.spawn(keeper::renew(Arc::clone(&shared), renewals));
        parts.spawn(keeper::settle(Arc::clone(&shared), settlements));
        parts.spawn(progress::flush(Arc::clone(&shared)));
        parts.spawn(revocations::follow(Arc::clone(&shared)));
        parts.spawn(control::obey(Arc::clone(&shared), position));
        parts.spawn(presence::beat(Arc::clone(&shared)));
        parts.spawn(presence::keep_house(Arc::clone(&shared)));
        parts.spawn(watchdog::run(Arc::clone(&shared)));
        if let Some(rules) = shared.config.autoscale.clone() {
            parts.spawn(autoscale::run(Arc::clone(&shared), rules));
        }
        parts.spawn({
            let policy = Arc::clone(&shared.config.policy);
            async move { policy.follow().await }
        });
        if !shared.config.classes.is_empty() {
            parts.spawn(classes::follow(Arc::clone(&shared)));
        }
        if let Some(quotas) = shared.config.quotas.clone() {
            parts.spawn(async move { quotas.follow().await });
        }
        parts.spawn({
            let keys = Arc::clone(&shared.keys);
            async move { keys.follow().await }
        });
        if let Some((runtime, dir)) = isolates.clone().zip(modules_dir) {
            parts.spawn(reload::watch(Arc::clone(&shared), runtime, dir));
        }
        match pushed {
            Some(source) => {
                let list = Arc::clone(&source);
                parts.spawn(async move { list.publishers.follow().await });
                parts.spawn(shipping::follow(Arc::clone(&shared), source, pins));
            }
            // Whoever asks for a build learns that nobody fetches any.
            None => drop(pins),
        }
        let (taken, mut deliveries) = mpsc::channel::<Taken>(shared.config.prefetch.max(1));
        let mut intake = JoinSet::new();
        intake.spawn(intake::take(Arc::clone(&shared), taken));
        let mut attempts = JoinSet::new();
        machine.handle(shared.now(), Event::BecameReady, &mut effects);
        let (mut intake_over, mut over) = (false, false);
        while !over {
            for effect in effects.drain(..) {
                match effect {
                    Effect::StartIntake => {
                        tracing::info!(worker = %shared.config.id, tasks = shared.names().len(), "ready: deliveries are taken");
                        shared.state.send_replace(machine.state());
                        if let Some(call) = on_ready.take() {
                            call(&ready(&shared));
                        }
                    }
                    Effect::StopIntake => {
                        tracing::info!(
                            inflight = shared.inflight(),
                            "draining: no new deliveries are taken"
                        );
                    }
                    Effect::DrainAttempts { mode, grace } => {
                        tracing::info!(
                            mode = mode.as_str(),
                            grace_ms = grace.map(whole_millis),
                            "draining"
                        );
                        shared.drain_all(mode, grace);
                    }
                    Effect::Stop => over = true,
                }
            }
            shared.state.send_if_modified(|state| {
                std::mem::replace(state, machine.state()) != machine.state()
            });
            if over {
                break;
            }
            let wait = machine.next_wakeup().map(|at| shared.now().until(at));
            let event = tokio::select! {
                // Orders before work. None keeps another waiting: deliveries are bounded by places, and attempts by those.
                biased;
                Some(event) = lifecycle.recv() => Some(event),
                Some(taken) = deliveries.recv() => {
                    attempts.spawn(see_through(Arc::clone(&shared), taken));
                    None
                }
                Some(ended) = attempts.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "an attempt's driver broke; its lease will run out");
                    }
                    None
                }
                Some(ended) = intake.join_next() => {
                    intake_over = true;
                    ended.err().map(|error| broken(&error))
                }
                // None of them ends by itself.
                Some(ended) = parts.join_next() => Some(match ended {
                    Ok(()) => broken(&"a part of the worker ended"),
                    Err(error) => broken(&error),
                }),
                () = sleep(wait) => Some(Event::Ticked),
            };
            if let Some(event) = event {
                machine.handle(shared.now(), event, &mut effects);
            }
            let idle = intake_over && attempts.is_empty() && deliveries.is_empty();
            if idle {
                machine.handle(shared.now(), Event::BecameIdle, &mut effects);
            }
        }
        let _ = tokio::time::timeout(GOODBYE, presence::say_goodbye(&shared)).await;
        // Replies under way are the last thing that may still be written.
        let _ = tokio::time::timeout(GOODBYE, control::finish(&shared)).await;
        parts.shutdown().await;
        tracing::info!("stopped");
        Ok(())
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// A worker that has lost a part must not go on as if it had not: it gives back what it has and leaves.
fn broken(why: &dyn std::fmt::Display) -> Event {
    tracing::error!(%why, "a part of the worker broke; it shuts down");
    Event::ShutdownAsked { mode: Drain::Hard, grace: None }
}

async fn asked_to_stop(lifecycle: &mut mpsc::UnboundedReceiver<Event>) {
    while let Some(event) = lifecycle.recv().await {
        if matches!(event, Event::Signalled(_) | Event::ShutdownAsked { .. }) {
            return;
        }
    }
}

fn ready(shared: &Shared) -> Ready {
    Ready {
        worker: shared.config.id.clone(),
        queues: shared.config.queues.clone(),
        tasks: shared.names().to_vec(),
        concurrency: shared.config.concurrency,
        min_concurrency: shared.config.autoscale.as_ref().map(|rules| rules.min),
    }
}

/// Takes the name, notes where the log of commands ends, and reads every revocation; in this order, so that nothing falls
/// in between. Without the revocations the worker is not ready: a revoked task must never start.
async fn start(shared: &Arc<Shared>, ahead: Option<Ahead>) -> Result<Position, WorkerError> {
    let heartbeat = presence::heartbeat(shared);
    take_name(shared, &heartbeat).await?;
    learn(shared, ahead).await
}

/// First where the log ends, then what is revoked: a revocation is stored before it is told, so one that is stored after
/// the reading is told after that position. What was read ahead only makes that reading shorter.
pub(super) async fn learn(shared: &Shared, ahead: Option<Ahead>) -> Result<Position, WorkerError> {
    let namespace = &shared.config.namespace;
    let position =
        persist(shared, Service::Control, || shared.backends.control.position(namespace)).await?;
    match shared.config.revoke_policy {
        RevokePolicy::FailClosed => {
            revocations::begin(shared, ahead).await;
            persist(shared, Service::Revokes, || revocations::catch_up(shared)).await?;
        }
        RevokePolicy::FailOpen => {
            let read = async {
                revocations::begin(shared, ahead).await;
                revocations::catch_up(shared).await
            };
            let read = tokio::time::timeout(OPEN_PATIENCE, read).await;
            let problem = match read {
                Ok(Ok(())) => return Ok(position),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no end within {} ms", OPEN_PATIENCE.as_millis()),
            };
            tracing::warn!(
                problem,
                "the revocations could not be read; the worker is to fail open, so it starts without them, and revoked tasks may run"
            );
        }
    }
    Ok(position)
}

/// Takes the worker's name. One that a process of this machine held which is gone (it was killed, and its supervisor
/// starts it again) is taken over as soon as it has missed a heartbeat; one that is alive is not.
async fn take_name(shared: &Shared, heartbeat: &Heartbeat) -> Result<(), WorkerError> {
    let presence = &shared.backends.presence;
    let namespace = &shared.config.namespace;
    loop {
        let Registered::NameTaken { boot_id, seen_at } =
            persist(shared, Service::Presence, || presence.register(heartbeat)).await?
        else {
            return Ok(());
        };
        let (workers, now) =
            persist(shared, Service::Presence, || presence.workers(namespace)).await?;
        let holder = workers.into_iter().find(|other| other.boot_id == boot_id);
        match holder.filter(|other| other.host == heartbeat.host && !is_alive(other.pid)) {
            None => {
                return Err(WorkerError::NameTaken { worker: heartbeat.worker.clone(), seen_at });
            }
            Some(dead)
                if now.since(dead.seen_at)
                    > Duration::from_millis(dead.interval_ms) + START_PAUSE =>
            {
                tracing::info!(worker = %dead.worker, pid = dead.pid, "taking over the name of a worker that is gone");
                persist(shared, Service::Presence, || {
                    presence.forget(namespace, &dead.worker, dead.boot_id)
                })
                .await?;
            }
            Some(_) => tokio::time::sleep(START_PAUSE).await,
        }
    }
}

/// Whether a process of this machine is there. One that we may not ask about is; one that has ended and that its parent
/// has not asked about, as in a container without an init, is not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    if stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['Z', 'X'])) {
        return false;
    }
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Tries until it works; gives up on what trying again cannot mend.
async fn persist<T, Work>(
    shared: &Shared,
    service: Service,
    call: impl Fn() -> Work,
) -> Result<T, BackendError>
where
    Work: Future<Output = Result<T, BackendError>>,
{
    let mut said = false;
    loop {
        match call().await {
            Ok(done) => return Ok(done),
            Err(error) if error.class() == stem_core::backend::ErrorClass::Transient => {
                shared.saw_failure(service, &error);
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "not ready; tried until it works");
                }
                tokio::time::sleep(START_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}
