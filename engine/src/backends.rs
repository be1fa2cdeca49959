//! The services that a worker or client is given. Which ones they are is decided where the program starts.

use std::sync::Arc;

use stem_core::backend::{
    Broker, ControlPlane, DeadLetters, Presence, Records, ResultBackend, RevokeStore,
};

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
        if self.broker.service() == self.results.service() {
            Records::Here
        } else {
            Records::Elsewhere
        }
    }
}
