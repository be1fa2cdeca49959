//! Files of the directory by their names: kinds, modes, reading, putting one in the place of another, sweeping.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, OFlags};
use stem_core::time::Timestamp;

use crate::fault::Fault;
use crate::place;

/// What is being written has such a name; one that is left over was a process's that was killed.
const BEGUN: &str = ".new-";

/// What becomes of a directory that everybody may change: whoever is on the machine could put a module there.
fn check_mode(what: &str, about: &Metadata) -> Result<(), Fault> {
    if about.mode() & 0o002 == 0 {
        return Ok(());
    }
    let mode = about.mode() & 0o7777;
    Err(Fault::refused(format!("everybody may change {what} (mode {mode:04o}); chmod o-w")))
}

/// A directory in which modules can be trusted to be those of its users. The link to the whole is followed, none in it.
pub(super) fn directory(path: &Path, what: &str) -> Result<Metadata, Fault> {
    let inside = path.file_name().is_some_and(|name| name == "blobs");
    let about = if inside { fs::symlink_metadata(path) } else { fs::metadata(path) };
    let about = about.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Fault::refused(format!("{what} does not exist; a push makes it")),
        _ => Fault::io(what, error),
    })?;
    if !about.is_dir() {
        return Err(Fault::refused(format!("{what} is no directory; give the path of one")));
    }
    check_mode(what, &about)?;
    Ok(about)
}

/// Makes a directory if there is none.
pub(super) fn make(path: &Path, mode: u32) -> Result<(), Fault> {
    let fault = |error| Fault::io("it cannot be made", error);
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            // Whatever the umask is.
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(fault)?;
            place::sync_directory(path)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(fault(error)),
    }
}

/// Whether this user may put files there.
pub(super) fn check_access(path: &Path) -> Result<(), Fault> {
    rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| Fault::io("this user may not write to it", error.into()))
}

/// Whether there is anything.
pub(super) fn is_there(path: &Path) -> Result<bool, Fault> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Fault::io("it cannot be looked at", error)),
    }
}

/// Opens a file for reading, without waiting (for whoever writes to a FIFO) and without following a link.
pub(super) fn open(path: &Path, what: &str) -> Result<Option<(File, Metadata)>, Fault> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let linked = fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink());
            return Err(if linked {
                Fault::refused(format!("{what} is a link; nothing here may be one"))
            } else {
                Fault::io(what, error)
            });
        }
    };
    let about = file.metadata().map_err(|error| Fault::io(what, error))?;
    place::check_kind(&about)?;
    check_mode(what, &about)?;
    Ok(Some((file, about)))
}

/// A file's bytes; `None` if there is none.
pub(super) fn read(path: &Path, what: &str, most: usize) -> Result<Option<Vec<u8>>, Fault> {
    let Some((file, about)) = open(path, what)? else { return Ok(None) };
    let most = most as u64;
    if about.len() > most {
        let problem = format!("{what} has {} bytes, and {most} are the most", about.len());
        return Err(Fault::damaged(problem));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or_default());
    // One that grows meanwhile is read no further.
    file.take(most).read_to_end(&mut bytes).map_err(|error| Fault::io(what, error))?;
    Ok(Some(bytes))
}

/// Puts a file in the place of another in one step, durable when it returns.
pub(super) fn replace(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    modified: SystemTime,
) -> Result<(), Fault> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut name = OsString::from(format!("{BEGUN}{}-{number}-{nanos}-", std::process::id()));
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    let written = write(&new, bytes, mode, modified).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // A sweep removes it if this fails.
        let _ = fs::remove_file(&new);
        return Err(Fault::not_stored(error));
    }
    place::sync_directory(path)
}

fn write(new: &Path, bytes: &[u8], mode: u32, modified: SystemTime) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(bytes)?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.set_modified(modified)?;
    file.sync_all()
}

/// As file systems have it.
pub(super) fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at.unix_millis()).unwrap_or_default())
}

/// Removes files that are loose by their path and the time of their change, and what was never finished. What has another
/// name is somebody's.
pub(super) fn sweep(
    blobs: &Path,
    loose: impl Fn(&Path, Timestamp) -> bool,
) -> Result<(), io::Error> {
    for entry in fs::read_dir(blobs)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.starts_with(BEGUN)
            || name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let changed = entry.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = i64::try_from(changed.as_millis()).unwrap_or(i64::MAX);
        if ours && loose(&entry.path(), Timestamp::from_unix_millis(changed)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
