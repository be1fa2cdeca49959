//! One delivery from its receipt to its settlement.
//!
//! ```text
//! fresh ──Admitted──► running ──Exited──► settling ──Settled──► over
//!   └──────────────(must not start)────────────▲
//! ```
//! The driver sleeps until [`Attempt::next_wakeup`], ticks, and performs effects in order.

use std::time::Duration;

use crate::backend::broker::Delivery;
use crate::control::Drain;
use crate::outcome::{Failure, FailureKind, Outcome, RetryAdvice, StopHow, StopNotice, StopReason};
use crate::retry::{NOT_BEFORE_CAP, RetryPolicy};
use crate::revoke::{Revocation, RevokeRequest};
use crate::settlement::{DeadReason, Settlement};
use crate::task::RevocationEnd;
use crate::time::Timestamp;

/// The first pause after a settlement that the broker could not take; doubles up to [`SETTLE_PAUSE_CAP`].
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries to settle: what a worker may take to notice that its broker is back.
const SETTLE_PAUSE_CAP: Duration = Duration::from_secs(2);

/// What the worker decides by, the same for all its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a lease is. It is renewed after a third of it, and the attempt is stopped when less than a sixth is
    /// left: two renewals may fail, and the guest is gone before anybody else can own the task.
    pub lease: Duration,
    /// A task whose leases ran out so often is poison.
    pub max_losses: u32,
    /// When the handler is asked to finish, counted from its start.
    pub soft: Option<Duration>,
    /// When it is stopped by force, counted from its start.
    pub hard: Duration,
}

/// A fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What must be known before a start is known.
    Admitted {
        /// What becomes of the delivery in place of a start, since its record is final or names a newer one.
        instead: Option<Settlement>,
        /// The task is revoked.
        revocation: Option<Revocation>,
    },
    /// The handler is gone, and no code of it runs any more.
    Exited(Outcome),
    /// The lease is held for [`Rules::lease`] from this time on, by the worker's clock.
    Renewed {
        /// Taken before the broker was asked.
        asked_at: Timestamp,
    },
    /// The broker could not be asked; it is tried again.
    RenewalFailed,
    /// The delivery is not ours any more: the broker says so, or a newer one of the task has come.
    LeaseLost,
    /// The task was revoked while in hand.
    Revoked(Revocation),
    /// The build that it runs, or is to run, was recalled.
    Recalled(Revocation),
    /// The worker drains.
    Draining {
        /// How.
        mode: Drain,
        /// When force follows, for the notice.
        grace: Option<Duration>,
    },
    /// Time passed.
    Ticked,
    /// The broker took the settlement.
    Settled,
    /// The delivery is not ours any more, or its record does not take this settlement.
    SettleStale,
    /// The broker could not be asked.
    SettleFailed,
}

/// An order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Run the handler.
    Start,
    /// Show the handler this notice at its checkpoints.
    Notify(StopNotice),
    /// Stop the handler.
    Stop {
        /// Why.
        reason: StopReason,
        /// At once, wherever it is; otherwise at its next checkpoint.
        force: bool,
    },
    /// Ask the broker for more time.
    Renew,
    /// Make this move.
    Settle(Settlement),
    /// Nothing is left to do.
    Retire(Retirement),
}

/// How the delivery left the worker's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// By a settlement.
    Settled,
    /// Somebody else owns the task, or has ended it.
    Stale,
    /// The broker could not be reached before the worker had to go; the lease will run out.
    Abandoned,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Fresh,
    Running,
    Settling { settlement: Settlement, tries: u32, again_at: Option<Timestamp> },
    Over,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Attempt {
    number: u32,
    losses: u32,
    expires_at: Option<Timestamp>,
    retry: RetryPolicy,
    seed: u64,
    rules: Rules,
    phase: Phase,
    held_until: Timestamp,
    renew_at: Timestamp,
    soft_at: Option<Timestamp>,
    hard_at: Option<Timestamp>,
    revocation: Option<(Revocation, Timestamp)>,
    recall: Option<Revocation>,
    /// No other build may run it.
    pinned: bool,
    force_at: Option<(Timestamp, StopReason)>,
    drain: Option<Drain>,
    stop: Option<(StopReason, bool, Timestamp)>,
    lost: bool,
}

