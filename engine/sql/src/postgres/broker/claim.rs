//! Taking deliveries under a lease, and what must happen before: delays end, lost leases come back.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::{Delivery, ReceiveRequest};
use stem_core::id::{LeaseToken, QueueName};
use stem_core::settlement::Receipt;
use stem_core::tenant::Tenant;

use super::turns;
use crate::bells::Topics;
use crate::codec::{limit, millis, small, time, unsigned};
use crate::envelopes;
use crate::postgres::clock::{self, unnoted};
use crate::postgres::dead_letter::{self, Burial};
use crate::postgres::error::Trouble;
use crate::postgres::records;
use crate::postgres::transact::Operation;

/// Rows of one kind that one claim makes ready. More wait for the next, so that a wave of delays that end together does
/// not make one transaction of seconds.
const PROMOTED: i64 = 2_000;

/// Ends delays and takes back leases that ran out, each of which is a loss; with $3 their records are queued again. `at`
/// stays: what was "delayed until" or "leased until" is "ready since" from here on. What somebody else has in hand at
/// this moment is left to them.
const PROMOTE: &str = "
    WITH delayed AS MATERIALIZED (
        SELECT task FROM deliveries WHERE phase = 1 AND at <= stem_now($1)
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    ), lost AS MATERIALIZED (
        SELECT task FROM deliveries WHERE phase = 2 AND at <= stem_now($1)
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
    ), promoted AS (
        UPDATE deliveries SET losses = losses + (phase = 2)::int, owner = NULL, phase = 0
        WHERE task = ANY(ARRAY(SELECT task FROM delayed UNION ALL SELECT task FROM lost))
        RETURNING task, token
    ), queued AS (
        UPDATE tasks SET state = 'queued' FROM promoted
        WHERE $3 AND tasks.id = promoted.task AND tasks.token = promoted.token AND tasks.state = 'running'
            AND tasks.id = ANY(ARRAY(SELECT task FROM promoted ORDER BY task))
    )
    SELECT count(*) FROM promoted";

/// Leases what was picked until $4 from now, to $5; with $7 it records that they run, on worker $6.
macro_rules! lease_picked {
    ($more:literal) => {
        concat!(
            "    ), leased AS (
        UPDATE deliveries
        SET phase = 2, at = stem_now($8) + $4, owner = $5, token = token + 1, deliveries = deliveries + 1
        WHERE task = ANY(ARRAY(SELECT task FROM picked))
        RETURNING seq, task, queue, name, priority, at, token, retries, deliveries, losses",
            $more,
            "
    ), begun AS (
        UPDATE tasks SET state = 'running', token = leased.token, owner = $5, attempt = leased.retries + 1,
            delivery_count = leased.deliveries, started_at = stem_now($8), worker = $6, progress = NULL,
            failure = NULL
        FROM leased
        WHERE $7 AND tasks.id = leased.task AND tasks.token < leased.token
            AND tasks.state IN ('queued', 'retrying', 'running')
            AND tasks.id = ANY(ARRAY(SELECT task FROM leased ORDER BY task))
    )
"
        )
    };
}
pub(super) use lease_picked;

