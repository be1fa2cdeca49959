//! Rules about how attempts end: the winner returned what is kept, nothing is used up that did not run, and poison is
//! stopped. Also how many deliveries a worker holds.

use std::collections::{BTreeMap, BTreeSet};

use stem_core::backend::broker::Settled;
use stem_core::backend::result::Recorded;
use stem_core::id::TaskId;
use stem_core::settlement::DeadReason;

use super::Setting;
use super::bench::{Bench, Rule};
use super::ledger::{Ledger, is_poison};
use crate::fact::{Caller, End, Fact, Held, Move, Ms};
use crate::script::Step;

/// What one process did under one token.
#[derive(Debug, Default)]
struct Attempt {
    /// Its record says that it runs; only where the records lie apart.
    begun: bool,
    started: Option<Ms>,
    ended: Option<End>,
    losses: u32,
    /// The broker took its settlement, or refused it.
    over: bool,
    /// It came into the process' hands.
    came: Option<Came>,
}

/// How a delivery came.
#[derive(Clone, Copy, Debug)]
struct Came {
    at: Ms,
    /// Which answer of the broker brought it.
    batch: u64,
    /// Something was in hand before.
    beside: bool,
}

/// When it has nothing any more that was to be alone, it asks within this.
const SOON_ASKED: u64 = 3_000;

/// Attempts by process, and what each process holds.
#[derive(Debug, Default)]
pub(super) struct Ends {
    attempts: BTreeMap<(Caller, Held), Attempt>,
    in_hand: BTreeMap<Caller, BTreeSet<Held>>,
    /// Until when a worker need not ask for more, since what one more loss makes poison of has it for itself.
    alone: BTreeMap<Caller, Ms>,
    /// When one on its last chance first came to a process that had others in hand.
    first_beside: BTreeMap<Caller, Ms>,
    /// Answers of the broker that brought something.
    batches: u64,
    /// Starts of each task since it was published or replayed.
    starts: BTreeMap<TaskId, u32>,
    revoked: BTreeSet<TaskId>,
}

impl Ends {
    pub(super) fn hear(
        &mut self,
        bench: &mut Bench,
        setting: &Setting,
        ledger: &Ledger,
        (at, caller, fact): (Ms, Option<Caller>, &Fact),
    ) {
        if let Fact::RevokeStored { task, .. } = fact {
            self.revoked.insert(task.clone());
        }
        let Some(caller) = caller else { return };
        if let Fact::Settled { held, .. } = fact
            && let Some(attempt) = self.attempts.get_mut(&(caller, held.clone()))
        {
            attempt.over = true;
        }
        match fact {
            Fact::Leased { held, losses, .. } => {
                // What is left of a task begins again at the first token: how that ended the first time may be said again.
                let ended = self.attempts.remove(&(caller, held.clone())).and_then(|it| it.ended);
                let attempt = Attempt { losses: *losses, ended, ..Attempt::default() };
                self.attempts.insert((caller, held.clone()), attempt);
            }
            Fact::Begun { held, answer: Recorded::Stored, .. } => {
                if let Some(attempt) = self.attempts.get_mut(&(caller, held.clone())) {
                    attempt.begun = true;
                }
            }
            Fact::Held(came) => self.held(bench, setting, (at, caller), came),
            Fact::Retired { task, .. } => {
                if let Some(in_hand) = self.in_hand.get_mut(&caller)
                    && let Some(oldest) = in_hand.iter().find(|held| held.task == *task).cloned()
                {
                    in_hand.remove(&oldest);
                }
                if self.alone.contains_key(&caller)
                    && self.last_chances(setting, caller).next().is_none()
                {
                    // It may have gone back, and what is in hand is to end first.
                    let first = self.first_beside.contains_key(&caller);
                    let empties = if first { empties(setting, caller) } else { 0 };
                    self.alone.insert(caller, at.after(empties + SOON_ASKED));
                }
            }
            Fact::Started { held, .. } => {
                self.started(bench, setting, ledger, (at, caller), held);
            }
            Fact::HandlerEnded { held, end } => {
                if let Some(attempt) = self.attempts.get_mut(&(caller, held.clone())) {
                    attempt.ended = Some(end.clone());
                }
            }
            // It was judged when it was recorded; what is left of a task that has failed has no record of its own.
            Fact::Settled { by: Move::Fail(_), .. } if ledger.is_apart() => {}
            Fact::Settled { held, by, answer: Settled::Done, .. }
            | Fact::Recorded { held, by, answer: Recorded::Stored } => {
                self.ended(bench, setting, ledger, caller, (held, by));
            }
            Fact::Replayed { task, .. } => {
                self.starts.remove(task);
            }
            _ => {}
        }
    }

