//! Rows to the core's types and back, and batches as one JSON argument.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stem_core::control::Heartbeat;
use stem_core::envelope::Payload;
use stem_core::id::{LeaseToken, QueueName, TaskId, TaskName, WorkerId};
use stem_core::settlement::DeadReason;
use stem_core::task::TaskRecord;
use stem_core::text::printable;
use stem_core::time::Timestamp;

use crate::fault::Fault;

/// JSON for a column or an argument.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types have string keys and cannot fail")
}

pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    Ok(serde_json::from_str(text)?)
}

fn optional<T: DeserializeOwned>(text: Option<&String>) -> Result<Option<T>, Fault> {
    text.map(|text| from_json(text)).transpose()
}

/// SQL integers are signed; our counters start at 0 and never come near the end.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) fn limit(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn small(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}

pub(crate) fn time(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(millis)
}

/// How long, so that adding it to any time stays in range.
/// Reads a heartbeat with the store's own time of it. One that cannot be read hides no other.
pub(crate) fn heartbeat(seen_at: i64, text: &[u8]) -> Option<Heartbeat> {
    match serde_json::from_slice::<Heartbeat>(text) {
        Ok(heartbeat) => Some(Heartbeat { seen_at: time(seen_at), ..heartbeat }),
        Err(error) => {
            tracing::debug!(
                problem = printable(&error.to_string(), 200),
                "a heartbeat cannot be read"
            );
            None
        }
    }
}

pub(crate) fn millis(duration: Duration) -> i64 {
    Timestamp::default().after(duration).unix_millis()
}

pub(crate) fn reason(text: &str) -> Result<DeadReason, Fault> {
    Ok(serde_json::from_value(serde_json::Value::String(text.to_owned()))?)
}

/// The bytes of a batch in one blob; its JSON says where each lies. One argument then carries any number of payloads,
/// neither escaped nor copied per row.
#[derive(Default)]
pub(crate) struct Packed(Vec<u8>);

impl Packed {
    /// Adds bytes; answers where they are, for SQL's `substr`: counted from 1, and how many.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> (usize, usize) {
        let from = self.0.len() + 1;
        self.0.extend_from_slice(bytes);
        (from, bytes.len())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A record as a row.
#[derive(sqlx::FromRow)]
pub(crate) struct TaskRow {
    id: String,
    name: String,
    queue: String,
    state: String,
    attempt: i64,
    max_retries: i64,
    delivery_count: i64,
    token: i64,
    enqueued_at: i64,
    not_before: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    worker: Option<String>,
    progress: Option<String>,
    failure: Option<String>,
    revocation: Option<String>,
    module: Option<String>,
    usage: Option<String>,
    parent: Option<String>,
    root: Option<String>,
    #[sqlx(default)]
    result_type: Option<String>,
    #[sqlx(default)]
    result: Option<Vec<u8>>,
}

impl TryFrom<TaskRow> for TaskRecord {
    type Error = Fault;

    fn try_from(row: TaskRow) -> Result<Self, Fault> {
        Ok(Self {
            id: TaskId::new(&row.id)?,
            name: TaskName::new(&row.name)?,
            queue: QueueName::new(&row.queue)?,
            state: row.state.parse().map_err(Fault::corrupt)?,
            attempt: small(row.attempt),
            max_retries: small(row.max_retries),
            delivery_count: small(row.delivery_count),
            token: LeaseToken(unsigned(row.token)),
            enqueued_at: time(row.enqueued_at),
            not_before: row.not_before.map(time),
            started_at: row.started_at.map(time),
            finished_at: row.finished_at.map(time),
            worker: row.worker.as_deref().map(WorkerId::new).transpose()?,
            progress: optional(row.progress.as_ref())?,
            result: row
                .result_type
                .zip(row.result)
                .map(|(media_type, bytes)| Payload { media_type, bytes }),
            failure: optional(row.failure.as_ref())?,
            revocation: optional(row.revocation.as_ref())?,
            module: optional(row.module.as_ref())?,
            usage: optional(row.usage.as_ref())?,
            parent_id: row.parent.as_deref().map(TaskId::new).transpose()?,
            root_id: row.root.as_deref().map(TaskId::new).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bytes_lie_where_the_answer_says() {
        let mut packed = Packed::default();
        assert_eq!(packed.add(b"abc"), (1, 3));
        assert_eq!(packed.add(b""), (4, 0));
        assert_eq!(packed.add(b"de"), (4, 2));
        assert_eq!(packed.into_bytes(), b"abcde");
    }

    #[test]
    fn every_dead_letter_reason_reads_back() {
        for known in [
            DeadReason::Fatal,
            DeadReason::RetriesExhausted,
            DeadReason::Poison,
            DeadReason::EnvelopeMalformed,
            DeadReason::EnvelopeVersion,
            DeadReason::Unroutable,
        ] {
            assert_eq!(reason(known.as_str()).unwrap(), known);
        }
        assert!(reason("nonsense").is_err());
    }
}
