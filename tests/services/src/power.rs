//! What a cut of the power leaves of a server's files: what it had synced, and nothing that came after.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

pub(crate) const NAME: &str = "power";
const SOURCE: &str = include_str!("power.c");
/// See `power.c`.
const SYNCED: &str = "synced";

pub(crate) fn make(directory: &Path) -> Result<()> {
    crate::preload::build(directory, NAME, SOURCE)
}

/// Takes from every file of this directory with this ending what was not synced; answers how many bytes that was. The server
/// must be gone.
pub(crate) fn cut(directory: &Path, ending: &str) -> Result<u64> {
    let mut lost = 0;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|found| found != ending) {
            continue;
        }
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        let there = file.metadata()?.len();
        // Nothing was ever synced of a file that has no note, or one that was just being written for the first time.
        let note = path.with_added_extension(SYNCED);
        let synced = match fs::read_to_string(&note) {
            Ok(said) if said.is_empty() => 0,
            Ok(said) => said.parse::<u64>().with_context(|| format!("{said:?} is no size"))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error.into()),
        };
        if synced < there {
            file.set_len(synced)?;
            lost += there - synced;
        }
    }
    Ok(lost)
}
