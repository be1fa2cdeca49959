//! [`DeadLetters`] on SQLite. The envelope stays where it was; only the row that points to it moves.

use std::collections::HashMap;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, DeadLetters, RAW_BYTES, Replayed};
use stem_core::backend::{BackendError, Records, ServiceId};
use stem_core::id::{LeaseToken, QueueName, TaskId, TaskName};
use stem_core::outcome::Failure;
use stem_core::settlement::DeadReason;
use stem_core::time::Timestamp;

use super::writer::{Operation, Topics};
use super::{Sqlite, records};
use crate::codec::{from_json, limit, reason, small, time, to_json, unsigned};
use crate::fault::Fault;
use crate::replay::{self, Row};

/// One delivery to give up.
pub(super) struct Burial {
    pub(super) seq: i64,
    pub(super) task: String,
    pub(super) reason: DeadReason,
    pub(super) failure: Failure,
}

/// Moves deliveries to the dead letters. Both statements run in the caller's transaction, so a task is never in both
/// places nor in none.
pub(super) async fn bury(
    conn: &mut SqliteConnection,
    now: Timestamp,
    burials: &[Burial],
) -> Result<(), Fault> {
    let rows: Vec<_> = burials
        .iter()
        .map(|burial| json!([burial.seq, burial.reason.as_str(), to_json(&burial.failure)]))
        .collect();
    let rows = to_json(&rows);
    sqlx::query(
        "INSERT INTO dead_letters
             (seq, task, queue, name, tenant, priority, token, deliveries, unique_key, reason, failure, dead_at)
         SELECT d.seq, d.task, d.queue, d.name, d.tenant, d.priority, d.token, d.deliveries, d.unique_key,
             item.value ->> 1, item.value ->> 2, ?2
         FROM json_each(?1) AS item CROSS JOIN deliveries AS d ON d.seq = item.value ->> 0",
    )
    .bind(rows.as_str())
    .bind(now.unix_millis())
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM deliveries WHERE seq IN (SELECT value ->> 0 FROM json_each(?1))")
        .bind(rows)
        .execute(conn)
        .await?;
    Ok(())
}

/// Cuts bytes that are not an envelope to what is kept of them.
pub(super) async fn bury_bytes(conn: &mut SqliteConnection, seqs: &[i64]) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE envelopes SET wire = substr(wire, 1, ?2)
         WHERE seq IN (SELECT value FROM json_each(?1)) AND length(wire) > ?2",
    )
    .bind(to_json(seqs))
    .bind(limit(RAW_BYTES))
    .execute(conn)
    .await?;
    Ok(())
}

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

/// An argument that is NULL filters nothing.
const LIST: &str = "
    SELECT x.task, x.queue, x.name, x.reason, x.failure, x.deliveries, x.token, x.dead_at, e.wire
    FROM dead_letters AS x LEFT JOIN envelopes AS e ON e.seq = x.seq
    WHERE (?1 IS NULL OR x.task IN (SELECT value FROM json_each(?1)))
        AND (?2 IS NULL OR x.queue = ?2)
        AND (?3 IS NULL OR x.name = ?3)
        AND (?4 IS NULL OR x.reason = ?4)
        AND (?5 IS NULL OR x.dead_at >= ?5)
    ORDER BY x.dead_at, x.seq LIMIT ?6";

const HISTORIES: &str = "
    SELECT task, failed FROM delivery_failures WHERE task IN (SELECT value FROM json_each(?1)) ORDER BY id";

