//! [`RevokeStore`] on Postgres. Versions are drawn from a counter that stays locked until the commit, so that a follower
//! who has seen one version will see no smaller one after it.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::revoke::RevokeStore;
use stem_core::backend::{BackendError, Health, ServiceId};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, TRACE_TTL, Version};
use stem_core::time::Timestamp;

use super::Postgres;
use super::counters::{self, Log};
use super::error::Trouble;
use super::transact::Operation;
use crate::bells::{Topic, Topics};
use crate::codec::{from_json, limit, millis, signed, time, to_json, unsigned};

/// Revocations in one transaction. An order for more of them is several, each of which is kept.
const CHUNK: usize = 10_000;

/// A revocation is on the disk before it is answered, whatever the server's default is. A default that promises more
/// than the server's own disk is left as it is.
async fn durably(conn: &mut PgConnection) -> Result<(), Trouble> {
    sqlx::query(
        "SELECT set_config('synchronous_commit', 'on', true)
         WHERE current_setting('synchronous_commit') = 'off'",
    )
    .execute(conn)
    .await?;
    Ok(())
}

struct Revoke {
    namespace: Namespace,
    requests: Vec<(TaskId, RevokeRequest)>,
}

/// Answers the time at which this happened.
const STORE: &str = "
    WITH stored AS (
        INSERT INTO revocations (namespace, task, version, issued_at, gone_at, request)
        SELECT $1, task, version, stem_now($6), gone_at, request
        FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[]) AS item (task, version, gone_at, request)
        ON CONFLICT (namespace, task) DO UPDATE
        SET version = excluded.version, issued_at = excluded.issued_at, gone_at = excluded.gone_at,
            request = excluded.request
        WHERE excluded.version > revocations.version
    )
    SELECT stem_now($6)";

#[async_trait]
impl Operation for Revoke {
    type Output = Vec<Revocation>;
    const ACTION: &'static str = "revoke";
    /// The later version says the same.
    const REPEATABLE: bool = true;
    const SENDS_NEWS_FIRST: bool = true;

    fn rings(_: &Vec<Revocation>) -> Topics {
        Topics::REVOCATIONS
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        durably(conn).await?;
        let count = self.requests.len();
        let last = counters::draw(conn, &self.namespace, Log::Revocations, count).await?;
        let first = last + 1 - count as u64;
        // Of a task that occurs twice the later counts.
        let newest: HashMap<&TaskId, (u64, &RevokeRequest)> = (first..)
            .zip(&self.requests)
            .map(|(version, (task, request))| (task, (version, request)))
            .collect();
        let of = || newest.iter();
        let expiry = |request: &RevokeRequest| request.expires_at.map(Timestamp::unix_millis);
        let issued_at: i64 = sqlx::query_scalar(STORE)
            .bind(self.namespace.as_str())
            .bind(of().map(|(task, _)| task.as_str()).collect::<Vec<_>>())
            .bind(of().map(|(_, (version, _))| signed(*version)).collect::<Vec<_>>())
            .bind(of().map(|(_, (_, request))| expiry(request)).collect::<Vec<_>>())
            .bind(of().map(|(_, (_, request))| to_json(request)).collect::<Vec<_>>())
            .bind(now)
            .fetch_one(conn)
            .await?;
        let stored = (first..).zip(&self.requests).map(|(version, (task, request))| Revocation {
            namespace: self.namespace.clone(),
            task_id: task.clone(),
            version: Version(version),
            issued_at: time(issued_at),
            request: request.clone(),
        });
        Ok(stored.collect())
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
    const SENDS_NEWS_FIRST: bool = true;

    fn rings(undone: &Option<Version>) -> Topics {
        if undone.is_some() { Topics::REVOCATIONS } else { Topics::NONE }
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        durably(conn).await?;
        // The counter first, as every writer does: two that lock counter and row the other way round would meet.
        let version = counters::draw(conn, &self.namespace, Log::Revocations, 1).await?;
        let undone = sqlx::query(
            "UPDATE revocations SET version = $3, gone_at = stem_now($4) + $5, request = NULL
             WHERE namespace = $1 AND task = $2 AND request IS NOT NULL
                 AND (gone_at IS NULL OR gone_at > stem_now($4))",
        )
        .bind(self.namespace.as_str())
        .bind(self.task.as_str())
        .bind(signed(version))
        .bind(now)
        .bind(millis(TRACE_TTL))
        .execute(conn)
        .await?;
        Ok((undone.rows_affected() > 0).then_some(Version(version)))
    }
}

struct Prune(Namespace);

#[async_trait]
impl Operation for Prune {
    type Output = u64;
    const ACTION: &'static str = "remove expired revocations";

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<u64, Trouble> {
        // What somebody is replacing at this moment is in force again.
        let done = sqlx::query(
            "DELETE FROM revocations WHERE namespace = $1 AND task = ANY(ARRAY(
                 SELECT task FROM revocations WHERE namespace = $1 AND gone_at <= stem_now($2)
                 LIMIT $3 FOR UPDATE SKIP LOCKED
             ))",
        )
        .bind(self.0.as_str())
        .bind(now)
        .bind(limit(CHUNK))
        .execute(conn)
        .await?;
        Ok(done.rows_affected())
    }
}

