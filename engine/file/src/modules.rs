//! Modules in a directory, shared by several processes: for those who ship modules over a shared or copied directory.
//!
//! ```text
//! catalogue.json         every release, what serves; a whole new file takes its place with each change
//! catalogue.json.lock    held while that happens; readers need no lock
//! blobs/<64 digits>      a module by its SHA-256
//! ```
//!
//! What this is not: a place for file systems without `flock`, or whose caches differ between machines.

mod catalogue;
mod files;

use std::collections::HashSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stem_core::backend::modules::{
    Assigned, History, LOOSE_TTL, ModuleStore, Pushed, Removed, check_module, check_push,
};
use stem_core::backend::{BackendError, Health, ServiceId};
use stem_core::id::{Digest, TaskName};
use stem_core::release::{Assignment, Catalogue, Push, Release, Rollout, Shelves};
use stem_core::time::{Clock, Timestamp};
use tokio::sync::Notify;

use crate::fault::Fault;
use crate::lock::Lock;
use crate::place::{self, Stamp};

/// Between two looks at the catalogue's metadata, which take microseconds.
const LOOK: Duration = Duration::from_millis(100);

/// Which directory, and how.
#[derive(Clone, Debug)]
pub struct ModuleDirectoryOptions {
    /// The directory. The first module that is stored makes it, for this user only; what it lies in must exist.
    pub path: PathBuf,
    /// Gives times of pushes, decides which bytes are loose for long.
    pub clock: Arc<dyn Clock>,
    /// How long a change waits for other processes.
    pub lock_timeout: Duration,
}

/// Modules in a directory. Several in one process, and several processes, may have the same one.
pub struct ModuleDirectory {
    inner: Arc<Inner>,
    patience: Duration,
    /// One change at a time: they would wait for each other at the lock anyway.
    changing: Arc<tokio::sync::Mutex<()>>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    service: ServiceId,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// The catalogue as it was read last, and of which file.
    known: Mutex<Option<(Stamp, Arc<Shelves>)>>,
}

impl fmt::Debug for ModuleDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleDirectory").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl ModuleDirectory {
    /// Does not look at the directory: whether it can be used is each call's answer.
    pub fn open(options: ModuleDirectoryOptions) -> Arc<Self> {
        let ModuleDirectoryOptions { path, clock, lock_timeout } = options;
        let path = std::path::absolute(&path).unwrap_or(path);
        let service = ServiceId(format!("file://{}", path.display()));
        Arc::new(Self {
            inner: Arc::new(Inner { service, path, clock, known: Mutex::default() }),
            patience: lock_timeout,
            changing: Arc::default(),
            changed: Notify::new(),
        })
    }

    /// The directory, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Does blocking work, which runs to its end also if the caller goes away.
    async fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Inner) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, BackendError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(Fault::lost(&error)))
            .map_err(|fault| fault.during(&self.inner.service, action))
    }

    /// The same for a change, under the lock.
    async fn change<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Inner) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, BackendError> {
        let deadline = Instant::now() + self.patience;
        let waiting = Arc::clone(&self.changing).lock_owned();
        let turn = tokio::time::timeout_at(deadline.into(), waiting).await.map_err(|_| {
            let millis = self.patience.as_millis();
            Fault::transient(format!("another call here has kept it for {millis} ms"))
                .during(&self.inner.service, action)
        })?;
        let done = self.call(action, move |inner| {
            let _turn = turn;
            inner.directory()?;
            let _lock = Lock::for_writing(&inner.catalogue_path(), deadline)?;
            work(inner)
        });
        let done = done.await;
        self.changed.notify_waiters();
        done
    }
}

impl Inner {
    fn catalogue_path(&self) -> PathBuf {
        self.path.join("catalogue.json")
    }

    fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let text = digest.to_string();
        self.blobs().join(text.strip_prefix("sha256:").unwrap_or(&text))
    }

    /// The mode of files in it: open to read for whom the directory is.
    fn directory(&self) -> Result<u32, Fault> {
        Ok(files::directory(&self.path, "the directory")?.mode() & 0o444 | 0o600)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<(Stamp, Arc<Shelves>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every release, as the catalogue has it now.
    fn shelves(&self) -> Result<Arc<Shelves>, Fault> {
        self.directory()?;
        let path = self.catalogue_path();
        let stamp = Stamp::at(&path).map_err(|error| Fault::io("its catalogue", error))?;
        let known = self.known().clone();
        let (Some(stamp), known) = (stamp, known) else {
            // Were this an empty answer, a directory that was lost would look like one in which nothing serves.
            return match self.known().as_ref() {
                Some(_) => Err(Fault::transient("its catalogue is gone; put it back")),
                None => Ok(Arc::default()),
            };
        };
        if let Some((known, shelves)) = known
            && known == stamp
        {
            return Ok(shelves);
        }
        let (stamp, shelves) = catalogue::read(&path)?;
        let shelves = Arc::new(shelves);
        *self.known() = Some((stamp, Arc::clone(&shelves)));
        Ok(shelves)
    }

    /// Writes what has become of the catalogue, then takes away the bytes that nobody names any more.
    fn write(&self, shelves: Shelves, gone: &[Release], now: Timestamp) -> Result<(), Fault> {
        let path = self.catalogue_path();
        let stamp = catalogue::write(&path, &shelves, self.directory()?)?;
        self.sweep(&shelves, gone, now);
        *self.known() = Some((stamp, Arc::new(shelves)));
        Ok(())
    }

    /// What cannot be removed now is looked at again by the next.
    fn sweep(&self, shelves: &Shelves, gone: &[Release], now: Timestamp) {
        let releases = shelves.names.values().flat_map(|shelf| &shelf.releases);
        let needed: HashSet<PathBuf> = releases.map(|it| self.blob(&it.digest)).collect();
        let gone: HashSet<PathBuf> = gone.iter().map(|it| self.blob(&it.digest)).collect();
        let loose = |path: &Path, put_at: Timestamp| {
            !needed.contains(path) && (gone.contains(path) || now.since(put_at) >= LOOSE_TTL)
        };
        for folder in [&self.blobs(), &self.path] {
            if let Err(error) = files::sweep(folder, loose) {
                tracing::debug!(%error, "bytes of modules were not removed");
            }
        }
    }

    fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Fault> {
        files::make(&self.path, 0o700)?;
        let mode = self.directory()?;
        let blobs = self.blobs();
        // Who may list the one may list the other.
        files::make(&blobs, mode | (mode & 0o444) >> 2)?;
        files::directory(&blobs, "its folder blobs")?;
        let now = files::system_time(self.clock.now());
        files::replace(&self.blob(digest), bytes, mode, now)
    }

    fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Fault> {
        self.directory()?;
        let blobs = self.blobs();
        if !files::is_there(&blobs)? {
            return Ok(None);
        }
        files::directory(&blobs, "its folder blobs")?;
        files::read(&self.blob(digest), "the module", stem_core::backend::modules::MODULE_BYTES)
    }

    fn health(&self) -> Result<Health, Fault> {
        let about = files::directory(&self.path, "the directory")?;
        place::check_writable("the directory", &about)?;
        files::check_access(&self.path)?;
        let shelves = self.shelves()?;
        let releases: usize = shelves.names.values().map(|shelf| shelf.releases.len()).sum();
        let (path, mode) = (self.path.display(), about.mode() & 0o777);
        let open = mode & 0o020 != 0;
        let warning = open.then(|| {
            format!("{path} can be changed by its group (mode {mode:03o}): chmod g-w {path}")
        });
        Ok(Health {
            service: self.service.0.clone(),
            detail: format!("directory {path}, {} names, {releases} releases", shelves.names.len()),
            warnings: warning.into_iter().collect(),
        })
    }
}

#[async_trait]
impl ModuleStore for ModuleDirectory {
    fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    async fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BackendError> {
        check_module(&self.inner.service, bytes)?;
        let (digest, bytes) = (*digest, bytes.to_vec());
        self.call("store a module", move |inner| inner.put(&digest, &bytes)).await
    }

    async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BackendError> {
        let digest = *digest;
        self.call("read a module", move |inner| inner.get(&digest)).await
    }

    async fn push(&self, push: &Push, rollout: Rollout) -> Result<Pushed, BackendError> {
        check_push(&self.inner.service, push)?;
        let push = push.clone();
        self.change("push a release", move |inner| {
            if !files::is_there(&inner.blob(&push.digest))? {
                return Ok(Pushed::NoSuchModule);
            }
            let now = inner.clock.now();
            let mut shelves = Shelves::clone(&*inner.shelves()?);
            let before = shelves.revision;
            let shelved = shelves.push(&push, rollout, now);
            if shelves.revision != before {
                inner.write(shelves, &shelved.gone, now)?;
            }
            Ok(Pushed::Release(shelved.release))
        })
        .await
    }

    async fn assign(
        &self,
        name: &TaskName,
        seen: Option<Assignment>,
        assignment: Option<Assignment>,
    ) -> Result<Assigned, BackendError> {
        let name = name.clone();
        self.change("change what serves", move |inner| {
            let now = inner.clock.now();
            let mut shelves = Shelves::clone(&*inner.shelves()?);
            let before = shelves.revision;
            let assigned = shelves.assign(&name, seen, assignment, now);
            if shelves.revision != before {
                inner.write(shelves, &[], now)?;
            }
            Ok(assigned)
        })
        .await
    }

    async fn remove(&self, name: &TaskName, version: u32) -> Result<Removed, BackendError> {
        let name = name.clone();
        self.change("remove a release", move |inner| {
            let now = inner.clock.now();
            let mut shelves = Shelves::clone(&*inner.shelves()?);
            match shelves.remove(&name, version, now) {
                Err(why) => Ok(why),
                Ok(release) => inner.write(shelves, &[release], now).map(|()| Removed::Done),
            }
        })
        .await
    }

    async fn history(&self, name: &TaskName) -> Result<Option<History>, BackendError> {
        let name = name.clone();
        self.call("list releases", move |inner| Ok(inner.shelves()?.history(&name))).await
    }

    async fn catalogue(&self) -> Result<Catalogue, BackendError> {
        self.call("list what serves", |inner| Ok(inner.shelves()?.catalogue())).await
    }

    async fn changed(&self, seen: u64, wait: Duration) -> Result<(), BackendError> {
        let deadline = Instant::now() + wait;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = self.call("follow releases", |inner| Ok(inner.shelves()?.revision)).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if now != seen || left.is_zero() {
                return Ok(());
            }
            // Whichever comes first, the next look tells.
            let _ = tokio::time::timeout(LOOK.min(left), changed).await;
        }
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.call("look after the directory", Inner::health).await
    }
}
