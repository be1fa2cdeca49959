//! [`Buckets`]: small shared values of tasks.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::BackendError;

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

/// Keeps values by bucket and key. Each method is one atomic step. A value whose time is over is not there, by the
/// store's clock. Implementations are held to the cases of `tests/conformance/src/buckets.rs`.
#[async_trait]
pub trait Buckets: Send + Sync + Debug {
    /// A value.
    async fn read(&self, bucket: &str, key: &str) -> Result<Option<Entry>, BackendError>;

    /// Writes a value, at most [`VALUE_BYTES`], for `ttl` or until it is removed. The time begins anew with each write.
    async fn write(
        &self,
        bucket: &str,
        key: &str,
        value: &[u8],
        when: When,
        ttl: Option<Duration>,
    ) -> Result<Changed, BackendError>;

    /// Removes a value.
    async fn remove(&self, bucket: &str, key: &str, when: When) -> Result<Changed, BackendError>;
}
