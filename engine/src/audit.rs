//! The audit log: who ordered what, what became of it, and what was refused, each a line of JSON in a file of this machine.
//!
//! A line has a number and a sum over itself and the sum of the line before, so that one which was changed, taken out or
//! put in is found. Number and sum of the last line also stand in the lock file beside it, so that a cut end is found. All of
//! that can be made anew by whoever may write these files: what must be proof against its own owner is sent away as it comes.
//!
//! | module | what it holds |
//! |---|---|
//! | `file` | lines are written |
//! | `read` | lines are read, and held against each other |
//! | `auditor` | what a worker notes; written by a thread of its own |

pub mod auditor;
pub mod file;
mod lock;
pub mod read;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use stem_core::id::{KeyId, Namespace, RequestId};
use stem_core::text::printable;
use stem_core::time::Timestamp;

pub use self::auditor::Auditor;
pub use self::file::AuditFile;

/// Files that were full and are kept beside the one that is written.
pub const KEPT: u32 = 8;
/// Of a list in an entry, in items; then follows how many were left out.
const LISTED: usize = 100;
/// Of a text that others chose, in bytes.
const TEXT_BYTES: usize = 300;
/// Of what an entry is about, in JSON.
const ABOUT_BYTES: usize = 64 << 10;
/// Before the sum at the end of a line.
const SUM: &str = ",\"sum\":\"";
/// The sum before the first line.
const NOTHING: [u8; SUM_BYTES] = [b'0'; SUM_BYTES];
/// SHA-256 in hexadecimal.
const SUM_BYTES: usize = 64;

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// A worker, of what it was told.
    Worker,
    /// The command line, of what its user orders.
    Operator,
}

impl Side {
    /// The word used in files, JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Operator => "operator",
        }
    }
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A worker obeys.
    Accepted,
    /// A worker does not.
    Refused,
    /// An operator is about to do it.
    Asked,
    /// It was done.
    Done,
    /// A part of it was.
    Partial,
    /// It was not done, or nobody can say.
    Failed,
    /// So many entries could not be written before this one.
    Lost,
    /// The lines before this one are not those that were written.
    Broken,
}

impl Verdict {
    /// The word used in files, JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Asked => "asked",
            Self::Done => "done",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Broken => "broken",
        }
    }
}

/// What is noted of one deed. No payloads, and no secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the clock of who writes.
    pub at: Timestamp,
    /// Who writes.
    pub side: Side,
    /// The worker, or user and machine.
    pub by: String,
    /// What it says.
    pub verdict: Verdict,
    /// The order, or the words of the command.
    pub what: String,
    /// Where it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The command's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// Who the command says has asked; proven is only the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// Whose signature over it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of how it ended: the number of the entry that says that it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u64>,
    /// Of how it ended: the exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u8>,
    /// To what: tasks, queues, workers, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Value>,
    /// So many more were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u64>,
}

impl Entry {
    /// One that says no more than this.
    pub fn new(at: Timestamp, side: Side, by: &str, verdict: Verdict, what: &str) -> Self {
        Self {
            at,
            side,
            by: printable(by, TEXT_BYTES),
            verdict,
            what: printable(what, TEXT_BYTES),
            namespace: None,
            request: None,
            requester: None,
            key: None,
            reason: None,
            asked: None,
            exit: None,
            about: None,
            more: None,
        }
    }

    /// Bounds what others chose.
    fn bounded(mut self) -> Self {
        for text in [&mut self.requester, &mut self.reason].into_iter().flatten() {
            *text = printable(text, TEXT_BYTES);
        }
        if let Some(about) = &mut self.about {
            bound(about);
            if about.to_string().len() > ABOUT_BYTES {
                *about = "more than an entry holds".into();
            }
        }
        self
    }
}

/// A list as an entry has it: the first, and how many more there are.
pub fn listed<T: ToString>(items: impl ExactSizeIterator<Item = T>) -> Vec<String> {
    let more = items.len().saturating_sub(LISTED);
    let mut list: Vec<String> = items.take(LISTED).map(|item| item.to_string()).collect();
    list.extend((more > 0).then(|| format!("and {more} more")));
    list
}

fn bound(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text, TEXT_BYTES),
        Value::Array(items) => {
            // A list that was cut already has one item more.
            let more = items.len().saturating_sub(LISTED);
            if more > 1 {
                items.truncate(LISTED);
                items.push(format!("and {more} more").into());
            }
            items.iter_mut().for_each(bound);
        }
        Value::Object(map) => map.values_mut().for_each(bound),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// An entry as it stands in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from 1; goes on over all files.
    pub seq: u64,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

/// Number and sum of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    seq: u64,
    sum: [u8; SUM_BYTES],
}

impl Link {
    /// Before the first line.
    const START: Self = Self { seq: 0, sum: NOTHING };

    fn sum_of(self, line: &[u8]) -> [u8; SUM_BYTES] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digest = Sha256::new().chain_update(self.sum).chain_update(b"\n").chain_update(line);
        let mut sum = NOTHING;
        for (pair, byte) in sum.chunks_exact_mut(2).zip(digest.finalize()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        sum
    }

    /// The line after this one, with its line feed.
    fn append(&mut self, entry: &Entry, text: &mut Vec<u8>) {
        let record = Record { seq: self.seq + 1, entry: entry.clone().bounded() };
        let mut line = serde_json::to_vec(&record).expect("our own types have string keys");
        // Its closing brace comes behind the sum.
        line.pop();
        *self = Self { seq: record.seq, sum: self.sum_of(&line) };
        text.extend_from_slice(&line);
        text.extend_from_slice(SUM.as_bytes());
        text.extend_from_slice(&self.sum);
        text.extend_from_slice(b"\"}\n");
    }

    /// A line without its line feed: what it says, its link, and what its sum is over. `None` for what is none of ours.
    fn read(line: &[u8]) -> Option<(Record, Self, &[u8])> {
        let (body, end) =
            line.split_at_checked(line.len().checked_sub(SUM.len() + SUM_BYTES + 2)?)?;
        let sum = end.strip_prefix(SUM.as_bytes())?.strip_suffix(b"\"}")?;
        let record: Record = serde_json::from_slice(line).ok()?;
        let link = Self { seq: record.seq, sum: sum.try_into().ok()? };
        Some((record, link, body))
    }
}

#[cfg(test)]
mod tests;
