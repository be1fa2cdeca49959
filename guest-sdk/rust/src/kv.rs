//! Small values that tasks share.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{HostError, TaskError};
use crate::host::{Here, Host};

/// One bucket of small values, from [`Context::kv`](crate::Context::kv).
///
/// Other tasks read and write it too. What depends on the value that was read is written under a condition:
///
/// ```
/// use stem_guest::testing::TestHost;
/// use stem_guest::{Context, HostError, TaskError, When};
///
/// #[stem_guest::task]
/// fn count(ctx: &Context, (): ()) -> Result<u64, TaskError> {
///     let counts = ctx.kv("counts");
///     loop {
///         let found = counts.entry("pictures")?;
///         let count = found.as_ref().map_or(Ok(0), |entry| entry.json::<u64>())? + 1;
///         let when = found.map_or(When::Absent, |entry| When::Version(entry.version));
///         match counts.put_if("pictures", &count, when) {
///             Ok(_) => return Ok(count),
///             Err(HostError::Conflict) => ctx.heartbeat()?,
///             Err(error) => return Err(error.into()),
///         }
///     }
/// }
///
/// let run = TestHost::new().value("counts", "pictures", &41).run(count);
/// assert_eq!(run.value::<u64>("counts", "pictures"), Some(42));
/// ```
#[derive(Clone, Copy)]
pub struct Bucket<'a> {
    pub(crate) host: &'a Here,
    pub(crate) name: &'a str,
    pub(crate) ttl: Option<Duration>,
}

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// At most 64 KiB.
    pub value: Vec<u8>,
    /// Grows with every change of the key, also over a removal.
    pub version: u64,
}

/// When a value is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In any case.
    Always,
    /// If there is no value.
    Absent,
    /// If the value has this version.
    Version(u64),
}

impl Entry {
    /// The value, read as JSON.
    ///
    /// # Errors
    /// Fatal with code `invalid-value` when it has another shape than `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        serde_json::from_slice(&self.value)
            .map_err(|error| TaskError::fatal("invalid-value", error.to_string()))
    }
}

/// Every method fails with [`HostError::Denied`] without a grant for the bucket, or for a change without one for writing,
/// with [`HostError::Invalid`] or [`HostError::TooLarge`] for a key that is empty or over 512 bytes, and with
/// [`HostError::Unavailable`] when the store cannot be reached.
impl Bucket<'_> {
    /// What is put from here on is gone after so long, counted anew by each put. Rounded up to milliseconds.
    #[must_use]
    pub fn expiring_after(self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// A value, read as JSON; `None` where there is none.
    ///
    /// # Errors
    /// As above, and as for [`Entry::json`].
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, TaskError> {
        self.entry(key)?.map(|entry| entry.json()).transpose()
    }

    /// A value's bytes and version.
    ///
    /// # Errors
    /// As above.
    pub fn entry(&self, key: &str) -> Result<Option<Entry>, HostError> {
        self.host.read(self.name, key)
    }

    /// Replaces a value with JSON, and returns its version.
    ///
    /// # Errors
    /// As for [`put_bytes`](Self::put_bytes).
    pub fn put<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<u64, HostError> {
        self.put_if(key, value, When::Always)
    }

    /// Replaces a value with JSON under a condition, and returns its version.
    ///
    /// # Errors
    /// As for [`put_bytes`](Self::put_bytes).
    pub fn put_if<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        when: When,
    ) -> Result<u64, HostError> {
        let value =
            serde_json::to_vec(value).map_err(|error| HostError::Invalid(error.to_string()))?;
        self.put_bytes(key, &value, when)
    }

    /// Replaces a value's bytes under a condition, and returns its version.
    ///
    /// # Errors
    /// As above, [`HostError::Conflict`] when the condition does not hold, [`HostError::TooLarge`] over 64 KiB.
    pub fn put_bytes(&self, key: &str, value: &[u8], when: When) -> Result<u64, HostError> {
        self.host.write(self.name, key, value, when, self.ttl)
    }

    /// Removes a value; `false` where there was none.
    ///
    /// # Errors
    /// As above.
    pub fn remove(&self, key: &str) -> Result<bool, HostError> {
        there_was(self.host.remove(self.name, key, When::Always))
    }

    /// Removes a value that has this version; `false` where there was none.
    ///
    /// # Errors
    /// As above, [`HostError::Conflict`] when it has another.
    pub fn remove_if(&self, key: &str, version: u64) -> Result<bool, HostError> {
        there_was(self.host.remove(self.name, key, When::Version(version)))
    }
}

fn there_was(removed: Result<(), HostError>) -> Result<bool, HostError> {
    match removed {
        Ok(()) => Ok(true),
        Err(HostError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

impl fmt::Debug for Bucket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.name)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