/// Leases the first $3 of the queues $1, in their order, whose name is in $2, until $4 from now, to $5; with $7 it
/// records that they run, on worker $6. With $9 it leases nothing if something has fallen due, which has to be made ready
/// first, or if the time is to be noted.
///
/// `best` walks the index of ready rows once for each queue and name, so rows that no worker here knows cost nothing,
/// however many there are; `wanted` says how many of them come from where. Only those are then locked, passing over what
/// others have just locked. Whoever finds fewer than were there met others; see `ready`. For `= ANY` see `place`.
const LEASE: &str = concat!(
    "
    WITH due AS MATERIALIZED (
        SELECT $9 AND (
            EXISTS (SELECT 1 FROM deliveries WHERE phase = 1 AND at <= stem_now($8))
            OR EXISTS (SELECT 1 FROM deliveries WHERE phase = 2 AND at <= stem_now($8))
            OR ",
    unnoted!("$8"),
    "
        ) AS found
    ), best AS MATERIALIZED (
        SELECT asked.place, asked.queue, known.name
        FROM unnest($1::text[]) WITH ORDINALITY AS asked (queue, place)
        CROSS JOIN unnest($2::text[]) AS known (name)
        CROSS JOIN LATERAL (
            SELECT priority, seq FROM deliveries
            WHERE phase = 0 AND deliveries.queue = asked.queue AND deliveries.name = known.name
            ORDER BY priority DESC, seq LIMIT $3
        ) AS first
        WHERE NOT (SELECT found FROM due)
            AND NOT EXISTS (SELECT 1 FROM queues WHERE queues.name = asked.queue AND paused_since IS NOT NULL)
        ORDER BY asked.place, first.priority DESC, first.seq LIMIT $3
    ), wanted AS MATERIALIZED (
        SELECT place, queue, name, count(*) AS n FROM best GROUP BY place, queue, name
    ), picked AS MATERIALIZED (
        SELECT first.task
        FROM wanted
        CROSS JOIN LATERAL (
            SELECT task FROM deliveries
            WHERE phase = 0 AND deliveries.queue = wanted.queue AND deliveries.name = wanted.name
            ORDER BY priority DESC, seq LIMIT wanted.n FOR UPDATE SKIP LOCKED
        ) AS first
",
    lease_picked!(""),
    "    SELECT due.found AS due, (SELECT count(*) FROM best) AS ready,
        least(
            (SELECT at FROM deliveries WHERE phase = 1 AND at >= 0 ORDER BY at LIMIT 1),
            (SELECT at FROM deliveries WHERE phase = 2 AND at >= 0 ORDER BY at LIMIT 1)
        ) - stem_now($8) AS due_in,
        leased.seq, leased.task, leased.queue, leased.name, leased.priority::bigint AS priority, leased.at,
        leased.token, leased.retries, leased.deliveries, leased.losses,
        (SELECT wire FROM envelopes WHERE envelopes.seq = leased.seq) AS wire,
        CASE WHEN leased.task IS NOT NULL THEN pg_current_xact_id()::text END AS xact
    FROM due LEFT JOIN leased ON true"
);

/// Whether a claim is worth trying, and otherwise when. A clock that was set back is seen by the claim.
const LOOK: &str = "
    SELECT (SELECT seen > stem_now($3) + 1000 FROM clock) OR EXISTS (
            SELECT 1 FROM unnest($1::text[]) AS asked (queue) CROSS JOIN unnest($2::text[]) AS known (name)
            CROSS JOIN LATERAL (
                SELECT 1 FROM deliveries
                WHERE phase = 0 AND deliveries.queue = asked.queue AND deliveries.name = known.name LIMIT 1
            ) AS first
            WHERE NOT EXISTS (SELECT 1 FROM queues WHERE queues.name = asked.queue AND paused_since IS NOT NULL)
        ),
        least(
            (SELECT at FROM deliveries WHERE phase = 1 AND at >= 0 ORDER BY at LIMIT 1),
            (SELECT at FROM deliveries WHERE phase = 2 AND at >= 0 ORDER BY at LIMIT 1)
        ) - stem_now($3)";

/// For the test that walks plans.
#[cfg(test)]
pub(in crate::postgres) const HOT: [&str; 3] = [PROMOTE, LEASE, LOOK];

/// What every row says of the claim, and one leased delivery unless there is none.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    pub(super) due: bool,
    ready: i64,
    due_in: Option<i64>,
    pub(super) seq: Option<i64>,
    task: Option<String>,
    pub(super) queue: Option<String>,
    name: Option<String>,
    /// Said by a claim with shares.
    #[sqlx(default)]
    pub(super) tenant: Option<String>,
    pub(super) priority: Option<i64>,
    at: Option<i64>,
    token: Option<i64>,
    retries: Option<i64>,
    deliveries: Option<i64>,
    losses: Option<i64>,
    wire: Option<Vec<u8>>,
    xact: Option<String>,
}

pub(super) struct Claim {
    pub(super) request: Arc<ReceiveRequest>,
}

