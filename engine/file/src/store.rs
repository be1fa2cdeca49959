//! [`RevokeStore`] on a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stem_core::backend::revoke::RevokeStore;
use stem_core::backend::{BackendError, Health, ServiceId};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::time::{Clock, Timestamp};
use tokio::sync::Mutex;

use crate::fault::Fault;
use crate::follow::Sight;
use crate::journal::Journal;
use crate::place::Stamp;
use crate::repair::Repaired;

/// Which file, and how.
#[derive(Clone, Debug)]
pub struct FileStoreOptions {
    /// The file. It is made at first use, for this user only; its directory must exist.
    pub path: PathBuf,
    /// Gives times of issue, decides what has expired.
    pub clock: Arc<dyn Clock>,
    /// How long a call waits for other processes; [`DEFAULT_LOCK_TIMEOUT`](Self::DEFAULT_LOCK_TIMEOUT) unless there is
    /// a reason.
    pub lock_timeout: Duration,
}

impl FileStoreOptions {
    /// The lock is held for about one `fdatasync`; a compaction of 1,000,000 records holds it for a second or two.
    pub const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(5);
}

/// Revocations in a file of JSON lines. Several in one process, and several processes, may have the same file.
pub struct FileStore {
    service: ServiceId,
    path: PathBuf,
    patience: Duration,
    /// One call at a time: they would wait for each other at the file's lock anyway.
    journal: Arc<Mutex<Journal>>,
    sight: Sight,
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FileStore {
    /// Does not look at the file: whether it can be used is each call's answer, so that a worker can start without it
    /// or wait for it, as its policy says.
    pub fn open(options: FileStoreOptions) -> Arc<Self> {
        let FileStoreOptions { path, clock, lock_timeout } = options;
        let path = std::path::absolute(&path).unwrap_or(path);
        Arc::new(Self {
            service: ServiceId(format!("file://{}", path.display())),
            journal: Arc::new(Mutex::new(Journal::new(path.clone(), clock))),
            path,
            patience: lock_timeout,
            sight: Sight::default(),
        })
    }

    /// The file, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes out the lines that cannot be read, into a file beside it, `<path>.unreadable-<milliseconds>`; the others
    /// stay as they are. Refuses if a newer version of stem wrote one. Only for when an operator asks: a revocation
    /// that cannot be read is not in force afterwards.
    pub async fn repair(&self) -> Result<Repaired, BackendError> {
        let repaired = self.call("repair the file", Journal::repair).await;
        self.sight.wrote();
        repaired
    }

    /// Does blocking work in order. The work runs to its end also if the caller goes away.
    async fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut Journal, Instant) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, BackendError> {
        let deadline = Instant::now() + self.patience;
        let done = async {
            let waiting = Arc::clone(&self.journal).lock_owned();
            let mut journal =
                tokio::time::timeout_at(deadline.into(), waiting).await.map_err(|_| {
                    let millis = self.patience.as_millis();
                    Fault::transient(format!("another call here has kept it for {millis} ms"))
                })?;
            let working = tokio::task::spawn_blocking(move || work(&mut journal, deadline));
            working.await.map_err(|error| Fault::lost(&error))?
        };
        done.await.map_err(|fault| fault.during(&self.service, action))
    }
}

#[async_trait]
impl RevokeStore for FileStore {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        Ok(None)
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let (namespace, requests) = (namespace.clone(), requests.to_vec());
        let stored = self
            .call("revoke", move |journal, deadline| {
                journal.revoke(&namespace, &requests, deadline)
            })
            .await;
        self.sight.wrote();
        stored
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        let (namespace, task) = (namespace.clone(), task.clone());
        let undone = self
            .call("take a revocation back", move |journal, deadline| {
                journal.undo(&namespace, &task, deadline)
            })
            .await;
        self.sight.wrote();
        undone
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        let (namespace, path) = (namespace.clone(), self.path.clone());
        let (listed, stamp) = self
            .call("list revocations", move |journal, deadline| {
                let listed = journal.since(&namespace, after, limit, deadline);
                // After a failure too: what could not be read once is no news until it changes.
                let stamp = match &listed {
                    Ok(_) => journal.stamp,
                    Err(_) => Stamp::at(&path).ok().flatten(),
                };
                Ok((listed, stamp))
            })
            .await?;
        if let Some(stamp) = stamp {
            self.sight.listed(stamp);
        }
        listed.map_err(|fault| fault.during(&self.service, "list revocations"))
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        let namespace = namespace.clone();
        self.call("remove expired revocations", move |journal, deadline| {
            journal.prune(&namespace, deadline)
        })
        .await
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        let changed = self.sight.changed(&self.path, wait).await;
        changed.map_err(|fault| fault.during(&self.service, "follow revocations"))
    }

    async fn health(&self) -> Result<Health, BackendError> {
        let service = self.service.clone();
        self.call("look after the file", move |journal, deadline| {
            journal.health(&service, deadline)
        })
        .await
    }
}