async fn list(conn: &mut SqliteConnection, filter: &DeadFilter) -> Result<Vec<DeadLetter>, Fault> {
    let rows: Vec<DeadRow> = sqlx::query_as(LIST)
        .bind((!filter.tasks.is_empty()).then(|| to_json(&filter.tasks)))
        .bind(filter.queue.as_ref().map(QueueName::as_str))
        .bind(filter.name.as_ref().map(TaskName::as_str))
        .bind(filter.reason.map(DeadReason::as_str))
        .bind(filter.since.map(Timestamp::unix_millis))
        .bind(limit(filter.limit))
        .fetch_all(&mut *conn)
        .await?;
    let tasks: Vec<&str> = rows.iter().map(|row| row.task.as_str()).collect();
    let failed: Vec<(String, String)> =
        sqlx::query_as(HISTORIES).bind(to_json(&tasks)).fetch_all(conn).await?;
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

struct Replay {
    letters: Vec<(TaskId, LeaseToken)>,
    records: Records,
}

/// The token goes on from where it was, so that whoever still holds an old one stays refused. A unique key that
/// another task has taken meanwhile is left to it.
const REVIVE: &str = "
    INSERT INTO deliveries (seq, task, queue, name, tenant, phase, priority, at, token, unique_key)
    SELECT x.seq, x.task, x.queue, x.name, x.tenant, 0, x.priority, ?2, x.token,
        CASE WHEN EXISTS (SELECT 1 FROM deliveries AS d WHERE d.unique_key = x.unique_key)
            THEN NULL ELSE x.unique_key END
    FROM dead_letters AS x WHERE x.task = ?1";

#[async_trait]
impl Operation for Replay {
    type Output = Vec<Replayed>;
    const ACTION: &'static str = "replay dead letters";
    const RINGS: Topics = Topics::TASKS;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self::Output, Fault> {
        let tasks: Vec<&TaskId> = self.letters.iter().map(|(task, _)| task).collect();
        let dead: Vec<Row> = sqlx::query_as(
            "SELECT x.task, x.token, e.wire FROM dead_letters AS x LEFT JOIN envelopes AS e ON e.seq = x.seq
             WHERE x.task IN (SELECT value FROM json_each(?1))",
        )
        .bind(to_json(&tasks))
        .fetch_all(&mut *conn)
        .await?;
        let (replayed, queued) = replay::judge(dead, &self.letters);
        // One by one: of two dead letters with one unique key only the first gets it back.
        for (task, _) in &queued {
            sqlx::query(REVIVE).bind(*task).bind(now.unix_millis()).execute(&mut *conn).await?;
            sqlx::query("DELETE FROM dead_letters WHERE task = ?1")
                .bind(*task)
                .execute(&mut *conn)
                .await?;
        }
        if self.records == Records::Here && !queued.is_empty() {
            records::replay(conn, &queued).await?;
        }
        Ok(replayed)
    }
}

struct Purge {
    tasks: Vec<TaskId>,
}

/// What hangs on the dead letters goes first, while it can still be named.
const PURGE: [&str; 3] = [
    "DELETE FROM envelopes WHERE seq IN (
         SELECT seq FROM dead_letters WHERE task IN (SELECT value FROM json_each(?1)))",
    "DELETE FROM delivery_failures WHERE task IN (
         SELECT task FROM dead_letters WHERE task IN (SELECT value FROM json_each(?1)))",
    "DELETE FROM dead_letters WHERE task IN (SELECT value FROM json_each(?1))",
];

#[async_trait]
impl Operation for Purge {
    type Output = u64;
    const ACTION: &'static str = "remove dead letters";
    const RINGS: Topics = Topics::TASKS;

    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<u64, Fault> {
        let tasks = to_json(&self.tasks);
        let mut purged = 0;
        for statement in PURGE {
            let done = sqlx::query(statement).bind(tasks.as_str()).execute(&mut *conn).await?;
            purged = done.rows_affected();
        }
        Ok(purged)
    }
}

#[async_trait]
impl DeadLetters for Sqlite {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn list(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, BackendError> {
        let listed = async {
            let mut reader = self.reader().await?;
            list(&mut reader, filter).await
        };
        self.bounded("list dead letters", listed).await
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, BackendError> {
        self.write(Replay { letters: letters.to_vec(), records }).await
    }

    async fn purge(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        self.write(Purge { tasks: tasks.to_vec() }).await
    }
}
