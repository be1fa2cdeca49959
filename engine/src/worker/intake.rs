//! Asks for deliveries while places are free.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::broker::ReceiveRequest;
use stem_core::control::WorkerState;
use stem_core::machine::intake::Intake;
use stem_core::observe::Service;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::attempt::Taken;
use super::pace::{MOMENT, Pace};
use super::shared::{Shared, whole_millis};

/// How long one request waits for a delivery; also the longest that a drain waits for a request under way.
const WAIT: Duration = Duration::from_millis(500);
/// The pause after a request that failed; doubles up to [`PAUSE_CAP`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_CAP: Duration = Duration::from_secs(2);

/// Asks until the worker drains, then ends. A request under way is never dropped: what it leased would be lost until
/// its lease ran out.
pub(super) async fn take(shared: Arc<Shared>, taken: mpsc::Sender<Taken>) {
    let mut state = shared.state.subscribe();
    let mut pause = PAUSE;
    let mut pace = Pace::default();
    let mut was_blind = false;
    while running(&mut state).await {
        let intake = Intake {
            state: *state.borrow(),
            concurrency: shared.slots.limit(),
            busy: shared.slots.taken(),
            prefetch: shared.config.prefetch,
            blind: shared.is_blind(),
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
        pace.step(Instant::now());
        let mut places = shared.slots.take(ask);
        let names = shared.names();
        let request = ReceiveRequest {
            queues: shared.config.queues.clone(),
            names,
            max: ask,
            lease: shared.config.lease,
            owner: shared.incarnation,
            worker: shared.config.id.clone(),
            wait: WAIT,
            records: shared.records,
        };
        let asked_at = shared.now();
        match shared.backends.broker.receive(&request).await {
            Ok(deliveries) => {
                if pause > PAUSE {
                    tracing::info!("the broker answers again");
                    pause = PAUSE;
                }
                // A request may have waited; the lease began when it was answered, and not before this.
                let asked_at = if deliveries.is_empty() {
                    asked_at
                } else {
                    asked_at.max(earliest(&shared, &deliveries))
                };
                let came = deliveries.len();
                for delivery in deliveries {
                    let place = places.split_one().expect("no more deliveries than were asked for");
                    if taken
                        .send(Taken { delivery: Box::new(delivery), asked_at, place })
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                drop(places);
                if (1..ask).contains(&came) {
                    first_end(&shared).await;
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
async fn first_end(shared: &Shared) {
    let (in_hand, moment) = (shared.slots.taken(), Instant::now() + MOMENT);
    while shared.slots.taken() >= in_hand
        && tokio::time::timeout_at(moment, shared.slots.freed()).await.is_ok()
    {}
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

/// When the leases of these deliveries began, by our clock: no earlier than their end less their length, and never later
/// than now. Where the broker's clock is ahead of ours this errs to the safe side only up to now.
fn earliest(
    shared: &Shared,
    deliveries: &[stem_core::backend::broker::Delivery],
) -> stem_core::time::Timestamp {
    let lease = i64::try_from(shared.config.lease.as_millis()).unwrap_or(i64::MAX);
    let began = deliveries
        .iter()
        .map(|delivery| shared.steady(delivery.lease_until).unix_millis().saturating_sub(lease))
        .min()
        .unwrap_or(0);
    stem_core::time::Timestamp::from_unix_millis(began).min(shared.now())
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
