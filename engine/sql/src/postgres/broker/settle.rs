//! Settling and renewing: only for the holder of the newest token, whose lease nobody has taken back.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::{Renewal, Renewed, Settled};
use stem_core::settlement::{Receipt, Settle, Settlement};
use stem_core::task::HISTORY;
use stem_core::time::Timestamp;

use super::publish::Publish;
use crate::bells::Topics;
use crate::codec::{limit, millis, signed, time, to_json};
use crate::postgres::clock;
use crate::postgres::dead_letter::{self, Burial};
use crate::postgres::error::Trouble;
use crate::postgres::lane::Batch;
use crate::postgres::records;
use crate::postgres::transact::Operation;

/// Which receipts hold their delivery, from here on locked. An expired lease that nobody took back still counts. `+ 0`
/// keeps the planner from walking the index of leases, which looks cheap to it while there are few; for `= ANY` see
/// `place`.
const HELD: &str = "
    SELECT item.place
    FROM unnest($1::text[], $2::bigint[], $3::text[]) WITH ORDINALITY AS item (task, token, owner, place)
    JOIN deliveries AS d ON d.task = item.task
    WHERE d.task = ANY($1) AND d.phase + 0 = 2 AND d.token = item.token AND d.owner = item.owner
    ORDER BY d.task FOR UPDATE OF d";

/// Leaves nothing of what is final: $1 are the tasks, $2 those that may have failed before.
const REMOVE: &str = "
    WITH gone AS (
        DELETE FROM deliveries WHERE task = ANY($1) RETURNING seq
    ), wires AS (
        DELETE FROM envelopes WHERE seq = ANY(ARRAY(SELECT seq FROM gone))
    )
    DELETE FROM delivery_failures WHERE task = ANY($2)";

const RETRY: &str = "
    UPDATE deliveries SET phase = 1, at = item.at, owner = NULL, retries = retries + 1
    FROM unnest($1::text[], $2::bigint[]) AS item (task, at)
    WHERE deliveries.task = item.task AND deliveries.task = ANY($1)";

/// Back to its old place, which is its number.
const RELEASE: &str = "
    UPDATE deliveries SET phase = 0, at = stem_now($2), owner = NULL, deliveries = deliveries - 1
    WHERE task = ANY($1)";

/// A history cannot be longer than the task was delivered, so only those in $3 can have too long a one; $4 is how long it
/// may be, without the entry that is added here, which this statement does not see.
const REMEMBER: &str = "
    WITH old AS (
        DELETE FROM delivery_failures AS f WHERE f.task = ANY($3) AND f.id <= (
            SELECT id FROM delivery_failures WHERE task = f.task ORDER BY id DESC OFFSET $4 LIMIT 1
        )
    )
    INSERT INTO delivery_failures (task, failed) SELECT * FROM unnest($1::text[], $2::text[])";

/// A renewal never shortens a lease.
const EXTEND: &str = "
    UPDATE deliveries AS d SET at = greatest(d.at, stem_now($5) + item.lease)
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS item (task, token, owner, lease)
    WHERE d.task = item.task AND d.task = ANY($1) AND d.phase + 0 = 2 AND d.token = item.token AND d.owner = item.owner
    RETURNING d.task, d.token, d.owner, d.at";

/// For the test that walks plans.
#[cfg(test)]
pub(in crate::postgres) const HOT: [&str; 6] = [HELD, REMOVE, RETRY, RELEASE, REMEMBER, EXTEND];

/// What a child weighs besides its payload, so that few settlements with a thousand children each make a transaction.
const CHILD: usize = 4 << 10;

