//! Leasing for a request with shares: tenants take turns, and whoever has no room is passed over.
//!
//! Each statement seeks in the index by lanes, so a backlog that is passed over costs one step of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use sqlx::postgres::PgConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::ReceiveRequest;
use stem_core::id::QueueName;
use stem_core::machine::share::Shares;

use super::claim::{Row, lease_picked, words};
use crate::codec::{limit, millis};
use crate::lanes::{self, Head, Lane, Lanes};
use crate::postgres::clock::unnoted;
use crate::postgres::error::Trouble;

/// The lanes of the queues $1 with a name of $2 and a tenant after $3, at most $4 for each queue and name: one step of the
/// index for each. With $5 it finds none if something has fallen due, which has to be made ready first.
const LANES: &str = concat!(
    "
    WITH RECURSIVE due AS MATERIALIZED (
        SELECT $5 AND (
            EXISTS (SELECT 1 FROM deliveries WHERE phase = 1 AND at <= stem_now($6))
            OR EXISTS (SELECT 1 FROM deliveries WHERE phase = 2 AND at <= stem_now($6))
            OR ",
    unnoted!("$6"),
    "
        ) AS found
    ), lanes (queue, name, tenant, place) AS (
        SELECT asked.queue, known.name, (
            SELECT d.tenant FROM deliveries AS d
            WHERE d.phase = 0 AND d.queue = asked.queue AND d.name = known.name AND d.tenant > $3
            ORDER BY d.tenant LIMIT 1
        ), 1::bigint
        FROM unnest($1::text[]) AS asked (queue) CROSS JOIN unnest($2::text[]) AS known (name)
        WHERE NOT (SELECT found FROM due)
            AND NOT EXISTS (SELECT 1 FROM queues WHERE queues.name = asked.queue AND paused_since IS NOT NULL)
        UNION ALL
        SELECT lanes.queue, lanes.name, (
            SELECT d.tenant FROM deliveries AS d
            WHERE d.phase = 0 AND d.queue = lanes.queue AND d.name = lanes.name AND d.tenant > lanes.tenant
            ORDER BY d.tenant LIMIT 1
        ), lanes.place + 1
        FROM lanes WHERE lanes.tenant IS NOT NULL AND lanes.place < $4
    )
    SELECT due.found, lanes.queue, lanes.name, lanes.tenant
    FROM due LEFT JOIN lanes ON lanes.tenant IS NOT NULL"
);

/// The first $4 of each of the lanes that $1, $2 and $3 are: its place among them, counted from 1, priority, number.
///
/// Whoever asks for one tenant with `=` may get a plan that goes by `deliveries_ready`, past all others' backlogs, as soon as
/// the server has seen a moment in which there was one tenant. Only the index by lanes has the order that is asked for here.
const HEADS: &str = "
    SELECT lane.place, first.priority::bigint, first.seq
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS lane (queue, name, tenant, place)
    CROSS JOIN LATERAL (
        SELECT priority, seq FROM deliveries
        WHERE phase = 0 AND deliveries.queue = lane.queue AND deliveries.name = lane.name
            AND deliveries.tenant >= lane.tenant AND deliveries.tenant <= lane.tenant
        ORDER BY deliveries.tenant, priority DESC, seq LIMIT $4
    ) AS first";

