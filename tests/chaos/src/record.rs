//! [`recorded`]: stands between a worker and its backends, and writes down what they answer.

mod buckets;
mod orders;
mod results;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use stem_core::backend::broker::{
    Delivery, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::{BackendError, Broker, Health, Records, ServiceId};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, QueueName, TaskId, TaskName};
use stem_core::settlement::{Receipt, Settle};
use stem_core::time::Timestamp;
use stem_engine::Backends;

use buckets::RecordedBuckets;
pub(crate) use orders::revoked;
use orders::{RecordedControl, RecordedRevokes};
use results::RecordedResults;

use crate::history::{Answered, Event, Held, Journal, Moment, Move};

/// The newest token of each task that this process was given: what a handler, which is told no token, runs under.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<TaskId, LeaseToken>>);

impl Tokens {
    /// Of a task that was delivered to this process.
    pub fn of(&self, task: &TaskId) -> Option<LeaseToken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(task).copied()
    }

    fn put(&self, task: &TaskId, token: LeaseToken) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task.clone(), token);
    }
}

/// The same backends; what matters to the checker is written to the journal before the caller learns it.
pub fn recorded(backends: Backends, journal: &Arc<Journal>, tokens: &Arc<Tokens>) -> Backends {
    let journal = || Arc::clone(journal);
    Backends {
        broker: Arc::new(RecordedBroker {
            inner: backends.broker,
            journal: journal(),
            tokens: Arc::clone(tokens),
        }),
        results: Arc::new(RecordedResults { inner: backends.results, journal: journal() }),
        revokes: Arc::new(RecordedRevokes::new(backends.revokes, journal())),
        control: Arc::new(RecordedControl { inner: backends.control, journal: journal() }),
        buckets: Arc::new(RecordedBuckets {
            inner: backends.buckets,
            journal: journal(),
            tokens: Arc::clone(tokens),
        }),
        ..backends
    }
}

fn held(receipt: &Receipt) -> Held {
    Held { task: receipt.task.clone(), token: receipt.token }
}

fn ids(envelopes: &[Envelope]) -> Vec<TaskId> {
    envelopes.iter().map(|envelope| envelope.id.clone()).collect()
}

fn answered(settle: &Settle, sent: Moment) -> Answered {
    Answered {
        task: settle.receipt.task.clone(),
        token: settle.receipt.token,
        by: Move::from(&settle.settlement),
        sent,
    }
}

#[derive(Debug)]
struct RecordedBroker {
    inner: Arc<dyn Broker>,
    journal: Arc<Journal>,
    tokens: Arc<Tokens>,
}

#[async_trait]
impl Broker for RecordedBroker {
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
        // Elsewhere their records have been written before.
        if records == Records::Here {
            self.journal.write(Event::EnqTry(ids(envelopes)));
        }
        let published = self.journal.noted(self.inner.publish(envelopes, records).await)?;
        self.journal.write(Event::EnqOk(ids(envelopes)));
        Ok(published)
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        let deliveries = self.journal.noted(self.inner.receive(request).await)?;
        for delivery in &deliveries {
            self.tokens.put(&delivery.receipt.task, delivery.receipt.token);
            self.journal.write(Event::Lease {
                held: held(&delivery.receipt),
                until: Moment::of(delivery.lease_until),
            });
        }
        Ok(deliveries)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        let answers = self.journal.noted(self.inner.renew(renewals).await)?;
        for (renewal, answer) in renewals.iter().zip(&answers) {
            let held = held(&renewal.receipt);
            self.journal.write(match answer {
                Renewed::Until(until) => Event::Renewed { held, until: Moment::of(*until) },
                Renewed::Stale => Event::RenewStale(held),
            });
        }
        Ok(answers)
    }

    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError> {
        let sent = Moment::now();
        for settle in batch.iter().filter(|settle| Move::from(&settle.settlement).gives_back()) {
            self.journal.write(Event::GiveBack(held(&settle.receipt)));
        }
        let answers = self.journal.noted(self.inner.settle(batch, records).await)?;
        for (settle, answer) in batch.iter().zip(&answers) {
            let answered = answered(settle, sent);
            self.journal.write(match answer {
                Settled::Done => Event::SettleOk(answered),
                Settled::Stale => Event::SettleStale(answered),
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
        self.inner.bury_unroutable(known, since, records).await
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError> {
        self.inner.queues().await
    }

    async fn purge(
        &self,
        queue: &QueueName,
        records: Records,
    ) -> Result<Vec<TaskId>, BackendError> {
        self.inner.purge(queue, records).await
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError> {
        self.inner.set_paused(queue, pause).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        Broker::health(&*self.inner).await
    }
}
