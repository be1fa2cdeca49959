//! Leases and settlements, in batches: whatever has gathered while the last call was under way goes out in the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stem_core::backend::broker::{Renewal, Renewed, Settled};
use stem_core::backend::result::Recorded;
use stem_core::backend::{BackendError, ErrorClass, Records};
use stem_core::machine::attempt::Event;
use stem_core::observe::{Seen, Service};
use stem_core::settlement::{CHILDREN, CHILDREN_BYTES, Receipt, Settle, Settlement};
use stem_core::task::Progress;
use stem_core::time::Timestamp;
use stem_isolate::Refusal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::pace::Pace;
use super::shared::{InHand, Shared};

/// The most that one call carries.
const BATCH: usize = 512;

/// Who waits for a renewal.
#[derive(Debug)]
pub(super) enum RenewFor {
    /// The attempt's machine.
    Attempt(Arc<InHand>),
    /// A handler that asked for more time.
    Handler(oneshot::Sender<Result<Duration, Refusal>>),
}

/// Asks for more time on a lease.
#[derive(Debug)]
pub(super) struct RenewOrder {
    pub(super) receipt: Receipt,
    pub(super) lease: Duration,
    pub(super) whom: RenewFor,
}

/// Asks for a settlement.
#[derive(Debug)]
pub(super) struct SettleOrder {
    pub(super) settle: Settle,
    /// Written first, so that the record's last progress is the attempt's last.
    pub(super) progress: Option<Progress>,
    pub(super) hand: Arc<InHand>,
}

/// Says once that the broker is away, and once that it is back.
#[derive(Debug, Default)]
struct Outage(AtomicBool);

impl Outage {
    fn over(&self, what: &'static str) {
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::info!("{what} works again");
        }
    }

    fn note(&self, what: &'static str, error: &BackendError) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "{what} fails; it is tried until it works");
        }
    }
}

/// Bounds a call: a backend bounds its own, and a lease cannot wait that long.
async fn within<T>(
    limit: Duration,
    service: &stem_core::backend::ServiceId,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        let class = ErrorClass::Transient;
        Err(BackendError::new(
            class,
            &service.0,
            "answer",
            format!("no answer within {} ms", limit.as_millis()),
        ))
    })
}

/// Renews leases until every sender is gone.
pub(super) async fn renew(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<RenewOrder>) {
    let outage = Outage::default();
    let mut batch = Vec::new();
    while orders.recv_many(&mut batch, BATCH).await > 0 {
        let asked_at = shared.now();
        let renewals: Vec<_> = batch
            .iter()
            .map(|order| Renewal { receipt: order.receipt.clone(), lease: order.lease })
            .collect();
        let broker = &shared.backends.broker;
        let answers =
            within(shared.config.lease / 3, broker.service(), broker.renew(&renewals)).await;
        match answers {
            Ok(answers) => {
                outage.over("renewing leases");
                shared.last_renewal.store(asked_at.unix_millis(), Ordering::Relaxed);
                let mut answers = answers.into_iter();
                for order in batch.drain(..) {
                    match answers.next() {
                        Some(answer) => renewed(&shared, order, answer, asked_at),
                        None => not_renewed(order, "the broker gave too few answers"),
                    }
                }
            }
            Err(error) => {
                shared.saw_failure(Service::Broker, &error);
                outage.note("renewing leases", &error);
                batch.drain(..).for_each(|order| not_renewed(order, &error.problem));
            }
        }
    }
}

fn not_renewed(order: RenewOrder, problem: &str) {
    match order.whom {
        RenewFor::Attempt(hand) => hand.tell(Event::RenewalFailed),
        RenewFor::Handler(answer) => {
            // The handler may be gone by now.
            let _ = answer.send(Err(Refusal::Unavailable(problem.to_owned())));
        }
    }
}