/// Receipts as arrays of tasks, tokens and owners.
fn proofs<'a>(
    receipts: impl Iterator<Item = &'a Receipt>,
) -> (Vec<&'a str>, Vec<i64>, Vec<String>) {
    let (mut tasks, mut tokens, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for receipt in receipts {
        tasks.push(receipt.task.as_str());
        tokens.push(signed(receipt.token.0));
        owners.push(receipt.owner.to_string());
    }
    (tasks, tokens, owners)
}

#[derive(Clone)]
pub(in crate::postgres) struct SettleBatch {
    pub(in crate::postgres) records: Records,
}

#[async_trait]
impl Batch for SettleBatch {
    type Item = Settle;
    type Answer = Settled;
    const ACTION: &'static str = "settle deliveries";
    const SENDS_NEWS_FIRST: bool = false;

    fn weight(settle: &Settle) -> usize {
        let children = settle.publishes().iter().map(|child| Publish::weight(child) + CHILD);
        let result = match &settle.settlement {
            Settlement::Succeed(result) => result.bytes.len(),
            _ => 0,
        };
        result + children.sum::<usize>()
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
        batch: &[Settle],
    ) -> Result<(Vec<Settled>, Topics), Trouble> {
        let (tasks, tokens, owners) = proofs(batch.iter().map(|settle| &settle.receipt));
        let held: Vec<i64> = sqlx::query_scalar(HELD)
            .bind(tasks)
            .bind(tokens)
            .bind(owners)
            .fetch_all(&mut *conn)
            .await?;
        let held: HashSet<i64> = held.into_iter().collect();
        let mut settled = vec![Settled::Stale; batch.len()];
        let mut accepted: Vec<&Settle> = Vec::new();
        let mut seen = HashSet::new();
        for ((place, settle), answer) in (1..).zip(batch).zip(&mut settled) {
            // Of two settlements of one delivery in one batch the first counts.
            if held.contains(&place) && seen.insert(&settle.receipt.task) {
                *answer = Settled::Done;
                accepted.push(settle);
            }
        }
        if accepted.is_empty() {
            return Ok((settled, Topics::NONE));
        }
        let moved = apply(conn, now, &accepted).await?;
        if self.records == Records::Here {
            records::settle(conn, &accepted).await?;
        }
        let children: Vec<_> = accepted.iter().flat_map(|settle| settle.publishes()).collect();
        if !children.is_empty() {
            Publish { records: self.records }.publish(conn, now, &children).await?;
        }
        let waits = moved || !children.is_empty();
        Ok((settled, if waits { Topics::TASKS } else { Topics::RECORDS }))
    }
}

/// Moves the deliveries, sorted by what becomes of them: one statement for each kind that occurs. Says whether any waits
/// again.
async fn apply(
    conn: &mut PgConnection,
    now: Option<i64>,
    accepted: &[&Settle],
) -> Result<bool, Trouble> {
    let mut gone = Vec::new();
    let mut with_past = Vec::new();
    let mut burials = Vec::new();
    let (mut retried, mut retried_at) = (Vec::new(), Vec::new());
    let mut released = Vec::new();
    let (mut failed, mut failures, mut long) = (Vec::new(), Vec::new(), Vec::new());
    for settle in accepted {
        let task = settle.receipt.task.as_str();
        let deliveries = settle.receipt.token.0;
        if let Some(attempt) = settle.failed_attempt() {
            failed.push(task);
            failures.push(to_json(&attempt));
            if deliveries >= HISTORY as u64 {
                long.push(task);
            }
        }
        match &settle.settlement {
            Settlement::Succeed(_)
            | Settlement::Revoke(_)
            | Settlement::Expire
            | Settlement::Discard => {
                gone.push(task);
                if deliveries > 1 {
                    with_past.push(task);
                }
            }
            Settlement::Fail { failure, reason } => burials.push(Burial {
                task: task.to_owned(),
                reason: *reason,
                failure: failure.clone(),
            }),
            Settlement::Retry { not_before, .. } => {
                retried.push(task);
                retried_at.push(not_before.unix_millis());
            }
            Settlement::Release => released.push(task),
        }
    }
    let waits_again = !retried.is_empty() || !released.is_empty();
    if !failed.is_empty() {
        sqlx::query(REMEMBER)
            .bind(failed)
            .bind(failures)
            .bind(long)
            .bind(limit(HISTORY - 1))
            .execute(&mut *conn)
            .await?;
    }
    if !gone.is_empty() {
        sqlx::query(REMOVE).bind(gone).bind(with_past).execute(&mut *conn).await?;
    }
    if !burials.is_empty() {
        dead_letter::bury(conn, now, &burials.iter().collect::<Vec<_>>()).await?;
    }
    if !retried.is_empty() {
        sqlx::query(RETRY).bind(retried).bind(retried_at).execute(&mut *conn).await?;
    }
    if !released.is_empty() {
        sqlx::query(RELEASE).bind(released).bind(now).execute(&mut *conn).await?;
    }
    Ok(waits_again)
}

/// Gives deliveries back, for a claim whose caller has gone. Those whose lease ends at another time than that claim said are left:
/// its holder has them by a later claim, under the very tokens.
pub(super) struct GiveBack {
    pub(super) batch: Vec<Settle>,
    /// When the claim's leases end, one for each of the batch.
    pub(super) leased_until: Vec<Timestamp>,
    pub(super) records: Records,
}

const STILL_LEASED: &str = "
    SELECT deliveries.task FROM deliveries
    JOIN unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS asked (task, token, owner, at) USING (task, token, owner, at)
    WHERE deliveries.phase = 2
    ORDER BY deliveries.task FOR UPDATE OF deliveries";

#[async_trait]
impl Operation for GiveBack {
    type Output = ();
    const ACTION: &'static str = SettleBatch::ACTION;
    /// What was given back is not held any more.
    const REPEATABLE: bool = true;

    fn rings((): &()) -> Topics {
        Topics::TASKS
    }

    async fn run(&self, conn: &mut PgConnection, now: Option<i64>) -> Result<(), Trouble> {
        let (tasks, tokens, owners) = proofs(self.batch.iter().map(|settle| &settle.receipt));
        let ends: Vec<i64> = self.leased_until.iter().map(|end| end.unix_millis()).collect();
        let leased: Vec<String> = sqlx::query_scalar(STILL_LEASED)
            .bind(tasks)
            .bind(tokens)
            .bind(owners)
            .bind(ends)
            .fetch_all(&mut *conn)
            .await?;
        let is_leased =
            |settle: &&Settle| leased.iter().any(|task| task == settle.receipt.task.as_str());
        let batch: Vec<Settle> = self.batch.iter().filter(is_leased).cloned().collect();
        SettleBatch { records: self.records }.run(conn, now, &batch).await.map(drop)
    }
}

pub(super) struct Renew {
    pub(super) renewals: Vec<Renewal>,
}

#[async_trait]
impl Operation for Renew {
    type Output = Vec<Renewed>;
    const ACTION: &'static str = "renew leases";
    const REPEATABLE: bool = true;

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
    ) -> Result<Self::Output, Trouble> {
        clock::note(conn, now).await?;
        // A lease that is asked for twice gets the longer time.
        let mut longest: HashMap<&Receipt, i64> = HashMap::new();
        for renewal in &self.renewals {
            let lease = longest.entry(&renewal.receipt).or_default();
            *lease = millis(renewal.lease).max(*lease);
        }
        let mut asked: Vec<(&Receipt, i64)> = longest.into_iter().collect();
        asked.sort_by_key(|(receipt, _)| &receipt.task);
        let (tasks, tokens, owners) = proofs(asked.iter().map(|(receipt, _)| *receipt));
        let leases: Vec<i64> = asked.iter().map(|(_, lease)| *lease).collect();
        let extended: Vec<(String, i64, String, i64)> = sqlx::query_as(EXTEND)
            .bind(tasks)
            .bind(tokens)
            .bind(owners)
            .bind(leases)
            .bind(now)
            .fetch_all(&mut *conn)
            .await?;
        let ends: HashMap<(String, i64, String), i64> = extended
            .into_iter()
            .map(|(task, token, owner, end)| ((task, token, owner), end))
            .collect();
        let answer = |renewal: &Renewal| {
            let Receipt { task, token, owner, .. } = &renewal.receipt;
            let end = ends.get(&(task.to_string(), signed(token.0), owner.to_string()));
            end.map_or(Renewed::Stale, |end| Renewed::Until(time(*end)))
        };
        Ok(self.renewals.iter().map(answer).collect())
    }
}
