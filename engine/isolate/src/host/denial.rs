//! Saying that something is not granted: to the guest as a value, to the operator as a line for the manifest.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use stem_core::text::printable;

use super::abi::types::HostError;
use super::{AttemptHost, AttemptState, LogLevel};
use crate::interrupt::lock;

/// Lines of one attempt that the log gets: a guest that tries one name after another must not fill it.
const TOLD: usize = 16;
/// Longest grant that is told as it would be written.
const GRANT_BYTES: usize = 512;

/// Tells the worker's log what an attempt was denied: each thing once, and of all of them no more than [`TOLD`]. Clones
/// count together, so whatever denies has one.
#[derive(Clone, Debug)]
pub(crate) struct Denials(Arc<Told>);

#[derive(Debug)]
struct Told {
    handler: String,
    host: Arc<dyn AttemptHost>,
    lines: Mutex<BTreeSet<String>>,
}

impl Denials {
    /// Of an attempt of this handler.
    pub(crate) fn new(handler: &str, host: Arc<dyn AttemptHost>) -> Self {
        Self(Arc::new(Told { handler: handler.to_owned(), host, lines: Mutex::default() }))
    }

    /// Names a missing grant, which is given as a manifest would have it: `children = ["thumb.small"]`. Answers where to
    /// put it.
    pub(crate) fn denied(&self, grant: &str) -> String {
        let remedy = remedy(&self.0.handler, &printable(grant, GRANT_BYTES));
        self.tell(format!("denied: {remedy}; a policy of the worker has to allow it too"));
        remedy
    }

    /// Says something else that was refused; the text is printable and short.
    pub(crate) fn tell(&self, line: String) {
        let mut lines = lock(&self.0.lines);
        if lines.len() == TOLD || lines.contains(&line) {
            return;
        }
        self.0.host.log(LogLevel::Warn, &line, &[]);
        lines.insert(line);
        if lines.len() == TOLD {
            let line = "whatever else is denied to this attempt is not told any more";
            self.0.host.log(LogLevel::Warn, line, &[]);
        }
    }
}

/// Where a grant is written.
fn remedy(handler: &str, grant: &str) -> String {
    let bare =
        handler.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let quote = if bare { "" } else { "\"" };
    format!("put {grant} under [handlers.{quote}{handler}{quote}.grants] in stem.toml")
}

impl AttemptState {
    /// Refuses for want of a grant, given as for [`Denials::denied`]. The answer is for the guest.
    pub(crate) fn denied(&self, grant: &str) -> HostError {
        HostError::Denied(format!("no grant covers it: {}", self.denials.denied(grant)))
    }
}
