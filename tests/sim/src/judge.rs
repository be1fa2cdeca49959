//! [`Judge`]: told everything that happens in a world, it says what must not.
//!
//! | rule | finds |
//! |---|---|
//! | I1 | a task that was acknowledged and is nowhere |
//! | I2 | a task with two ends, with another result than its handler returned, or that nobody enqueued |
//! | I3 | a write by a token that is not the newest and that was taken, or one by the newest that was not |
//! | I4 | a delivery that was handed out or started although another was not over |
//! | I5 | a lease that ran out in the hands of a worker that nothing had disturbed |
//! | I6 | a store that holds something else than what it answered comes to |
//! | I7 | a lease of another length than was asked for; a ready task that no idle worker gets |
//! | I8 | a start or an effect under a lease that is over |
//! | I9 | a task that is stuck after the store's clock was set back |
//! | I10 | a count of losses, attempts or deliveries that is wrong; poison that is started, or what is no poison; more that is taken or started beside a last chance |
//! | I11 | a dead letter that is replayed twice or not at all |
//! | I12 | more deliveries in a worker's hands than it has places |
//! | I13 | a command with a revocation that is not stored |
//! | I14, I19 | a start of a task whose revocation had come, lately or long ago |
//! | I15, I17 | a worker that misses a revocation from before or after its start, or holds one that was taken back |
//! | I16, I18 | a command that an undisturbed worker did not answer, or that was obeyed twice or late |
//! | I20 | a worker that asks for tasks and has not read the revocations lately |
//! | I21 | a handler that runs on although its task was terminated |
//! | I23 | an attempt that is used up although its handler did not fail; a drain that takes too long |
//! | I24 | a number of attempts at once out of its bounds, or that changes too often |
//! | I28 | a worker that falls silent; a task that does not end once all is good again |
//!
//! Facts that come from a store are held against the `ledger`; those that come from a worker against what it could know.
//! Where a rule asks what an undisturbed worker does, `health` says whether it was one, and what was excused is counted.
//! Only the first violation is kept: the world stops there.

mod bench;
mod bounds;
mod ends;
mod health;
mod leases;
mod ledger;
mod orders;
mod records;
mod revokes;
mod setting;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stem_core::observe::Gauges;
use stem_core::time::Timestamp;

pub use bench::{Rule, Violation};

use crate::fact::{Audit, Call, Caller, Fact, HostId, Ms};
use crate::plan::Plan;
use crate::tally::Tally;
use crate::trace::Trace;
use setting::Setting;

/// Everything that is known of the world.
struct Court {
    tally: Tally,
    call: Call,
    bench: bench::Bench,
    setting: Setting,
    health: health::Health,
    ledger: ledger::Ledger,
    leases: leases::Leases,
    ends: ends::Ends,
    revokes: revokes::Revokes,
    orders: orders::Orders,
    bounds: bounds::Bounds,
}

/// Judges one world.
pub struct Judge {
    trace: Trace,
    court: Mutex<Court>,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("violation", &self.violation()).finish_non_exhaustive()
    }
}

impl Judge {
    /// Of a world that goes by this plan.
    pub fn shared(plan: &Plan, trace: Trace) -> Arc<Self> {
        let setting = Setting::new(plan);
        let call = Call {
            at: Ms(0),
            clock: Ms(0).shown(),
            caller: Caller { host: HostId::Client(0), start: 0 },
            sent: Ms(0),
        };
        let court = Court {
            tally: Tally::default(),
            call,
            bench: bench::Bench::default(),
            ledger: ledger::Ledger::new(setting.records_apart),
            setting,
            health: health::Health::default(),
            leases: leases::Leases::default(),
            ends: ends::Ends::default(),
            revokes: revokes::Revokes::default(),
            orders: orders::Orders::default(),
            bounds: bounds::Bounds::default(),
        };
        Arc::new(Self { trace, court: Mutex::new(court) })
    }

