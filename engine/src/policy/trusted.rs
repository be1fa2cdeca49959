//! Files that decide or hold something: whoever can write one has a say in what modules reach.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

/// A file's bytes and its mode, and by what it is known again.
pub(crate) struct Trusted {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) mark: Mark,
}

/// By what it is seen, without reading, that there is another file, another content, or another mode or owner: each of
/// them changes the time of the last change, or the file's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    fn of(about: &Metadata) -> Self {
        Self {
            file: (about.dev(), about.ino()),
            size: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }

    /// Of what is there now, if anything is.
    pub(crate) fn now(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|about| Self::of(&about))
    }
}

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Reads files again whenever they are other than they were `seen` and have been still for one look: one that is being
/// written changes again. `read` is given how they look, and says how what it has read looked, or `None` where that cannot
/// be used. Then they are read again also while they stay as they are: what was taken away must not hold on because there
/// was no memory, or no file to spare, at one moment; and what is lacking may lie where nobody looks. Never ends;
/// cancel-safe.
pub(crate) async fn follow<M: PartialEq>(
    mut seen: M,
    look: impl Fn() -> M,
    mut read: impl FnMut(M) -> Option<M>,
) {
    let mut is_usable = true;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = look();
        if now == seen && is_usable {
            continue;
        }
        tokio::time::sleep(LOOK).await;
        if look() == now {
            let read = read(now);
            is_usable = read.is_some();
            seen = read.unwrap_or(seen);
        }
    }
}

/// What to add to an error that a process may have by what it has given up.
pub(crate) fn if_hardened(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; a hardened worker reads only where its files lay when it started, else it needs a restart"
        }
        _ => "",
    }
}

/// Reads a plain file of this user or root that nobody else can write, of at most so many bytes. Follows symbolic links.
pub(crate) fn read(path: &Path, most: u64) -> Result<Trusted, String> {
    let unreadable =
        |error: std::io::Error| format!("it cannot be read: {error}{}", if_hardened(&error));
    // A FIFO would be waited for.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file: File =
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if let Some(problem) = problem(&about) {
        return Err(problem);
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!("it has more than {most} bytes"));
    }
    // From before it was read: what is written meanwhile is a change.
    Ok(Trusted { bytes, mode: about.mode(), mark: Mark::of(&about) })
}

fn problem(about: &Metadata) -> Option<String> {
    if !about.is_file() {
        return Some("it is no plain file".to_owned());
    }
    let me = rustix::process::geteuid().as_raw();
    if about.uid() != me && about.uid() != 0 {
        return Some(format!(
            "it belongs to user {}, who is neither this user ({me}) nor root",
            about.uid()
        ));
    }
    let mode = about.mode() & 0o7777;
    (mode & 0o022 != 0).then(|| {
        format!(
            "others than its owner may write it (mode {mode:04o}); take the right away: chmod go-w"
        )
    })
}
