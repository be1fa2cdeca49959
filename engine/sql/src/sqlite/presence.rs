//! [`Presence`] on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::presence::{Presence, Registered};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::control::Heartbeat;
use stem_core::id::{Incarnation, Namespace, WorkerId};
use stem_core::time::Timestamp;

use super::Sqlite;
use super::writer::{Operation, Topics};
use crate::codec::{heartbeat, to_json};
use crate::fault::Fault;

/// A worker that was not heard for so long is forgotten when another registers, so that names made up at each start
/// do not pile up.
const FORGET_AFTER: Duration = Duration::from_hours(24);

struct Register(Heartbeat);

#[async_trait]
impl Operation for Register {
    type Output = Registered;
    const ACTION: &'static str = "register a worker";
    const RINGS: Topics = Topics::NONE;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Registered, Fault> {
        let asking = &self.0;
        let ttl = i64::try_from(FORGET_AFTER.as_millis()).expect("a day fits");
        sqlx::query("DELETE FROM workers WHERE seen_at < ?1")
            .bind(now.unix_millis() - ttl)
            .execute(&mut *conn)
            .await?;
        let known: Option<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT CAST(seen_at AS INTEGER), CAST(heartbeat AS BLOB) FROM workers
             WHERE namespace = ?1 AND worker = ?2",
        )
        .bind(asking.namespace.as_str())
        .bind(asking.worker.as_str())
        .fetch_optional(&mut *conn)
        .await?;
        if let Some((seen_at, text)) = known {
            // One that cannot be read belongs to no living worker that could be talked to.
            if let Some(holder) = heartbeat(seen_at, &text)
                && holder.boot_id != asking.boot_id
                && holder.is_fresh(now)
            {
                let (boot_id, seen_at) = (holder.boot_id, holder.seen_at);
                return Ok(Registered::NameTaken { boot_id, seen_at });
            }
        }
        sqlx::query(
            "INSERT OR REPLACE INTO workers (namespace, worker, boot_id, seen_at, heartbeat)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .bind(asking.namespace.as_str())
        .bind(asking.worker.as_str())
        .bind(asking.boot_id.to_string())
        .bind(now.unix_millis())
        .bind(to_json(asking))
        .execute(conn)
        .await?;
        Ok(Registered::Yes)
    }
}

struct Beat(Heartbeat);

#[async_trait]
impl Operation for Beat {
    type Output = ();
    const ACTION: &'static str = "store a heartbeat";
    const RINGS: Topics = Topics::NONE;
    const FLEETING: bool = true;

    /// A row that is missing comes back: a store that was emptied learns of its workers again.
    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<(), Fault> {
        sqlx::query(
            "INSERT INTO workers (namespace, worker, boot_id, seen_at, heartbeat) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (namespace, worker) DO UPDATE
             SET seen_at = excluded.seen_at, heartbeat = excluded.heartbeat
             WHERE workers.boot_id = excluded.boot_id",
        )
        .bind(self.0.namespace.as_str())
        .bind(self.0.worker.as_str())
        .bind(self.0.boot_id.to_string())
        .bind(now.unix_millis())
        .bind(to_json(&self.0))
        .execute(conn)
        .await?;
        Ok(())
    }
}

struct Forget {
    namespace: Namespace,
    worker: WorkerId,
    boot_id: Incarnation,
}

#[async_trait]
impl Operation for Forget {
    type Output = ();
    const ACTION: &'static str = "remove a heartbeat";
    const RINGS: Topics = Topics::NONE;

    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<(), Fault> {
        sqlx::query("DELETE FROM workers WHERE namespace = ?1 AND worker = ?2 AND boot_id = ?3")
            .bind(self.namespace.as_str())
            .bind(self.worker.as_str())
            .bind(self.boot_id.to_string())
            .execute(conn)
            .await?;
        Ok(())
    }
}

async fn workers(
    conn: &mut SqliteConnection,
    namespace: &Namespace,
) -> Result<Vec<Heartbeat>, Fault> {
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT CAST(seen_at AS INTEGER), CAST(heartbeat AS BLOB) FROM workers
         WHERE namespace = ?1 ORDER BY worker",
    )
    .bind(namespace.as_str())
    .fetch_all(conn)
    .await?;
    Ok(rows.iter().filter_map(|(seen_at, text)| heartbeat(*seen_at, text)).collect())
}

#[async_trait]
impl Presence for Sqlite {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, BackendError> {
        self.write(Register(heartbeat.clone())).await
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), BackendError> {
        self.write(Beat(heartbeat.clone())).await
    }

    async fn workers(
        &self,
        namespace: &Namespace,
    ) -> Result<(Vec<Heartbeat>, Timestamp), BackendError> {
        let listed = async {
            let mut reader = self.reader().await?;
            workers(&mut reader, namespace).await
        };
        Ok((self.bounded("list workers", listed).await?, self.now()))
    }

    async fn forget(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), BackendError> {
        let (namespace, worker) = (namespace.clone(), worker.clone());
        self.write(Forget { namespace, worker, boot_id }).await
    }
}