fn renewed(shared: &Shared, order: RenewOrder, answer: Renewed, asked_at: Timestamp) {
    match (order.whom, answer) {
        (RenewFor::Attempt(hand), Renewed::Until(_)) => {
            shared.observer.saw(Seen::LeaseRenewed(&order.receipt.queue));
            let until = asked_at.after(order.lease);
            hand.held_until.fetch_max(until.unix_millis(), Ordering::Relaxed);
            hand.tell(Event::Renewed { asked_at });
        }
        (RenewFor::Attempt(hand), Renewed::Stale) => hand.tell(Event::LeaseLost),
        (RenewFor::Handler(waiting), answer) => {
            let answer = match answer {
                Renewed::Until(_) => {
                    shared.observer.saw(Seen::LeaseRenewed(&order.receipt.queue));
                    Ok(shared.now().until(asked_at.after(order.lease.max(shared.config.lease))))
                }
                Renewed::Stale => Err(Refusal::LeaseLost),
            };
            if answer.is_err() {
                for hand in shared.in_hand_of(&order.receipt.task) {
                    if hand.receipt == order.receipt {
                        hand.tell(Event::LeaseLost);
                    }
                }
            }
            // The handler may be gone by now.
            let _ = waiting.send(answer);
        }
    }
}

/// Settles deliveries until every sender is gone.
pub(super) async fn settle(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<SettleOrder>) {
    let outage = Outage::default();
    let mut batch = Vec::new();
    let mut pace = Pace::default();
    while orders.recv_many(&mut batch, BATCH).await > 0 {
        if let Some(next) = pace.wait_until(Instant::now(), shared.inflight()) {
            // The channel keeps what comes meanwhile.
            tokio::time::sleep_until(next).await;
            while batch.len() < BATCH
                && let Ok(order) = orders.try_recv()
            {
                batch.push(order);
            }
        }
        pace.step(Instant::now());
        loop {
            let later = batch.split_off(together(&batch));
            settle_together(&shared, &outage, &mut batch).await;
            if later.is_empty() {
                break;
            }
            batch = later;
        }
    }
}

/// How many of the first go out in one call: their children, all told, are no more than one attempt may have.
fn together(orders: &[SettleOrder]) -> usize {
    let (mut count, mut bytes) = (0, 0);
    let over = orders.iter().position(|order| {
        let children = order.settle.publishes();
        count += children.len();
        bytes += children.iter().map(|child| child.payload.bytes.len()).sum::<usize>();
        count > CHILDREN || bytes > CHILDREN_BYTES
    });
    over.map_or(orders.len(), |over| over.max(1))
}

async fn settle_together(shared: &Shared, outage: &Outage, batch: &mut Vec<SettleOrder>) {
    let answers = settle_batch(shared, batch).await;
    match answers {
        Ok(answers) => {
            outage.over("settling deliveries");
            tell(batch.drain(..), answers);
        }
        Err(error) if error.class() == ErrorClass::Transient => {
            shared.saw_failure_of_either(&error);
            outage.note("settling deliveries", &error);
            tell(batch.drain(..), Vec::new());
        }
        // One that the store will never take must not keep the others from being settled.
        Err(_) => {
            for order in batch.drain(..) {
                let mut alone = [order];
                let answers = settle_batch(shared, &mut alone).await;
                if let Err(error) = &answers {
                    shared.saw_failure_of_either(error);
                    alone[0].hand.say_refused(error);
                }
                tell(alone, answers.unwrap_or_default());
            }
        }
    }
}

/// Hands out answers; what got none has failed, and is tried again.
fn tell(orders: impl IntoIterator<Item = SettleOrder>, answers: Vec<Option<Settled>>) {
    let mut answers = answers.into_iter();
    for order in orders {
        order.hand.tell(match answers.next().flatten() {
            Some(Settled::Done) => Event::Settled,
            Some(Settled::Stale) => Event::SettleStale,
            None => Event::SettleFailed,
        });
    }
}

async fn settle_batch(
    shared: &Shared,
    batch: &mut [SettleOrder],
) -> Result<Vec<Option<Settled>>, BackendError> {
    let results = &shared.backends.results;
    let progress: Vec<_> = batch
        .iter_mut()
        .filter_map(|order| {
            order.progress.take().map(|progress| (order.settle.receipt.clone(), progress))
        })
        .collect();
    if !progress.is_empty()
        && let Err(error) = results.record_progress(&progress).await
    {
        // Progress is told, not promised; the settlement must not wait for it.
        shared.saw_failure(Service::Results, &error);
        tracing::debug!(%error, "last progress was not written");
    }
    let settles: Vec<_> = batch.iter().map(|order| order.settle.clone()).collect();
    if shared.records == Records::Elsewhere {
        return settle_elsewhere(shared, settles).await;
    }
    let settled = shared.backends.broker.settle(&settles, shared.records).await?;
    Ok(settled.into_iter().map(Some).collect())
}

