//! The envelope: what travels from a producer to a worker.

pub mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, QueueName, TaskId, TaskName, UniqueKey};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// Largest payload, in bytes.
pub const PAYLOAD_BYTES: usize = 1 << 20;
/// Most headers of an envelope.
pub const HEADERS: usize = 64;
/// Largest header, name and value together, in bytes.
pub const HEADER_BYTES: usize = 4096;
/// Longest media type, in bytes.
pub const MEDIA_TYPE_BYTES: usize = 255;
/// Most retries a producer may ask for.
pub const MAX_RETRIES: u32 = 1_000;
/// Deepest chain of tasks that enqueue tasks.
pub const DEPTH: u32 = 16;
/// The longest hard limit a producer may ask for.
pub const TIMEOUT_CAP: Duration = Duration::from_hours(168);

/// The media type of JSON.
pub const JSON: &str = "application/json";

/// Bytes with a media type. In JSON the bytes are an array of numbers or, where they are JSON themselves, see `task::TaskRecord`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    /// For instance `application/json`.
    pub media_type: String,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Payload {
    /// A JSON payload of these bytes, which the caller knows to be JSON.
    pub fn json(bytes: impl Into<Vec<u8>>) -> Self {
        Self { media_type: JSON.to_owned(), bytes: bytes.into() }
    }

    /// Whether the media type says JSON.
    pub fn is_json(&self) -> bool {
        let essence = self.media_type.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(JSON) || essence.to_ascii_lowercase().ends_with("+json")
    }
}

impl std::fmt::Debug for Payload {
    /// Size and type only: payloads may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({}, {} bytes)", self.media_type, self.bytes.len())
    }
}

