//! Writing records. Each step is a few statements inside somebody's transaction: read what fences the records, decide
//! in plain code, write the changes.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::broker::Delivery;
use stem_core::backend::result::{Begun, Recorded};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, TaskId, WorkerId};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{HISTORY, Progress};
use stem_core::time::Timestamp;

use crate::codec::{Packed, limit, signed, to_json, unsigned};
use crate::fault::Fault;
use crate::record::{Change, Head, Verdict, after_replay};
use crate::sqlite::broker::begun_rows;
use crate::sqlite::dead_letter::Burial;

/// New records, unless the tasks are known.
pub(in crate::sqlite) async fn queue(
    conn: &mut SqliteConnection,
    envelopes: &[&Envelope],
) -> Result<(), Fault> {
    let rows: Vec<_> = envelopes
        .iter()
        .map(|envelope| {
            json!([
                envelope.id,
                envelope.name,
                envelope.queue,
                envelope.retry.max_retries,
                envelope.enqueued_at.unix_millis(),
                envelope.not_before.map(Timestamp::unix_millis),
            ])
        })
        .collect();
    let children: Vec<_> = envelopes
        .iter()
        .filter_map(|envelope| envelope.family().map(|(parent, root)| (&envelope.id, parent, root)))
        .collect();
    if !children.is_empty() {
        sqlx::query(
            "INSERT INTO families (task, parent, root)
             SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1)
             WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE id = value ->> 0) ON CONFLICT DO NOTHING",
        )
        .bind(to_json(&children))
        .execute(&mut *conn)
        .await?;
    }
    sqlx::query(
        "INSERT INTO tasks (id, name, queue, state, max_retries, enqueued_at, not_before)
         SELECT value ->> 0, value ->> 1, value ->> 2, 'queued', value ->> 3, value ->> 4, value ->> 5
         FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING",
    )
    .bind(to_json(&rows))
    .execute(conn)
    .await?;
    Ok(())
}

/// What an attempt makes of its record. The guard on state and token keeps final records final.
const BEGIN: &str = "
    UPDATE tasks SET state = 'running', token = item.token, owner = ?2, attempt = item.attempt,
        delivery_count = item.deliveries, started_at = ?3, worker = ?4, progress = NULL, failure = NULL
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS token, value ->> 2 AS attempt, value ->> 3 AS deliveries
          FROM json_each(?1)) AS item
    WHERE tasks.id = item.id AND tasks.token < item.token AND tasks.state IN ('queued', 'retrying', 'running')";

/// What the broker has just delivered runs now.
pub(in crate::sqlite) async fn begin_delivered(
    conn: &mut SqliteConnection,
    now: Timestamp,
    worker: &WorkerId,
    deliveries: &[Delivery],
) -> Result<(), Fault> {
    let Some(owner) = deliveries.first().map(|delivery| delivery.receipt.owner) else {
        return Ok(());
    };
    sqlx::query(BEGIN)
        .bind(begun_rows(deliveries))
        .bind(owner.to_string())
        .bind(now.unix_millis())
        .bind(worker.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// Id, state, token, owner, settled.
type HeadRow = (String, String, i64, Option<String>, Option<i64>);

async fn heads<'a>(
    conn: &mut SqliteConnection,
    tasks: impl Iterator<Item = &'a TaskId>,
) -> Result<HashMap<String, Head>, Fault> {
    let tasks: Vec<&TaskId> = tasks.collect();
    let rows: Vec<HeadRow> = sqlx::query_as(
        "SELECT id, state, token, owner, settled FROM tasks WHERE id IN (SELECT value FROM json_each(?1))",
    )
    .bind(to_json(&tasks))
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(id, state, token, owner, settled)| {
            let state = state.parse().map_err(Fault::corrupt)?;
            let settled = settled.map(unsigned);
            Ok((id, Head { state, token: unsigned(token), owner, settled }))
        })
        .collect()
}

