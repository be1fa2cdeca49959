//! [`Broker`] on Postgres.

mod claim;
mod publish;
mod queues;
mod settle;
mod take;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Broker, Delivery, PURGED, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed,
    Settled,
};
use stem_core::backend::{BackendError, Health, Records, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::settlement::Settle;
use stem_core::time::Timestamp;
use tokio::time::Instant;

use super::Postgres;
use crate::bells::{LOOK_AGAIN, Topic};
use claim::{Look, Outlook};

#[cfg(test)]
pub(super) use claim::HOT as CLAIMS;
pub(super) use publish::Publish;
#[cfg(test)]
pub(super) use publish::STORE;
#[cfg(test)]
pub(super) use settle::HOT as SETTLEMENTS;
pub(super) use settle::SettleBatch;
#[cfg(test)]
pub(super) use turns::HOT as TURNS;

/// What has fallen due and is still there a moment later is in somebody's hands.
const MOMENT: Duration = Duration::from_millis(5);

#[async_trait]
impl Broker for Postgres {
    fn service(&self) -> &ServiceId {
        &self.core.service
    }

    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError> {
        self.publishes.of(records).join(&self.core, envelopes).await
    }

    fn knows_shares(&self) -> bool {
        true
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        let started = Instant::now();
        let request = Arc::new(request.clone());
        let mut news = (!request.wait.is_zero()).then(|| self.changes.subscribe(Topic::Work));
        loop {
            if let Some(news) = &mut news {
                news.seen();
            }
            let taken = take::take(&self.core, &request).await?;
            let mut due_in = taken.due_in;
            let deliveries = taken.into_deliveries();
            let Some(news) = news.as_mut().filter(|_| deliveries.is_empty()) else {
                return Ok(deliveries);
            };
            // Waiting costs one small read now and then.
            loop {
                let left = request.wait.saturating_sub(started.elapsed());
                if left.is_zero() {
                    return Ok(Vec::new());
                }
                let due = due_in.map_or(LOOK_AGAIN, |due| due.max(MOMENT));
                news.wait(left.min(due).min(LOOK_AGAIN)).await;
                news.seen();
                match self.call(Look { request: Arc::clone(&request) }).await? {
                    Outlook::Something => break,
                    Outlook::Nothing { due_in: next } => due_in = next,
                }
            }
        }
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        if renewals.is_empty() {
            return Ok(Vec::new());
        }
        self.call(settle::Renew { renewals: renewals.to_vec() }).await
    }

    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError> {
        self.settlements.of(records).join(&self.core, batch).await
    }

    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Result<u64, BackendError> {
        let mut buried = 0;
        loop {
            let known = known.iter().map(ToString::to_string).collect();
            let some = self.call(queues::BuryUnroutable { known, since, records }).await?;
            buried += some;
            if some < queues::BURIED {
                return Ok(buried);
            }
        }
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError> {
        self.call(queues::Count).await
    }

    async fn purge(
        &self,
        queue: &QueueName,
        records: Records,
    ) -> Result<Vec<TaskId>, BackendError> {
        self.call(queues::Purge { queue: queue.clone(), records, max: PURGED }).await
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError> {
        self.call(queues::SetPaused { queue: queue.clone(), pause }).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.health_now().await
    }
}
