//! The advisory lock beside the file. It is a file of its own because a compaction puts another inode in the place of
//! the first, and a lock belongs to an inode. It is never removed: two processes could then each lock another one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::fault::Fault;
use crate::place::beside;

/// The lock is held for about one `fdatasync`, a millisecond on a good disk.
const POLL: Duration = Duration::from_millis(1);

/// Who else may hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Other readers.
    Readers,
    /// Nobody.
    Nobody,
}

/// Held until dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// For writing; nobody else reads or writes what is new.
    pub(crate) fn for_writing(path: &Path, deadline: Instant) -> Result<Self, Fault> {
        let held = take(path, Share::Nobody, deadline)?;
        held.ok_or_else(|| Fault::refused("the lock file beside it cannot be opened for writing"))
    }

    /// For reading. `None` if this user may not lock: reading without is safe, since nothing behind the last line's
    /// end is read and a compaction replaces the file in one step; what is read is then at worst part of a write that
    /// is about to be taken back because the disk is full.
    pub(crate) fn for_reading(path: &Path, deadline: Instant) -> Result<Option<Self>, Fault> {
        take(path, Share::Readers, deadline)
    }
}

fn take(file: &Path, share: Share, deadline: Instant) -> Result<Option<Lock>, Fault> {
    let (owner, path) = (fs::metadata(file).ok(), beside(file, ".lock"));
    loop {
        let Some(file) = open(&path, share)? else { return Ok(None) };
        poll(&file, share, deadline)?;
        // Whoever removed the file against its rule must not leave us with a lock that nobody else sees.
        let current = fs::symlink_metadata(&path).ok().map(|found| (found.dev(), found.ino()));
        let ours = file.metadata().map_err(|error| Fault::io("its lock file", error))?;
        if current == Some((ours.dev(), ours.ino())) {
            if let Some(owner) = owner.filter(|owner| owner.uid() != ours.uid()) {
                // A superuser who came first must not lock the file's owner out. Others may not do this, and need not.
                let _ = fchown(&file, Some(owner.uid()), Some(owner.gid()));
            }
            if share == Share::Nobody {
                // For the message of those who wait in vain. Nothing depends on it, so nothing is said if it fails.
                let _ = file.write_all_at(note().as_bytes(), 0);
            }
            return Ok(Some(Lock { _file: file }));
        }
    }
}

fn open(path: &Path, share: Share) -> Result<Option<File>, Fault> {
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags);
    let made = options.clone().write(true).create(true).truncate(false).mode(0o600).open(path);
    let opened = match made {
        Err(error) if share == Share::Readers && may_not_write(&error) => {
            match options.open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound || may_not_write(&error) => {
                    return Ok(None);
                }
                opened => opened,
            }
        }
        made => made,
    };
    let file = opened.map_err(|error| Fault::io("its lock file", error))?;
    let metadata = file.metadata().map_err(|error| Fault::io("its lock file", error))?;
    // Nor one with another name, which somebody may have linked here: we write to it, and may give it away.
    if !metadata.is_file() || metadata.nlink() > 1 {
        let problem = format!("its lock {} is not a file of its own", path.display());
        return Err(Fault::refused(problem));
    }
    Ok(Some(file))
}

fn may_not_write(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

fn poll(file: &File, share: Share, deadline: Instant) -> Result<(), Fault> {
    let started = Instant::now();
    loop {
        let tried = match share {
            Share::Readers => file.try_lock_shared(),
            Share::Nobody => file.try_lock(),
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Interrupted => {
                return Err(Fault::io("its lock file", error));
            }
            Err(_) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let waited = started.elapsed().as_millis();
            let holder = holder(file);
            return Err(Fault::transient(format!(
                "its lock was not free within {waited} ms{holder}; `lslocks` shows who holds it"
            )));
        }
        thread::sleep(POLL.min(left));
    }
}

fn note() -> String {
    format!("{:>10}\n", std::process::id())
}

fn holder(file: &File) -> String {
    let mut note = [0; 11];
    let read = file.read_exact_at(&mut note, 0).ok();
    let process = read.and_then(|()| std::str::from_utf8(&note).ok()?.trim().parse::<u32>().ok());
    process.map_or_else(String::new, |id| format!(" (process {id} wrote last)"))
}
