//! Asks for deliveries while places are free.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::broker::ReceiveRequest;
use stem_core::control::WorkerState;
use stem_core::machine::intake::{Arrival, Begin, Intake};
use stem_core::machine::share::Shares;
use stem_core::observe::Service;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::attempt::{Start, Taken};
use super::pace::{MOMENT, Pace};
use super::shared::{Counters, Shared, whole_millis};
use super::shipping::sleep_until;
use super::slots::Alone;

/// How long one request waits for a delivery; also the longest that a drain waits for a request under way. With short
/// leases a quarter of one: a lease is taken to begin when its request was sent.
const WAIT: Duration = Duration::from_millis(500);
/// While quotas hold somebody back, a request does not wait: what it may take would be out of date. The pause after one
/// that found nothing; doubles up to [`LOOK_CAP`], and is over when an attempt ends.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_CAP: Duration = Duration::from_millis(80);
/// Starts are reckoned in whole milliseconds.
const TICK: Duration = Duration::from_millis(1);
/// The longest that one task has a worker for itself. What takes its worker down mostly does so soon, and one that does
/// much must not keep a whole worker from everything else.
const ALONE: Duration = Duration::from_mins(1);
/// The longest that nothing is taken until what is in hand has ended, so that one on its last chance can have the worker for
/// itself. A quarter of a lease if that is less: whoever waits for the queue should not take it for dead.
const EMPTIES: Duration = Duration::from_secs(30);
/// The pause after a request that failed; doubles up to [`PAUSE_CAP`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_CAP: Duration = Duration::from_secs(2);

