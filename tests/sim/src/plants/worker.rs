//! Bugs of workers and clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use stem_core::backend::broker::{Delivery, ReceiveRequest, Renewal, Renewed, Settled};
use stem_core::backend::control::Position;
use stem_core::control::{Command, Order};
use stem_core::id::{RequestId, TaskId};
use stem_core::outcome::{Failure, FailureKind};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::settlement::{Settle, Settlement};
use stem_core::time::Timestamp;
use stem_engine::WorkerConfig;

use super::store::Kept;
use crate::dice::Dice;
use crate::tap::{Answer, Mischief};

/// A bug that remembers nothing: only its hooks differ.
macro_rules! plain {
    ($make:ident, $type:ident, $doc:literal, { $($hooks:tt)* }) => {
        #[doc = $doc]
        #[derive(Debug)]
        struct $type;

        pub(super) fn $make(_: Dice) -> Arc<dyn Mischief> {
            Arc::new($type)
        }

        impl Mischief for $type {
            $($hooks)*
        }
    };
}

/// A success is settled with the result of the success before.
#[derive(Debug)]
struct WrongResult(Kept<Option<Settlement>>);

pub(super) fn wrong_result(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(WrongResult(Kept::new(None)))
}

impl Mischief for WrongResult {
    fn settle(&self, batch: &mut Vec<Settle>) -> bool {
        for settle in batch {
            if matches!(settle.settlement, Settlement::Succeed(_)) {
                let mut before = self.0.get();
                let right = settle.settlement.clone();
                if let Some(wrong) = before.replace(right) {
                    settle.settlement = wrong;
                }
            }
        }
        true
    }
}

plain!(never_renews, NeverRenews, "Believes to have renewed, and has not asked.", {
    fn renew(&self, renewals: &mut Vec<Renewal>) -> Option<Vec<Renewed>> {
        Some(
            renewals
                .iter()
                .map(|_| Renewed::Until(Timestamp::from_unix_millis(i64::MAX)))
                .collect(),
        )
    }
});

/// How much longer a worker believes its leases to be.
const LONGER: u32 = 6;

/// Believes leases to be longer than they are.
pub(super) fn long_belief(config: &mut WorkerConfig) {
    config.lease *= LONGER;
}

plain!(
    renews_too_late,
    RenewsTooLate,
    "Asks for leases as long as they are, and believes them to be longer.",
    {
        fn receive(&self, request: &mut ReceiveRequest) -> bool {
            request.lease /= LONGER;
            false
        }

        fn renew(&self, renewals: &mut Vec<Renewal>) -> Option<Vec<Renewed>> {
            for renewal in renewals {
                renewal.lease /= LONGER;
            }
            None
        }
    }
);

plain!(
    joins_the_last_chance,
    JoinsTheLastChance,
    "Takes more tasks beside one that another loss makes poison of.",
    {
        fn received(&self, _: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
            answer.iter_mut().flatten().for_each(one_life_more);
        }
    }
);

plain!(
    starts_what_came_with_it,
    StartsWhatCameWithIt,
    "Starts what came together with one that another loss makes poison of.",
    {
        fn received(&self, _: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
            let Ok(came) = answer else { return };
            if came.len() > 1 {
                came.iter_mut().for_each(one_life_more);
            }
        }
    }
);

plain!(
    brings_the_last_chance_in,
    BringsTheLastChanceIn,
    "Starts one that another loss makes poison of beside what runs.",
    {
        fn received(&self, _: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
            if let Ok(came) = answer
                && let [one] = came.as_mut_slice()
            {
                one_life_more(one);
            }
        }
    }
);

/// So that its worker does not know that it is its last, with three and with five lives.
fn one_life_more(delivery: &mut Delivery) {
    if matches!(delivery.losses, 2 | 4) {
        delivery.losses -= 1;
    }
}

/// Takes the first loss for poison.
pub(super) fn impatient(config: &mut WorkerConfig) {
    config.max_losses = 1;
}

/// Never takes a loss for poison.
pub(super) fn patient(config: &mut WorkerConfig) {
    config.max_losses = 1_000;
}

/// Reads the revocations ahead, and not again before it runs.
#[derive(Debug, Default)]
struct TrustsTheReadingAhead {
    has_read: AtomicBool,
    runs: AtomicBool,
}

pub(super) fn trusts_the_reading_ahead(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(TrustsTheReadingAhead::default())
}

impl Mischief for TrustsTheReadingAhead {
    fn since(&self, _: Version, answer: &mut Answer<Vec<RevocationChange>>) {
        let again = self.has_read.swap(true, Ordering::Relaxed);
        if again && !self.runs.load(Ordering::Relaxed) {
            answer.iter_mut().for_each(Vec::clear);
        }
    }