#[derive(Default)]
pub(super) struct Claimed {
    pub(super) deliveries: Vec<Delivery>,
    /// Envelopes that cannot be read. With any of these the claim is rolled back; they have to be given up first.
    pub(super) unreadable: Vec<Burial>,
    /// Until the next delay or lease is over.
    pub(super) due_in: Option<Duration>,
    /// There was something, and others took it at the same moment.
    pub(super) contended: bool,
    /// The transaction that leased them.
    pub(super) transaction: Option<String>,
    promoted: bool,
}

#[async_trait]
impl Operation for Claim {
    type Output = Claimed;
    const ACTION: &'static str = "take deliveries";

    fn keeps(claimed: &Claimed) -> bool {
        claimed.unreadable.is_empty()
    }

    fn rings(claimed: &Claimed) -> Topics {
        match (claimed.promoted, claimed.deliveries.is_empty()) {
            // Perhaps for others.
            (true, _) => Topics::TASKS,
            (false, false) => Topics::RECORDS,
            (false, true) => Topics::NONE,
        }
    }

    /// That a task runs is no news that anybody elsewhere waits for; that it has ended is.
    fn tells(claimed: &Claimed) -> Topics {
        if claimed.promoted { Topics::TASKS } else { Topics::NONE }
    }

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<Claimed, Trouble> {
        let request = &*self.request;
        let mut taken = take(conn, now, request, true).await?;
        let mut promoted = false;
        if taken.is_none() {
            clock::note(conn, now).await?;
            promoted = promote(conn, now, request.records).await? > 0;
            taken = take(conn, now, request, false).await?;
        }
        let rows = taken.ok_or(Trouble::Moved)?;
        let first = rows.first().ok_or(Trouble::Moved)?;
        let mut claimed = Claimed {
            due_in: first.due_in.map(|millis| Duration::from_millis(unsigned(millis))),
            contended: first.ready > 0,
            promoted,
            ..Claimed::default()
        };
        for row in rows {
            let Some(task) = &row.task else { continue };
            claimed.transaction.clone_from(&row.xact);
            claimed.contended = false;
            let queue = QueueName::new(row.queue.as_deref().unwrap_or_default())?;
            let name = row.name.as_deref().unwrap_or_default();
            match envelopes::read(row.wire.as_deref(), task, name, &queue) {
                Ok(envelope) => claimed.deliveries.push(Delivery {
                    tenant: row
                        .tenant
                        .as_deref()
                        .map_or_else(|| Tenant::of(&envelope.headers), Tenant::stored),
                    receipt: Receipt {
                        task: envelope.id.clone(),
                        queue,
                        token: LeaseToken(unsigned(row.token.unwrap_or_default())),
                        owner: request.owner,
                    },
                    envelope,
                    lease_until: time(row.at.unwrap_or_default()),
                    attempt: small(row.retries.unwrap_or_default()) + 1,
                    deliveries: small(row.deliveries.unwrap_or_default()),
                    losses: small(row.losses.unwrap_or_default()),
                }),
                Err(error) => {
                    let (reason, failure) = envelopes::unreadable(&error);
                    claimed.unreadable.push(Burial { task: task.clone(), reason, failure });
                }
            }
        }
        Ok(claimed)
    }
}

/// Takes rows, in the order in which they go, and always one row to say what there is; `None` if something has fallen due,
/// which comes first, `unless_due`.
async fn take(
    conn: &mut PgConnection,
    now: Option<i64>,
    request: &ReceiveRequest,
    unless_due: bool,
) -> Result<Option<Vec<Row>>, Trouble> {
    if let Some(shares) = &request.shares {
        return turns::lease(conn, now, request, shares, unless_due).await;
    }
    let mut rows = lease(conn, now, request, unless_due).await?;
    if rows.first().is_some_and(|row| row.due) {
        return Ok(None);
    }
    // RETURNING promises no order.
    rows.sort_by_cached_key(|row| {
        let place = request.queues.iter().position(|it| Some(it.as_str()) == row.queue.as_deref());
        (place, Reverse(row.priority), row.seq)
    });
    Ok(Some(rows))
}

