//! [`witness`]: stands in front of a store and tells the judge what it was asked and what it answered. A batch is told in
//! its order. What was asked is told as the caller asked it, whatever lies between the witness and the store.

mod stores;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Delivery, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::{BackendError, Broker, Health, Records, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::settlement::Settle;
use stem_core::time::Timestamp;
use stem_engine::Backends;

use crate::fact::{Fact, Held, Move};
use crate::judge::Judge;

/// Puts a witness in front of all of them.
pub fn witness(inner: Backends, judge: &Arc<Judge>) -> Backends {
    Backends {
        broker: Arc::new(Witness { inner: inner.broker, judge: Arc::clone(judge) }),
        results: Arc::new(Witness { inner: inner.results, judge: Arc::clone(judge) }),
        revokes: Arc::new(Witness { inner: inner.revokes, judge: Arc::clone(judge) }),
        control: Arc::new(Witness { inner: inner.control, judge: Arc::clone(judge) }),
        presence: Arc::new(Witness { inner: inner.presence, judge: Arc::clone(judge) }),
        dead_letters: Arc::new(Witness { inner: inner.dead_letters, judge: Arc::clone(judge) }),
        modules: inner.modules,
        buckets: inner.buckets,
    }
}

/// A backend that is watched.
#[derive(Debug)]
struct Witness<T: ?Sized> {
    inner: Arc<T>,
    judge: Arc<Judge>,
}

impl<T: ?Sized> Witness<T> {
    fn tell(&self, fact: Fact) {
        let call = self.judge.call();
        self.judge.tell(call.at, Some(call.caller), fact);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Broker for Witness<dyn Broker> {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    fn knows_shares(&self) -> bool {
        self.inner.knows_shares()
    }

    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError> {
        let answers = self.inner.publish(envelopes, records).await?;
        for (envelope, answer) in envelopes.iter().zip(&answers) {
            self.tell(Fact::Published {
                task: envelope.id.clone(),
                queue: envelope.queue.clone(),
                answer: answer.clone(),
                not_before: envelope.not_before,
                expires_at: envelope.expires_at,
            });
        }
        Ok(answers)
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        let deliveries = self.inner.receive(request).await?;
        self.judge.promoted();
        for delivery in &deliveries {
            self.tell(Fact::Leased {
                held: Held::from(&delivery.receipt),
                until: delivery.lease_until,
                asked: millis(request.lease),
                attempt: delivery.attempt,
                deliveries: delivery.deliveries,
                losses: delivery.losses,
                max: request.max,
            });
        }
        Ok(deliveries)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        let answers = self.inner.renew(renewals).await?;
        for (renewal, answer) in renewals.iter().zip(&answers) {
            let held = Held::from(&renewal.receipt);
            self.tell(Fact::Renewed { held, asked: millis(renewal.lease), answer: *answer });
        }
        Ok(answers)
    }

    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError> {
        let answers = self.inner.settle(batch, records).await?;
        for (settle, answer) in batch.iter().zip(&answers) {
            self.tell(Fact::Settled {
                held: Held::from(&settle.receipt),
                by: Move::of(settle),
                answer: *answer,
                children: settle.publishes().iter().map(|child| child.id.clone()).collect(),
            });
        }
        Ok(answers)
    }

    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Result<u64, BackendError> {
        let buried = self.inner.bury_unroutable(known, since, records).await?;
        self.judge.promoted();
        if buried > 0 {
            let call = self.judge.call();
            let words = format!("{buried} tasks were buried, and every worker knows their name");
            self.judge.broke(call.at, Some(call.caller), words);
        }
        Ok(buried)
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError> {
        let queues = self.inner.queues().await?;
        self.judge.promoted();
        Ok(queues)
    }

    async fn purge(
        &self,
        queue: &QueueName,
        records: Records,
    ) -> Result<Vec<TaskId>, BackendError> {
        // No operator of a simulated world purges, so the ledger knows no such move.
        self.inner.purge(queue, records).await
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError> {
        let paused = pause.is_some();
        let changed = self.inner.set_paused(queue, pause).await?;
        self.tell(Fact::PauseSet { queue: queue.clone(), paused });
        Ok(changed)
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}
