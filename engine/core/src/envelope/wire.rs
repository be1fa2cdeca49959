//! The wire form of an envelope, version 1: one line of JSON, a line feed, the payload's bytes as they are.
//!
//! The payload is not inside the JSON so that it is neither escaped nor parsed on its way, and so that a signature can
//! cover the very bytes that were received. A signed envelope has its [seal] in front, with 2 for its version.
//! Golden samples lie in `engine/core/tests/golden`.
//!
//! | | old reader | new reader |
//! |---|---|---|
//! | old writer | reads | reads; new fields are optional |
//! | new writer | refuses a higher `v`; refuses an unknown field | reads |
//!
//! An unknown field is refused and not skipped: a field that an old worker does not know may be one it must obey.
//! So workers are upgraded before producers use a new field.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Envelope, HEADER_BYTES, HEADERS, Payload, Priority};
use crate::id::{Digest, QueueName, TaskId, TaskName, UniqueKey};
use crate::retry::RetryPolicy;
use crate::seal::{self, Framed, Purpose, Seal};
use crate::time::Timestamp;

/// The version this code writes, and the highest it reads; before it may be a seal, which has [one of its own](seal::VERSION).
pub const VERSION: u32 = 1;

/// The longest header line; it bounds what is parsed as JSON.
const HEADER_LINE_BYTES: usize = HEADERS * (HEADER_BYTES + 16) * 2 + 8192;

/// Bytes that are not an envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Written by a newer Stem.
    #[error("envelope version {0} is newer than {highest}, the highest this worker reads", highest = seal::VERSION)]
    Version(u32),
    /// Not an envelope, cut short, or out of bounds.
    #[error("envelope is malformed: {0}")]
    Malformed(String),
}

impl WireError {
    /// The dead-letter reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Version(_) => "envelope-version",
            Self::Malformed(_) => "envelope-malformed",
        }
    }
}

/// A signature over the header line as it was written, and the payload. Made by [`Envelope::seal_with`] and [`decode`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    seal: Seal,
    header: Box<[u8]>,
}

impl Sealed {
    /// Whose, and for where.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// What it is over, with the payload that travels beside it.
    pub fn body(&self, payload: &Payload) -> Vec<u8> {
        body(&self.header, payload)
    }

    /// Whether the header that was signed says what the envelope says.
    pub fn is_of(&self, envelope: &Envelope) -> bool {
        serde_json::from_slice::<Header<'_>>(&self.header).is_ok_and(|mut signed| {
            // A producer of its own may say so of a task that no task enqueued.
            if signed.root_id.as_ref() == Some(&signed.id) {
                signed.root_id = None;
            }
            signed == Header::of(envelope)
        })
    }
}

impl Envelope {
    /// Puts a seal on it, over [`header`] and the payload. Whoever changes the envelope afterwards has one that is refused.
    pub fn seal_with(&mut self, seal: Seal, header: Vec<u8>) {
        self.seal = Some(Box::new(Sealed { seal, header: header.into() }));
    }
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header<'a> {
    v: u32,
    id: TaskId,
    name: TaskName,
    queue: QueueName,
    media_type: Cow<'a, str>,
    payload_bytes: usize,
    /// Milliseconds since 1970, as every time here.
    enqueued_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    priority: Priority,
    retry: RetryPolicy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unique_key: Option<UniqueKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace_parent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_id: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_id: Option<TaskId>,
    #[serde(default, skip_serializing_if = "is_zero")]
    depth: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    module: Option<Digest>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(depth: &u32) -> bool {
    *depth == 0
}

/// Reads only the version, so that a newer form is told from a broken one.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl<'a> Header<'a> {
    fn of(envelope: &'a Envelope) -> Self {
        Self {
            v: VERSION,
            id: envelope.id.clone(),
            name: envelope.name.clone(),
            queue: envelope.queue.clone(),
            media_type: Cow::Borrowed(&envelope.payload.media_type),
            payload_bytes: envelope.payload.bytes.len(),
            enqueued_at: envelope.enqueued_at.unix_millis(),
            not_before: envelope.not_before.map(Timestamp::unix_millis),
            expires_at: envelope.expires_at.map(Timestamp::unix_millis),
            priority: envelope.priority,
            retry: envelope.retry.clone(),
            timeout_ms: envelope
                .timeout
                .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            unique_key: envelope.unique_key.clone(),
            trace_parent: envelope.trace_parent.clone(),
            parent_id: envelope.parent_id.clone(),
            root_id: Some(&envelope.root_id).filter(|root| **root != envelope.id).cloned(),
            depth: envelope.depth,
            module: envelope.module,
            headers: envelope.headers.clone(),
        }
    }
}