    fn court(&self) -> MutexGuard<'_, Court> {
        self.court.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server executes this call from now on.
    pub fn calling(&self, call: Call) {
        let mut court = self.court();
        court.call = call;
        court.setting.note_clock(call.at, call.clock);
    }

    /// The call that a server executes.
    pub fn call(&self) -> Call {
        self.court().call
    }

    /// The broker makes ready what has fallen due, at the time of the call.
    pub fn promoted(&self) {
        let mut court = self.court();
        let call = court.call;
        court.bench.turn_to(call.at, Some(call.caller));
        court.promote(call.clock);
    }

    /// Something happened.
    #[expect(clippy::needless_pass_by_value, reason = "whoever tells a fact is done with it")]
    pub fn tell(&self, at: Ms, caller: Option<Caller>, fact: Fact) {
        self.trace.note(at, caller, &fact);
        let mut court = self.court();
        court.tally.count(caller, &fact);
        if court.bench.first().is_none() {
            court.hear(at, caller, &fact);
        }
    }

    /// Every half a second of the world, and at the end of each phase: what workers are like, and what the store holds by
    /// its clock. `true` asks for another look that lists what is known: the counts are wrong.
    pub fn look(
        &self,
        at: Ms,
        clock: Timestamp,
        gauges: &[(Caller, Gauges)],
        audit: &Audit,
    ) -> bool {
        let mut court = self.court();
        court.setting.note_clock(at, clock);
        court.bench.first().is_none() && court.look(at, clock, gauges, audit)
    }

    /// A part of a host panicked, or the simulation broke its own word.
    pub fn broke(&self, at: Ms, caller: Option<Caller>, words: String) {
        let mut court = self.court();
        court.bench.turn_to(at, caller);
        court.bench.found(Rule::Broke, None, words);
    }

    /// The first violation.
    pub fn violation(&self) -> Option<Violation> {
        self.court().bench.first().cloned()
    }

    /// How often each kind of fact was told and each rule asked, how often it was excused, and what else was seen; also what
    /// never was, and is promised.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let court = self.court();
        let told = court.tally.by_name().map(|(name, count)| (format!("fact: {name}"), count));
        told.chain(court.bench.counts()).collect()
    }

    /// What happened.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl Court {
    fn promote(&mut self, clock: Timestamp) {
        for lost in self.ledger.promote(clock) {
            self.leases.lost(&mut self.bench, &self.setting, &self.health, &lost);
        }
    }

    fn hear(&mut self, at: Ms, caller: Option<Caller>, fact: &Fact) {
        let Self {
            call,
            bench,
            setting,
            health,
            ledger,
            leases,
            ends,
            revokes,
            orders,
            bounds,
            ..
        } = self;
        let told = (at, caller, fact);
        bench.turn_to(at, caller);
        setting.hear(told);
        health.hear(at, caller, fact);
        // Before the ledger: what a fact is compared with is as it was before.
        ends.hear(bench, setting, ledger, told);
        leases.hear(bench, setting, *call, told);
        ledger.hear(bench, *call, fact);
        records::hear(bench, ledger, *call, fact);
        revokes.hear(bench, (setting, health, ends), told);
        orders.hear(bench, (setting, health, ends), revokes, told);
        bounds.hear(bench, (setting, health, ledger), told);
    }

    fn look(
        &mut self,
        at: Ms,
        clock: Timestamp,
        gauges: &[(Caller, Gauges)],
        audit: &Audit,
    ) -> bool {
        self.bench.turn_to(at, None);
        self.promote(clock);
        let Self { bench, setting, health, ledger, leases, ends, revokes, orders, bounds, .. } =
            self;
        bench.turn_to(at, None);
        if !ledger.audit(bench, audit) {
            return true;
        }
        leases.look(bench, setting, (health, ledger, ends), (at, clock, gauges));
        revokes.look(bench, (setting, health, ends), at);
        orders.look(bench, setting, health, at);
        bounds.look(bench, (setting, health, ledger, ends), (at, gauges));
        false
    }
}
