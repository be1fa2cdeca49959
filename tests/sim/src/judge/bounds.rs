//! Rules about bounds: how many may run and how often that changes, how long a drain takes, and that everything ends once
//! everything is good again.

use std::collections::BTreeMap;

use stem_core::control::Drain;
use stem_core::observe::Gauges;

use super::Setting;
use super::bench::{Bench, Rule};
use super::ends::Ends;
use super::health::{Health, Topic};
use super::ledger::Ledger;
use crate::fact::{Caller, Fact, HostId, Ms, Phase};

/// From an order to stop, or the end of its grace, until a worker with nothing in its way is gone.
const LEAVING: u64 = 2_000;

#[derive(Debug)]
struct Scale {
    concurrency: usize,
    changed: Option<Ms>,
}

/// A drain that is to be over.
#[derive(Debug)]
struct Leaving {
    asked: Ms,
    /// By a command, which has to reach it.
    remote: bool,
    mode: Drain,
    deadline: Ms,
}

/// Bounds of each process.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    scales: BTreeMap<Caller, Scale>,
    leaving: BTreeMap<Caller, Leaving>,
    bound: Option<Ms>,
}

impl Bounds {
    pub(super) fn hear(
        &mut self,
        bench: &mut Bench,
        (setting, health, ledger): (&Setting, &Health, &Ledger),
        (at, caller, fact): (Ms, Option<Caller>, &Fact),
    ) {
        match fact {
            Fact::DrainAsked { worker, mode, grace } => {
                if let Some(leaving) = caller.or_else(|| setting.caller_of(worker)) {
                    self.drain(setting, (at, caller.is_none()), leaving, (*mode, *grace));
                }
            }
            Fact::Gone { .. } => {
                if let Some(caller) = caller {
                    self.leaving.remove(&caller);
                    self.scales.remove(&caller);
                }
            }
            Fact::Phase(phase) => self.turn(bench, (health, ledger), *phase),
            _ => {}
        }
    }

    fn drain(
        &mut self,
        setting: &Setting,
        (at, remote): (Ms, bool),
        caller: Caller,
        (mode, grace): (Drain, Option<u64>),
    ) {
        let grace = match mode {
            // What runs may take as long as it takes; once all is over there is nothing left to run.
            Drain::Warm if !setting.is_draining_all() => return,
            Drain::Warm | Drain::Hard => 0,
            Drain::Soft => {
                grace.or(setting.declared(caller).map(|it| it.soft_grace)).unwrap_or_default()
            }
        };
        let way = if remote { 1_000 + setting.round } else { 0 };
        let deadline = at.after(grace + grace / 100 + LEAVING + setting.round + way);
        let leaving = Leaving { asked: at, remote, mode, deadline };
        // The first deadline stays: a drain only becomes faster.
        self.leaving.entry(caller).or_insert(leaving);
    }

    fn turn(&mut self, bench: &mut Bench, known: (&Health, &Ledger), phase: Phase) {
        self.bound = match phase {
            Phase::Healed { bound } | Phase::Replayed { bound } => Some(bound),
            Phase::Storm | Phase::Draining | Phase::Over => None,
        };
        if matches!(phase, Phase::Replayed { .. } | Phase::Draining | Phase::Over) {
            Self::all_over(bench, known);
        }
    }

    /// Everything is good again and the time is over: nothing is left to do.
    fn all_over(bench: &mut Bench, (health, ledger): (&Health, &Ledger)) {
        let left = ledger.unfinished().next();
        // A store that waits for a clock which was set back to catch up has wedged what was out at that time.
        let rule = if health.server_stepped_back() { Rule::I9 } else { Rule::I28 };
        bench.must_be(rule, left.is_none(), || {
            let Some((task, life)) = left else { return String::new() };
            format!("{task} is {:?} and nothing is in its way any more", life.phase)
        });
    }

    /// Every half a second.
    pub(super) fn look(
        &mut self,
        bench: &mut Bench,
        (setting, health, ledger, ends): (&Setting, &Health, &Ledger, &Ends),
        (at, gauges): (Ms, &[(Caller, Gauges)]),
    ) {
        for (caller, gauges) in gauges {
            bench.turn_to(at, Some(*caller));
            self.scale(bench, (setting, health), (at, *caller), gauges.concurrency);
        }
        if self.bound.is_some_and(|bound| at > bound) {
            bench.turn_to(at, None);
            self.bound = None;
            Self::all_over(bench, (health, ledger));
        }
        let late: Vec<Caller> = self
            .leaving
            .iter()
            .filter(|(_, leaving)| leaving.deadline < at)
            .map(|(caller, _)| *caller)
            .collect();
        for caller in late {
            let Some(leaving) = self.leaving.remove(&caller) else { continue };
            let since = Ms(leaving.asked.0.saturating_sub(setting.call_limit + 2_000));
            let on_way = (0..setting.clients).all(|n| health.quiet(HostId::Client(n), since));
            // A command that is over by the worker's clock is not obeyed.
            let wall = health.wall(caller.host, leaving.asked);
            let off = wall.since(leaving.asked.shown()).as_secs() > 1;
            if !health.quiet(caller.host, since) || (leaving.remote && (!on_way || off)) {
                bench.excuse(Rule::I23);
                continue;
            }
            bench.turn_to(at, Some(caller));
            bench.must_be(Rule::I23, false, || {
                format!(
                    "it was asked at {} s to stop ({}), and is there with {} deliveries in its hands",
                    leaving.asked,
                    leaving.mode.as_str(),
                    ends.in_hand(caller)
                )
            });
        }
    }

    fn scale(
        &mut self,
        bench: &mut Bench,
        (setting, health): (&Setting, &Health),
        (at, caller): (Ms, Caller),
        concurrency: usize,
    ) {
        let Some(declared) = setting.declared(caller) else { return };
        let least = declared.autoscale.as_ref().map_or(declared.concurrency, |rules| rules.min);
        let within = (least..=declared.concurrency).contains(&concurrency);
        bench.must_be(Rule::I24, within, || {
            format!(
                "{concurrency} may run at once; {least} to {} are declared",
                declared.concurrency
            )
        });
        let scale = self.scales.entry(caller).or_insert(Scale { concurrency, changed: None });
        if scale.concurrency == concurrency {
            return;
        }
        if let (Some(rules), Some(changed)) = (&declared.autoscale, scale.changed) {
            let pause = if concurrency > scale.concurrency {
                rules.scale_up_cooldown
            } else {
                rules.scale_down_cooldown
            };
            let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            let past = at.since(changed);
            let seen = Ms(changed.0.saturating_sub(setting.look));
            if !health.undisturbed(caller.host, &[Topic::Process], seen) {
                // What was changed before a stop is seen after it.
                bench.excuse(Rule::I24);
                *scale = Scale { concurrency, changed: Some(at) };
                return;
            }
            bench.must_be(Rule::I24, past + setting.look + pause / 50 >= pause, || {
                format!("{concurrency} may run at once, {past} ms after {} might; the pause is {pause} ms", scale.concurrency)
            });
        }
        *scale = Scale { concurrency, changed: Some(at) };
    }
}