struct Since {
    namespace: Namespace,
    after: Version,
    limit: usize,
}

/// Task, version, issued at, and what was asked unless it was taken back.
type SinceRow = (String, i64, i64, Option<String>);

#[async_trait]
impl Operation for Since {
    type Output = Vec<RevocationChange>;
    const ACTION: &'static str = "list revocations";
    const READS: bool = true;

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        let rows: Vec<SinceRow> = sqlx::query_as(
            "SELECT task, version, issued_at, request FROM revocations
             WHERE namespace = $1 AND version > $2
                 AND (request IS NULL OR gone_at IS NULL OR gone_at > stem_now($3))
             ORDER BY version LIMIT $4",
        )
        .bind(self.namespace.as_str())
        .bind(signed(self.after.0))
        .bind(now)
        .bind(limit(self.limit))
        .fetch_all(conn)
        .await?;
        rows.into_iter()
            .map(|(task, version, issued_at, request)| {
                let (task_id, version) = (TaskId::new(&task)?, Version(unsigned(version)));
                Ok(match request {
                    None => RevocationChange::Undone { task: task_id, version },
                    Some(request) => RevocationChange::Revoked(Revocation {
                        namespace: self.namespace.clone(),
                        task_id,
                        version,
                        issued_at: time(issued_at),
                        request: from_json(&request)?,
                    }),
                })
            })
            .collect()
    }
}

#[async_trait]
impl RevokeStore for Postgres {
    fn service(&self) -> &ServiceId {
        &self.core.service
    }

    async fn revoke(
        &self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
    ) -> Result<Vec<Revocation>, BackendError> {
        let mut stored = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(CHUNK) {
            let revoke = Revoke { namespace: namespace.clone(), requests: chunk.to_vec() };
            stored.extend(self.call(revoke).await?);
        }
        Ok(stored)
    }

    async fn undo(
        &self,
        namespace: &Namespace,
        task: &TaskId,
    ) -> Result<Option<Version>, BackendError> {
        self.call(Undo { namespace: namespace.clone(), task: task.clone() }).await
    }

    async fn since(
        &self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RevocationChange>, BackendError> {
        self.call(Since { namespace: namespace.clone(), after, limit }).await
    }

    async fn prune(&self, namespace: &Namespace) -> Result<u64, BackendError> {
        let mut removed = 0;
        loop {
            let some = self.call(Prune(namespace.clone())).await?;
            removed += some;
            if some < CHUNK as u64 {
                return Ok(removed);
            }
        }
    }

    async fn changed(&self, wait: Duration) -> Result<(), BackendError> {
        self.news(Topic::Revocations, wait).await;
        Ok(())
    }

    async fn health(&self) -> Result<Health, BackendError> {
        self.health_now().await
    }
}
