//! The file that says which process a node is, written and kept by that process itself.
//!
//! The living process holds a lock (`flock`) on its file until its end. So a node is alive exactly when the lock is held
//! *and* the process that the file names is the one it was: a number alone proves nothing, as it comes back. The file
//! appears under its name complete and locked, so nobody ever sees half of it; whoever finds one without a holder locks
//! it before taking it away, so of two starts one wins.
//!
//! What a file like this says is believed only if nobody else could have written it: no symbolic link, a plain file with
//! one name, ours, that neither group nor others can write.

mod record;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use stem_core::control::WorkerState;

use self::record::Content;
pub use self::record::{About, Record};
use super::process::{self, Seen};
use super::safe;
use crate::error::CliError;

/// A longer file is none of ours.
const MOST_BYTES: u64 = 4096;
/// How often something that is over in a moment (another looks, one takes a dead one's file away) is looked at again.
const LOOKS: u32 = 40;
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// Nobody else's to open: who can read a file can lock it, and so keep a dead worker's from being replaced.
const MODE: u32 = 0o600;

/// What a PID file tells of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no file.
    Absent,
    /// Its process lives.
    Alive(Box<Record>, Seen),
    /// Its process is gone.
    Dead(Dead),
    /// Nobody holds it, and what it says is not what a worker writes.
    Invalid {
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody holds it who is not the process that it names, or whom this process cannot see: for instance a worker
    /// in another container that shares the directory.
    Held {
        /// What it names.
        problem: String,
    },
}

/// A file whose process is gone. Nobody holds its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The number in it.
    pub pid: u32,
    /// Everything else in it; `None` if it is a number and nothing else, as other programs write it.
    pub record: Option<Box<Record>>,
    /// What is known of that number.
    pub why: Why,
}

impl Found {
    /// Whether a worker that starts takes the place of what is there.
    pub fn gives_way(&self) -> bool {
        match self {
            Self::Alive(..) | Self::Held { .. } => false,
            Self::Dead(dead) => match dead.why {
                Why::NotRunning => true,
                Why::Recycled => dead.record.is_some(),
                Why::NotHolding => false,
            },
            Self::Invalid { problem } => problem == record::EMPTY,
            Self::Absent => true,
        }
    }
}

/// Why a process is not the one of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No process has the number.
    NotRunning,
    /// A process has it that is another, or cannot be shown to be the same.
    Recycled,
    /// The very process lives and does not hold the file, so it is no worker of this file.
    NotHolding,
}

/// What the file tells now. Takes well below a millisecond; up to 200 ms where what is found may be over in a moment.
///
/// An error means that the file is not to be trusted or cannot be read; it says which and what to do.
pub fn look(path: &Path) -> Result<Found, CliError> {
    let mut looks = 0;
    loop {
        let found = look_once(path);
        // One that ends lets its lock go a moment before it is gone.
        let passing = matches!(
            found,
            Err(Look::Passing(_))
                | Ok(Found::Held { .. } | Found::Dead(Dead { why: Why::NotHolding, .. }))
        );
        looks += 1;
        if passing && looks < LOOKS {
            std::thread::sleep(PAUSE);
            continue;
        }
        return found.map_err(|(Look::Passing(error) | Look::Final(error))| error);
    }
}

/// An error of one look.
enum Look {
    /// It may be over in a moment.
    Passing(CliError),
    /// It will not.
    Final(CliError),
}

fn look_once(path: &Path) -> Result<Found, Look> {
    let Some(opened) = open(path, Access::Read)? else { return Ok(Found::Absent) };
    let held = match opened.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => return Err(Look::Final(unreadable(path, &error))),
    };
    let content = read(&opened).map_err(|error| Look::Final(unreadable(path, &error)))?;
    drop(opened);
    judge(&content, held).map_err(|error| Look::Final(unreadable(path, &error)))
}

