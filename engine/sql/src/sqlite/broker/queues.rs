//! What operators do to queues: count, pause, purge, give up what no worker knows.

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::{PURGED, Pause, QueueStatus};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::settlement::DeadReason;
use stem_core::time::Timestamp;

use super::claim::promote;
use crate::codec::{limit, time, to_json};
use crate::envelopes;
use crate::fault::Fault;
use crate::queue_status::{self, Count};
use crate::sqlite::dead_letter::{self, Burial};
use crate::sqlite::records;
use crate::sqlite::writer::{Operation, Topics};

/// One statement, so that all counts are of one moment. What has fallen due counts as ready: the next claim takes it.
const COUNTS: &str = "
    SELECT queue, name, 'ready' AS kind, count(*) AS n FROM deliveries WHERE phase = 0 GROUP BY queue, name
    UNION ALL
    SELECT queue, name, 'ready', count(*) FROM deliveries WHERE phase = 1 AND at <= ?1 GROUP BY queue, name
    UNION ALL
    SELECT queue, name, 'ready', count(*) FROM deliveries WHERE phase = 2 AND at <= ?1 GROUP BY queue, name
    UNION ALL
    SELECT queue, '', 'delayed', count(*) FROM deliveries WHERE phase = 1 AND at > ?1 GROUP BY queue
    UNION ALL
    SELECT queue, '', 'inflight', count(*) FROM deliveries WHERE phase = 2 AND at > ?1 GROUP BY queue";

pub(super) async fn statuses(
    conn: &mut SqliteConnection,
    now: Timestamp,
) -> Result<Vec<QueueStatus>, Fault> {
    let queues: Vec<(String, Option<i64>, Option<String>)> =
        sqlx::query_as("SELECT name, paused_since, pause_reason FROM queues")
            .fetch_all(&mut *conn)
            .await?;
    let counts: Vec<Count> =
        sqlx::query_as(COUNTS).bind(now.unix_millis()).fetch_all(&mut *conn).await?;
    let queues = queues.into_iter().map(|(name, since, reason)| {
        (name, since.map(|since| Pause { reason, since: time(since) }))
    });
    queue_status::statuses(queues, counts)
}

pub(super) struct SetPaused {
    pub(super) queue: QueueName,
    pub(super) pause: Option<Pause>,
}

