//! The file by its name: links, kinds, modes, making it, putting another in its place.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::fault::Fault;

/// Links followed before a path counts as a circle; the kernel's own number.
const LINKS: u32 = 40;

/// What changes when the file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    pub(crate) bytes: u64,
    seconds: i64,
    nanos: i64,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            seconds: metadata.mtime(),
            nanos: metadata.mtime_nsec(),
        }
    }

    /// Of the file that the path leads to; `None` if there is none.
    pub(crate) fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::of(&metadata))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// The path without links, so that all who mean one file lock one file, and a compaction replaces the file and not a
/// link to it. The file itself need not exist.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, Fault> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::canonicalize(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            resolved => return resolved.map_err(|error| Fault::io("its path", error)),
        }
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let directory = fs::canonicalize(directory).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Fault::refused(format!(
                "its directory {} does not exist; create it first",
                directory.display()
            )),
            _ => Fault::io("its directory", error),
        })?;
        // A link to a file that is still to be made.
        let Ok(target) = fs::read_link(&path) else {
            let Some(name) = path.file_name() else { break };
            return Ok(directory.join(name));
        };
        path = directory.join(target);
    }
    Err(Fault::refused("its path does not lead to a file"))
}

/// `<path><suffix>`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Only a regular file can be appended to, read by place and cut.
pub(crate) fn check_kind(metadata: &Metadata) -> Result<(), Fault> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Fault::refused(format!("it is {what}; give the path of a file")))
}

/// The file's metadata; `None` if it is missing.
pub(crate) fn look(path: &Path) -> Result<Option<Metadata>, Fault> {
    match fs::metadata(path) {
        Ok(metadata) => check_kind(&metadata).map(|()| Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::io("it cannot be looked at", error)),
    }
}

/// Asked of the mode and not tried out: a superuser's try would succeed against the owner's wish.
pub(crate) fn check_writable(what: &str, metadata: &Metadata) -> Result<(), Fault> {
    if metadata.permissions().readonly() {
        return Err(Fault::refused(format!(
            "{what} is read-only; make it writable (chmod u+w) or use another"
        )));
    }
    Ok(())
}

/// The file, open. For writing too if this user may.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) writable: bool,
}

/// Without waiting: to open a FIFO for reading otherwise waits for whoever writes to it.
pub(crate) fn open(path: &Path) -> Result<Opened, Fault> {
    let fault = |error| Fault::io("it cannot be opened", error);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    let opened = match options.clone().append(true).open(path) {
        Ok(file) => Opened { file, writable: true },
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Opened { file: options.open(path).map_err(fault)?, writable: false }
        }
        Err(error) => return Err(fault(error)),
    };
    let metadata = opened.file.metadata().map_err(fault)?;
    check_kind(&metadata)?;
    if metadata.mode() & 0o444 == 0 {
        return Err(Fault::refused("nobody may read it; make it readable (chmod u+r)"));
    }
    Ok(opened)
}

/// Makes an empty file for this user only: reasons may hold secrets.
pub(crate) fn create(path: &Path) -> Result<(), Fault> {
    let fault = |error| Fault::io("it cannot be made", error);
    let directory = fs::metadata(directory(path)).map_err(fault)?;
    check_writable("its directory", &directory)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file.sync_all().map_err(fault)?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fault(error)),
    }
    sync_directory(path)
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Makes the names in the file's directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Fault> {
    let synced = File::open(directory(path)).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Fault::io("its directory", error))
}

/// A file that takes the place of another in one step, or is removed when it is dropped before.
#[derive(Debug)]
pub(crate) struct Replacement {
    out: BufWriter<File>,
    new: PathBuf,
    old: PathBuf,
    placed: bool,
}

impl Replacement {
    /// Must be called under the lock. Owner, group and mode are those of the old file: whoever compacts must not take
    /// it away from those who use it.
    pub(crate) fn begin(old: &Path, metadata: &Metadata) -> Result<Self, Fault> {
        let fault = |error| Fault::io("its copy cannot be made", error);
        let directory = fs::metadata(directory(old)).map_err(fault)?;
        check_writable("its directory", &directory)?;
        let new = beside(old, ".new");
        // What a process that was killed left behind.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .map_err(fault)?;
        let made = file.metadata().map_err(fault)?;
        let replacement = Self {
            out: BufWriter::with_capacity(256 * 1024, file),
            new,
            old: old.to_owned(),
            placed: false,
        };
        let file = replacement.out.get_ref();
        if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(file, Some(metadata.uid()), Some(metadata.gid())).map_err(|error| {
                Fault::io("its copy cannot be given to its owner; do this as its owner", error)
            })?;
        }
        file.set_permissions(Permissions::from_mode(metadata.mode() & 0o777)).map_err(fault)?;
        Ok(replacement)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.out.write_all(bytes).map_err(|error| Fault::io("its copy cannot be written", error))
    }

    /// Durable when it returns.
    pub(crate) fn place(mut self) -> Result<(), Fault> {
        let flushed = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        flushed.map_err(|error| Fault::io("its copy cannot be written", error))?;
        fs::rename(&self.new, &self.old)
            .map_err(|error| Fault::io("its copy cannot take its place", error))?;
        self.placed = true;
        sync_directory(&self.old)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.placed {
            // The next one removes it if this fails.
            let _ = fs::remove_file(&self.new);
        }
    }
}
