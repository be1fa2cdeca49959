//! [`RevokeStore`]: revocations, durable before they are visible.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::{BackendError, Health, ServiceId};
use crate::id::{Namespace, TaskId};
use crate::revoke::{Revocation, RevocationChange, RevokeRequest, Version};

/// Keeps revocations. The store assigns versions, one growing sequence for a namespace, so clocks decide nothing.
/// Implementations are held to the cases of `tests/conformance/src/revoke.rs`.
#[async_trait]
pub trait RevokeStore: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// Stores revocations, all or none, durably before it returns. A newer one replaces an older one of the same task.
    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError>;

    /// Takes a revocation back; `None` if there was none in force.
    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError>;

    /// Changes after a version, in order, at most `limit`. Expired ones may be left out.
    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError>;

    /// Removes what has expired; says how many. Versions are never given out again.
    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError>;

    /// Waits until anything may have changed, at most `wait`. May return early for no reason.
    async fn changed(&self, wait: Duration) -> Result<(), BackendError>;

    /// Whether it can be written to.
    async fn health(&self) -> Result<Health, BackendError>;
}
