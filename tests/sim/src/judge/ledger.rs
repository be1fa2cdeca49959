//! [`Ledger`]: what a correct broker must hold. Fed with what the broker answered, it computes by the server's clock what
//! it had to answer, and compares.
//!
//! A lease that is over by the clock may still be renewed or settled until the store has looked: a store makes such a
//! delivery ready when it next hands some out, and so does the ledger. Where broker and records are two services, the
//! broker forgets what is final, so an id that a patient producer publishes once more begins a *leftover life* at the first
//! token, of which nothing may start and which ends without a trace.

mod audit;

use std::collections::{BTreeMap, BTreeSet};

use stem_core::backend::broker::{LEAST_STEP, Published, Renewed, Settled};
use stem_core::backend::dead_letter::Replayed;
use stem_core::id::{LeaseToken, QueueName, TaskId};
use stem_core::settlement::DeadReason;
use stem_core::time::Timestamp;

use super::bench::{Bench, Rule};
use crate::fact::{Call, Caller, Fact, Held, HostId, Move};

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Ready { since: Timestamp },
    Delayed { due: Timestamp },
    Leased { by: Caller, until: Timestamp },
    Dead,
    Gone,
}

/// A settlement that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) token: u64,
    pub(super) by: Caller,
    pub(super) how: Move,
}

/// One task.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) queue: QueueName,
    pub(super) phase: Phase,
    pub(super) token: u64,
    pub(super) retries: u32,
    pub(super) losses: u32,
    deliveries: u32,
    /// By which it is final; where the records are.
    pub(super) ended: Option<Ended>,
    /// By which it was final before it was last replayed.
    given_up: Option<Ended>,
    /// By whom the record was last said to run; only where the records lie apart.
    pub(super) begun: Option<(u64, Caller)>,
    /// It was recorded since that this attempt has ended, and the task has not.
    pub(super) rests: bool,
    /// Its record was final when it was published once more.
    leftover: bool,
    expires: bool,
    is_child: bool,
    pub(super) acknowledged: bool,
}

impl Life {
    /// Nothing happens to it any more, short of a replay.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some() && matches!(self.phase, Phase::Gone | Phase::Dead)
    }

    pub(super) fn is_held_by(&self, caller: Caller, held: &Held) -> bool {
        matches!(self.phase, Phase::Leased { by, .. } if by == caller) && held.token.0 == self.token
    }
}

/// A lease that ran out unsettled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) held: Held,
    pub(super) by: Caller,
}

/// All tasks.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Broker and records are two services.
    apart: bool,
    lives: BTreeMap<TaskId, Life>,
    /// What falls due when, by the server's clock.
    due: BTreeSet<(Timestamp, TaskId)>,
    /// The latest time that leases were told by.
    seen: Timestamp,
    tried: BTreeSet<TaskId>,
}

impl Ledger {
    pub(super) fn new(apart: bool) -> Self {
        let (lives, due, tried) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { apart, lives, due, seen: Timestamp::default(), tried }
    }

    pub(super) fn lives(&self) -> impl Iterator<Item = (&TaskId, &Life)> {
        self.lives.iter()
    }

    pub(super) fn life(&self, task: &TaskId) -> Option<&Life> {
        self.lives.get(task)
    }

    pub(super) fn is_apart(&self) -> bool {
        self.apart
    }

    fn turn(&mut self, task: &TaskId, phase: Phase) {
        let Some(life) = self.lives.get_mut(task) else { return };
        if let Phase::Delayed { due: at } | Phase::Leased { until: at, .. } = life.phase {
            self.due.remove(&(at, task.clone()));
        }
        if let Phase::Delayed { due: at } | Phase::Leased { until: at, .. } = phase {
            self.due.insert((at, task.clone()));
        }
        life.phase = phase;
    }

    /// The store goes by this time. Where it was set back since, leases that are not over end as much earlier.
    fn keep_clock(&mut self, now: Timestamp) {
        if self.seen > now.after(LEAST_STEP) {
            let back = self.seen.since(now);
            let later: Vec<TaskId> =
                self.due.iter().filter(|(at, _)| *at > now).map(|(_, task)| task.clone()).collect();
            for task in later {
                if let Some(Phase::Leased { by, until }) = self.life(&task).map(|life| life.phase) {
                    self.turn(&task, Phase::Leased { by, until: until.before(back) });
                }
            }
            self.seen = now;
        }
        self.seen = self.seen.max(now);
    }

