//! A file of variables for workers. It is parsed and never sourced: nothing in it is run, expanded or continued.
//!
//! ```text
//! # a comment on a line of its own
//! STEM_LOG=info
//! export STEM_BROKER_URL=redis://host/0
//! STEM_WORKER_COMMAND="/usr/bin/stem worker start --modules /srv/modules"
//! PASSWORD='anything but a single quote: $x `y` \z'
//! ```
//!
//! A value is bare (no white space, quotes, `\`, `$` or `` ` ``), in single quotes (as it is), or in double quotes (with
//! `\"`, `\\`, `\$` and ``\` `` for these four). A line that could be read in two ways is refused, with its number. What this
//! takes means the same to systemd's `EnvironmentFile=`, but for `export`, which that leaves out with its line, and for a
//! comment that ends in a backslash; and to a shell, where values with `& ; | < > ( )` or a leading `~` are quoted.

mod text;

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

pub use self::text::{BadLine, EnvFile};
use super::safe;
use crate::error::CliError;

/// A larger file is refused.
const MOST_BYTES: u64 = 256 << 10;
/// So many bad lines are named in an error for people.
const NAMED: usize = 5;

/// Why a file is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvFileError {
    /// It is not there or cannot be read.
    Unreadable(String),
    /// Somebody else may have written it, or it is no text file of a fit size.
    Refused(String),
    /// These lines are not understood; all of them, in order.
    Lines(Vec<BadLine>),
}

impl EnvFileError {
    /// The same as an error of a command: wrong configuration, with a hint.
    pub fn into_cli(self, path: &Path) -> CliError {
        let path = path.display();
        match self {
            Self::Unreadable(problem) => CliError::usage(
                format!("the environment file {path} cannot be read: {problem}"),
                "name a file that this user can read",
            ),
            Self::Refused(problem) => CliError::usage(
                format!("the environment file {path} is refused: {problem}"),
                format!(
                    "it decides what runs, so only its owner may write it: chmod 0640 {path}, chown it to this user or root"
                ),
            ),
            Self::Lines(bad) => {
                let mut named: Vec<String> =
                    bad.iter().take(NAMED).map(BadLine::to_string).collect();
                if bad.len() > NAMED {
                    named.push(format!("and {} more", bad.len() - NAMED));
                }
                CliError::usage(
                    format!("the environment file {path} is not understood: {}", named.join("; ")),
                    "write NAME=value, NAME='value' or NAME=\"value\" on a line each; comments begin with # on a line of their own",
                )
            }
        }
    }
}

/// Reads a file of variables. Follows symbolic links; what they lead to must be a plain file of this user or root that
/// nobody else can write.
pub fn read(path: &Path) -> Result<EnvFile, EnvFileError> {
    let unreadable = |error: std::io::Error| EnvFileError::Unreadable(error.to_string());
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    let opened = options.open(path).map_err(unreadable)?;
    let about = opened.metadata().map_err(unreadable)?;
    let me = rustix::process::geteuid().as_raw();
    if let Some(kind) = safe::not_a_file(&about) {
        return Err(EnvFileError::Refused(format!("it is {kind}")));
    }
    if about.uid() != me && about.uid() != 0 {
        return Err(EnvFileError::Refused(format!(
            "it belongs to user {}, who is neither this user ({me}) nor root",
            about.uid()
        )));
    }
    if let Some(problem) = safe::others_write(&about) {
        return Err(EnvFileError::Refused(problem));
    }
    let mut bytes = Vec::new();
    opened.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(EnvFileError::Refused(format!("it has more than {MOST_BYTES} bytes")));
    }
    text::parse(&bytes).map_err(EnvFileError::Lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        assert!(matches!(read(&path), Err(EnvFileError::Unreadable(_))));
        std::fs::write(&path, "A=1\n").unwrap();
        for (mode, fine) in [(0o600, true), (0o644, true), (0o664, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_ok(), fine, "{mode:o}");
        }
        assert!(matches!(read(dir.path()), Err(EnvFileError::Refused(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert!(read(&dir.path().join("link")).is_ok());
        std::fs::write(&path, "#".repeat(300 << 10)).unwrap();
        assert!(matches!(read(&path), Err(EnvFileError::Refused(_))));
    }
}
