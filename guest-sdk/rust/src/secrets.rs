//! Secrets of the worker.

use std::fmt;

use crate::error::HostError;
use crate::host::{Here, Host};

/// Secrets by name, from [`Context::secrets`](crate::Context::secrets).
///
/// Both functions fail with [`HostError::Denied`] without their grant, and with [`HostError::NotFound`] when the worker has no
/// such secret.
#[derive(Clone, Copy)]
pub struct Secrets<'a> {
    pub(crate) host: &'a Here,
}

impl Secrets<'_> {
    /// A text that stands for the secret: put into the headers of a request to a host of the grant, it becomes the secret on
    /// the way. The same text throughout an attempt; it means nothing to any other.
    ///
    /// # Errors
    /// As above.
    pub fn placeholder(&self, name: &str) -> Result<String, HostError> {
        self.host.placeholder(name)
    }

    /// The secret itself. The worker's log says that it was revealed. A placeholder is better where it will do.
    ///
    /// # Errors
    /// As above.
    pub fn reveal(&self, name: &str) -> Result<Vec<u8>, HostError> {
        self.host.reveal(name)
    }
}

impl fmt::Debug for Secrets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}