    /// The store looks, at this time: what has fallen due is ready from here on. Answers the leases that were lost.
    pub(super) fn promote(&mut self, now: Timestamp) -> Vec<Lost> {
        self.keep_clock(now);
        let mut lost = Vec::new();
        while let Some((at, task)) = self.due.first().filter(|(at, _)| *at <= now).cloned() {
            if let Some(life) = self.lives.get_mut(&task)
                && let Phase::Leased { by, .. } = life.phase
            {
                life.losses += 1;
                let token = LeaseToken(life.token);
                lost.push(Lost { held: Held { task: task.clone(), token }, by });
            }
            self.turn(&task, Phase::Ready { since: at });
        }
        lost
    }

    fn born(&mut self, task: &TaskId, queue: QueueName, phase: Phase, is_child: bool) {
        let life = Life {
            queue,
            phase: Phase::Gone,
            token: 0,
            retries: 0,
            losses: 0,
            deliveries: 0,
            ended: None,
            given_up: None,
            begun: None,
            rests: false,
            leftover: false,
            expires: false,
            is_child,
            acknowledged: false,
        };
        self.lives.insert(task.clone(), life);
        self.turn(task, phase);
    }

    /// A fact of the server, at this call.
    pub(super) fn hear(&mut self, bench: &mut Bench, call: Call, fact: &Fact) {
        match fact {
            Fact::Tried { task } => {
                self.tried.insert(task.clone());
            }
            Fact::Acknowledged { task } => self.acknowledged(bench, task),
            Fact::Published { task, queue, answer, not_before, expires_at } => {
                let due = not_before.filter(|at| *at > call.clock);
                let phase =
                    due.map_or(Phase::Ready { since: call.clock }, |due| Phase::Delayed { due });
                self.published(bench, call, task, queue, (answer, phase));
                if let Some(life) = self.lives.get_mut(task) {
                    life.expires |= expires_at.is_some();
                }
            }
            Fact::Leased { .. } => self.leased(bench, call, fact),
            Fact::Renewed { held, asked, answer } => {
                self.renewed(bench, call, held, *asked, *answer);
            }
            Fact::Settled { held, by, answer, children } => {
                self.settled(bench, call, held, (by, *answer));
                let is_born = *answer == Settled::Done && matches!(by, Move::Succeed(_));
                for child in children.iter().filter(|_| is_born) {
                    let is_there = self
                        .lives
                        .get(child)
                        .is_some_and(|life| !self.apart || !matches!(life.phase, Phase::Gone));
                    if let Some(parent) = self.lives.get(&held.task).filter(|_| !is_there) {
                        let queue = parent.queue.clone();
                        self.born(child, queue, Phase::Ready { since: call.clock }, true);
                    }
                }
            }
            Fact::Replayed { task, token, answer } => {
                self.replayed(bench, call, (task, *token), *answer);
            }
            _ => {}
        }
    }

    fn acknowledged(&mut self, bench: &mut Bench, task: &TaskId) {
        let life = self.lives.get_mut(task);
        bench.must(Rule::I1, life.is_some(), task, || {
            format!("{task} was acknowledged and never published")
        });
        if let Some(life) = life {
            life.acknowledged = true;
        }
    }

    fn published(
        &mut self,
        bench: &mut Bench,
        call: Call,
        task: &TaskId,
        queue: &QueueName,
        (answer, phase): (&Published, Phase),
    ) {
        let is_child = matches!(call.caller.host, HostId::Worker(_));
        match answer {
            Published::Stored => {
                bench.must(Rule::I2, is_child || self.tried.contains(task), task, || {
                    format!("{task} was stored, and no producer enqueued it")
                });
                let before = self.lives.get(task).cloned();
                let Some(before) = before else {
                    return self.born(task, queue.clone(), phase, is_child);
                };
                let is_leftover = self.apart && matches!(before.phase, Phase::Gone);
                bench.must(Rule::I2, is_leftover, task, || {
                    format!("{task} was stored once more while it was {:?}", before.phase)
                });
                bench.note("leftover lives");
                self.born(task, queue.clone(), phase, before.is_child);
                if let Some(life) = self.lives.get_mut(task) {
                    life.leftover = before.ended.is_some();
                    life.ended = before.ended;
                    life.begun = before.begun;
                    life.acknowledged |= before.acknowledged;
                }
            }
            Published::Duplicate { existing } => {
                bench.must(Rule::I1, self.lives.contains_key(existing), task, || {
                    format!("{task} was refused as a duplicate of {existing}, which is nowhere")
                });
            }
        }
    }

