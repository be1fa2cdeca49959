//! A line of the file: how it is written, sealed, read and refused.
//!
//! One JSON object for one change, in the order in which the changes were made:
//!
//! ```text
//! {"v":1,"namespace":"stem","taskId":"t","version":7,"issuedAt":"…","terminate":false,"cooperative":false,"crc":"0badcafe"}
//! {"v":1,"namespace":"stem","taskId":"t","version":8,"undoneAt":"…","crc":"0badcafe"}
//! {"v":1,"namespace":"stem","lastVersion":8,"crc":"0badcafe"}
//! ```
//!
//! The last kind, a mark, keeps the highest version that was given out when the line that had it is dropped. `crc` is
//! the CRC-32C of the bytes before `,"crc":`. A person may add lines without one, and then leave out everything but
//! `namespace` and `taskId`.
//!
//! Format 1. A reader refuses a higher one, and keys that it does not know: to take half of an order for the whole is
//! worse than to stop. So a change of the format needs a new number, and readers that are upgraded before writers.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::text::printable;
use stem_core::time::Timestamp;

/// What this code writes, and the highest that it reads.
const FORMAT: u32 = 1;

/// The longest line, without its end. A reason is a sentence; a line beyond this is no line of ours, and a bound
/// keeps a file of one endless line from being read into memory.
pub(crate) const LINE_BYTES: usize = 64 * 1024;

/// The highest version: what every reader of JSON keeps exactly. As microseconds it lasts until the year 2255.
pub(crate) const LAST_VERSION: u64 = (1 << 53) - 1;

/// `,"crc":"` and 8 digits and `"}`.
const SEAL_BYTES: usize = 18;
const SEAL: &[u8] = b",\"crc\":\"";

/// Why a line is no record.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// Its format has a number that this code does not know.
    Newer(u32),
    /// Anything else.
    Damaged(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(v) => write!(
                f,
                "it was written by a newer version of stem (format {v}, this one knows {FORMAT})"
            ),
            Self::Damaged(problem) => f.write_str(problem),
        }
    }
}

/// What a problem repeats of its line at most, in bytes.
const PROBLEM_BYTES: usize = 200;

pub(crate) fn damaged(problem: impl fmt::Display) -> Unreadable {
    Unreadable::Damaged(printable(&problem.to_string(), PROBLEM_BYTES))
}

/// A line that was read. What the index needs of it is checked; the rest of a sealed line is when it is asked for,
/// since a store wrote it.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) namespace: Cow<'a, str>,
    /// As written; a person may have left it out.
    pub(crate) version: Option<u64>,
    /// Whether a store wrote it.
    pub(crate) sealed: bool,
    pub(crate) content: Content<'a>,
}

/// What a line says.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Revoked { task: Cow<'a, str>, expires_at: Option<Timestamp>, request: Request<'a> },
    Undone { task: Cow<'a, str>, at: Timestamp },
    Mark { last: u64 },
}

/// The rest of a revocation.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    issued_at: Option<Cow<'a, str>>,
    terminate: bool,
    cooperative: bool,
    grace_ms: Option<u64>,
    reason: Option<Cow<'a, str>>,
    requested_by: Option<Cow<'a, str>>,
}

/// Every key of every kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Keys<'a> {
    v: Option<u32>,
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    task_id: Option<Text<'a>>,
    version: Option<u64>,
    #[serde(borrow)]
    issued_at: Option<Text<'a>>,
    terminate: Option<bool>,
    cooperative: Option<bool>,
    grace_ms: Option<u64>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
    #[serde(borrow)]
    requested_by: Option<Text<'a>>,
    #[serde(borrow)]
    expires_at: Option<Text<'a>>,
    #[serde(borrow)]
    undone_at: Option<Text<'a>>,
    last_version: Option<u64>,
    #[serde(borrow)]
    crc: Option<Text<'a>>,
}

/// Text that is not copied where it can be helped. Inside an `Option`, serde copies a plain `Cow`.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

