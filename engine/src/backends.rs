//! The services that a worker or client is given. Which ones they are is decided where the program starts.

use std::sync::Arc;

use stem_core::backend::broker::{PURGED, Published};
use stem_core::backend::{
    BackendError, Broker, Buckets, ControlPlane, DeadLetters, ModuleStore, Presence, Records,
    ResultBackend, RevokeStore,
};
use stem_core::envelope::Envelope;
use stem_core::id::{QueueName, TaskId};

/// One of each.
#[derive(Clone, Debug)]
pub struct Backends {
    /// Envelopes, leases, queues.
    pub broker: Arc<dyn Broker>,
    /// Records, results, progress, checkpoints.
    pub results: Arc<dyn ResultBackend>,
    /// Revocations.
    pub revokes: Arc<dyn RevokeStore>,
    /// Commands and replies; with the broker.
    pub control: Arc<dyn ControlPlane>,
    /// Heartbeats; with the result backend.
    pub presence: Arc<dyn Presence>,
    /// Envelopes that were given up; with the broker.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Builds of modules, and which serve.
    pub modules: Arc<dyn ModuleStore>,
    /// Small shared values of tasks; with the result backend.
    pub buckets: Arc<dyn Buckets>,
}

impl Backends {
    /// One service for everything.
    pub fn all_in_one<T>(service: Arc<T>) -> Self
    where
        T: Broker
            + ResultBackend
            + RevokeStore
            + ControlPlane
            + Presence
            + DeadLetters
            + ModuleStore
            + Buckets
            + 'static,
    {
        Self {
            broker: service.clone(),
            results: service.clone(),
            revokes: service.clone(),
            control: service.clone(),
            presence: service.clone(),
            dead_letters: service.clone(),
            modules: service.clone(),
            buckets: service,
        }
    }

    /// Whether a move and its record are one atomic step, or the record goes first.
    pub fn records(&self) -> Records {
        records(&*self.broker, &*self.results)
    }

    /// Stores tasks in one step. The envelopes must have passed [`Envelope::check`].
    pub(crate) async fn publish(
        &self,
        envelopes: &[Envelope],
    ) -> Result<Vec<Published>, BackendError> {
        let records = self.records();
        if records == Records::Elsewhere {
            // The record first: a crash in between leaves a queued record that a repeated enqueue with the same id heals,
            // never a task that runs and cannot be seen.
            self.results.record_queued(envelopes).await?;
        }
        let published = self.broker.publish(envelopes, records).await?;
        if records == Records::Elsewhere {
            // Another task has the unique key, so these never come to be. Without this their records say queued for ever.
            let unborn: Vec<TaskId> = envelopes
                .iter()
                .zip(&published)
                .filter(|(envelope, published)| {
                    matches!(published, Published::Duplicate { existing } if *existing != envelope.id)
                })
                .map(|(envelope, _)| envelope.id.clone())
                .collect();
            if !unborn.is_empty() {
                self.results.forget(&unborn).await?;
            }
        }
        Ok(published)
    }
}

fn records(broker: &dyn Broker, results: &dyn ResultBackend) -> Records {
    if broker.service() == results.service() { Records::Here } else { Records::Elsewhere }
}

/// Removes everything that waits in a queue, with its records; says how many tasks. Where the records lie in another
/// service they go second, so a crash in between leaves records of at most [`PURGED`] tasks that never end.
pub async fn purge(
    broker: &dyn Broker,
    results: &dyn ResultBackend,
    queue: &QueueName,
) -> Result<u64, BackendError> {
    let records = records(broker, results);
    let mut purged = 0;
    loop {
        let gone = broker.purge(queue, records).await?;
        if records == Records::Elsewhere {
            results.forget(&gone).await?;
        }
        purged += gone.len() as u64;
        if gone.len() < PURGED {
            return Ok(purged);
        }
    }
}
