//! What a task says about how far it is.

use serde::Serialize;

use crate::payload::Binary;

/// A progress update, for [`Context::publish`](crate::Context::publish).
///
/// ```
/// let update = stem_guest::Progress::new().fraction(0.25).message("page 3 of 12").data(&["a", "b"]);
/// # assert_eq!(update.data.unwrap().bytes, br#"["a","b"]"#);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Share of the work done, 0.0 to 1.0, where it can be told.
    pub fraction: Option<f64>,
    /// At most 1,024 bytes.
    pub message: Option<String>,
    /// Anything for those who watch; at most 16 KiB.
    pub data: Option<Binary>,
}

impl Progress {
    /// An update that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the share of the work done.
    #[must_use]
    pub fn fraction(mut self, fraction: f64) -> Self {
        self.fraction = Some(fraction);
        self
    }

    /// Sets the message.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Sets the data as JSON; left out if serde cannot write the value.
    #[must_use]
    pub fn data<T: Serialize + ?Sized>(mut self, data: &T) -> Self {
        self.data = serde_json::to_vec(data).ok().map(Binary::json);
        self
    }
}
