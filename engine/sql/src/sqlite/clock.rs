//! Leases last as long as they were given for, also where the clock that tells them is set back.

use sqlx::sqlite::SqliteConnection;
use stem_core::backend::broker::LEAST_STEP;
use stem_core::time::Timestamp;
use tokio::time::Instant;

use crate::codec::{millis, time};
use crate::fault::Fault;

/// What this process has seen of the clock.
#[derive(Debug, Default)]
pub(super) struct Seen {
    last: Option<(Instant, Timestamp)>,
}

impl Seen {
    /// Notes the time, once in [`LEAST_STEP`] unless it stepped. Where it was set back since anybody noted it,
    /// every lease that is not over ends as much earlier. To be called inside a transaction that holds the lock, before what
    /// goes by the time.
    pub(super) async fn note(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let goes_on = |(at, shown): (Instant, Timestamp)| {
            let passed = at.elapsed();
            passed < LEAST_STEP && shown <= now && now <= shown.after(passed + LEAST_STEP)
        };
        if self.last.is_some_and(goes_on) {
            return Ok(());
        }
        let seen: i64 = sqlx::query_scalar("SELECT seen FROM clock").fetch_one(&mut *conn).await?;
        let back = time(seen).since(now);
        let was_set_back = back > LEAST_STEP;
        if was_set_back {
            let moved =
                sqlx::query("UPDATE deliveries SET at = at - ?1 WHERE phase = 2 AND at > ?2")
                    .bind(millis(back))
                    .bind(now.unix_millis())
                    .execute(&mut *conn)
                    .await?
                    .rows_affected();
            tracing::warn!(
                ?back,
                leases = moved,
                "the clock was set back; leases end as much earlier by it"
            );
        }
        if was_set_back || time(seen) < now {
            sqlx::query("UPDATE clock SET seen = ?1")
                .bind(now.unix_millis())
                .execute(&mut *conn)
                .await?;
        }
        self.last = Some((Instant::now(), now));
        Ok(())
    }
}
