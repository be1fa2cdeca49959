//! [`Net`]: carries calls to the services and answers back; each may meet a fault on its way.

use std::collections::BTreeMap;
use std::fmt;

use stem_engine::Backends;

use crate::dice::Dice;
use crate::fact::{Caller, Fact, Fault, HostId, Method, Ms, ServiceKind, State};
use crate::plan::{Odds, Plan};

/// What a caller is told in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection broke.
    Reset,
    /// The service refuses.
    Refused,
}

/// An answer on its way, to be delivered on the runtime of its host.
pub type Deliver = Box<dyn FnOnce() + Send>;

/// The far end of a call.
pub trait Remote: Send {
    /// Makes the call; `false` if it found nothing and may be made again.
    fn execute(&mut self, backends: &Backends) -> bool;
    /// Takes what the caller is to be told; a second time there is nothing.
    fn answer(&mut self, trouble: Option<Trouble>) -> Option<Deliver>;
    /// Whether nobody waits any more.
    fn is_abandoned(&self) -> bool;
}

/// A call on its way.
pub struct Packet {
    /// Who calls.
    pub caller: Caller,
    /// What.
    pub method: Method,
    /// Tells calls of one method apart that one process may make in one instant.
    pub salt: u64,
    /// Which call of this method and salt.
    pub nth: u64,
    /// When.
    pub sent: Ms,
    /// Waits so long at the service for something to come, in milliseconds.
    pub wait: u64,
    /// Its far end.
    pub remote: Box<dyn Remote>,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packet({} {} {} at {})", self.caller, self.method, self.nth, self.sent)
    }
}

impl Packet {
    /// The order among the calls of one process.
    pub fn key(&self) -> (Ms, Method, u64, u64) {
        (self.sent, self.method, self.salt, self.nth)
    }

    /// The service that it is for.
    pub fn service(&self) -> ServiceKind {
        service_of(self.method)
    }
}

/// Which service has a method.
pub fn service_of(method: Method) -> ServiceKind {
    match method.split('.').next() {
        Some("results" | "presence") => ServiceKind::Records,
        Some("revokes") => ServiceKind::Revokes,
        _ => ServiceKind::Broker,
    }
}

/// What is to happen to a packet after its call was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Its answer takes so much longer.
    back: u64,
    /// Its answer is lost, and whether the caller is told at once.
    lost: Option<bool>,
    /// It is made again so much later.
    again: Option<u64>,
}

/// A call that has arrived, or will.
#[derive(Debug)]
pub struct Sent {
    /// The call.
    pub packet: Packet,
    /// What becomes of it afterwards.
    pub fate: Fate,
    /// It was made before, and its caller is served.
    pub again: bool,
}

/// An answer on its way.
struct Due {
    caller: Caller,
    service: ServiceKind,
    deliver: Deliver,
}

/// The network.
pub struct Net {
    seed: u64,
    call_limit: u64,
    longest: u64,
    odds: Odds,
    links: BTreeMap<(HostId, ServiceKind), State>,
    /// What arrives when it is next looked at, as nearly everything does, in the order in which it was sent.
    there_next: Vec<Sent>,
    back_next: Vec<Due>,
    /// The others: by when they arrive, then in that order.
    there: BTreeMap<(Ms, u64), Sent>,
    back: BTreeMap<(Ms, u64), Due>,
    held: Vec<Sent>,
    count: u64,
    packets: u64,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = self.there_next.len() + self.there.len();
        write!(f, "Net({there} there, {} back)", self.back_next.len() + self.back.len())
    }
}

impl Net {
    /// Of this plan.
    pub fn new(plan: &Plan) -> Self {
        let longest = plan.workers.iter().map(|worker| worker.lease).max().unwrap_or(1_000) * 2;
        Self {
            seed: plan.seed,
            call_limit: plan.call_limit,
            longest,
            odds: plan.odds,
            links: BTreeMap::new(),
            there_next: Vec::new(),
            back_next: Vec::new(),
            there: BTreeMap::new(),
            back: BTreeMap::new(),
            held: Vec::new(),
            count: 0,
            packets: 0,
        }
    }

