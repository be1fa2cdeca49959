//! What operators do to queues: count, pause, purge, give up what no worker knows.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::{Pause, QueueStatus};
use stem_core::id::{QueueName, TaskId};
use stem_core::settlement::DeadReason;
use stem_core::time::Timestamp;

use super::claim::promote;
use crate::bells::Topics;
use crate::codec::{from_json, limit, signed, time, to_json};
use crate::envelopes;
use crate::fault::Fault;
use crate::postgres::dead_letter::{self, Burial};
use crate::postgres::error::Trouble;
use crate::postgres::records;
use crate::postgres::transact::Operation;
use crate::queue_status;

/// Deliveries that one transaction gives up. The caller comes again for more.
pub(super) const BURIED: u64 = 2_000;

/// One statement, so that all counts are of one moment. What has fallen due counts as ready: the next claim takes it.
const COUNTS: &str = "
    SELECT queue, name, 'ready' AS kind, count(*) AS n FROM deliveries WHERE phase = 0 GROUP BY queue, name
    UNION ALL
    SELECT queue, name, 'ready', count(*) FROM deliveries WHERE phase = 1 AND at <= stem_now($1) GROUP BY queue, name
    UNION ALL
    SELECT queue, name, 'ready', count(*) FROM deliveries WHERE phase = 2 AND at <= stem_now($1) GROUP BY queue, name
    UNION ALL
    SELECT queue, '', 'delayed', count(*) FROM deliveries WHERE phase = 1 AND at > stem_now($1) GROUP BY queue
    UNION ALL
    SELECT queue, '', 'inflight', count(*) FROM deliveries WHERE phase = 2 AND at > stem_now($1) GROUP BY queue";

/// A queue and its pause.
type QueueRow = (String, Option<i64>, Option<String>);

pub(super) struct Count;

#[async_trait]
impl Operation for Count {
    type Output = Vec<QueueStatus>;
    const ACTION: &'static str = "count the queues";
    const READS: bool = true;

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        let queues: Vec<QueueRow> =
            sqlx::query_as("SELECT name, paused_since, pause_reason FROM queues")
                .fetch_all(&mut *conn)
                .await?;
        let counts: Vec<queue_status::Count> =
            sqlx::query_as(COUNTS).bind(now).fetch_all(conn).await?;
        let queues = queues
            .into_iter()
            .map(|(name, since, reason)| {
                let reason = reason.map(|reason| from_json(&reason)).transpose()?;
                Ok((name, since.map(|since| Pause { reason, since: time(since) })))
            })
            .collect::<Result<Vec<_>, Fault>>()?;
        Ok(queue_status::statuses(queues, counts)?)
    }
}

pub(super) struct SetPaused {
    pub(super) queue: QueueName,
    pub(super) pause: Option<Pause>,
}

#[async_trait]
impl Operation for SetPaused {
    type Output = bool;
    const ACTION: &'static str = "pause or resume a queue";
    const SENDS_NEWS_FIRST: bool = true;

    fn rings(changed: &bool) -> Topics {
        if *changed { Topics::WORK } else { Topics::NONE }
    }

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<bool, Trouble> {
        // An unchanged pause keeps the time of its beginning.
        let changed = match &self.pause {
            Some(pause) => {
                sqlx::query(
                    "INSERT INTO queues (name, paused_since, pause_reason) VALUES ($1, $2, $3)
                     ON CONFLICT (name) DO UPDATE
                     SET paused_since = excluded.paused_since, pause_reason = excluded.pause_reason
                     WHERE queues.paused_since IS NULL
                         OR queues.pause_reason IS DISTINCT FROM excluded.pause_reason",
                )
                .bind(self.queue.as_str())
                .bind(pause.since.unix_millis())
                .bind(pause.reason.as_ref().map(to_json))
                .execute(conn)
                .await?
            }
            None => {
                sqlx::query(
                    "UPDATE queues SET paused_since = NULL, pause_reason = NULL
                     WHERE name = $1 AND paused_since IS NOT NULL",
                )
                .bind(self.queue.as_str())
                .execute(conn)
                .await?
            }
        };
        Ok(changed.rows_affected() > 0)
    }
}

pub(super) struct Purge {
    pub(super) queue: QueueName,
    pub(super) records: Records,
    pub(super) max: usize,
}