impl Attempt {
    /// A delivery that was asked for at `asked_at`, by the worker's clock. `seed` decides the jitter of a retry.
    pub fn new(delivery: &Delivery, rules: Rules, asked_at: Timestamp, seed: u64) -> Self {
        let hard = delivery.envelope.timeout.map_or(rules.hard, |timeout| timeout.min(rules.hard));
        Self {
            number: delivery.attempt,
            losses: delivery.losses,
            expires_at: delivery.envelope.expires_at,
            retry: delivery.envelope.retry.clone(),
            seed,
            phase: Phase::Fresh,
            held_until: asked_at.after(rules.lease),
            renew_at: asked_at.after(rules.lease / 3),
            rules: Rules { hard, ..rules },
            soft_at: None,
            hard_at: None,
            revocation: None,
            recall: None,
            pinned: delivery.envelope.module.is_some(),
            force_at: None,
            drain: None,
            stop: None,
            lost: false,
        }
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// When the lease ends, by the worker's clock.
    pub fn held_until(&self) -> Timestamp {
        self.held_until
    }

    /// Why the handler is being stopped, if it is.
    pub fn stopping(&self) -> Option<StopReason> {
        self.stop.map(|(reason, ..)| reason)
    }

    /// When the handler will be stopped by force for taking too long; `None` unless it runs.
    pub fn hard_at(&self) -> Option<Timestamp> {
        self.hard_at
    }

    /// The lease is taken for lost so long before it ends.
    fn give_up_at(&self) -> Timestamp {
        let margin = i64::try_from((self.rules.lease / 6).as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_millis(self.held_until.unix_millis().saturating_sub(margin))
    }

    /// When to tick next.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let first = |times: [Option<Timestamp>; 5]| times.into_iter().flatten().min();
        match &self.phase {
            Phase::Fresh => (!self.lost).then_some(self.renew_at),
            Phase::Running => {
                let unless_stopping =
                    |at| if self.stop.is_some_and(|(_, force, _)| force) { None } else { at };
                first([
                    (!self.lost).then_some(self.renew_at),
                    unless_stopping(Some(self.give_up_at())),
                    unless_stopping(self.soft_at),
                    unless_stopping(self.hard_at),
                    unless_stopping(self.force_at.map(|(at, _)| at)),
                ])
            }
            Phase::Settling { again_at, .. } => {
                first([(!self.lost).then_some(self.renew_at), *again_at, None, None, None])
            }
            Phase::Over => None,
        }
    }

    /// Takes a fact in and gives orders.
    pub fn handle(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Admitted { instead, revocation } => {
                self.admit(now, instead, revocation, effects);
            }
            Event::Exited(outcome) => self.exit(now, outcome, effects),
            Event::Renewed { asked_at } => {
                self.held_until = self.held_until.max(asked_at.after(self.rules.lease));
            }
            // The next tick asks again, or gives up.
            Event::RenewalFailed => {}
            Event::LeaseLost => self.lose(now, effects),
            Event::Revoked(revocation) => self.revoke(now, revocation, effects),
            Event::Recalled(recall) => self.recall(now, recall, effects),
            Event::Draining { mode, grace } => self.drain(now, mode, grace, effects),
            Event::Ticked => self.tick(now, effects),
            Event::Settled => self.retire(Retirement::Settled, effects),
            Event::SettleStale => self.retire(Retirement::Stale, effects),
            Event::SettleFailed => self.settle_later(now, effects),
        }
    }

