//! What a cut of the power leaves of a process's files: what it had synced, and nothing that came after. For files that only
//! grow: what was written over is not put back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::preload;

pub(crate) const NAME: &str = "power";
const SOURCE: &str = include_str!("power.c");
/// See `power.c`.
const SYNCED: &str = "synced";

/// What processes load that note what they have synced.
#[derive(Debug)]
pub struct Power(PathBuf);

impl Power {
    /// Puts it into this directory, which stays as long as any process has it.
    pub fn make(directory: &Path) -> Result<Self> {
        preload::build(directory, NAME, SOURCE)?;
        Ok(Self(directory.to_owned()))
    }

    /// Has this process, and whatever it starts, note what it syncs.
    pub fn load(&self, command: &mut Command) {
        preload::load(command, &self.0, &[NAME]);
    }
}

/// How much of a file is synced, by whoever has it with [`Power`].
pub fn synced(path: &Path) -> Result<u64> {
    match fs::read_to_string(path.with_added_extension(SYNCED)) {
        // Nothing was ever synced of a file that has no note, or one that was just being written for the first time.
        Ok(said) if said.is_empty() => Ok(0),
        Ok(said) => said.parse().with_context(|| format!("{said:?} is no size")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Takes from this file what was not synced; answers how many bytes that was. Nobody may have it any more.
pub fn cut_power(path: &Path) -> Result<u64> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    let (there, synced) = (file.metadata()?.len(), synced(path)?);
    if synced < there {
        file.set_len(synced)?;
    }
    Ok(there.saturating_sub(synced))
}

/// [`cut_power`] for every file of this directory with this ending; bytes of all together.
pub(crate) fn cut_all(directory: &Path, ending: &str) -> Result<u64> {
    let mut lost = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == ending) {
            lost += cut_power(&path)?;
        }
    }
    Ok(lost)
}