fn judge(content: &Content, held: bool) -> io::Result<Found> {
    let (pid, record) = match content {
        Content::Record(record) => (record.identity.pid, Some(record)),
        Content::Number(pid) => (*pid, None),
        Content::Other(problem) if held => return Ok(Found::Held { problem: problem.clone() }),
        Content::Other(problem) => return Ok(Found::Invalid { problem: problem.clone() }),
    };
    let seen = process::see(pid)?;
    let same = record.zip(seen).filter(|(record, seen)| record.identity == seen.identity);
    Ok(match (held, same, seen) {
        (true, Some((record, seen)), _) => Found::Alive(record.clone(), seen),
        (true, None, _) => Found::Held {
            problem: format!(
                "it names process {pid}, which is not the one that holds it, or cannot be seen from here"
            ),
        },
        (false, same, seen) => {
            let why = match (same, seen) {
                (Some(_), _) => Why::NotHolding,
                (None, Some(_)) => Why::Recycled,
                (None, None) => Why::NotRunning,
            };
            Found::Dead(Dead { pid, record: record.cloned(), why })
        }
    })
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// To look at it.
    Read,
    /// To lock it exclusively, for which network file systems want that it could be written.
    Write,
}

/// Opens what may be believed; `None` if there is nothing.
fn open(path: &Path, access: Access) -> Result<Option<File>, Look> {
    let mut options = OpenOptions::new();
    // NONBLOCK: a FIFO must not hold us up.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    options.read(true).write(access == Access::Write);
    options.custom_flags(flags.bits().cast_signed());
    let opened = match options.open(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(Look::Final(untrusted(path, "it is a symbolic link")));
        }
        Err(error) => return Err(Look::Final(unreadable(path, &error))),
    };
    let about = opened.metadata().map_err(|error| Look::Final(unreadable(path, &error)))?;
    if let Some(problem) = safe::problem_of_file(&about) {
        let owner = about.uid();
        let mut error = untrusted(path, &problem);
        if about.is_file() && owner != rustix::process::geteuid().as_raw() {
            error.hint = format!(
                "run this as the user whose worker it is (setpriv --reuid {owner} --clear-groups …), or choose another --pidfile"
            );
        }
        return Err(Look::Final(error));
    }
    match about.nlink() {
        // Removed a moment ago.
        0 => Err(Look::Passing(untrusted(path, "it is being removed"))),
        1 => Ok(Some(opened)),
        // Where files cannot be renamed without replacing, a new one has two names for a moment.
        names => Err(Look::Passing(untrusted(path, &format!("it has {names} names")))),
    }
}

fn read(opened: &File) -> io::Result<Content> {
    let mut bytes = Vec::new();
    opened.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(Content::parse(&bytes))
}

/// The PID file of this process. Dropped, it removes the file.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    file: File,
    record: Mutex<Record>,
}

impl PidFile {
    /// Writes the file of this process, exclusively: a file of a dead worker is replaced, one whose process lives or
    /// that is none of ours is an error and stays as it is. Makes the directories above it. The state is `starting`.
    pub fn create(path: &Path, about: About) -> Result<Self, CliError> {
        let refuse = |error: io::Error| {
            CliError::failed(
                format!("the PID file {} cannot be written: {error}", path.display()),
                "choose another --pidfile, or make its directory writable for this user",
            )
        };
        let dir = safe::directory_of(path)?;
        let identity = process::this().map_err(refuse)?;
        let record = Record::new(identity, about);
        for _ in 0..LOOKS {
            make_way(path)?;
            let mut new = tempfile::Builder::new()
                .prefix(".stem-pid-")
                .permissions(std::fs::Permissions::from_mode(MODE))
                .tempfile_in(&dir)
                .map_err(refuse)?;
            new.as_file().lock().map_err(refuse)?;
            new.write_all(record.text().as_bytes()).map_err(refuse)?;
            match new.persist_noclobber(path) {
                Ok(file) => {
                    return Ok(Self { path: path.to_owned(), file, record: Mutex::new(record) });
                }
                // Another was faster; the next look says who.
                Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(refuse(error.error)),
            }
            std::thread::sleep(PAUSE);
        }
        Err(refuse(io::Error::other("others write and remove it all the time")))
    }