/// 0 to 9; a queue hands out the highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// The middle.
    pub const DEFAULT: Self = Self(5);

    /// Refuses what is over 9.
    pub fn new(level: u8) -> Result<Self, String> {
        if level <= 9 {
            Ok(Self(level))
        } else {
            Err(format!("priority {level} is not in 0 to 9 (9 goes first)"))
        }
    }

    /// The number.
    pub fn level(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Priority {
    type Error = String;
    fn try_from(level: u8) -> Result<Self, String> {
        Self::new(level)
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> u8 {
        priority.0
    }
}

/// One task as its producer asked for it. Never changes after it was enqueued: attempts, deliveries and leases are
/// counted beside it, so a signature over it stays good.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// The task.
    pub id: TaskId,
    /// Which handler.
    pub name: TaskName,
    /// Where it waits.
    pub queue: QueueName,
    /// The arguments.
    pub payload: Payload,
    /// By the producer's clock.
    pub enqueued_at: Timestamp,
    /// Not to be delivered earlier.
    pub not_before: Option<Timestamp>,
    /// Not to be started later.
    pub expires_at: Option<Timestamp>,
    /// Order within the queue.
    pub priority: Priority,
    /// When to try again.
    pub retry: RetryPolicy,
    /// The producer's own hard limit; it can only shorten the worker's.
    pub timeout: Option<Duration>,
    /// Makes the enqueue idempotent.
    pub unique_key: Option<UniqueKey>,
    /// W3C `traceparent`.
    pub trace_parent: Option<String>,
    /// The task that enqueued this one.
    pub parent_id: Option<TaskId>,
    /// The first task of the chain; the task itself when nothing enqueued it.
    pub root_id: TaskId,
    /// How many tasks of the chain are above this one; 0 when nothing enqueued it.
    pub depth: u32,
    /// Only this build may run it, whichever serves the name.
    pub module: Option<Digest>,
    /// The producer's own.
    pub headers: BTreeMap<String, String>,
    /// Whoever signed it, and over what; put on last, before it is published.
    pub seal: Option<Box<wire::Sealed>>,
}

/// An envelope that breaks a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The payload is over [`PAYLOAD_BYTES`].
    #[error("payload is {size} bytes; at most {PAYLOAD_BYTES} are allowed")]
    PayloadTooLarge {
        /// What was given.
        size: usize,
    },
    /// A field is outside its range.
    #[error("{field} {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Envelope {
    /// A task of its own, to run as soon as it can be, with the usual priority and retries.
    pub fn new(
        id: TaskId,
        name: TaskName,
        queue: QueueName,
        payload: Payload,
        enqueued_at: Timestamp,
    ) -> Self {
        Self {
            root_id: id.clone(),
            id,
            name,
            queue,
            payload,
            enqueued_at,
            not_before: None,
            expires_at: None,
            priority: Priority::DEFAULT,
            retry: RetryPolicy::DEFAULT,
            timeout: None,
            unique_key: None,
            trace_parent: None,
            parent_id: None,
            depth: 0,
            module: None,
            headers: BTreeMap::new(),
            seal: None,
        }
    }

    /// The task that enqueued it, and the first of their chain; `None` for a task that no task enqueued.
    pub fn family(&self) -> Option<(&TaskId, &TaskId)> {
        self.parent_id.as_ref().map(|parent| (parent, &self.root_id))
    }

    /// Checks every bound. Producers call it before they publish, [`wire::decode`] after it has parsed.
    pub fn check(&self) -> Result<(), EnvelopeError> {
        let field = |field, problem: String| Err(EnvelopeError::Field { field, problem });
        if self.payload.bytes.len() > PAYLOAD_BYTES {
            return Err(EnvelopeError::PayloadTooLarge { size: self.payload.bytes.len() });
        }
        let media_type = &self.payload.media_type;
        if media_type.is_empty()
            || media_type.len() > MEDIA_TYPE_BYTES
            || !media_type.bytes().all(|b| (b' '..=b'~').contains(&b))
        {
            return field(
                "media type",
                format!("must be 1 to {MEDIA_TYPE_BYTES} printable ASCII characters"),
            );
        }
        if self.payload.media_type == JSON
            && serde_json::from_slice::<serde::de::IgnoredAny>(&self.payload.bytes).is_err()
        {
            return field("payload", "says application/json and is not valid JSON".to_owned());
        }
        if crate::revoke::module_of(&self.id).is_some() {
            return field(
                "task id",
                format!("{} is kept for revocations of modules; choose another", self.id),
            );
        }
        if self.depth > DEPTH {
            return field(
                "depth",
                format!("is {}; at most {DEPTH} tasks stand above one", self.depth),
            );
        }
        if self.retry.max_retries > MAX_RETRIES {
            return field(
                "max retries",
                format!("is {}; at most {MAX_RETRIES} are allowed", self.retry.max_retries),
            );
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > TIMEOUT_CAP) {
            return field(
                "timeout",
                format!("must be above 0 and at most {} h", TIMEOUT_CAP.as_secs() / 3600),
            );
        }
        if let (Some(not_before), Some(expires_at)) = (self.not_before, self.expires_at)
            && expires_at <= not_before
        {
            return field(
                "expiry",
                format!("{expires_at} is not after the time it may start, {not_before}"),
            );
        }
        if self.headers.len() > HEADERS {
            return field(
                "headers",
                format!("are {}; at most {HEADERS} are allowed", self.headers.len()),
            );
        }
        for (name, value) in &self.headers {
            if name.len() + value.len() > HEADER_BYTES {
                return field(
                    "headers",
                    format!(
                        "hold one of {} bytes; at most {HEADER_BYTES} are allowed",
                        name.len() + value.len()
                    ),
                );
            }
            if name.is_empty() || name.chars().chain(value.chars()).any(char::is_control) {
                return field("headers", "hold an empty name or a control character".to_owned());
            }
        }
        if self.trace_parent.as_ref().is_some_and(|text| text.len() > 128 || !text.is_ascii()) {
            return field("trace parent", "is not a W3C traceparent".to_owned());
        }
        Ok(())
    }
}
