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
use tokio::sync::{Notify, OnceCell, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::writer::Topics;
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

/// A change this recent may have come between the caller's own look and its wait.
const RECENT: Duration = Duration::from_millis(25);

/// What a waiter waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Topic {
    Work,
    Records,
    Revocations,
    Control,
}

/// One generation for each topic, with the time of its change.
#[derive(Clone)]
pub(super) struct Bells(Arc<[watch::Sender<Instant>; 4]>);

impl Bells {
    fn new() -> Self {
        Self(Arc::new(std::array::from_fn(|_| watch::Sender::new(Instant::now()))))
    }

    /// Wakes whoever waits for one of these.
    pub(super) fn ring(&self, topics: Topics) {
        for (index, bell) in self.0.iter().enumerate() {
            if topics.0 & (1 << index) != 0 {
                bell.send_replace(Instant::now());
            }
        }
    }
}

/// A waiter's view of one topic.
pub(super) struct News(watch::Receiver<Instant>);

impl News {
    /// What came until now is known.
    pub(super) fn seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits for what was not [seen](Self::seen), at most `wait`.
    pub(super) async fn wait(&mut self, wait: Duration) {
        // The sender lives as long as the database that the caller holds; time running out is no news.
        let _ = tokio::time::timeout(wait, self.0.changed()).await;
    }

    /// Waits for a caller that does not say what it has seen: after a recent change it waits only a little.
    pub(super) async fn wait_loosely(&mut self, wait: Duration) {
        let changed = *self.0.borrow_and_update();
        let recent = changed.elapsed() < RECENT;
        self.wait(if recent { wait.min(RECENT) } else { wait }).await;
    }
}

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
        Ok(News(self.bells.0[topic as usize].subscribe()))
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