    /// Says what the worker is at.
    pub fn set_state(&self, state: WorkerState) -> io::Result<()> {
        let mut record = self.record.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        record.state = state;
        // Every state takes the same room, so the file is never cut or longer than it should be.
        self.file.write_all_at(record.text().as_bytes(), 0)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // If somebody else's file is there by now, ours was removed by hand.
        if is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether this file is the one under that name.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), path.symlink_metadata()) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

/// Takes away what a dead worker left. Refuses what is alive, and what is none of ours.
fn make_way(path: &Path) -> Result<(), CliError> {
    match look(path)? {
        Found::Absent => Ok(()),
        Found::Alive(record, _) => Err(CliError::failed(
            format!(
                "{} runs already: the PID file {} is held by process {}",
                record.about.name(),
                path.display(),
                record.identity.pid
            ),
            "stop that worker first, or choose another --pidfile",
        )),
        Found::Held { problem } => Err(untrusted(path, &format!("somebody holds it: {problem}"))),
        Found::Dead(Dead { pid, record: None, why: Why::Recycled }) => Err(untrusted(
            path,
            &format!(
                "it holds the number {pid} and nothing else, and a process has that number; whether it is the one that was meant cannot be told"
            ),
        )),
        Found::Dead(Dead { pid, why: Why::NotHolding, .. }) => {
            Err(untrusted(path, &not_holding(pid)))
        }
        Found::Invalid { problem } if problem != record::EMPTY => Err(untrusted(path, &problem)),
        Found::Dead(_) | Found::Invalid { .. } => clear(path).map(drop),
    }
}

/// Removes the file of a worker that is dead; whether there was one to remove. What is alive or none of ours stays.
pub fn clear(path: &Path) -> Result<bool, CliError> {
    let opened = match open(path, Access::Write) {
        Ok(Some(opened)) => opened,
        Ok(None) | Err(Look::Passing(_)) => return Ok(false),
        Err(Look::Final(error)) => return Err(error),
    };
    clear_opened(&opened, path)
}

fn clear_opened(opened: &File, path: &Path) -> Result<bool, CliError> {
    // Whoever holds it lives, or is clearing it as we would. If another file is there by now, somebody did.
    if opened.try_lock().is_err() || !is_at(opened, path) {
        return Ok(false);
    }
    let refuse = |error: io::Error| unreadable(path, &error);
    let ours = match read(opened).map_err(refuse)? {
        Content::Record(_) | Content::Number(_) => true,
        Content::Other(problem) => problem == record::EMPTY,
    };
    if ours {
        std::fs::remove_file(path).map_err(|error| {
            CliError::failed(
                format!(
                    "the PID file {} of a dead worker cannot be removed: {error}",
                    path.display()
                ),
                "make its directory writable for this user",
            )
        })?;
    }
    Ok(ours)
}

/// What is wrong with a file whose process lives and does not hold it, for instance a copy.
pub(super) fn not_holding(pid: u32) -> String {
    format!("it names the living process {pid}, which does not hold it")
}

fn untrusted(path: &Path, problem: &str) -> CliError {
    CliError::failed(
        format!("the PID file {} is not to be trusted: {problem}", path.display()),
        "look at what is there; remove it if no worker needs it, or choose another --pidfile",
    )
}

fn unreadable(path: &Path, error: &io::Error) -> CliError {
    CliError::failed(
        format!("the PID file {} cannot be read: {error}", path.display()),
        "run this as the user whose workers they are, or choose another --pidfile",
    )
}

#[cfg(test)]
mod tests;
