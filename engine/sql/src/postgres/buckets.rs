//! [`Buckets`] on Postgres. Each change is one statement.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::BackendError;
use stem_core::backend::buckets::{Buckets, Changed, Entry, When, check};

use super::Postgres;
use super::error::Trouble;
use super::transact::Operation;
use crate::codec::{millis, signed, unsigned};

/// One write of so many also removes values whose time is over, so many of them.
const SWEEP_EVERY: u64 = 16;
const SWEPT: i64 = 64;

/// A value's place.
#[derive(Clone)]
struct Place {
    bucket: String,
    key: Vec<u8>,
}

impl Place {
    fn new(bucket: &str, key: &str) -> Self {
        Self { bucket: bucket.to_owned(), key: key.as_bytes().to_vec() }
    }
}

struct Read(Place);

const READ: &str = "
    SELECT value, version FROM bucket_values
    WHERE bucket = $1 AND key = $2 AND (ends_at IS NULL OR ends_at > stem_now($3))";

#[async_trait]
impl Operation for Read {
    type Output = Option<Entry>;
    const ACTION: &'static str = "read a value";
    const READS: bool = true;

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        let row: Option<(Vec<u8>, i64)> = sqlx::query_as(READ)
            .bind(&self.0.bucket)
            .bind(&self.0.key[..])
            .bind(now)
            .fetch_optional(conn)
            .await?;
        Ok(row.map(|(value, version)| Entry { value, version: unsigned(version) }))
    }
}

struct Write {
    place: Place,
    value: Vec<u8>,
    when: When,
    ttl: Option<Duration>,
}

/// The version is drawn under the lock of the key: else one that was drawn early could come after a later one that was
/// removed meanwhile. A row that is there is locked before its new version is drawn. $6 is whether a living value may be
/// written over.
const WRITE: &str = "
    WITH held AS MATERIALIZED (
        SELECT pg_advisory_xact_lock(hashtextextended('stem bucket ' || $1 || ' ' || encode($2, 'hex'), 0))
    )
    INSERT INTO bucket_values (bucket, key, version, ends_at, value)
    SELECT $1, $2, nextval('bucket_versions'), stem_now($3) + $4, $5 FROM held
    ON CONFLICT (bucket, key) DO UPDATE
    SET version = nextval('bucket_versions'), ends_at = excluded.ends_at, value = excluded.value
    WHERE $6 OR bucket_values.ends_at <= stem_now($3)
    RETURNING version";

const REPLACE: &str = "
    UPDATE bucket_values SET version = nextval('bucket_versions'), ends_at = stem_now($3) + $4, value = $5
    WHERE bucket = $1 AND key = $2 AND version = $6 AND (ends_at IS NULL OR ends_at > stem_now($3))
    RETURNING version";

#[async_trait]
impl Operation for Write {
    type Output = Changed;
    const ACTION: &'static str = "write a value";
    const ALONE: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<Changed, Trouble> {
        let statement = match self.when {
            When::Always | When::Absent => WRITE,
            When::Version(_) => REPLACE,
        };
        let query = sqlx::query_scalar(statement)
            .bind(&self.place.bucket)
            .bind(&self.place.key[..])
            .bind(now)
            .bind(self.ttl.map(millis))
            .bind(&self.value[..]);
        let query = match self.when {
            When::Always => query.bind(true),
            When::Absent => query.bind(false),
            When::Version(version) => query.bind(signed(version)),
        };
        let version: Option<i64> = query.fetch_optional(conn).await?;
        Ok(version.map_or(Changed::Conflict, |version| Changed::Done(unsigned(version))))
    }
}

struct Remove {
    place: Place,
    when: When,
}

/// What was removed, and what was there before; both look at one moment unless somebody changed the value in between.
/// $4 is the version it must have, if any.
const REMOVE: &str = "
    WITH gone AS (
        DELETE FROM bucket_values
        WHERE bucket = $1 AND key = $2 AND (ends_at IS NULL OR ends_at > stem_now($3))
            AND ($4::bigint IS NULL OR version = $4)
        RETURNING version
    )
    SELECT (SELECT version FROM gone), (
        SELECT version FROM bucket_values
        WHERE bucket = $1 AND key = $2 AND (ends_at IS NULL OR ends_at > stem_now($3))
    )";

/// No value has it.
const NO_VERSION: i64 = -1;

#[async_trait]
impl Operation for Remove {
    type Output = Changed;
    const ACTION: &'static str = "remove a value";
    const ALONE: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<Changed, Trouble> {
        let named = match self.when {
            When::Always => None,
            When::Absent => Some(NO_VERSION),
            When::Version(version) => Some(signed(version)),
        };
        let (gone, found): (Option<i64>, Option<i64>) = sqlx::query_as(REMOVE)
            .bind(&self.place.bucket)
            .bind(&self.place.key[..])
            .bind(now)
            .bind(named)
            .fetch_one(conn)
            .await?;
        match (gone, found) {
            (Some(version), _) => Ok(Changed::Done(unsigned(version))),
            (None, None) => Ok(Changed::Absent),
            // It was there, and somebody was faster.
            (None, Some(found)) if self.when.holds(Some(unsigned(found))) => Err(Trouble::Moved),
            (None, Some(_)) => Ok(Changed::Conflict),
        }
    }
}

struct Sweep;

#[async_trait]
impl Operation for Sweep {
    type Output = ();
    const ACTION: &'static str = "remove values whose time is over";
    const ALONE: bool = true;
    const REPEATABLE: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<(), Trouble> {
        sqlx::query(
            "DELETE FROM bucket_values WHERE (bucket, key) IN (
                 SELECT bucket, key FROM bucket_values WHERE ends_at <= stem_now($1)
                 LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(now)
        .bind(SWEPT)
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// For the test that walks plans.
#[cfg(test)]
pub(super) const HOT: [&str; 4] = [READ, WRITE, REPLACE, REMOVE];

#[async_trait]
impl Buckets for Postgres {
    async fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BackendError> {
        check(&self.core.service, Read::ACTION, bucket, key, &[])?;
        self.call(Read(Place::new(bucket, key))).await
    }

    async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, BackendError> {
        check(&self.core.service, Write::ACTION, bucket, key, value)?;
        let place = Place::new(bucket, key);
        let written = self.call(Write { place, value: value.to_vec(), when, ttl }).await?;
        if matches!(written, Changed::Done(version) if version % SWEEP_EVERY == 0) {
            // The value is written whatever becomes of this; the next sweep finds what is left.
            let _ = self.call(Sweep).await;
        }
        Ok(written)
    }

    async fn remove(&self, bucket: &str, key: &str, when: When) -> Result<Changed, BackendError> {
        check(&self.core.service, Remove::ACTION, bucket, key, &[])?;
        self.call(Remove { place: Place::new(bucket, key), when }).await
    }
}
