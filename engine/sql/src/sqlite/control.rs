//! [`ControlPlane`] on SQLite.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::control::{ControlPlane, Position, REPLY_TTL};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::control::wire::{CommandFrame, ReplyFrame};
use stem_core::id::{Namespace, RequestId};
use stem_core::time::Timestamp;
use tokio::time::Instant;

use super::Sqlite;
use super::writer::{Operation, Topics};
use crate::bells::{LOOK_AGAIN, Topic};
use crate::codec::{signed, unsigned};
use crate::fault::Fault;

/// Rows that one read returns; the reader comes again for more.
const BATCH: i64 = 1_000;

struct Send(CommandFrame);

#[async_trait]
impl Operation for Send {
    type Output = Position;
    const ACTION: &'static str = "send a command";
    const RINGS: Topics = Topics::CONTROL;

    /// A command that was sent before keeps its place, so sending again after an unclear answer is harmless.
    async fn run(&mut self, conn: &mut SqliteConnection, _: Timestamp) -> Result<Position, Fault> {
        let command = &self.0;
        sqlx::query(
            "INSERT INTO commands (namespace, request_id, expires_at, command) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
        )
        .bind(command.namespace.as_str())
        .bind(command.request_id.as_str())
        .bind(command.expires_at.unix_millis())
        .bind(command.text.as_str())
        .execute(&mut *conn)
        .await?;
        let position: i64 = sqlx::query_scalar(
            "SELECT position FROM commands WHERE namespace = ?1 AND request_id = ?2",
        )
        .bind(command.namespace.as_str())
        .bind(command.request_id.as_str())
        .fetch_one(conn)
        .await?;
        Ok(Position(unsigned(position)))
    }
}

struct Answer {
    namespace: Namespace,
    reply: ReplyFrame,
}

#[async_trait]
impl Operation for Answer {
    type Output = ();
    const ACTION: &'static str = "reply to a command";
    const RINGS: Topics = Topics::CONTROL;

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<(), Fault> {
        sqlx::query(
            "INSERT INTO replies (namespace, request_id, worker, kept_until, reply)
             VALUES (?1, ?2, ?3, ?6 + coalesce(
                 (SELECT expires_at FROM commands WHERE namespace = ?1 AND request_id = ?2), ?5), ?4)
             ON CONFLICT DO NOTHING",
        )
        .bind(self.namespace.as_str())
        .bind(self.reply.request_id.as_str())
        .bind(self.reply.worker.as_str())
        .bind(self.reply.text.as_str())
        .bind(now.unix_millis())
        .bind(i64::try_from(REPLY_TTL.as_millis()).expect("a minute fits"))
        .execute(conn)
        .await?;
        Ok(())
    }
}

struct Prune;

#[async_trait]
impl Operation for Prune {
    type Output = u64;
    const ACTION: &'static str = "remove expired commands";
    /// What has expired is not returned anyway.
    const RINGS: Topics = Topics::NONE;

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<u64, Fault> {
        let mut removed = 0;
        for statement in [
            "DELETE FROM commands WHERE expires_at <= ?1",
            "DELETE FROM replies WHERE kept_until <= ?1",
        ] {
            let done = sqlx::query(statement).bind(now.unix_millis()).execute(&mut *conn).await?;
            removed += done.rows_affected();
        }
        Ok(removed)
    }
}

async fn position(conn: &mut SqliteConnection) -> Result<Position, Fault> {
    // The counter and not the largest row: rows are pruned, and a reader must not be sent back.
    let position: Option<i64> =
        sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'commands'")
            .fetch_optional(conn)
            .await?;
    Ok(Position(position.map(unsigned).unwrap_or_default()))
}

/// Another program may have put bytes into a row that are no text.
fn texts(rows: Vec<(i64, Vec<u8>)>) -> Vec<(Position, String)> {
    rows.into_iter()
        .map(|(position, text)| {
            (Position(unsigned(position)), String::from_utf8_lossy(&text).into_owned())
        })
        .collect()
}

async fn commands(
    conn: &mut SqliteConnection,
    now: Timestamp,
    namespace: &Namespace,
    after: Position,
) -> Result<Vec<(Position, String)>, Fault> {
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT position, CAST(command AS BLOB) FROM commands
         WHERE namespace = ?1 AND position > ?2 AND expires_at > ?3 ORDER BY position LIMIT ?4",
    )
    .bind(namespace.as_str())
    .bind(signed(after.0))
    .bind(now.unix_millis())
    .bind(BATCH)
    .fetch_all(conn)
    .await?;
    Ok(texts(rows))
}

async fn replies(
    conn: &mut SqliteConnection,
    namespace: &Namespace,
    request: &RequestId,
    after: Position,
) -> Result<Vec<(Position, String)>, Fault> {
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT position, CAST(reply AS BLOB) FROM replies
         WHERE namespace = ?1 AND request_id = ?2 AND position > ?3 ORDER BY position LIMIT ?4",
    )
    .bind(namespace.as_str())
    .bind(request.as_str())
    .bind(signed(after.0))
    .bind(BATCH)
    .fetch_all(conn)
    .await?;
    Ok(texts(rows))
}

impl Sqlite {
    /// Looks until there is something, at most `wait`.
    async fn look_until<T, F>(
        &self,
        action: &'static str,
        wait: Duration,
        look: impl Fn() -> F + std::marker::Send,
    ) -> Result<Vec<T>, BackendError>
    where
        T: std::marker::Send,
        F: Future<Output = Result<Vec<T>, Fault>> + std::marker::Send,
    {
        let started = Instant::now();
        if wait.is_zero() {
            return self.bounded(action, look()).await;
        }
        let subscribed = async { self.changes.subscribe(Topic::Control).await };
        let mut news = self.bounded("watch the database", subscribed).await?;
        loop {
            news.seen();
            let found = self.bounded(action, look()).await?;
            let left = wait.saturating_sub(started.elapsed());
            if !found.is_empty() || left.is_zero() {
                return Ok(found);
            }
            news.wait(left.min(LOOK_AGAIN)).await;
        }
    }
}

#[async_trait]
impl ControlPlane for Sqlite {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn position(&self, _: &Namespace) -> Result<Position, BackendError> {
        let read = async {
            let mut reader = self.reader().await?;
            position(&mut reader).await
        };
        self.bounded("read the end of the command log", read).await
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        self.write(Send(command.clone())).await
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        self.look_until("read commands", wait, || async {
            let mut reader = self.reader().await?;
            commands(&mut reader, self.now(), namespace, after).await
        })
        .await
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        self.write(Answer { namespace: namespace.clone(), reply: reply.clone() }).await
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        self.look_until("read replies", wait, || async {
            let mut reader = self.reader().await?;
            replies(&mut reader, namespace, request, after).await
        })
        .await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        self.write(Prune).await
    }
}
