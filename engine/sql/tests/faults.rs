//! Files that cannot be used, and files that another process uses: each a clear message and the right class.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, raw_sql};
use stem_conformance::{Backends, ManualClock};
use stem_core::backend::broker::ReceiveRequest;
use stem_core::backend::buckets::{Buckets, Changed, When};
use stem_core::backend::result::{RecordFilter, ResultBackend};
use stem_core::backend::revoke::RevokeStore;
use stem_core::backend::{BackendError, Broker, ErrorClass, ModuleStore, Records};
use stem_core::envelope::{Envelope, Payload, wire};
use stem_core::id::{Digest, Incarnation, Namespace, QueueName, TaskId, TaskName, WorkerId};
use stem_core::machine::share::Shares;
use stem_core::revoke::{RevokeRequest, Version};
use stem_core::tenant::Tenant;
use stem_core::time::{Clock, Timestamp};
use stem_sql::{Sqlite, SqliteOptions};

const PATIENCE: Duration = Duration::from_millis(150);
/// For who must get the lock, however busy the machine is.
const LONG: Duration = Duration::from_mins(1);

async fn open(path: &Path, create: bool) -> Result<Arc<Sqlite>, BackendError> {
    open_with(path, create, PATIENCE).await
}

async fn open_with(
    path: &Path,
    create: bool,
    busy_timeout: Duration,
) -> Result<Arc<Sqlite>, BackendError> {
    let clock = ManualClock::new();
    Sqlite::open(SqliteOptions { path: path.to_owned(), clock, create, busy_timeout }).await
}

/// The machine's clock.
#[derive(Debug)]
struct Machine;

impl Clock for Machine {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
    }
}

