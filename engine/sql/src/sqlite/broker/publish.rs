//! Storing envelopes: each one, its queue and its record in one step, or the news that something is in the way.

use std::collections::HashMap;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use stem_core::backend::Records;
use stem_core::backend::broker::Published;
use stem_core::envelope::{Envelope, wire};
use stem_core::id::TaskId;
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;

use crate::codec::{Packed, to_json};
use crate::fault::Fault;
use crate::sqlite::lane::Batch;
use crate::sqlite::records;
use crate::sqlite::writer::Topics;

#[derive(Clone)]
pub(in crate::sqlite) struct Publish {
    pub(in crate::sqlite) records: Records,
}

/// What is in the way of each item, if anything: the task itself on its way, dead or on record, or the holder of its
/// unique key. With ?2 the records count. The last row has the newest number instead: living and dead envelopes share
/// one sequence, so that a replay cannot meet its number taken.
const IN_THE_WAY: &str = "
    SELECT item.key, coalesce(d.task, x.task, t.id, k.task), 0
    FROM json_each(?1) AS item
    LEFT JOIN deliveries AS d ON d.task = item.value ->> 0
    LEFT JOIN dead_letters AS x ON x.task = item.value ->> 0
    LEFT JOIN tasks AS t ON ?2 AND t.id = item.value ->> 0
    LEFT JOIN deliveries AS k ON k.unique_key = item.value ->> 1
    WHERE coalesce(d.task, x.task, t.id, k.task) IS NOT NULL
    UNION ALL
    SELECT -1, NULL, coalesce(max(seq), 0) FROM envelopes";

/// ?1 are rows of seq, where the bytes lie in ?2, task, queue, name, phase, priority, time, unique key, tenant. One script, as
/// each trip to SQLite's thread costs more than any of these statements.
const STORE: &str = "
    INSERT INTO envelopes (seq, wire)
    SELECT value ->> 0, substr(?2, value ->> 1, value ->> 2) FROM json_each(?1);

    INSERT INTO deliveries (seq, task, queue, name, phase, priority, at, unique_key, tenant)
    SELECT value ->> 0, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9,
        value ->> 10
    FROM json_each(?1);

    INSERT INTO queues (name) SELECT DISTINCT value ->> 4 FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING";

/// The statements that run while the lock is held, for the test that walks their plans.
#[cfg(test)]
pub(in crate::sqlite) const HOT: [&str; 2] = [IN_THE_WAY, STORE];

#[async_trait]
impl Batch for Publish {
    type Item = Envelope;
    type Answer = Published;
    const ACTION: &'static str = "enqueue";
    const RINGS: Topics = Topics::TASKS;

    fn wrote(published: &Published) -> bool {
        *published == Published::Stored
    }

    async fn run(
        &self,
        conn: &mut SqliteConnection,
        now: Timestamp,
        envelopes: &[Envelope],
    ) -> Result<Vec<Published>, Fault> {
        publish(conn, now, &envelopes.iter().collect::<Vec<_>>(), self.records).await
    }
}

/// Stores what nothing is in the way of, inside somebody's transaction.
pub(super) async fn publish(
    conn: &mut SqliteConnection,
    now: Timestamp,
    envelopes: &[&Envelope],
    records: Records,
) -> Result<Vec<Published>, Fault> {
    let keys: Vec<_> = envelopes
        .iter()
        .map(|envelope| (envelope.id.as_str(), envelope.unique_key.as_ref()))
        .collect();
    let found: Vec<(i64, Option<String>, i64)> = sqlx::query_as(IN_THE_WAY)
        .bind(to_json(&keys))
        .bind(records == Records::Here)
        .fetch_all(&mut *conn)
        .await?;
    let last = found.iter().map(|(_, _, seq)| *seq).max().unwrap_or(0);
    let found: HashMap<usize, String> = found
        .into_iter()
        .filter_map(|(item, task, _)| Some((usize::try_from(item).ok()?, task?)))
        .collect();

    let mut ids: HashMap<&str, &TaskId> = HashMap::new();
    let mut holders: HashMap<&str, &TaskId> = HashMap::new();
    let mut published = Vec::with_capacity(envelopes.len());
    let mut fresh = Vec::new();
    for (index, envelope) in envelopes.iter().enumerate() {
        let key = envelope.unique_key.as_ref().map(stem_core::id::UniqueKey::as_str);
        let existing = match found.get(&index) {
            Some(task) => Some(TaskId::new(task)?),
            // An earlier item of the same batch can be in the way as well.
            None => ids
                .get(envelope.id.as_str())
                .or_else(|| holders.get(key?))
                .map(|task| (*task).clone()),
        };
        if let Some(existing) = existing {
            published.push(Published::Duplicate { existing });
            continue;
        }
        ids.insert(envelope.id.as_str(), &envelope.id);
        if let Some(key) = key {
            holders.insert(key, &envelope.id);
        }
        fresh.push(*envelope);
        published.push(Published::Stored);
    }
    if !fresh.is_empty() {
        store(conn, now, last, &fresh).await?;
        if records == Records::Here {
            records::queue(conn, &fresh).await?;
        }
    }
    Ok(published)
}

async fn store(
    conn: &mut SqliteConnection,
    now: Timestamp,
    last: i64,
    fresh: &[&Envelope],
) -> Result<(), Fault> {
    let mut wires = Packed::default();
    let rows: Vec<_> = (last + 1..)
        .zip(fresh)
        .map(|(seq, envelope)| {
            let (from, len) = wires.add(&wire::encode(envelope));
            let delayed_until = envelope.not_before.filter(|at| *at > now);
            json!([
                seq,
                from,
                len,
                envelope.id,
                envelope.queue,
                envelope.name,
                u8::from(delayed_until.is_some()),
                envelope.priority,
                delayed_until.unwrap_or(now).unix_millis(),
                envelope.unique_key,
                Tenant::of(&envelope.headers),
            ])
        })
        .collect();
    sqlx::query(STORE).bind(to_json(&rows)).bind(wires.into_bytes()).execute(conn).await?;
    Ok(())
}