    fn receive(&self, _: &mut ReceiveRequest) -> bool {
        self.runs.store(true, Ordering::Relaxed);
        false
    }
}

/// Asks for twelve more than it has places for, and keeps them for later.
#[derive(Debug)]
struct Hoards(Kept<Vec<Delivery>>);

const HOARD: usize = 12;

pub(super) fn hoards(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(Hoards(Kept::new(Vec::new())))
}

impl Mischief for Hoards {
    fn receive(&self, request: &mut ReceiveRequest) -> bool {
        request.max += HOARD;
        false
    }

    fn received(&self, request: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
        if let Ok(deliveries) = answer {
            let mut hoard = self.0.get();
            hoard.append(deliveries);
            let most = request.max.saturating_sub(HOARD).min(hoard.len());
            deliveries.extend(hoard.drain(..most));
        }
    }
}

/// Tells that a revocation is stored, and stores it with the next.
#[derive(Debug)]
struct TellsFirst {
    waiting: Kept<Vec<(TaskId, RevokeRequest)>>,
    told: AtomicU64,
}

pub(super) fn tells_first(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(TellsFirst { waiting: Kept::new(Vec::new()), told: AtomicU64::new(1_000) })
}

impl Mischief for TellsFirst {
    fn revoke(&self, requests: &mut Vec<(TaskId, RevokeRequest)>) -> Option<Vec<Revocation>> {
        let namespace = crate::host::namespace();
        let made_up = requests
            .iter()
            .map(|(task, request)| Revocation {
                namespace: namespace.clone(),
                task_id: task.clone(),
                version: Version(self.told.fetch_add(1, Ordering::Relaxed)),
                issued_at: Timestamp::default(),
                request: request.clone(),
            })
            .collect();
        self.waiting.get().append(requests);
        Some(made_up)
    }
}

/// Leaves revocations out of what commands carry.
fn without_revocations(commands: &mut Vec<(Position, Command)>) {
    commands.retain(|(_, command)| !matches!(command.order, Order::Revoke { .. }));
}

plain!(deaf_to_revocations, DeafToRevocations, "Hears of no revocation.", {
    fn since(&self, _: Version, answer: &mut Answer<Vec<RevocationChange>>) {
        if let Ok(changes) = answer {
            changes.clear();
        }
    }

    fn commands(&self, commands: &mut Vec<(Position, Command)>) {
        without_revocations(commands);
    }
});

/// Reads the revocations, looks for the end of the log after that, and then hears only of what commands carry.
#[derive(Debug, Default)]
struct SubscribesLate(AtomicBool);

pub(super) fn subscribes_late(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(SubscribesLate::default())
}

impl Mischief for SubscribesLate {
    fn is_late_at_the_log(&self) -> bool {
        true
    }

    fn since(&self, _: Version, answer: &mut Answer<Vec<RevocationChange>>) {
        if let Ok(changes) = answer
            && self.0.swap(true, Ordering::Relaxed)
        {
            changes.clear();
        }
    }
}

plain!(
    executes_twice,
    ExecutesTwice,
    "Obeys each command twice, the second time under another name.",
    {
        fn commands(&self, commands: &mut Vec<(Position, Command)>) {
            let again = commands.iter().filter_map(|(position, command)| {
                let request_id = RequestId::new(format!("{}-again", command.request_id)).ok()?;
                Some((*position, Command { request_id, ..command.clone() }))
            });
            let again: Vec<_> = again.collect();
            commands.extend(again);
        }
    }
);

plain!(ignores_undo, IgnoresUndo, "Never takes a revocation back.", {
    fn since(&self, _: Version, answer: &mut Answer<Vec<RevocationChange>>) {
        if let Ok(changes) = answer {
            changes.retain(|change| matches!(change, RevocationChange::Revoked(_)));
        }
    }
});

/// Of each task only the first change counts.
#[derive(Debug)]
struct FirstWordWins(Kept<BTreeMap<TaskId, Version>>);

pub(super) fn first_word_wins(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(FirstWordWins(Kept::new(BTreeMap::new())))
}

impl FirstWordWins {
    fn is_first(&self, task: &TaskId, version: Version) -> bool {
        *self.0.get().entry(task.clone()).or_insert(version) == version
    }
}

impl Mischief for FirstWordWins {
    fn since(&self, _: Version, answer: &mut Answer<Vec<RevocationChange>>) {
        if let Ok(changes) = answer {
            changes.retain(|change| self.is_first(change.task(), change.version()));
        }
    }