    fn leased(&mut self, bench: &mut Bench, call: Call, fact: &Fact) {
        let Fact::Leased { held, until, asked, attempt, deliveries, losses, .. } = fact else {
            return;
        };
        let (task, caller) = (&held.task, call.caller);
        let Some(life) = self.lives.get_mut(task) else {
            return bench.found(
                Rule::I2,
                Some(task),
                format!("{task} was handed out, and was never published"),
            );
        };
        let over = matches!(life.phase, Phase::Gone)
            || (life.ended.is_some() && !life.leftover && !self.apart);
        bench.must(Rule::I2, !over, task, || {
            format!("{task} was handed out to {caller} after it had ended: {:?}", life.ended)
        });
        bench.must(Rule::I4, matches!(life.phase, Phase::Ready { .. }), task, || {
            format!("{task} was handed out to {caller} while it was {:?}", life.phase)
        });
        bench.must(Rule::I4, held.token.0 == life.token + 1, task, || {
            format!("{task} was handed out under token {} after {}", held.token, life.token)
        });
        let whole = call.clock.after(std::time::Duration::from_millis(*asked));
        bench.must(Rule::I7, *until == whole, task, || {
            format!("{task} was leased until {until}; {asked} ms were asked for at {}", call.clock)
        });
        let counted = (life.retries + 1, life.deliveries + 1, life.losses);
        bench.must(Rule::I10, (*attempt, *deliveries, *losses) == counted, task, || {
            format!(
                "{task} was handed out as attempt {attempt}, delivery {deliveries}, with {losses} losses; {counted:?} is right"
            )
        });
        life.token = held.token.0;
        life.deliveries += 1;
        self.turn(task, Phase::Leased { by: caller, until: *until });
    }

    fn renewed(&mut self, bench: &mut Bench, call: Call, held: &Held, asked: u64, answer: Renewed) {
        self.keep_clock(call.clock);
        let task = &held.task;
        let life = self.lives.get(task);
        let holds = life.is_some_and(|life| life.is_held_by(call.caller, held));
        let accepted = matches!(answer, Renewed::Until(_));
        bench.must(Rule::I3, accepted == holds, task, || {
            let is = life.map(|life| (life.phase, life.token));
            format!(
                "{task}: a renewal under token {} was answered {answer:?}; it is {is:?}",
                held.token
            )
        });
        if let Renewed::Until(until) = answer
            && let Some(Phase::Leased { by, until: before }) = life.map(|life| life.phase)
        {
            let whole = call.clock.after(std::time::Duration::from_millis(asked)).max(before);
            bench.must(Rule::I7, until == whole, task, || {
                format!("{task} was renewed until {until}; until {whole} is right")
            });
            self.turn(task, Phase::Leased { by, until });
        }
        if !accepted {
            bench.note("stale refused");
        }
    }

