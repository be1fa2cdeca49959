//! Writing records. Each step is a few statements inside somebody's transaction: lock and read what fences the records,
//! decide in plain code, write the changes. Rows are locked in the order of their ids.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgConnection;
use stem_core::backend::result::{Begun, RECORD_TTL, Recorded};
use stem_core::envelope::Envelope;
use stem_core::id::{LeaseToken, TaskId};
use stem_core::settlement::{Receipt, Settle};
use stem_core::task::{HISTORY, Progress};
use stem_core::time::Timestamp;

use crate::codec::{Packed, limit, millis, signed, to_json, unsigned};
use crate::fault::Fault;
use crate::postgres::dead_letter::Burial;
use crate::postgres::error::Trouble;
use crate::record::{Change, Head, Verdict, after_replay};

/// New records, unless the tasks are known. Numbers are drawn in the order of the batch, rows inserted in that of ids.
const QUEUE: &str = "
    WITH item AS MATERIALIZED (
        SELECT nextval('numbers') AS number, item.*
        FROM (
            SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::text[], $8::text[])
                AS item (id, name, queue, max_retries, enqueued_at, not_before, parent, root)
        ) AS item
    )
    INSERT INTO tasks (number, id, name, queue, state, max_retries, enqueued_at, not_before, parent, root)
    SELECT number, id, name, queue, 'queued', max_retries, enqueued_at, not_before, parent, root FROM item ORDER BY id
    ON CONFLICT (id) DO NOTHING";

