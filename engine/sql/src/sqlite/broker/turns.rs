//! Taking deliveries for a request with shares: tenants take turns, and whoever has no room is passed over.
//!
//! Each statement seeks in the index by lanes, so a backlog that is passed over costs one step of it.

use std::collections::HashMap;

use sqlx::sqlite::SqliteConnection;
use stem_core::backend::broker::ReceiveRequest;
use stem_core::id::QueueName;
use stem_core::machine::share::Shares;
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;

use super::claim::{self, Claimed, Row};
use crate::codec::{limit, to_json};
use crate::fault::Fault;
use crate::lanes::{self, Head, Lane, Lanes};

/// The lanes of queue ?1 with a name of ?2 and a tenant after ?3, at most ?4 of each name: one step of the index for each.
/// The index is made here, since its upkeep is only for those who have quotas.
const LANES: &str = "
    CREATE INDEX IF NOT EXISTS deliveries_lanes ON deliveries (queue, name, tenant, priority DESC, seq) WHERE phase = 0;
    WITH RECURSIVE lanes (name, tenant, place) AS (
        SELECT known.value, (
            SELECT d.tenant FROM deliveries AS d
            WHERE d.phase = 0 AND d.queue = ?1 AND d.name = known.value AND d.tenant > ?3
            ORDER BY d.tenant LIMIT 1
        ), 1
        FROM json_each(?2) AS known
        WHERE NOT EXISTS (SELECT 1 FROM queues WHERE queues.name = ?1 AND paused_since IS NOT NULL)
        UNION ALL
        SELECT lanes.name, (
            SELECT d.tenant FROM deliveries AS d
            WHERE d.phase = 0 AND d.queue = ?1 AND d.name = lanes.name AND d.tenant > lanes.tenant
            ORDER BY d.tenant LIMIT 1
        ), lanes.place + 1
        FROM lanes WHERE lanes.tenant IS NOT NULL AND lanes.place < ?4
    )
    SELECT name, tenant FROM lanes WHERE tenant IS NOT NULL";

/// The first ?3 of each lane of ?2 in queue ?1. For the JSON see `LEASE` of a claim without shares.
const HEADS: &str = "
    SELECT lane.key, first.value ->> 0, first.value ->> 1
    FROM json_each(?2) AS lane
    CROSS JOIN json_each((
        SELECT json_group_array(json_array(priority, seq)) FROM (
            SELECT priority, seq FROM deliveries
            WHERE phase = 0 AND queue = ?1 AND name = lane.value ->> 'name' AND tenant = lane.value ->> 'tenant'
            ORDER BY priority DESC, seq LIMIT ?3
        )
    )) AS first";

const TAKE: &str = "
    UPDATE deliveries SET phase = 2, at = ?2, owner = ?3, token = token + 1, deliveries = deliveries + 1
    WHERE seq IN (SELECT value FROM json_each(?1))
    RETURNING 1 AS leased, seq, task, name, priority, token, retries, deliveries, losses,
        (SELECT wire FROM envelopes WHERE envelopes.seq = deliveries.seq) AS wire";

/// The statements that run while the lock is held, for the test that walks their plans.
#[cfg(test)]
pub(in crate::sqlite) const HOT: [&str; 3] = [LANES, HEADS, TAKE];

/// A claim that goes by shares.
struct Turns<'a> {
    now: Timestamp,
    request: &'a ReceiveRequest,
    names: String,
    /// Who got the last delivery of the claim before.
    from: &'a Tenant,
    /// What has not gone yet.
    left: Shares,
}

/// Rows in the order in which they go.
#[derive(Default)]
struct Leased {
    rows: Vec<Row>,
    /// Whose each task is.
    tenants: HashMap<String, Tenant>,
    /// Whether more may go, which was too deep to be looked at.
    cut: bool,
}

