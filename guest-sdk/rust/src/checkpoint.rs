//! The one value that outlives an attempt.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{HostError, TaskError};
use crate::host::{Here, Host};

/// State that the next attempt of the same task finds, from [`Context::checkpoint`](crate::Context::checkpoint).
///
/// A save replaces the value as a whole and is durable once it returns. At most 256 KiB. The value is removed when the
/// task reaches its end.
pub struct Checkpoint<'a> {
    pub(crate) host: &'a Here,
}

impl Checkpoint<'_> {
    /// The value saved last, read as JSON.
    ///
    /// # Errors
    /// Retryable when the store cannot be reached; fatal with code `invalid-checkpoint` when the value has another shape
    /// than `T`, as after a change of the module. Use [`load_bytes`](Self::load_bytes) to be tolerant of that.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, TaskError> {
        self.load_bytes()?
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose()
            .map_err(|error| TaskError::fatal("invalid-checkpoint", error.to_string()))
    }

    /// Saves a value as JSON.
    ///
    /// # Errors
    /// Fatal when the value cannot be written or is over the bound, retryable when the store cannot be reached. The former
    /// value then stays.
    pub fn save<T: Serialize + ?Sized>(&self, state: &T) -> Result<(), TaskError> {
        let bytes = serde_json::to_vec(state)
            .map_err(|error| TaskError::fatal("invalid-checkpoint", error.to_string()))?;
        Ok(self.save_bytes(&bytes)?)
    }

    /// The bytes saved last. An empty value is not an absent one.
    ///
    /// # Errors
    /// [`HostError::Unavailable`].
    pub fn load_bytes(&self) -> Result<Option<Vec<u8>>, HostError> {
        self.host.load_checkpoint()
    }

    /// Saves bytes.
    ///
    /// # Errors
    /// [`HostError::TooLarge`], [`HostError::Unavailable`]; the former value then stays.
    pub fn save_bytes(&self, state: &[u8]) -> Result<(), HostError> {
        self.host.save_checkpoint(state)
    }
}

impl fmt::Debug for Checkpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").finish_non_exhaustive()
    }
}
