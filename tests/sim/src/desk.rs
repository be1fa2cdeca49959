//! [`Desk`]: where the parts of one process leave what they send and what they have to tell, until the world takes it.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stem_core::id::{LeaseToken, TaskId};
use stem_core::observe::{AttemptEnd, AttemptFacts, Observer, Seen, Trace};
use tokio::time::Instant;

use crate::fact::{Caller, Fact, Held, Method, Ms};
use crate::net::Packet;

/// Of one process.
#[derive(Debug)]
pub struct Desk {
    /// Which.
    pub caller: Caller,
    /// The runtime's time when it began.
    zero: Instant,
    /// The world's time then.
    began: Ms,
    /// Scripts do as little as they can.
    calm: Arc<AtomicBool>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    packets: Vec<Packet>,
    facts: Vec<(Ms, Fact)>,
    /// Calls so far, by method and salt.
    calls: BTreeMap<(Method, u64), u64>,
    /// The newest delivery of each task that came here: what a handler, which is told no token, runs under.
    tokens: BTreeMap<TaskId, LeaseToken>,
    /// Deliveries whose records were said to run at this time. Their handlers begin in that moment or not at all, and a task
    /// may come again in it.
    begun: (Ms, Vec<Held>),
    /// The process is dead, and what still falls is told at this time.
    frozen: Option<Ms>,
    /// A script asked for the death of the process.
    doomed: bool,
}

impl Desk {
    /// Of a process that begins now. On its runtime.
    pub fn new(caller: Caller, began: Ms, calm: &Arc<AtomicBool>) -> Arc<Self> {
        let (zero, calm) = (Instant::now(), Arc::clone(calm));
        Arc::new(Self { caller, zero, began, calm, inner: Mutex::default() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime's time when the process began.
    pub fn zero(&self) -> Instant {
        self.zero
    }

    fn now_unless(&self, frozen: Option<Ms>) -> Ms {
        frozen.unwrap_or_else(|| {
            self.began.after(u64::try_from(self.zero.elapsed().as_millis()).unwrap_or(u64::MAX))
        })
    }

    /// The world's time, as far as this host has come. On its runtime.
    pub fn now(&self) -> Ms {
        let frozen = self.inner().frozen;
        self.now_unless(frozen)
    }

    /// Tells a fact.
    pub fn tell(&self, fact: Fact) {
        let mut inner = self.inner();
        let now = self.now_unless(inner.frozen);
        inner.facts.push((now, fact));
    }

    /// The process dies now: whatever falls with it is told at this time, and nothing is sent any more.
    pub fn freeze(&self, at: Ms) {
        self.inner().frozen = Some(at);
    }

    /// Which of the calls of this method and salt the next one is.
    pub fn count(&self, method: Method, salt: u64) -> u64 {
        let mut inner = self.inner();
        let next = inner.calls.entry((method, salt)).or_default();
        *next += 1;
        *next - 1
    }

    /// Sends.
    pub fn send(&self, packet: Packet) {
        let mut inner = self.inner();
        if inner.frozen.is_none() {
            inner.packets.push(packet);
        }
    }

    /// What was sent since the last time, in an order that does not depend on which task ran first.
    pub fn take_packets(&self) -> Vec<Packet> {
        let mut packets = mem::take(&mut self.inner().packets);
        packets.sort_by_key(Packet::key);
        packets
    }

    /// What was told since the last time.
    pub fn take_facts(&self) -> Vec<(Ms, Fact)> {
        mem::take(&mut self.inner().facts)
    }

    /// Notes the deliveries that came.
    pub fn came(&self, deliveries: &[Held]) {
        let mut inner = self.inner();
        for held in deliveries {
            inner.tokens.insert(held.task.clone(), held.token);
        }
    }

    /// A record says that this delivery runs.
    pub fn begun(&self, held: &Held) {
        let mut inner = self.inner();
        let now = self.now_unless(inner.frozen);
        if inner.begun.0 != now {
            inner.begun = (now, Vec::new());
        }
        inner.begun.1.push(held.clone());
    }

    /// The delivery whose handler begins.
    pub fn start(&self, task: &TaskId) -> Held {
        let mut inner = self.inner();
        let now = self.now_unless(inner.frozen);
        let (at, begun) = &mut inner.begun;
        // Of two it is the later one: the lease of the other is over.
        let last = begun.iter().rposition(|held| held.task == *task).filter(|_| *at == now);
        let last = last.map(|last| begun.remove(last));
        drop(inner);
        last.unwrap_or_else(|| self.held(task))
    }

    /// The newest delivery of a task that came here.
    pub fn held(&self, task: &TaskId) -> Held {
        let token = self.inner().tokens.get(task).copied().unwrap_or_default();
        Held { task: task.clone(), token }
    }

    /// Whether scripts do as little as they can.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// A script wants the process dead.
    pub fn doom(&self) {
        self.inner().doomed = true;
    }

    /// Whether one does.
    pub fn is_doomed(&self) -> bool {
        self.inner().doomed
    }
}

/// Listens to a worker.
#[derive(Debug)]
pub struct Ear(pub Arc<Desk>);

impl Observer for Ear {
    fn is_watching(&self) -> bool {
        false
    }

    fn started(&self, _: &AttemptFacts<'_>) -> Option<Box<dyn Trace>> {
        None
    }

    fn ended(&self, attempt: &AttemptFacts<'_>, end: &AttemptEnd<'_>) {
        self.0.tell(Fact::Retired { task: attempt.task.clone(), ending: end.ending });
    }

    fn saw(&self, seen: Seen<'_>) {
        if let Seen::Commanded { order, ok } = seen {
            self.0.tell(Fact::Commanded { order, ok });
        }
    }
}