/// Attempts begin, as the worker says. One by one, as a batch may hold a task twice.
pub(super) async fn begin(
    conn: &mut SqliteConnection,
    batch: &[Begun],
) -> Result<Vec<Recorded>, Fault> {
    let mut recorded = Vec::with_capacity(batch.len());
    for begun in batch {
        let receipt = &begun.receipt;
        let heads = heads(conn, std::iter::once(&receipt.task)).await?;
        recorded.push(match heads.get(receipt.task.as_str()) {
            Some(head) if head.is_run_by(receipt) => Recorded::Stored,
            Some(head) if head.may_begin(receipt) => {
                let delivery =
                    json!([[receipt.task, receipt.token, begun.attempt, begun.deliveries]]);
                sqlx::query(BEGIN)
                    .bind(to_json(&delivery))
                    .bind(receipt.owner.to_string())
                    .bind(begun.at.unix_millis())
                    .bind(begun.worker.as_str())
                    .execute(&mut *conn)
                    .await?;
                Recorded::Stored
            }
            Some(_) | None => Recorded::Stale,
        });
    }
    Ok(recorded)
}

/// ?1 are the changes, ?2 the results, ?3 the tasks that are final now, whose checkpoints go. One script, as each trip
/// to SQLite's thread costs more than these statements; `?1 IS ?1` because sqlx counts on an
/// unbroken row of arguments in each statement.
const CHANGE: &str = "
    UPDATE tasks SET
        state = item.v ->> 'state',
        token = item.v ->> 'token',
        owner = item.v ->> 'owner',
        settled = item.v ->> 'token',
        attempt = coalesce(item.v ->> 'attempt', attempt),
        delivery_count = max(0, delivery_count - (item.v ->> 'given_back')),
        not_before = coalesce(item.v ->> 'not_before', not_before),
        started_at = iif(item.v ->> 'not_started', NULL, started_at),
        finished_at = coalesce(item.v ->> 'finished_at', finished_at),
        progress = iif(item.v ->> 'given_back', NULL, progress),
        failure = coalesce(item.v ->> 'failure', failure),
        revocation = coalesce(item.v ->> 'revocation', revocation),
        module = coalesce(item.v ->> 'module', module),
        usage = coalesce(item.v ->> 'usage', usage),
        result_type = coalesce(item.v ->> 'result_type', result_type),
        result = CASE item.v ->> 'result_len'
            WHEN 0 THEN x'' -- substr makes NULL of it
            ELSE coalesce(substr(?2, item.v ->> 'result_from', item.v ->> 'result_len'), result) END
    FROM (SELECT value AS v FROM json_each(?1)) AS item
    WHERE tasks.id = item.v ->> 'id';

    DELETE FROM checkpoints
    WHERE ?1 IS ?1 AND ?2 IS ?2 AND task IN (SELECT value FROM json_each(?3))";

/// The statements that run while the lock is held, for the test that walks their plans.
#[cfg(test)]
pub(in crate::sqlite) const HOT: [&str; 2] = [CHANGE, BEGIN];

/// What settlements mean for the records.
pub(in crate::sqlite) async fn settle(
    conn: &mut SqliteConnection,
    batch: &[&Settle],
) -> Result<Vec<Recorded>, Fault> {
    let tasks: HashSet<&TaskId> = batch.iter().map(|settle| &settle.receipt.task).collect();
    if tasks.len() < batch.len() {
        // A task that occurs twice must be judged by what its first settlement made of it.
        let mut recorded = Vec::with_capacity(batch.len());
        for one in batch {
            recorded.extend(settle_distinct(conn, std::slice::from_ref(one)).await?);
        }
        return Ok(recorded);
    }
    settle_distinct(conn, batch).await
}

