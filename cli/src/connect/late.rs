//! A revoke store that could not be opened yet: every call tries again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::{BackendError, Health, RevokeStore, ServiceId};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_sql::Sqlite;
use tokio::sync::OnceCell;

#[derive(Debug)]
struct Late {
    service: ServiceId,
    path: PathBuf,
    opened: OnceCell<Arc<Sqlite>>,
}

/// The SQLite file at this path, when it can be opened.
pub(super) fn sqlite(path: &Path) -> Arc<dyn RevokeStore> {
    Arc::new(Late {
        service: ServiceId(format!("sqlite://{}", path.display())),
        path: path.to_owned(),
        opened: OnceCell::new(),
    })
}

impl Late {
    async fn store(&self) -> Result<&Sqlite, BackendError> {
        Ok(self.opened.get_or_try_init(|| super::open_sqlite(&self.path)).await?)
    }
}

#[async_trait]
impl RevokeStore for Late {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        self.store().await?.revoke(namespace, requests).await
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        self.store().await?.undo(namespace, task).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        self.store().await?.since(namespace, after, limit).await
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        RevokeStore::prune(self.store().await?, namespace).await
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        self.store().await?.changed(wait).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        RevokeStore::health(self.store().await?).await
    }
}