/// At most $2 of queue $1, ready ones before delayed ones, with what the broker keeps of them. What is in somebody's hands
/// at this moment is passed over: it is about to be leased, or comes back after the purge.
const PURGE: &str = "
    WITH ready AS MATERIALIZED (
        SELECT task FROM deliveries WHERE queue = $1 AND phase = 0
        ORDER BY name, priority DESC, seq LIMIT $2 FOR UPDATE SKIP LOCKED
    ), delayed AS MATERIALIZED (
        SELECT task FROM deliveries WHERE queue = $1 AND phase = 1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM deliveries
        WHERE task = ANY(ARRAY(SELECT task FROM ready UNION ALL SELECT task FROM delayed LIMIT $2))
        RETURNING seq, task
    ), wires AS (
        DELETE FROM envelopes WHERE seq = ANY(ARRAY(SELECT seq FROM gone))
    ), failures AS (
        DELETE FROM delivery_failures WHERE task = ANY(ARRAY(SELECT task FROM gone))
    )
    SELECT task FROM gone";

#[async_trait]
impl Operation for Purge {
    type Output = Vec<TaskId>;
    const ACTION: &'static str = "purge a queue";

    fn rings(purged: &Vec<TaskId>) -> Topics {
        if purged.is_empty() { Topics::NONE } else { Topics::TASKS }
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        // A lease that ran out holds nothing any more.
        while promote(conn, now, self.records).await? > 0 {}
        let gone: Vec<String> = sqlx::query_scalar(PURGE)
            .bind(self.queue.as_str())
            .bind(limit(self.max))
            .fetch_all(&mut *conn)
            .await?;
        let tasks: Vec<TaskId> = gone.iter().map(TaskId::new).collect::<Result<_, _>>()?;
        if self.records == Records::Here && !tasks.is_empty() {
            records::forget(conn, &tasks).await?;
        }
        Ok(tasks)
    }
}

/// Names in use, found by hopping through the index from one group to the next: the cost is the number of groups, not
/// of rows. $1 are the known names, $2 the time since which a row must have been ready, $3 how many at most.
const UNROUTABLE: &str = "
    WITH RECURSIVE used (queue, name) AS (
        SELECT queues.name,
            (SELECT min(d.name) FROM deliveries AS d WHERE d.phase = 0 AND d.queue = queues.name)
        FROM queues
        UNION ALL
        SELECT used.queue,
            (SELECT min(d.name) FROM deliveries AS d
             WHERE d.phase = 0 AND d.queue = used.queue AND d.name > used.name)
        FROM used WHERE used.name IS NOT NULL
    )
    SELECT old.task, used.name
    FROM used CROSS JOIN LATERAL (
        SELECT task FROM deliveries AS d
        WHERE d.phase = 0 AND d.queue = used.queue AND d.name = used.name AND d.at < $2
        LIMIT $3 FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE used.name <> ALL ($1)
    LIMIT $3";

pub(super) struct BuryUnroutable {
    pub(super) known: Vec<String>,
    pub(super) since: Timestamp,
    pub(super) records: Records,
}

#[async_trait]
impl Operation for BuryUnroutable {
    type Output = u64;
    const ACTION: &'static str = "give up deliveries that no worker knows";

    fn rings(buried: &u64) -> Topics {
        if *buried > 0 { Topics::TASKS } else { Topics::NONE }
    }

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<u64, Trouble> {
        while promote(conn, now, self.records).await? > 0 {}
        let found: Vec<(String, String)> = sqlx::query_as(UNROUTABLE)
            .bind(&self.known)
            .bind(self.since.unix_millis())
            .bind(signed(BURIED))
            .fetch_all(&mut *conn)
            .await?;
        let burials: Vec<Burial> = found
            .into_iter()
            .map(|(task, name)| Burial {
                task,
                reason: DeadReason::Unroutable,
                failure: envelopes::unroutable(&name),
            })
            .collect();
        if !burials.is_empty() {
            let burials: Vec<&Burial> = burials.iter().collect();
            dead_letter::bury(conn, now, &burials).await?;
            if self.records == Records::Here {
                records::fail(conn, now, &burials).await?;
            }
        }
        Ok(burials.len() as u64)
    }
}
