//! Reading records.

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::result::RecordFilter;
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::task::{FailedAttempt, TaskRecord, TaskState};

use crate::codec::{TaskRow, from_json, limit};
use crate::fault::Fault;
use crate::postgres::error::Trouble;
use crate::postgres::transact::Operation;

pub(super) struct Fetch(pub(super) TaskId);

#[async_trait]
impl Operation for Fetch {
    type Output = Option<TaskRecord>;
    const ACTION: &'static str = "read a task's record";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        let row: Option<TaskRow> = sqlx::query_as(
            "SELECT id, name, queue, state, attempt, max_retries, delivery_count, token, enqueued_at, not_before,
                 started_at, finished_at, worker, progress, failure, revocation, module, usage, parent, root, result_type,
                 result
             FROM tasks WHERE id = $1",
        )
        .bind(self.0.as_str())
        .fetch_optional(conn)
        .await?;
        Ok(row.map(TaskRecord::try_from).transpose()?)
    }
}

pub(super) struct List(pub(super) RecordFilter);

/// An argument that is NULL filters nothing. The result is left out, which may be long and is then not read.
const LIST: &str = "
    SELECT id, name, queue, state, attempt, max_retries, delivery_count, token, enqueued_at, not_before, started_at,
        finished_at, worker, progress, failure, revocation, module, usage, parent, root
    FROM tasks
    WHERE ($1 IS NULL OR state = $1) AND ($2 IS NULL OR queue = $2) AND ($3 IS NULL OR name = $3)
    ORDER BY number DESC LIMIT $4";

#[async_trait]
impl Operation for List {
    type Output = Vec<TaskRecord>;
    const ACTION: &'static str = "list tasks";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        let filter = &self.0;
        let rows: Vec<TaskRow> = sqlx::query_as(LIST)
            .bind(filter.state.map(TaskState::as_str))
            .bind(filter.queue.as_ref().map(QueueName::as_str))
            .bind(filter.name.as_ref().map(TaskName::as_str))
            .bind(limit(filter.limit))
            .fetch_all(conn)
            .await?;
        Ok(rows.into_iter().map(TaskRecord::try_from).collect::<Result<_, _>>()?)
    }
}

pub(super) struct History(pub(super) TaskId);

#[async_trait]
impl Operation for History {
    type Output = Vec<FailedAttempt>;
    const ACTION: &'static str = "read a task's history";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT failed FROM task_failures WHERE task = $1 ORDER BY id")
                .bind(self.0.as_str())
                .fetch_all(conn)
                .await?;
        let read: Result<_, Fault> = rows.iter().map(|failed| from_json(failed)).collect();
        Ok(read?)
    }
}

pub(super) struct Checkpoint(pub(super) TaskId);

#[async_trait]
impl Operation for Checkpoint {
    type Output = Option<Vec<u8>>;
    const ACTION: &'static str = "load a checkpoint";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        Ok(sqlx::query_scalar("SELECT state FROM checkpoints WHERE task = $1")
            .bind(self.0.as_str())
            .fetch_optional(conn)
            .await?)
    }
}