    fn admit(
        &mut self,
        now: Timestamp,
        instead: Option<Settlement>,
        revocation: Option<Revocation>,
        effects: &mut Vec<Effect>,
    ) {
        if self.phase != Phase::Fresh {
            return;
        }
        if self.lost {
            return self.retire(Retirement::Stale, effects);
        }
        // A revocation that arrived by itself meanwhile may be newer than the one looked up.
        let revocation = match (self.revocation.take(), revocation) {
            (Some((arrived, _)), Some(found)) if arrived.version >= found.version => Some(arrived),
            (arrived, found) => found.or(arrived.map(|(revocation, _)| revocation)),
        };
        let settlement = if let Some(instead) = instead {
            instead
        } else if let Some(revocation) = revocation {
            Settlement::Revoke(RevocationEnd {
                reason: revocation.request.reason,
                requested_by: revocation.request.requested_by,
                how: StopHow::BeforeStart,
                elapsed_ms: 0.0,
            })
        } else if self.losses >= self.rules.max_losses {
            let message = format!(
                "its worker was lost {} times while it ran; it is not started again",
                self.losses
            );
            Settlement::Fail {
                failure: Failure::new(FailureKind::LeaseLost, "poison", &message),
                reason: DeadReason::Poison,
            }
        } else if self.expires_at.is_some_and(|at| at <= now) {
            Settlement::Expire
        } else if let Some(recall) = &self.recall {
            self.withdrawn(recall)
        } else if self.drain.is_some() || now >= self.give_up_at() {
            // Looking things up may have taken as long as the lease; giving back is fenced.
            Settlement::Release
        } else {
            self.phase = Phase::Running;
            self.soft_at =
                self.rules.soft.filter(|soft| *soft < self.rules.hard).map(|soft| now.after(soft));
            self.hard_at = Some(now.after(self.rules.hard));
            effects.push(Effect::Start);
            return;
        };
        self.settle(settlement, effects);
    }

    fn exit(&mut self, now: Timestamp, outcome: Outcome, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Running {
            return;
        }
        if self.lost {
            return self.retire(Retirement::Stale, effects);
        }
        let terminated =
            self.revocation.take().filter(|(revocation, _)| revocation.request.terminate);
        if let Some((revocation, received_at)) = terminated {
            // Also when the handler ended by itself in the same moment: an acknowledged terminate has the last word.
            let ordered_at = self.stop.map_or(now, |(_, _, at)| at);
            let waited = ordered_at.since(received_at).as_secs_f64() * 1e3;
            let (how, took) = match outcome {
                Outcome::Stopped { how, elapsed, .. } => (how, elapsed.as_secs_f64() * 1e3),
                Outcome::Succeeded(_) | Outcome::Failed { .. } => {
                    (StopHow::Checkpoint, now.since(ordered_at).as_secs_f64() * 1e3)
                }
            };
            let end = RevocationEnd {
                reason: revocation.request.reason,
                requested_by: revocation.request.requested_by,
                how,
                // A clock that knows less than microseconds should not print more.
                elapsed_ms: ((waited + took) * 1e3).round() / 1e3,
            };
            return self.settle(Settlement::Revoke(end), effects);
        }
        if let Some(recall) = self.recall.as_ref().filter(|recall| recall.request.terminate) {
            // Whatever it came to in the same moment: a build that was recalled has no word any more.
            return self.settle(self.withdrawn(recall), effects);
        }
        let settlement = match outcome {
            Outcome::Succeeded(result) => Settlement::Succeed(result),
            Outcome::Failed { failure, retry } => self.after_failure(now, failure, retry),
            // One that has not begun had no place until its limit passed; that is no fault of the task's.
            Outcome::Stopped { reason: StopReason::TimeLimit, how, .. }
                if how != StopHow::BeforeStart =>
            {
                let message = match self.rules.soft {
                    // Nobody stopped it: it gave up when it was told.
                    Some(soft) if self.stop.is_none() => {
                        format!("gave up at its soft limit of {} s", soft.as_secs_f64())
                    }
                    _ => format!("ran for {} s, its hard limit", self.rules.hard.as_secs_f64()),
                };
                let failure = Failure::new(FailureKind::TimeLimit, "time-limit", &message);
                self.after_failure(now, failure, RetryAdvice::Policy)
            }
            // A lease that could not be renewed may still be the newest: giving the task back is fenced, and spares
            // it the wait and the loss.
            Outcome::Stopped { .. } => Settlement::Release,
        };
        self.settle(settlement, effects);
    }

