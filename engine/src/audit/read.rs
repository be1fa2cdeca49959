//! [`Snapshot`]: a log as it is at one moment, read from its oldest line on and held against its sums; and [`Tail`], what
//! comes after.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Serialize;

use super::file::aside;
use super::lock::Lock;
use super::{KEPT, Link, Record, Verdict};

/// The files of a log, and how long each was.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    /// The oldest first; the one that is written is the last.
    files: Vec<(PathBuf, File, u64)>,
    head: Option<Link>,
    /// As many files as are kept, so the oldest may have gone.
    is_full: bool,
}

/// What a reading came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// Entries that were read.
    pub entries: u64,
    /// The number of the first.
    pub first: Option<u64>,
    /// The number of the last.
    pub last: Option<u64>,
    /// Lines that are no entries: the rest of a write that was broken off, or nonsense. No entry is missing for them.
    pub unreadable: u64,
    /// Whether the lock beside the log says which entry is the last; of a log that was copied elsewhere it does not.
    pub vouched: bool,
    /// What was changed or is missing, in order, the first of them.
    pub broken: Vec<Break>,
}

/// A place where the lines are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    /// In which file.
    pub file: PathBuf,
    /// Which line, from 1; the one after the last for what is missing at the end.
    pub line: u64,
    /// What is wrong there.
    pub problem: String,
}

/// Most breaks that are told.
const BREAKS: usize = 20;

impl Snapshot {
    /// Of the log there; `None` where there is none. The error is a whole sentence.
    pub fn take(path: &Path) -> Result<Option<Self>, String> {
        // Held only until each file is open: a write waits for it.
        let lock = Lock::for_reading(path);
        // Before the files: what is written meanwhile is later than it.
        let head = lock.as_ref().and_then(Lock::head);
        let older = (1..=KEPT).rev().map(|number| aside(path, number));
        let mut files = Vec::new();
        for path in older.chain([path.to_owned()]) {
            if let Some((file, length)) = open(&path)? {
                files.push((path, file, length));
            }
        }
        let is_full = files.first().is_some_and(|(oldest, ..)| *oldest == aside(path, KEPT));
        Ok((!files.is_empty()).then(|| Self { path: path.to_owned(), files, head, is_full }))
    }

    /// Reads every entry. The error is a whole sentence.
    pub fn read(&mut self, mut each: impl FnMut(Record)) -> Result<Chain, String> {
        let mut chain = Chain { vouched: self.head.is_some(), ..Chain::default() };
        let mut before: Option<Link> = None;
        let (mut number, mut bytes) = (0, Vec::new());
        for (path, file, length) in &mut self.files {
            let refuse = |error: std::io::Error| {
                format!("the audit log {} cannot be read: {error}", path.display())
            };
            file.seek(SeekFrom::Start(0)).map_err(refuse)?;
            let mut lines = BufReader::new(file.take(*length));
            number = 0;
            loop {
                bytes.clear();
                if lines.read_until(b'\n', &mut bytes).map_err(refuse)? == 0 {
                    break;
                }
                number += 1;
                let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                let Some((record, link, body)) = Link::read(line) else {
                    // What closes off a line that was broken off is one of its own where that had ended.
                    chain.unreadable += u64::from(!line.is_empty());
                    continue;
                };
                if let Some(problem) = problem(before, link, body, self.is_full) {
                    chain.add(path, number, problem);
                }
                if record.entry.verdict == Verdict::Broken {
                    let reason = record.entry.reason.clone().unwrap_or_default();
                    chain.add(path, number, format!("when this was written: {reason}"));
                }
                before = Some(link);
                chain.entries += 1;
                chain.first = chain.first.or(Some(link.seq));
                chain.last = Some(link.seq);
                each(record);
            }
        }
        let there = before.unwrap_or(Link::START);
        if let Some(head) = self.head.filter(|head| head.seq > there.seq) {
            let missing =
                format!("the entries after {} are missing; {} was the last", there.seq, head.seq);
            chain.add(&self.path, number + 1, missing);
        } else if self.head.is_some_and(|head| head.seq == there.seq && head != there) {
            chain.add(&self.path, number, format!("entry {} was changed", there.seq));
        }
        Ok(chain)
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// What comes after.
    pub fn tail(mut self) -> Tail {
        let last = self.files.pop().filter(|(path, ..)| *path == self.path);
        Tail { path: self.path, open: last.map(|(_, file, length)| (file, length)) }
    }
}

impl Chain {
    fn add(&mut self, file: &Path, line: u64, problem: String) {
        if self.broken.len() < BREAKS {
            self.broken.push(Break { file: file.to_owned(), line, problem });
        }
    }
}

/// What is wrong with a line after another, if anything.
fn problem(before: Option<Link>, link: Link, body: &[u8], is_full: bool) -> Option<String> {
    let Some(before) = before.or((link.seq == 1).then_some(Link::START)) else {
        // The line that its sum goes on from is not here.
        return (!is_full).then(|| format!("the entries before {} are missing", link.seq));
    };
    if link.seq != before.seq + 1 {
        return Some(format!("after entry {} comes {}", before.seq, link.seq));
    }
    (before.sum_of(body) != link.sum)
        .then(|| format!("entry {}, or the one before it, was changed", link.seq))
}

/// A plain file; `None` where there is none.
fn open(path: &Path) -> Result<Option<(File, u64)>, String> {
    let refuse = |problem: &dyn std::fmt::Display| {
        format!("the audit log {} cannot be read: {problem}", path.display())
    };
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(&error)),
    };
    let about = file.metadata().map_err(|error| refuse(&error))?;
    if !about.is_file() {
        return Err(refuse(&"it is no plain file"));
    }
    Ok(Some((file, about.len())))
}

/// Entries as they are written.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// The file, and how far it was read.
    open: Option<(File, u64)>,
}

impl Tail {
    /// What was written since the last look. The error is a whole sentence.
    pub fn look(&mut self) -> Result<Vec<Record>, String> {
        let mut found = Vec::new();
        // Before it is read: a file that was moved aside is not written any more.
        let there = std::fs::metadata(&self.path).ok().map(|about| (about.dev(), about.ino()));
        if let Some((file, done)) = &mut self.open {
            let refuse = |error: std::io::Error| {
                format!("the audit log {} cannot be read: {error}", self.path.display())
            };
            let about = file.metadata().map_err(refuse)?;
            *done += read_on(file, *done, &mut found).map_err(refuse)?;
            if Some((about.dev(), about.ino())) == there {
                return Ok(found);
            }
        }
        self.open = open(&self.path)?.map(|(file, _)| (file, 0));
        if let Some((file, done)) = &mut self.open {
            let read = read_on(file, 0, &mut found);
            *done = read.map_err(|error| {
                format!("the audit log {} cannot be read: {error}", self.path.display())
            })?;
        }
        Ok(found)
    }
}

/// Reads whole lines from a place on; answers with how many bytes they have.
fn read_on(file: &mut File, from: u64, found: &mut Vec<Record>) -> std::io::Result<u64> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let lines = text[..whole].split(|byte| *byte == b'\n');
    found.extend(lines.filter_map(|line| Link::read(line).map(|(record, ..)| record)));
    Ok(whole as u64)
}
