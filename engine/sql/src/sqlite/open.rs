//! Files and their modes, the settings of a connection, migrations.

use std::fs::{self, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, raw_sql};
use stem_core::backend::ErrorClass;
use tokio::time::Instant;

use super::error::is_busy;
use super::{DEADLINE, SqliteOptions, writer};
use crate::fault::Fault;

/// Says in the file's header that it is ours: "Stem" in ASCII.
const APPLICATION: i64 = 0x5374_656d;

/// Each brings a file from the version before to its own; the first is version 1.
const MIGRATIONS: [&str; 5] = [
    include_str!("../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../migrations/sqlite/0002_modules.sql"),
    include_str!("../../migrations/sqlite/0003_family.sql"),
    include_str!("../../migrations/sqlite/0004_tenants.sql"),
    include_str!("../../migrations/sqlite/0005_clock.sql"),
];

/// Reads at once. More would only take turns on the machine's cores.
const READERS: u32 = 4;

/// An open database.
pub(super) struct Opened {
    /// Without links and dots, so that equal files have equal names.
    pub(super) path: PathBuf,
    pub(super) settings: SqliteConnectOptions,
    pub(super) connection: SqliteConnection,
}

pub(super) async fn open(options: &SqliteOptions) -> Result<Opened, Fault> {
    let (path, create) = (options.path.clone(), options.create);
    let path = tokio::task::spawn_blocking(move || prepare_file(&path, create))
        .await
        .map_err(|_| Fault::new(ErrorClass::Transient, "the runtime is shutting down"))??;
    let settings = SqliteConnectOptions::new()
        .filename(&path)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        // SQLite's own temporary files would lie in a directory of its choice, which a hardened process cannot write to.
        .pragma("temp_store", "MEMORY")
        .busy_timeout(options.busy_timeout)
        // All of ours fit, so each is prepared once for a connection.
        .statement_cache_capacity(256)
        .disable_statement_logging();
    let mut connection = settings.connect().await?;
    use_log(&mut connection, options.busy_timeout).await?;
    migrate(&mut connection, options.busy_timeout).await?;
    // From here on this is the writer's connection, which waits for the lock by itself.
    sqlx::query("PRAGMA busy_timeout = 0").execute(&mut connection).await?;
    Ok(Opened { path, settings, connection })
}

/// Connections for reading.
pub(super) fn readers(settings: &SqliteConnectOptions) -> SqlitePool {
    // Rows come from SQLite's thread in portions of this size; the default of 50 wakes it too often in long lists.
    let settings = settings.clone().pragma("query_only", "ON").row_buffer_size(1024);
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .acquire_timeout(DEADLINE)
        .connect_lazy_with(settings)
}

/// Makes the file and its directory if they are missing, for this user only: payloads may hold secrets.
fn prepare_file(path: &Path, create: bool) -> Result<PathBuf, Fault> {
    let refused = |error: std::io::Error| {
        let missing = error.kind() == ErrorKind::NotFound;
        let advice = if missing {
            "there is no such file; create it first"
        } else {
            "check its permissions"
        };
        Fault::new(ErrorClass::Refused, format!("{error}: {advice}"))
    };
    if create {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Some(directory) = directory.filter(|directory| !directory.exists()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(refused)?;
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        if let Err(error) = made
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(refused(error));
        }
    }
    let path = fs::canonicalize(path).map_err(refused)?;
    let metadata = fs::metadata(&path).map_err(refused)?;
    if !metadata.is_file() {
        return Err(Fault::new(ErrorClass::Refused, "it is not a file; give the path of one"));
    }
    // Asked of the mode and not tried out: a superuser's try would succeed against the owner's wish.
    check_writable("the file", &metadata.permissions())?;
    if let Some(directory) = path.parent() {
        let metadata = fs::metadata(directory).map_err(refused)?;
        check_writable("its directory", &metadata.permissions())?;
    }
    Ok(path)
}

fn check_writable(what: &str, permissions: &Permissions) -> Result<(), Fault> {
    if permissions.readonly() {
        let problem = format!("{what} is read-only; make it writable (chmod u+w) or use another");
        return Err(Fault::new(ErrorClass::Refused, problem));
    }
    Ok(())
}

/// Switches the file to a write-ahead log, once in its life. SQLite does not wait for the lock this takes.
async fn use_log(conn: &mut SqliteConnection, patience: Duration) -> Result<(), Fault> {
    let started = Instant::now();
    loop {
        match sqlx::query_scalar::<_, String>("PRAGMA journal_mode = WAL")
            .fetch_one(&mut *conn)
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if is_busy(&error) && started.elapsed() < patience => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Brings the file up to date, under the write lock, so that one of several processes does it.
async fn migrate(conn: &mut SqliteConnection, patience: Duration) -> Result<(), Fault> {
    // In one transaction: another process may bring the file up to date between two looks, and half of its work would
    // look like another program's file.
    sqlx::query("BEGIN").execute(&mut *conn).await?;
    let found = version(conn).await;
    sqlx::query("ROLLBACK").execute(&mut *conn).await?;
    if found? == MIGRATIONS.len() {
        return Ok(());
    }
    writer::lock(conn, patience).await?;
    match migrate_locked(conn).await {
        Ok(()) => {
            sqlx::query("COMMIT").execute(conn).await?;
            Ok(())
        }
        Err(fault) => {
            // The connection is dropped next, which rolls back too.
            let _ = sqlx::query("ROLLBACK").execute(conn).await;
            Err(fault)
        }
    }
}

async fn migrate_locked(conn: &mut SqliteConnection) -> Result<(), Fault> {
    let from = version(conn).await?;
    for migration in &MIGRATIONS[from..] {
        raw_sql(*migration).execute(&mut *conn).await?;
    }
    // A pragma takes no arguments; both numbers are ours.
    let mark = format!(
        "PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {}",
        MIGRATIONS.len()
    );
    raw_sql(sqlx::AssertSqlSafe(mark)).execute(&mut *conn).await?;
    Ok(())
}

/// The version of the file's schema: 0 for an empty file. Refuses what this Stem must not touch.
async fn version(conn: &mut SqliteConnection) -> Result<usize, Fault> {
    let application: i64 =
        sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *conn).await?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *conn).await?;
    if application != APPLICATION && (application != 0 || version != 0 || tables != 0) {
        let problem = "the file is another program's database; use another path";
        return Err(Fault::new(ErrorClass::Refused, problem));
    }
    match usize::try_from(version) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => {
            let problem = format!(
                "its schema is version {version}, written by a newer Stem; this one knows up to {}: \
                 upgrade this Stem or use another file",
                MIGRATIONS.len()
            );
            Err(Fault::new(ErrorClass::Refused, problem))
        }
    }
}
