//! [`run`]: one world from its beginning to its end.
//!
//! Time passes in windows, within which no host hears of another. In each: acts, the server executes what has arrived, every
//! host runs alone to the window's end, and what it sent goes on its way. Nothing else moves, so a seed repeats itself.

mod acts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stem_core::control::{Drain, Order};
use stem_core::id::RequestId;
use stem_core::time::Clock;

use crate::fact::{Caller, Fact, HostId, Ms, Phase, Why};
use crate::host::{self, Common, Host, Is};
use crate::judge::{Judge, Violation};
use crate::net::Net;
use crate::operator;
use crate::plan::{Kinds, Plan};
use crate::plants::Plant;
use crate::server::Server;
use crate::trace::{Keep, Trace};

/// A worker that should be there and is not is started again after so many milliseconds, once all is well.
const RESTART: u64 = 1_000;
/// The last question to the workers is open for so many milliseconds; then they are told to stop.
const LAST_WORD: u64 = 2_000;
/// An order to stop is obeyed within so many milliseconds once all is well, beside what is in hand.
const FAREWELL: u64 = 15_000;

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// With this fault planted.
    pub plant: Option<&'static Plant>,
    /// What is kept of what happens.
    pub keep: Keep,
    /// Without these kinds of trouble.
    pub off: Kinds,
    /// Revocations may expire soon also where clocks are far off.
    pub strict_expiry: bool,
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
    let mut plan = Plan::draw(seed, options.off, options.strict_expiry);
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
    for (what, count) in world.counts() {
        *counts.entry(what.to_owned()).or_default() += count;
    }
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
    now: Ms,
    phase: Phase,
    calm: Arc<AtomicBool>,
    /// What ends by itself, and when.
    endings: BTreeMap<Ms, Vec<Ending>>,
    told: Vec<(Ms, Caller, Fact)>,
    counts: BTreeMap<&'static str, u64>,
    /// Producers that have not been told yet that their tasks are there.
    waiting: usize,
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
        let mut world = Self {
            net: Net::new(&plan),
            judge: Arc::clone(judge),
            server,
            hosts,
            now: Ms(0),
            phase: Phase::Storm,
            calm,
            endings: BTreeMap::new(),
            told: Vec::new(),
            counts: BTreeMap::new(),
            waiting: 0,
            commands: 0,
            since: Ms(0),
            plan,
        };
        world.server.clock().set(Ms(0));
        let ids: Vec<HostId> = world.hosts.keys().copied().collect();
        for id in ids {
            world.boot(id, None);
        }
        world
    }

    fn is_over(&self) -> bool {
        self.phase == Phase::Over || self.judge.violation().is_some()
    }

    fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().chain(self.net.counts()).map(|(what, count)| (*what, *count))
    }

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
        let mut replies = self.net.replies(self.now);
        for host in self.hosts.values_mut() {
            host.step(until, replies.remove(&host.caller()).unwrap_or_default());
            let (packets, facts) = host.take();
            let caller = host.caller();
            self.told.extend(facts.into_iter().map(|(at, fact)| (at, caller, fact)));
            self.net.send(packets, until, &mut self.told);
        }
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
        for (at, caller, fact) in told {
            match &fact {
                Fact::Tried { .. } => self.count("tasks"),
                Fact::Started { .. } => self.count("attempts"),
                Fact::Acknowledged { .. } => self.waiting = self.waiting.saturating_sub(1),
                _ => {}
            }
            self.judge.tell(at, Some(caller), fact);
        }
    }

    /// Hosts whose process has ended or is to die, and those that were stopped long enough.
    fn reap(&mut self) {
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        for id in ids {
            let host = self.hosts.get_mut(&id).expect("hosts stay");
            if let Is::Paused(until) = host.is {
                if until <= self.now {
                    self.resume(id);
                }
                continue;
            }
            if host.is_doomed() {
                self.count("doomed");
                self.crash(id);
            } else if let Some(why) = host.ended() {
                let caller = host.caller();
                if let Why::Broke(words) = &why {
                    self.judge.broke(self.now, Some(caller), words.clone());
                }
                self.gone(id, why);
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
    }

    fn crash(&mut self, id: HostId) {
        if self.hosts[&id].is == Is::Down {
            return;
        }
        self.count("crashes");
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

    /// From one phase to the next, when its work is done or its time is over.
    fn move_on(&mut self) {
        match self.phase {
            Phase::Storm if self.now >= self.plan.heal => self.heal(),
            Phase::Healed { bound } => {
                self.keep_up();
                if self.at_rest(bound) {
                    self.replay();
                }
            }
            Phase::Replayed { bound } => {
                self.keep_up();
                if self.at_rest(bound) {
                    self.say_farewell();
                }
            }
            Phase::Draining => {
                let passed = self.now.since(self.since);
                if (LAST_WORD..LAST_WORD + self.plan.window).contains(&passed) {
                    self.drain_all();
                }
                let mut workers = self.hosts.values().filter(|host| host.declared.is_some());
                if passed > FAREWELL || workers.all(|host| host.is == Is::Down) {
                    self.enter(Phase::Over);
                }
            }
            Phase::Storm | Phase::Over => {}
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.look(true);
        self.phase = phase;
        self.since = self.now;
        self.tell(None, Fact::Phase(phase));
    }

    /// Whether nothing waits or runs any more, or the time for it is over. Looked at twice a second.
    fn at_rest(&mut self, bound: Ms) -> bool {
        if self.now >= bound {
            return true;
        }
        // Commands of the storm are over by then, and what was sent in it has arrived.
        if self.now.since(self.since) < 3_000 || !self.now.0.is_multiple_of(500) || self.waiting > 0
        {
            return false;
        }
        let audit = self.server.audit(false);
        audit.ready + audit.delayed + audit.inflight == 0
    }

    /// Ends all trouble: everything is as it should be from now on.
    fn heal(&mut self) {
        self.endings.clear();
        self.net.heal();
        self.net.release(self.now);
        self.server.heal();
        for service in crate::fact::ServiceKind::ALL {
            self.tell(None, Fact::Service { service, state: crate::fact::State::Good });
        }
        let behind = self.server.clock().off().min(0);
        if behind < 0 {
            self.server.clock().step(-behind);
            self.tell(None, Fact::Stepped(-behind));
        }
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        for id in ids {
            for service in crate::fact::ServiceKind::ALL {
                let state = crate::fact::State::Good;
                self.tell(Some(self.hosts[&id].caller()), Fact::Link { service, state });
            }
            let off = self.hosts[&id].set_clock_right();
            if off != 0 {
                self.tell(Some(self.hosts[&id].caller()), Fact::Stepped(-off));
            }
            if matches!(self.hosts[&id].is, Is::Paused(_)) {
                self.resume(id);
            }
        }
        for queue in self.plan.workers[0].queues.clone() {
            let client = &self.hosts[&HostId::Client(0)];
            client.does(|client, desk| operator::set_paused(client, desk, queue, false));
        }
        let bound = self.now.after(self.plan.patience());
        self.enter(Phase::Healed { bound });
        let lives = 4_000;
        self.order(0, None, Order::Ping {}, lives);
    }

    /// Starts workers that are not there.
    fn keep_up(&mut self) {
        if !self.now.0.is_multiple_of(RESTART) {
            return;
        }
        let down: Vec<HostId> =
            self.hosts.values().filter(|host| host.is == Is::Down).map(|host| host.id).collect();
        for id in down {
            self.boot(id, None);
        }
    }

    /// Everything that was given up gets another life, in which it succeeds.
    fn replay(&mut self) {
        self.calm.store(true, Ordering::Relaxed);
        let bound = self.now.after(self.plan.patience());
        self.enter(Phase::Replayed { bound });
        self.hosts[&HostId::Client(0)].does(|client, _| operator::replay(client, true));
    }

    fn say_farewell(&mut self) {
        self.order(1, None, Order::Inspect { include_revoked: true }, LAST_WORD);
        self.enter(Phase::Draining);
    }

    /// Sends a command from a client.
    fn order(
        &mut self,
        client: u8,
        targets: Option<Vec<stem_core::id::WorkerId>>,
        order: Order,
        lives: u64,
    ) {
        let id = self.request();
        self.hosts[&HostId::Client(client)]
            .does(|client, desk| operator::order(client, desk, id, targets, order, lives));
    }

    fn request(&mut self) -> RequestId {
        self.commands += 1;
        RequestId::new(format!("r{:03}", self.commands)).expect("a short name")
    }

    /// In the last phase, once the operator has seen what the workers know.
    fn drain_all(&mut self) {
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        for id in ids {
            self.drain(id, Drain::Warm, None, false);
        }
    }
}
