//! [`run`]: one world from its beginning to its end.
//!
//! Time passes in windows, within which no host hears of another. In each: acts, the server executes what has arrived, every
//! host runs alone to the window's end, and what it sent goes on its way. Nothing else moves, so a seed repeats itself.

mod acts;
mod phases;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use stem_core::id::TaskId;
use stem_core::time::Clock;

use self::acts::client_of;
use crate::fact::{Caller, Fact, HostId, Ms, Phase, Why};
use crate::host::{self, Common, Host, Is};
use crate::judge::{Judge, Violation};
use crate::net::{Deliver, Net};
use crate::plan::{Kinds, Layout, Plan, Planned};
use crate::plants::Plant;
use crate::server::Server;
use crate::trace::{Keep, Trace};

/// What a world does by its plan, and counts.
const DONE: [&str; 27] = [
    "tasks",
    "attempts",
    "services together",
    "records apart",
    "revokes apart",
    "all apart",
    "crowds of workers",
    "workers that scale",
    "workers that fail open",
    "crashes",
    "doomed",
    "pauses",
    "links",
    "services",
    "steps",
    "pings",
    "revokes",
    "undos",
    "queue-pauses",
    "replays",
    "replays from two at once",
    "drains",
    "bursts",
    "clients killed",
    "clients stopped",
    "clients cut off",
    "tasks that a producer enqueues as it starts again",
];

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// With this fault planted.
    pub plant: Option<&'static Plant>,
    /// What is kept of what happens.
    pub keep: Keep,
    /// Without these kinds of trouble.
    pub off: Kinds,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Of the run.
    pub seed: u64,
    /// The kinds of trouble that were on.
    pub kinds: Kinds,
    /// What happened how often.
    pub counts: BTreeMap<String, u64>,
    /// The first broken rule, at which the world ended.
    pub violation: Option<Violation>,
    /// The facts.
    pub trace: Trace,
    /// When the world ended.
    pub ended: Ms,
    /// How long the run took, by the real clock.
    pub took: Duration,
}

/// Runs a seed.
pub fn run(seed: u64, options: &Options) -> Report {
    let began = Instant::now();
    let mut plan = Plan::draw(seed, options.off);
    if let Some(plant) = options.plant {
        (plant.plan)(&mut plan);
    }
    let trace = Trace::new(options.keep);
    let judge = Judge::shared(&plan, trace.clone());
    host::enter();
    let mut world = World::new(plan, options, &judge);
    while !world.is_over() {
        world.window();
    }
    let (kinds, ended) = (world.plan.kinds, world.now);
    let mut counts = judge.counts();
    counts.extend(world.counts().map(|(what, count)| (what.to_owned(), count)));
    drop(world);
    host::leave();
    let (violation, took) = (judge.violation(), began.elapsed());
    Report { seed, kinds, counts, violation, trace, ended, took }
}

struct World {
    plan: Plan,
    judge: Arc<Judge>,
    server: Server,
    net: Net,
    hosts: BTreeMap<HostId, Host>,
    /// What is to be enqueued and is not yet; the next comes last.
    to_come: Vec<Planned>,
    now: Ms,
    phase: Phase,
    calm: Arc<AtomicBool>,
    /// What ends by itself, and when.
    endings: BTreeMap<Ms, Vec<Ending>>,
    told: Vec<(Ms, Caller, Fact)>,
    /// Answers that arrive in this window.
    replies: Vec<(Caller, Deliver)>,
    counts: BTreeMap<&'static str, u64>,
    /// What is enqueued and not acknowledged yet: a producer that starts again goes on with it.
    waiting: BTreeMap<TaskId, Planned>,
    commands: u64,
    /// When the phase began.
    since: Ms,
}

/// The end of a state that an act began.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Link(HostId, crate::fact::ServiceKind),
    Service(crate::fact::ServiceKind),
}

impl World {
    fn new(plan: Plan, options: &Options, judge: &Arc<Judge>) -> Self {
        let server = Server::new(&plan, options.plant, judge);
        let calm = Arc::new(AtomicBool::new(false));
        let common = Common {
            seed: plan.seed,
            layout: plan.layout,
            call_limit: plan.call_limit,
            direct: server.bare(),
            calm: Arc::clone(&calm),
            plant: options.plant,
        };
        let number = |n: usize| u8::try_from(n).expect("few workers");
        let workers = plan.workers.iter().enumerate().map(|(n, declared)| {
            let id = HostId::Worker(number(n));
            (id, Host::new(id, Some(declared.clone()), &common))
        });
        let clients = (0..plan.clients).map(|n| {
            let id = HostId::Client(n);
            (id, Host::new(id, None, &common))
        });
        let hosts = workers.chain(clients).collect();
        let mut to_come = plan.tasks.clone();
        to_come.sort_by_key(|task| std::cmp::Reverse(task.at));
        let mut world = Self {
            net: Net::new(&plan),
            judge: Arc::clone(judge),
            server,
            hosts,
            to_come,
            now: Ms(0),
            phase: Phase::Storm,
            calm,
            endings: BTreeMap::new(),
            told: Vec::new(),
            replies: Vec::new(),
            counts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            commands: 0,
            since: Ms(0),
            plan,
        };
        world.server.clock().set(Ms(0));
        world.count_plan();
        let ids: Vec<HostId> = world.hosts.keys().copied().collect();
        for id in ids {
            world.boot(id, None);
        }
        world
    }

