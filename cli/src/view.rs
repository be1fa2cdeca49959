//! Records as JSON, with exactly the keys of the interface, and as text for people.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use stem_core::id::{QueueName, TaskId, TaskName, WorkerId};
use stem_core::limits::Usage;
use stem_core::outcome::{Failure, FailureKind, StopHow};
use stem_core::revoke::RevokeRequest;
use stem_core::task::{FailedAttempt, ModuleRef, Progress, RevocationEnd, TaskRecord, TaskState};
use stem_core::time::Timestamp;
use stem_engine::units;

use crate::output::{payload_json, payload_line, table};

/// A task's record as JSON. Keys are a public interface.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordView<'a> {
    id: &'a TaskId,
    name: &'a TaskName,
    queue: &'a QueueName,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<&'a TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_id: Option<&'a TaskId>,
    state: TaskState,
    attempt: u32,
    max_retries: u32,
    delivery_count: u32,
    enqueued_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a WorkerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<&'a RevocationEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a ModuleRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a Usage>,
}

#[derive(Debug, Serialize)]
struct ProgressView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    fraction: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

/// A failure as JSON.
#[derive(Debug, Serialize)]
pub struct FailureView<'a> {
    kind: FailureKind,
    code: &'a str,
    message: &'a str,
}

impl<'a> From<&'a Failure> for FailureView<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self { kind: failure.kind, code: &failure.code, message: &failure.message }
    }
}

impl<'a> From<&'a TaskRecord> for RecordView<'a> {
    fn from(record: &'a TaskRecord) -> Self {
        Self {
            id: &record.id,
            name: &record.name,
            queue: &record.queue,
            parent_id: record.parent_id.as_ref(),
            root_id: record.root_id.as_ref(),
            state: record.state,
            attempt: record.attempt,
            max_retries: record.max_retries,
            delivery_count: record.delivery_count,
            enqueued_at: record.enqueued_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            worker: record.worker.as_ref(),
            progress: record.progress.as_ref().map(|progress| ProgressView {
                fraction: progress.fraction,
                message: progress.message.as_deref(),
                data: progress.data.as_ref().map(payload_json),
            }),
            result: record.result.as_ref().map(payload_json),
            failure: record.failure.as_ref().map(Into::into),
            revocation: record.revocation.as_ref(),
            module: record.module.as_ref(),
            usage: record.usage.as_ref(),
        }
    }
}

/// A record and its failed attempts for people.
pub fn record_text(record: &TaskRecord, history: &[FailedAttempt]) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |key: &str, value: String| rows.push(vec![key.to_owned(), value]);
    row("id", record.id.to_string());
    row("name", record.name.to_string());
    row("queue", record.queue.to_string());
    if let Some(parent) = &record.parent_id {
        row("parent", parent.to_string());
    }
    if let Some(root) = &record.root_id {
        row("root", root.to_string());
    }
    row("state", record.state.to_string());
    row("attempt", format!("{} of {}", record.attempt, record.max_retries.saturating_add(1)));
    row("deliveries", record.delivery_count.to_string());
    row("enqueued at", record.enqueued_at.to_string());
    if let Some(at) = record.not_before.filter(|_| !record.state.is_final()) {
        row("not before", at.to_string());
    }
    if let Some(at) = record.started_at {
        row("started at", at.to_string());
    }
    if let Some(at) = record.finished_at {
        row("finished at", at.to_string());
    }
    if let Some(worker) = &record.worker {
        row("worker", worker.to_string());
    }
    if let Some(progress) = &record.progress {
        row("progress", progress_text(progress));
    }
    if let Some(result) = &record.result {
        row("result", payload_line(result));
    }
    if let Some(failure) = &record.failure {
        row("failure", failure.to_string());
        if let Some(detail) = &failure.detail {
            row("detail", payload_line(detail));
        }
    }
    if let Some(revocation) = &record.revocation {
        row("revoked", revocation_text(revocation));
    }
    if let Some(module) = &record.module {
        let version = module
            .version
            .as_deref()
            .map_or_else(String::new, |version| format!(" (version {version})"));
        row("module", format!("{}{version}", module.digest));
    }
    if let Some(usage) = &record.usage {
        row(
            "usage",
            format!(
                "{:.3} ms of CPU, {} at its peak",
                usage.cpu_ms,
                memory(usage.peak_memory_bytes)
            ),
        );
    }
    for failed in history {
        let worker =
            failed.worker.as_ref().map_or_else(String::new, |worker| format!(" on {worker}"));
        row(
            &format!("attempt {}", failed.attempt),
            format!("{}{worker}: {}", failed.at, failed.failure),
        );
    }
    table(&[], rows)
}

