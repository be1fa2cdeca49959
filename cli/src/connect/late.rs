//! A store that is not opened yet: every call tries again until it is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::modules::{Assigned, History, Pushed, Removed};
use stem_core::backend::{BackendError, ErrorClass, Health, ModuleStore, RevokeStore, ServiceId};
use stem_core::id::{Digest, Namespace, TaskId, TaskName};
use stem_core::release::{Assignment, Catalogue, Push, Rollout};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::time::Timestamp;
use stem_engine::Backends;
use tokio::sync::OnceCell;

use super::{Service, ServiceUrl, Tls};
use crate::error::CliError;

#[derive(Debug)]
pub(super) struct Late {
    service: ServiceId,
    url: ServiceUrl,
    tls: Tls,
    opened: OnceCell<Backends>,
}

/// The store at this place, when it can be opened.
pub(super) fn store(url: ServiceUrl, tls: Tls) -> Arc<Late> {
    let service = ServiceId(url.to_string());
    Arc::new(Late { service, url, tls, opened: OnceCell::new() })
}

impl Late {
    async fn backends(&self) -> Result<&Backends, BackendError> {
        let open = async || match Service::open(&self.url, &self.tls).await {
            Ok(service) => Ok(service.backends()),
            Err(CliError { what, .. }) => {
                let class = ErrorClass::Transient;
                Err(BackendError::new(class, &self.service.0, "open the store", what))
            }
        };
        self.opened.get_or_try_init(open).await
    }

    async fn revokes(&self) -> Result<&dyn RevokeStore, BackendError> {
        Ok(&*self.backends().await?.revokes)
    }

    async fn modules(&self) -> Result<&dyn ModuleStore, BackendError> {
        Ok(&*self.backends().await?.modules)
    }
}

#[async_trait]
impl RevokeStore for Late {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        self.revokes().await?.time().await
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        self.revokes().await?.revoke(namespace, requests).await
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        self.revokes().await?.undo(namespace, task).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        self.revokes().await?.since(namespace, after, limit).await
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        self.revokes().await?.prune(namespace).await
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        self.revokes().await?.changed(wait).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.revokes().await?.health().await
    }
}

#[async_trait]
impl ModuleStore for Late {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
        self.modules().await?.put(digest, bytes).await
    }

    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
        self.modules().await?.get(digest).await
    }

    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
        self.modules().await?.push(push, rollout).await
    }

    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        assignment: Option<Assignment>,
    ) -> Result<Assigned, BackendError> {
        self.modules().await?.assign(name, seen, assignment).await
    }

    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError> {
        self.modules().await?.remove(name, version).await
    }

    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError> {
        self.modules().await?.history(name).await
    }

    async fn catalogue(&self) -> Result<Catalogue, BackendError> {
        self.modules().await?.catalogue().await
    }

    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
        self.modules().await?.changed(seen, wait).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.modules().await?.health().await
    }
}