    fn held(
        &mut self,
        bench: &mut Bench,
        setting: &Setting,
        (at, caller): (Ms, Caller),
        came: &[Held],
    ) {
        if !came.is_empty() {
            self.left_alone(bench, setting, (at, caller));
        }
        let in_hand = self.in_hand.entry(caller).or_default();
        let how = Came { at, batch: self.batches, beside: !in_hand.is_empty() };
        self.batches += 1;
        in_hand.extend(came.iter().cloned());
        let in_hand = in_hand.len();
        for held in came {
            if let Some(attempt) = self.attempts.get_mut(&(caller, held.clone())) {
                attempt.came = Some(how);
            }
        }
        if self.last_chances(setting, caller).any(|(held, _)| came.contains(held)) {
            self.alone.insert(caller, at.after(60_000 + SOON_ASKED));
            if how.beside {
                self.first_beside.entry(caller).or_insert(at);
            }
        }
        if let Some(declared) = setting.declared(caller) {
            bench.must_be(Rule::I12, in_hand <= declared.concurrency, || {
                format!(
                    "{} deliveries are in its hands, and it has {} places",
                    in_hand, declared.concurrency
                )
            });
        }
    }

    /// What one more loss makes poison of has nobody beside it that came later: for half a minute at least when it runs, and
    /// while its process waits for what it has in hand.
    fn left_alone(&self, bench: &mut Bench, setting: &Setting, (at, caller): (Ms, Caller)) {
        for (held, attempt) in self.last_chances(setting, caller) {
            let until = match (attempt.started, attempt.came) {
                (Some(started), _) => started.after(30_000),
                (None, Some(came)) => came.at.after(empties(setting, caller)),
                (None, None) => continue,
            };
            bench.must(Rule::I10, at >= until, &held.task, || {
                format!("{} was in hand for the last time, and more was taken", held.task)
            });
        }
    }

    /// Nothing starts that came together with one on its last chance; and that starts beside others only if its process has
    /// waited for them before.
    fn starts_alone(
        &self,
        bench: &mut Bench,
        setting: &Setting,
        (at, caller, held): (Ms, Caller, &Held),
    ) {
        let attempt = &self.attempts[&(caller, held.clone())];
        let Some(came) = attempt.came else { return };
        // What cannot be given back keeps nobody waiting for longer.
        let waits = at < came.at.after(empties(setting, caller));
        let with = self
            .last_chances(setting, caller)
            .find(|(last, it)| *last != held && it.came.is_some_and(|it| it.batch == came.batch));
        if let Some((last, _)) = with.filter(|_| waits) {
            let (task, last) = (&held.task, &last.task);
            bench.found(
                Rule::I10,
                Some(task),
                format!("{task} was started, and came with {last}, which has one life left"),
            );
        }
        if came.beside && is_last_chance(setting, caller, attempt) {
            let first = self.first_beside.get(&caller).copied().unwrap_or(came.at);
            let waited = came.at.since(first) >= empties(setting, caller);
            bench.must(Rule::I10, waited, &held.task, || {
                format!("{} has one life left, and was started beside others", held.task)
            });
        }
    }