pub(super) async fn queue(conn: &mut PgConnection, envelopes: &[Envelope]) -> Result<(), Trouble> {
    let of = || envelopes.iter();
    sqlx::query(QUEUE)
        .bind(of().map(|it| it.id.as_str()).collect::<Vec<_>>())
        .bind(of().map(|it| it.name.as_str()).collect::<Vec<_>>())
        .bind(of().map(|it| it.queue.as_str()).collect::<Vec<_>>())
        .bind(of().map(|it| i64::from(it.retry.max_retries)).collect::<Vec<_>>())
        .bind(of().map(|it| it.enqueued_at.unix_millis()).collect::<Vec<_>>())
        .bind(of().map(|it| it.not_before.map(Timestamp::unix_millis)).collect::<Vec<_>>())
        .bind(of().map(|it| it.family().map(|(parent, _)| parent.as_str())).collect::<Vec<_>>())
        .bind(of().map(|it| it.family().map(|(_, root)| root.as_str())).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

/// What an attempt makes of its record. The guard on state and token keeps final records final.
const BEGIN: &str = "
    UPDATE tasks SET state = 'running', token = $2, owner = $3, attempt = $4, delivery_count = $5, started_at = $6,
        worker = $7, progress = NULL, failure = NULL
    WHERE id = $1 AND token < $2 AND state IN ('queued', 'retrying', 'running')";

/// Id, state, token, owner, settled.
type HeadRow = (String, String, i64, Option<String>, Option<i64>);

const HEADS: &str = "
    SELECT id, state, token, owner, settled FROM tasks WHERE id = ANY($1) ORDER BY id FOR UPDATE";

/// What fences these records, from here on locked.
async fn heads<'a>(
    conn: &mut PgConnection,
    tasks: impl Iterator<Item = &'a TaskId>,
) -> Result<HashMap<String, Head>, Trouble> {
    let tasks: Vec<&str> = tasks.map(TaskId::as_str).collect();
    let rows: Vec<HeadRow> = sqlx::query_as(HEADS).bind(tasks).fetch_all(conn).await?;
    rows.into_iter()
        .map(|(id, state, token, owner, settled)| {
            let state = state.parse().map_err(Fault::corrupt)?;
            let settled = settled.map(unsigned);
            Ok((id, Head { state, token: unsigned(token), owner, settled }))
        })
        .collect()
}

/// Attempts begin, as the worker says. One by one, as a batch may hold a task twice; the workers that say so by
/// themselves keep their records elsewhere than their deliveries, and batches are small.
pub(super) async fn begin(
    conn: &mut PgConnection,
    batch: &[Begun],
) -> Result<Vec<Recorded>, Trouble> {
    let mut heads = heads(conn, batch.iter().map(|begun| &begun.receipt.task)).await?;
    let mut recorded = Vec::with_capacity(batch.len());
    for begun in batch {
        let receipt = &begun.receipt;
        let head = heads.get_mut(receipt.task.as_str());
        recorded.push(match head {
            Some(head) if head.is_run_by(receipt) => Recorded::Stored,
            Some(head) if head.may_begin(receipt) => {
                sqlx::query(BEGIN)
                    .bind(receipt.task.as_str())
                    .bind(signed(receipt.token.0))
                    .bind(receipt.owner.to_string())
                    .bind(i64::from(begun.attempt))
                    .bind(i64::from(begun.deliveries))
                    .bind(begun.at.unix_millis())
                    .bind(begun.worker.as_str())
                    .execute(&mut *conn)
                    .await?;
                head.begin(receipt);
                Recorded::Stored
            }
            Some(_) | None => Recorded::Stale,
        });
    }
    Ok(recorded)
}

/// $1 are the changes, $2 the results, $3 the tasks that are final now, whose checkpoints go; $4 are all tasks, see `place`
/// for why they are named again.
const CHANGE: &str = "
    WITH ended AS (
        DELETE FROM checkpoints WHERE task = ANY($3)
    )
    UPDATE tasks SET
        state = item.state,
        token = item.token,
        owner = item.owner,
        settled = item.token,
        attempt = coalesce(item.attempt, tasks.attempt),
        delivery_count = greatest(0, tasks.delivery_count - item.given_back),
        not_before = coalesce(item.not_before, tasks.not_before),
        started_at = CASE item.not_started WHEN 1 THEN NULL ELSE tasks.started_at END,
        finished_at = coalesce(item.finished_at, tasks.finished_at),
        progress = CASE item.given_back WHEN 1 THEN NULL ELSE tasks.progress END,
        failure = coalesce(item.failure, tasks.failure),
        revocation = coalesce(item.revocation, tasks.revocation),
        module = coalesce(item.module, tasks.module),
        usage = coalesce(item.usage, tasks.usage),
        result_type = coalesce(item.result_type, tasks.result_type),
        result = coalesce(substr($2::bytea, item.result_from, item.result_len), tasks.result)
    FROM json_to_recordset($1::json) AS item (
        id text, state text, token bigint, owner text, attempt bigint, given_back bigint, not_started int,
        not_before bigint, finished_at bigint, failure text, revocation text, module text, usage text, result_type text,
        result_from int, result_len int
    )
    WHERE tasks.id = item.id AND tasks.id = ANY($4)";

/// $3 are the tasks whose history may be full; see the broker's own statement of this kind.
const REMEMBER: &str = "
    WITH old AS (
        DELETE FROM task_failures AS f WHERE f.task = ANY($3) AND f.id <= (
            SELECT id FROM task_failures WHERE task = f.task ORDER BY id DESC OFFSET $4 LIMIT 1
        )
    )
    INSERT INTO task_failures (task, failed) SELECT * FROM unnest($1::text[], $2::text[])";

/// For the test that walks plans.
#[cfg(test)]
pub(in crate::postgres) const HOT: [&str; 6] = [QUEUE, BEGIN, HEADS, CHANGE, REMEMBER, PROGRESS];

/// What settlements mean for the records.
pub(in crate::postgres) async fn settle(
    conn: &mut PgConnection,
    batch: &[&Settle],
) -> Result<Vec<Recorded>, Trouble> {
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
    conn: &mut PgConnection,
    batch: &[&Settle],
) -> Result<Vec<Recorded>, Trouble> {
    let heads = heads(conn, batch.iter().map(|settle| &settle.receipt.task)).await?;
    let mut results = Packed::default();
    let mut changes = Vec::new();
    let (mut changed, mut ended) = (Vec::new(), Vec::new());
    let (mut failed, mut failures) = (Vec::new(), Vec::new());
    let mut recorded = Vec::with_capacity(batch.len());
    for settle in batch {
        let task = settle.receipt.task.as_str();
        let verdict = heads.get(task).map(|head| head.judge(settle));
        recorded.push(match verdict {
            None => Recorded::Stale,
            Some(Verdict::Nothing(answer)) => answer,
            Some(Verdict::Apply { target, begun }) => {
                changes.push(Change::new(settle, target, begun, &mut results));
                changed.push(task);
                if target.is_final() {
                    ended.push(task);
                }
                if let Some(attempt) = settle.failed_attempt() {
                    failed.push(task);
                    failures.push(to_json(&attempt));
                }
                Recorded::Stored
            }
        });
    }
    if !changes.is_empty() {
        sqlx::query(CHANGE)
            .bind(to_json(&changes))
            .bind(results.into_bytes())
            .bind(ended)
            .bind(changed)
            .execute(&mut *conn)
            .await?;
    }
    if !failed.is_empty() {
        sqlx::query(REMEMBER)
            .bind(&failed)
            .bind(failures)
            .bind(&failed)
            .bind(limit(HISTORY - 1))
            .execute(conn)
            .await?;
    }
    Ok(recorded)
}

/// The broker gave tasks up without an attempt.
pub(in crate::postgres) async fn fail(
    conn: &mut PgConnection,
    now: Option<i64>,
    burials: &[&Burial],
) -> Result<(), Trouble> {
    let tasks: Vec<&str> = burials.iter().map(|burial| burial.task.as_str()).collect();
    let failures: Vec<String> = burials.iter().map(|burial| to_json(&burial.failure)).collect();
    sqlx::query(
        "WITH ended AS (
             DELETE FROM checkpoints WHERE task = ANY($1)
         )
         UPDATE tasks SET state = 'failed', failure = item.failure, finished_at = stem_now($3)
         FROM unnest($1, $2::text[]) AS item (id, failure)
         WHERE tasks.id = item.id AND tasks.id = ANY($1) AND tasks.state IN ('queued', 'retrying', 'running')",
    )
    .bind(tasks)
    .bind(failures)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Tasks are back in their queues with nothing used up, and nobody with the token of their dead letters has a say any more.
/// `Stale` are those that have failed under a newer one.
pub(in crate::postgres) async fn replay(
    conn: &mut PgConnection,
    letters: &[(&str, LeaseToken)],
) -> Result<Vec<Recorded>, Trouble> {
    let tasks: Vec<&str> = letters.iter().map(|(task, _)| *task).collect();
    let tokens: Vec<i64> = letters.iter().map(|(_, token)| signed(token.0)).collect();
    // Locked in their order, so that what is read at the end is what this has left.
    sqlx::query(HEADS).bind(&tasks).execute(&mut *conn).await?;
    sqlx::query(
        "UPDATE tasks SET state = 'queued', token = item.token, owner = NULL, attempt = 0, delivery_count = 0,
             not_before = NULL, started_at = NULL, finished_at = NULL, progress = NULL, failure = NULL
         FROM unnest($1::text[], $2::bigint[]) AS item (id, token)
         WHERE tasks.id = item.id AND tasks.id = ANY($1) AND tasks.state = 'failed' AND tasks.token <= item.token",
    )
    .bind(&tasks)
    .bind(tokens)
    .execute(&mut *conn)
    .await?;
    let failed: Vec<String> =
        sqlx::query_scalar("SELECT id FROM tasks WHERE state = 'failed' AND id = ANY($1)")
            .bind(&tasks)
            .fetch_all(conn)
            .await?;
    Ok(after_replay(&tasks, &failed))
}

/// The fence is in the statement itself.
const PROGRESS: &str = "
    UPDATE tasks SET progress = item.progress
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) AS item (id, token, owner, progress)
    WHERE tasks.id = item.id AND tasks.id = ANY($1) AND tasks.token = item.token AND tasks.owner = item.owner
        AND tasks.state = 'running'
    RETURNING tasks.id, tasks.token, tasks.owner";