/// Reads a line without its end; `None` if it is empty.
pub(crate) fn read(line: &[u8]) -> Result<Option<Line<'_>>, Unreadable> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    if !is_object(line) {
        return Err(damaged("it does not begin with {"));
    }
    let sealed = check_seal(line)?;
    let keys: Keys<'_> =
        serde_json::from_slice(line).map_err(|error| newer(line).unwrap_or(damaged(error)))?;
    if let Some(v) = keys.v.filter(|v| *v > FORMAT) {
        return Err(Unreadable::Newer(v));
    }
    if keys.crc.is_some() && !sealed {
        return Err(damaged("`crc` must be 8 digits at its end, or be left out"));
    }
    if keys.version.max(keys.last_version).is_some_and(|version| version > LAST_VERSION) {
        return Err(damaged(format!("a version is at most {LAST_VERSION}")));
    }
    let (version, namespace) = (keys.version, keys.namespace.0.clone());
    let content = content(keys)?;
    if !sealed {
        content.check()?;
    }
    Ok(Some(Line { namespace, version, sealed, content }))
}

/// What is left at the end of a file behind the last line's end.
pub(crate) enum Remainder {
    /// A whole record that lacks only its end.
    Whole,
    /// The beginning of a record: what a write that was cut short leaves.
    Begun,
}

/// Judges a remainder. What no write of ours begins with is damage, not a torn line, and must not be cut off quietly:
/// it may be a whole record whose end was damaged.
pub(crate) fn judge(remainder: &[u8]) -> Result<Remainder, Unreadable> {
    match read(remainder) {
        Ok(Some(_)) => Ok(Remainder::Whole),
        Ok(None) => Ok(Remainder::Begun),
        Err(why) => match serde_json::from_slice::<Keys<'_>>(remainder) {
            Err(error) if error.is_eof() && is_object(remainder) => Ok(Remainder::Begun),
            _ => Err(why),
        },
    }
}

/// The keys in a list, in their order, are read as well by what reads the object.
fn is_object(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"{")
}

/// Whether the line has a checksum at its end, which then must be right.
fn check_seal(line: &[u8]) -> Result<bool, Unreadable> {
    let Some((content, seal)) =
        line.len().checked_sub(SEAL_BYTES).and_then(|middle| line.split_at_checked(middle))
    else {
        return Ok(false);
    };
    let Some(digits) = seal.strip_prefix(SEAL).and_then(|rest| rest.strip_suffix(b"\"}")) else {
        return Ok(false);
    };
    if digits == hex(crc32c::crc32c(content)) {
        Ok(true)
    } else {
        Err(damaged(
            "its checksum does not match its content (whoever edits a line by hand leaves out `crc`)",
        ))
    }
}

/// Eight digits.
fn hex(crc: u32) -> [u8; 8] {
    let mut digits = [0; 8];
    for (digit, shift) in digits.iter_mut().zip((0..32).step_by(4).rev()) {
        *digit = b"0123456789abcdef"[(crc >> shift & 0xf) as usize];
    }
    digits
}

/// The format of a line that a newer version may have written.
fn newer(line: &[u8]) -> Option<Unreadable> {
    #[derive(Deserialize)]
    struct Format {
        v: u32,
    }
    let format: Format = serde_json::from_slice(line).ok()?;
    (format.v > FORMAT).then_some(Unreadable::Newer(format.v))
}

