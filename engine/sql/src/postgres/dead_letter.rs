//! [`DeadLetters`] on Postgres. The envelope stays where it was; only the row that points to it moves.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, DeadLetters, RAW_BYTES, Replayed};
use stem_core::backend::{BackendError, Records, ServiceId};
use stem_core::id::{LeaseToken, QueueName, TaskId, TaskName};
use stem_core::outcome::Failure;
use stem_core::settlement::DeadReason;
use stem_core::time::Timestamp;

use super::error::Trouble;
use super::transact::Operation;
use super::{Postgres, records};
use crate::bells::Topics;
use crate::codec::{from_json, limit, reason, small, time, to_json, unsigned};
use crate::replay::{self, Row};

/// One delivery to give up.
pub(super) struct Burial {
    pub(super) task: String,
    pub(super) reason: DeadReason,
    pub(super) failure: Failure,
}

const BURY: &str = "
    WITH gone AS (
        DELETE FROM deliveries AS d USING unnest($1::text[], $2::text[], $3::text[]) AS item (task, reason, failure)
        WHERE d.task = item.task AND d.task = ANY($1)
        RETURNING d.seq, d.task, d.queue, d.name, d.tenant, d.priority, d.token, d.deliveries, d.unique_key, item.reason,
            item.failure
    )
    INSERT INTO dead_letters
        (seq, task, queue, name, tenant, priority, token, deliveries, unique_key, reason, failure, dead_at)
    SELECT gone.*, stem_now($4) FROM gone";

/// For the test that walks plans.
#[cfg(test)]
pub(super) const HOT: [&str; 3] = [BURY, DEAD, REVIVE];

/// Moves deliveries, which the caller has locked, to the dead letters. It is one statement, so a task is never in both
/// places nor in none.
pub(super) async fn bury(
    conn: &mut PgConnection,
    now: Option<i64>,
    burials: &[&Burial],
) -> Result<(), Trouble> {
    let of = || burials.iter();
    sqlx::query(BURY)
        .bind(of().map(|burial| burial.task.as_str()).collect::<Vec<_>>())
        .bind(of().map(|burial| burial.reason.as_str()).collect::<Vec<_>>())
        .bind(of().map(|burial| to_json(&burial.failure)).collect::<Vec<_>>())
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Cuts bytes that are not an envelope to what is kept of them. Before the burial, while they can be found by the task.
pub(super) async fn cut(conn: &mut PgConnection, burials: &[&Burial]) -> Result<(), Trouble> {
    let tasks: Vec<&str> = burials.iter().map(|burial| burial.task.as_str()).collect();
    sqlx::query(
        "UPDATE envelopes SET wire = substr(wire, 1, $2::int)
         WHERE seq = ANY(ARRAY(SELECT seq FROM deliveries WHERE task = ANY($1))) AND length(wire) > $2",
    )
    .bind(tasks)
    .bind(limit(RAW_BYTES))
    .execute(conn)
    .await?;
    Ok(())
}

struct List(DeadFilter);

#[derive(sqlx::FromRow)]
struct DeadRow {
    task: String,
    queue: String,
    name: String,
    reason: String,
    failure: String,
    deliveries: i64,
    token: i64,
    dead_at: i64,
    wire: Option<Vec<u8>>,
}

/// Named ones are found by their names, the others in the order in which they are listed. An argument that is NULL
/// filters nothing.
macro_rules! list {
    ($named:literal) => {
        concat!(
            "
            SELECT x.task, x.queue, x.name, x.reason, x.failure, x.deliveries, x.token, x.dead_at,
                (SELECT wire FROM envelopes WHERE envelopes.seq = x.seq) AS wire
            FROM dead_letters AS x
            WHERE ",
            $named,
            "
                AND ($2 IS NULL OR x.queue = $2)
                AND ($3 IS NULL OR x.name = $3)
                AND ($4 IS NULL OR x.reason = $4)
                AND ($5 IS NULL OR x.dead_at >= $5)
            ORDER BY x.dead_at, x.seq LIMIT $6"
        )
    };
}

#[async_trait]
impl Operation for List {
    type Output = Vec<DeadLetter>;
    const ACTION: &'static str = "list dead letters";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        let filter = &self.0;
        let named: Vec<&str> = filter.tasks.iter().map(TaskId::as_str).collect();
        let list =
            if named.is_empty() { list!("$1 IS NOT NULL") } else { list!("x.task = ANY($1)") };
        let rows: Vec<DeadRow> = sqlx::query_as(list)
            .bind(named)
            .bind(filter.queue.as_ref().map(QueueName::as_str))
            .bind(filter.name.as_ref().map(TaskName::as_str))
            .bind(filter.reason.map(DeadReason::as_str))
            .bind(filter.since.map(Timestamp::unix_millis))
            .bind(limit(filter.limit))
            .fetch_all(&mut *conn)
            .await?;
        let tasks: Vec<&str> = rows.iter().map(|row| row.task.as_str()).collect();
        let failed: Vec<(String, String)> = sqlx::query_as(
            "SELECT task, failed FROM delivery_failures WHERE task = ANY($1) ORDER BY id",
        )
        .bind(tasks)
        .fetch_all(conn)
        .await?;
        let mut histories: HashMap<String, Vec<_>> = HashMap::new();
        for (task, failed) in failed {
            histories.entry(task).or_default().push(from_json(&failed)?);
        }
        rows.into_iter()
            .map(|row| {
                Ok(DeadLetter {
                    history: histories.remove(&row.task).unwrap_or_default(),
                    task: TaskId::new(&row.task)?,
                    queue: QueueName::new(&row.queue)?,
                    name: TaskName::new(&row.name)?,
                    reason: reason(&row.reason)?,
                    failure: from_json(&row.failure)?,
                    deliveries: small(row.deliveries),
                    token: LeaseToken(unsigned(row.token)),
                    dead_at: time(row.dead_at),
                    envelope: row.wire.unwrap_or_default(),
                })
            })
            .collect()
    }
}

