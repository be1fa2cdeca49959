//! A wall clock of a server's own, which can be set: a library that the server loads before all others.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

pub(crate) const NAME: &str = "clock";
const SOURCE: &str = include_str!("clock.c");
/// In the directory: by how many microseconds the clock is ahead, in eight bytes.
const AHEAD: &str = "clock";

/// Puts it into this directory; it shows the right time.
pub(crate) fn make(directory: &Path) -> Result<()> {
    set(directory, Ahead::NONE)?;
    crate::preload::build(directory, NAME, SOURCE)
}

/// Has this server, which loads the library, go by it.
pub(crate) fn wear(command: &mut Command, directory: &Path) {
    command.env("STEM_CLOCK", directory.join(AHEAD));
}

/// How far a clock is off.
#[derive(Clone, Copy, Debug)]
pub enum Ahead {
    /// It shows more than the right time.
    By(Duration),
    /// It shows less.
    Behind(Duration),
}

impl Ahead {
    /// The right time.
    pub const NONE: Self = Self::By(Duration::ZERO);

    fn micros(self) -> i64 {
        let micros = |by: Duration| i64::try_from(by.as_micros()).expect("less than many lives");
        match self {
            Self::By(by) => micros(by),
            Self::Behind(by) => -micros(by),
        }
    }
}

/// From now on it is off by this.
pub(crate) fn set(directory: &Path, ahead: Ahead) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = directory.join(AHEAD);
    // In place: the server has this file, and not its name, in its memory.
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(file)?;
    Ok(file.write_all_at(&ahead.micros().to_ne_bytes(), 0)?)
}

/// A server that does not go by it would be no test. The tolerance is for one that is slow to answer.
pub(crate) fn must_show(shown: &str, ahead: Ahead) -> Result<()> {
    let right = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let shown: i64 = shown.trim().parse().with_context(|| format!("no time: {shown:?}"))?;
    let off = shown - right - ahead.micros() / 1_000_000;
    ensure!(off.abs() <= 60, "the server does not go by its clock: it is {off} s off {ahead:?}");
    Ok(())
}
