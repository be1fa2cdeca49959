//! Numbers in the order of commits, for logs that followers read with "after this number".

use sqlx::postgres::PgConnection;
use stem_core::id::Namespace;

use super::error::Trouble;
use crate::codec::unsigned;

/// The part of a statement that draws numbers of one log: `drawn`, with the `first` of them. $1 is the namespace, $2 the
/// time for `stem_now`.
///
/// The counter stays locked until the statement's transaction ends, so whoever draws later also commits later. That
/// transaction is to be this one statement: a process that is stopped between two would stop everybody who draws. Numbers
/// follow the time too, so that a server which was restored from an older copy gives none out again: whoever follows would
/// take what it numbers for known.
macro_rules! draw {
    ($log:literal, $count:literal, $condition:literal) => {
        concat!(
            "drawn AS (
                INSERT INTO counters (namespace, log, last)
                SELECT $1, '",
            $log,
            "', stem_now($2) * 1000 + ",
            $count,
            " - 1 WHERE ",
            $condition,
            " ON CONFLICT (namespace, log) DO UPDATE SET last = greatest(counters.last + ",
            $count,
            ", excluded.last) RETURNING last - ",
            $count,
            " + 1 AS first
            )"
        )
    };
}

pub(super) use draw;

/// The last command that was sent and committed; 0 before the first. The counter and not the largest row: rows are
/// pruned, and a reader must not be sent back.
pub(super) async fn last_command(
    conn: &mut PgConnection,
    namespace: &Namespace,
) -> Result<u64, Trouble> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT last FROM counters WHERE namespace = $1 AND log = 'commands'")
            .bind(namespace.as_str())
            .fetch_optional(conn)
            .await?;
    Ok(last.map(unsigned).unwrap_or_default())
}
