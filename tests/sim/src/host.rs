//! [`Host`]: a simulated machine, with one process on it: a runtime of its own whose time the world moves.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use stem_core::id::{Namespace, WorkerId};
use stem_core::observe::Gauges;
use stem_engine::{
    Backends, Client, RevokePolicy, Worker, WorkerConfig, WorkerError, WorkerHandle,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::clock::HostClock;
use crate::desk::{Desk, Ear};
use crate::dice::Dice;
use crate::fact::{Caller, Fact, HostId, Ms, Why};
use crate::line::line;
use crate::net::Deliver;
use crate::plan::{Declared, Layout};
use crate::plants::{Plant, Side};
use crate::script::{self, NAME, SCRIPTED};
use crate::tap::tap;

/// The scope of everything.
pub fn namespace() -> Namespace {
    Namespace::new("sim").expect("a constant that follows the rules")
}

thread_local! {
    /// Whether this thread runs a world.
    static IN_WORLD: Cell<bool> = const { Cell::new(false) };
    /// What panicked on this thread that no script asked for.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on panics on this thread are the world's to tell, until [`leave`]. Those that scripts ask for are not told.
pub fn enter() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IN_WORLD.get() {
                return before(panic);
            }
            if panic.payload_as_str() != Some(SCRIPTED) {
                PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            }
        }));
    });
    IN_WORLD.set(true);
    PANICS.take();
}

/// Panics on this thread are everybody's again.
pub fn leave() {
    IN_WORLD.set(false);
}

/// The same after the world itself panicked; what it said.
pub fn leave_broken() -> Option<String> {
    leave();
    panicked()
}

/// What panicked since the last time.
fn panicked() -> Option<String> {
    PANICS.with_borrow_mut(Vec::pop)
}

/// What a host is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// No process runs.
    Down,
    /// One runs.
    Up,
    /// One is stopped until then.
    Paused(Ms),
}

/// What every host of a world has in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// Of the world.
    pub seed: u64,
    /// Where the services lie.
    pub layout: Layout,
    /// When calls are given up, in milliseconds.
    pub call_limit: u64,
    /// For what has no line.
    pub direct: Backends,
    /// Scripts do as little as they can.
    pub calm: Arc<AtomicBool>,
    /// The fault that was planted, if it is on this kind of host's side.
    pub plant: Option<&'static Plant>,
}

/// A worker's process.
struct Process {
    main: JoinHandle<Result<(), WorkerError>>,
    handle: WorkerHandle,
    gauges: Box<dyn Fn() -> Option<Gauges>>,
}

/// A simulated machine.
pub struct Host {
    /// Which.
    pub id: HostId,
    /// What runs on it, if it is a worker.
    pub declared: Option<Arc<Declared>>,
    /// What it is like.
    pub is: Is,
    common: Common,
    start: u32,
    runtime: Option<Runtime>,
    desk: Option<Arc<Desk>>,
    process: Option<Process>,
    client: Option<Client>,
    /// How far it has come.
    at: Ms,
    /// How long its runtime has run by then, in milliseconds.
    lived: u64,
    /// By how much its clocks are off.
    wall_off: Arc<AtomicI64>,
    steady_off: Arc<AtomicI64>,
    /// Answers that came while it was stopped.
    waiting: Vec<Deliver>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({}#{} {:?})", self.id, self.start, self.is)
    }
}

impl Host {
    /// One on which nothing runs.
    pub fn new(id: HostId, declared: Option<Declared>, common: &Common) -> Self {
        let skew = declared.as_ref().map_or(0, |declared| declared.skew);
        Self {
            id,
            declared: declared.map(Arc::new),
            is: Is::Down,
            common: common.clone(),
            start: 0,
            runtime: None,
            desk: None,
            process: None,
            client: None,
            at: Ms(0),
            lived: 0,
            wall_off: Arc::new(AtomicI64::new(skew)),
            steady_off: Arc::default(),
            waiting: Vec::new(),
        }
    }

    /// Who runs here, or ran last.
    pub fn caller(&self) -> Caller {
        Caller { host: self.id, start: self.start }
    }

