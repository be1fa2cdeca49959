//! [`Presence`] in memory.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::presence::{Presence, Registered};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::control::Heartbeat;
use stem_core::id::{Incarnation, Namespace, WorkerId};
use stem_core::time::Timestamp;

use crate::Memory;

/// A worker that was not heard for so long is forgotten when another registers, so that names made up at each start
/// do not pile up.
const FORGET_AFTER: Duration = Duration::from_hours(24);

#[async_trait]
impl Presence for Memory {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, BackendError> {
        let now = self.now();
        let mut state = self.state();
        state.heartbeats.retain(|_, known| now.since(known.seen_at) <= FORGET_AFTER);
        let key = (heartbeat.namespace.clone(), heartbeat.worker.clone());
        if let Some(holder) = state.heartbeats.get(&key)
            && holder.boot_id != heartbeat.boot_id
            && holder.is_fresh(now)
        {
            return Ok(Registered::NameTaken { boot_id: holder.boot_id, seen_at: holder.seen_at });
        }
        state.heartbeats.insert(key, Heartbeat { seen_at: now, ..heartbeat.clone() });
        Ok(Registered::Yes)
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), BackendError> {
        let now = self.now();
        let mut state = self.state();
        let key = (heartbeat.namespace.clone(), heartbeat.worker.clone());
        if state.heartbeats.get(&key).is_none_or(|known| known.boot_id == heartbeat.boot_id) {
            state.heartbeats.insert(key, Heartbeat { seen_at: now, ..heartbeat.clone() });
        }
        Ok(())
    }

    async fn workers(
        &self,
        namespace: &Namespace,
    ) -> Result<(Vec<Heartbeat>, Timestamp), BackendError> {
        let state = self.state();
        let workers = state
            .heartbeats
            .iter()
            .filter(|((scope, _), _)| scope == namespace)
            .map(|(_, heartbeat)| heartbeat.clone())
            .collect();
        Ok((workers, self.now()))
    }

    async fn forget(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), BackendError> {
        let mut state = self.state();
        let key = (namespace.clone(), worker.clone());
        if state.heartbeats.get(&key).is_some_and(|known| known.boot_id == boot_id) {
            state.heartbeats.remove(&key);
        }
        Ok(())
    }
}
