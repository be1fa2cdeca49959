//! Settling and renewing: only for the holder of the newest token, whose lease nobody has taken back.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::{Renewal, Renewed, Settled};
use stem_core::settlement::{Receipt, Settle, Settlement};
use stem_core::task::HISTORY;
use stem_core::time::Timestamp;

use super::publish::publish;
use crate::codec::{limit, time, to_json};
use crate::fault::Fault;
use crate::sqlite::dead_letter::{self, Burial};
use crate::sqlite::lane::Batch;
use crate::sqlite::records;
use crate::sqlite::writer::{Operation, Topics};

/// Which receipts of ?1 hold their delivery. An expired lease that nobody took back still counts.
const HELD: &str = "
    SELECT item.key, d.seq, d.at
    FROM json_each(?1) AS item
    CROSS JOIN deliveries AS d ON d.task = item.value ->> 0
    WHERE d.phase = 2 AND d.token = item.value ->> 1 AND d.owner = item.value ->> 2";

/// Leaves nothing of what is final: ?1 are its numbers, ?2 the tasks that may have failed before. One script, as each
/// trip to SQLite's thread costs more than these statements; `?1 IS ?1` because sqlx counts on an unbroken row of
/// arguments in each statement.
const REMOVE: &str = "
    DELETE FROM deliveries WHERE seq IN (SELECT value FROM json_each(?1));
    DELETE FROM envelopes WHERE seq IN (SELECT value FROM json_each(?1));
    DELETE FROM delivery_failures
    WHERE ?1 IS ?1 AND task IN (SELECT value FROM json_each(?2))";

const RETRY: &str = "
    UPDATE deliveries SET phase = 1, at = item.at, owner = NULL, retries = retries + 1
    FROM (SELECT value ->> 0 AS seq, value ->> 1 AS at FROM json_each(?1)) AS item
    WHERE deliveries.seq = item.seq";

/// Back to its old place, which is its number.
const RELEASE: &str = "
    UPDATE deliveries SET phase = 0, at = ?2, owner = NULL, deliveries = deliveries - 1
    WHERE seq IN (SELECT value FROM json_each(?1))";

const EXTEND: &str = "
    UPDATE deliveries SET at = item.at
    FROM (SELECT value ->> 0 AS seq, value ->> 1 AS at FROM json_each(?1)) AS item
    WHERE deliveries.seq = item.seq";

const REMEMBER: &str = "
    INSERT INTO delivery_failures (task, failed) SELECT value ->> 0, value ->> 1 FROM json_each(?1)";

const FORGET_OLD: &str = "
    DELETE FROM delivery_failures WHERE id IN (
        SELECT id FROM delivery_failures WHERE task = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2
    )";

/// The statements that run while the lock is held, for the test that walks their plans.
#[cfg(test)]
pub(in crate::sqlite) const HOT: [&str; 5] = [HELD, REMOVE, RETRY, RELEASE, EXTEND];

struct Held {
    seq: i64,
    until: i64,
}

async fn held<'a>(
    conn: &mut SqliteConnection,
    receipts: impl Iterator<Item = &'a Receipt>,
) -> Result<HashMap<usize, Held>, Fault> {
    let proofs: Vec<_> = receipts
        .map(|receipt| json!([receipt.task, receipt.token, receipt.owner.to_string()]))
        .collect();
    let rows: Vec<(i64, i64, i64)> =
        sqlx::query_as(HELD).bind(to_json(&proofs)).fetch_all(conn).await?;
    Ok(rows
        .into_iter()
        .filter_map(|(item, seq, until)| Some((usize::try_from(item).ok()?, Held { seq, until })))
        .collect())
}

#[derive(Clone)]
pub(in crate::sqlite) struct SettleBatch {
    pub(in crate::sqlite) records: Records,
}

#[async_trait]
impl Batch for SettleBatch {
    type Item = Settle;
    type Answer = Settled;
    const ACTION: &'static str = "settle deliveries";
    const RINGS: Topics = Topics::TASKS;

    fn wrote(settled: &Settled) -> bool {
        *settled == Settled::Done
    }

    async fn run(
        &self,
        conn: &mut SqliteConnection,
        now: Timestamp,
        batch: &[Settle],
    ) -> Result<Vec<Settled>, Fault> {
        let held = held(conn, batch.iter().map(|settle| &settle.receipt)).await?;
        let mut settled = vec![Settled::Stale; batch.len()];
        let mut accepted = Vec::new();
        let mut seen = HashSet::new();
        for (index, settle) in batch.iter().enumerate() {
            // Of two settlements of one delivery in one batch the first counts.
            if let Some(held) = held.get(&index)
                && seen.insert(held.seq)
            {
                settled[index] = Settled::Done;
                accepted.push((held.seq, settle));
            }
        }
        if !accepted.is_empty() {
            apply(conn, now, &accepted).await?;
            if self.records == Records::Here {
                let batch: Vec<&Settle> = accepted.iter().map(|(_, settle)| *settle).collect();
                records::settle(conn, &batch).await?;
            }
            let children: Vec<_> =
                accepted.iter().flat_map(|(_, settle)| settle.publishes()).collect();
            if !children.is_empty() {
                publish(conn, now, &children, self.records).await?;
            }
        }
        Ok(settled)
    }
}

