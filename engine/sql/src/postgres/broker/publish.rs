//! Storing envelopes: each one, its queue and its record in one step, or the news that something is in the way.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::Published;
use stem_core::envelope::{Envelope, wire};
use stem_core::id::{TaskId, UniqueKey};
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;

use crate::bells::Topics;
use crate::codec::Packed;
use crate::postgres::error::Trouble;
use crate::postgres::lane::Batch;

#[derive(Clone)]
pub(in crate::postgres) struct Publish {
    pub(in crate::postgres) records: Records,
}

/// Stores what nothing is in the way of: the task itself on its way, dead or (with $12) on record, or the holder of its
/// unique key. Answers the place and the task in the way of each of the others, and as place 0 whether the rest is stored,
/// which it is not if somebody else stored one of them at the same moment.
///
/// Records are inserted in the order of tasks and deliveries in that of keys, so that two batches which have some in common
/// wait for each other and never both ways; the numbers are drawn before, in the order of enqueueing.
pub(in crate::postgres) const STORE: &str = "
    WITH judged AS MATERIALIZED (
        SELECT item.*, coalesce(
                (SELECT d.task FROM deliveries AS d WHERE d.task = item.task),
                (SELECT x.task FROM dead_letters AS x WHERE x.task = item.task),
                (SELECT t.id FROM tasks AS t WHERE $12 AND t.id = item.task),
                (SELECT k.task FROM deliveries AS k WHERE k.unique_key = item.unique_key)
            ) AS obstacle
        FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
            $8::bigint[], $9::int[], $10::int[], $14::text[], $15::text[], $16::text[])
            WITH ORDINALITY AS item (task, queue, name, priority, not_before, unique_key, enqueued_at, max_retries,
            wire_from, wire_len, parent, root, tenant, place)
    ), fresh AS MATERIALIZED (
        SELECT nextval('numbers') AS seq, free.*
        FROM (SELECT * FROM judged WHERE obstacle IS NULL ORDER BY place) AS free
    ), recorded AS (
        INSERT INTO tasks (number, id, name, queue, state, max_retries, enqueued_at, not_before, parent, root)
        SELECT seq, task, name, queue, 'queued', max_retries, enqueued_at, not_before, parent, root FROM fresh WHERE $12
        ORDER BY task
        ON CONFLICT (id) DO NOTHING RETURNING 1
    ), placed AS (
        INSERT INTO deliveries (seq, task, queue, name, tenant, phase, priority, at, unique_key)
        SELECT seq, task, queue, name, tenant, (not_before IS NOT NULL AND not_before > clock.now)::int::smallint, priority,
            greatest(not_before, clock.now), unique_key
        FROM fresh CROSS JOIN (SELECT stem_now($13) AS now) AS clock
        ORDER BY unique_key, task
        ON CONFLICT DO NOTHING RETURNING 1
    ), packed AS (
        INSERT INTO envelopes (seq, wire) SELECT seq, substr($11::bytea, wire_from, wire_len) FROM fresh
    ), named AS (
        INSERT INTO queues (name)
        SELECT DISTINCT queue FROM fresh WHERE NOT EXISTS (SELECT 1 FROM queues WHERE queues.name = fresh.queue)
        ORDER BY queue ON CONFLICT DO NOTHING
    )
    SELECT place, obstacle, false AS stored FROM judged WHERE obstacle IS NOT NULL
    UNION ALL
    SELECT 0, NULL, (NOT $12 OR (SELECT count(*) FROM recorded) = (SELECT count(*) FROM fresh))
        AND (SELECT count(*) FROM placed) = (SELECT count(*) FROM fresh)";

#[async_trait]
impl Batch for Publish {
    type Item = Envelope;
    type Answer = Published;
    const ACTION: &'static str = "enqueue";
    const SENDS_NEWS_FIRST: bool = true;

    fn weight(envelope: &Envelope) -> usize {
        envelope.payload.bytes.len()
    }