struct Replay {
    letters: Vec<(TaskId, LeaseToken)>,
    records: Records,
}

/// What is dead of $1, from here on locked.
const DEAD: &str = "
    SELECT x.task, x.token, (SELECT wire FROM envelopes WHERE envelopes.seq = x.seq) FROM dead_letters AS x
    WHERE x.task = ANY($1) ORDER BY x.task FOR UPDATE OF x";

/// Tokens go on from where they were, so that whoever still holds an old one stays refused. A unique key that another
/// task has taken meanwhile is left to it; of two that had one key the first gets it back. Inserts fewer than it removes
/// if somebody takes a key at this very moment.
const REVIVE: &str = "
    WITH gone AS (
        DELETE FROM dead_letters AS x USING unnest($1::text[]) WITH ORDINALITY AS item (task, place)
        WHERE x.task = item.task AND x.task = ANY($1)
        RETURNING x.*, item.place
    ), ranked AS MATERIALIZED (
        SELECT gone.*, row_number() OVER (PARTITION BY unique_key ORDER BY place) AS rank FROM gone
    )
    INSERT INTO deliveries (seq, task, queue, name, tenant, phase, priority, at, token, unique_key)
    SELECT seq, task, queue, name, tenant, 0, priority, stem_now($2), token,
        CASE WHEN rank = 1 AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.unique_key = ranked.unique_key)
            THEN unique_key END
    FROM ranked ORDER BY unique_key, task
    ON CONFLICT DO NOTHING";

#[async_trait]
impl Operation for Replay {
    type Output = Vec<Replayed>;
    const ACTION: &'static str = "replay dead letters";
    const SENDS_NEWS_FIRST: bool = true;

    fn rings(replayed: &Vec<Replayed>) -> Topics {
        if replayed.contains(&Replayed::Queued) { Topics::TASKS } else { Topics::NONE }
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        let tasks: Vec<&str> = self.letters.iter().map(|(task, _)| task.as_str()).collect();
        let dead: Vec<Row> = sqlx::query_as(DEAD).bind(tasks).fetch_all(&mut *conn).await?;
        let (replayed, queued) = replay::judge(dead, &self.letters);
        if !queued.is_empty() {
            let tasks: Vec<&str> = queued.iter().map(|(task, _)| *task).collect();
            let revived = sqlx::query(REVIVE).bind(tasks).bind(now).execute(&mut *conn).await?;
            if revived.rows_affected() < queued.len() as u64 {
                return Err(Trouble::Moved);
            }
            if self.records == Records::Here {
                records::replay(conn, &queued).await?;
            }
        }
        Ok(replayed)
    }
}

struct Purge(Vec<TaskId>);

#[async_trait]
impl Operation for Purge {
    type Output = u64;
    const ACTION: &'static str = "remove dead letters";

    fn rings(purged: &u64) -> Topics {
        if *purged > 0 { Topics::RECORDS } else { Topics::NONE }
    }

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<u64, Trouble> {
        let tasks: Vec<&str> = self.0.iter().map(TaskId::as_str).collect();
        let purged: i64 = sqlx::query_scalar(
            "WITH gone AS (
                 DELETE FROM dead_letters WHERE task = ANY($1) RETURNING seq, task
             ), wires AS (
                 DELETE FROM envelopes WHERE seq = ANY(ARRAY(SELECT seq FROM gone))
             ), failures AS (
                 DELETE FROM delivery_failures WHERE task = ANY(ARRAY(SELECT task FROM gone))
             )
             SELECT count(*) FROM gone",
        )
        .bind(tasks)
        .fetch_one(conn)
        .await?;
        Ok(unsigned(purged))
    }
}

#[async_trait]
impl DeadLetters for Postgres {
    fn service(&self) -> &ServiceId {
        &self.core.service
    }

    async fn list(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, BackendError> {
        self.call(List(filter.clone())).await
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, BackendError> {
        self.call(Replay { letters: letters.to_vec(), records }).await
    }

    async fn purge(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        self.call(Purge(tasks.to_vec())).await
    }
}
