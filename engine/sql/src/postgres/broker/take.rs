//! From claims to deliveries in a caller's hands, or back in their queue if the caller has gone.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::BackendError;
use stem_core::backend::broker::{Delivery, ReceiveRequest};
use stem_core::settlement::{Settle, Settlement};
use tokio::time::{Instant, sleep};

use super::claim::{Claim, Claimed, Reject};
use super::settle::GiveBack;
use crate::fault::Fault;
use crate::postgres::transact::{Core, Operation, gone};

/// How often a claim that met others is made again before it says that there is nothing.
const MEETINGS: u32 = 5;

/// Between two tries to give something back.
const RETRY: Duration = Duration::from_millis(500);

/// Deliveries that were leased for a caller. Dropped before the caller has them, they go back as if they had not been
/// delivered.
pub(super) struct Taken {
    deliveries: Vec<Delivery>,
    pub(super) due_in: Option<Duration>,
    request: Arc<ReceiveRequest>,
    core: Arc<Core>,
}

impl Taken {
    pub(super) fn into_deliveries(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.deliveries.is_empty() {
            return;
        }
        let deliveries = std::mem::take(&mut self.deliveries);
        let (core, request) = (Arc::clone(&self.core), Arc::clone(&self.request));
        self.core.runtime.spawn(async move { give_back(&core, &request, deliveries).await });
    }
}

/// Takes what is there for this request. Dropped in the middle, nothing stays leased.
pub(super) async fn take(
    core: &Arc<Core>,
    request: &Arc<ReceiveRequest>,
) -> Result<Taken, BackendError> {
    let (held, asked) = (Arc::clone(core), Arc::clone(request));
    // The task goes on without its caller, and drops what it took for it.
    let done = core.runtime.spawn(async move { claim(held, asked).await });
    let taken = done.await.unwrap_or_else(|_| Err(gone()));
    taken.map_err(|fault| fault.during(&core.service, Claim::ACTION))
}

async fn claim(core: Arc<Core>, request: Arc<ReceiveRequest>) -> Result<Taken, Fault> {
    let taken = |claimed: Claimed| Taken {
        deliveries: claimed.deliveries,
        due_in: claimed.due_in,
        request: Arc::clone(&request),
        core: Arc::clone(&core),
    };
    let mut meetings = 0;
    loop {
        let claimed = match core.perform(&Claim { request: Arc::clone(&request) }).await {
            Ok(claimed) => claimed,
            Err(failed) => {
                // Leased after all, perhaps, for a caller that is told otherwise.
                drop(failed.unclear.map(taken));
                return Err(failed.fault);
            }
        };
        if !claimed.unreadable.is_empty() {
            let reject = Reject { burials: claimed.unreadable, records: request.records };
            core.perform(&reject).await.map_err(|failed| failed.fault)?;
        } else if claimed.contended && meetings < MEETINGS {
            meetings += 1;
            sleep(Duration::from_millis(1)).await;
        } else {
            return Ok(taken(claimed));
        }
    }
}

/// Tries for as long as the leases last; after that they come back by themselves.
async fn give_back(core: &Core, request: &ReceiveRequest, deliveries: Vec<Delivery>) {
    let end = Instant::now() + request.lease;
    let batch = deliveries
        .into_iter()
        .map(|delivery| Settle {
            at: delivery.envelope.enqueued_at,
            receipt: delivery.receipt,
            settlement: Settlement::Release,
            worker: request.worker.clone(),
            attempt: delivery.attempt,
            usage: None,
            module: None,
        })
        .collect();
    let give_back = GiveBack { batch, records: request.records };
    while let Err(failed) = core.perform(&give_back).await {
        tracing::debug!(problem = failed.fault.problem, "deliveries for nobody stay leased");
        if Instant::now() >= end {
            return;
        }
        sleep(RETRY).await;
    }
}
