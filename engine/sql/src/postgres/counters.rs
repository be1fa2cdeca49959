//! Numbers in the order of commits, for logs that followers read with "after this number".

use sqlx::postgres::PgConnection;
use stem_core::id::Namespace;

use super::error::Trouble;
use crate::codec::{limit, unsigned};

/// A log of a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) enum Log {
    Revocations,
    Commands,
    Replies,
}

impl Log {
    fn as_str(self) -> &'static str {
        match self {
            Self::Revocations => "revocations",
            Self::Commands => "commands",
            Self::Replies => "replies",
        }
    }
}

/// Draws so many numbers; answers the last. The counter stays locked until the transaction ends, so whoever draws later
/// also commits later. It outlives what it numbered, so no number is ever drawn twice.
pub(super) async fn draw(
    conn: &mut PgConnection,
    namespace: &Namespace,
    log: Log,
    count: usize,
) -> Result<u64, Trouble> {
    let last: i64 = sqlx::query_scalar(
        "INSERT INTO counters (namespace, log, last) VALUES ($1, $2, $3)
         ON CONFLICT (namespace, log) DO UPDATE SET last = counters.last + excluded.last
         RETURNING last",
    )
    .bind(namespace.as_str())
    .bind(log.as_str())
    .bind(limit(count))
    .fetch_one(conn)
    .await?;
    Ok(unsigned(last))
}

/// The last number that was drawn and committed; 0 before the first.
pub(super) async fn last(
    conn: &mut PgConnection,
    namespace: &Namespace,
    log: Log,
) -> Result<u64, Trouble> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT last FROM counters WHERE namespace = $1 AND log = $2")
            .bind(namespace.as_str())
            .bind(log.as_str())
            .fetch_optional(conn)
            .await?;
    Ok(last.map(unsigned).unwrap_or_default())
}
