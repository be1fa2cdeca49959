//! Leases last as long as they were given for, also where the clock that tells them is set back.
//!
//! Whoever leases or renews sees to it that the server has noted its time within the last second, in the same transaction: so no
//! lease is told by a time that is further from what was noted, and what was told before a step is known from what was told after it.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use stem_core::backend::broker::LEAST_STEP;

use super::error::Trouble;
use crate::codec::{millis, unsigned};

/// Whether the time must be noted before anything is leased by it, as a condition on the time `$now`.
macro_rules! unnoted {
    ($now:literal) => {
        concat!("(SELECT abs(seen - stem_now(", $now, ")) > 1000 FROM clock)")
    };
}
pub(super) use unnoted;

/// Notes the server's time; what was leased before it was set back ends as much earlier. Before anything else of its transaction.
pub(super) async fn note(conn: &mut PgConnection, now: Option<i64>) -> Result<(), Trouble> {
    let back: i64 = sqlx::query_scalar("SELECT stem_note_time($1, $2)")
        .bind(now)
        .bind(millis(LEAST_STEP))
        .fetch_one(conn)
        .await?;
    if back > 0 {
        let back = Duration::from_millis(unsigned(back));
        tracing::warn!(?back, "the server's clock was set back; leases end as much earlier by it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_says_the_same_as_the_function() {
        assert!(unnoted!("$1").contains(&format!("> {} ", LEAST_STEP.as_millis())));
    }
}