/// Takes what these shares leave for the request.
pub(super) async fn take(
    conn: &mut SqliteConnection,
    now: Timestamp,
    request: &ReceiveRequest,
    shares: &Shares,
    claimed: &mut Claimed,
) -> Result<(), Fault> {
    claimed.wrote |= claim::promote(conn, now, request.records).await?;
    let names = to_json(&*request.names);
    let mut turns = Turns { now, request, names, from: &shares.from, left: shares.clone() };
    for queue in &request.queues {
        loop {
            let missing = request.max.saturating_sub(claimed.deliveries.len());
            let Leased { rows, mut tenants, cut } = turns.lease(conn, queue, missing).await?;
            if rows.is_empty() {
                break;
            }
            claimed.wrote = true;
            let asked = rows.len();
            let mut read = claim::read(conn, now, request, queue, rows).await?;
            for delivery in &mut read {
                if let Some(tenant) = tenants.remove(delivery.receipt.task.as_str()) {
                    delivery.tenant = tenant;
                }
            }
            let all = read.len() == asked;
            claimed.deliveries.extend(read);
            if !all {
                // Again: what cannot be read was nobody's share, and must not hide what lies behind it.
                let gone = claimed.deliveries.iter();
                turns.left = shares.without(gone.map(|it| (&it.receipt.queue, &it.tenant)));
            } else if !cut {
                break;
            }
        }
    }
    Ok(())
}

impl Turns<'_> {
    /// Leases from one queue what goes.
    async fn lease(
        &mut self,
        conn: &mut SqliteConnection,
        queue: &QueueName,
        missing: usize,
    ) -> Result<Leased, Fault> {
        let missing = missing.min(self.left.room_of(queue));
        if missing == 0 {
            return Ok(Leased::default());
        }
        let lanes = self.lanes(conn, queue).await?;
        if lanes.is_empty() {
            return Ok(Leased::default());
        }
        let depth = lanes::depth(lanes.len(), missing);
        let heads: Vec<(i64, i64, i64)> = sqlx::query_as(HEADS)
            .bind(queue.as_str())
            .bind(to_json(&lanes))
            .bind(limit(depth))
            .fetch_all(&mut *conn)
            .await?;
        let heads = heads.into_iter().filter_map(|(lane, priority, seq)| {
            Some(Head { lane: usize::try_from(lane).ok()?, priority, seq })
        });
        let chosen = lanes::choose(heads.collect(), &lanes, &mut self.left, queue, missing);
        let seqs: Vec<i64> = chosen.iter().map(|head| head.seq).collect();
        let mut rows: Vec<Row> = sqlx::query_as(TAKE)
            .bind(to_json(&seqs))
            .bind(self.now.after(self.request.lease).unix_millis())
            .bind(self.request.owner.to_string())
            .fetch_all(conn)
            .await?;
        let places: HashMap<i64, usize> =
            seqs.into_iter().enumerate().map(|(place, seq)| (seq, place)).collect();
        // RETURNING promises no order.
        rows.sort_by_key(|row| places.get(&row.seq).copied());
        let tenants = rows.iter().zip(&chosen);
        let tenants = tenants
            .map(|(row, head)| (row.task.clone(), lanes[head.lane].tenant.clone()))
            .collect();
        Ok(Leased { cut: rows.len() < missing && depth < missing, rows, tenants })
    }

    /// The lanes of a queue that are looked at and have room.
    async fn lanes(
        &self,
        conn: &mut SqliteConnection,
        queue: &QueueName,
    ) -> Result<Vec<Lane>, Fault> {
        let most = self.left.looked_at(self.request.names.len());
        let mut lanes = self.find(conn, queue, (&self.names, ""), most).await?;
        let long = lanes.cut_off(most);
        if !long.is_empty() {
            let behind = (&*to_json(&long), self.from.as_str());
            let behind = self.find(conn, queue, behind, most).await?;
            lanes.go_on(behind, most);
        }
        Ok(lanes.with_room(&self.left))
    }

    async fn find(
        &self,
        conn: &mut SqliteConnection,
        queue: &QueueName,
        (names, after): (&str, &str),
        most: usize,
    ) -> Result<Lanes, Fault> {
        let found: Vec<(String, String)> = sqlx::query_as(LANES)
            .bind(queue.as_str())
            .bind(names)
            .bind(after)
            .bind(limit(most))
            .fetch_all(conn)
            .await?;
        Ok(found.into_iter().collect())
    }
}
