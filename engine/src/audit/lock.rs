//! The file beside the log: who writes locks it, and it says which line was the last.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::{Link, SUM_BYTES};

/// A line is written within milliseconds, and a disk that is slow within seconds.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);
/// Digits of the largest number.
const DIGITS: usize = 20;
const BYTES: usize = DIGITS + 1 + SUM_BYTES + 1;

/// Held until dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

/// `.NAME.lock` in the same directory.
pub(super) fn path_of(log: &Path) -> PathBuf {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    log.with_file_name(format!(".{name}.lock"))
}

impl Lock {
    /// For writing. The error completes "…cannot be written: ".
    pub(super) fn for_writing(log: &Path) -> Result<Self, String> {
        let path = path_of(log);
        let refuse =
            |problem: &dyn std::fmt::Display| format!("its lock {}: {problem}", path.display());
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
                .open(&path)
                .map_err(|error| refuse(&error))?;
            let about = file.metadata().map_err(|error| refuse(&error))?;
            if let Some(problem) = super::file::problem(&about) {
                return Err(refuse(&problem));
            }
            wait(|| file.try_lock()).map_err(|problem| refuse(&problem))?;
            // Whoever removed it must not leave us with one that nobody else sees.
            let there = path.symlink_metadata().ok().map(|found| (found.dev(), found.ino()));
            if there == Some((about.dev(), about.ino())) {
                return Ok(Self(file));
            }
        }
    }

    /// For reading; `None` where this user cannot. Reading without it is safe: at worst what is being moved aside at this
    /// moment is missed.
    pub(super) fn for_reading(log: &Path) -> Option<Self> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path_of(log)).ok()?;
        wait(|| file.try_lock_shared()).ok()?;
        Some(Self(file))
    }

    /// The last line that was written, if the file says so.
    pub(super) fn head(&self) -> Option<Link> {
        let mut text = [0; BYTES];
        self.0.read_exact_at(&mut text, 0).ok()?;
        let seq = std::str::from_utf8(&text[..DIGITS]).ok()?.trim_start().parse().ok()?;
        let sum: [u8; SUM_BYTES] = text[DIGITS + 1..BYTES - 1].try_into().ok()?;
        let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        (text[DIGITS] == b' ' && text[BYTES - 1] == b'\n' && sum.iter().all(is_hex))
            .then_some(Link { seq, sum })
    }

    /// Sets it. One that is older than the log does no harm, so this is not waited for.
    pub(super) fn set_head(&self, link: Link) -> std::io::Result<()> {
        let mut text = format!("{:>DIGITS$} ", link.seq).into_bytes();
        text.extend_from_slice(&link.sum);
        text.push(b'\n');
        self.0.write_all_at(&text, 0)
    }

    /// For the first time: none at all would look as if somebody had taken it away.
    pub(super) fn make_head(&self) -> std::io::Result<()> {
        self.set_head(Link::START)?;
        self.0.sync_all()
    }
}

fn wait(lock: impl Fn() -> Result<(), TryLockError>) -> Result<(), String> {
    let mut waited = Duration::ZERO;
    loop {
        match lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Interrupted => {
                return Err(error.to_string());
            }
            Err(_) if waited >= PATIENCE => {
                return Err(format!(
                    "it was not free within {} s; `lslocks` shows who holds it",
                    PATIENCE.as_secs()
                ));
            }
            Err(_) => {}
        }
        std::thread::sleep(POLL);
        waited += POLL;
    }
}
