//! Which texts in the log of commands this worker obeys. Anybody who can write to the log can put one there: what cannot be
//! read, is not signed as it must be, or is not to act, is counted, said now and then, and stepped over.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::control::Position;
use stem_core::control::{Command, wire};
use stem_core::id::{KeyId, Namespace};
use stem_core::machine::gate::{Gate, Verdict};
use stem_core::observe::Seen;
use stem_core::seal::{self, By, Framed, Level, Purpose, Refused};
use stem_core::time::Timestamp;

use super::super::shared::Shared;
use super::audit::{self, Known};
use crate::quiet::Quiet;
use crate::signing::Keys;

/// Between two lines of the log about commands that were refused.
const QUIET: Duration = Duration::from_secs(1);
/// More than these, or than so many bytes, are read on a thread where it may take long: a signature takes about 0.1 ms and
/// each MiB some 2 ms, and nothing must delay a lease.
const AT_ONCE: usize = 16;
const BYTES_AT_ONCE: usize = 256 << 10;

/// A text that was opened and read, with whose signature over it holds.
pub(super) type Read = Result<(Command, Option<By>), Refusal>;

/// A text that is not to act.
#[derive(Debug)]
pub(super) struct Refusal {
    reason: Refused,
    /// The key that it names, which proves nothing; or why it cannot be read.
    about: String,
}

/// What is to be done with a command.
#[derive(Debug)]
pub(super) enum Admitted {
    /// It is obeyed.
    Act(Command),
    /// This key may not order it; who sent it is told.
    NotAllowed(Command, KeyId),
}

/// Opens and reads a page of the log.
pub(super) async fn read_all(
    shared: &Arc<Shared>,
    texts: Vec<(Position, String)>,
) -> Vec<(Position, Read)> {
    let checked = shared.keys.level(Purpose::Command) != Level::Unchecked;
    let (keys, namespace) = (Arc::clone(&shared.keys), shared.config.namespace.clone());
    let now = shared.wall();
    let bytes: usize = texts.iter().map(|(_, text)| text.len()).sum();
    let costly = checked && (texts.len() > AT_ONCE || bytes > BYTES_AT_ONCE);
    let read = move || {
        let one = |(at, text): (Position, String)| (at, read(&keys, &namespace, &text, now));
        texts.into_iter().map(one).collect()
    };
    if costly {
        tokio::task::spawn_blocking(read).await.expect("reading a text does not panic")
    } else {
        read()
    }
}

/// Nothing of what a text says is looked at before its signature holds, where it must have one.
fn read(keys: &Keys, namespace: &Namespace, text: &str, now: Timestamp) -> Read {
    let bytes = text.as_bytes();
    let checked = keys.level(Purpose::Command) != Level::Unchecked;
    if checked && bytes.len() > seal::LINE_BYTES + seal::COMMAND_BYTES {
        let about = format!("{} bytes", bytes.len());
        return Err(Refusal { reason: Refused::TooLarge, about });
    }
    let opened = keys
        .open_sealed(Purpose::Command, namespace.as_str(), bytes, now)
        .map_err(|reason| Refusal { reason, about: named_key(bytes) })?;
    let command = wire::command(opened.body)
        .map_err(|error| Refusal { reason: Refused::Malformed, about: error.to_string() })?;
    Ok((command, opened.by))
}

fn named_key(bytes: &[u8]) -> String {
    match seal::split(bytes) {
        Ok(Framed::Sealed { seal, .. }) => seal.key.to_string(),
        Ok(Framed::Plain(_)) => String::new(),
        Err(error) => error.to_string(),
    }
}

/// Judges what was read.
#[derive(Debug)]
pub(super) struct Admission {
    gate: Gate,
    /// The worker's, in steady time.
    start: Timestamp,
    quiet: Quiet,
}

impl Admission {
    pub(super) fn new(shared: &Shared) -> Self {
        let gate = Gate::new(shared.config.namespace.clone(), shared.config.id.clone());
        let start = shared.steady(shared.started_at);
        Self { gate, start, quiet: Quiet::new(QUIET) }
    }

    /// What this worker is to do with it, if anything.
    pub(super) fn admit(&mut self, shared: &Shared, read: Read) -> Option<Admitted> {
        let (command, by) = match read {
            Ok(read) => read,
            Err(Refusal { reason, about }) => {
                self.refuse(shared, reason, Known { command: None, by: None, said: &about });
                return None;
            }
        };
        let up = shared.now().since(self.start);
        match self.gate.judge(shared.wall(), up, &command, by.as_ref()) {
            Verdict::Act => {
                if by.is_none() && shared.keys.level(Purpose::Command) == Level::Permitted {
                    shared.observer.saw(Seen::Unsigned(Purpose::Command));
                }
                audit::accepted(shared, &command, by.as_ref());
                Some(Admitted::Act(command))
            }
            Verdict::NotOurs => None,
            Verdict::NotAllowed => {
                let by = by?;
                let said = by.key.as_str();
                let known = Known { command: Some(&command), by: Some(&by), said };
                self.refuse(shared, Refused::WrongRole, known);
                Some(Admitted::NotAllowed(command, by.key))
            }
            Verdict::Refused(reason) => {
                let said = by.as_ref().map_or(command.request_id.as_str(), |by| by.key.as_str());
                let known = Known { command: Some(&command), by: by.as_ref(), said };
                self.refuse(shared, reason, known);
                None
            }
        }
    }

    fn refuse(&self, shared: &Shared, reason: Refused, known: Known<'_>) {
        shared.observer.saw(Seen::Refused { kind: Purpose::Command, reason });
        audit::refused(shared, reason, known);
        let about = known.said;
        let unchecked = shared.keys.level(Purpose::Command) == Level::Unchecked;
        let word = reason.as_str();
        // These come about by slow networks and clocks that differ, too.
        if unchecked && matches!(reason, Refused::Expired | Refused::Replayed) {
            tracing::debug!(reason = word, about, "a command was refused");
        } else if let Some(suppressed) = self.quiet.may(shared.now()) {
            tracing::warn!(reason = word, about, suppressed, "a command was refused");
        }
    }
}
