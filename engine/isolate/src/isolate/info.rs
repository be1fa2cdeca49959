//! What a guest is told of its attempt.

use serde::Serialize;

/// Facts about the attempt that the guest is told. As JSON it is the answer to `stem0.info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskInfo {
    /// The task.
    pub task_id: String,
    /// Its handler.
    pub task_name: String,
    /// Its queue.
    pub queue: String,
    /// 1 for the first.
    pub attempt: u32,
    /// Retries included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Milliseconds since 1970.
    pub enqueued_at_ms: u64,
    /// The task that enqueued this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// The first of the chain.
    pub root_id: String,
    /// The same in every attempt.
    pub idempotency_key: String,
    /// W3C `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
    /// The producer's own.
    pub headers: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_info_is_written_as_the_golden_samples_say() {
        let minimal = TaskInfo {
            task_id: "0198c5d2-7c1e-7b3a-9f00-2d1c5a6b7e8f".to_owned(),
            task_name: "render-image".to_owned(),
            queue: "default".to_owned(),
            attempt: 1,
            max_attempts: None,
            enqueued_at_ms: 1_767_225_600_123,
            parent_id: None,
            root_id: "0198c5d2-7c1e-7b3a-9f00-2d1c5a6b7e8f".to_owned(),
            idempotency_key: "0198c5d2-7c1e-7b3a-9f00-2d1c5a6b7e8f".to_owned(),
            trace_parent: None,
            headers: vec![],
        };
        assert_eq!(
            serde_json::to_string(&minimal).unwrap(),
            include_str!("../../../../host-abi/golden/task-info.minimal.json")
        );
        let parent = "0198c5d2-7c1e-7b3a-9f00-000000000001".to_owned();
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let full = TaskInfo {
            attempt: 2,
            max_attempts: Some(4),
            parent_id: Some(parent.clone()),
            root_id: parent,
            trace_parent: Some(
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
            ),
            headers: vec![
                header("tenant", "blue"),
                header("note", "café"),
                header("tenant", "green"),
            ],
            ..minimal
        };
        assert_eq!(
            serde_json::to_string(&full).unwrap(),
            include_str!("../../../../host-abi/golden/task-info.full.json")
        );
    }
}