    fn commands(&self, commands: &mut Vec<(Position, Command)>) {
        for (_, command) in commands {
            if let Order::Revoke { revocations } = &mut command.order {
                revocations.retain(|it| self.is_first(&it.task_id, it.version));
            }
        }
    }
}

plain!(replays_the_log, ReplaysTheLog, "Reads the log of commands from its beginning.", {
    fn position(&self, position: &mut Position) {
        *position = Position(0);
    }
});

plain!(never_expires, NeverExpires, "Obeys commands however old they are.", {
    fn commands(&self, commands: &mut Vec<(Position, Command)>) {
        for (_, command) in commands {
            command.expires_at = command.expires_at.after(Duration::from_hours(1));
        }
    }
});

plain!(
    expires_early,
    ExpiresEarly,
    "Takes every revocation for over a second after it was issued.",
    {
        fn since(&self, _: Version, answer: &mut Answer<Vec<RevocationChange>>) {
            for change in answer.iter_mut().flatten() {
                if let RevocationChange::Revoked(revocation) = change {
                    let soon = revocation.issued_at.after(Duration::from_secs(1));
                    revocation.request.expires_at = Some(soon);
                }
            }
        }

        fn commands(&self, commands: &mut Vec<(Position, Command)>) {
            without_revocations(commands);
        }
    }
);

plain!(goes_by_its_own_clock, GoesByItsOwnClock, "Never hears what time it is at the store.", {
    fn time(&self, answer: &mut Answer<Option<Timestamp>>) {
        if let Ok(time) = answer {
            *time = None;
        }
    }
});

plain!(fails_open, FailsOpen, "Takes revocations that it cannot read for none.", {
    fn since(&self, _: Version, answer: &mut Answer<Vec<RevocationChange>>) {
        if answer.is_err() {
            *answer = Ok(Vec::new());
        }
    }

    fn changed(&self, answer: &mut Answer<()>) {
        *answer = Ok(());
    }
});

plain!(too_gentle, TooGentle, "Lets a task that is terminated run to its end.", {
    fn since(&self, _: Version, answer: &mut Answer<Vec<RevocationChange>>) {
        for change in answer.iter_mut().flatten() {
            if let RevocationChange::Revoked(revocation) = change {
                revocation.request.terminate = false;
            }
        }
    }

    fn commands(&self, commands: &mut Vec<(Position, Command)>) {
        for (_, command) in commands {
            if let Order::Revoke { revocations } = &mut command.order {
                for revocation in revocations {
                    revocation.request.terminate = false;
                }
            }
        }
    }
});

plain!(burns_attempts, BurnsAttempts, "What is given back counts as a failed attempt.", {
    fn settle(&self, batch: &mut Vec<Settle>) -> bool {
        for settle in batch {
            if settle.settlement == Settlement::Release {
                settle.settlement = Settlement::Retry {
                    failure: Failure::new(FailureKind::Error, "stopped", "the worker stopped"),
                    not_before: settle.at,
                };
            }
        }
        true
    }
});

plain!(deaf_to_shutdown, DeafToShutdown, "Hears every command but those to stop.", {
    fn commands(&self, commands: &mut Vec<(Position, Command)>) {
        commands.retain(|(_, command)| !matches!(command.order, Order::Shutdown { .. }));
    }
});

/// Hears the first command to stop, and none that is harder.
#[derive(Debug, Default)]
struct DeafToEscalation(AtomicBool);

pub(super) fn deaf_to_escalation(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(DeafToEscalation::default())
}

impl Mischief for DeafToEscalation {
    fn commands(&self, commands: &mut Vec<(Position, Command)>) {
        commands.retain(|(_, command)| {
            let stops = matches!(command.order, Order::Shutdown { .. });
            !stops || !self.0.swap(true, Ordering::Relaxed)
        });
    }
}

/// Something goes wrong once, and nothing is asked for any more.
#[derive(Debug, Default)]
struct WaitsPolitely(AtomicBool);

pub(super) fn waits_politely(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(WaitsPolitely::default())
}

impl Mischief for WaitsPolitely {
    fn receive(&self, _: &mut ReceiveRequest) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn received(&self, _: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
        self.0.fetch_or(answer.is_err(), Ordering::Relaxed);
    }
}

/// A settlement fails once, and the next is waited for without end.
#[derive(Debug, Default)]
struct UnboundedCall(AtomicBool);

pub(super) fn unbounded_call(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(UnboundedCall::default())
}

impl Mischief for UnboundedCall {
    fn settle(&self, _: &mut Vec<Settle>) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    fn settled(&self, _: &[Settle], answer: &mut Answer<Vec<Settled>>) {
        self.0.fetch_or(answer.is_err(), Ordering::Relaxed);
    }
}