    /// How many calls there were.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// From now on everything arrives.
    pub fn heal(&mut self) {
        self.odds = Odds::default();
        self.links.clear();
    }

    /// Changes a link; what waited there goes on its way when it is good again.
    pub fn link(&mut self, host: HostId, service: ServiceKind, state: State) {
        self.links.insert((host, service), state);
        self.release();
    }

    fn state(&self, host: HostId, service: ServiceKind) -> State {
        self.links.get(&(host, service)).copied().unwrap_or(State::Good)
    }

    /// Sends on what was held up by a link that is good again.
    pub fn release(&mut self) {
        for sent in std::mem::take(&mut self.held) {
            if self.state(sent.packet.caller.host, sent.packet.service()) == State::Held {
                self.held.push(sent);
            } else {
                self.there_next.push(sent);
            }
        }
    }

    /// Later than when it is next looked at.
    fn put_there(&mut self, at: Ms, sent: Sent) {
        self.count += 1;
        self.there.insert((at, self.count), sent);
    }

    /// How late what is slow comes.
    fn slowness(&self, dice: &mut Dice) -> u64 {
        if dice.chance(50) { dice.between(400, self.longest) } else { dice.between(10, 400) }
    }

    /// Takes what a host sent in a step that ended at `now`.
    pub fn send(&mut self, packets: Vec<Packet>, now: Ms, told: &mut Vec<(Ms, Caller, Fact)>) {
        for packet in packets {
            self.packets += 1;
            let mut arrives = now;
            let mut fate = Fate::default();
            let fault = self.draw(&packet);
            if let Some(fault) = fault {
                let until = self.meet(&packet, fault, now, &mut arrives, &mut fate);
                let (method, nth) = (packet.method, packet.nth);
                told.push((packet.sent, packet.caller, Fact::Met { method, nth, fault, until }));
            }
            self.dispatch(packet, fault, fate, arrives, now);
        }
    }

    /// What becomes of a packet by its fault, and until when that may be felt.
    fn meet(
        &self,
        packet: &Packet,
        fault: Fault,
        now: Ms,
        arrives: &mut Ms,
        fate: &mut Fate,
    ) -> Ms {
        let given_up = packet.sent.after(self.call_limit + packet.wait);
        match fault {
            Fault::SlowThere(ms) => *arrives = now.after(ms),
            Fault::SlowBack(ms) => fate.back = ms,
            Fault::LostReply { quick } => fate.lost = Some(quick),
            Fault::Twice(ms) => fate.again = Some(ms),
            Fault::LostRequest { .. } | Fault::Refused => {}
        }
        let late = match fault {
            Fault::SlowThere(ms) | Fault::SlowBack(ms) | Fault::Twice(ms) => ms,
            _ => 0,
        };
        given_up.max(now.after(late + packet.wait))
    }

    fn dispatch(
        &mut self,
        mut packet: Packet,
        fault: Option<Fault>,
        mut fate: Fate,
        mut arrives: Ms,
        now: Ms,
    ) {
        let link = self.state(packet.caller.host, packet.service());
        let trouble = match (link, fault) {
            (State::Down { quick }, _) | (_, Some(Fault::LostRequest { quick })) => {
                Some(quick.then_some(Trouble::Reset))
            }
            (_, Some(Fault::Refused)) => Some(Some(Trouble::Refused)),
            _ => None,
        };
        match trouble {
            Some(Some(trouble)) => {
                let deliver = packet.remote.answer(Some(trouble));
                self.reply(packet.caller, packet.service(), deliver);
            }
            // It is dropped, and its caller waits until it has had enough.
            Some(None) => {}
            None => {
                if let State::Slow(ms) = link {
                    arrives = arrives.after(ms);
                    fate.back += ms;
                }
                let sent = Sent { packet, fate, again: false };
                if link == State::Held {
                    self.held.push(sent);
                } else if arrives == now {
                    self.there_next.push(sent);
                } else {
                    self.put_there(arrives, sent);
                }
            }
        }
    }

