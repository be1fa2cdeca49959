//! [`RevokeStore`]: revocations, durable before they are visible.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::{BackendError, Health, ServiceId};
use crate::id::{Namespace, TaskId};
use crate::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use crate::time::Timestamp;

/// Keeps revocations. The store assigns versions, one growing sequence for a namespace, so clocks decide nothing of their
/// order. They end by the store's [`time`](Self::time): each is in force until its end, and gone a minute
/// ([`EXPIRY_GRACE`](crate::revoke::EXPIRY_GRACE)) later.
/// Implementations are held to the cases of `tests/conformance/src/revoke.rs`.
#[async_trait]
pub trait RevokeStore: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// The store's time, by which revocations end, whatever the clocks of those who store and read them show. `None` if it
    /// has no clock but that of the machine of whoever asks. A time may be earlier than the one before.
    async fn time(&self) -> Result<Option<Timestamp>, BackendError>;

    /// Stores revocations, durably before it returns. A newer one replaces an older one of the same task. An error means
    /// that none is stored, or that it is not known whether all are; a process that dies in the middle may leave some.
    /// Storing them again does no harm: the later version says the same.
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

    /// Changes after a version, in order, at most `limit`; fewer only where there are no more. Expired ones may be left
    /// out.
    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError>;

    /// Removes what has expired; says how many records it removed, which a store may put off while it is not worth its
    /// cost. What has expired is out of force either way. Versions are never given out again.
    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError>;

    /// Waits until anything may have changed, at most `wait`. May return early for no reason.
    async fn changed(&self, wait: Duration) -> Result<(), BackendError>;

    /// Whether it can be written to.
    async fn health(&self) -> Result<Health, BackendError>;
}