    fn after_failure(&self, now: Timestamp, failure: Failure, retry: RetryAdvice) -> Settlement {
        let wait = match retry {
            RetryAdvice::Never => return Settlement::Fail { failure, reason: DeadReason::Fatal },
            RetryAdvice::Policy => Duration::ZERO,
            RetryAdvice::After(wait) => wait.min(NOT_BEFORE_CAP),
        };
        if !self.retry.allows_another(self.number) {
            return Settlement::Fail { failure, reason: DeadReason::RetriesExhausted };
        }
        let delay = self.retry.delay(self.number, self.seed).max(wait);
        Settlement::Retry { failure, not_before: now.after(delay) }
    }

    fn revoke(&mut self, now: Timestamp, revocation: Revocation, effects: &mut Vec<Effect>) {
        if self.revocation.as_ref().is_some_and(|(known, _)| known.version >= revocation.version) {
            return;
        }
        let received_at = self.revocation.as_ref().map_or(now, |(_, at)| *at);
        let request = revocation.request.clone();
        self.revocation = Some((revocation, received_at));
        let notice = ("revoked", "the task was revoked");
        self.stop_as_asked(now, request, StopReason::Revoked, notice, effects);
    }

    fn recall(&mut self, now: Timestamp, recall: Revocation, effects: &mut Vec<Effect>) {
        if self.recall.as_ref().is_some_and(|known| known.version >= recall.version) {
            return;
        }
        let request = recall.request.clone();
        self.recall = Some(recall);
        // For the guest it is as if its worker went away: it runs again, on another build.
        let notice = ("worker-drain", "the module was recalled; the task will run again");
        self.stop_as_asked(now, request, StopReason::Recalled, notice, effects);
    }

