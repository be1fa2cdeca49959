//! Bugs of stores.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stem_core::backend::broker::{Delivery, Published, ReceiveRequest, Renewal, Renewed};
use stem_core::backend::control::Position;
use stem_core::backend::dead_letter::Replayed;
use stem_core::control::Command;
use stem_core::envelope::Envelope;
use stem_core::id::{Incarnation, LeaseToken, RequestId, TaskId};
use stem_core::settlement::{Receipt, Settle, Settlement};
use stem_core::task::Progress;

use crate::dice::Dice;
use crate::tap::{Answer, Mischief};

/// What a bug remembers.
#[derive(Debug)]
pub(super) struct Kept<T>(Mutex<T>);

impl<T> Kept<T> {
    pub(super) fn new(kept: T) -> Self {
        Self(Mutex::new(kept))
    }

    pub(super) fn get(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers `Stored`, and does not store.
#[derive(Debug)]
struct SaysStored(Kept<Dice>);

pub(super) fn says_stored(dice: Dice) -> Arc<dyn Mischief> {
    Arc::new(SaysStored(Kept::new(dice)))
}

impl Mischief for SaysStored {
    fn publish(&self, envelopes: &mut Vec<Envelope>) -> Option<Vec<Published>> {
        let lies = envelopes.len() == 1 && self.0.get().chance(25);
        if lies {
            envelopes.clear();
        }
        lies.then(|| vec![Published::Stored])
    }
}

/// Acknowledges first: what is to be tried again is dropped now and then.
#[derive(Debug)]
struct LosesRetries(Kept<Dice>);

pub(super) fn loses_retries(dice: Dice) -> Arc<dyn Mischief> {
    Arc::new(LosesRetries(Kept::new(dice)))
}

impl Mischief for LosesRetries {
    fn settle(&self, batch: &mut Vec<Settle>) -> bool {
        for settle in batch {
            if matches!(settle.settlement, Settlement::Retry { .. }) && self.0.get().chance(100) {
                settle.settlement = Settlement::Discard;
            }
        }
        true
    }
}

/// A task that has succeeded is kept in its queue now and then.
#[derive(Debug)]
struct KeepsWhatEnded(Kept<Dice>);

pub(super) fn keeps_what_ended(dice: Dice) -> Arc<dyn Mischief> {
    Arc::new(KeepsWhatEnded(Kept::new(dice)))
}

impl Mischief for KeepsWhatEnded {
    fn settle(&self, batch: &mut Vec<Settle>) -> bool {
        for settle in batch {
            if matches!(settle.settlement, Settlement::Succeed(_)) && self.0.get().chance(50) {
                settle.settlement = Settlement::Release;
            }
        }
        true
    }
}

/// Children of a success do not always come to be.
#[derive(Debug)]
struct Childless(Kept<Dice>);

pub(super) fn childless(dice: Dice) -> Arc<dyn Mischief> {
    Arc::new(Childless(Kept::new(dice)))
}

impl Mischief for Childless {
    fn settle(&self, batch: &mut Vec<Settle>) -> bool {
        for settle in batch {
            if !settle.children.is_empty() && self.0.get().chance(333) {
                settle.children.clear();
            }
        }
        true
    }
}

/// A stale token is taken for the newest, by some of the calls.
#[derive(Debug)]
struct TakesStale {
    newest: Kept<BTreeMap<TaskId, Receipt>>,
    by: Call,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Settle,
    Renew,
    Progress,
    Save,
}

impl TakesStale {
    fn of(by: Call) -> Arc<dyn Mischief> {
        Arc::new(Self { newest: Kept::new(BTreeMap::new()), by })
    }

    fn renew_if(&self, by: Call, receipt: &mut Receipt) {
        if self.by == by
            && let Some(newest) = self.newest.get().get(&receipt.task)
            && newest.token > receipt.token
        {
            *receipt = newest.clone();
        }
    }
}

pub(super) fn takes_stale_settlements(_: Dice) -> Arc<dyn Mischief> {
    TakesStale::of(Call::Settle)
}

pub(super) fn takes_stale_renewals(_: Dice) -> Arc<dyn Mischief> {
    TakesStale::of(Call::Renew)
}

pub(super) fn takes_stale_progress(_: Dice) -> Arc<dyn Mischief> {
    TakesStale::of(Call::Progress)
}

pub(super) fn takes_stale_checkpoints(_: Dice) -> Arc<dyn Mischief> {
    TakesStale::of(Call::Save)
}

impl Mischief for TakesStale {
    fn received(&self, _: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
        for delivery in answer.iter().flatten() {
            let receipt = delivery.receipt.clone();
            self.newest.get().insert(receipt.task.clone(), receipt);
        }
    }

    fn settle(&self, batch: &mut Vec<Settle>) -> bool {
        for settle in batch {
            self.renew_if(Call::Settle, &mut settle.receipt);
        }
        true
    }

    fn renew(&self, renewals: &mut Vec<Renewal>) -> Option<Vec<Renewed>> {
        for renewal in renewals {
            self.renew_if(Call::Renew, &mut renewal.receipt);
        }
        None
    }

    fn progress(&self, updates: &mut Vec<(Receipt, Progress)>) {
        for (receipt, _) in updates {
            self.renew_if(Call::Progress, receipt);
        }
    }

    fn save(&self, receipt: &mut Receipt) {
        self.renew_if(Call::Save, receipt);
    }
}

/// Now and then a delivery is handed out once more, to somebody else.
#[derive(Debug)]
struct TwoHolders(Kept<(Dice, Option<(Incarnation, Delivery)>)>);

pub(super) fn two_holders(dice: Dice) -> Arc<dyn Mischief> {
    Arc::new(TwoHolders(Kept::new((dice, None))))
}

impl Mischief for TwoHolders {
    fn received(&self, request: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
        let Ok(deliveries) = answer else { return };
        let (dice, last) = &mut *self.0.get();
        let given = deliveries.last().cloned();
        let has_room = !deliveries.is_empty() && deliveries.len() < request.max;
        if has_room
            && dice.chance(33)
            && let Some((_, again)) = last.take_if(|(owner, _)| *owner != request.owner)
        {
            deliveries.push(again);
        }
        *last = given.map(|given| (request.owner, given)).or(last.take());
    }
}

/// Each delivery of a task has the token of the first.
#[derive(Debug)]
struct TokenStandsStill(Kept<BTreeMap<TaskId, LeaseToken>>);

pub(super) fn token_stands_still(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(TokenStandsStill(Kept::new(BTreeMap::new())))
}

impl Mischief for TokenStandsStill {
    fn received(&self, _: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
        for delivery in answer.iter_mut().flatten() {
            let receipt = &mut delivery.receipt;
            let mut tokens = self.0.get();
            receipt.token = *tokens.entry(receipt.task.clone()).or_insert(receipt.token);
        }
    }
}

/// Leases last twenty times as long as was asked.
#[derive(Debug)]
struct LongLeases;

pub(super) fn long_leases(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(LongLeases)
}

impl Mischief for LongLeases {
    fn receive(&self, request: &mut ReceiveRequest) -> bool {
        request.lease *= 20;
        false
    }
}

/// No lease was ever lost.
#[derive(Debug)]
struct ForgetsLosses;

pub(super) fn forgets_losses(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(ForgetsLosses)
}

impl Mischief for ForgetsLosses {
    fn received(&self, _: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
        answer.iter_mut().flatten().for_each(|delivery| delivery.losses = 0);
    }
}

/// What is no dead letter is replayed too.
#[derive(Debug)]
struct ReplaysTwice;

pub(super) fn replays_twice(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(ReplaysTwice)
}

impl Mischief for ReplaysTwice {
    fn replayed(&self, answers: &mut [Replayed]) {
        answers.fill(Replayed::Queued);
    }
}

/// Each command goes to whoever asks first.
#[derive(Debug)]
struct SharedGroup(Kept<BTreeSet<RequestId>>);

pub(super) fn shared_group(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(SharedGroup(Kept::new(BTreeSet::new())))
}

impl Mischief for SharedGroup {
    fn commands(&self, commands: &mut Vec<(Position, Command)>) {
        let mut given = self.0.get();
        commands.retain(|(_, command)| given.insert(command.request_id.clone()));
    }
}

/// After so many requests it gives nothing for as many.
const WAKE: u64 = 400;

/// Hands nothing out for seconds, whatever waits.
#[derive(Debug, Default)]
struct SleepsOnWork(AtomicU64);

pub(super) fn sleeps_on_work(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(SleepsOnWork::default())
}

impl Mischief for SleepsOnWork {
    fn receive(&self, _: &mut ReceiveRequest) -> bool {
        (self.0.fetch_add(1, Ordering::Relaxed) / WAKE) % 2 == 1
    }
}

/// Gives each batch in an order of its own.
#[derive(Debug)]
struct ThrowsDice(RandomState);

pub(super) fn throws_dice(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(ThrowsDice(RandomState::new()))
}

impl Mischief for ThrowsDice {
    fn received(&self, _: &ReceiveRequest, answer: &mut Answer<Vec<Delivery>>) {
        if let Ok(deliveries) = answer {
            deliveries.sort_by_key(|delivery| self.0.hash_one(&delivery.receipt.task));
        }
    }
}