    /// What this process has in hand that has not ended, and of which one more loss makes poison.
    fn last_chances<'a>(
        &'a self,
        setting: &'a Setting,
        caller: Caller,
    ) -> impl Iterator<Item = (&'a Held, &'a Attempt)> {
        let in_hand = self.in_hand.get(&caller).into_iter().flatten();
        in_hand
            .filter_map(move |held| Some((held, self.attempts.get(&(caller, held.clone()))?)))
            .filter(move |(_, attempt)| is_last_chance(setting, caller, attempt))
    }

    /// Whether a worker need not ask for more now.
    pub(super) fn is_alone(&self, caller: Caller, at: Ms) -> bool {
        self.alone.get(&caller).is_some_and(|until| at < *until)
    }

    fn started(
        &mut self,
        bench: &mut Bench,
        setting: &Setting,
        ledger: &Ledger,
        (at, caller): (Ms, Caller),
        held: &Held,
    ) {
        let task = &held.task;
        let Some(attempt) = self.attempts.get_mut(&(caller, held.clone())) else {
            return bench.found(
                Rule::I4,
                Some(task),
                format!(
                    "{task} was started under token {}, which was never handed out to it",
                    held.token
                ),
            );
        };
        bench.must(Rule::I4, attempt.started.is_none(), task, || {
            format!("{task} was started twice under token {}", held.token)
        });
        attempt.started = Some(at);
        let mine = self.in_hand.get(&caller).is_some_and(|in_hand| in_hand.contains(held));
        bench.must(Rule::I4, mine, task, || {
            format!("{task} was started under token {}, which is not in its hands", held.token)
        });
        let (is_begun, losses) = (attempt.begun, attempt.losses);
        self.starts_alone(bench, setting, (at, caller, held));
        if ledger.is_apart() {
            bench.must(Rule::I2, is_begun, task, || {
                let begun = ledger.life(task).and_then(|life| life.begun);
                format!(
                    "{task} was started under token {}, and its record names {begun:?}",
                    held.token
                )
            });
        }
        let starts = self.starts.entry(task.clone()).or_default();
        *starts += 1;
        if *starts > 1 {
            bench.note("starts of a task that had started before");
        }
        if let Some(declared) = setting.declared(caller) {
            bench.must(Rule::I10, losses < declared.max_losses, task, || {
                format!("{task} was started after {losses} losses")
            });
        }
    }

    fn ended(
        &self,
        bench: &mut Bench,
        setting: &Setting,
        ledger: &Ledger,
        caller: Caller,
        (held, by): (&Held, &Move),
    ) {
        let task = &held.task;
        let attempt = self.attempts.get(&(caller, held.clone()));
        let end = attempt.and_then(|attempt| attempt.ended.as_ref());
        match by {
            Move::Succeed(bytes) => {
                let same = matches!(end, Some(End::Succeeded(returned)) if returned == bytes);
                bench.must(Rule::I2, same, task, || {
                    let kept = String::from_utf8_lossy(bytes);
                    format!(
                        "{task} has the result {kept} by token {}, whose handler ended so: {end:?}",
                        held.token
                    )
                });
            }
            Move::Revoke { .. } => {
                bench.must(Rule::I2, self.revoked.contains(task), task, || {
                    format!("{task} was ended by a revocation that nobody stored")
                });
            }
            Move::Retry { .. } | Move::Fail(DeadReason::Fatal | DeadReason::RetriesExhausted) => {
                Self::failed(bench, setting, task, (end, by));
            }
            by if is_poison(by) => {
                let losses = attempt.map_or(0, |attempt| attempt.losses);
                let most = setting.declared(caller).map_or(0, |declared| declared.max_losses);
                bench.must(Rule::I10, losses >= most, task, || {
                    format!(
                        "{task} was given up as poison after {losses} losses; {most} are too many"
                    )
                });
                let kills = setting.planned(task).is_some_and(|planned| planned.script.kills());
                if !kills && ledger.life(task).is_some_and(|life| life.ended.is_none()) {
                    bench.note("innocents given up as poison");
                }
            }
            Move::Fail(_) | Move::Expire | Move::Release | Move::Discard => {}
        }
    }

    /// An attempt may count as failed only if its handler failed, or was stopped by its own limit.
    fn failed(
        bench: &mut Bench,
        setting: &Setting,
        task: &TaskId,
        (end, by): (Option<&End>, &Move),
    ) {
        let planned = setting.planned(task);
        if planned.is_some_and(|planned| planned.timeout.is_some()) {
            return bench.excuse(Rule::I23);
        }
        let holds = match end {
            Some(End::Failed { fatal }) => !fatal || *by == Move::Fail(DeadReason::Fatal),
            Some(End::Panicked) => true,
            // A call of the handler that was refused is passed on as its failure.
            Some(End::Interrupted) if planned.is_some_and(|it| it.script.0.iter().any(asks)) => {
                return bench.excuse(Rule::I23);
            }
            Some(End::Succeeded(_) | End::Interrupted | End::Dropped) | None => false,
        };
        bench.must(Rule::I23, holds, task, || {
            format!("{task} has used up an attempt by {by:?}, and its handler ended so: {end:?}")
        });
    }

    /// So many deliveries are in a worker's hands.
    pub(super) fn in_hand(&self, caller: Caller) -> usize {
        self.in_hand.get(&caller).map_or(0, BTreeSet::len)
    }

    /// The handlers of a process that run.
    pub(super) fn running(&self, caller: Caller, task: &TaskId) -> Vec<Held> {
        let from = Held { task: task.clone(), token: stem_core::id::LeaseToken(0) };
        self.attempts
            .range((caller, from)..)
            .take_while(|((by, held), _)| *by == caller && held.task == *task)
            .filter(|(_, attempt)| attempt.started.is_some() && attempt.ended.is_none())
            .map(|((_, held), _)| held.clone())
            .collect()
    }

    /// Whether it started and has not ended.
    pub(super) fn runs(&self, caller: Caller, held: &Held) -> bool {
        let attempt = self.attempts.get(&(caller, held.clone()));
        attempt.is_some_and(|attempt| attempt.started.is_some() && attempt.ended.is_none())
    }
}

/// Whether one more loss makes poison of what has not ended.
fn is_last_chance(setting: &Setting, caller: Caller, attempt: &Attempt) -> bool {
    let most = setting.declared(caller).map_or(0, |declared| declared.max_losses);
    attempt.ended.is_none() && !attempt.over && attempt.losses > 0 && attempt.losses + 1 == most
}

/// For how long a process takes nothing, so that one on its last chance can have it for itself.
fn empties(setting: &Setting, caller: Caller) -> u64 {
    setting.declared(caller).map_or(0, |declared| (declared.lease / 4).min(30_000))
}

/// Whether a step asks something of a service.
fn asks(step: &Step) -> bool {
    matches!(step, Step::Save | Step::ChildNow(_) | Step::ChildOnSuccess(_) | Step::Extend(_))
}
