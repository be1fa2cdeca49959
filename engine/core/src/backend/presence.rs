//! [`Presence`]: which workers there are.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{BackendError, ServiceId};
use crate::control::Heartbeat;
use crate::id::{Incarnation, Namespace, WorkerId};
use crate::time::Timestamp;

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The name is this process's now.
    Yes,
    /// A live worker has it.
    NameTaken {
        /// Its start.
        boot_id: Incarnation,
        /// When it was last heard.
        seen_at: Timestamp,
    },
}

/// Keeps one heartbeat for each worker of a namespace. `seen_at` is set by the store's clock, not by the sender's.
/// Implementations are held to the cases of `tests/conformance/src/presence.rs`.
#[async_trait]
pub trait Presence: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// Takes a name, unless another incarnation holds it with a fresh heartbeat ([`Heartbeat::is_fresh`]).
    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, BackendError>;

    /// Replaces this incarnation's heartbeat. Without effect if another incarnation has the name by now.
    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), BackendError>;

    /// Every heartbeat of a namespace, sorted by worker, and the store's time now.
    async fn workers(
        &self,
        namespace: &Namespace,
    ) -> Result<(Vec<Heartbeat>, Timestamp), BackendError>;

    /// Removes this incarnation's heartbeat.
    async fn forget(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), BackendError>;
}
