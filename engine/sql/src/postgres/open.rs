//! Migrations.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, raw_sql};
use stem_core::backend::ErrorClass;

use super::error::Trouble;
use crate::codec::limit;
use crate::fault::Fault;

/// Each brings a schema from the version before to its own; the first is version 1.
const MIGRATIONS: [&str; 6] = [
    include_str!("../../migrations/postgres/0001_initial.sql"),
    include_str!("../../migrations/postgres/0002_checks.sql"),
    include_str!("../../migrations/postgres/0003_modules.sql"),
    include_str!("../../migrations/postgres/0004_family.sql"),
    include_str!("../../migrations/postgres/0005_tenants.sql"),
    include_str!("../../migrations/postgres/0006_clock.sql"),
];

fn refused(problem: impl Into<String>) -> Fault {
    Fault::new(ErrorClass::Refused, problem)
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
    let (path, known): (String, bool) = sqlx::query_as(
        "SELECT current_setting('search_path'), EXISTS (
             SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
             WHERE nspname = $1 AND relname = 'stem_migrations')",
    )
    .bind(schema)
    .fetch_one(&mut *conn)
    .await?;
    // A pooler may drop what a connection asks for, and then the tables would be looked for elsewhere.
    if path != schema {
        let problem = format!(
            "its search_path is {path} and not {schema}, as this connection asked for: a pooler drops startup options; \
             connect directly, or set it for this user"
        );
        return Err(refused(problem).into());
    }
    if !known {
        return Ok(None);
    }
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM stem_migrations").fetch_one(conn).await?;
    Ok(Some(version.and_then(|version| usize::try_from(version).ok()).unwrap_or(0)))
}
