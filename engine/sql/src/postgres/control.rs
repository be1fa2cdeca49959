//! [`ControlPlane`] on Postgres. Positions are drawn as versions are, so that no reader's cursor passes a command that
//! is committed later. Each draw is one statement with what it numbers.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::control::{ControlPlane, Position, REPLY_TTL};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::control::wire::{CommandFrame, ReplyFrame};
use stem_core::id::{Namespace, RequestId};
use tokio::time::Instant;

use super::Postgres;
use super::counters::{self, draw};
use super::error::Trouble;
use super::transact::Operation;
use crate::bells::{LOOK_AGAIN, Topic, Topics};
use crate::codec::{millis, signed, unsigned};

/// Rows that one read returns; the reader comes again for more.
const BATCH: i64 = 1_000;

struct End(Namespace);

#[async_trait]
impl Operation for End {
    type Output = Position;
    const ACTION: &'static str = "read the end of the command log";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Position, Trouble> {
        Ok(Position(counters::last_command(conn, &self.0).await?))
    }
}

struct Send(CommandFrame);

/// Answers the place of the command, be it new or known; nothing where somebody else stores it at this moment.
const SEND: &str = concat!(
    "WITH ",
    draw!(
        "commands",
        "1",
        "NOT EXISTS (SELECT 1 FROM commands WHERE namespace = $1 AND request_id = $3)"
    ),
    ", stored AS (
        INSERT INTO commands (namespace, position, request_id, expires_at, command)
        SELECT $1, first, $3, $4, $5 FROM drawn
        ON CONFLICT (namespace, request_id) DO NOTHING RETURNING position
    )
    SELECT position FROM stored
    UNION ALL
    SELECT position FROM commands WHERE namespace = $1 AND request_id = $3"
);

#[async_trait]
impl Operation for Send {
    type Output = Position;
    const ACTION: &'static str = "send a command";
    const ALONE: bool = true;
    /// A command that was sent before keeps its place.
    const REPEATABLE: bool = true;
    const SENDS_NEWS_FIRST: bool = true;

    fn rings(_: &Position) -> Topics {
        Topics::CONTROL
    }

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<Position, Trouble> {
        let command = &self.0;
        let position: Option<i64> = sqlx::query_scalar(SEND)
            .bind(command.namespace.as_str())
            .bind(now)
            .bind(command.request_id.as_str())
            .bind(command.expires_at.unix_millis())
            .bind(command.text.as_str())
            .fetch_optional(conn)
            .await?;
        Ok(Position(unsigned(position.ok_or(Trouble::Moved)?)))
    }
}

struct Answer {
    namespace: Namespace,
    reply: ReplyFrame,
}

/// Hundreds of workers reply at once and draw from one counter, one after the other. A reply is worth nothing a minute
/// later, so none makes the next wait for the disk.
const ANSWER: &str = concat!(
    "WITH hasty AS MATERIALIZED (
        SELECT set_config('synchronous_commit', 'off', true)
    ), ",
    draw!(
        "replies",
        "1",
        "(SELECT count(*) FROM hasty) = 1 AND NOT EXISTS (
             SELECT 1 FROM replies WHERE namespace = $1 AND request_id = $3 AND worker = $4)"
    ),
    "INSERT INTO replies (namespace, request_id, position, worker, kept_until, reply)
    SELECT $1, $3, first, $4, $6 + coalesce(
        (SELECT expires_at FROM commands WHERE namespace = $1 AND request_id = $3), stem_now($2)), $5
    FROM drawn
    ON CONFLICT (namespace, request_id, worker) DO NOTHING"
);

/// For the test that walks plans.
#[cfg(test)]
pub(super) const HOT: [&str; 2] = [SEND, ANSWER];

#[async_trait]
impl Operation for Answer {
    type Output = ();
    const ACTION: &'static str = "reply to a command";
    const ALONE: bool = true;
    /// A second reply of the same worker is dropped.
    const REPEATABLE: bool = true;

