//! Taking deliveries under a lease, and what must happen before: delays end, lost leases come back.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::{Delivery, LEAST_STEP, ReceiveRequest};
use stem_core::id::{LeaseToken, QueueName, TaskId};
use stem_core::settlement::{Receipt, Settle, Settlement};
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;

use super::settle::GiveBack;
use super::turns;
use crate::codec::{limit, small, time, to_json, unsigned};
use crate::envelopes;
use crate::fault::Fault;
use crate::sqlite::dead_letter::{self, Burial};
use crate::sqlite::records;
use crate::sqlite::writer::{self, Job, Operation, Topics};

pub(super) struct Claim {
    pub(super) request: Arc<ReceiveRequest>,
}

pub(super) struct Claimed {
    pub(super) deliveries: Vec<Delivery>,
    /// When the next delay or lease is over.
    pub(super) next_due: Option<Timestamp>,
    pub(super) wrote: bool,
}

/// Rows that one claim makes ready. More wait for the next claim, so that a wave of delays that end together does not
/// hold the write lock for seconds.
const PROMOTED: i64 = 10_000;

/// Ends delays and takes back leases that ran out, each of which is a loss. `at` stays: what was "delayed until" or
/// "leased until" is "ready since" from here on. The columns that come back are those of a lease, see there.
macro_rules! promote {
    ($now:literal, $limit:literal) => {
        concat!(
            "
            UPDATE deliveries SET losses = losses + (phase = 2), owner = NULL, phase = 0
            WHERE seq IN (
                SELECT seq FROM (SELECT seq FROM deliveries WHERE phase = 1 AND at <= ",
            $now,
            " ORDER BY at LIMIT ",
            $limit,
            ")
                UNION ALL
                SELECT seq FROM (SELECT seq FROM deliveries WHERE phase = 2 AND at <= ",
            $now,
            " ORDER BY at LIMIT ",
            $limit,
            ")
            )
            RETURNING 0 AS leased, seq, task, name, priority, token, retries, deliveries, losses, NULL AS wire"
        )
    };
}

const PROMOTE: &str = promote!("?1", "?2");

/// Promotes, then leases the first ?3 of queue ?1 whose name is in ?2. The innermost select walks the index of ready
/// rows once for each name, so rows that no worker here knows cost nothing, however many there are.
const LEASE: &str = concat!(
    promote!("?6", "?7"),
    ";
    UPDATE deliveries SET phase = 2, at = ?4, owner = ?5, token = token + 1, deliveries = deliveries + 1
    WHERE seq IN (
        SELECT d.seq
        FROM json_each(?2) AS known
        CROSS JOIN json_each((
            SELECT json_group_array(seq) FROM (
                SELECT seq FROM deliveries
                WHERE phase = 0 AND queue = ?1 AND name = known.value
                ORDER BY priority DESC, seq LIMIT ?3
            )
        )) AS first
        CROSS JOIN deliveries AS d ON d.seq = first.value
        WHERE NOT EXISTS (SELECT 1 FROM queues WHERE queues.name = ?1 AND paused_since IS NOT NULL)
        ORDER BY d.priority DESC, d.seq LIMIT ?3
    )
    RETURNING 1 AS leased, seq, task, name, priority, token, retries, deliveries, losses,
        (SELECT wire FROM envelopes WHERE envelopes.seq = deliveries.seq) AS wire"
);

macro_rules! next_due {
    () => {
        "
    SELECT min(at) FROM (
        SELECT min(at) AS at FROM deliveries WHERE phase = 1
        UNION ALL
        SELECT min(at) FROM deliveries WHERE phase = 2
    )"
    };
}

const NEXT_DUE: &str = next_due!();

/// Whether anything with these names is ready in these queues, and the same. A clock that was set back is seen by the claim.
const OUTLOOK: &str = concat!(
    "
    SELECT (SELECT seen > ?3 FROM clock) OR EXISTS (
        SELECT 1 FROM json_each(?1) AS queue CROSS JOIN json_each(?2) AS known
        CROSS JOIN deliveries AS d ON d.phase = 0 AND d.queue = queue.value AND d.name = known.value
        WHERE NOT EXISTS (SELECT 1 FROM queues WHERE queues.name = queue.value AND paused_since IS NOT NULL)
    ), (",
    next_due!(),
    ")"
);

#[derive(sqlx::FromRow)]
pub(super) struct Row {
    /// Whether this is a lease, or a row that became ready.
    leased: bool,
    pub(super) seq: i64,
    pub(super) task: String,
    name: String,
    priority: i64,
    token: i64,
    retries: i64,
    deliveries: i64,
    losses: i64,
    wire: Option<Vec<u8>>,
}

#[async_trait]
impl Operation for Claim {
    type Output = Claimed;
    const ACTION: &'static str = "take deliveries";
    const RINGS: Topics = Topics::TASKS;
    const FOR_CALLER_ONLY: bool = true;
    const FLEETING: bool = true;

    fn wrote(claimed: &Claimed) -> bool {
        claimed.wrote
    }

    /// Gives back what was leased for a caller that has gone, as if it had not been delivered.
    fn undo(self, claimed: Claimed) -> Option<Box<dyn Job>> {
        let batch: Vec<Settle> = claimed
            .deliveries
            .into_iter()
            .map(|delivery| Settle {
                at: delivery.envelope.enqueued_at,
                receipt: delivery.receipt,
                settlement: Settlement::Release,
                worker: self.request.worker.clone(),
                attempt: delivery.attempt,
                usage: None,
                module: None,
                children: Vec::new(),
            })
            .collect();
        let give_back = GiveBack { batch, records: self.request.records };
        (!give_back.batch.is_empty()).then(|| writer::job(give_back).0)
    }

    async fn run(&mut self, conn: &mut SqliteConnection, now: Timestamp) -> Result<Claimed, Fault> {
        let request = &*self.request;
        let mut claimed = Claimed { deliveries: Vec::new(), next_due: None, wrote: false };
        match &request.shares {
            Some(shares) => turns::take(conn, now, request, shares, &mut claimed).await?,
            None => take(conn, now, request, &mut claimed).await?,
        }
        if claimed.deliveries.is_empty() {
            let due: Option<i64> = sqlx::query_scalar(NEXT_DUE).fetch_one(&mut *conn).await?;
            claimed.next_due = due.map(time);
        } else if request.records == Records::Here {
            records::begin_delivered(conn, now, &request.worker, &claimed.deliveries).await?;
        }
        Ok(claimed)
    }
}

/// Takes what there is, in the order of the queues.
async fn take(
    conn: &mut SqliteConnection,
    now: Timestamp,
    request: &ReceiveRequest,
    claimed: &mut Claimed,
) -> Result<(), Fault> {
    let names = to_json(&*request.names);
    for queue in &request.queues {
        let mut missing = request.max.saturating_sub(claimed.deliveries.len());
        // Again after bytes that cannot be read: they must not hide what lies behind them.
        while missing > 0 {
            let mut rows = lease(conn, now, request, queue, &names, missing).await?;
            claimed.wrote |= !rows.is_empty();
            let promoted: Vec<Row> = rows.extract_if(.., |row| !row.leased).collect();
            lose(conn, request.records, &promoted).await?;
            let full = rows.len() == missing;
            let read = read(conn, now, request, queue, rows).await?;
            missing -= read.len();
            claimed.deliveries.extend(read);
            if !full {
                break;
            }
        }
    }
    Ok(())
}

/// Makes ready what has fallen due; says whether anything had.
pub(super) async fn promote(
    conn: &mut SqliteConnection,
    now: Timestamp,
    records: Records,
) -> Result<bool, Fault> {
    let promoted: Vec<Row> = sqlx::query_as(PROMOTE)
        .bind(now.unix_millis())
        .bind(PROMOTED)
        .fetch_all(&mut *conn)
        .await?;
    lose(conn, records, &promoted).await?;
    Ok(!promoted.is_empty())
}

/// What became ready again after a lost lease is queued again on record; what was only delayed does not run there.
async fn lose(
    conn: &mut SqliteConnection,
    records: Records,
    promoted: &[Row],
) -> Result<(), Fault> {
    if records == Records::Here && !promoted.is_empty() {
        let lost: Vec<(&str, i64)> =
            promoted.iter().map(|row| (row.task.as_str(), row.token)).collect();
        records::lose(conn, &lost).await?;
    }
    Ok(())
}

async fn lease(
    conn: &mut SqliteConnection,
    now: Timestamp,
    request: &ReceiveRequest,
    queue: &QueueName,
    names: &str,
    max: usize,
) -> Result<Vec<Row>, Fault> {
    let mut rows: Vec<Row> = sqlx::query_as(LEASE)
        .bind(queue.as_str())
        .bind(names)
        .bind(limit(max))
        .bind(now.after(request.lease).unix_millis())
        .bind(request.owner.to_string())
        .bind(now.unix_millis())
        .bind(PROMOTED)
        .fetch_all(&mut *conn)
        .await?;
    // RETURNING promises no order.
    rows.sort_by_key(|row| (std::cmp::Reverse(row.priority), row.seq));
    Ok(rows)
}

/// Reads the envelopes; those that cannot be read become dead letters.
pub(super) async fn read(
    conn: &mut SqliteConnection,
    now: Timestamp,
    request: &ReceiveRequest,
    queue: &QueueName,
    rows: Vec<Row>,
) -> Result<Vec<Delivery>, Fault> {
    let mut deliveries = Vec::with_capacity(rows.len());
    let mut burials = Vec::new();
    let mut uncounted = Vec::new();
    for row in rows {
        let envelope = match envelopes::read(row.wire.as_deref(), &row.task, &row.name, queue) {
            Ok(envelope) => envelope,
            Err(error) => {
                let (reason, failure) = envelopes::unreadable(&error);
                uncounted.push(row.seq);
                burials.push(Burial { seq: row.seq, task: row.task, reason, failure });
                continue;
            }
        };
        deliveries.push(Delivery {
            receipt: Receipt {
                task: envelope.id.clone(),
                queue: queue.clone(),
                token: LeaseToken(unsigned(row.token)),
                owner: request.owner,
            },
            tenant: Tenant::of(&envelope.headers),
            envelope,
            lease_until: now.after(request.lease),
            attempt: small(row.retries) + 1,
            deliveries: small(row.deliveries),
            losses: small(row.losses),
        });
    }
    if !burials.is_empty() {
        // Nobody got it, so it was not delivered.
        sqlx::query(
            "UPDATE deliveries SET deliveries = deliveries - 1 WHERE seq IN (SELECT value FROM json_each(?1))",
        )
        .bind(to_json(&uncounted))
        .execute(&mut *conn)
        .await?;
        dead_letter::bury_bytes(conn, &uncounted).await?;
        dead_letter::bury(conn, now, &burials).await?;
        if request.records == Records::Here {
            records::fail(conn, now, &burials).await?;
        }
    }
    Ok(deliveries)
}

/// The statements that run while the lock is held, for the test that walks their plans.
#[cfg(test)]
pub(in crate::sqlite) const HOT: [&str; 4] = [PROMOTE, LEASE, NEXT_DUE, OUTLOOK];

/// What a look without the write lock found.
pub(super) enum Outlook {
    /// A claim is worth trying.
    Something,
    /// Nothing before then.
    Nothing { due: Option<Timestamp> },
}

pub(super) async fn look(
    conn: &mut SqliteConnection,
    request: &ReceiveRequest,
    now: Timestamp,
) -> Result<Outlook, Fault> {
    let (ready, due): (bool, Option<i64>) = sqlx::query_as(OUTLOOK)
        .bind(to_json(&request.queues))
        .bind(to_json(&*request.names))
        .bind(now.after(LEAST_STEP).unix_millis())
        .fetch_one(conn)
        .await?;
    let due = due.map(time);
    if ready || due.is_some_and(|due| due <= now) {
        return Ok(Outlook::Something);
    }
    Ok(Outlook::Nothing { due })
}

/// The rows of [`records::begin_delivered`].
pub(in crate::sqlite) fn begun_rows(deliveries: &[Delivery]) -> String {
    let rows: Vec<_> = deliveries
        .iter()
        .map(|delivery| {
            let task: &TaskId = &delivery.receipt.task;
            json!([task, delivery.receipt.token, delivery.attempt, delivery.deliveries])
        })
        .collect();
    to_json(&rows)
}
