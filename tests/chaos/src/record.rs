//! [`recorded`]: stands between a worker and its backends, and writes down what they answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Delivery, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::control::Position;
use stem_core::backend::result::{Begun, RecordFilter, Recorded, Until};
use stem_core::backend::{
    BackendError, Broker, ControlPlane, Health, Records, ResultBackend, ServiceId,
};
use stem_core::control::wire::{self, CommandFrame, ReplyFrame};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, Namespace, QueueName, RequestId, TaskId, TaskName};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{FailedAttempt, Progress, TaskRecord};
use stem_core::time::Timestamp;
use stem_engine::Backends;

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
    let here = backends.records() == Records::Here;
    let journal = || Arc::clone(journal);
    Backends {
        broker: Arc::new(RecordedBroker {
            inner: backends.broker,
            journal: journal(),
            tokens: Arc::clone(tokens),
        }),
        // Where one step does both, the worker writes no records.
        results: if here {
            backends.results
        } else {
            Arc::new(RecordedResults { inner: backends.results, journal: journal() })
        },
        control: Arc::new(RecordedControl { inner: backends.control, journal: journal() }),
        ..backends
    }
}

fn held(receipt: &Receipt) -> Held {
    Held { task: receipt.task.clone(), token: receipt.token }
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

    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError> {
        self.inner.publish(envelopes, records).await
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        let deliveries = self.inner.receive(request).await?;
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
        let answers = self.inner.renew(renewals).await?;
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
        let answers = self.inner.settle(batch, records).await?;
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

#[derive(Debug)]
struct RecordedResults {
    inner: Arc<dyn ResultBackend>,
    journal: Arc<Journal>,
}

#[async_trait]
impl ResultBackend for RecordedResults {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn record_queued(&self, envelopes: &[Envelope]) -> Result<(), BackendError> {
        self.inner.record_queued(envelopes).await
    }

    async fn record_begun(&self, begun: &[Begun]) -> Result<Vec<Recorded>, BackendError> {
        let answers = self.inner.record_begun(begun).await?;
        for (begun, answer) in begun.iter().zip(&answers) {
            if *answer == Recorded::Stored {
                self.journal.write(Event::Begun(held(&begun.receipt)));
            }
        }
        Ok(answers)
    }

    async fn record_settled(&self, batch: &[Settle]) -> Result<Vec<Recorded>, BackendError> {
        let sent = Moment::now();
        let answers = self.inner.record_settled(batch).await?;
        for (settle, answer) in batch.iter().zip(&answers) {
            let answered = answered(settle, sent);
            self.journal.write(match answer {
                Recorded::Stored => Event::RecordOk(answered),
                Recorded::Stale => Event::RecordStale(answered),
            });
        }
        Ok(answers)
    }

    async fn record_replayed(&self, tasks: &[TaskId]) -> Result<(), BackendError> {
        self.inner.record_replayed(tasks).await
    }

    async fn record_progress(
        &self,
        updates: &[(Receipt, Progress)],
    ) -> Result<Vec<Recorded>, BackendError> {
        self.inner.record_progress(updates).await
    }

    async fn save_checkpoint(
        &self,
        receipt: &Receipt,
        state: &[u8],
    ) -> Result<Recorded, BackendError> {
        self.inner.save_checkpoint(receipt, state).await
    }

    async fn load_checkpoint(&self, task: &TaskId) -> Result<Option<Vec<u8>>, BackendError> {
        self.inner.load_checkpoint(task).await
    }

    async fn fetch(&self, task: &TaskId) -> Result<Option<TaskRecord>, BackendError> {
        self.inner.fetch(task).await
    }

    async fn history(&self, task: &TaskId) -> Result<Vec<FailedAttempt>, BackendError> {
        self.inner.history(task).await
    }

    async fn list(&self, filter: &RecordFilter) -> Result<Vec<TaskRecord>, BackendError> {
        self.inner.list(filter).await
    }

    async fn watch(
        &self,
        task: &TaskId,
        until: Until<'_>,
        wait: Duration,
    ) -> Result<Option<TaskRecord>, BackendError> {
        self.inner.watch(task, until, wait).await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        self.inner.forget(tasks).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        self.inner.prune().await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}

#[derive(Debug)]
struct RecordedControl {
    inner: Arc<dyn ControlPlane>,
    journal: Arc<Journal>,
}

#[async_trait]
impl ControlPlane for RecordedControl {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn position(&self, namespace: &Namespace) -> Result<Position, BackendError> {
        self.inner.position(namespace).await
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        self.inner.send(command).await
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let commands = self.inner.commands(namespace, after, wait).await?;
        let readable = commands.iter().filter_map(|(_, text)| wire::command(text.as_bytes()).ok());
        for command in readable {
            self.journal.write(Event::CtlRecv(command.request_id));
        }
        Ok(commands)
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        self.inner.reply(namespace, reply).await?;
        self.journal.write(Event::CtlReply(reply.request_id.clone()));
        Ok(())
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        self.inner.replies(namespace, request, after, wait).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        self.inner.prune().await
    }
}