    async fn run(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
        envelopes: &[Envelope],
    ) -> Result<(Vec<Published>, Topics), Trouble> {
        let published = self.publish(conn, now, &envelopes.iter().collect::<Vec<_>>()).await?;
        let stored = published.contains(&Published::Stored);
        Ok((published, if stored { Topics::TASKS } else { Topics::NONE }))
    }
}

/// Those that repeat neither an id nor a key of an earlier one, and the others.
fn first_ones(envelopes: &[&Envelope], left: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let mut ids = HashSet::new();
    let mut keys = HashSet::new();
    left.iter().partition(|index| {
        let envelope = &envelopes[**index];
        let new_id = ids.insert(envelope.id.as_str());
        let key = envelope.unique_key.as_ref();
        new_id && key.is_none_or(|key| keys.insert(key.as_str()))
    })
}

impl Publish {
    /// Stores what nothing is in the way of, inside somebody's transaction.
    pub(super) async fn publish(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
        envelopes: &[&Envelope],
    ) -> Result<Vec<Published>, Trouble> {
        let mut published = vec![Published::Stored; envelopes.len()];
        let mut left: Vec<usize> = (0..envelopes.len()).collect();
        // A task that repeats an id or a key of the batch comes after what it repeats, when that can be found in its way.
        while !left.is_empty() {
            let (now_on, later) = first_ones(envelopes, &left);
            for (index, existing) in self.store(conn, now, envelopes, &now_on).await? {
                published[index] = Published::Duplicate { existing };
            }
            left = later;
        }
        Ok(published)
    }

    /// Stores these; answers which could not be, and what is in their way.
    async fn store(
        &self,
        conn: &mut PgConnection,
        now: Option<i64>,
        envelopes: &[&Envelope],
        indices: &[usize],
    ) -> Result<Vec<(usize, TaskId)>, Trouble> {
        let of = || indices.iter().map(|index| envelopes[*index]);
        let tenants: Vec<Tenant> = of().map(|it| Tenant::of(&it.headers)).collect();
        let mut wires = Packed::default();
        let (mut from, mut len) = (Vec::new(), Vec::new());
        for envelope in of() {
            let (at, bytes) = wires.add(&wire::encode(envelope));
            from.push(place(at));
            len.push(place(bytes));
        }
        let answers: Vec<(i64, Option<String>, bool)> = sqlx::query_as(STORE)
            .bind(of().map(|it| it.id.as_str()).collect::<Vec<_>>())
            .bind(of().map(|it| it.queue.as_str()).collect::<Vec<_>>())
            .bind(of().map(|it| it.name.as_str()).collect::<Vec<_>>())
            .bind(of().map(|it| i64::from(it.priority.level())).collect::<Vec<_>>())
            .bind(of().map(|it| it.not_before.map(Timestamp::unix_millis)).collect::<Vec<_>>())
            .bind(of().map(|it| it.unique_key.as_ref().map(UniqueKey::as_str)).collect::<Vec<_>>())
            .bind(of().map(|it| it.enqueued_at.unix_millis()).collect::<Vec<_>>())
            .bind(of().map(|it| i64::from(it.retry.max_retries)).collect::<Vec<_>>())
            .bind(from)
            .bind(len)
            .bind(wires.into_bytes())
            .bind(self.records == Records::Here)
            .bind(now)
            .bind(of().map(|it| it.family().map(|(parent, _)| parent.as_str())).collect::<Vec<_>>())
            .bind(of().map(|it| it.family().map(|(_, root)| root.as_str())).collect::<Vec<_>>())
            .bind(tenants.iter().map(Tenant::as_str).collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
        let mut obstacles = Vec::new();
        for (place, obstacle, stored) in answers {
            match obstacle {
                Some(task) => {
                    let index = usize::try_from(place - 1).ok().and_then(|at| indices.get(at));
                    obstacles.push((*index.ok_or(Trouble::Moved)?, TaskId::new(&task)?));
                }
                None if stored => {}
                None => return Err(Trouble::Moved),
            }
        }
        Ok(obstacles)
    }
}

/// A place in the packed bytes, which a lane keeps far smaller than this can count.
fn place(at: usize) -> i32 {
    i32::try_from(at).unwrap_or(i32::MAX)
}
