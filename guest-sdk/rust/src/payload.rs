//! What goes into a task and what comes out: JSON by serde, or bytes with a media type.

use serde::Serialize;
use serde::de::DeserializeOwned;
use stem_host_abi::{INVALID_ARGUMENTS, JSON};

use crate::TaskError;

/// Bytes and their media type: the arguments or the result of a task that does not speak JSON.
///
/// ```
/// use stem_guest::{Binary, Context, TaskError};
///
/// #[stem_guest::task]
/// fn upside_down(_: &Context, mut picture: Binary) -> Result<Binary, TaskError> {
///     picture.bytes.reverse();
///     Ok(picture)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// An Internet media type such as `image/png`, at most 255 bytes.
    pub media_type: String,
    /// At most 1 MiB as arguments or result.
    pub bytes: Vec<u8>,
}

impl Binary {
    /// Bytes of the given media type.
    pub fn new(media_type: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.into(), bytes }
    }

    /// Bytes that are a JSON document.
    pub fn json(bytes: Vec<u8>) -> Self {
        Self::new(JSON, bytes)
    }

    fn is_json(&self) -> bool {
        let essence = self.media_type.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(JSON) || essence.to_ascii_lowercase().ends_with("+json")
    }
}

/// Types that a task can take as its arguments. Not to be implemented by hand: serde's `Deserialize` is enough.
pub trait Input: Sized {
    /// Reads the payload.
    ///
    /// # Errors
    /// A fatal failure with code `invalid-arguments` and what serde says about it.
    fn from_payload(payload: Binary) -> Result<Self, TaskError>;
}

impl<T: DeserializeOwned> Input for T {
    fn from_payload(payload: Binary) -> Result<Self, TaskError> {
        serde_json::from_slice(&payload.bytes).map_err(|error| {
            let message = if payload.is_json() {
                error.to_string()
            } else {
                format!("expected JSON, got {}: {error}", payload.media_type)
            };
            TaskError::fatal(INVALID_ARGUMENTS, message)
        })
    }
}

impl Input for Binary {
    fn from_payload(payload: Binary) -> Result<Self, TaskError> {
        Ok(payload)
    }
}

/// Types that a task can return. Not to be implemented by hand: serde's `Serialize` is enough.
pub trait Output {
    /// Writes the result.
    ///
    /// # Errors
    /// A fatal failure with code `invalid-result` for a value that JSON cannot hold.
    fn into_payload(self) -> Result<Binary, TaskError>;
}

impl<T: Serialize> Output for T {
    fn into_payload(self) -> Result<Binary, TaskError> {
        serde_json::to_vec(&self)
            .map(Binary::json)
            .map_err(|error| TaskError::fatal("invalid-result", error.to_string()))
    }
}

impl Output for Binary {
    fn into_payload(self) -> Result<Binary, TaskError> {
        Ok(self)
    }
}
