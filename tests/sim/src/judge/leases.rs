//! Rules about leases: a living worker keeps them, what one has lost it does nothing with, and what is ready is taken.

use std::collections::BTreeMap;

use stem_core::backend::broker::Renewed;
use stem_core::observe::Gauges;
use stem_core::time::Timestamp;

use super::Setting;
use super::bench::{Bench, Rule};
use super::ends::Ends;
use super::health::{Health, Topic};
use super::ledger::{Ledger, Lost, Phase};
use crate::fact::{Call, Caller, Fact, Held, Ms, ServiceKind};

/// What must be undisturbed for a worker to keep its leases.
const KEEPING: [Topic; 10] = [
    Topic::Process,
    Topic::Clock,
    Topic::Link(ServiceKind::Broker),
    // A lease is not renewed while the record is written that the attempt runs.
    Topic::Link(ServiceKind::Records),
    Topic::Call("results.record_begun"),
    Topic::Call("results.record_queued"),
    Topic::Call("results.fetch"),
    Topic::Call("broker.receive"),
    Topic::Call("broker.renew"),
    Topic::Call("broker.settle"),
];

/// What must be undisturbed for a worker to take tasks.
const TAKING: [Topic; 8] = [
    Topic::Process,
    Topic::Clock,
    Topic::Link(ServiceKind::Broker),
    Topic::Link(ServiceKind::Revokes),
    Topic::Call("broker.receive"),
    Topic::Call("revokes.time"),
    Topic::Call("revokes.since"),
    Topic::Call("revokes.changed"),
];

/// A delivery at one process.
#[derive(Debug)]
struct Grant {
    /// When the request for it was sent.
    sent: Ms,
    /// Milliseconds.
    lease: u64,
    /// It came.
    held: bool,
    /// When it ends, at the latest, as far as the holder can know.
    until: Ms,
}

/// All deliveries, and since when nothing was handed out.
#[derive(Debug, Default)]
pub(super) struct Leases {
    grants: BTreeMap<(Caller, Held), Grant>,
    /// When something was last handed out.
    last: Ms,
    /// Since when each worker has had free places at every look.
    free: BTreeMap<Caller, Ms>,
    /// When each worker last asked.
    asked: BTreeMap<Caller, Ms>,
    ready: BTreeMap<Caller, Ms>,
}

impl Leases {
    pub(super) fn hear(
        &mut self,
        bench: &mut Bench,
        setting: &Setting,
        call: Call,
        (at, caller, fact): (Ms, Option<Caller>, &Fact),
    ) {
        let Some(caller) = caller else { return };
        match fact {
            Fact::Leased { held, asked, .. } => {
                self.last = at;
                let until = at.after(*asked);
                let grant = Grant { sent: call.sent, lease: *asked, held: false, until };
                self.grants.insert((caller, held.clone()), grant);
            }
            Fact::Renewed { held, asked, answer: Renewed::Until(_) } => {
                if let Some(grant) = self.grants.get_mut(&(caller, held.clone())) {
                    grant.until = grant.until.max(at.after(*asked));
                }
            }
            Fact::Held(came) => {
                for held in came {
                    if let Some(grant) = self.grants.get_mut(&(caller, held.clone())) {
                        grant.held = true;
                    }
                }
            }
            Fact::Started { held, .. } => {
                self.acts(bench, (at, caller), held, (false, "was started"));
            }
            Fact::Effect { held, child } => {
                let behind = setting.records_apart;
                self.acts(bench, (at, caller), held, (behind, &format!("enqueued {child}")));
            }
            Fact::Asked { .. } => {
                self.asked.insert(caller, at);
            }
            Fact::Ready => {
                self.ready.insert(caller, at);
                self.asked.insert(caller, at);
            }
            Fact::Gone { .. } => {
                self.ready.remove(&caller);
                self.free.remove(&caller);
            }
            _ => {}
        }
    }