    fn draw(&self, packet: &Packet) -> Option<Fault> {
        let caller = packet.caller;
        let host = match caller.host {
            HostId::Worker(n) => u64::from(n),
            HostId::Client(n) => 1_000 + u64::from(n),
        };
        let method = crate::dice::hash(packet.method);
        let names = [host, caller.start.into(), method, packet.salt, packet.nth];
        let mut dice = Dice::numbered(self.seed, &names);
        // Each is thrown for, so that turning one kind off moves no other.
        let mut met = |odds: u64| dice.chance(odds);
        let (slow, lost_request) = (met(self.odds.slow), met(self.odds.lost_request));
        let (lost_reply, twice) = (met(self.odds.lost_reply), met(self.odds.twice));
        let (refused, quick, back) = (met(self.odds.refused), met(500), met(500));
        let is_receive = packet.method == "broker.receive";
        if slow {
            let ms = self.slowness(&mut dice);
            Some(if back { Fault::SlowBack(ms) } else { Fault::SlowThere(ms) })
        } else if lost_request {
            Some(Fault::LostRequest { quick })
        } else if lost_reply {
            Some(Fault::LostReply { quick })
        } else if twice && packet.method != "broker.purge" && (!is_receive || dice.chance(100)) {
            Some(Fault::Twice(dice.below(500)))
        } else if refused {
            let transient = is_receive || packet.method == "broker.renew";
            Some(if transient { Fault::LostRequest { quick: true } } else { Fault::Refused })
        } else {
            None
        }
    }

    /// What arrives now, in order.
    pub fn arrived(&mut self, now: Ms) -> Vec<Sent> {
        let mut arrived = Vec::new();
        while let Some(first) = self.there.first_entry().filter(|first| first.key().0 <= now) {
            arrived.push(first.remove());
        }
        arrived.append(&mut self.there_next);
        arrived
    }

    /// Takes a call that was made, and sends its answer.
    pub fn answer(&mut self, mut sent: Sent, now: Ms) {
        if !sent.again {
            let (caller, service) = (sent.packet.caller, sent.packet.service());
            match sent.fate.lost {
                Some(true) => {
                    let deliver = sent.packet.remote.answer(Some(Trouble::Reset));
                    self.reply(caller, service, deliver);
                }
                Some(false) => {}
                // What the second call of these answers is what holds.
                None if sent.fate.again.is_some() && sent.packet.method == "revokes.revoke" => {}
                None => {
                    let deliver = sent.packet.remote.answer(None);
                    self.reply_after(sent.fate.back, now, (caller, service, deliver));
                }
            }
            if let Some(ms) = sent.fate.again {
                self.put_there(now.after(ms.max(1)), Sent { again: true, ..sent });
            }
        } else if let Some(deliver) = sent.packet.remote.answer(None) {
            self.reply(sent.packet.caller, sent.packet.service(), Some(deliver));
        }
    }

    /// Sends the word that a service refuses a call.
    pub fn refuse(&mut self, mut sent: Sent, trouble: Option<Trouble>) {
        if let Some(trouble) = trouble {
            let deliver = sent.packet.remote.answer(Some(trouble));
            self.reply(sent.packet.caller, sent.packet.service(), deliver);
        }
    }

    fn reply(&mut self, caller: Caller, service: ServiceKind, deliver: Option<Deliver>) {
        self.back_next.extend(deliver.map(|deliver| Due { caller, service, deliver }));
    }

    fn reply_after(
        &mut self,
        ms: u64,
        now: Ms,
        (caller, service, deliver): (Caller, ServiceKind, Option<Deliver>),
    ) {
        match deliver {
            Some(deliver) if ms > 0 => {
                self.count += 1;
                let due = Due { caller, service, deliver };
                self.back.insert((now.after(ms), self.count), due);
            }
            deliver => self.reply(caller, service, deliver),
        }
    }

    /// Puts what each process is to be told now there. What a link that is down does not let through is thrown away.
    pub fn replies(&mut self, now: Ms, told: &mut Vec<(Caller, Deliver)>) {
        let mut due = Vec::new();
        while let Some(first) = self.back.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove());
        }
        due.append(&mut self.back_next);
        for due in due {
            if !matches!(self.state(due.caller.host, due.service), State::Down { .. }) {
                told.push((due.caller, due.deliver));
            }
        }
    }
}
