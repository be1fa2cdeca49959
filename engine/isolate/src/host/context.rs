//! `stem:task/context`: facts about the attempt.

use super::ComponentState;
use super::abi::stem::task::{context, types};

impl types::Host for ComponentState {}

impl context::Host for ComponentState {
    fn info(&mut self) -> wasmtime::Result<context::TaskInfo> {
        self.attempt.enter()?;
        let info = &self.attempt.spec.info;
        Ok(context::TaskInfo {
            task_id: info.task_id.clone(),
            task_name: info.task_name.clone(),
            queue: info.queue.clone(),
            attempt: info.attempt,
            max_attempts: info.max_attempts,
            enqueued_at: info.enqueued_at_ms,
            parent_id: info.parent_id.clone(),
            root_id: info.root_id.clone(),
            idempotency_key: info.idempotency_key.clone(),
            trace_parent: info.trace_parent.clone(),
            headers: info.headers.clone(),
        })
    }
}
