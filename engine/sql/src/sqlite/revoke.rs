//! [`RevokeStore`] on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::revoke::RevokeStore;
use stem_core::backend::{BackendError, Health, ServiceId};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, TRACE_TTL, Version};
use stem_core::time::Timestamp;

use super::Sqlite;
use super::writer::{Operation, Topics};
use crate::bells::Topic;
use crate::codec::{from_json, limit, signed, time, to_json, unsigned};
use crate::fault::Fault;

/// Draws ?2 versions; answers the last. The row outlives what it numbered, and they follow the time (?3, milliseconds) too,
/// so that a file that was restored from an older copy gives none out again.
const DRAW: &str = "
    INSERT INTO revoke_versions (namespace, version) VALUES (?1, ?3 * 1000 + ?2 - 1)
    ON CONFLICT (namespace) DO UPDATE SET version = max(version + ?2, excluded.version)
    RETURNING version";

async fn draw(
    conn: &mut SqliteConnection,
    namespace: &Namespace,
    count: usize,
    now: Timestamp,
) -> Result<i64, Fault> {
    let rows: Vec<i64> = sqlx::query_scalar(DRAW)
        .bind(namespace.as_str())
        .bind(limit(count))
        .bind(now.unix_millis())
        .fetch_all(conn)
        .await?;
    rows.first().copied().ok_or_else(|| Fault::corrupt("no version was drawn"))
}

struct Revoke {
    namespace: Namespace,
    requests: Vec<(TaskId, RevokeRequest)>,
}

/// The higher version wins, also within one batch.
const STORE: &str = "
    INSERT INTO revocations (namespace, task, version, issued_at, expires_at, undone_at, request)
    SELECT ?2, value ->> 0, value ->> 1, ?3, value ->> 2, NULL, value ->> 3 FROM json_each(?1) WHERE true
    ON CONFLICT (namespace, task) DO UPDATE
    SET version = excluded.version, issued_at = excluded.issued_at, expires_at = excluded.expires_at,
        undone_at = NULL, request = excluded.request
    WHERE excluded.version > revocations.version";

#[async_trait]
impl Operation for Revoke {
    type Output = Vec<Revocation>;
    const ACTION: &'static str = "revoke";
    const RINGS: Topics = Topics::REVOCATIONS;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self::Output, Fault> {
        let last = unsigned(draw(conn, &self.namespace, self.requests.len(), now).await?);
        let first = last + 1 - self.requests.len() as u64;
        let stored: Vec<Revocation> = (first..)
            .zip(&self.requests)
            .map(|(version, (task, request))| Revocation {
                namespace: self.namespace.clone(),
                task_id: task.clone(),
                version: Version(version),
                issued_at: now,
                request: request.clone(),
            })
            .collect();
        let rows: Vec<_> = stored
            .iter()
            .map(|revocation| {
                let expires_at = revocation.request.expires_at.map(Timestamp::unix_millis);
                let request = to_json(&revocation.request);
                json!([revocation.task_id, revocation.version, expires_at, request])
            })
            .collect();
        sqlx::query(STORE)
            .bind(to_json(&rows))
            .bind(self.namespace.as_str())
            .bind(now.unix_millis())
            .execute(conn)
            .await?;
        Ok(stored)
    }
}

struct Undo {
    namespace: Namespace,
    task: TaskId,
}

#[async_trait]
impl Operation for Undo {
    type Output = Option<Version>;
    const ACTION: &'static str = "take a revocation back";
    const RINGS: Topics = Topics::REVOCATIONS;

    fn wrote(undone: &Self::Output) -> bool {
        undone.is_some()
    }

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self::Output, Fault> {
        let in_force: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM revocations WHERE namespace = ?1 AND task = ?2
                 AND undone_at IS NULL AND (expires_at IS NULL OR expires_at > ?3))",
        )
        .bind(self.namespace.as_str())
        .bind(self.task.as_str())
        .bind(now.unix_millis())
        .fetch_one(&mut *conn)
        .await?;
        if !in_force {
            return Ok(None);
        }
        let version = draw(conn, &self.namespace, 1, now).await?;
        sqlx::query(
            "UPDATE revocations SET version = ?3, undone_at = ?4, expires_at = NULL, request = NULL
             WHERE namespace = ?1 AND task = ?2",
        )
        .bind(self.namespace.as_str())
        .bind(self.task.as_str())
        .bind(version)
        .bind(now.unix_millis())
        .execute(conn)
        .await?;
        Ok(Some(Version(unsigned(version))))
    }
}

struct Prune {
    namespace: Namespace,
}

#[async_trait]
impl Operation for Prune {
    type Output = u64;
    const ACTION: &'static str = "remove expired revocations";
    /// What has expired is out of force already.
    const RINGS: Topics = Topics::NONE;

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<u64, Fault> {
        let ttl = i64::try_from(TRACE_TTL.as_millis()).expect("a day fits");
        let done = sqlx::query(
            "DELETE FROM revocations WHERE namespace = ?1 AND (expires_at <= ?2 OR undone_at <= ?3)",
        )
        .bind(self.namespace.as_str())
        .bind(now.unix_millis())
        .bind(now.unix_millis() - ttl)
        .execute(conn)
        .await?;
        Ok(done.rows_affected())
    }
}

/// The whole chunk as one JSON value: taking hundreds of thousands of rows one by one from SQLite's thread costs more
/// than reading them.
const SINCE: &str = "
    SELECT json_group_array(json_array(task, version, issued_at, json(request))) FROM (
        SELECT task, version, issued_at, request FROM revocations
        WHERE namespace = ?1 AND version > ?2 AND (expires_at IS NULL OR expires_at > ?3)
        ORDER BY version LIMIT ?4
    )";

/// Task, version, issued at, and what was asked unless it was taken back.
type SinceRow = (TaskId, Version, i64, Option<RevokeRequest>);

async fn since(
    conn: &mut SqliteConnection,
    now: Timestamp,
    namespace: &Namespace,
    after: Version,
    max: usize,
) -> Result<Vec<RevocationChange>, Fault> {
    let chunk: String = sqlx::query_scalar(SINCE)
        .bind(namespace.as_str())
        .bind(signed(after.0))
        .bind(now.unix_millis())
        .bind(limit(max))
        .fetch_one(conn)
        .await?;
    let rows: Vec<SinceRow> = from_json(&chunk)?;
    let mut changes: Vec<RevocationChange> = rows
        .into_iter()
        .map(|(task, version, issued_at, request)| match request {
            None => RevocationChange::Undone { task, version },
            Some(request) => RevocationChange::Revoked(Revocation {
                namespace: namespace.clone(),
                task_id: task,
                version,
                issued_at: time(issued_at),
                request,
            }),
        })
        .collect();
    // An aggregate promises no order.
    changes.sort_by_key(RevocationChange::version);
    Ok(changes)
}

#[async_trait]
impl RevokeStore for Sqlite {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    /// The machine's clock, which is the same for every process that has the file open.
    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        Ok(Some(self.now()))
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        self.write(Revoke { namespace: namespace.clone(), requests: requests.to_vec() }).await
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        self.write(Undo { namespace: namespace.clone(), task: task.clone() }).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        let listed = async {
            let mut reader = self.reader().await?;
            since(&mut reader, self.now(), namespace, after, limit).await
        };
        self.bounded("list revocations", listed).await
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        self.write(Prune { namespace: namespace.clone() }).await
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        self.news(Topic::Revocations, wait).await
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.health_now().await
    }
}
