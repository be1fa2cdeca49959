//! Waking up when this or another process has committed, without polling the database at rest.
//!
//! Commits of this process ring at once. For those of others, inotify (or what the system has) reports what happens to the
//! file. After a commit that others may wait for, its writer *tells* of it: it sets the file's times to now, and that
//! report means that the commit can be seen. A report of a write to the file or its log comes earlier than that, and also from
//! writers that tell nothing; it starts a short series of looks. Each look is at `PRAGMA data_version`, which changes
//! when another connection has committed. A slow look that always runs covers reports that are lost; where reports prove
//! to be missing, as on some network file systems, it becomes a fast one. A report without a commit costs one look, and `pace` bounds those.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{Notify, OnceCell};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::pace::Pace;
use crate::bells::{Bells, LOOK_AGAIN, News, Topic, Topics};
use crate::fault::Fault;

/// Looks after a report of a write, in milliseconds from one to the next: 256 ms in all, more than a commit takes on a
/// slow disk.
const LOOKS: [u64; 4] = [2, 6, 24, 224];

/// The look that always runs. Waiters look by themselves as often.
const AT_REST: Duration = LOOK_AGAIN;

/// The same where writes are not reported.
const UNREPORTED: Duration = Duration::from_millis(25);

/// So many commits in a row that nothing was reported of mean that reports are not made here.
const MISSED: u32 = 3;

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

    /// For the writer.
    pub(super) fn herald(&self) -> Herald {
        let calling = Arc::new(AtomicBool::new(false));
        Herald { path: self.path.clone().into(), bells: self.bells.clone(), calling }
    }

    /// From the return on, no commit goes unnoticed.
    pub(super) async fn subscribe(&self, topic: Topic) -> Result<News, Fault> {
        let follow = || follow(&self.path, &self.settings, self.bells.clone());
        self.follower.get_or_try_init(follow).await?;
        Ok(self.bells.listen(topic))
    }
}

/// Tells this process and the others of commits.
pub(super) struct Herald {
    path: Arc<Path>,
    bells: Bells,
    /// Whether the others will be told by a call that has not begun.
    calling: Arc<AtomicBool>,
}

impl Herald {
    /// Tells of a commit that can be seen by now.
    pub(super) fn tell(&self, topics: Topics) {
        if topics == Topics::NONE {
            return;
        }
        self.bells.ring(topics);
        if self.calling.swap(true, Ordering::AcqRel) {
            return;
        }
        let (path, calling) = (Arc::clone(&self.path), Arc::clone(&self.calling));
        // A disk that is stuck may hold it up.
        tokio::task::spawn_blocking(move || {
            calling.store(false, Ordering::Release);
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            // Both, since a new time of change alone would be reported as a write. By path: opening the file and closing it
            // would drop this process's locks on it.
            let times = Timestamps { last_access: now, last_modification: now };
            if let Err(error) = utimensat(CWD, &*path, &times, AtFlags::empty()) {
                tracing::debug!(%error, "other processes were not told of a commit; they look");
            }
        });
    }
}

/// What was reported since it was last asked.
#[derive(Default)]
struct Reports {
    told: AtomicBool,
    came: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    /// A commit can be seen.
    Told,
    /// Something was written.
    Written,
}

impl Reports {
    fn add(&self, report: Report) {
        if report == Report::Told {
            self.told.store(true, Ordering::Release);
        }
        self.came.notify_one();
    }

    /// The next, or `None` if there is none until then.
    async fn until(&self, at: Instant) -> Option<Report> {
        tokio::time::timeout_at(at, self.came.notified()).await.ok()?;
        let told = self.told.swap(false, Ordering::AcqRel);
        Some(if told { Report::Told } else { Report::Written })
    }
}

async fn follow(
    path: &Path,
    settings: &SqliteConnectOptions,
    bells: Bells,
) -> Result<Follower, Fault> {
    let reports = Arc::new(Reports::default());
    let watcher = watch(path, Arc::clone(&reports));
    let mut conn = settings.connect().await?;
    let version = data_version(&mut conn).await?;
    let task = tokio::spawn(run(conn, version, watcher, reports, bells));
    Ok(Follower(task.abort_handle()))
}

