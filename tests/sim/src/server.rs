//! [`Server`]: executes calls on services in memory. Calls that wait for something are kept until it comes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use stem_core::time::Clock;
use stem_engine::Backends;
use stem_memory::Memory;

use crate::clock::ServerClock;
use crate::fact::{Audit, Call, Caller, Method, Ms, ServiceKind, State};
use crate::judge::Judge;
use crate::net::{Net, Sent, Trouble};
use crate::plan::{Layout, Plan};
use crate::plants::{Plant, Side};
use crate::ready::ready;
use crate::tap::tap;
use crate::witness::witness;

/// Between two looks for deliveries, in milliseconds: some come by themselves, when a lease or a delay is over.
const LOOK_AGAIN: u64 = 40;

struct Parked {
    sent: Sent,
    until: Ms,
    looked: Ms,
    /// How often what it waits for had changed then.
    seen: u64,
}

/// How often each thing was written that calls wait for.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    work: u64,
    commands: u64,
    replies: u64,
    revocations: u64,
}

impl Written {
    /// A method was executed.
    fn note(&mut self, method: Method) {
        match method {
            "control.send" => self.commands += 1,
            "control.reply" => self.replies += 1,
            "revokes.revoke" | "revokes.undo" => self.revocations += 1,
            "broker.publish"
            | "broker.settle"
            | "broker.bury_unroutable"
            | "broker.purge"
            | "broker.set_paused"
            | "dead.replay" => self.work += 1,
            _ => {}
        }
    }

    /// What a method waits for.
    fn of(&self, method: Method) -> u64 {
        match method {
            "control.commands" => self.commands,
            "control.replies" => self.replies,
            "revokes.changed" => self.revocations,
            _ => self.work,
        }
    }
}

/// The services.
pub struct Server {
    judge: Arc<Judge>,
    /// As they are, for looking at them.
    bare: Backends,
    /// As calls reach them.
    stack: Backends,
    clock: ServerClock,
    states: BTreeMap<ServiceKind, State>,
    parked: Vec<Parked>,
    held: Vec<Sent>,
    written: Written,
    /// How many changes of the revocations each process was told of.
    told: BTreeMap<Caller, u64>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({} parked)", self.parked.len())
    }
}

impl Server {
    /// As the plan lays it out.
    pub fn new(plan: &Plan, plant: Option<&Plant>, judge: &Arc<Judge>) -> Self {
        let frozen = plant.is_some_and(|plant| plant.name == "frozen-after-step-back");
        let clock = ServerClock::new(frozen);
        let memory = || Memory::new(Arc::new(clock.clone()));
        let first = memory();
        let apart = |is_apart: bool| if is_apart { memory() } else { Arc::clone(&first) };
        let records = apart(matches!(plan.layout, Layout::RecordsApart | Layout::AllApart));
        let revokes = apart(matches!(plan.layout, Layout::RevokesApart | Layout::AllApart));
        let bare = Backends {
            results: Arc::clone(&records) as _,
            presence: Arc::clone(&records) as _,
            buckets: records,
            revokes,
            ..Backends::all_in_one(first)
        };
        let mischief = plant
            .filter(|plant| plant.at == Side::Store)
            .map(|plant| (plant.make)(crate::dice::Dice::of(plan.seed, &["plant"])));
        Self {
            judge: Arc::clone(judge),
            stack: witness(tap(bare.clone(), mischief), judge),
            bare,
            clock,
            states: BTreeMap::new(),
            parked: Vec::new(),
            held: Vec::new(),
            written: Written::default(),
            told: BTreeMap::new(),
        }
    }

    /// The services themselves, with nothing in front of them.
    pub fn bare(&self) -> Backends {
        self.bare.clone()
    }

    /// The clock.
    pub fn clock(&mut self) -> &mut ServerClock {
        &mut self.clock
    }

    /// Changes a service; what waited there is made when it is good again.
    pub fn service(&mut self, service: ServiceKind, state: State) {
        self.states.insert(service, state);
    }

    fn state(&self, service: ServiceKind) -> State {
        self.states.get(&service).copied().unwrap_or(State::Good)
    }

    /// From now on everything is executed.
    pub fn heal(&mut self) {
        self.states.clear();
    }

    /// A process is no more: its calls that wait for something go with it. Those on their way arrive all the same.
    pub fn forget(&mut self, caller: Caller) {
        self.parked.retain(|parked| parked.sent.packet.caller != caller);
        self.told.remove(&caller);
    }

