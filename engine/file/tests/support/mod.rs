//! What the tests of this folder share.
#![allow(dead_code, reason = "each file of tests uses a part")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use stem_core::backend::{BackendError, RevokeStore};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::time::{Clock, Timestamp};
use stem_file::{FileStore, FileStoreOptions};

/// The system's.
#[derive(Debug)]
pub(crate) struct Wall;

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_unix_millis(i64::try_from(now.as_millis()).unwrap())
    }
}

pub(crate) fn with(path: &Path, clock: Arc<dyn Clock>, lock_timeout: Duration) -> Arc<FileStore> {
    FileStore::open(FileStoreOptions { path: path.to_owned(), clock, lock_timeout })
}

pub(crate) fn store(path: &Path) -> Arc<FileStore> {
    with(path, Arc::new(Wall), Duration::from_secs(10))
}

pub(crate) fn space() -> Namespace {
    Namespace::new("n").unwrap()
}

pub(crate) fn task(text: &str) -> TaskId {
    TaskId::new(text).unwrap()
}

pub(crate) async fn revoke(store: &FileStore, id: &str) -> Result<Revocation, BackendError> {
    let asked = [(task(id), RevokeRequest::default())];
    store.revoke(&space(), &asked).await.map(|mut stored| stored.remove(0))
}

pub(crate) async fn listed(store: &FileStore) -> Result<Vec<RevocationChange>, BackendError> {
    store.since(&space(), Version(0), usize::MAX).await
}

/// The tasks that are revoked, in order.
pub(crate) async fn tasks(store: &FileStore) -> Result<Vec<String>, BackendError> {
    Ok(listed(store).await?.iter().map(|change| change.task().to_string()).collect())
}

/// A directory without a disk where there is one: thousands of small files are made there.
pub(crate) fn place() -> (tempfile::TempDir, PathBuf) {
    let shared = Path::new("/dev/shm");
    let directory = if shared.is_dir() {
        tempfile::tempdir_in(shared).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    };
    let path = directory.path().join("revokes");
    (directory, path)
}

/// A file of so many records of many kinds, and what they are.
pub(crate) async fn file_of(path: &Path, count: usize) -> Vec<RevocationChange> {
    made(path, count).await;
    listed(&store(path)).await.unwrap()
}

/// Makes a file of so many records of many kinds: each change of it, a line each, as it was acknowledged.
pub(crate) async fn made(path: &Path, count: usize) -> Vec<RevocationChange> {
    let store = store(path);
    let mut made = Vec::new();
    for n in 0..count {
        let request = RevokeRequest {
            terminate: n % 2 == 0,
            cooperative: n % 3 == 0,
            grace_ms: (n % 5 == 0).then_some(1_500),
            reason: (n % 4 == 0).then(|| format!("größer \"than\" {{{n}}}\n\\")),
            requested_by: (n % 7 == 0).then(|| "ops".to_owned()),
            expires_at: (n % 6 == 0).then(|| {
                Timestamp::from_unix_millis(4_000_000_000_000 + i64::try_from(n).unwrap())
            }),
        };
        let task = task(&format!("t{n}"));
        let stored = store.revoke(&space(), &[(task.clone(), request)]).await.unwrap();
        made.extend(stored.into_iter().map(RevocationChange::Revoked));
        if n % 10 == 9 {
            let version = store.undo(&space(), &task).await.unwrap().unwrap();
            made.push(RevocationChange::Undone { task, version });
        }
    }
    made
}

/// What is to be listed after these changes: the last one of each task.
pub(crate) fn in_force(made: &[RevocationChange]) -> Vec<RevocationChange> {
    let last = |at: usize| made[at + 1..].iter().all(|later| later.task() != made[at].task());
    (0..made.len()).filter(|at| last(*at)).map(|at| made[at].clone()).collect()
}

/// What one record of a file's bytes would be without the others.
pub(crate) fn lines(content: &[u8]) -> Vec<&[u8]> {
    content.split_inclusive(|byte| *byte == b'\n').collect()
}

/// The number in "line 12 (byte 340)".
pub(crate) fn line_of(error: &BackendError) -> usize {
    let text = error.to_string();
    let (_, rest) = text.split_once("line ").unwrap_or_else(|| panic!("no line: {text}"));
    assert!(rest.contains("(byte "), "no offset: {text}");
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// All warnings of this process. Tests tell theirs by the path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn start() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
            log
        })
        .clone()
    }

    /// Takes the lines about a path.
    pub(crate) fn about(&self, path: &Path) -> Vec<String> {
        let mut log = self.0.lock().unwrap();
        let all = String::from_utf8(std::mem::take(&mut *log)).unwrap();
        let path = path.display().to_string();
        let (ours, others): (Vec<_>, Vec<_>) = all.lines().partition(|line| line.contains(&path));
        for line in others {
            writeln!(log, "{line}").unwrap();
        }
        ours.into_iter().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The bytes of the file.
pub(crate) fn content(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}
