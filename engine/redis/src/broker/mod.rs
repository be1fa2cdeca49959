//! [`Broker`] on Redis.

mod publish;
mod queues;
mod receive;
mod settle;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Broker, Delivery, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::{BackendError, Health, Records, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::settlement::Settle;
use stem_core::time::Timestamp;

use crate::Redis;

pub(crate) use publish::family_arguments;
pub(crate) use settle::{prove, record_arguments};

/// What scripts take for [`Records`].
fn flag(records: Records) -> u8 {
    u8::from(records == Records::Here)
}

#[async_trait]
impl Broker for Redis {
    fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError> {
        let published = publish::publish(&self.inner, envelopes, records).await;
        published.map_err(|fault| self.inner.during(fault, "enqueue"))
    }

    fn knows_shares(&self) -> bool {
        true
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        let received = receive::receive(&self.inner, request).await;
        received.map_err(|fault| self.inner.during(fault, "take deliveries"))
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        let renewed = settle::renew(&self.inner, renewals).await;
        renewed.map_err(|fault| self.inner.during(fault, "renew leases"))
    }

    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError> {
        let settled = settle::settle(&self.inner, batch, records).await;
        settled.map_err(|fault| self.inner.during(fault, "settle deliveries"))
    }

    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Result<u64, BackendError> {
        let buried = queues::bury_unroutable(&self.inner, known, since, records).await;
        buried.map_err(|fault| self.inner.during(fault, "give up deliveries that no worker knows"))
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError> {
        let counted = queues::statuses(&self.inner, Records::Here).await;
        counted.map_err(|fault| self.inner.during(fault, "count the queues"))
    }

    async fn purge(
        &self,
        queue: &QueueName,
        records: Records,
    ) -> Result<Vec<TaskId>, BackendError> {
        let purged = queues::purge(&self.inner, queue, records).await;
        purged.map_err(|fault| self.inner.during(fault, "purge a queue"))
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError> {
        let changed = queues::set_paused(&self.inner, queue, pause).await;
        changed.map_err(|fault| self.inner.during(fault, "pause or resume a queue"))
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}