/// The last report of one attempt is the newest.
pub(super) async fn progress(
    conn: &mut PgConnection,
    updates: &[(Receipt, Progress)],
) -> Result<Vec<Recorded>, Trouble> {
    let newest: HashMap<&Receipt, &Progress> =
        updates.iter().map(|(receipt, progress)| (receipt, progress)).collect();
    let mut newest: Vec<(&Receipt, &Progress)> = newest.into_iter().collect();
    newest.sort_by_key(|(receipt, _)| &receipt.task);
    let of = || newest.iter();
    let stored: Vec<(String, i64, String)> = sqlx::query_as(PROGRESS)
        .bind(of().map(|(receipt, _)| receipt.task.as_str()).collect::<Vec<_>>())
        .bind(of().map(|(receipt, _)| signed(receipt.token.0)).collect::<Vec<_>>())
        .bind(of().map(|(receipt, _)| receipt.owner.to_string()).collect::<Vec<_>>())
        .bind(of().map(|(_, progress)| to_json(progress)).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    let stored: HashSet<(String, i64, String)> = stored.into_iter().collect();
    let answer = |(receipt, _): &(Receipt, Progress)| {
        let Receipt { task, token, owner, .. } = receipt;
        let found = stored.contains(&(task.to_string(), signed(token.0), owner.to_string()));
        if found { Recorded::Stored } else { Recorded::Stale }
    };
    Ok(updates.iter().map(answer).collect())
}

/// The fence is in the select that feeds the insert; it holds the record until the end, so that it does not become final
/// before its checkpoint is there to be removed.
pub(super) async fn checkpoint(
    conn: &mut PgConnection,
    receipt: &Receipt,
    state: &[u8],
) -> Result<Recorded, Trouble> {
    let done = sqlx::query(
        "WITH run AS MATERIALIZED (
             SELECT id FROM tasks WHERE id = $1 AND token = $2 AND owner = $3 AND state = 'running' FOR UPDATE
         )
         INSERT INTO checkpoints (task, state) SELECT id, $4 FROM run
         ON CONFLICT (task) DO UPDATE SET state = excluded.state",
    )
    .bind(receipt.task.as_str())
    .bind(signed(receipt.token.0))
    .bind(receipt.owner.to_string())
    .bind(state)
    .execute(conn)
    .await?;
    Ok(if done.rows_affected() > 0 { Recorded::Stored } else { Recorded::Stale })
}