async fn settle_distinct(
    conn: &mut SqliteConnection,
    batch: &[&Settle],
) -> Result<Vec<Recorded>, Fault> {
    let heads = heads(conn, batch.iter().map(|settle| &settle.receipt.task)).await?;
    let mut results = Packed::default();
    let mut changes = Vec::new();
    let mut ended = Vec::new();
    let mut failures = Vec::new();
    let mut recorded = Vec::with_capacity(batch.len());
    for settle in batch {
        let task = &settle.receipt.task;
        let verdict = heads.get(task.as_str()).map(|head| head.judge(settle));
        recorded.push(match verdict {
            None => Recorded::Stale,
            Some(Verdict::Nothing(answer)) => answer,
            Some(Verdict::Apply { target, begun }) => {
                changes.push(Change::new(settle, target, begun, &mut results));
                if target.is_final() {
                    ended.push(task);
                }
                if let Some(failed) = settle.failed_attempt() {
                    failures.push((task, to_json(&failed)));
                }
                Recorded::Stored
            }
        });
    }
    if !changes.is_empty() {
        sqlx::query(CHANGE)
            .bind(to_json(&changes))
            .bind(results.into_bytes())
            .bind(to_json(&ended))
            .execute(&mut *conn)
            .await?;
    }
    if !failures.is_empty() {
        remember(conn, &failures).await?;
    }
    Ok(recorded)
}

async fn remember(
    conn: &mut SqliteConnection,
    failures: &[(&TaskId, String)],
) -> Result<(), Fault> {
    sqlx::query("INSERT INTO task_failures (task, failed) SELECT value ->> 0, value ->> 1 FROM json_each(?1)")
        .bind(to_json(failures))
        .execute(&mut *conn)
        .await?;
    for (task, _) in failures {
        sqlx::query(
            "DELETE FROM task_failures WHERE id IN (
                 SELECT id FROM task_failures WHERE task = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2)",
        )
        .bind(task.as_str())
        .bind(limit(HISTORY))
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Leases ran out: what ran under these tokens waits again.
pub(in crate::sqlite) async fn lose(
    conn: &mut SqliteConnection,
    lost: &[(&str, i64)],
) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE tasks SET state = 'queued'
         FROM (SELECT value ->> 0 AS id, value ->> 1 AS token FROM json_each(?1)) AS item
         WHERE tasks.id = item.id AND tasks.token = item.token AND tasks.state = 'running'",
    )
    .bind(to_json(lost))
    .execute(conn)
    .await?;
    Ok(())
}

/// The broker gave tasks up without an attempt.
pub(in crate::sqlite) async fn fail(
    conn: &mut SqliteConnection,
    now: Timestamp,
    burials: &[Burial],
) -> Result<(), Fault> {
    let rows: Vec<_> =
        burials.iter().map(|burial| json!([burial.task, to_json(&burial.failure)])).collect();
    let rows = to_json(&rows);
    sqlx::query(
        "UPDATE tasks SET state = 'failed', failure = item.failure, finished_at = ?2
         FROM (SELECT value ->> 0 AS id, value ->> 1 AS failure FROM json_each(?1)) AS item
         WHERE tasks.id = item.id AND tasks.state IN ('queued', 'retrying', 'running')",
    )
    .bind(rows.as_str())
    .bind(now.unix_millis())
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM checkpoints WHERE task IN (SELECT value ->> 0 FROM json_each(?1))")
        .bind(rows)
        .execute(conn)
        .await?;
    Ok(())
}

/// Tasks are back in their queues with nothing used up, and nobody with the token of their dead letters has a say any more.
/// `Stale` are those that have failed under a newer one.
pub(in crate::sqlite) async fn replay(
    conn: &mut SqliteConnection,
    letters: &[(&str, LeaseToken)],
) -> Result<Vec<Recorded>, Fault> {
    let tasks: Vec<&str> = letters.iter().map(|(task, _)| *task).collect();
    let rows: Vec<_> = letters.iter().map(|(task, token)| json!([task, signed(token.0)])).collect();
    sqlx::query(
        "UPDATE tasks SET state = 'queued', token = item.token, owner = NULL, attempt = 0, delivery_count = 0,
             not_before = NULL, started_at = NULL, finished_at = NULL, progress = NULL, failure = NULL
         FROM (SELECT value ->> 0 AS id, value ->> 1 AS token FROM json_each(?1)) AS item
         WHERE tasks.id = item.id AND tasks.state = 'failed' AND tasks.token <= item.token",
    )
    .bind(to_json(&rows))
    .execute(&mut *conn)
    .await?;
    let failed: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM tasks WHERE state = 'failed' AND id IN (SELECT value FROM json_each(?1))",
    )
    .bind(to_json(&tasks))
    .fetch_all(conn)
    .await?;
    Ok(after_replay(&tasks, &failed))
}

