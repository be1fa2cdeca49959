//! [`Broker`] on SQLite.

mod claim;
mod publish;
mod queues;
mod settle;
mod turns;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Broker, Delivery, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::{BackendError, Health, Records, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::settlement::Settle;
use stem_core::time::Timestamp;
use tokio::time::Instant;

use super::Sqlite;
use crate::bells::{LOOK_AGAIN, Topic};
use claim::{Claim, Outlook};

pub(super) use claim::begun_rows;
pub(super) use publish::Publish;
pub(super) use settle::SettleBatch;
#[cfg(test)]
pub(super) use turns::HOT as TURNS;

/// Every statement that runs while the lock is held.
#[cfg(test)]
pub(super) fn hot_statements() -> impl Iterator<Item = &'static str> {
    publish::HOT.into_iter().chain(claim::HOT).chain(turns::HOT).chain(settle::HOT)
}

impl Sqlite {
    async fn look(&self, request: &ReceiveRequest) -> Result<Outlook, BackendError> {
        let looked = async {
            let mut reader = self.reader().await?;
            claim::look(&mut reader, request, self.now()).await
        };
        self.bounded("look for deliveries", looked).await
    }
}

#[async_trait]
impl Broker for Sqlite {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError> {
        self.write_with_others(self.publishes.of(records), envelopes.to_vec()).await
    }

    fn knows_shares(&self) -> bool {
        true
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        let started = Instant::now();
        let request = Arc::new(request.clone());
        let mut news = None;
        if !request.wait.is_zero() {
            let subscribed = async { self.changes.subscribe(Topic::Work).await };
            news = Some(self.bounded("watch the database", subscribed).await?);
        }
        // Waiting costs reads only: the write lock is taken when there is something to take.
        let mut quiet = news.is_some() && self.quiet.load(Ordering::Relaxed);
        loop {
            if let Some(news) = &mut news {
                news.seen();
            }
            let outlook = if quiet { self.look(&request).await? } else { Outlook::Something };
            let next_due = match outlook {
                Outlook::Nothing { due } => due,
                Outlook::Something => {
                    let claimed = self.write(Claim { request: Arc::clone(&request) }).await?;
                    quiet = claimed.deliveries.len() < request.max;
                    if news.is_none() || !claimed.deliveries.is_empty() {
                        self.quiet.store(quiet, Ordering::Relaxed);
                        return Ok(claimed.deliveries);
                    }
                    claimed.next_due
                }
            };
            let left = request.wait.saturating_sub(started.elapsed());
            let until_due = next_due.map_or(LOOK_AGAIN, |due| self.now().until(due));
            let pause = left.min(until_due).min(LOOK_AGAIN);
            let came = match &mut news {
                Some(news) => news.wait(pause).await,
                None => false,
            };
            // The next request begins with a look.
            if left.is_zero() || (!came && pause == left) {
                self.quiet.store(true, Ordering::Relaxed);
                return Ok(Vec::new());
            }
        }
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        if renewals.is_empty() {
            return Ok(Vec::new());
        }
        self.write(settle::Renew { renewals: renewals.to_vec() }).await
    }

    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError> {
        self.write_with_others(self.settlements.of(records), batch.to_vec()).await
    }

    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Result<u64, BackendError> {
        let looking = async {
            let mut reader = self.reader().await?;
            queues::has_unroutable(&mut reader, known, since).await
        };
        if !self.bounded("look for deliveries that no worker knows", looking).await? {
            return Ok(0);
        }
        self.write(queues::BuryUnroutable { known: known.to_vec(), since, records }).await
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError> {
        let counted = async {
            let mut reader = self.reader().await?;
            queues::statuses(&mut reader, self.now()).await
        };
        self.bounded("count the queues", counted).await
    }

    async fn purge(
        &self,
        queue: &QueueName,
        records: Records,
    ) -> Result<Vec<TaskId>, BackendError> {
        self.write(queues::Purge { queue: queue.clone(), records }).await
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError> {
        self.write(queues::SetPaused { queue: queue.clone(), pause }).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.health_now().await
    }
}
