//! [`Presence`] on Postgres.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::presence::{Presence, Registered};
use stem_core::backend::{BackendError, ServiceId};
use stem_core::control::Heartbeat;
use stem_core::id::{Incarnation, Namespace, WorkerId};
use stem_core::time::Timestamp;

use super::Postgres;
use super::error::Trouble;
use super::transact::Operation;
use crate::codec::{heartbeat, millis, time, to_json};

/// A worker that was not heard for so long is forgotten when another registers, so that names made up at each start
/// do not pile up.
const FORGET_AFTER: Duration = Duration::from_hours(24);

struct Register(Heartbeat);

/// Answers nothing if the name is taken, by whomever.
const TAKE_FREE_NAME: &str = "
    INSERT INTO workers (namespace, worker, boot_id, seen_at, heartbeat) VALUES ($1, $2, $3, stem_now($5), $4)
    ON CONFLICT (namespace, worker) DO NOTHING";

#[async_trait]
impl Operation for Register {
    type Output = Registered;
    const ACTION: &'static str = "register a worker";
    /// The holder may take its name again.
    const REPEATABLE: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<Registered, Trouble> {
        let asking = &self.0;
        sqlx::query(
            "DELETE FROM workers USING (
                 SELECT namespace, worker FROM workers WHERE seen_at < stem_now($1) - $2 FOR UPDATE SKIP LOCKED
             ) AS old
             WHERE workers.namespace = old.namespace AND workers.worker = old.worker",
        )
        .bind(now)
        .bind(millis(FORGET_AFTER))
        .execute(&mut *conn)
        .await?;
        let taken = sqlx::query(TAKE_FREE_NAME)
            .bind(asking.namespace.as_str())
            .bind(asking.worker.as_str())
            .bind(asking.boot_id.to_string())
            .bind(to_json(asking))
            .bind(now)
            .execute(&mut *conn)
            .await?;
        if taken.rows_affected() > 0 {
            return Ok(Registered::Yes);
        }
        let known: Option<(i64, String, i64)> = sqlx::query_as(
            "SELECT seen_at, heartbeat, stem_now($3) FROM workers WHERE namespace = $1 AND worker = $2 FOR UPDATE",
        )
        .bind(asking.namespace.as_str())
        .bind(asking.worker.as_str())
        .bind(now)
        .fetch_optional(&mut *conn)
        .await?;
        // Its holder has just said goodbye.
        let (seen_at, text, read_at) = known.ok_or(Trouble::Moved)?;
        // One that cannot be read belongs to no living worker that could be talked to.
        if let Some(holder) = heartbeat(seen_at, text.as_bytes())
            && holder.boot_id != asking.boot_id
            && holder.is_fresh(time(read_at))
        {
            let (boot_id, seen_at) = (holder.boot_id, holder.seen_at);
            return Ok(Registered::NameTaken { boot_id, seen_at });
        }
        sqlx::query(
            "UPDATE workers SET boot_id = $3, seen_at = stem_now($5), heartbeat = $4
             WHERE namespace = $1 AND worker = $2",
        )
        .bind(asking.namespace.as_str())
        .bind(asking.worker.as_str())
        .bind(asking.boot_id.to_string())
        .bind(to_json(asking))
        .bind(now)
        .execute(conn)
        .await?;
        Ok(Registered::Yes)
    }
}

struct Beat(Heartbeat);

#[async_trait]
impl Operation for Beat {
    type Output = ();
    const ACTION: &'static str = "store a heartbeat";
    const REPEATABLE: bool = true;

    /// A row that is missing comes back: a store that was emptied learns of its workers again. The next beat is more
    /// recent than what the disk could keep of this one.
    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<(), Trouble> {
        sqlx::query("SELECT set_config('synchronous_commit', 'off', true)")
            .execute(&mut *conn)
            .await?;
        sqlx::query(
            "INSERT INTO workers (namespace, worker, boot_id, seen_at, heartbeat)
             VALUES ($1, $2, $3, stem_now($5), $4)
             ON CONFLICT (namespace, worker) DO UPDATE
             SET seen_at = excluded.seen_at, heartbeat = excluded.heartbeat
             WHERE workers.boot_id = excluded.boot_id",
        )
        .bind(self.0.namespace.as_str())
        .bind(self.0.worker.as_str())
        .bind(self.0.boot_id.to_string())
        .bind(to_json(&self.0))
        .bind(now)
        .execute(conn)
        .await?;
        Ok(())
    }
}

struct Forget {
    namespace: Namespace,
    worker: WorkerId,
    boot_id: Incarnation,
}

#[async_trait]
impl Operation for Forget {
    type Output = ();
    const ACTION: &'static str = "remove a heartbeat";
    const REPEATABLE: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<(), Trouble> {
        sqlx::query("DELETE FROM workers WHERE namespace = $1 AND worker = $2 AND boot_id = $3")
            .bind(self.namespace.as_str())
            .bind(self.worker.as_str())
            .bind(self.boot_id.to_string())
            .execute(conn)
            .await?;
        Ok(())
    }
}

struct Workers(Namespace);

#[async_trait]
impl Operation for Workers {
    type Output = (Vec<Heartbeat>, Timestamp);
    const ACTION: &'static str = "list workers";
    const READS: bool = true;

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        // The time comes with the rows, so that none of them seems to be from the future.
        let rows: Vec<(i64, Option<i64>, Option<String>)> = sqlx::query_as(
            "SELECT clock.now, seen_at, heartbeat FROM (SELECT stem_now($2) AS now) AS clock
             LEFT JOIN workers ON namespace = $1 ORDER BY worker",
        )
        .bind(self.0.as_str())
        .bind(now)
        .fetch_all(conn)
        .await?;
        let read_at = rows.first().map(|(now, ..)| time(*now)).ok_or(Trouble::Moved)?;
        let workers = rows
            .iter()
            .filter_map(|(_, seen_at, text)| heartbeat((*seen_at)?, text.as_ref()?.as_bytes()))
            .collect();
        Ok((workers, read_at))
    }
}

#[async_trait]
impl Presence for Postgres {
    fn service(&self) -> &ServiceId {
        &self.core.service
    }

    async fn register(&self, heartbeat: &Heartbeat) -> Result<Registered, BackendError> {
        self.call(Register(heartbeat.clone())).await
    }

    async fn beat(&self, heartbeat: &Heartbeat) -> Result<(), BackendError> {
        self.call(Beat(heartbeat.clone())).await
    }

    async fn workers(
        &self,
        namespace: &Namespace,
    ) -> Result<(Vec<Heartbeat>, Timestamp), BackendError> {
        self.call(Workers(namespace.clone())).await
    }

    async fn forget(
        &self,
        namespace: &Namespace,
        worker: &WorkerId,
        boot_id: Incarnation,
    ) -> Result<(), BackendError> {
        let (namespace, worker) = (namespace.clone(), worker.clone());
        self.call(Forget { namespace, worker, boot_id }).await
    }
}
