//! Which files and directories may be believed and written: those that no other user can change under us.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// Group and others may write.
const OTHERS_WRITE: u32 = 0o022;
/// Only owners may remove and rename what is in the directory.
const STICKY: u32 = 0o1000;

/// What is wrong with a file of ours, if anything: it must be a plain file, this user's, and nobody else's to write.
pub fn problem_of_file(about: &Metadata) -> Option<String> {
    if let Some(kind) = not_a_file(about) {
        return Some(format!("it is {kind}"));
    }
    let me = rustix::process::geteuid().as_raw();
    if about.uid() != me {
        return Some(format!("it belongs to user {}, and this is user {me}", about.uid()));
    }
    others_write(about)
}

/// What it is, if it is no plain file.
pub(super) fn not_a_file(about: &Metadata) -> Option<&'static str> {
    let kind = about.file_type();
    Some(match () {
        () if kind.is_file() => return None,
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    })
}

/// The problem if somebody besides the owner may write.
pub(super) fn others_write(about: &Metadata) -> Option<String> {
    let mode = about.mode() & 0o7777;
    (mode & OTHERS_WRITE != 0)
        .then(|| format!("others than its owner may write it (mode {mode:04o})"))
}

/// The directory that a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The mode of a directory in which everybody may remove and rename what belongs to others; `None` for any other.
pub(crate) fn open_to_all(about: &Metadata) -> Option<u32> {
    let mode = about.mode() & 0o7777;
    (mode & 0o002 != 0 && mode & STICKY == 0).then_some(mode)
}

/// The directory of a file that is to be written, made if it is not there. Refuses one in which everybody may remove and
/// rename everything.
pub(crate) fn directory_of(path: &Path) -> Result<PathBuf, CliError> {
    let dir = parent(path).to_owned();
    make_directory(&dir)?;
    let about = std::fs::metadata(&dir).map_err(|error| cannot(&dir, &error))?;
    if let Some(mode) = open_to_all(&about) {
        return Err(CliError::failed(
            format!(
                "everybody may change the directory {} (mode {mode:04o}), so nothing is safe there",
                dir.display()
            ),
            format!("choose another place, or take the right away: chmod o-w {}", dir.display()),
        ));
    }
    Ok(dir)
}

/// Makes a directory and those above it, if they are not there.
pub(super) fn make_directory(dir: &Path) -> Result<(), CliError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => CliError::failed(
            format!("{} is needed as a directory and is something else", dir.display()),
            "remove what is there, or choose another place",
        ),
        _ => cannot(dir, &error),
    })
}

fn cannot(dir: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(
        format!("the directory {} cannot be used: {error}", dir.display()),
        "make it for this user, or choose another place",
    )
}