#[async_trait]
impl Operation for SetPaused {
    type Output = bool;
    const ACTION: &'static str = "pause or resume a queue";
    const RINGS: Topics = Topics::WORK;

    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<bool, Fault> {
        // An unchanged pause keeps the time of its beginning.
        let changed = match &self.pause {
            Some(pause) => {
                sqlx::query(
                    "INSERT INTO queues (name, paused_since, pause_reason) VALUES (?1, ?2, ?3)
                     ON CONFLICT (name) DO UPDATE
                     SET paused_since = excluded.paused_since, pause_reason = excluded.pause_reason
                     WHERE paused_since IS NULL OR pause_reason IS NOT excluded.pause_reason",
                )
                .bind(self.queue.as_str())
                .bind(pause.since.unix_millis())
                .bind(pause.reason.as_deref())
                .execute(conn)
                .await?
            }
            None => {
                sqlx::query(
                    "UPDATE queues SET paused_since = NULL, pause_reason = NULL
                     WHERE name = ?1 AND paused_since IS NOT NULL",
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
}

/// ?1 is the queue, ?2 how many at most.
const WAITING: &str =
    "SELECT seq, task FROM deliveries WHERE queue = ?1 AND phase < 2 ORDER BY seq LIMIT ?2";

/// ?1 are the numbers, ?2 the tasks. `?1 IS ?1` because sqlx counts on an unbroken row of arguments in each statement.
const PURGE: &str = "
    DELETE FROM deliveries WHERE seq IN (SELECT value FROM json_each(?1));
    DELETE FROM envelopes WHERE seq IN (SELECT value FROM json_each(?1));
    DELETE FROM delivery_failures WHERE ?1 IS ?1 AND task IN (SELECT value FROM json_each(?2))";

#[async_trait]
impl Operation for Purge {
    type Output = Vec<TaskId>;
    const ACTION: &'static str = "purge a queue";
    const RINGS: Topics = Topics::TASKS;

    fn wrote(purged: &Vec<TaskId>) -> bool {
        !purged.is_empty()
    }

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self::Output, Fault> {
        // A lease that ran out holds nothing any more.
        while promote(conn, now, self.records).await? {}
        let waiting: Vec<(i64, String)> = sqlx::query_as(WAITING)
            .bind(self.queue.as_str())
            .bind(limit(PURGED))
            .fetch_all(&mut *conn)
            .await?;
        let seqs: Vec<i64> = waiting.iter().map(|(seq, _)| *seq).collect();
        let tasks: Vec<TaskId> =
            waiting.iter().map(|(_, task)| TaskId::new(task)).collect::<Result<_, _>>()?;
        if !tasks.is_empty() {
            sqlx::query(PURGE)
                .bind(to_json(&seqs))
                .bind(to_json(&tasks))
                .execute(&mut *conn)
                .await?;
            if self.records == Records::Here {
                records::forget(conn, &tasks).await?;
            }
        }
        Ok(tasks)
    }
}

/// Names in use, found by hopping through the index from one group to the next: the cost is the number of groups, not
/// of rows. ?1 are the known names, ?2 the time since which a row must have been ready.
macro_rules! unroutable {
    ($columns:literal, $tail:literal) => {
        concat!(
            "
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
            SELECT ",
            $columns,
            " FROM used CROSS JOIN deliveries AS d ON d.phase = 0 AND d.queue = used.queue AND d.name = used.name
            WHERE used.name IS NOT NULL
                AND used.name NOT IN (SELECT value FROM json_each(?1))
                AND d.at < ?2",
            $tail
        )
    };
}

pub(super) async fn has_unroutable(
    conn: &mut SqliteConnection,
    known: &[TaskName],
    since: Timestamp,
) -> Result<bool, Fault> {
    // What has fallen due and was not made ready yet can only be found the long way; the writer does that.
    let due: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM deliveries WHERE phase = 1 AND at < ?1)
             OR EXISTS (SELECT 1 FROM deliveries WHERE phase = 2 AND at < ?1)",
    )
    .bind(since.unix_millis())
    .fetch_one(&mut *conn)
    .await?;
    if due {
        return Ok(true);
    }
    let found: Option<i64> = sqlx::query_scalar(unroutable!("d.seq", " LIMIT 1"))
        .bind(to_json(known))
        .bind(since.unix_millis())
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

pub(super) struct BuryUnroutable {
    pub(super) known: Vec<TaskName>,
    pub(super) since: Timestamp,
    pub(super) records: Records,
}

#[async_trait]
impl Operation for BuryUnroutable {
    type Output = u64;
    const ACTION: &'static str = "give up deliveries that no worker knows";
    const RINGS: Topics = Topics::TASKS;

    fn wrote(buried: &u64) -> bool {
        *buried > 0
    }

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<u64, Fault> {
        while promote(conn, now, self.records).await? {}
        let found: Vec<(i64, String, String)> =
            sqlx::query_as(unroutable!("d.seq, d.task, d.name", ""))
                .bind(to_json(&self.known))
                .bind(self.since.unix_millis())
                .fetch_all(&mut *conn)
                .await?;
        let burials: Vec<Burial> = found
            .into_iter()
            .map(|(seq, task, name)| {
                let failure = envelopes::unroutable(&name);
                Burial { seq, task, reason: DeadReason::Unroutable, failure }
            })
            .collect();
        if !burials.is_empty() {
            dead_letter::bury(conn, now, &burials).await?;
            if self.records == Records::Here {
                records::fail(conn, now, &burials).await?;
            }
        }
        Ok(burials.len() as u64)
    }
}
