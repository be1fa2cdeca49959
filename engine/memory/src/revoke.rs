//! [`RevokeStore`] in memory.

use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::revoke::RevokeStore;
use stem_core::backend::{BackendError, Health, ServiceId};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, TRACE_TTL, Version};
use stem_core::time::Timestamp;

use crate::Memory;
use crate::state::{RevocationRow, State};

#[async_trait]
impl RevokeStore for Memory {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        Ok(Some(self.now()))
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let mut stored = Vec::with_capacity(requests.len());
        for (task, request) in requests {
            let revocation = Revocation {
                namespace: namespace.clone(),
                task_id: task.clone(),
                version: next_version(&mut state, namespace),
                issued_at: now,
                request: request.clone(),
            };
            let rows = state.revocations.entry(namespace.clone()).or_default();
            rows.insert(task.clone(), RevocationRow::InForce(revocation.clone()));
            stored.push(revocation);
        }
        drop(state);
        self.bells.revocations.ring();
        Ok(stored)
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let in_force = state
            .revocations
            .get(namespace)
            .and_then(|rows| rows.get(task))
            .is_some_and(|row| matches!(row, RevocationRow::InForce(it) if !it.expired(now)));
        if !in_force {
            return Ok(None);
        }
        let version = next_version(&mut state, namespace);
        let rows = state.revocations.entry(namespace.clone()).or_default();
        rows.insert(task.clone(), RevocationRow::Undone { version, at: now });
        drop(state);
        self.bells.revocations.ring();
        Ok(Some(version))
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        let now = self.now();
        let state = self.state();
        let mut changes: Vec<RevocationChange> = state
            .revocations
            .get(namespace)
            .into_iter()
            .flatten()
            .filter_map(|(task, row)| change(task, row, now))
            .filter(|change| change.version() > after)
            .collect();
        changes.sort_by_key(RevocationChange::version);
        changes.truncate(limit);
        Ok(changes)
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let Some(rows) = state.revocations.get_mut(namespace) else { return Ok(0) };
        let before = rows.len();
        rows.retain(|_, row| match row {
            RevocationRow::InForce(revocation) => !revocation.expired(now),
            RevocationRow::Undone { at, .. } => now.since(*at) < TRACE_TTL,
        });
        Ok((before - rows.len()) as u64)
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        self.bells.revocations.wait_loosely(wait).await;
        Ok(())
    }

    async fn health(&self) -> Result<Health, BackendError> {
        Ok(self.health_now())
    }
}

fn next_version(state: &mut State, namespace: &Namespace) -> Version {
    let version = state.versions.entry(namespace.clone()).or_default();
    version.0 += 1;
    *version
}

fn change(task: &TaskId, row: &RevocationRow, now: Timestamp) -> Option<RevocationChange> {
    match row {
        RevocationRow::InForce(revocation) if revocation.expired(now) => None,
        RevocationRow::InForce(revocation) => Some(RevocationChange::Revoked(revocation.clone())),
        RevocationRow::Undone { version, .. } => {
            Some(RevocationChange::Undone { task: task.clone(), version: *version })
        }
    }
}