/// Settles where the records lie in another service. What has no answer is to be tried again.
pub(super) async fn settle_elsewhere(
    shared: &Shared,
    settles: Vec<Settle>,
) -> Result<Vec<Option<Settled>>, BackendError> {
    let (settles, held) = publish_first(shared, settles).await?;
    // The record first. A crash before the next line makes a redelivery that finds a final record and is not run.
    let recorded = shared.backends.results.record_settled(&settles).await?;
    let mut answers = vec![None; settles.len()];
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for ((settle, recorded), answer) in settles.into_iter().zip(recorded).zip(&mut answers) {
        match recorded {
            Recorded::Stored => taken.push((settle, answer)),
            Recorded::Stale => refused.push((settle, answer)),
        }
    }
    let (settles, places): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
    let settled = shared.backends.broker.settle(&settles, shared.records).await?;
    places.into_iter().zip(settled).for_each(|(answer, settled)| *answer = Some(settled));
    for (settle, answer) in refused {
        *answer = settle_as_recorded(shared, settle).await;
    }
    let mut answers = answers.into_iter();
    Ok(held
        .into_iter()
        .map(|held| if held { answers.next().flatten() } else { Some(Settled::Stale) })
        .collect())
}

/// A settlement that the record refuses must not be made at the broker either: there the same receipt may be good for what
/// was enqueued again after the task's end, which begins with the first token again. What becomes of such a leftover the
/// record says; where that is another settlement, the attempt's own is stale.
async fn settle_as_recorded(shared: &Shared, settle: Settle) -> Option<Settled> {
    let told = match shared.backends.results.fetch(&settle.receipt.task).await {
        Ok(Some(record)) => Settlement::after_refusal(&record),
        // One that is not there refuses too, and says nothing: then the delivery is the truth.
        Ok(None) => settle.settlement.clone(),
        Err(error) => {
            shared.saw_failure(Service::Results, &error);
            if error.class() == ErrorClass::Transient {
                return None;
            }
            // Nobody here can read it: back, as at the start of an attempt.
            Settlement::Release
        }
    };
    let differs = told != settle.settlement;
    let settle = Settle { settlement: told, ..settle };
    match shared.backends.broker.settle(&[settle], shared.records).await {
        Ok(settled) => settled.first().map(|done| if differs { Settled::Stale } else { *done }),
        Err(error) => {
            shared.saw_failure(Service::Broker, &error);
            None
        }
    }
}

/// Publishes what the settlements would, before their records are final: a worker that dies after the record and before the
/// settlement leaves a delivery that is discarded, and its children would never come to be. One that dies before the record
/// has enqueued them, and its task runs again; so over two services children are enqueued at least once, and only those with
/// keys exactly once. Dying between the records of children without keys and their enqueueing leaves records that say queued
/// for ever, as a producer does that dies there.
///
/// The broker is asked first whether the delivery is still held, as the children of a stale attempt are nobody's. Returns
/// what is left to settle, and for each whether it was held; one that was not must not become final either.
async fn publish_first(
    shared: &Shared,
    mut settles: Vec<Settle>,
) -> Result<(Vec<Settle>, Vec<bool>), BackendError> {
    let mut held = vec![true; settles.len()];
    let parents: Vec<usize> =
        (0..settles.len()).filter(|at| !settles[*at].publishes().is_empty()).collect();
    if parents.is_empty() {
        return Ok((settles, held));
    }
    let renewals: Vec<_> = parents
        .iter()
        .map(|at| Renewal { receipt: settles[*at].receipt.clone(), lease: shared.config.lease })
        .collect();
    let renewed = shared.backends.broker.renew(&renewals).await?;
    let mut children = Vec::new();
    for (at, renewed) in parents.into_iter().zip(renewed) {
        held[at] = matches!(renewed, Renewed::Until(_));
        let born = std::mem::take(&mut settles[at].children);
        if held[at] {
            children.extend(born);
        }
    }
    shared.backends.publish(&children).await?;
    let mut still = held.iter();
    settles.retain(|_| still.next().copied().unwrap_or(true));
    Ok((settles, held))
}
