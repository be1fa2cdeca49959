//! [`AuditFile`]: entries are appended, by several processes of one user, each on disk before its writer goes on.
//!
//! A file that is full is moved aside (`.1` is the newest of those), and the oldest goes. What a broken-off write left is closed
//! off by a line feed and counts for nothing; what it wrote is not numbered, so nothing is missing.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::lock::Lock;
use super::{Entry, KEPT, Link, Verdict};

/// A file grows to this. Some 200,000 entries; with those that are kept 576 MiB.
const FILE_BYTES: u64 = 64 << 20;
/// In so much of a file's end its last line is looked for: more than the longest line has.
const TAIL_BYTES: u64 = 256 << 10;

/// A log that this process writes.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    most: u64,
}

/// What is wrong with a file that is to be written, if anything.
pub(super) fn problem(about: &Metadata) -> Option<String> {
    let me = rustix::process::geteuid().as_raw();
    let mode = about.mode() & 0o7777;
    Some(if !about.is_file() {
        "it is no plain file".to_owned()
    } else if about.uid() != me {
        format!(
            "it belongs to user {}, and this is user {me}; each user has a log of its own",
            about.uid()
        )
    } else if about.nlink() > 1 {
        format!("it has {} names", about.nlink())
    } else if mode & 0o022 != 0 {
        format!(
            "others than its owner may write it (mode {mode:04o}); take the right away: chmod go-w"
        )
    } else {
        return None;
    })
}