    fn rings((): &()) -> Topics {
        Topics::CONTROL
    }

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<(), Trouble> {
        sqlx::query(ANSWER)
            .bind(self.namespace.as_str())
            .bind(now)
            .bind(self.reply.request_id.as_str())
            .bind(self.reply.worker.as_str())
            .bind(self.reply.text.as_str())
            .bind(millis(REPLY_TTL))
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

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<u64, Trouble> {
        let mut removed = 0;
        for statement in [
            "DELETE FROM commands WHERE expires_at <= stem_now($1)",
            "DELETE FROM replies WHERE kept_until <= stem_now($1)",
        ] {
            let done = sqlx::query(statement).bind(now).execute(&mut *conn).await?;
            removed += done.rows_affected();
        }
        Ok(removed)
    }
}

fn texts(rows: Vec<(i64, String)>) -> Vec<(Position, String)> {
    rows.into_iter().map(|(position, text)| (Position(unsigned(position)), text)).collect()
}

#[derive(Clone)]
struct Commands {
    namespace: Namespace,
    after: Position,
}

#[async_trait]
impl Operation for Commands {
    type Output = Vec<(Position, String)>;
    const ACTION: &'static str = "read commands";
    const READS: bool = true;

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT position, command FROM commands
             WHERE namespace = $1 AND position > $2 AND expires_at > stem_now($3) ORDER BY position LIMIT $4",
        )
        .bind(self.namespace.as_str())
        .bind(signed(self.after.0))
        .bind(now)
        .bind(BATCH)
        .fetch_all(conn)
        .await?;
        Ok(texts(rows))
    }
}

#[derive(Clone)]
struct Replies {
    namespace: Namespace,
    request: RequestId,
    after: Position,
}

#[async_trait]
impl Operation for Replies {
    type Output = Vec<(Position, String)>;
    const ACTION: &'static str = "read replies";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Self::Output, Trouble> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT position, reply FROM replies
             WHERE namespace = $1 AND request_id = $2 AND position > $3 ORDER BY position LIMIT $4",
        )
        .bind(self.namespace.as_str())
        .bind(self.request.as_str())
        .bind(signed(self.after.0))
        .bind(BATCH)
        .fetch_all(conn)
        .await?;
        Ok(texts(rows))
    }
}

impl Postgres {
    /// Looks until there is something, at most `wait`.
    async fn look_until<T, O>(&self, look: O, wait: Duration) -> Result<Vec<T>, BackendError>
    where
        T: std::marker::Send,
        O: Operation<Output = Vec<T>> + Clone,
    {
        let started = Instant::now();
        if wait.is_zero() {
            return self.call(look).await;
        }
        let mut news = self.changes.subscribe(Topic::Control);
        loop {
            news.seen();
            let found = self.call(look.clone()).await?;
            let left = wait.saturating_sub(started.elapsed());
            if !found.is_empty() || left.is_zero() {
                return Ok(found);
            }
            news.wait(left.min(LOOK_AGAIN)).await;
        }
    }
}

#[async_trait]
impl ControlPlane for Postgres {
    fn service(&self) -> &ServiceId {
        &self.core.service
    }

    async fn position(&self, namespace: &Namespace) -> Result<Position, BackendError> {
        self.call(End(namespace.clone())).await
    }

    async fn send(&self, command: &CommandFrame) -> Result<Position, BackendError> {
        self.call(Send(command.clone())).await
    }

    async fn commands(
        &self,
        namespace: &Namespace,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        self.look_until(Commands { namespace: namespace.clone(), after }, wait).await
    }

    async fn reply(&self, namespace: &Namespace, reply: &ReplyFrame) -> Result<(), BackendError> {
        self.call(Answer { namespace: namespace.clone(), reply: reply.clone() }).await
    }

    async fn replies(
        &self,
        namespace: &Namespace,
        request: &RequestId,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<(Position, String)>, BackendError> {
        let look = Replies { namespace: namespace.clone(), request: request.clone(), after };
        self.look_until(look, wait).await
    }

    async fn prune(&self) -> Result<u64, BackendError> {
        self.call(Prune).await
    }
}
