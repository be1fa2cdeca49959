//! Waking up when this or another process has committed, without polling the database at rest.
//!
//! Commits of this process ring at once. For those of others, inotify (or what the system has) reports writes to the
//! file and its log. The log is written *before* the commit can be seen, so a report starts a short series of looks at
//! `PRAGMA data_version`, which changes when another connection has committed. A slow look that always runs covers
//! reports that are lost and file systems that make none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{Notify, OnceCell};
use tokio::task::AbortHandle;

use crate::bells::{Bells, News, Topic, Topics};
use crate::fault::Fault;

/// Looks after a report, in milliseconds from one to the next: 256 ms in all, more than a commit takes on a slow disk.
const LOOKS: [u64; 10] = [0, 1, 1, 2, 4, 8, 16, 32, 64, 128];

/// The look that always runs.
const AT_REST: Duration = Duration::from_millis(500);

/// The same where writes are not reported.
const UNREPORTED: Duration = Duration::from_millis(25);

/// At least so long between two rings for other processes' commits, so that a busy neighbour does not make every
/// waiter look hundreds of times a second. The first ring after a pause is never late.
const GAP: Duration = Duration::from_millis(5);

/// News of one database. The follower of other processes starts with the first waiter, so that a program that only
/// enqueues does not pay for it.
pub(super) struct Changes {
    path: PathBuf,
    settings: SqliteConnectOptions,
    bells: Bells,
    follower: OnceCell<Follower>,
}

struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Changes {
    pub(super) fn new(path: PathBuf, settings: SqliteConnectOptions) -> Self {
        Self { path, settings, bells: Bells::new(), follower: OnceCell::new() }
    }

    pub(super) fn bells(&self) -> Bells {
        self.bells.clone()
    }

    /// From the return on, no commit goes unnoticed.
    pub(super) async fn subscribe(&self, topic: Topic) -> Result<News, Fault> {
        let follow = || follow(&self.path, &self.settings, self.bells.clone());
        self.follower.get_or_try_init(follow).await?;
        Ok(self.bells.listen(topic))
    }
}

async fn follow(
    path: &Path,
    settings: &SqliteConnectOptions,
    bells: Bells,
) -> Result<Follower, Fault> {
    let written = Arc::new(Notify::new());
    let watcher = reports(path, Arc::clone(&written));
    let mut conn = settings.connect().await?;
    let version = data_version(&mut conn).await?;
    let task = tokio::spawn(run(conn, version, watcher, written, bells));
    Ok(Follower(task.abort_handle()))
}

/// Reports writes to the file and its log; `None` where the system cannot.
fn reports(path: &Path, written: Arc<Notify>) -> Option<RecommendedWatcher> {
    let directory = path.parent()?;
    let file = path.file_name()?.to_owned();
    let mut log = file.clone();
    log.push("-wal");
    let on_event = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return written.notify_one() };
        let ours = event.paths.iter().any(|path| {
            path.file_name().is_some_and(|name| name == file.as_os_str() || name == log.as_os_str())
        });
        if ours && !matches!(event.kind, EventKind::Access(_)) {
            written.notify_one();
        }
    };
    let watching = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(|error| tracing::debug!(%error, "writes are not reported; looking often"))
        .ok()
}

async fn run(
    mut conn: SqliteConnection,
    mut version: i64,
    watcher: Option<RecommendedWatcher>,
    written: Arc<Notify>,
    bells: Bells,
) {
    let pause = if watcher.is_some() { AT_REST } else { UNREPORTED };
    loop {
        let reported = tokio::time::timeout(pause, written.notified()).await.is_ok();
        let mut left = if reported { LOOKS.iter() } else { LOOKS[..1].iter() };
        while let Some(look) = left.next() {
            let pause = Duration::from_millis(*look);
            if *look > 0 && tokio::time::timeout(pause, written.notified()).await.is_ok() {
                left = LOOKS[1..].iter();
            }
            match data_version(&mut conn).await {
                Ok(now) if now == version => {}
                Ok(now) => {
                    version = now;
                    bells.ring(Topics::ALL);
                    tokio::time::sleep(GAP).await;
                    // The report may have been of the next commit too, which is not visible yet.
                    left = LOOKS.iter();
                }
                Err(error) => {
                    // Waiters look by themselves every second, so a database that is away now is only slower news.
                    tracing::debug!(%error, "looking for changes failed");
                    tokio::time::sleep(AT_REST).await;
                    break;
                }
            }
        }
    }
}

async fn data_version(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(conn).await
}
