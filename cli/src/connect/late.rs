//! A revoke store that could not be opened yet: every call tries again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_core::backend::{BackendError, ErrorClass, Health, RevokeStore, ServiceId};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use tokio::sync::OnceCell;

use super::{Service, ServiceUrl, Tls};
use crate::error::CliError;

#[derive(Debug)]
struct Late {
    service: ServiceId,
    url: ServiceUrl,
    tls: Tls,
    opened: OnceCell<Arc<dyn RevokeStore>>,
}

/// The store at this place, when it can be opened.
pub(super) fn store(url: ServiceUrl, tls: Tls) -> Arc<dyn RevokeStore> {
    let service = ServiceId(url.to_string());
    Arc::new(Late { service, url, tls, opened: OnceCell::new() })
}

impl Late {
    async fn store(&self) -> Result<&Arc<dyn RevokeStore>, BackendError> {
        let open = async || match Service::open(&self.url, &self.tls).await {
            Ok(service) => Ok(service.backends().revokes),
            Err(CliError { what, .. }) => {
                let class = ErrorClass::Transient;
                Err(BackendError::new(class, &self.service.0, "open the revoke store", what))
            }
        };
        self.opened.get_or_try_init(open).await
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
        self.store().await?.prune(namespace).await
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        self.store().await?.changed(wait).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.store().await?.health().await
    }
}