/// Moves the deliveries, sorted by what becomes of them: one statement for each kind that occurs.
async fn apply(
    conn: &mut SqliteConnection,
    now: Timestamp,
    accepted: &[(i64, &Settle)],
) -> Result<(), Fault> {
    let mut gone = Vec::new();
    let mut with_past = Vec::new();
    let mut burials = Vec::new();
    let mut retries = Vec::new();
    let mut released = Vec::new();
    let mut failures = Vec::new();
    for (seq, settle) in accepted {
        let task = &settle.receipt.task;
        if let Some(failed) = settle.failed_attempt() {
            failures.push((task.as_str(), to_json(&failed)));
        }
        match &settle.settlement {
            Settlement::Succeed(_)
            | Settlement::Revoke(_)
            | Settlement::Expire
            | Settlement::Discard => {
                gone.push(*seq);
                if settle.receipt.token.0 > 1 {
                    with_past.push(task.as_str());
                }
            }
            Settlement::Fail { failure, reason } => burials.push(Burial {
                seq: *seq,
                task: task.to_string(),
                reason: *reason,
                failure: failure.clone(),
            }),
            Settlement::Retry { not_before, .. } => retries.push((*seq, not_before.unix_millis())),
            Settlement::Release => released.push(*seq),
        }
    }
    if !failures.is_empty() {
        sqlx::query(REMEMBER).bind(to_json(&failures)).execute(&mut *conn).await?;
        for (_, settle) in accepted {
            // A history cannot be longer than the task was delivered.
            if settle.receipt.token.0 > HISTORY as u64 && settle.failed_attempt().is_some() {
                let task = settle.receipt.task.as_str();
                sqlx::query(FORGET_OLD).bind(task).bind(limit(HISTORY)).execute(&mut *conn).await?;
            }
        }
    }
    if !gone.is_empty() {
        sqlx::query(REMOVE)
            .bind(to_json(&gone))
            .bind(to_json(&with_past))
            .execute(&mut *conn)
            .await?;
    }
    if !burials.is_empty() {
        dead_letter::bury(conn, now, &burials).await?;
    }
    if !retries.is_empty() {
        sqlx::query(RETRY).bind(to_json(&retries)).execute(&mut *conn).await?;
    }
    if !released.is_empty() {
        sqlx::query(RELEASE)
            .bind(to_json(&released))
            .bind(now.unix_millis())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Gives deliveries back, for a claim whose caller has gone.
pub(super) struct GiveBack {
    pub(super) batch: Vec<Settle>,
    pub(super) records: Records,
}

#[async_trait]
impl Operation for GiveBack {
    type Output = Vec<Settled>;
    const ACTION: &'static str = SettleBatch::ACTION;
    const RINGS: Topics = SettleBatch::RINGS;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self::Output, Fault> {
        SettleBatch { records: self.records }.run(conn, now, &self.batch).await
    }
}

pub(super) struct Renew {
    pub(super) renewals: Vec<Renewal>,
}

#[async_trait]
impl Operation for Renew {
    type Output = Vec<Renewed>;
    const ACTION: &'static str = "renew leases";
    /// Nobody waits for a lease to become longer.
    const RINGS: Topics = Topics::NONE;
    const FLEETING: bool = true;

    async fn run(
        &mut self,
        conn: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Self::Output, Fault> {
        let held = held(conn, self.renewals.iter().map(|renewal| &renewal.receipt)).await?;
        let mut ends: HashMap<i64, i64> = HashMap::new();
        let mut renewed = Vec::with_capacity(self.renewals.len());
        for (index, renewal) in self.renewals.iter().enumerate() {
            let Some(held) = held.get(&index) else {
                renewed.push(Renewed::Stale);
                continue;
            };
            let asked = now.after(renewal.lease).unix_millis();
            let end = ends.entry(held.seq).or_insert(held.until);
            *end = asked.max(*end);
            renewed.push(Renewed::Until(time(*end)));
        }
        if !ends.is_empty() {
            let rows: Vec<(i64, i64)> = ends.into_iter().collect();
            sqlx::query(EXTEND).bind(to_json(&rows)).execute(&mut *conn).await?;
        }
        Ok(renewed)
    }
}