/// Reports what happens to the file and its log; `None` where the system cannot.
fn watch(path: &Path, reports: Arc<Reports>) -> Option<RecommendedWatcher> {
    let directory = path.parent()?;
    let file = path.file_name()?.to_owned();
    let mut log = file.clone();
    log.push("-wal");
    let on_event = move |event: notify::Result<notify::Event>| {
        // What was lost may have been the word of a commit.
        let Ok(event) = event else { return reports.add(Report::Told) };
        if event.need_rescan() {
            return reports.add(Report::Told);
        }
        let of = |name| event.paths.iter().any(|path| path.file_name() == Some(name));
        match event.kind {
            EventKind::Access(_) => {}
            EventKind::Modify(ModifyKind::Metadata(_)) if of(&file) => reports.add(Report::Told),
            _ if of(&file) || of(&log) => reports.add(Report::Written),
            _ => {}
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
    reports: Arc<Reports>,
    bells: Bells,
) {
    let mut missed = if watcher.is_some() { 0 } else { MISSED };
    let mut pace = Pace::default();
    let mut looks = [].iter();
    let mut next = Instant::now();
    loop {
        let report = reports.until(pace.owed().map_or(next, |owed| next.min(owed))).await;
        let now = Instant::now();
        // Here and below: what is due is not put off, however fast reports come.
        bells.ring(pace.pay(now));
        match report {
            Some(Report::Written) => {
                missed = 0;
                looks = LOOKS.iter();
                if now < next {
                    let first = looks.next().copied().unwrap_or_default();
                    next = next.min(now + Duration::from_millis(first));
                    continue;
                }
            }
            Some(Report::Told) => {
                missed = 0;
                looks = [].iter();
            }
            None if now < next => continue,
            None => {}
        }
        let at_rest = if missed < MISSED { AT_REST } else { UNREPORTED };
        let unasked = report.is_none() && looks.len() == 0;
        next = now + looks.next().map_or(at_rest, |look| Duration::from_millis(*look));
        match data_version(&mut conn).await {
            Ok(now) if now == version => {}
            Ok(now) => {
                version = now;
                missed = missed.saturating_add(u32::from(unasked));
                bells.ring(pace.ring(Instant::now()));
            }
            Err(error) => {
                // Waiters look by themselves every second, so a database that is away now is only slower news.
                tracing::debug!(%error, "looking for changes failed");
                tokio::time::sleep(AT_REST).await;
            }
        }
        if let Some(pause) = pace.look(now) {
            tokio::time::sleep(pause).await;
        }
    }
}

async fn data_version(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(conn).await
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::SystemTime;

    use sqlx::{Connection, Executor};

    use super::*;

    /// Bounds what would otherwise hang.
    const PATIENCE: Duration = Duration::from_mins(1);

    async fn database(directory: &tempfile::TempDir) -> (PathBuf, SqliteConnectOptions) {
        let path = directory.path().join("some.db");
        let settings = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
        let mut conn = settings.connect().await.unwrap();
        conn.execute("CREATE TABLE some (number INTEGER)").await.unwrap();
        conn.close().await.unwrap();
        (path, settings)
    }

    async fn commit(settings: &SqliteConnectOptions) {
        let mut conn = settings.connect().await.unwrap();
        conn.execute("INSERT INTO some VALUES (1)").await.unwrap();
        conn.close().await.unwrap();
    }

    #[tokio::test]
    async fn commits_of_a_writer_that_tells_nothing_ring_for_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let (path, settings) = database(&directory).await;
        let changes = Changes::new(path, settings.clone());
        for topic in
            [Topic::Work, Topic::Records, Topic::Revocations, Topic::Control, Topic::Modules]
        {
            let mut news = changes.subscribe(topic).await.unwrap();
            commit(&settings).await;
            assert!(news.wait(PATIENCE).await, "{topic:?}");
        }
    }

    #[tokio::test]
    async fn commits_ring_where_nothing_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let (_, settings) = database(&directory).await;
        for deaf in [None, Some(notify::recommended_watcher(|_| {}).unwrap())] {
            let bells = Bells::new();
            let mut conn = settings.connect().await.unwrap();
            let version = data_version(&mut conn).await.unwrap();
            let run = tokio::spawn(run(conn, version, deaf, Arc::default(), bells.clone()));
            for _ in 0..=MISSED {
                let mut news = bells.listen(Topic::Records);
                commit(&settings).await;
                assert!(news.wait(PATIENCE).await);
            }
            run.abort();
        }
    }

    /// A neighbour that writes without a pause, such as a large import, and whose reports never end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flood_of_reports_puts_no_look_off() {
        let directory = tempfile::tempdir().unwrap();
        let (_, settings) = database(&directory).await;
        for report in [Report::Written, Report::Told] {
            let (reports, bells) = (Arc::new(Reports::default()), Bells::new());
            let mut conn = settings.connect().await.unwrap();
            let version = data_version(&mut conn).await.unwrap();
            let deaf = notify::recommended_watcher(|_| {}).unwrap();
            let run =
                tokio::spawn(run(conn, version, Some(deaf), Arc::clone(&reports), bells.clone()));
            let over = Arc::new(AtomicBool::new(false));
            let flood = std::thread::spawn({
                let over = Arc::clone(&over);
                move || {
                    while !over.load(Ordering::Relaxed) {
                        reports.add(report);
                    }
                }
            });
            for topic in [Topic::Records, Topic::Control] {
                let mut news = bells.listen(topic);
                commit(&settings).await;
                assert!(news.wait(PATIENCE).await, "{report:?} {topic:?}");
            }
            over.store(true, Ordering::Relaxed);
            flood.join().unwrap();
            run.abort();
        }
    }

    #[tokio::test]
    async fn a_commit_is_told_to_others_by_the_times_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, settings) = database(&directory).await;
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let changes = Changes::new(path.clone(), settings);
        let herald = changes.herald();
        let mut news = changes.bells.listen(Topic::Control);
        herald.tell(Topics::CONTROL);
        assert!(news.wait(PATIENCE).await, "this process is told at once");
        let told = async {
            while fs::metadata(&path).unwrap().modified().unwrap() == long_ago {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        fs::remove_file(&path).unwrap();
        news.seen();
        herald.tell(Topics::CONTROL);
        assert!(news.wait(PATIENCE).await, "a file that is gone keeps nobody here from hearing");
    }

    #[tokio::test]
    async fn reports_add_up_to_the_one_that_says_most() {
        let reports = Reports::default();
        let soon = || Instant::now() + PATIENCE;
        reports.add(Report::Told);
        reports.add(Report::Written);
        assert_eq!(reports.until(soon()).await, Some(Report::Told));
        reports.add(Report::Written);
        assert_eq!(reports.until(soon()).await, Some(Report::Written));
        assert_eq!(reports.until(Instant::now()).await, None);
    }
}