    /// A worker does something by a delivery: its lease must not be over, by all that the worker can know.
    fn acts(
        &mut self,
        bench: &mut Bench,
        (at, caller): (Ms, Caller),
        held: &Held,
        (behind, what): (bool, &str),
    ) {
        let Some(grant) = self.grants.get(&(caller, held.clone())) else { return };
        // A clock may run a hundredth too slowly, and both ends are kept in milliseconds.
        let until = grant.until.after(grant.lease / 100 + 2);
        let late = at > until;
        // Where records lie apart a child's record is written between the look at the lease and the enqueueing, and that
        // may take as long as a call may.
        if late && behind {
            bench.note("enqueued a child behind its record, after the lease");
            return bench.excuse(Rule::I8);
        }
        bench.must(Rule::I8, !late, &held.task, || {
            format!(
                "{} {what} under token {}, whose lease was over at {} s",
                held.task, held.token, grant.until
            )
        });
    }

    /// A lease ran out unsettled.
    pub(super) fn lost(
        &mut self,
        bench: &mut Bench,
        setting: &Setting,
        health: &Health,
        lost: &Lost,
    ) {
        bench.note("leases lost");
        let Some(grant) = self.grants.get(&(lost.by, lost.held.clone())) else { return };
        let since = Ms(grant.sent.0.saturating_sub(setting.call_limit));
        if !grant.held || !health.undisturbed(lost.by.host, &KEEPING, since) {
            return bench.excuse(Rule::I5);
        }
        let (task, by) = (&lost.held.task, lost.by);
        bench.must(Rule::I5, false, task, || {
            format!(
                "{task} was lost by {by} under token {}, and nothing had disturbed it",
                lost.held.token
            )
        });
    }

    /// Every half a second.
    pub(super) fn look(
        &mut self,
        bench: &mut Bench,
        setting: &Setting,
        (health, ledger, ends): (&Health, &Ledger, &Ends),
        (at, clock, gauges): (Ms, Timestamp, &[(Caller, Gauges)]),
    ) {
        for (caller, gauges) in gauges {
            if gauges.inflight >= gauges.concurrency {
                self.free.remove(caller);
            } else {
                self.free.entry(*caller).or_insert(at);
            }
        }
        // A pause after an error doubles up to 2 s, and a call may have been under way before that.
        let since = Ms(at.0.saturating_sub(6_000 + setting.call_limit));
        let able: Vec<Caller> = self
            .ready
            .iter()
            .filter(|(caller, ready)| {
                at.since(**ready) > 6_000
                    && !setting.is_draining(**caller)
                    && !ends.is_alone(**caller, at)
                    && health.undisturbed(caller.host, &TAKING, since)
            })
            .map(|(caller, _)| *caller)
            .collect();
        let bound = 3_000 + setting.round;
        for caller in &able {
            let free = self.free.get(caller).is_some_and(|free| at.since(*free) >= bound);
            if !free {
                continue;
            }
            bench.turn_to(at, Some(*caller));
            let silent = self.asked.get(caller).map_or(u64::MAX, |asked| at.since(*asked));
            bench.must_be(Rule::I28, silent <= bound, || {
                format!("it has free places and has asked for nothing for {silent} ms")
            });
        }
        let quiet = 1_000 + setting.round;
        let free = able
            .iter()
            .find(|caller| self.free.get(caller).is_some_and(|free| at.since(*free) >= quiet));
        if let Some(caller) = free
            && at.since(self.last) >= quiet
        {
            let waiting = ledger.lives().find(|(_, life)| match life.phase {
                Phase::Ready { since } => {
                    !setting.is_paused(&life.queue)
                        && clock.since(since).as_millis() > u128::from(quiet)
                }
                _ => false,
            });
            bench.turn_to(at, Some(*caller));
            bench.must_be(Rule::I7, waiting.is_none(), || {
                let task = waiting.map(|(task, _)| task.as_str()).unwrap_or_default();
                format!("{task} is ready and the worker has free places, and nothing was handed out for {quiet} ms")
            });
        }
    }
}