/// The error of opening, which must name the file.
async fn refusal(path: &Path) -> BackendError {
    let error = open(path, true).await.unwrap_err();
    assert!(error.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    println!("{error}");
    error
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stem.db");
    (directory, path)
}

async fn revoke(store: &Sqlite, id: &str) -> Result<(), BackendError> {
    let request = [(TaskId::new(id).unwrap(), RevokeRequest::default())];
    store.revoke(&Namespace::new("n").unwrap(), &request).await.map(|_| ())
}

async fn revoked(store: &Sqlite) -> usize {
    store.since(&Namespace::new("n").unwrap(), Version(0), 100).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_open_a_new_file_at_once_all_get_in() {
    for _ in 0..30 {
        let (_directory, path) = place();
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let path = path.clone();
            opening.spawn(async move { open_with(&path, true, LONG).await.map(drop) });
        }
        while let Some(opened) = opening.join_next().await {
            opened.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_new_file_and_its_directories_are_for_this_user_only() {
    let (directory, _) = place();
    let path = directory.path().join("state/stem/stem.db");
    let store = open(&path, true).await.unwrap();
    revoke(&store, "t").await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&path.with_file_name("stem.db-wal")), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(path.parent().unwrap().parent().unwrap()), 0o700);
}

#[tokio::test]
async fn one_file_is_one_service_by_whatever_path() {
    let (directory, path) = place();
    let store = Backends::of(open(&path, true).await.unwrap());
    let detour = directory.path().join("../").join(directory.path().file_name().unwrap());
    let other = Backends::of(open(&detour.join("stem.db"), true).await.unwrap());
    assert_eq!(store.broker.service(), other.broker.service());
    let health = store.broker.health().await.unwrap();
    println!("{health:?}");
    assert!(health.detail.ends_with("WAL, synchronous=FULL") && health.warnings.is_empty());
}

#[tokio::test]
async fn a_missing_file_is_refused_unless_it_may_be_made() {
    let (_directory, path) = place();
    let error = open(&path, false).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_read_only_file_is_refused() {
    let (_directory, path) = place();
    drop(open(&path, true).await.unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let error = refusal(&path).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("read-only"), "{error}");
}

#[tokio::test]
async fn a_read_only_directory_is_refused() {
    let (directory, path) = place();
    drop(open(&path, true).await.unwrap());
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(refusal(&path).await.class(), ErrorClass::Refused);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn a_directory_in_place_of_a_file_is_refused() {
    let (_directory, path) = place();
    fs::create_dir(&path).unwrap();
    assert_eq!(refusal(&path).await.class(), ErrorClass::Refused);
}

#[tokio::test]
async fn a_garbage_file_is_corrupt_and_stays_as_it_is() {
    let (_directory, path) = place();
    let garbage = b"this is no database, whatever its name says\n".repeat(200);
    fs::write(&path, &garbage).unwrap();
    assert_eq!(refusal(&path).await.class(), ErrorClass::Corrupt);
    assert_eq!(fs::read(&path).unwrap(), garbage);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let (_directory, path) = place();
    let mut conn = raw(&path).await;
    raw_sql("CREATE TABLE theirs (x)").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let error = refusal(&path).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("another program"), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_stem_is_refused() {
    let (_directory, path) = place();
    drop(open(&path, true).await.unwrap());
    let mut conn = raw(&path).await;
    raw_sql("PRAGMA user_version = 99").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let error = refusal(&path).await;
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("newer Stem"), "{error}");
}

#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date() {
    let (_directory, path) = place();
    fs::write(&path, "").unwrap();
    let mut conn = raw(&path).await;
    raw_sql(include_str!("../migrations/sqlite/0001_initial.sql"))
        .execute(&mut conn)
        .await
        .unwrap();
    raw_sql(
        "INSERT INTO queues (name) VALUES ('old');
         INSERT INTO tasks (id, name, queue, state, max_retries, enqueued_at) VALUES ('t', 'job', 'old', 'queued', 0, 0);
         INSERT INTO deliveries (seq, task, queue, name, phase, priority, at) VALUES (1, 'waiting', 'old', 'job', 0, 5, 0);
         PRAGMA application_id = 0x5374656d; PRAGMA user_version = 1",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let (name, queue) = (TaskName::new("job").unwrap(), QueueName::new("old").unwrap());
    let (id, at) = (TaskId::new("waiting").unwrap(), Timestamp::from_unix_millis(0));
    let waiting = Envelope::new(id, name.clone(), queue.clone(), Payload::json("1"), at);
    sqlx::query("INSERT INTO envelopes (seq, wire) VALUES (1, ?1)")
        .bind(wire::encode(&waiting))
        .execute(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
    let store = open(&path, false).await.unwrap();
    let (tenants, from) = (BTreeMap::new(), Tenant::UNNAMED);
    let shares = Shares { queues: BTreeMap::new(), tenants, others: 1, from };
    let request = ReceiveRequest {
        queues: vec![queue],
        names: [name].into(),
        max: 5,
        lease: Duration::from_secs(1),
        owner: Incarnation(uuid::Uuid::from_u128(1)),
        worker: WorkerId::new("w").unwrap(),
        wait: Duration::ZERO,
        records: Records::Here,
        shares: Some(Arc::new(shares)),
    };
    let taken = store.receive(&request).await.unwrap();
    assert_eq!((&taken[0].envelope, &taken[0].tenant), (&waiting, &Tenant::UNNAMED));
    assert_eq!(store.queues().await.unwrap()[0].name.as_str(), "old");
    store.put(&Digest([1; 32]), b"module").await.unwrap();
    assert_eq!(store.catalogue().await.unwrap().revision, 0);
    store.write("b", "k", b"x", When::Absent, None).await.unwrap();
    assert!(store.read("b", "k").await.unwrap().is_some());
    let record = store.fetch(&TaskId::new("t").unwrap()).await.unwrap().unwrap();
    assert_eq!((record.parent_id, record.root_id), (None, None));
}

/// A newer Stem may add to a table while this one has the file open, and has asked for the whole of its rows.
#[tokio::test]
async fn a_column_that_is_added_meanwhile_disturbs_nobody() {
    let (_directory, path) = place();
    let store = open(&path, true).await.unwrap();
    let mut conn = raw(&path).await;
    let task = TaskId::new("t").unwrap();
    raw_sql("INSERT INTO tasks (id, name, queue, state, max_retries, enqueued_at) VALUES ('t', 'job', 'q', 'queued', 0, 0)")
        .execute(&mut conn)
        .await
        .unwrap();
    let before = store.fetch(&task).await.unwrap().unwrap();
    raw_sql("ALTER TABLE tasks ADD COLUMN future TEXT; UPDATE tasks SET future = 'x'")
        .execute(&mut conn)
        .await
        .unwrap();
    for _ in 0..8 {
        assert_eq!(store.fetch(&task).await.unwrap().unwrap(), before);
        assert_eq!(
            store.list(&RecordFilter { limit: 9, ..RecordFilter::default() }).await.unwrap().len(),
            1
        );
    }
}

#[tokio::test]
async fn where_a_task_came_from_goes_with_its_record() {
    let (_directory, path) = place();
    let store = open(&path, true).await.unwrap();
    let id = |text: &str| TaskId::new(text).unwrap();
    let (name, queue) = (TaskName::new("job").unwrap(), QueueName::new("q").unwrap());
    let now = Timestamp::from_unix_millis(0);
    let child = Envelope {
        parent_id: Some(id("parent")),
        ..Envelope::new(id("child"), name, queue, Payload::json("1"), now)
    };
    store.record_queued(&[child]).await.unwrap();
    let record = store.fetch(&id("child")).await.unwrap().unwrap();
    assert_eq!(record.parent_id, Some(id("parent")));
    let mut conn = raw(&path).await;
    // As a process does that knows nothing of families.
    raw_sql("DELETE FROM tasks").execute(&mut conn).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM families").fetch_one(&mut conn).await.unwrap();
    assert_eq!(left, 0);
}

/// Whoever holds the version of a value that a restored file does not know must not meet another value under it.
#[tokio::test]
async fn a_file_that_was_restored_gives_no_version_of_a_value_out_again() {
    let (directory, path) = place();
    let clock = ManualClock::new();
    let open = async |path: &Path| {
        let (path, clock) = (path.to_owned(), Arc::clone(&clock) as Arc<dyn Clock>);
        let options = SqliteOptions { path, clock, create: true, busy_timeout: PATIENCE };
        Sqlite::open(options).await.unwrap()
    };
    let write = async |store: &Sqlite, value: &[u8]| match store
        .write("b", "k", value, When::Always, None)
        .await
        .unwrap()
    {
        Changed::Done(version) => version,
        other => panic!("{other:?}"),
    };
    let store = open(&path).await;
    write(&store, b"one").await;
    let copy = directory.path().join("copy.db");
    let backup = format!("VACUUM INTO '{}'", copy.display());
    raw_sql(AssertSqlSafe(backup)).execute(&mut raw(&path).await).await.unwrap();
    let lost = write(&store, b"two").await;
    clock.advance(Duration::from_millis(1));
    let restored = open(&copy).await;
    assert_eq!(restored.read("b", "k").await.unwrap().unwrap().value, b"one");
    assert!(write(&restored, b"three").await > lost);
}

#[tokio::test]
async fn a_locked_database_is_transient_within_its_patience_and_heals() {
    let (_directory, path) = place();
    let store = open(&path, true).await.unwrap();
    let mut other = raw(&path).await;
    raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let started = Instant::now();
    let error = revoke(&store, "t").await.unwrap_err();
    let took = started.elapsed();
    println!("after {took:?}: {error}");
    assert_eq!(error.class(), ErrorClass::Transient);
    // A store has 30 s unless it is told otherwise.
    assert!(took >= PATIENCE && took < PATIENCE + Duration::from_secs(20), "{took:?}");
    // Reading and opening need no lock.
    assert_eq!(revoked(&store).await, 0);
    drop(open(&path, true).await.unwrap());
    raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    revoke(&store, "t").await.unwrap();
    assert_eq!(revoked(&store).await, 1);
}

#[tokio::test]
async fn a_write_that_waited_for_the_lock_happens_when_it_is_free() {
    let (_directory, path) = place();
    let store = open_with(&path, true, LONG).await.unwrap();
    let mut other = raw(&path).await;
    raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { revoke(&store, "t").await }
    });
    tokio::time::sleep(PATIENCE / 3).await;
    assert!(!writing.is_finished());
    raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn many_processes_may_open_a_new_file_at_once() {
    let (_directory, path) = place();
    let mut opening = Vec::new();
    for _ in 0..8 {
        let options = SqliteOptions {
            path: path.clone(),
            clock: ManualClock::new(),
            create: true,
            busy_timeout: LONG,
        };
        opening.push(tokio::spawn(Sqlite::open(options)));
    }
    for (index, opened) in opening.into_iter().enumerate() {
        revoke(&opened.await.unwrap().unwrap(), &format!("t{index}")).await.unwrap();
    }
    assert_eq!(revoked(&open(&path, true).await.unwrap()).await, 8);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let (directory, path) = place();
    let store = open(&path, true).await.unwrap();
    for n in 0..20 {
        revoke(&store, &format!("t{n}")).await.unwrap();
    }
    // What the disk holds at this moment is what a killed process leaves behind.
    let after = directory.path().join("after.db");
    fs::copy(&path, &after).unwrap();
    fs::copy(path.with_file_name("stem.db-wal"), after.with_file_name("after.db-wal")).unwrap();
    assert_eq!(revoked(&open(&after, false).await.unwrap()).await, 20);
    let mut conn = raw(&after).await;
    let check: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut conn).await.unwrap();
    assert_eq!(check, "ok");
}

/// A copy of a file is what a backup restores.
#[tokio::test]
async fn an_older_copy_gives_no_version_out_again() {
    let (directory, path) = place();
    let older = directory.path().join("older.db");
    let open = |path: &Path| {
        let (path, clock) = (path.to_owned(), Arc::new(Machine));
        Sqlite::open(SqliteOptions { path, clock, create: true, busy_timeout: PATIENCE })
    };
    let original = open(&path).await.unwrap();
    revoke(&original, "before").await.unwrap();
    let copy = format!("VACUUM INTO '{}'", older.display());
    raw_sql(sqlx::AssertSqlSafe(copy)).execute(&mut raw(&path).await).await.unwrap();
    for n in 0..20 {
        revoke(&original, &format!("t{n}")).await.unwrap();
    }
    let space = Namespace::new("n").unwrap();
    let seen = original.since(&space, Version(0), 100).await.unwrap().last().unwrap().version();
    // By the clock in milliseconds: the next one.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let restored = open(&older).await.unwrap();
    revoke(&restored, "after").await.unwrap();
    let changes = restored.since(&space, seen, 10).await.unwrap();
    assert_eq!(changes.len(), 1, "whoever has followed the original sees what the copy revokes");
}