/// Bytes for people.
pub fn memory(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// Progress for people.
pub fn progress_text(progress: &Progress) -> String {
    let percent = progress.fraction.map(|fraction| format!("{:.0}%", fraction * 100.0));
    let words: Vec<String> = percent.into_iter().chain(progress.message.clone()).collect();
    if words.is_empty() { "reported without words".to_owned() } else { words.join(" ") }
}

fn revocation_text(end: &RevocationEnd) -> String {
    let by = end.requested_by.as_deref().map_or_else(String::new, |who| format!(" by {who}"));
    let why = end.reason.as_deref().map_or_else(String::new, |why| format!(": {why}"));
    let after = match end.how {
        StopHow::BeforeStart => String::new(),
        StopHow::Checkpoint | StopHow::Preempted => {
            format!(", {:.3} ms after the order", end.elapsed_ms)
        }
    };
    format!("{}{by}{after}{why}", end.how.as_str())
}

/// How an order wants a task that runs to be stopped.
pub fn how_text(request: &RevokeRequest) -> String {
    match (request.terminate, request.cooperative, request.grace_ms) {
        (false, _, _) => "before start".to_owned(),
        (true, true, _) => "terminate, cooperative".to_owned(),
        (true, false, Some(grace)) => {
            let grace = units::write_duration(Duration::from_millis(grace));
            format!("terminate, grace {grace}")
        }
        (true, false, None) => "terminate".to_owned(),
    }
}

/// Why a task that has ended did not succeed, in one line.
pub fn ending_text(record: &TaskRecord) -> String {
    let why = match (&record.failure, &record.revocation) {
        (_, Some(revocation)) if record.state == TaskState::Revoked => revocation_text(revocation),
        (Some(failure), _) if record.state != TaskState::Expired => {
            format!("{}, code {}: {}", failure.kind, failure.code, failure.message)
        }
        _ if record.state == TaskState::Expired => "its time to start had passed".to_owned(),
        _ => "no reason was recorded".to_owned(),
    };
    format!("task {} ({}) {}: {why}", record.id, record.name, record.state)
}

/// Records as a table, the newest first as they come.
pub fn records_text(records: &[TaskRecord]) -> String {
    let rows = records.iter().map(|record| {
        let note = match (&record.revocation, &record.failure, &record.progress) {
            (Some(end), _, _) if record.state == TaskState::Revoked => revocation_text(end),
            (_, Some(failure), _) => failure.to_string(),
            (_, None, Some(progress)) => progress_text(progress),
            (_, None, None) => String::new(),
        };
        vec![
            record.id.to_string(),
            record.name.to_string(),
            record.queue.to_string(),
            record.state.to_string(),
            record.attempt.to_string(),
            record.enqueued_at.to_string(),
            stem_core::text::printable(&note, 100),
        ]
    });
    table(&["ID", "NAME", "QUEUE", "STATE", "ATTEMPT", "ENQUEUED", "NOTE"], rows)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use stem_core::envelope::{Envelope, Payload};
    use stem_core::id::Digest;

    pub(crate) fn record(state: TaskState) -> TaskRecord {
        let envelope = Envelope::new(
            TaskId::new("t").unwrap(),
            TaskName::new("n").unwrap(),
            QueueName::new("q").unwrap(),
            Payload::json("{}"),
            Timestamp::default(),
        );
        TaskRecord { state, ..TaskRecord::queued(&envelope) }
    }

    fn json(record: &TaskRecord) -> Value {
        serde_json::to_value(RecordView::from(record)).unwrap()
    }

    #[test]
    fn absent_keys_are_left_out() {
        assert_eq!(
            json(&record(TaskState::Queued)),
            serde_json::json!({
                "id": "t", "name": "n", "queue": "q", "state": "queued", "attempt": 0, "maxRetries": 3,
                "deliveryCount": 0, "enqueuedAt": "1970-01-01T00:00:00.000Z"
            })
        );
    }

    #[test]
    fn every_key_has_its_name_and_a_result_is_embedded() {
        let mut record = record(TaskState::Succeeded);
        record.started_at = Some(Timestamp::default());
        record.finished_at = Some(Timestamp::default());
        record.worker = Some(WorkerId::new("w").unwrap());
        record.progress = Some(Progress {
            fraction: Some(0.5),
            message: Some("m".into()),
            data: Some(Payload::json("{\"a\":1}")),
        });
        record.result = Some(Payload::json("[1]"));
        record.failure = Some(Failure {
            detail: Some(Payload::json("1")),
            ..Failure::new(FailureKind::Error, "c", "m")
        });
        record.revocation = Some(RevocationEnd {
            reason: Some("r".into()),
            requested_by: Some("b".into()),
            how: StopHow::Preempted,
            elapsed_ms: 1.5,
        });
        record.module = Some(ModuleRef { digest: Digest([0; 32]), version: Some("1".into()) });
        record.usage = Some(Usage { cpu_ms: 1.0, peak_memory_bytes: 2 });
        let value = json(&record);
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 17, "{keys:?}");
        assert_eq!(
            value["progress"],
            serde_json::json!({"fraction": 0.5, "message": "m", "data": {"a": 1}})
        );
        assert_eq!(value["result"], serde_json::json!([1]));
        assert_eq!(
            value["failure"],
            serde_json::json!({"kind": "error", "code": "c", "message": "m"})
        );
        assert_eq!(
            value["revocation"],
            serde_json::json!({"reason": "r", "requestedBy": "b", "how": "preempted", "elapsedMs": 1.5})
        );
        assert_eq!(value["usage"], serde_json::json!({"cpuMs": 1.0, "peakMemoryBytes": 2}));
        record.result = Some(Payload { media_type: "image/png".into(), bytes: vec![1, 2] });
        assert_eq!(
            json(&record)["result"],
            serde_json::json!({"mediaType": "image/png", "base64": "AQI="})
        );
    }
}