/// The header line of an envelope, without its line feed: what a signer puts before the payload.
pub fn header(envelope: &Envelope) -> Vec<u8> {
    serde_json::to_vec(&Header::of(envelope)).expect("a header holds only text and numbers")
}

/// What a signature of an envelope is over, and what travels of one that has none.
pub fn body(header: &[u8], payload: &Payload) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(header.len() + 1 + payload.bytes.len());
    bytes.extend_from_slice(header);
    bytes.push(b'\n');
    bytes.extend_from_slice(&payload.bytes);
    bytes
}

/// Writes the wire form. Infallible for an envelope that passed [`Envelope::check`].
pub fn encode(envelope: &Envelope) -> Vec<u8> {
    match &envelope.seal {
        None => body(&header(envelope), &envelope.payload),
        Some(sealed) => seal::join(&sealed.seal, &sealed.body(&envelope.payload)),
    }
}

/// Reads the wire form and checks every bound. A signature is not looked at.
pub fn decode(bytes: &[u8]) -> Result<Envelope, WireError> {
    let malformed = |problem: String| WireError::Malformed(crate::text::printable(&problem, 512));
    let (seal, bytes) = match seal::split(bytes).map_err(|error| malformed(error.to_string()))? {
        Framed::Plain(bytes) => (None, bytes),
        Framed::Sealed { seal, body } if seal.purpose == Purpose::Task => (Some(seal), body),
        Framed::Sealed { seal, .. } => {
            return Err(malformed(format!("it is sealed as a {}", seal.purpose.as_str())));
        }
    };
    let line = bytes
        .iter()
        .take(HEADER_LINE_BYTES)
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| malformed("no header line".to_owned()))?;
    let (line, payload) = (&bytes[..line], &bytes[line + 1..]);
    let header: Header<'_> = match serde_json::from_slice(line) {
        Ok(header) => header,
        Err(error) => {
            return Err(match serde_json::from_slice::<Version>(line) {
                Ok(Version { v }) if v > seal::VERSION => WireError::Version(v),
                _ => malformed(error.to_string()),
            });
        }
    };
    if header.v > seal::VERSION {
        return Err(WireError::Version(header.v));
    }
    if header.v != VERSION {
        return Err(malformed(format!("version {} was never written", header.v)));
    }
    if payload.len() != header.payload_bytes {
        return Err(malformed(format!(
            "the header says {} payload bytes and {} follow",
            header.payload_bytes,
            payload.len()
        )));
    }
    // Not clamped as elsewhere: it would be another time than the one that was sent, and perhaps signed.
    let time = |field: &str, millis: i64| {
        let at = Timestamp::from_unix_millis(millis);
        let same = at.unix_millis() == millis;
        same.then_some(at).ok_or_else(|| malformed(format!("{field} is not in 1970 to 9999")))
    };
    let not_before = header.not_before.map(|at| time("notBefore", at)).transpose()?;
    let expires_at = header.expires_at.map(|at| time("expiresAt", at)).transpose()?;
    let envelope = Envelope {
        root_id: header.root_id.unwrap_or_else(|| header.id.clone()),
        id: header.id,
        name: header.name,
        queue: header.queue,
        payload: Payload { media_type: header.media_type.into_owned(), bytes: payload.to_vec() },
        enqueued_at: time("enqueuedAt", header.enqueued_at)?,
        not_before,
        expires_at,
        priority: header.priority,
        retry: header.retry,
        timeout: header.timeout_ms.map(Duration::from_millis),
        unique_key: header.unique_key,
        trace_parent: header.trace_parent,
        parent_id: header.parent_id,
        depth: header.depth,
        module: header.module,
        headers: header.headers,
        seal: seal.map(|seal| Box::new(Sealed { seal, header: line.into() })),
    };
    envelope.check().map_err(|error| malformed(error.to_string()))?;
    Ok(envelope)
}
