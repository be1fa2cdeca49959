//! From claims to deliveries in a caller's hands, or back in their queue if the caller has gone.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::BackendError;
use stem_core::backend::broker::{Delivery, ReceiveRequest};
use stem_core::settlement::{Settle, Settlement};
use tokio::time::{Instant, sleep};

use super::claim::{AskFate, Claim, Claimed, Fate, Reject};
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
    /// The transaction that leased them, if nobody knows whether it has happened.
    unclear: Option<String>,
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
        let unclear = self.unclear.take();
        self.core.runtime.spawn(async move {
            return_to_queue(&core, &request, deliveries, unclear).await;
        });
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
    let taken = |claimed: Claimed, unclear| Taken {
        deliveries: claimed.deliveries,
        due_in: claimed.due_in,
        unclear,
        request: Arc::clone(&request),
        core: Arc::clone(&core),
    };
    let mut meetings = 0;
    loop {
        let claimed = match core.perform(&Claim { request: Arc::clone(&request) }).await {
            Ok(claimed) => claimed,
            Err(failed) => {
                // Leased after all, perhaps, for a caller that is told otherwise.
                drop(failed.unclear.map(|mut claimed| {
                    let transaction = claimed.transaction.take();
                    taken(claimed, transaction)
                }));
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
            return Ok(taken(claimed, None));
        }
    }
}

async fn return_to_queue(
    core: &Core,
    request: &ReceiveRequest,
    deliveries: Vec<Delivery>,
    unclear: Option<String>,
) {
    let end = Instant::now() + request.lease;
    if has_happened(core, unclear, end).await {
        give_back(core, request, deliveries, end).await;
    }
}

/// Whether a claim has happened that nobody confirmed. One that has not must not be given back: this process may since
/// have taken the same deliveries again, under the very tokens that went with the first try, and works on them. The answer is
/// not enough: a server that crashed gives the numbers of transactions out again that it had not written yet, so this may be
/// the fate of another one. [`GiveBack`] therefore looks at the leases too.
async fn has_happened(core: &Core, unclear: Option<String>, end: Instant) -> bool {
    let Some(transaction) = unclear else { return true };
    let ask = AskFate { transaction };
    loop {
        match core.perform(&ask).await {
            Ok(Fate::Committed) => return true,
            Ok(Fate::Aborted) => return false,
            Ok(Fate::Open) | Err(_) if Instant::now() >= end => return false,
            Ok(Fate::Open) | Err(_) => sleep(RETRY).await,
        }
    }
}

/// Tries for as long as the leases last; after that they come back by themselves.
async fn give_back(core: &Core, request: &ReceiveRequest, deliveries: Vec<Delivery>, end: Instant) {
    let leased_until = deliveries.iter().map(|delivery| delivery.lease_until).collect();
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
            children: Vec::new(),
        })
        .collect();
    let give_back = GiveBack { batch, leased_until, records: request.records };
    while let Err(failed) = core.perform(&give_back).await {
        tracing::debug!(problem = failed.fault.problem, "deliveries for nobody stay leased");
        if Instant::now() >= end {
            return;
        }
        sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sqlx::Executor as _;
    use stem_core::backend::Records;
    use stem_core::backend::broker::{Broker as _, Settled};
    use stem_core::envelope::{Envelope, Payload};
    use stem_core::id::{Incarnation, QueueName, TaskId, TaskName, WorkerId};
    use stem_core::time::Timestamp;
    use stem_services::PostgresServer;
    use uuid::Uuid;

    use super::*;
    use crate::postgres::{Postgres, PostgresOptions};

    #[tokio::test]
    async fn a_claim_that_nobody_confirmed_is_given_back_only_if_it_happened() {
        let database = PostgresServer::shared().database();
        let store = Postgres::open(PostgresOptions::new(database.url())).await.unwrap();
        let core = &store.core;
        let (name, queue) = (TaskName::new("job").unwrap(), QueueName::new("q").unwrap());
        let request = Arc::new(ReceiveRequest {
            queues: vec![queue.clone()],
            names: [name.clone()].into(),
            max: 1,
            lease: Duration::from_mins(1),
            owner: Incarnation(Uuid::now_v7()),
            worker: WorkerId::new("w").unwrap(),
            wait: Duration::ZERO,
            records: Records::Here,
            shares: None,
        });
        let claim = Claim { request: Arc::clone(&request) };
        let settle = |delivery: &Delivery| Settle {
            receipt: delivery.receipt.clone(),
            settlement: Settlement::Succeed(Payload::json("1")),
            at: Timestamp::from_unix_millis(0),
            worker: request.worker.clone(),
            attempt: 1,
            usage: None,
            module: None,
            children: Vec::new(),
        };
        let envelope = Envelope::new(
            TaskId::new("t").unwrap(),
            name,
            queue,
            Payload::json("1"),
            Timestamp::from_unix_millis(0),
        );
        store.publish(&[envelope], Records::Here).await.unwrap();

        // The first try did not happen; the second has the same token.
        let mut lease = core.connections.lease().await.ok().unwrap();
        lease.connection.execute("BEGIN").await.unwrap();
        let first = claim.run(&mut lease.connection, None).await.ok().unwrap();
        lease.connection.execute("ROLLBACK").await.unwrap();
        // As with a crash in between: the second ends at another time.
        sleep(Duration::from_millis(5)).await;
        let second = core.perform(&claim).await.ok().unwrap();
        assert_eq!(first.deliveries[0].receipt, second.deliveries[0].receipt);
        return_to_queue(core, &request, first.deliveries.clone(), first.transaction).await;
        assert!(core.perform(&claim).await.ok().unwrap().deliveries.is_empty());

        // Not even if its number was given out again, to a transaction that happened.
        let reused = second.transaction.clone();
        assert!(has_happened(core, reused.clone(), Instant::now()).await);
        return_to_queue(core, &request, first.deliveries, reused).await;
        assert!(core.perform(&claim).await.ok().unwrap().deliveries.is_empty());

        // One that did is.
        return_to_queue(core, &request, second.deliveries, second.transaction).await;
        let third = core.perform(&claim).await.ok().unwrap();
        let settled = store.settle(&[settle(&third.deliveries[0])], Records::Here).await.unwrap();
        assert_eq!(settled, [Settled::Done]);
    }
}