/// Removes what is not final, with what hangs on it; says how much.
pub(in crate::postgres) async fn forget(
    conn: &mut PgConnection,
    tasks: &[TaskId],
) -> Result<u64, Trouble> {
    let tasks: Vec<&str> = tasks.iter().map(TaskId::as_str).collect();
    let removed: i64 = sqlx::query_scalar(
        "WITH living AS MATERIALIZED (
             SELECT id FROM tasks WHERE id = ANY($1) AND finished_at IS NULL ORDER BY id FOR UPDATE
         ), records AS (
             DELETE FROM tasks WHERE id = ANY(ARRAY(SELECT id FROM living))
         ), states AS (
             DELETE FROM checkpoints WHERE task = ANY(ARRAY(SELECT id FROM living))
         ), failures AS (
             DELETE FROM task_failures WHERE task = ANY(ARRAY(SELECT id FROM living))
         )
         SELECT count(*) FROM living",
    )
    .bind(tasks)
    .fetch_one(conn)
    .await?;
    Ok(unsigned(removed))
}

/// Removes at most so many records that are older than their time, with what hangs on them; says how many. What others
/// are changing at this moment is left for the next time.
pub(super) async fn prune(
    conn: &mut PgConnection,
    now: Option<i64>,
    max: i64,
) -> Result<u64, Trouble> {
    let removed: i64 = sqlx::query_scalar(
        "WITH old AS MATERIALIZED (
             SELECT id FROM tasks WHERE finished_at IS NOT NULL AND finished_at < stem_now($1) - $2
             ORDER BY finished_at LIMIT $3 FOR UPDATE SKIP LOCKED
         ), records AS (
             DELETE FROM tasks WHERE id = ANY(ARRAY(SELECT id FROM old))
         ), states AS (
             DELETE FROM checkpoints WHERE task = ANY(ARRAY(SELECT id FROM old))
         ), failures AS (
             DELETE FROM task_failures WHERE task = ANY(ARRAY(SELECT id FROM old))
         )
         SELECT count(*) FROM old",
    )
    .bind(now)
    .bind(millis(RECORD_TTL))
    .bind(max)
    .fetch_one(conn)
    .await?;
    Ok(unsigned(removed))
}
