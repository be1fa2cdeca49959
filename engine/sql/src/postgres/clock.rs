//! Leases last as long as they were given for, also where the clock that tells them is set back.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::BackendError;
use stem_core::backend::broker::LEAST_STEP;
use tokio::time::Instant;

use super::Postgres;
use super::error::Trouble;
use super::transact::Operation;
use crate::codec::millis;

/// When this process has last noted the server's time.
#[derive(Debug, Default)]
pub(super) struct Noted(Mutex<Option<Instant>>);

impl Noted {
    /// Whether it is time again; whoever is told so notes it.
    fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() >= LEAST_STEP);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

struct NoteTime;

#[async_trait]
impl Operation for NoteTime {
    /// By how much the clock was set back.
    type Output = Duration;
    const ACTION: &'static str = "note the time";
    const ALONE: bool = true;
    const REPEATABLE: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<Duration, Trouble> {
        let back: i64 = sqlx::query_scalar("SELECT stem_note_time($1, $2)")
            .bind(now)
            .bind(millis(LEAST_STEP))
            .fetch_one(conn)
            .await?;
        Ok(Duration::from_millis(u64::try_from(back).unwrap_or(0)))
    }
}

impl Postgres {
    /// Once a second: whoever takes or renews leases does so first.
    pub(super) async fn note_time(&self) -> Result<(), BackendError> {
        if self.noted.is_due() {
            let back = self.core.call(NoteTime).await?;
            if !back.is_zero() {
                tracing::warn!(
                    ?back,
                    "the server's clock was set back; leases end as much earlier by it"
                );
            }
        }
        Ok(())
    }
}
