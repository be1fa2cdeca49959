//! What a URL says, the settings of a connection, migrations.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, raw_sql};
use stem_core::backend::{ErrorClass, ServiceId};
use url::Url;

use super::PostgresOptions;
use super::error::Trouble;
use crate::codec::limit;
use crate::fault::Fault;

/// Each brings a schema from the version before to its own; the first is version 1.
const MIGRATIONS: [&str; 1] = [include_str!("../../migrations/postgres/0001_initial.sql")];

/// Longest name of a schema. The server cuts names at 63 bytes, and the channel for news is a little longer.
const SCHEMA_BYTES: usize = 48;

/// What may follow the `?` of a URL. Whatever else is written there is a mistake, which sqlx would only log, value
/// included.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// How the planner is set. Tables of queues are empty one moment and full the next, and a plan made for the one is
/// ruinous for the other. Every statement here is meant to find its rows by an index, so nothing else is offered, and
/// each is planned once for a connection.
///
/// A join is made by hashing, which reads each side once, so its cost grows as the batch does. A statement that joins a
/// long table to a batch also says `= ANY` of the batch's keys: that is how the table is entered by its index. Where the
/// one side must ask for the other row by row, it does so in a subquery or with `LATERAL`.
const PLANNER: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_mergejoin", "off"),
    ("enable_nestloop", "off"),
    ("enable_material", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// A database that options name, before it was ever reached.
pub(super) struct Place {
    pub(super) service: ServiceId,
    pub(super) settings: PgConnectOptions,
    /// Whether the way to it needs no encryption: it does not leave this machine.
    pub(super) local: bool,
}

fn refused(problem: impl Into<String>) -> Fault {
    Fault::new(ErrorClass::Refused, problem)
}

/// What can be said of a database whose URL cannot be used.
pub(super) fn unnamed() -> ServiceId {
    ServiceId("postgres".to_owned())
}

/// Reads the options. No message repeats the URL, which may hold a password.
pub(super) fn place(options: &PostgresOptions) -> Result<Place, Fault> {
    check_schema(&options.schema)?;
    let url = Url::parse(&options.url).map_err(|error| {
        refused(format!(
            "its URL cannot be read: {error}; write postgres://user@host:port/database"
        ))
    })?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(refused("its URL does not begin with postgres:// or postgresql://"));
    }
    for (key, _) in url.query_pairs() {
        let known = PARAMETERS.contains(&&*key) || key.starts_with("options[");
        if !known {
            let problem = format!("its URL has the parameter {key:?}, which means nothing here");
            return Err(refused(problem));
        }
    }
    let settings = PgConnectOptions::from_str(&options.url).map_err(|error| match error {
        sqlx::Error::Configuration(problem) => {
            refused(format!("its URL cannot be used: {problem}"))
        }
        _ => refused("its URL cannot be used"),
    })?;
    let host = match settings.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => settings.get_host().to_ascii_lowercase(),
    };
    let database = settings.get_database().unwrap_or(settings.get_username());
    let service =
        ServiceId(format!("postgres:{host}:{}/{database}/{}", settings.get_port(), options.schema));
    let local = settings.get_socket().is_some() || is_loopback(&host);
    let settings = adjust(settings, options);
    Ok(Place { service, settings, local })
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || host.starts_with('/') || address.is_ok_and(|it| it.is_loopback())
}

/// The name goes into statements as it is, so it must be one that needs no quotes.
fn check_schema(schema: &str) -> Result<(), Fault> {
    let first = schema.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let good =
        first && schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !good || schema.len() > SCHEMA_BYTES || schema.starts_with("pg_") {
        return Err(refused(format!(
            "schema {schema:?} is not valid: use 1 to {SCHEMA_BYTES} of the characters a-z 0-9 _, begin with a \
             letter or _, and not with pg_"
        )));
    }
    Ok(())
}

/// How long a client may keep a transaction open and say nothing, which for a living one is the time between two awaits. A
/// process that is stopped in the middle, or cut off, holds rows for so long: the tasks in its hands wait no longer than
/// this beyond their leases, and nobody waits longer for the next version or position.
const IDLE: Duration = Duration::from_secs(2);

/// The server gives up a little before the caller does, so that the caller hears why; and it notices by itself when this
/// process or the way to it is gone, so that its locks do not outlive it for long.
fn adjust(settings: PgConnectOptions, options: &PostgresOptions) -> PgConnectOptions {
    let millis = |part: Duration| part.as_millis().max(1).to_string();
    let deadline = options.deadline;
    let named = settings.get_application_name().is_some();
    let settings = if named { settings } else { settings.application_name("stem") };
    settings
        .options([
            ("search_path", options.schema.clone()),
            ("statement_timeout", millis(deadline.mul_f32(0.8))),
            ("lock_timeout", millis(deadline.mul_f32(0.5))),
            ("idle_in_transaction_session_timeout", millis(IDLE)),
            ("tcp_keepalives_idle", "30".to_owned()),
            ("tcp_keepalives_interval", "10".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "30000".to_owned()),
        ])
        .options(PLANNER)
        // All of ours fit, so each is prepared once for a connection.
        .statement_cache_capacity(256)
        .disable_statement_logging()
}

