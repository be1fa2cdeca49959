//! [`ControlPlane`]: commands on a log that every worker reads with a cursor of its own, and replies.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{BackendError, ServiceId};
use crate::control::wire::{CommandFrame, ReplyFrame};
use crate::id::{Namespace, RequestId};

/// A place in a namespace's log of commands, or in a request's list of replies. Grows; gaps are allowed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(pub u64);

/// How long replies are kept after the command has expired.
pub const REPLY_TTL: Duration = Duration::from_mins(1);

/// Carries commands to every worker of a namespace and replies back. Commands are never consumed: each worker reads
/// the whole log from its own position, so all of them see all of it, also after a reconnect. What a command or a reply
/// says is text that is carried and never read here: one that nobody can read is handed on like any other.
/// Implementations are held to the cases of `tests/conformance/src/control.rs`.
#[async_trait]
pub trait ControlPlane: Send + Sync + Debug {
    /// Which service this is.
    fn service(&self) -> &ServiceId;

    /// The end of the log: what is sent later lies after it.
    async fn position(&self, namespace: &Namespace) -> Result<Position, BackendError>;

    /// Appends a command. One that is sent twice, by its request id, is stored once.
    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError>;

    /// The texts of commands after a position, in order, expired ones left out; waits up to `wait` for the first.
    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError>;

    /// Appends a reply to its request; a second one of the same worker is dropped.
    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError>;

    /// The texts of replies to a request after a position; waits up to `wait` for the first.
    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError>;

    /// Removes expired commands, and replies older than [`REPLY_TTL`] after that; says how many rows went.
    async fn prune(&self) -> Result<u64, BackendError>;
}