/// One statement for each, which carries the fence itself.
pub(super) async fn progress(
    conn: &mut SqliteConnection,
    updates: &[(Receipt, Progress)],
) -> Result<Vec<Recorded>, Fault> {
    let mut recorded = Vec::with_capacity(updates.len());
    for (receipt, progress) in updates {
        let done = sqlx::query(
            "UPDATE tasks SET progress = ?4 WHERE id = ?1 AND token = ?2 AND owner = ?3 AND state = 'running'",
        )
        .bind(receipt.task.as_str())
        .bind(signed(receipt.token.0))
        .bind(receipt.owner.to_string())
        .bind(to_json(progress))
        .execute(&mut *conn)
        .await?;
        recorded.push(outcome(done.rows_affected()));
    }
    Ok(recorded)
}

/// The fence is in the select that feeds the insert.
pub(super) async fn checkpoint(
    conn: &mut SqliteConnection,
    receipt: &Receipt,
    state: &[u8],
) -> Result<Recorded, Fault> {
    let done = sqlx::query(
        "INSERT INTO checkpoints (task, state)
         SELECT id, ?4 FROM tasks WHERE id = ?1 AND token = ?2 AND owner = ?3 AND state = 'running'
         ON CONFLICT (task) DO UPDATE SET state = excluded.state",
    )
    .bind(receipt.task.as_str())
    .bind(signed(receipt.token.0))
    .bind(receipt.owner.to_string())
    .bind(state.to_vec())
    .execute(conn)
    .await?;
    Ok(outcome(done.rows_affected()))
}

fn outcome(rows: u64) -> Recorded {
    if rows > 0 { Recorded::Stored } else { Recorded::Stale }
}

/// Removes what is not final, with what hangs on it; says how much.
pub(in crate::sqlite) async fn forget(
    conn: &mut SqliteConnection,
    tasks: &[TaskId],
) -> Result<u64, Fault> {
    const LIVING: &str = "SELECT id FROM tasks WHERE finished_at IS NULL AND id IN (SELECT value FROM json_each(?1))";
    let living: Vec<String> =
        sqlx::query_scalar(LIVING).bind(to_json(tasks)).fetch_all(&mut *conn).await?;
    let ids = to_json(&living);
    for statement in [
        "DELETE FROM checkpoints WHERE task IN (SELECT value FROM json_each(?1))",
        "DELETE FROM task_failures WHERE task IN (SELECT value FROM json_each(?1))",
        "DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(?1))",
    ] {
        sqlx::query(statement).bind(ids.as_str()).execute(&mut *conn).await?;
    }
    Ok(living.len() as u64)
}

/// Removes at most so many records that became final before `before`, with what hangs on them; says how many.
pub(super) async fn prune(
    conn: &mut SqliteConnection,
    before: i64,
    max: i64,
) -> Result<u64, Fault> {
    let old: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM tasks WHERE finished_at IS NOT NULL AND finished_at < ?1 ORDER BY finished_at LIMIT ?2",
    )
    .bind(before)
    .bind(max)
    .fetch_all(&mut *conn)
    .await?;
    if !old.is_empty() {
        let ids = to_json(&old);
        for statement in [
            "DELETE FROM task_failures WHERE task IN (SELECT value FROM json_each(?1))",
            "DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(?1))",
        ] {
            sqlx::query(statement).bind(ids.as_str()).execute(&mut *conn).await?;
        }
    }
    Ok(old.len() as u64)
}