/// Brings the schema up to date, under a lock, so that one of several processes does it.
pub(super) async fn migrate(conn: &mut PgConnection, schema: &str) -> Result<(), Trouble> {
    // Nearly always there is nothing to do, and then nobody has to wait for anybody.
    if version(conn, schema).await? == Some(MIGRATIONS.len()) {
        return Ok(());
    }
    conn.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    migrate_locked(conn, schema).await?;
    conn.execute("COMMIT").await?;
    Ok(())
}

/// An error leaves the transaction open; the connection is dropped next, which rolls back.
async fn migrate_locked(conn: &mut PgConnection, schema: &str) -> Result<(), Trouble> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('stem ' || $1, 0))")
        .bind(schema)
        .execute(&mut *conn)
        .await?;
    let from = match version(conn, schema).await? {
        Some(version) if version > MIGRATIONS.len() => {
            let problem = format!(
                "the schema {schema} is version {version}, written by a newer Stem; this one knows up to \
                 {}: upgrade this Stem or use another schema",
                MIGRATIONS.len()
            );
            return Err(refused(problem).into());
        }
        Some(version) => version,
        None => {
            begin_schema(conn, schema).await?;
            0
        }
    };
    for (number, migration) in (1..).zip(MIGRATIONS).skip(from) {
        raw_sql(migration).execute(&mut *conn).await?;
        sqlx::query("INSERT INTO stem_migrations (version) VALUES ($1)")
            .bind(limit(number))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Makes the schema, or takes an empty one.
async fn begin_schema(conn: &mut PgConnection, schema: &str) -> Result<(), Trouble> {
    let (exists, used): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1), EXISTS (
             SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1)",
    )
    .bind(schema)
    .fetch_one(&mut *conn)
    .await?;
    if used {
        let problem = format!("the schema {schema} holds another program's tables; use another");
        return Err(refused(problem).into());
    }
    if !exists {
        // The name was checked to need no quotes. Asked only when it is missing: who may not make schemas can then be
        // given an empty one.
        raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut *conn).await?;
    }
    raw_sql(
        "CREATE TABLE stem_migrations (
             version BIGINT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The version of the schema; `None` where there is none. Asked of the catalogue's tables, not of `to_regclass`, which
/// answers from a cache that may be older than the lock.
async fn version(conn: &mut PgConnection, schema: &str) -> Result<Option<usize>, Trouble> {
    let known: bool = sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
             WHERE nspname = $1 AND relname = 'stem_migrations')",
    )
    .bind(schema)
    .fetch_one(&mut *conn)
    .await?;
    if !known {
        return Ok(None);
    }
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM stem_migrations").fetch_one(conn).await?;
    Ok(Some(version.and_then(|version| usize::try_from(version).ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Place, Fault> {
        place(&PostgresOptions::new(url))
    }

    #[test]
    fn a_service_is_named_without_user_password_and_parameters() {
        for (url, name) in [
            ("postgres://me:hush@Example.COM/tasks", "postgres:example.com:5432/tasks/stem"),
            (
                "postgresql://you@example.com:5432/tasks?sslmode=require",
                "postgres:example.com:5432/tasks/stem",
            ),
            ("postgres://me@[::1]:1/tasks", "postgres:[::1]:1/tasks/stem"),
            ("postgres:///tasks?host=/run/pg&user=me", "postgres:/run/pg:5432/tasks/stem"),
        ] {
            assert_eq!(of(url).unwrap().service.0, name, "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_repeating_it() {
        for url in [
            "hush",
            "http://me:hush@example.com/tasks",
            "postgres://me:hush@example.com:port/tasks",
            "postgres://me:hush@example.com/tasks?pasword=hush",
            "postgres://me:hush@example.com/tasks?sslmode=sometimes",
        ] {
            let fault = of(url).err().unwrap();
            assert_eq!(fault.class, ErrorClass::Refused, "{url}");
            assert!(!fault.problem.contains("hush"), "{}", fault.problem);
        }
    }

    #[test]
    fn a_schema_that_would_need_quotes_is_refused() {
        for good in ["stem", "_x", "stem_2"] {
            assert!(check_schema(good).is_ok(), "{good}");
        }
        for bad in ["", "Stem", "2stem", "a b", "a\"b", "a;b", "pg_stem", &"x".repeat(49)] {
            assert_eq!(check_schema(bad).unwrap_err().class, ErrorClass::Refused, "{bad}");
        }
    }

    #[test]
    fn only_what_stays_on_this_machine_is_local() {
        for (url, local) in [
            ("postgres://me@localhost/t", true),
            ("postgres://me@127.0.0.2/t", true),
            ("postgres://me@[::1]/t", true),
            ("postgres:///t?host=/run/pg&user=me", true),
            ("postgres://me@10.0.0.1/t", false),
            ("postgres://me@db.example.com/t", false),
        ] {
            assert_eq!(of(url).unwrap().local, local, "{url}");
        }
    }
}