    fn count_plan(&mut self) {
        self.count(match self.plan.layout {
            Layout::Together => "services together",
            Layout::RecordsApart => "records apart",
            Layout::RevokesApart => "revokes apart",
            Layout::AllApart => "all apart",
        });
        let workers = &self.plan.workers;
        let (crowd, scale) = (workers.len() > 4, workers.iter().any(|it| it.autoscale.is_some()));
        let open = workers.iter().any(|it| it.fail_open);
        let kinds = [
            ("crowds of workers", crowd),
            ("workers that scale", scale),
            ("workers that fail open", open),
        ];
        kinds.into_iter().filter(|(_, is)| *is).for_each(|(what, _)| self.count(what));
    }

    fn is_over(&self) -> bool {
        self.phase == Phase::Over || self.judge.violation().is_some()
    }

    /// What was done, also what never was.
    fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let done = DONE.iter().map(|what| (*what, self.counts.get(what).copied().unwrap_or(0)));
        done.chain([("packets", self.net.packets())])
    }

    /// Counts one of [`DONE`].
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Tells a fact of the world's own.
    fn tell(&self, caller: Option<Caller>, fact: Fact) {
        self.judge.tell(self.now, caller, fact);
    }

    fn window(&mut self) {
        self.end_states();
        self.act();
        self.move_on();
        self.server.work(self.now, &mut self.net);
        let until = self.now.after(self.plan.window);
        self.net.replies(self.now, &mut self.replies);
        for host in self.hosts.values_mut() {
            let caller = host.caller();
            if host.step(self.now, until, &mut self.replies) {
                let (packets, facts) = host.take();
                self.told.extend(facts.into_iter().map(|(at, fact)| (at, caller, fact)));
                self.net.send(packets, until, &mut self.told);
            }
        }
        // What came for processes that are no more.
        self.replies.clear();
        self.hear();
        self.now = until;
        self.reap();
        if self.now.0.is_multiple_of(self.plan.look) {
            self.look(false);
        }
    }

    /// Passes on what the hosts told in this window, in the order of time.
    fn hear(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        told.sort_by_key(|(at, ..)| *at);
        for (at, caller, fact) in told.drain(..) {
            match &fact {
                Fact::Tried { .. } => self.count("tasks"),
                Fact::Started { .. } => self.count("attempts"),
                Fact::Acknowledged { task } => drop(self.waiting.remove(task)),
                _ => {}
            }
            self.judge.tell(at, Some(caller), fact);
        }
        self.told = told;
    }

    /// Hosts whose process has ended or is to die, and those that were stopped long enough.
    fn reap(&mut self) {
        let now = self.now;
        let due: Vec<(HostId, Option<Why>)> = self
            .hosts
            .values_mut()
            .filter_map(|host| match host.is {
                Is::Paused(until) => (until <= now).then_some((host.id, None)),
                Is::Up if host.is_doomed() => Some((host.id, Some(Why::Crash))),
                Is::Up => host.ended().map(|why| (host.id, Some(why))),
                Is::Down => None,
            })
            .collect();
        for (id, why) in due {
            match why {
                None => self.resume(id),
                Some(Why::Crash) => {
                    self.count("doomed");
                    self.crash(id);
                }
                Some(why) => {
                    if let Why::Broke(words) = &why {
                        let caller = self.hosts[&id].caller();
                        self.judge.broke(now, Some(caller), words.clone());
                    }
                    self.gone(id, why);
                }
            }
        }
    }

    fn resume(&mut self, id: HostId) {
        let now = self.now;
        let host = self.hosts.get_mut(&id).expect("hosts stay");
        let caller = host.caller();
        self.judge.tell(now, Some(caller), Fact::Continued);
        host.resume(now);
    }

    fn boot(&mut self, id: HostId, name: Option<stem_core::id::WorkerId>) {
        let (now, host) = (self.now, self.hosts.get_mut(&id).expect("hosts stay"));
        let fact = host.boot(now, name);
        let caller = host.caller();
        // Before whatever it has told by now.
        self.tell(Some(caller), fact);
        if id.is_client() {
            let mine = self.waiting.values().filter(|task| client_of(task) == id);
            for task in mine.cloned().collect::<Vec<_>>() {
                self.count("tasks that a producer enqueues as it starts again");
                self.produce(task);
            }
        }
    }

    fn crash(&mut self, id: HostId) {
        if self.hosts[&id].is == Is::Down {
            return;
        }
        self.count(if id.is_client() { "clients killed" } else { "crashes" });
        self.gone(id, Why::Crash);
    }

    fn gone(&mut self, id: HostId, why: Why) {
        let (now, host) = (self.now, self.hosts.get_mut(&id).expect("hosts stay"));
        let caller = host.caller();
        let facts = host.crash(now);
        self.server.forget(caller);
        for (at, fact) in facts {
            self.judge.tell(at, Some(caller), fact);
        }
        self.tell(Some(caller), Fact::Gone { why });
    }

    fn look(&mut self, whole: bool) {
        let now = self.now;
        self.server.clock().set(now);
        let mut gauges = Vec::new();
        for host in self.hosts.values().filter(|host| host.is == Is::Up) {
            if let Some(of_host) = host.gauges() {
                self.judge.tell(now, Some(host.caller()), Fact::Gauged(of_host.clone()));
                gauges.push((host.caller(), of_host));
            }
        }
        let audit = self.server.audit(whole);
        let clock = self.server.clock().now();
        if self.judge.look(now, clock, &gauges, &audit) {
            self.judge.look(now, clock, &[], &self.server.audit(true));
        }
    }
}
