//! [`RevokeStore`] on Postgres. Versions are drawn from a counter that stays locked until the commit, so that a follower
//! who has seen one version will see no smaller one after it. Each draw is one statement with what it numbers.

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
use super::counters::draw;
use super::error::Trouble;
use super::transact::Operation;
use crate::bells::{Topic, Topics};
use crate::codec::{from_json, limit, millis, signed, time, to_json, unsigned};
use crate::fault::Fault;

/// Revocations in one transaction. An order for more of them is several, each of which is kept.
const CHUNK: usize = 10_000;

/// The beginning of a statement after which a revocation is on the disk before it is answered, whatever the server's
/// default is. A default that promises more than the server's own disk is left as it is. The counter is locked before any
/// row, by every writer: two that lock them the other way round would meet.
macro_rules! durably_draw {
    ($count:literal) => {
        concat!(
            "WITH durable AS MATERIALIZED (
                SELECT set_config('synchronous_commit', 'on', true)
                WHERE current_setting('synchronous_commit') = 'off'
            ), ",
            draw!("revocations", $count, "(SELECT count(*) FROM durable) >= 0")
        )
    };
}

struct Revoke {
    namespace: Namespace,
    requests: Vec<(TaskId, RevokeRequest)>,
}

/// Answers the time at which this happened, and the first version.
const STORE: &str = concat!(
    durably_draw!("$3::bigint"),
    ", stored AS (
        INSERT INTO revocations (namespace, task, version, issued_at, gone_at, request)
        SELECT $1, task, first + place, stem_now($2), gone_at, request
        FROM drawn CROSS JOIN unnest($4::text[], $5::bigint[], $6::bigint[], $7::text[])
            AS item (task, place, gone_at, request)
        ON CONFLICT (namespace, task) DO UPDATE
        SET version = excluded.version, issued_at = excluded.issued_at, gone_at = excluded.gone_at,
            request = excluded.request
        WHERE excluded.version > revocations.version
    )
    SELECT stem_now($2), first FROM drawn"
);

#[async_trait]
impl Operation for Revoke {
    type Output = Vec<Revocation>;
    const ACTION: &'static str = "revoke";
    const ALONE: bool = true;
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
        // Of a task that occurs twice the later counts.
        let newest: HashMap<&TaskId, (usize, &RevokeRequest)> = self
            .requests
            .iter()
            .enumerate()
            .map(|(place, (task, request))| (task, (place, request)))
            .collect();
        let of = || newest.iter();
        let expiry = |request: &RevokeRequest| request.expires_at.map(Timestamp::unix_millis);
        let (issued_at, first): (i64, i64) = sqlx::query_as(STORE)
            .bind(self.namespace.as_str())
            .bind(now)
            .bind(limit(self.requests.len()))
            .bind(of().map(|(task, _)| task.as_str()).collect::<Vec<_>>())
            .bind(of().map(|(_, (place, _))| limit(*place)).collect::<Vec<_>>())
            .bind(of().map(|(_, (_, request))| expiry(request)).collect::<Vec<_>>())
            .bind(of().map(|(_, (_, request))| to_json(request)).collect::<Vec<_>>())
            .fetch_one(conn)
            .await?;
        let versions = unsigned(first)..;
        let stored = versions.zip(&self.requests).map(|(version, (task, request))| Revocation {
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

const TAKE_BACK: &str = concat!(
    durably_draw!("1"),
    " UPDATE revocations SET version = first, gone_at = stem_now($2) + $4, request = NULL FROM drawn
    WHERE namespace = $1 AND task = $3 AND request IS NOT NULL
        AND (gone_at IS NULL OR gone_at > stem_now($2))
    RETURNING version"
);

#[async_trait]
impl Operation for Undo {
    type Output = Option<Version>;
    const ACTION: &'static str = "take a revocation back";
    const ALONE: bool = true;
    const SENDS_NEWS_FIRST: bool = true;

    fn rings(undone: &Option<Version>) -> Topics {
        if undone.is_some() { Topics::REVOCATIONS } else { Topics::NONE }
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        let version: Option<i64> = sqlx::query_scalar(TAKE_BACK)
            .bind(self.namespace.as_str())
            .bind(now)
            .bind(self.task.as_str())
            .bind(millis(TRACE_TTL))
            .fetch_optional(conn)
            .await?;
        Ok(version.map(|version| Version(unsigned(version))))
    }
}

struct Time;

#[async_trait]
impl Operation for Time {
    type Output = Timestamp;
    const ACTION: &'static str = "tell the time";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<Timestamp, Trouble> {
        let told: i64 = sqlx::query_scalar("SELECT stem_now($1)").bind(now).fetch_one(conn).await?;
        Ok(time(told))
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

/// A page as one text, a line for each change: version, time, task, and what was asked unless it was taken back. A worker
/// that starts reads a million of them, and a row of its own for each costs both sides more than all the rest. JSON has
/// no line breaks as Stem writes it, and ids have neither these nor spaces. The clock is asked once for a page.
const SINCE: &str = "
    SELECT string_agg(concat_ws(' ', version, issued_at, task, request), chr(10)) FROM (
        SELECT version, issued_at, task, request FROM revocations
        WHERE namespace = $1 AND version > $2
            AND (request IS NULL OR gone_at IS NULL OR gone_at > (SELECT stem_now($3)))
        ORDER BY version LIMIT $4
    ) AS page";

/// For the test that walks plans.
#[cfg(test)]
pub(super) const HOT: [&str; 3] = [STORE, TAKE_BACK, SINCE];

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
        let page: Option<String> = sqlx::query_scalar(SINCE)
            .bind(self.namespace.as_str())
            .bind(signed(self.after.0))
            .bind(now)
            .bind(limit(self.limit))
            .fetch_one(conn)
            .await?;
        let page = page.unwrap_or_default();
        let changes: Result<_, Fault> =
            page.lines().map(|line| change(&self.namespace, line)).collect();
        Ok(changes?)
    }
}

/// Reads a line of a page.
fn change(namespace: &Namespace, line: &str) -> Result<RevocationChange, Fault> {
    let mut parts = line.splitn(4, ' ');
    let mut part = || parts.next().unwrap_or_default();
    let (version, issued_at, task) = (part(), part(), part());
    let number = |text: &str| text.parse::<i64>().map_err(Fault::corrupt);
    let (task_id, version) = (TaskId::new(task)?, Version(unsigned(number(version)?)));
    Ok(match parts.next() {
        None => RevocationChange::Undone { task: task_id, version },
        Some(request) => RevocationChange::Revoked(Revocation {
            namespace: namespace.clone(),
            task_id,
            version,
            issued_at: time(number(issued_at)?),
            request: from_json(request)?,
        }),
    })
}

#[async_trait]
impl RevokeStore for Postgres {
    fn service(&self) -> &ServiceId {
        &self.core.service
    }

    async fn time(&self) -> Result<Option<Timestamp>, BackendError> {
        self.call(Time).await.map(Some)
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
