//! `stem:task/children`: starting further tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stem_core::envelope::{Envelope, EnvelopeError, PAYLOAD_BYTES, Payload};
use stem_core::id::{QueueName, TaskId, TaskName, UniqueKey};
use stem_core::time::Timestamp;
use stem_host_abi::limits::{CHILD_DELAY_CAP, CHILDREN_PER_ATTEMPT, CHILDREN_PER_CALL};

use super::abi;
use super::abi::stem::task::children;
use super::abi::types::HostError;
use super::{AttemptState, Child, ComponentState, Release};

/// A child as a guest asks for it: nothing is checked yet.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) task_name: String,
    pub(super) queue: Option<String>,
    pub(super) input: Payload,
    pub(super) delay: Option<Duration>,
    pub(super) dedup_key: Option<String>,
    pub(super) headers: Vec<(String, String)>,
}

impl AttemptState {
    /// Enqueues all of them or none, and answers their ids in order.
    pub(super) async fn enqueue(
        &mut self,
        asked: Vec<Asked>,
        release: Release,
    ) -> wasmtime::Result<Result<Vec<String>, HostError>> {
        let children = match self.admit(asked) {
            Ok(children) if children.is_empty() => return Ok(Ok(Vec::new())),
            Ok(children) => children,
            Err(error) => return Ok(Err(error)),
        };
        let count = children.len();
        let host = Arc::clone(&self.host);
        let answer = self.ask(host.enqueue(children, release)).await?;
        Ok(answer.map(|ids| {
            // Counted when it is done: one that was refused may be tried again.
            self.enqueued += count;
            ids.iter().map(ToString::to_string).collect()
        }))
    }

    fn admit(&mut self, asked: Vec<Asked>) -> Result<Vec<Child>, HostError> {
        if asked.len() > CHILDREN_PER_CALL {
            let problem =
                format!("{} tasks in one call; {CHILDREN_PER_CALL} are allowed", asked.len());
            return Err(HostError::Invalid(problem));
        }
        let children =
            asked.into_iter().map(|asked| self.admit_one(asked)).collect::<Result<Vec<_>, _>>()?;
        if self.enqueued + children.len() > CHILDREN_PER_ATTEMPT {
            return Err(HostError::Quota(format!(
                "an attempt enqueues {CHILDREN_PER_ATTEMPT} tasks at most; this one has {} left",
                CHILDREN_PER_ATTEMPT.saturating_sub(self.enqueued)
            )));
        }
        Ok(children)
    }

    fn admit_one(&mut self, asked: Asked) -> Result<Child, HostError> {
        let invalid = |error: &dyn std::fmt::Display| HostError::Invalid(error.to_string());
        let name = TaskName::new(&asked.task_name).map_err(|error| invalid(&error))?;
        if !self.granted.grants.children.iter().any(|granted| granted.matches(&name)) {
            return Err(self.denied(&format!("children = [\"{name}\"]")));
        }
        let queue = asked.queue.map(QueueName::new).transpose().map_err(|error| invalid(&error))?;
        if let Some(key) = &asked.dedup_key {
            UniqueKey::new(key).map_err(|error| {
                HostError::Invalid(error.to_string().replacen("unique key", "dedup-key", 1))
            })?;
        }
        let mut headers = BTreeMap::new();
        for (name, value) in asked.headers {
            if headers.insert(name.clone(), value).is_some() {
                let name = stem_core::text::printable(&name, 100);
                return Err(HostError::Invalid(format!("the header {name} is given twice")));
            }
        }
        // The bounds of an envelope, by an envelope: whoever enqueues finds nothing wrong with it.
        let mut envelope = Envelope::new(
            TaskId::new("child").expect("it follows the rules"),
            name,
            queue
                .clone()
                .unwrap_or_else(|| QueueName::new("default").expect("it follows the rules")),
            asked.input,
            Timestamp::from_unix_millis(0),
        );
        envelope.headers = headers;
        match envelope.check() {
            Ok(()) => {}
            Err(EnvelopeError::PayloadTooLarge { .. }) => {
                return Err(HostError::TooLarge(PAYLOAD_BYTES as u64));
            }
            Err(error @ EnvelopeError::Field { .. }) => return Err(invalid(&error)),
        }
        Ok(Child {
            name: envelope.name,
            queue,
            input: envelope.payload,
            delay: asked.delay.map(|delay| delay.min(CHILD_DELAY_CAP)),
            dedup_key: asked.dedup_key,
            headers: envelope.headers,
        })
    }
}

impl children::Host for ComponentState {
    async fn enqueue(
        &mut self,
        requests: Vec<children::Request>,
        release: children::Release,
    ) -> wasmtime::Result<Result<Vec<String>, HostError>> {
        self.attempt.enter()?;
        let asked = requests
            .into_iter()
            .map(|request| Asked {
                task_name: request.task_name,
                queue: request.queue,
                input: abi::payload(request.input),
                delay: request.delay.map(Duration::from_millis),
                dedup_key: request.dedup_key,
                headers: request.headers,
            })
            .collect();
        let release = match release {
            children::Release::Now => Release::Now,
            children::Release::OnSuccess => Release::OnSuccess,
        };
        self.attempt.enqueue(asked, release).await
    }
}
