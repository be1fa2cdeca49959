//! Reading records.

use sqlx::sqlite::SqliteConnection;
use stem_core::backend::result::RecordFilter;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::task::{FailedAttempt, TaskRecord, TaskState};

use crate::codec::{TaskRow, from_json, limit};
use crate::fault::Fault;

/// Each column by its name: a newer Stem may add one while this file is open, and rows that grow break the connection.
const FETCH: &str = "
    SELECT id, name, queue, state, attempt, max_retries, delivery_count, token, enqueued_at, not_before, started_at,
        finished_at, worker, progress, failure, revocation, module, usage, parent, root, result_type, result
    FROM tasks LEFT JOIN families ON families.task = tasks.id
    WHERE id = ?1";

pub(super) async fn fetch(
    conn: &mut SqliteConnection,
    task: &TaskId,
) -> Result<Option<TaskRecord>, Fault> {
    let row: Option<TaskRow> =
        sqlx::query_as(FETCH).bind(task.as_str()).fetch_optional(conn).await?;
    row.map(TaskRecord::try_from).transpose()
}

/// An argument that is NULL filters nothing. The result is left out, which keeps its pages unread.
const LIST: &str = "
    SELECT id, name, queue, state, attempt, max_retries, delivery_count, token, enqueued_at, not_before, started_at,
        finished_at, worker, progress, failure, revocation, module, usage, parent, root
    FROM tasks LEFT JOIN families ON families.task = tasks.id
    WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR queue = ?2) AND (?3 IS NULL OR name = ?3)
    ORDER BY number DESC LIMIT ?4";

pub(super) async fn list(
    conn: &mut SqliteConnection,
    filter: &RecordFilter,
) -> Result<Vec<TaskRecord>, Fault> {
    let rows: Vec<TaskRow> = sqlx::query_as(LIST)
        .bind(filter.state.map(TaskState::as_str))
        .bind(filter.queue.as_ref().map(QueueName::as_str))
        .bind(filter.name.as_ref().map(TaskName::as_str))
        .bind(limit(filter.limit))
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(TaskRecord::try_from).collect()
}

pub(super) async fn history(
    conn: &mut SqliteConnection,
    task: &TaskId,
) -> Result<Vec<FailedAttempt>, Fault> {
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT failed FROM task_failures WHERE task = ?1 ORDER BY id")
            .bind(task.as_str())
            .fetch_all(conn)
            .await?;
    rows.iter().map(|failed| from_json(failed)).collect()
}

pub(super) async fn checkpoint(
    conn: &mut SqliteConnection,
    task: &TaskId,
) -> Result<Option<Vec<u8>>, Fault> {
    Ok(sqlx::query_scalar("SELECT state FROM checkpoints WHERE task = ?1")
        .bind(task.as_str())
        .fetch_optional(conn)
        .await?)
}