/// What is wrong with the directory of a log, if anything: there others could put another file in its place.
fn problem_beside(log: &Path) -> Option<String> {
    let dir = parent(log);
    match std::fs::metadata(dir) {
        Err(error) => Some(format!("the directory {}: {error}", dir.display())),
        Ok(about) if !about.is_dir() => Some(format!("{} is no directory", dir.display())),
        // The sticky bit leaves each file to its owner.
        Ok(about) if about.mode() & 0o1002 == 0o002 => Some(format!(
            "everybody may change the directory {} (mode {:04o})",
            dir.display(),
            about.mode() & 0o7777
        )),
        Ok(_) => None,
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name of a file that was moved aside.
pub(super) fn aside(log: &Path, number: u32) -> PathBuf {
    let mut path = log.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}

impl AuditFile {
    /// A log that can be written, made if it is not there: mode 0600, in a directory that is. The error is a whole sentence.
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::of(path, FILE_BYTES)
    }

    pub(super) fn of(path: &Path, most: u64) -> Result<Self, String> {
        let log = Self { path: path.to_owned(), most };
        log.locked(|_| log.current().map(drop)).map_err(|problem| log.refuse(&problem))?;
        Ok(log)
    }

    /// Why a log that is there, or is to be made, could not be written, as far as can be seen without writing.
    pub fn look(path: &Path) -> Option<String> {
        problem_beside(path).or_else(|| match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let access = rustix::fs::access(parent(path), rustix::fs::Access::WRITE_OK);
                access
                    .err()
                    .map(|error| format!("the directory {}: {error}", parent(path).display()))
            }
            Err(error) => Some(error.to_string()),
            Ok(about) => problem(&about),
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn refuse(&self, problem: &str) -> String {
        format!("the audit log {} cannot be written: {problem}", self.path.display())
    }

    /// Writes entries one after the other, all or none, and waits until they are on disk. Answers with the number of the last.
    /// The error is a whole sentence.
    pub fn append(&self, entries: &[Entry]) -> Result<u64, String> {
        self.locked(|lock| self.write(lock, entries)).map_err(|problem| self.refuse(&problem))
    }

    fn locked<T>(&self, work: impl FnOnce(&Lock) -> Result<T, String>) -> Result<T, String> {
        if let Some(problem) = problem_beside(&self.path) {
            return Err(problem);
        }
        let lock = Lock::for_writing(&self.path)?;
        let is_new = lock.head().is_none() && !self.path.exists() && !aside(&self.path, 1).exists();
        if is_new {
            lock.make_head().map_err(|error| format!("its lock: {error}"))?;
        }
        work(&lock)
    }

    /// The file that is written, with its length.
    fn current(&self) -> Result<(File, u64), String> {
        let is_new = !self.path.exists();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(
                (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed(),
            )
            .open(&self.path)
            .map_err(|error| error.to_string())?;
        let about = file.metadata().map_err(|error| error.to_string())?;
        if let Some(problem) = problem(&about) {
            return Err(problem);
        }
        if is_new {
            sync_directory(&self.path)?;
        }
        Ok((file, about.len()))
    }

    fn write(&self, lock: &Lock, entries: &[Entry]) -> Result<u64, String> {
        let (mut file, mut length) = self.current()?;
        let mut end = End::of(&file, length)?;
        // Nothing was written since the last one was moved aside, or what was is torn.
        if end.link.is_none()
            && let Ok(before) = File::open(aside(&self.path, 1))
        {
            let length = before.metadata().map_err(|error| error.to_string())?.len();
            end.link = End::of(&before, length)?.link;
        }
        let (mut link, broken) = end.judge(lock.head());
        let mut text = Vec::new();
        if let (Some(reason), Some(first)) = (broken, entries.first()) {
            let marker = Entry {
                reason: Some(reason),
                ..Entry::new(first.at, first.side, &first.by, Verdict::Broken, "audit")
            };
            link.append(&marker, &mut text);
        }
        for entry in entries {
            link.append(entry, &mut text);
        }
        if length > 0 && length + text.len() as u64 > self.most {
            self.turn_over()?;
            (file, length) = self.current()?;
        } else if end.is_torn {
            text.insert(0, b'\n');
        }
        let written = file.write_all(&text).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Part of a line would count for nothing, and a whole one would say what its writer was told is not written.
            let _ = file.set_len(length);
            return Err(error.to_string());
        }
        // It only vouches for the end; an older one does no harm.
        let _ = lock.set_head(link);
        Ok(link.seq)
    }

    /// Moves the files on by one, up to the first place that is free.
    fn turn_over(&self) -> Result<(), String> {
        let free = (1..KEPT).find(|number| !aside(&self.path, *number).exists()).unwrap_or(KEPT);
        let move_to = |from: PathBuf, to: u32| {
            let to = aside(&self.path, to);
            std::fs::rename(&from, &to).map_err(|error| {
                format!("{} cannot be moved to {}: {error}", from.display(), to.display())
            })
        };
        for number in (1..free).rev() {
            move_to(aside(&self.path, number), number + 1)?;
        }
        move_to(self.path.clone(), 1)?;
        sync_directory(&self.path)
    }
}

fn sync_directory(path: &Path) -> Result<(), String> {
    File::open(parent(path))
        .and_then(|dir| dir.sync_all())
        .map_err(|error| format!("its directory: {error}"))
}

/// How a file ends.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Its last line that is one of ours.
    link: Option<Link>,
    /// What comes next needs a line feed before it.
    is_torn: bool,
}

impl End {
    fn of(file: &File, length: u64) -> Result<Self, String> {
        let from = length.saturating_sub(TAIL_BYTES);
        let mut tail = vec![0; usize::try_from(length - from).unwrap_or(0)];
        file.read_exact_at(&mut tail, from)
            .map_err(|error| format!("its end cannot be read: {error}"))?;
        let link = tail
            .rsplit(|byte| *byte == b'\n')
            .find_map(|line| Link::read(line).map(|(_, link, _)| link));
        Ok(Self { link, is_torn: tail.last().is_some_and(|byte| *byte != b'\n') })
    }

    /// What the next line goes on from; and what is wrong, by what the lock says was written last.
    fn judge(self, head: Option<Link>) -> (Link, Option<String>) {
        let there = self.link.unwrap_or(Link::START);
        match head {
            None => (
                there,
                Some(
                    "nothing vouches for its end: the lock beside it was removed or changed"
                        .to_owned(),
                ),
            ),
            Some(head) if head == there => (there, None),
            // A line is written before the lock says so.
            Some(head) if head.seq < there.seq => (there, None),
            Some(head) if head.seq == there.seq => {
                (head, Some(format!("entry {} was changed", head.seq)))
            }
            Some(head) => (
                head,
                Some(format!(
                    "the entries after {} were taken away; {} was the last",
                    there.seq, head.seq
                )),
            ),
        }
    }
}
