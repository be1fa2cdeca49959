//! [`Buckets`]: small shared values of tasks.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::{BackendError, ErrorClass, ServiceId};
use crate::id::BucketName;

/// Longest key, in bytes.
pub const KEY_BYTES: usize = 512;
/// Largest value, in bytes.
pub const VALUE_BYTES: usize = 64 << 10;

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The content.
    pub value: Vec<u8>,
    /// Grows with every change of this key, also over a removal and an end of its time: no two values of a key share one.
    pub version: u64,
}

/// When a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In any case.
    Always,
    /// If there is no value.
    Absent,
    /// If the value has this version.
    Version(u64),
}

impl When {
    /// Whether the change is made where this version is, or nothing.
    pub fn holds(self, found: Option<u64>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => found.is_none(),
            Self::Version(version) => found == Some(version),
        }
    }
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was made; the value has this version now, or had it when it was removed.
    Done(u64),
    /// The condition did not hold: nothing was changed.
    Conflict,
    /// There was nothing to remove.
    Absent,
}

/// Refuses a bucket that has no good name, a key that is empty or too long, a value that is too large.
pub fn check(
    service: &ServiceId,
    action: &'static str,
    bucket: &str,
    key: &str,
    value: &[u8],
) -> Result<(), BackendError> {
    let problem = if let Err(error) = BucketName::new(bucket) {
        error.to_string()
    } else if key.is_empty() || key.len() > KEY_BYTES {
        format!("the key has {} bytes; it must have 1 to {KEY_BYTES}", key.len())
    } else if value.len() > VALUE_BYTES {
        format!("the value has {} bytes; it may have {VALUE_BYTES} at most", value.len())
    } else {
        return Ok(());
    };
    Err(BackendError::new(ErrorClass::Refused, &service.0, action, problem))
}

/// Keeps values by bucket and key. Each method is one atomic step. A value whose time is over is not there, by the
/// store's clock; what it takes up is given back with later writes, if not before. A bucket is there as soon as a value
/// is; its name follows the rules for names ([`BucketName`]). A key is any text of 1 to [`KEY_BYTES`]. What follows no rule
/// is refused.
/// Implementations are held to the cases of `tests/conformance/src/buckets.rs`.
#[async_trait]
pub trait Buckets: Send + Sync + Debug {
    /// A value, as the last write that was answered before left it or a later one.
    async fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BackendError>;

    /// Writes a value, at most [`VALUE_BYTES`], for `ttl` or until it is removed. The time begins anew with each write.
    /// Of several at once that name the same version, or [`When::Absent`], one wins. Never answers [`Changed::Absent`].
    async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, BackendError>;

    /// Removes a value. Where there is none the answer is [`Changed::Absent`], whatever the condition.
    async fn remove(&self, bucket: &str, key: &str, when: When) -> Result<Changed, BackendError>;
}
