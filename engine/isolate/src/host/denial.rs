//! Saying that something is not granted: to the guest as a value, to the operator as a line for the manifest.

use std::collections::BTreeSet;

use stem_core::text::printable;

use super::abi::types::HostError;
use super::{AttemptState, LogLevel};

/// Missing grants of one attempt that the log names: a guest that tries one name after another must not fill it.
const TOLD: usize = 16;
/// Longest grant that is told as it would be written.
const GRANT_BYTES: usize = 512;

/// What an attempt was denied and the log has named.
#[derive(Debug, Default)]
pub(crate) struct Denials(BTreeSet<String>);

/// Where a grant is written.
pub(super) fn remedy(handler: &str, grant: &str) -> String {
    let bare =
        handler.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let quote = if bare { "" } else { "\"" };
    format!("put {grant} under [handlers.{quote}{handler}{quote}.grants] in stem.toml")
}

impl AttemptState {
    /// Refuses for want of a grant, which is given as a manifest would have it: `children = ["thumb.small"]`. The answer
    /// is for the guest; the worker's log has a warning, one for each grant and attempt.
    pub(crate) fn denied(&mut self, grant: &str) -> HostError {
        let grant = printable(grant, GRANT_BYTES);
        let remedy = remedy(&self.info.task_name, &grant);
        if self.denials.0.len() < TOLD && self.denials.0.insert(grant) {
            let line = format!("denied: {remedy}; a policy of the worker has to allow it too");
            self.host.log(LogLevel::Warn, &line, &[]);
            if self.denials.0.len() == TOLD {
                let line = "whatever else is denied to this attempt is not told any more";
                self.host.log(LogLevel::Warn, line, &[]);
            }
        }
        HostError::Denied(format!("no grant covers it: {remedy}"))
    }
}
