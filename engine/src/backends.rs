//! The services that a worker or client is given. Which ones they are is decided where the program starts.

use std::sync::Arc;

use stem_core::backend::broker::PURGED;
use stem_core::backend::{
    BackendError, Broker, ControlPlane, DeadLetters, Presence, Records, ResultBackend, RevokeStore,
};
use stem_core::id::QueueName;

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
}

impl Backends {
    /// One service for everything.
    pub fn all_in_one<T>(service: Arc<T>) -> Self
    where
        T: Broker + ResultBackend + RevokeStore + ControlPlane + Presence + DeadLetters + 'static,
    {
        Self {
            broker: service.clone(),
            results: service.clone(),
            revokes: service.clone(),
            control: service.clone(),
            presence: service.clone(),
            dead_letters: service,
        }
    }

    /// Whether a move and its record are one atomic step, or the record goes first.
    pub fn records(&self) -> Records {
        records(&*self.broker, &*self.results)
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