    /// Executes what has arrived, and what has waited long enough.
    pub fn work(&mut self, now: Ms, net: &mut Net) {
        self.clock.set(now);
        for sent in std::mem::take(&mut self.held) {
            self.take(sent, now, net);
        }
        for sent in net.arrived(now) {
            self.take(sent, now, net);
        }
        self.look_again(now, net);
    }

    fn take(&mut self, sent: Sent, now: Ms, net: &mut Net) {
        match self.state(sent.packet.service()) {
            State::Held => self.held.push(sent),
            State::Down { quick } => net.refuse(sent, quick.then_some(Trouble::Reset)),
            State::ReadOnly if writes(sent.packet.method) => {
                let trouble = if sent.packet.method == "broker.renew"
                    || sent.packet.method == "broker.receive"
                {
                    Trouble::Reset
                } else {
                    Trouble::Refused
                };
                net.refuse(sent, Some(trouble));
            }
            State::Good | State::Slow(_) | State::ReadOnly => {
                let until = now.after(sent.packet.wait);
                self.execute(Parked { sent, until, looked: now, seen: 0 }, now, net);
            }
        }
    }

    fn execute(&mut self, mut parked: Parked, now: Ms, net: &mut Net) {
        let packet = &mut parked.sent.packet;
        let (caller, method) = (packet.caller, packet.method);
        let clock = self.clock.now();
        self.judge.calling(Call { at: now, clock, caller, sent: packet.sent });
        let mut found = packet.remote.execute(&self.stack);
        if method == "revokes.changed" {
            let changes = self.written.revocations;
            found = self.told.insert(caller, changes) != Some(changes);
        }
        self.written.note(method);
        if found || now >= parked.until || parked.sent.again {
            net.answer(parked.sent, now);
        } else {
            (parked.looked, parked.seen) = (now, self.written.of(method));
            self.parked.push(parked);
        }
    }

    fn look_again(&mut self, now: Ms, net: &mut Net) {
        for parked in std::mem::take(&mut self.parked) {
            let (service, method) = (parked.sent.packet.service(), parked.sent.packet.method);
            let again = method == "broker.receive" && now.since(parked.looked) >= LOOK_AGAIN;
            let due = again || now >= parked.until || parked.seen != self.written.of(method);
            if parked.sent.packet.remote.is_abandoned() {
                continue;
            }
            match self.state(service) {
                State::Down { quick } => {
                    net.refuse(parked.sent, quick.then_some(Trouble::Reset));
                }
                State::Good | State::Slow(_) if due => self.execute(parked, now, net),
                State::ReadOnly if now >= parked.until => net.answer(parked.sent, now),
                _ => self.parked.push(parked),
            }
        }
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        let queues = ready(self.bare.broker.queues()).expect("memory lists its queues");
        queues.iter().all(|queue| queue.ready + queue.delayed + queue.inflight == 0)
    }

    /// What the services hold. Their records only if `whole`.
    pub fn audit(&self, whole: bool) -> Audit {
        let bare = &self.bare;
        let queues = ready(bare.broker.queues()).expect("memory lists its queues");
        let sum =
            |of: fn(&stem_core::backend::broker::QueueStatus) -> u64| queues.iter().map(of).sum();
        let filter =
            stem_core::backend::dead_letter::DeadFilter { limit: usize::MAX, ..Default::default() };
        let dead = ready(bare.dead_letters.list(&filter)).expect("memory lists its dead letters");
        let known = if whole {
            let filter = stem_core::backend::result::RecordFilter {
                limit: usize::MAX,
                ..Default::default()
            };
            ready(bare.results.list(&filter)).expect("memory lists its records")
        } else {
            Vec::new()
        };
        let mut known: Vec<_> = known.into_iter().map(|record| (record.id, record.state)).collect();
        known.sort();
        let mut dead: Vec<_> = dead.into_iter().map(|letter| letter.task).collect();
        dead.sort();
        Audit {
            ready: sum(|queue| queue.ready),
            delayed: sum(|queue| queue.delayed),
            inflight: sum(|queue| queue.inflight),
            dead,
            known,
        }
    }
}

/// Whether a method writes something that others may wait for.
fn writes(method: Method) -> bool {
    !matches!(
        method,
        "broker.queues"
            | "broker.health"
            | "results.load_checkpoint"
            | "results.fetch"
            | "results.history"
            | "results.list"
            | "results.watch"
            | "results.health"
            | "revokes.time"
            | "revokes.since"
            | "revokes.changed"
            | "revokes.health"
            | "control.position"
            | "control.commands"
            | "control.replies"
            | "presence.workers"
            | "dead.list"
    )
}