fn content(keys: Keys<'_>) -> Result<Content<'_>, Unreadable> {
    let asked = keys.terminate.is_some()
        || keys.cooperative.is_some()
        || keys.grace_ms.is_some()
        || keys.reason.is_some()
        || keys.requested_by.is_some()
        || keys.expires_at.is_some()
        || keys.issued_at.is_some();
    if let Some(last) = keys.last_version {
        if asked || keys.undone_at.is_some() || keys.task_id.is_some() || keys.version.is_some() {
            return Err(damaged("`lastVersion` goes with no other key than `namespace`"));
        }
        return Ok(Content::Mark { last });
    }
    let Some(task) = keys.task_id else { return Err(damaged("`taskId` is missing")) };
    if let Some(at) = keys.undone_at {
        if asked {
            return Err(damaged("`undoneAt` goes with no key of a revocation"));
        }
        return Ok(Content::Undone { task: task.0, at: time(&at.0)? });
    }
    let expires_at = keys.expires_at.map(|at| time(&at.0)).transpose()?;
    let request = Request {
        issued_at: keys.issued_at.map(|text| text.0),
        terminate: keys.terminate.unwrap_or_default(),
        cooperative: keys.cooperative.unwrap_or_default(),
        grace_ms: keys.grace_ms,
        reason: keys.reason.map(|text| text.0),
        requested_by: keys.requested_by.map(|text| text.0),
    };
    Ok(Content::Revoked { task: task.0, expires_at, request })
}

impl Content<'_> {
    /// What reading leaves out of a sealed line until it is asked for.
    pub(crate) fn check(&self) -> Result<(), Unreadable> {
        match self {
            Self::Mark { .. } => Ok(()),
            Self::Undone { task, .. } => TaskId::new(task).map(drop).map_err(damaged),
            Self::Revoked { task, request, .. } => {
                request.issued_at.as_ref().map(|at| time(at)).transpose()?;
                TaskId::new(task).map(drop).map_err(damaged)
            }
        }
    }

    /// The change under this version; `None` if it is a mark.
    pub(crate) fn into_change(
        self,
        namespace: &Namespace,
        version: u64,
    ) -> Result<Option<RevocationChange>, Unreadable> {
        Ok(match self {
            Self::Mark { .. } => None,
            Self::Undone { task, .. } => {
                let task = TaskId::new(task).map_err(damaged)?;
                Some(RevocationChange::Undone { task, version: Version(version) })
            }
            Self::Revoked { task, expires_at, request } => {
                let issued_at = match &request.issued_at {
                    Some(at) => time(at)?,
                    // Not before the change in front of it, whose time is in the version.
                    None => Timestamp::from_unix_millis((version / 1_000).cast_signed()),
                };
                let revocation = Revocation {
                    namespace: namespace.clone(),
                    task_id: TaskId::new(task).map_err(damaged)?,
                    version: Version(version),
                    issued_at,
                    request: RevokeRequest {
                        terminate: request.terminate,
                        cooperative: request.cooperative,
                        grace_ms: request.grace_ms,
                        reason: request.reason.map(Cow::into_owned),
                        requested_by: request.requested_by.map(Cow::into_owned),
                        expires_at,
                    },
                };
                Some(RevocationChange::Revoked(revocation))
            }
        })
    }
}

fn time(text: &str) -> Result<Timestamp, Unreadable> {
    text.parse().map_err(damaged)
}

/// Appends the line of a revocation, with its end.
pub(crate) fn write_revoked(out: &mut Vec<u8>, revocation: &Revocation) {
    #[derive(Serialize)]
    struct Revoked<'a> {
        v: u32,
        #[serde(flatten)]
        revocation: &'a Revocation,
    }
    seal(out, &Revoked { v: FORMAT, revocation });
}

/// Appends the line of a revocation that was taken back, with its end.
pub(crate) fn write_undone(
    out: &mut Vec<u8>,
    namespace: &str,
    task: &TaskId,
    version: u64,
    at: Timestamp,
) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        v: u32,
        namespace: &'a str,
        task_id: &'a TaskId,
        version: u64,
        undone_at: Timestamp,
    }
    seal(out, &Line { v: FORMAT, namespace, task_id: task, version, undone_at: at });
}

/// Appends a mark, with its end.
pub(crate) fn write_mark(out: &mut Vec<u8>, namespace: &str, last: u64) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Mark<'a> {
        v: u32,
        namespace: &'a str,
        last_version: u64,
    }
    seal(out, &Mark { v: FORMAT, namespace, last_version: last });
}

/// Appends a line that was read, as a store would have written it under this version.
pub(crate) fn write_again(
    out: &mut Vec<u8>,
    line: Line<'_>,
    version: u64,
) -> Result<(), Unreadable> {
    if let Content::Undone { task, at } = &line.content {
        let task = TaskId::new(task).map_err(damaged)?;
        write_undone(out, &line.namespace, &task, version, *at);
        return Ok(());
    }
    let namespace = Namespace::new(&line.namespace).map_err(damaged)?;
    if let Some(RevocationChange::Revoked(revocation)) =
        line.content.into_change(&namespace, version)?
    {
        write_revoked(out, &revocation);
    }
    Ok(())
}

fn seal(out: &mut Vec<u8>, line: &impl Serialize) {
    let start = out.len();
    serde_json::to_writer(&mut *out, line)
        .expect("these types have a JSON form, and memory takes it");
    out.pop();
    let crc = crc32c::crc32c(&out[start..]);
    writeln!(out, ",\"crc\":\"{crc:08x}\"}}").expect("memory takes it");
}
