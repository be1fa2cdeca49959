//! The broker, the control plane and the dead letters, as a process reaches them.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Delivery, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::control::Position;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, Replayed};
use stem_core::backend::{
    BackendError, Broker, ControlPlane, DeadLetters, Health, Records, ServiceId,
};
use stem_core::control::wire::{self, CommandFrame, ReplyFrame};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, Namespace, QueueName, RequestId, TaskId, TaskName};
use stem_core::settlement::Settle;
use stem_core::time::Timestamp;
use stem_engine::Backends;

use super::{Line, never, remote, salt};
use crate::dice;
use crate::fact::{Fact, Held, ServiceKind};

#[async_trait]
impl Broker for Line {
    fn service(&self) -> &ServiceId {
        Line::service(self, ServiceKind::Broker)
    }

    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError> {
        for envelope in envelopes {
            // Nothing fences what a handler enqueues at once.
            if let Some((parent, _)) = envelope.family() {
                let (held, child) = (self.desk.held(parent), envelope.id.clone());
                self.desk.tell(Fact::Effect { held, child });
            }
        }
        let which = envelopes.first().map_or(0, |first| salt(&first.id, 0));
        let envelopes = envelopes.to_vec();
        remote!(self, "broker.publish", which, [envelopes], |b| b
            .broker
            .publish(&envelopes, records))
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        self.desk.tell(Fact::Asked { max: request.max });
        let asked = ReceiveRequest { wait: Duration::ZERO, ..request.clone() };
        let make = move |b: Backends| {
            let asked = asked.clone();
            Box::pin(async move { b.broker.receive(&asked).await }) as super::Made<_>
        };
        let deliveries: Vec<Delivery> =
            self.call("broker.receive", 0, request.wait, Vec::is_empty, make).await?;
        if !deliveries.is_empty() {
            let of = |delivery: &Delivery| Held::from(&delivery.receipt);
            let held: Vec<Held> = deliveries.iter().map(of).collect();
            self.desk.came(&held);
            self.desk.tell(Fact::Held(held));
        }
        Ok(deliveries)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        let batch = renewals.to_vec();
        // An attempt may ask for itself while the keeper asks for all.
        let which =
            batch.first().map_or(0, |first| salt(&first.receipt.task, first.receipt.token.0));
        let answers = remote!(self, "broker.renew", which, [batch], |b| b.broker.renew(&batch))?;
        let held = renewals.iter().map(|renewal| Held::from(&renewal.receipt));
        self.desk.tell(Fact::Prolonged(held.zip(answers.iter().copied()).collect()));
        Ok(answers)
    }

    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError> {
        let batch = batch.to_vec();
        let which =
            batch.first().map_or(0, |first| salt(&first.receipt.task, first.receipt.token.0));
        remote!(self, "broker.settle", which, [batch], |b| b.broker.settle(&batch, records))
    }

    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Result<u64, BackendError> {
        let known = known.to_vec();
        remote!(self, "broker.bury_unroutable", 0, [known], |b| b
            .broker
            .bury_unroutable(&known, since, records))
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError> {
        remote!(self, "broker.queues", 0, [], |b| b.broker.queues())
    }

    async fn purge(
        &self,
        queue: &QueueName,
        records: Records,
    ) -> Result<Vec<TaskId>, BackendError> {
        let queue = queue.clone();
        remote!(self, "broker.purge", 0, [queue], |b| b.broker.purge(&queue, records))
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError> {
        let queue = queue.clone();
        let which = dice::hash(queue.as_str());
        remote!(self, "broker.set_paused", which, [queue, pause], |b| b
            .broker
            .set_paused(&queue, pause))
    }

    async fn health(&self) -> Result<Health, BackendError> {
        remote!(self, "broker.health", 0, [], |b| b.broker.health())
    }
}

#[async_trait]
impl ControlPlane for Line {
    fn service(&self) -> &ServiceId {
        Line::service(self, ServiceKind::Broker)
    }

    async fn position(&self, namespace: &Namespace) -> Result<Position, BackendError> {
        let namespace = namespace.clone();
        remote!(self, "control.position", 0, [namespace], |b| b.control.position(&namespace))
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        let command = command.clone();
        let which = dice::hash(command.request_id.as_str());
        remote!(self, "control.send", which, [command], |b| b.control.send(&command))
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let namespace = namespace.clone();
        let make = move |b: Backends| {
            let namespace = namespace.clone();
            Box::pin(async move { b.control.commands(&namespace, after, Duration::ZERO).await })
                as super::Made<_>
        };
        let commands: Vec<(Position, String)> =
            self.call("control.commands", 0, wait, Vec::is_empty, make).await?;
        if !commands.is_empty() {
            let readable = commands.iter().filter_map(|(_, it)| wire::command(it.as_bytes()).ok());
            let ids = readable.map(|command| command.request_id).collect();
            self.desk.tell(Fact::Heard(ids));
        }
        Ok(commands)
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        let (namespace, reply) = (namespace.clone(), reply.clone());
        let which = dice::hash(reply.request_id.as_str());
        remote!(self, "control.reply", which, [namespace, reply], |b| b
            .control
            .reply(&namespace, &reply))
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let (namespace, request) = (namespace.clone(), request.clone());
        let which = dice::hash(request.as_str());
        let make = move |b: Backends| {
            let (namespace, request) = (namespace.clone(), request.clone());
            Box::pin(
                async move { b.control.replies(&namespace, &request, after, Duration::ZERO).await },
            ) as super::Made<_>
        };
        self.call("control.replies", which, wait, Vec::is_empty, make).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        remote!(self, "control.prune", 0, [], |b| b.control.prune())
    }
}

#[async_trait]
impl DeadLetters for Line {
    fn service(&self) -> &ServiceId {
        Line::service(self, ServiceKind::Broker)
    }

    async fn list(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, BackendError> {
        let filter = filter.clone();
        let which = filter.tasks.len() as u64;
        self.call("dead.list", which, Duration::ZERO, never, move |b: Backends| {
            let filter = filter.clone();
            Box::pin(async move { b.dead_letters.list(&filter).await })
        })
        .await
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, BackendError> {
        let letters = letters.to_vec();
        remote!(self, "dead.replay", 0, [letters], |b| b.dead_letters.replay(&letters, records))
    }

    async fn purge(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        let tasks = tasks.to_vec();
        remote!(self, "dead.purge", 0, [tasks], |b| b.dead_letters.purge(&tasks))
    }
}