async fn lease(
    conn: &mut PgConnection,
    now: Option<i64>,
    request: &ReceiveRequest,
    unless_due: bool,
) -> Result<Vec<Row>, Trouble> {
    Ok(sqlx::query_as(LEASE)
        .bind(words(&request.queues))
        .bind(words(&request.names))
        .bind(limit(request.max))
        .bind(millis(request.lease))
        .bind(request.owner.to_string())
        .bind(request.worker.as_str())
        .bind(request.records == Records::Here)
        .bind(now)
        .bind(unless_due)
        .fetch_all(conn)
        .await?)
}

/// Makes ready what has fallen due; says how much.
pub(super) async fn promote(
    conn: &mut PgConnection,
    now: Option<i64>,
    records: Records,
) -> Result<i64, Trouble> {
    Ok(sqlx::query_scalar(PROMOTE)
        .bind(now)
        .bind(PROMOTED)
        .bind(records == Records::Here)
        .fetch_one(conn)
        .await?)
}

/// Names as an array.
pub(super) fn words<T: AsRef<str>>(names: &[T]) -> Vec<&str> {
    names.iter().map(AsRef::as_ref).collect()
}

/// What a look found.
pub(super) enum Outlook {
    /// A claim is worth trying.
    Something,
    /// Nothing before then.
    Nothing { due_in: Option<Duration> },
}

pub(super) struct Look {
    pub(super) request: Arc<ReceiveRequest>,
}

#[async_trait]
impl Operation for Look {
    type Output = Outlook;
    const ACTION: &'static str = "look for deliveries";
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<Outlook, Trouble> {
        let (ready, due_in): (bool, Option<i64>) = sqlx::query_as(LOOK)
            .bind(words(&self.request.queues))
            .bind(words(&self.request.names))
            .bind(now)
            .fetch_one(conn)
            .await?;
        if ready || due_in.is_some_and(|due_in| due_in <= 0) {
            return Ok(Outlook::Something);
        }
        Ok(Outlook::Nothing {
            due_in: due_in.map(|millis| Duration::from_millis(unsigned(millis))),
        })
    }
}

/// What became of a transaction whose commit nobody confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has happened.
    Committed,
    /// It has not, and will not.
    Aborted,
    /// That is not decided yet.
    Open,
}

/// Asks for it.
pub(super) struct AskFate {
    pub(super) transaction: String,
}

#[async_trait]
impl Operation for AskFate {
    type Output = Fate;
    const ACTION: &'static str = Claim::ACTION;
    const READS: bool = true;

    async fn run(&self, conn: &mut PgConnection, _: Option<i64>) -> Result<Fate, Trouble> {
        let status: Option<String> = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)")
            .bind(&self.transaction)
            .fetch_one(conn)
            .await?;
        Ok(match status.as_deref() {
            Some("committed") => Fate::Committed,
            Some("in progress") => Fate::Open,
            // No status is kept of a transaction from long before, whose leases are over.
            _ => Fate::Aborted,
        })
    }
}

/// Gives up envelopes that cannot be read, which nobody got, so that they were not delivered.
pub(super) struct Reject {
    pub(super) burials: Vec<Burial>,
    pub(super) records: Records,
}

#[async_trait]
impl Operation for Reject {
    type Output = ();
    const ACTION: &'static str = "give up envelopes that cannot be read";

    fn rings((): &()) -> Topics {
        Topics::RECORDS
    }

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<(), Trouble> {
        let tasks: Vec<&str> = self.burials.iter().map(|burial| burial.task.as_str()).collect();
        // Another worker may have read it: a newer one, which knows newer envelopes.
        let waiting: Vec<String> = sqlx::query_scalar(
            "SELECT task FROM deliveries WHERE task = ANY($1) AND phase = 0
             ORDER BY task FOR UPDATE SKIP LOCKED",
        )
        .bind(tasks)
        .fetch_all(&mut *conn)
        .await?;
        let burials: Vec<&Burial> =
            self.burials.iter().filter(|burial| waiting.contains(&burial.task)).collect();
        if !burials.is_empty() {
            dead_letter::cut(conn, &burials).await?;
            dead_letter::bury(conn, now, &burials).await?;
            if self.records == Records::Here {
                records::fail(conn, now, &burials).await?;
            }
        }
        Ok(())
    }
}
