//! [`RevokeStore`] on Redis.

use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use stem_core::backend::revoke::RevokeStore;
use stem_core::backend::{BackendError, Health, ServiceId};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, TRACE_TTL, Version};
use stem_core::time::Timestamp;

use crate::bell::Topic;
use crate::fault::Fault;
use crate::read::{self, Fields};
use crate::{Inner, Redis, script};

/// The most that one script stores or removes, so that none keeps the server for long.
const ITEMS: usize = 1_000;

/// The most that one command reads: few enough that what it answers stays in the processor's cache until it is taken in.
const PAGE: usize = 2_000;

/// As `lib_revoke.lua` writes it: version, issued or taken back at, what was asked unless it was taken back, task.
#[derive(Deserialize)]
struct Change<'a>(u64, i64, Option<RevokeRequest>, #[serde(borrow)] Cow<'a, str>);

fn change_of(namespace: &Namespace, bytes: &[u8]) -> Result<RevocationChange, Fault> {
    let Change(version, at, request, task) = serde_json::from_slice(bytes)?;
    let (version, task) = (Version(version), TaskId::new(task)?);
    Ok(match request {
        None => RevocationChange::Undone { task, version },
        Some(request) => RevocationChange::Revoked(Revocation {
            namespace: namespace.clone(),
            task_id: task,
            version,
            issued_at: Timestamp::from_unix_millis(at),
            request,
        }),
    })
}

impl Inner {
    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, Fault> {
        let mut stored = Vec::with_capacity(requests.len());
        for requests in requests.chunks(ITEMS) {
            let mut call = self.call(&script::REVOKE);
            call.arg(namespace.as_str());
            for (task, request) in requests {
                let ends = request.expires_at.map(Timestamp::unix_millis);
                call.arg(task.as_str())
                    .arg(serde_json::to_string(request)?)
                    .arg(ends.map_or_else(String::new, |at| at.to_string()));
            }
            let mut answer = Fields::of(self.run(&script::REVOKE, &call).await?)?;
            let issued_at = read::time(answer.next()?)?;
            let first = read::large(answer.next()?)?;
            stored.extend((first..).zip(requests).map(|(version, (task, request))| Revocation {
                namespace: namespace.clone(),
                task_id: task.clone(),
                version: Version(version),
                issued_at,
                request: request.clone(),
            }));
        }
        Ok(stored)
    }

    async fn undo(&self, namespace: &Namespace, task: &TaskId) -> Result<Option<Version>, Fault> {
        let ttl = i64::try_from(TRACE_TTL.as_millis()).expect("a day fits");
        let mut call = self.call(&script::UNDO);
        call.arg(namespace.as_str()).arg(task.as_str()).arg(ttl);
        let version = read::int(self.run(&script::UNDO, &call).await?)?;
        Ok(u64::try_from(version).ok().map(Version))
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, Fault> {
        let mut changes = Vec::new();
        let mut answer = self.page(namespace, after, limit.min(PAGE)).await?;
        loop {
            let page = PAGE.min(limit.saturating_sub(changes.len()));
            let more = limit.saturating_sub(changes.len() + answer.len());
            let last = answer.last().filter(|_| answer.len() == page && more > 0);
            let last = last.map(|last| change_of(namespace, last)).transpose()?;
            let next = async {
                let Some(last) = last else { return Ok(None) };
                self.page(namespace, last.version(), more.min(PAGE)).await.map(Some)
            };
            let take = async {
                // The question leaves first, so that the server answers it meanwhile.
                tokio::task::yield_now().await;
                for change in &answer {
                    changes.push(change_of(namespace, change)?);
                }
                Ok::<(), Fault>(())
            };
            let (next, taken) = tokio::join!(next, take);
            taken?;
            let Some(next) = next? else { return Ok(changes) };
            answer = next;
        }
    }

    /// The first changes after a version, as they are stored.
    async fn page(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(format!("{}v/{namespace}/order", self.prefix));
        command.arg(format!("({}", after.0)).arg("+inf").arg("LIMIT").arg(0).arg(limit);
        let changes = read::list(self.link.ask(&command).await?)?.into_iter();
        changes.map(|change| Ok(read::bytes(change)?.unwrap_or_default())).collect()
    }

    async fn prune_revocations(&self, namespace: &Namespace) -> Result<u64, Fault> {
        let mut pruned = 0;
        loop {
            let mut call = self.call(&script::REVOKE_PRUNE);
            call.arg(namespace.as_str()).arg(ITEMS);
            let some = read::large(self.run(&script::REVOKE_PRUNE, &call).await?)?;
            pruned += some;
            if some < ITEMS as u64 {
                return Ok(pruned);
            }
        }
    }
}

#[async_trait]
impl RevokeStore for Redis {
    fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        let time = match &self.inner.clock {
            Some(clock) => Ok(clock.now()),
            None => self.inner.server_time().await,
        };
        time.map(Some).map_err(|fault| self.inner.during(fault, "tell the time"))
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        let stored = self.inner.revoke(namespace, requests).await;
        stored.map_err(|fault| self.inner.during(fault, "revoke"))
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        let undone = self.inner.undo(namespace, task).await;
        undone.map_err(|fault| self.inner.during(fault, "take a revocation back"))
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        let changes = self.inner.since(namespace, after, limit).await;
        changes.map_err(|fault| self.inner.during(fault, "list revocations"))
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        let pruned = self.inner.prune_revocations(namespace).await;
        pruned.map_err(|fault| self.inner.during(fault, "remove expired revocations"))
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        let waited = self.inner.news(Topic::Revocations, wait).await;
        waited.map_err(|fault| self.inner.during(fault, "wait for revocations"))
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.inner.health().await
    }
}
