//! Revocations and commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::control::Position;
use stem_core::backend::{BackendError, ControlPlane, Health, RevokeStore, ServiceId};
use stem_core::control::Order;
use stem_core::control::wire::{self, CommandFrame, ReplyFrame};
use stem_core::id::{Namespace, RequestId, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::time::Timestamp;

use crate::history::{Event, Journal, Moment, Revoked};

/// As histories have it.
pub(crate) fn revoked(revocation: &Revocation) -> Revoked {
    Revoked {
        task: revocation.task_id.clone(),
        version: revocation.version,
        terminate: revocation.request.terminate,
    }
}

#[derive(Debug)]
pub(super) struct RecordedRevokes {
    inner: Arc<dyn RevokeStore>,
    journal: Arc<Journal>,
    /// Something was read since the last wait for a change.
    has_news: AtomicBool,
}

impl RecordedRevokes {
    pub(super) fn new(inner: Arc<dyn RevokeStore>, journal: Arc<Journal>) -> Self {
        Self { inner, journal, has_news: AtomicBool::new(false) }
    }
}

#[async_trait]
impl RevokeStore for RecordedRevokes {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        self.inner.time().await
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        self.inner.revoke(namespace, requests).await
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        self.inner.undo(namespace, task).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        let sent = Moment::now();
        let changes = self.inner.since(namespace, after, limit).await?;
        let whole = changes.len() < limit;
        let found = changes.iter().filter_map(|change| match change {
            RevocationChange::Revoked(revocation) => Some(revoked(revocation)),
            RevocationChange::Undone { .. } => None,
        });
        self.journal.write(Event::Looked { sent, after, whole, revoked: found.collect() });
        self.has_news.fetch_or(!changes.is_empty(), Ordering::Relaxed);
        Ok(changes)
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        self.inner.prune(namespace).await
    }

    /// A worker waits for the next change when it has taken in the last.
    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        if self.has_news.swap(false, Ordering::Relaxed) {
            self.journal.write(Event::Knows);
        }
        self.inner.changed(wait).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}

#[derive(Debug)]
pub(super) struct RecordedControl {
    pub(super) inner: Arc<dyn ControlPlane>,
    pub(super) journal: Arc<Journal>,
}

#[async_trait]
impl ControlPlane for RecordedControl {
    fn service(&self) -> &ServiceId {
        self.inner.service()
    }

    async fn position(&self, namespace: &Namespace) -> Result<Position, BackendError> {
        self.inner.position(namespace).await
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        self.inner.send(command).await
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let commands = self.inner.commands(namespace, after, wait).await?;
        let readable = commands.iter().filter_map(|(_, text)| wire::command(text.as_bytes()).ok());
        for command in readable {
            if let Order::Revoke { revocations } = &command.order {
                let request = command.request_id.clone();
                let revoked = revocations.iter().map(revoked).collect();
                self.journal.write(Event::Told { request, revoked });
            }
            self.journal.write(Event::CtlRecv(command.request_id));
        }
        Ok(commands)
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        self.inner.reply(namespace, reply).await?;
        self.journal.write(Event::CtlReply(reply.request_id.clone()));
        Ok(())
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        self.inner.replies(namespace, request, after, wait).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        self.inner.prune().await
    }
}
