//! [`Buckets`] on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::BackendError;
use stem_core::backend::buckets::{Buckets, Changed, Entry, When, check};
use stem_core::time::Timestamp;

use super::Sqlite;
use super::writer::{Operation, Topics};
use crate::codec::{millis, unsigned};
use crate::fault::Fault;

/// Values whose time is over that one write removes, so that none takes long.
const SWEPT: i64 = 16;

/// A value's place.
struct Place {
    bucket: String,
    key: String,
}

impl Place {
    fn new(bucket: &str, key: &str) -> Self {
        Self { bucket: bucket.to_owned(), key: key.to_owned() }
    }

    /// The version that is there now.
    async fn version(
        &self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Option<u64>, Fault> {
        let version: Option<i64> = sqlx::query_scalar(
            "SELECT version FROM bucket_values
             WHERE bucket = ?1 AND key = ?2 AND (ends_at IS NULL OR ends_at > ?3)",
        )
        .bind(&self.bucket)
        .bind(&self.key)
        .bind(now.unix_millis())
        .fetch_optional(conn)
        .await?;
        Ok(version.map(unsigned))
    }
}

struct Write {
    place: Place,
    value: Vec<u8>,
    when: When,
    ttl: Option<Duration>,
}

#[async_trait]
impl Operation for Write {
    type Output = Changed;
    const ACTION: &'static str = "write a value";
    const RINGS: Topics = Topics::NONE;

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<Changed, Fault> {
        if !self.when.holds(self.place.version(&mut *conn, now).await?) {
            return Ok(Changed::Conflict);
        }
        sqlx::query(
            "DELETE FROM bucket_values WHERE rowid IN (
                 SELECT rowid FROM bucket_values WHERE ends_at <= ?1 LIMIT ?2)",
        )
        .bind(now.unix_millis())
        .bind(SWEPT)
        .execute(&mut *conn)
        .await?;
        // Not below the time in microseconds, so that a file which was restored from an older copy gives none out again.
        let version: i64 = sqlx::query_scalar(
            "UPDATE bucket_version SET version = max(version + 1, ?1) RETURNING version",
        )
        .bind(now.unix_millis().saturating_mul(1_000))
        .fetch_one(&mut *conn)
        .await?;
        sqlx::query(
            "INSERT INTO bucket_values (bucket, key, version, ends_at, value) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (bucket, key) DO UPDATE
             SET version = excluded.version, ends_at = excluded.ends_at, value = excluded.value",
        )
        .bind(&self.place.bucket)
        .bind(&self.place.key)
        .bind(version)
        .bind(self.ttl.map(|ttl| now.unix_millis().saturating_add(millis(ttl))))
        .bind(&self.value[..])
        .execute(conn)
        .await?;
        Ok(Changed::Done(unsigned(version)))
    }
}

struct Remove {
    place: Place,
    when: When,
}

#[async_trait]
impl Operation for Remove {
    type Output = Changed;
    const ACTION: &'static str = "remove a value";
    const RINGS: Topics = Topics::NONE;

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<Changed, Fault> {
        let found = self.place.version(&mut *conn, now).await?;
        let Some(version) = found else { return Ok(Changed::Absent) };
        if !self.when.holds(found) {
            return Ok(Changed::Conflict);
        }
        sqlx::query("DELETE FROM bucket_values WHERE bucket = ?1 AND key = ?2")
            .bind(&self.place.bucket)
            .bind(&self.place.key)
            .execute(conn)
            .await?;
        Ok(Changed::Done(version))
    }
}

#[async_trait]
impl Buckets for Sqlite {
    async fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BackendError> {
        const ACTION: &str = "read a value";
        check(&self.service, ACTION, bucket, key, &[])?;
        let read = async {
            let mut reader = self.reader().await?;
            let row: Option<(Vec<u8>, i64)> = sqlx::query_as(
                "SELECT value, version FROM bucket_values
                 WHERE bucket = ?1 AND key = ?2 AND (ends_at IS NULL OR ends_at > ?3)",
            )
            .bind(bucket)
            .bind(key)
            .bind(self.now().unix_millis())
            .fetch_optional(&mut *reader)
            .await?;
            Ok(row.map(|(value, version)| Entry { value, version: unsigned(version) }))
        };
        self.bounded(ACTION, read).await
    }

    async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, BackendError> {
        check(&self.service, Write::ACTION, bucket, key, value)?;
        let place = Place::new(bucket, key);
        Sqlite::write(self, Write { place, value: value.to_vec(), when, ttl }).await
    }

    async fn remove(&self, bucket: &str, key: &str, when: When) -> Result<Changed, BackendError> {
        check(&self.service, Remove::ACTION, bucket, key, &[])?;
        Sqlite::write(self, Remove { place: Place::new(bucket, key), when }).await
    }
}