/// Asks until the worker drains, then ends. A request under way is never dropped: what it leased would be lost until
/// its lease ran out.
pub(super) async fn take(shared: Arc<Shared>, taken: mpsc::Sender<Taken>) {
    let mut state = shared.state.subscribe();
    let (mut pause, mut look) = (PAUSE, LOOK);
    let mut pace = Pace::default();
    let mut was_blind = false;
    // One on its last chance was given back, for what is in hand to end first.
    let mut empties: Option<Alone> = None;
    while running(&mut state).await {
        if shared.slots.taken() == 0 {
            empties = None;
        }
        let alone_until = shared.slots.alone_until();
        let intake = Intake {
            state: *state.borrow(),
            concurrency: shared.slots.limit(),
            busy: shared.slots.taken(),
            prefetch: shared.config.prefetch,
            blind: shared.is_blind(),
            alone: alone_until.is_some(),
        };
        if intake.blind != std::mem::replace(&mut was_blind, intake.blind) {
            say_blind(&shared, intake.blind);
        }
        let ask = intake.ask();
        if ask == 0 {
            tokio::select! {
                // Both are cancel-safe.
                () = shared.slots.freed() => {}
                _ = state.changed() => {}
                // Sight comes back without a bell.
                () = tokio::time::sleep(WAIT), if intake.blind => {}
                () = sleep_until(alone_until) => {}
            }
            continue;
        }
        // A few places more than a moment ago are not worth a request of their own while many are busy.
        if ask < shared.slots.limit() / 4
            && let Some(next) = pace.wait_until(Instant::now(), shared.inflight())
        {
            tokio::time::sleep_until(next).await;
            continue;
        }
        let shares = shared
            .quotas
            .as_ref()
            .map(|quotas| quotas.shares(shared.now(), ask, &*shared.observer));
        let holds_back = shares.as_ref().is_some_and(Shares::holds_back);
        let mut queues = shared.config.queues.clone();
        if let Some(shares) = &shares {
            queues.retain(|queue| shares.room_of(queue) > 0);
            if queues.is_empty() {
                first_end(&shared, intake.busy, until_start(&shared, LOOK_CAP)).await;
                continue;
            }
        }
        pace.step(Instant::now());
        let mut places = shared.slots.take(ask);
        let names = shared.names();
        let request = ReceiveRequest {
            queues,
            names,
            max: ask,
            lease: shared.config.lease,
            owner: shared.incarnation,
            worker: shared.config.id.clone(),
            wait: if holds_back { Duration::ZERO } else { WAIT.min(shared.config.lease / 4) },
            records: shared.records,
            shares: shares.map(Arc::new),
        };
        // No lease began before this. When exactly only the broker's clock says, which may be any time ahead of ours.
        let asked_at = shared.now();
        match shared.backends.broker.receive(&request).await {
            Ok(deliveries) => {
                Counters::count(&shared.counters.claims);
                if pause > PAUSE {
                    tracing::info!("the broker answers again");
                    pause = PAUSE;
                }
                let came = deliveries.len();
                let losses: Vec<_> = deliveries.iter().map(|delivery| delivery.losses).collect();
                let arrival = Arrival {
                    max_losses: shared.config.max_losses,
                    beside: shared.slots.taken() > ask,
                    waited: empties.is_some(),
                };
                if !arrival.beside {
                    empties = None;
                }
                let begins = arrival.begin(&losses);
                let goes_back = begins.contains(&Begin::Back);
                if goes_back && !begins.contains(&Begin::Alone) {
                    let wait = (shared.config.lease / 4).min(EMPTIES);
                    tracing::info!(
                        ?wait,
                        "one that came was in hand whenever workers were lost, and is given back: nothing is taken until what is in hand has ended"
                    );
                    empties = Some(shared.slots.reserve(Instant::now() + wait));
                }
                let (going, others) = mpsc::channel(1);
                let mut others = Some(others);
                for (delivery, begin) in deliveries.into_iter().zip(begins) {
                    let place = places.split_one().expect("no more deliveries than were asked for");
                    let hold = shared.quotas.as_ref().map(|quotas| {
                        quotas.take(shared.now(), &delivery.receipt.queue, &delivery.tenant)
                    });
                    let start = match begin {
                        Begin::Beside => Start::Beside,
                        Begin::Back => Start::Back { _going: going.clone() },
                        Begin::Alone => {
                            let others = others.take().expect("one of a request is alone");
                            let alone = shared.slots.reserve(Instant::now() + ALONE);
                            Start::Alone { _alone: alone, others, beside: arrival.beside }
                        }
                    };
                    let one = Taken { delivery: Box::new(delivery), asked_at, start, place, hold };
                    if taken.send(one).await.is_err() {
                        return;
                    }
                }
                drop((places, going));
                if (1..ask).contains(&came) {
                    first_end(&shared, shared.slots.taken(), MOMENT).await;
                }
                if came > 0 {
                    look = LOOK;
                } else if holds_back {
                    first_end(&shared, intake.busy, until_start(&shared, look)).await;
                    look = (look * 2).min(LOOK_CAP);
                }
            }
            Err(error) => {
                shared.saw_failure(Service::Broker, &error);
                if pause == PAUSE {
                    tracing::warn!(%error, "the broker gives no deliveries; it is tried until it does");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_CAP);
            }
        }
    }
}

/// A broker that gave less than was asked has no more for now. Another look at once would only get in the way of what
/// was taken: a task that ends within a moment is settled first. One that comes within that moment waits so long.
async fn first_end(shared: &Shared, in_hand: usize, moment: Duration) {
    let moment = Instant::now() + moment;
    while shared.slots.taken() >= in_hand
        && tokio::time::timeout_at(moment, shared.slots.freed()).await.is_ok()
    {}
}

/// So long, or until somebody who has used up what may start has one start more.
fn until_start(shared: &Shared, pause: Duration) -> Duration {
    let next = shared.quotas.as_ref().and_then(|quotas| quotas.next_start());
    next.map_or(pause, |next| shared.now().until(next).clamp(TICK, pause))
}

fn say_blind(shared: &Shared, blind: bool) {
    let age_ms = shared.revocations_age().map(whole_millis);
    if blind {
        tracing::error!(
            age_ms,
            "what is known of the revocations is too old to take tasks by; none is taken until the revoke store can be read"
        );
    } else {
        tracing::info!(age_ms, "the revocations are known again; tasks are taken");
    }
}

/// Waits for the worker to run; `false` once it drains.
async fn running(state: &mut watch::Receiver<WorkerState>) -> bool {
    loop {
        match *state.borrow_and_update() {
            WorkerState::Running => return true,
            WorkerState::Draining | WorkerState::Stopped => return false,
            WorkerState::Starting => {}
        }
        if state.changed().await.is_err() {
            return false;
        }
    }
}