/// Leases the first $9 of each of the lanes that $1, $2 and $3 are, passing over what others have just locked. $10 is how
/// many are meant to come. For the order see `HEADS`.
const LEASE: &str = concat!(
    "
    WITH picked AS MATERIALIZED (
        SELECT first.task
        FROM unnest($1::text[], $2::text[], $3::text[], $9::bigint[]) AS wanted (queue, name, tenant, n)
        CROSS JOIN LATERAL (
            SELECT task FROM deliveries
            WHERE phase = 0 AND deliveries.queue = wanted.queue AND deliveries.name = wanted.name
                AND deliveries.tenant >= wanted.tenant AND deliveries.tenant <= wanted.tenant
            ORDER BY deliveries.tenant, priority DESC, seq LIMIT wanted.n FOR UPDATE SKIP LOCKED
        ) AS first
",
    lease_picked!(", tenant"),
    "    SELECT false AS due, $10::bigint AS ready,
        least(
            (SELECT at FROM deliveries WHERE phase = 1 AND at >= 0 ORDER BY at LIMIT 1),
            (SELECT at FROM deliveries WHERE phase = 2 AND at >= 0 ORDER BY at LIMIT 1)
        ) - stem_now($8) AS due_in,
        leased.seq, leased.task, leased.queue, leased.name, leased.tenant, leased.priority::bigint AS priority,
        leased.at, leased.token, leased.retries, leased.deliveries, leased.losses,
        (SELECT wire FROM envelopes WHERE envelopes.seq = leased.seq) AS wire,
        CASE WHEN leased.task IS NOT NULL THEN pg_current_xact_id()::text END AS xact
    FROM (SELECT) AS one LEFT JOIN leased ON true"
);

/// For the test that walks plans.
#[cfg(test)]
pub(in crate::postgres) const HOT: [&str; 3] = [LANES, HEADS, LEASE];

/// Whether something has fallen due, and a queue's name and tenant if there is any.
type Found = (bool, Option<String>, Option<String>, Option<String>);

/// Queues, names, and the tenant behind which to begin.
type Asked<'a> = (&'a [&'a str], &'a [&'a str], &'a str);

/// The lanes of each queue.
type ByQueue = BTreeMap<String, Lanes>;

/// Leases what these shares leave for the request, in the order in which it goes, and always one row to say what there is;
/// `None` if something has fallen due, which comes first, `unless_due`.
pub(super) async fn lease(
    conn: &mut PgConnection,
    now: Option<i64>,
    request: &ReceiveRequest,
    shares: &Shares,
    unless_due: bool,
) -> Result<Option<Vec<Row>>, Trouble> {
    let Some(lanes) = find_lanes(conn, now, request, shares, unless_due).await? else {
        return Ok(None);
    };
    let heads = find_heads(conn, &lanes, request.max).await?;
    let mut left = shares.clone();
    let mut chosen = Vec::new();
    for queue in &request.queues {
        let of = |head: &&Head| lanes.queues[head.lane] == queue.as_str();
        let heads = heads.iter().filter(of).cloned().collect();
        let missing = request.max.saturating_sub(chosen.len());
        chosen.extend(lanes::choose(heads, &lanes.lanes, &mut left, queue, missing));
    }
    let rows = lease_first(conn, now, request, &lanes, &chosen).await?;
    Ok(Some(in_turn(rows, &lanes, &chosen)))
}

/// Lanes that are looked at and have room, each with its queue.
#[derive(Default)]
struct Open {
    queues: Vec<String>,
    lanes: Vec<Lane>,
}

impl Open {
    /// As arrays of queues, names and tenants.
    fn words(
        &self,
        lanes: impl Iterator<Item = usize> + Clone,
    ) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
        (
            lanes.clone().map(|lane| self.queues[lane].as_str()).collect(),
            lanes.clone().map(|lane| self.lanes[lane].name.as_str()).collect(),
            lanes.map(|lane| self.lanes[lane].tenant.as_str()).collect(),
        )
    }
}

async fn find_lanes(
    conn: &mut PgConnection,
    now: Option<i64>,
    request: &ReceiveRequest,
    shares: &Shares,
    unless_due: bool,
) -> Result<Option<Open>, Trouble> {
    let with_room = |queue: &&QueueName| shares.room_of(queue) > 0;
    let queues: Vec<&str> =
        request.queues.iter().filter(with_room).map(QueueName::as_str).collect();
    let names = words(&request.names);
    let most = shares.looked_at(names.len());
    let first = look(conn, now, (&queues, &names, ""), most, unless_due).await?;
    let Some(mut found) = first else { return Ok(None) };
    let long: BTreeMap<String, Vec<String>> = found
        .iter()
        .map(|(queue, lanes)| (queue.clone(), lanes.cut_off(most)))
        .filter(|(_, names)| !names.is_empty())
        .collect();
    for (queue, names) in &long {
        let names = words(names);
        let asked: Asked<'_> = (&[queue.as_str()], &names, shares.from.as_str());
        for (queue, behind) in look(conn, now, asked, most, false).await?.unwrap_or_default() {
            found.entry(queue).or_default().go_on(behind, most);
        }
    }
    let mut open = Open::default();
    for (queue, lanes) in found {
        let lanes = lanes.with_room(shares);
        open.queues.extend(std::iter::repeat_n(queue, lanes.len()));
        open.lanes.extend(lanes);
    }
    Ok(Some(open))
}

/// The lanes of these queues and names after a tenant, so many of each name; `None` if something has fallen due, `unless_due`.
async fn look(
    conn: &mut PgConnection,
    now: Option<i64>,
    (queues, names, after): Asked<'_>,
    most: usize,
    unless_due: bool,
) -> Result<Option<ByQueue>, Trouble> {
    let rows: Vec<Found> = sqlx::query_as(LANES)
        .bind(queues)
        .bind(names)
        .bind(after)
        .bind(limit(most))
        .bind(unless_due)
        .bind(now)
        .fetch_all(conn)
        .await?;
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (due, queue, name, tenant) in rows {
        if due {
            return Ok(None);
        }
        if let (Some(queue), Some(name), Some(tenant)) = (queue, name, tenant) {
            found.entry(queue).or_default().push((name, tenant));
        }
    }
    Ok(Some(found.into_iter().map(|(queue, lanes)| (queue, lanes.into_iter().collect())).collect()))
}

async fn find_heads(
    conn: &mut PgConnection,
    open: &Open,
    missing: usize,
) -> Result<Vec<Head>, Trouble> {
    let count = open.lanes.len();
    if count == 0 || missing == 0 {
        return Ok(Vec::new());
    }
    let (queues, names, tenants) = open.words(0..count);
    let heads: Vec<(i64, i64, i64)> = sqlx::query_as(HEADS)
        .bind(queues)
        .bind(names)
        .bind(tenants)
        .bind(limit(lanes::depth(count, missing)))
        .fetch_all(conn)
        .await?;
    let head = |(place, priority, seq)| {
        let lane = usize::try_from(place).ok().and_then(|place: usize| place.checked_sub(1));
        Ok(Head { lane: lane.filter(|lane| *lane < count).ok_or(Trouble::Moved)?, priority, seq })
    };
    heads.into_iter().map(head).collect()
}

/// Leases as many of each lane as were chosen. Others may have taken the very ones that were seen.
async fn lease_first(
    conn: &mut PgConnection,
    now: Option<i64>,
    request: &ReceiveRequest,
    open: &Open,
    chosen: &[Head],
) -> Result<Vec<Row>, Trouble> {
    let mut counts: BTreeMap<usize, i64> = BTreeMap::new();
    for head in chosen {
        *counts.entry(head.lane).or_default() += 1;
    }
    let (queues, names, tenants) = open.words(counts.keys().copied());
    Ok(sqlx::query_as(LEASE)
        .bind(queues)
        .bind(names)
        .bind(tenants)
        .bind(millis(request.lease))
        .bind(request.owner.to_string())
        .bind(request.worker.as_str())
        .bind(request.records == Records::Here)
        .bind(now)
        .bind(counts.into_values().collect::<Vec<_>>())
        .bind(limit(chosen.len()))
        .fetch_all(conn)
        .await?)
}

/// Rows in the order of the turns that they were chosen for.
fn in_turn(mut rows: Vec<Row>, open: &Open, chosen: &[Head]) -> Vec<Row> {
    rows.sort_by_key(|row| (Reverse(row.priority), row.seq));
    let mut waiting: BTreeMap<(Option<String>, Option<String>), VecDeque<Row>> = BTreeMap::new();
    for row in rows {
        waiting.entry((row.queue.clone(), row.tenant.clone())).or_default().push_back(row);
    }
    let mut ordered = Vec::new();
    for head in chosen {
        let tenant = open.lanes[head.lane].tenant.to_string();
        let of = (Some(open.queues[head.lane].clone()), Some(tenant));
        ordered.extend(waiting.get_mut(&of).and_then(VecDeque::pop_front));
    }
    // The row that says that there is nothing.
    ordered.extend(waiting.into_values().flatten());
    ordered
}
