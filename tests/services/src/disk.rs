//! [`Disk`]: a file system that can be full.
//!
//! It is a `tmpfs`, which takes memory only for what lies in it. It is made full by taking the room from it that nothing
//! lies in: every file keeps what it has, and none gets a page more. So it is full at one moment, whoever writes meanwhile,
//! where a file that fills it would have to race. It needs a superuser: without, [`Disk::start`] says so and fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::server::{Plot, wait_until};

/// The room that it has when it is not full: more than any run needs.
const ROOM: u64 = 4 << 30;
/// No room at all would mean without bounds.
const LEAST: u64 = 4 << 10;

/// A file system of its own, in a directory of its own; gone when dropped. For files that are no server's.
#[derive(Debug)]
pub struct Disk {
    plot: Plot,
}

impl Disk {
    /// An empty one.
    #[track_caller]
    pub fn start() -> Self {
        let start = || {
            let disk = Self { plot: Plot::new("disk")? };
            mount(&disk.plot.disk())?;
            anyhow::Ok(disk)
        };
        start().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Where files can be put.
    pub fn path(&self) -> PathBuf {
        self.plot.disk()
    }

    /// Leaves it no room.
    #[track_caller]
    pub fn fill(&self) {
        fill(&self.path()).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Gives it its room back.
    #[track_caller]
    pub fn free(&self) {
        free(&self.path()).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// Makes this directory a file system of its own. Its sexton takes it away again.
pub(crate) fn mount(directory: &Path) -> Result<()> {
    std::fs::create_dir(directory)
        .with_context(|| format!("failed to make {}", directory.display()))?;
    let options = format!("size={ROOM},mode=0700");
    let place = directory.to_string_lossy();
    run(&["-t", "tmpfs", "-o", &options, "stem-disk", &place]).context(
        "no file system can be mounted here, and a disk that is full needs one \
         (hint: run the tests as root, in a container with CAP_SYS_ADMIN)",
    )
}

/// Leaves it no room.
pub(crate) fn fill(directory: &Path) -> Result<()> {
    let mut last = Ok(());
    // It is refused where somebody has written since it was asked how much there is.
    let full = wait_until(|| {
        last = used(directory).and_then(|used| resize(directory, used.max(LEAST)));
        last.is_ok()
    });
    ensure!(full, "{} cannot be filled: {last:?}", directory.display());
    Ok(())
}

/// Gives it its room back.
pub(crate) fn free(directory: &Path) -> Result<()> {
    resize(directory, ROOM)
}

/// Bytes of its files.
fn used(directory: &Path) -> Result<u64> {
    let told = rustix::fs::statvfs(directory).context("a disk does not say what it has")?;
    Ok((told.f_blocks - told.f_bfree) * told.f_frsize)
}

fn resize(directory: &Path, bytes: u64) -> Result<()> {
    run(&["-o", &format!("remount,size={bytes}"), &directory.to_string_lossy()])
}

fn run(words: &[&str]) -> Result<()> {
    let mut command = Command::new("mount");
    let output = command.args(words).stdin(Stdio::null()).output().context("cannot run mount")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mount {words:?} failed: {}", said.trim());
    Ok(())
}