    /// Stops a handler that runs the way an operator asked for. The notice is its code, and the words where the operator
    /// has none.
    fn stop_as_asked(
        &mut self,
        now: Timestamp,
        request: RevokeRequest,
        reason: StopReason,
        (code, words): (&'static str, &str),
        effects: &mut Vec<Effect>,
    ) {
        if self.phase != Phase::Running || !request.terminate {
            return;
        }
        let grace = request.grace_ms.filter(|grace| *grace > 0).map(Duration::from_millis);
        let Some(grace) = grace else {
            return self.order_stop(now, reason, !request.cooperative, effects);
        };
        effects.push(Effect::Notify(StopNotice {
            code,
            message: request.reason.unwrap_or_else(|| words.to_owned()),
            force_after: (!request.cooperative).then_some(grace),
        }));
        if !request.cooperative {
            let due = (now.after(grace), reason);
            self.force_at = Some(
                self.force_at.map_or(due, |(at, earlier)| (at.min(due.0), earlier.max(due.1))),
            );
        }
    }

    /// What becomes of a delivery whose build must not run: back to the queue for another one, unless it is for no other.
    fn withdrawn(&self, recall: &Revocation) -> Settlement {
        if !self.pinned {
            return Settlement::Release;
        }
        let why =
            recall.request.reason.as_deref().map_or_else(String::new, |why| format!(": {why}"));
        let message = format!("only one build may run it, and that was recalled{why}");
        Settlement::Fail {
            failure: Failure::new(FailureKind::BadModule, "module-recalled", &message),
            reason: DeadReason::Fatal,
        }
    }

    fn drain(
        &mut self,
        now: Timestamp,
        mode: Drain,
        grace: Option<Duration>,
        effects: &mut Vec<Effect>,
    ) {
        self.drain = self.drain.max(Some(mode));
        match (&self.phase, mode) {
            (Phase::Running, Drain::Soft) => effects.push(Effect::Notify(StopNotice {
                code: "worker-drain",
                message: "the worker shuts down; the task will run again".to_owned(),
                force_after: grace,
            })),
            (Phase::Running, Drain::Hard) => {
                self.order_stop(now, StopReason::Shutdown, true, effects);
            }
            (Phase::Settling { again_at: Some(_), .. }, Drain::Hard) => {
                self.retire(Retirement::Abandoned, effects);
            }
            _ => {}
        }
    }

    fn lose(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.lost = true;
        match self.phase {
            // A settlement under way may be what ended the lease; its own answer says.
            Phase::Fresh | Phase::Over | Phase::Settling { again_at: None, .. } => {}
            Phase::Running => self.order_stop(now, StopReason::LeaseLost, true, effects),
            Phase::Settling { again_at: Some(_), .. } => self.retire(Retirement::Stale, effects),
        }
    }

    fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Over {
            return;
        }
        if now >= self.renew_at && !self.lost {
            self.renew_at = now.after(self.rules.lease / 3);
            effects.push(Effect::Renew);
        }
        if let Phase::Settling { settlement, again_at, .. } = &mut self.phase
            && again_at.is_some_and(|at| now >= at)
        {
            *again_at = None;
            effects.push(Effect::Settle(settlement.clone()));
        }
        if self.phase != Phase::Running {
            return;
        }
        if now >= self.give_up_at() {
            self.order_stop(now, StopReason::LeaseLost, true, effects);
        }
        if let Some((_, reason)) = self.force_at.filter(|(at, _)| now >= *at) {
            self.order_stop(now, reason, true, effects);
        }
        if let Some(hard_at) = self.hard_at
            && now >= hard_at
        {
            self.order_stop(now, StopReason::TimeLimit, true, effects);
        } else if let Some(soft_at) = self.soft_at
            && now >= soft_at
        {
            self.soft_at = None;
            effects.push(Effect::Notify(StopNotice {
                code: "soft-time-limit",
                message: "the soft time limit passed".to_owned(),
                force_after: self.hard_at.map(|hard_at| now.until(hard_at)),
            }));
        }
    }

    /// Orders a stop once; again only with force where there was none, or for a weightier reason.
    fn order_stop(
        &mut self,
        now: Timestamp,
        reason: StopReason,
        force: bool,
        effects: &mut Vec<Effect>,
    ) {
        let (reason, force, at) = match self.stop {
            // Reason and force each only ever grow: a gentle order must not shield a guest from a later forced one.
            Some((earlier, forced, _)) if reason <= earlier && force <= forced => return,
            Some((earlier, forced, at)) => (reason.max(earlier), force || forced, at),
            None => (reason, force, now),
        };
        self.stop = Some((reason, force, at));
        effects.push(Effect::Stop { reason, force });
    }

    fn settle(&mut self, settlement: Settlement, effects: &mut Vec<Effect>) {
        self.phase = Phase::Settling { settlement: settlement.clone(), tries: 0, again_at: None };
        effects.push(Effect::Settle(settlement));
    }

    fn settle_later(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Phase::Settling { tries, again_at, .. } = &mut self.phase else { return };
        if self.lost {
            return self.retire(Retirement::Stale, effects);
        }
        // A worker that drains waits for its broker as long as the lease lasts; after that the task is delivered again
        // in any case.
        let pointless = self.drain.is_some() && now >= self.held_until;
        if self.drain == Some(Drain::Hard) || pointless {
            return self.retire(Retirement::Abandoned, effects);
        }
        *again_at = Some(
            now.after((SETTLE_PAUSE * 2u32.saturating_pow((*tries).min(16))).min(SETTLE_PAUSE_CAP)),
        );
        *tries += 1;
    }

    fn retire(&mut self, how: Retirement, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            effects.push(Effect::Retire(how));
        }
    }
}

#[cfg(test)]
mod tests;