    fn settled(
        &mut self,
        bench: &mut Bench,
        call: Call,
        held: &Held,
        (by, answer): (&Move, Settled),
    ) {
        let task = &held.task;
        let apart = self.apart;
        let Some(life) = self.lives.get_mut(task) else {
            return bench.must(Rule::I3, answer == Settled::Stale, task, || {
                format!("{task} was settled, and was never published")
            });
        };
        let holds = life.is_held_by(call.caller, held);
        bench.must(Rule::I3, (answer == Settled::Done) == holds, task, || {
            let is = (life.phase, life.token);
            format!(
                "{task}: {by:?} under token {} was answered {answer:?}; it is {is:?}",
                held.token
            )
        });
        if answer == Settled::Stale {
            return bench.note("stale refused");
        }
        if *by == Move::Expire {
            bench.must(Rule::I2, life.expires, task, || {
                format!("{task} has expired, and never expires")
            });
        }
        if life.leftover {
            // The settlement of its first life, which came a second time: nothing of it is new.
            let same = Ended { token: held.token.0, by: call.caller, how: by.clone() };
            let is_same = life.ended.as_ref() == Some(&same);
            if is_same {
                bench.note("leftover lives that ended by a settlement made twice");
            }
            let harmless = is_same || !matches!(by, Move::Succeed(_) | Move::Retry { .. });
            bench.must(Rule::I2, harmless, task, || {
                format!("{task} had ended by {:?}, and what was left of it by {by:?}", life.ended)
            });
        } else if by.is_final() && !apart {
            bench.must(Rule::I2, life.ended.is_none(), task, || {
                format!("{task} has two winners: {:?} and {by:?}", life.ended)
            });
            life.ended = Some(Ended { token: held.token.0, by: call.caller, how: by.clone() });
        } else if by.is_final() || *by == Move::Discard {
            // Of two replays at once the later one may find a task that has failed anew, whose record it has looked at before
            // that: the record stays failed, and what was put back is taken for a leftover.
            let fails = matches!(by, Move::Fail(_) | Move::Discard);
            if fails && life.ended.is_none() && life.given_up.is_some() {
                life.ended = life.given_up.take();
                bench.note("replays of what had failed anew meanwhile");
            }
            let failed = life.ended.as_ref().is_some_and(|end| matches!(end.how, Move::Fail(_)));
            bench.must(Rule::I11, *by != Move::Discard || !failed, task, || {
                format!("{task} has failed, and what was left of it was no dead letter")
            });
            // The record first: what leaves the broker without one is lost.
            bench.must(Rule::I2, life.ended.is_some(), task, || {
                format!("{task} left the broker by {by:?}, and its record is not final")
            });
        }
        let phase = match by {
            Move::Succeed(_) | Move::Revoke { .. } | Move::Expire | Move::Discard => Phase::Gone,
            Move::Fail(_) => Phase::Dead,
            Move::Retry { not_before } => {
                life.retries += 1;
                Phase::Delayed { due: *not_before }
            }
            Move::Release => {
                life.deliveries = life.deliveries.saturating_sub(1);
                Phase::Ready { since: call.clock }
            }
        };
        self.turn(task, phase);
    }

    fn replayed(
        &mut self,
        bench: &mut Bench,
        call: Call,
        (task, token): (&TaskId, LeaseToken),
        answer: Replayed,
    ) {
        let Some(life) = self.lives.get_mut(task) else { return };
        let is_dead = life.phase == Phase::Dead && life.token == token.0;
        bench.must(Rule::I11, (answer == Replayed::Queued) == is_dead, task, || {
            format!(
                "{task}: a replay by token {token} was answered {answer:?}; it is {:?}, by {}",
                life.phase, life.token
            )
        });
        if answer == Replayed::Queued {
            (life.retries, life.losses, life.deliveries) = (0, 0, 0);
            if life.ended.as_ref().is_some_and(|end| matches!(end.how, Move::Fail(_))) {
                life.given_up = life.ended.take();
            }
            life.leftover = life.ended.is_some();
            life.rests = true;
            self.turn(task, Phase::Ready { since: call.clock });
        }
    }

    /// A settlement was recorded where the records lie apart: there the task ends.
    pub(super) fn record(&mut self, task: &TaskId, end: Ended) {
        if let Some(life) = self.lives.get_mut(task) {
            life.ended.get_or_insert(end);
        }
    }

    /// An attempt was recorded to have ended, and its task goes on. Of a record that says of none that it runs, nothing is
    /// taken back.
    pub(super) fn rest(&mut self, held: &Held, by: Caller) {
        if let Some(life) = self.lives.get_mut(&held.task)
            && life.begun.is_some()
            && !life.rests
        {
            (life.begun, life.rests) = (Some((held.token.0, by)), true);
        }
    }

    /// A record was said to run.
    pub(super) fn begin(&mut self, held: &Held, by: Caller) {
        if let Some(life) = self.lives.get_mut(&held.task) {
            (life.begun, life.rests) = (Some((held.token.0, by)), false);
        }
    }

    /// Tasks with something left to happen.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = (&TaskId, &Life)> {
        self.lives.iter().filter(|(_, life)| !life.is_over())
    }
}

/// Whether a task that was given up so took its workers down.
pub(super) fn is_poison(how: &Move) -> bool {
    *how == Move::Fail(DeadReason::Poison)
}