    fn plant(&self) -> Option<&'static Plant> {
        let here = match self.id {
            HostId::Worker(0) => [Side::Worker, Side::Config, Side::Clock],
            HostId::Client(0) => [Side::Client; 3],
            _ => return None,
        };
        self.common.plant.filter(|plant| here.contains(&plant.at))
    }

    /// Begins a process. Tells the world that it did; a worker under this name in place of its own.
    pub fn boot(&mut self, at: Ms, name: Option<WorkerId>) -> Fact {
        self.start += 1;
        (self.at, self.lived) = (at, 0);
        self.is = Is::Up;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        let caller = self.caller();
        let config = self.declared.as_ref().map(|declared| {
            let name = name.unwrap_or_else(|| declared.name.clone());
            Arc::new(Declared { name, ..Declared::clone(declared) })
        });
        runtime.block_on(async {
            let desk = Desk::new(caller, at, &self.common.calm);
            let mischief = self
                .plant()
                .filter(|plant| matches!(plant.at, Side::Worker | Side::Client))
                .map(|plant| (plant.make)(Dice::of(self.common.seed, &["plant"])));
            let (layout, limit) = (self.common.layout, self.common.call_limit);
            let backends = tap(line(&desk, layout, limit, self.common.direct.clone()), mischief);
            let ppm = config.as_ref().map_or(0, |config| config.ppm);
            let clock = |off: &Arc<AtomicI64>| HostClock {
                zero: desk.zero(),
                began: at,
                ppm,
                off: Arc::clone(off),
            };
            let wall = Arc::new(clock(&self.wall_off));
            match &config {
                Some(config) => {
                    // It begins at the wall clock's time, and never steps.
                    let off = self.wall_off.load(Ordering::Relaxed);
                    self.steady_off = Arc::new(AtomicI64::new(off));
                    let steady = Arc::new(clock(&self.steady_off));
                    self.process = Some(self.worker(&desk, backends, config, (steady, wall)));
                }
                None => self.client = Some(Client::new(backends, wall)),
            }
            self.desk = Some(desk);
        });
        self.runtime = Some(runtime);
        Fact::Booted { config }
    }

    /// On the runtime.
    fn worker(
        &self,
        desk: &Arc<Desk>,
        backends: Backends,
        declared: &Declared,
        (steady, wall): (Arc<HostClock>, Arc<HostClock>),
    ) -> Process {
        let mut config = config(declared);
        if let Some(plant) = self.plant() {
            (plant.config)(&mut config);
        }
        let (scripts, told) = (Arc::clone(desk), Arc::clone(desk));
        let mut builder = Worker::builder(backends, config)
            .clocks(steady, wall)
            .inline_on(tokio::runtime::Handle::current())
            .observer(Arc::new(Ear(Arc::clone(desk))))
            .inline(NAME, move |context, script| script::run(Arc::clone(&scripts), context, script))
            .expect("a constant that follows the rules");
        if declared.ahead.is_some() {
            builder = builder.read_ahead();
        }
        let worker = builder
            .build()
            .expect("a plan's worker fits together")
            .on_ready(move |_| told.tell(Fact::Ready));
        let (handle, gauges) = (worker.handle(), Box::new(worker.gauges()));
        let wait = Duration::from_millis(declared.ahead.unwrap_or(0));
        let main = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            worker.run().await
        });
        Process { main, handle, gauges }
    }

    /// Takes its own of these answers, and lets the process run from then until then. One that is stopped keeps them for
    /// later, and a client that does nothing is not run. Whether it ran.
    pub fn step(&mut self, from: Ms, until: Ms, replies: &mut Vec<(Caller, Deliver)>) -> bool {
        let (Some(runtime), Some(desk)) = (&self.runtime, &self.desk) else { return false };
        let me = Caller { host: self.id, start: self.start };
        let mine = replies.extract_if(.., |(caller, _)| *caller == me);
        self.waiting.extend(mine.map(|(_, deliver)| deliver));
        let idle = self.client.is_some() && runtime.metrics().num_alive_tasks() == 0;
        if self.is != Is::Up || (idle && self.waiting.is_empty()) {
            return false;
        }
        let slept = from.since(self.at);
        self.lived += until.since(self.at);
        let end = desk.zero() + Duration::from_millis(self.lived);
        let waiting = &mut self.waiting;
        runtime.block_on(async {
            if slept > 0 {
                tokio::time::advance(Duration::from_millis(slept)).await;
            }
            waiting.drain(..).for_each(|deliver| deliver());
            tokio::time::sleep_until(end).await;
        });
        self.at = until;
        true
    }

    /// Stops the process; time goes on without it.
    pub fn pause(&mut self, until: Ms) -> bool {
        let stops = self.is == Is::Up;
        if stops {
            self.is = Is::Paused(until);
        }
        stops
    }

    /// Lets it go on: to the process the pause is one moment, after which all of its timers are late.
    pub fn resume(&mut self, at: Ms) {
        let passed = at.since(self.at);
        if let Some(runtime) = &self.runtime {
            runtime.block_on(tokio::time::advance(Duration::from_millis(passed)));
        }
        if self.plant().is_some_and(|plant| plant.name == "clock-stops-in-pause") {
            let passed = i64::try_from(passed).unwrap_or(i64::MAX);
            self.steady_off.fetch_sub(passed, Ordering::Relaxed);
        }
        self.lived += passed;
        self.at = at;
        self.is = Is::Up;
    }

    /// Kills the process. What it told before is told, and what falls with it.
    pub fn crash(&mut self, at: Ms) -> Vec<(Ms, Fact)> {
        let Some(desk) = self.desk.take() else { return Vec::new() };
        let mut told = desk.take_facts();
        desk.freeze(at);
        self.process = None;
        self.client = None;
        self.runtime = None;
        self.waiting.clear();
        self.is = Is::Down;
        // A runtime drops its tasks in an order that depends on how many there have been in this whole process.
        let mut fell = desk.take_facts();
        fell.sort_by_cached_key(|(_, fact)| format!("{fact:?}"));
        told.append(&mut fell);
        told
    }

    /// Whether a script asked for the death of the process.
    pub fn is_doomed(&self) -> bool {
        self.is == Is::Up && self.desk.as_ref().is_some_and(|desk| desk.is_doomed())
    }

    /// Why the process has ended, if it has by itself.
    pub fn ended(&mut self) -> Option<Why> {
        if let Some(panic) = panicked() {
            return Some(Why::Broke(panic));
        }
        let process = self.process.as_mut().filter(|process| process.main.is_finished())?;
        let ended = self.runtime.as_ref()?.block_on(&mut process.main);
        Some(match ended {
            Ok(Ok(())) => Why::Drained,
            Ok(Err(WorkerError::NameTaken { .. })) => Why::NameTaken,
            // A worker leaves where a service refuses for good before it is ready.
            Ok(Err(WorkerError::Backend(_))) => Why::Refused,
            Ok(Err(error)) => Why::Broke(error.to_string()),
            Err(error) => Why::Broke(error.to_string()),
        })
    }

    /// What was sent and told since the last time.
    pub fn take(&self) -> (Vec<crate::net::Packet>, Vec<(Ms, Fact)>) {
        self.desk.as_ref().map(|desk| (desk.take_packets(), desk.take_facts())).unwrap_or_default()
    }

    /// What the worker is like.
    pub fn gauges(&self) -> Option<Gauges> {
        let _in = self.runtime.as_ref()?.enter();
        (self.process.as_ref()?.gauges)()
    }

    /// Steps the wall clock.
    pub fn step_clock(&self, by: i64) {
        self.wall_off.fetch_add(by, Ordering::Relaxed);
    }

    /// Sets the wall clock right; by how much it was off.
    pub fn set_clock_right(&self) -> i64 {
        self.wall_off.swap(0, Ordering::Relaxed)
    }

    /// Orders the worker to stop, from inside.
    pub fn drain(&self, mode: stem_core::control::Drain, grace: Option<u64>) -> bool {
        let (Is::Up, Some(runtime), Some(process)) = (self.is, &self.runtime, &self.process) else {
            return false;
        };
        let handle = process.handle.clone();
        runtime.block_on(async { handle.shutdown(mode, grace.map(Duration::from_millis)) });
        true
    }

    /// Lets a client do something.
    pub fn does<Doing>(&self, what: impl FnOnce(Client, Arc<Desk>) -> Doing)
    where
        Doing: Future<Output = ()> + Send + 'static,
    {
        if let (Some(runtime), Some(client), Some(desk)) = (&self.runtime, &self.client, &self.desk)
        {
            let doing = what(client.clone(), Arc::clone(desk));
            runtime.spawn(doing);
        }
    }
}

fn config(declared: &Declared) -> WorkerConfig {
    WorkerConfig {
        namespace: namespace(),
        queues: declared.queues.clone(),
        concurrency: declared.concurrency,
        autoscale: declared.autoscale.clone(),
        prefetch: declared.prefetch,
        lease: Duration::from_millis(declared.lease),
        max_losses: declared.max_losses,
        soft_grace: Duration::from_millis(declared.soft_grace),
        revoke_policy: if declared.fail_open {
            RevokePolicy::FailOpen
        } else {
            RevokePolicy::FailClosed
        },
        max_revocation_staleness: Duration::from_millis(declared.staleness),
        heartbeat_interval: Duration::from_millis(300),
        unroutable_after: Duration::from_hours(1),
        ..WorkerConfig::new(declared.name.clone())
    }
}
