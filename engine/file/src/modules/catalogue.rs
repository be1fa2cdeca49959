//! The catalogue: one line of JSON, then the CRC-32C of it on a line of its own.
//!
//! Format 1. A reader refuses a higher one, so readers are upgraded before writers.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use stem_core::release::Shelves;

use super::files;
use crate::fault::Fault;
use crate::place::Stamp;

/// What this code writes, and the highest that it reads.
const FORMAT: u32 = 1;

/// The largest catalogue. It is read and written as a whole.
const BYTES: usize = 256 << 20;

const WHAT: &str = "its catalogue";

#[derive(Serialize, Deserialize)]
struct Document<S> {
    v: u32,
    #[serde(flatten)]
    shelves: S,
}

#[derive(Deserialize)]
struct Format {
    v: u32,
}

/// Reads it; which must be there.
pub(super) fn read(path: &Path) -> Result<(Stamp, Shelves), Fault> {
    let gone = || Fault::transient("its catalogue has just gone");
    let (_, about) = files::open(path, WHAT)?.ok_or_else(gone)?;
    let bytes = files::read(path, WHAT, BYTES)?.ok_or_else(gone)?;
    // Of before the reading: should it have been replaced in between, the next look reads it again.
    Ok((Stamp::of(&about), parse(&bytes)?))
}

fn parse(bytes: &[u8]) -> Result<Shelves, Fault> {
    let damaged = |problem: &dyn std::fmt::Display| {
        Fault::damaged(format!(
            "its catalogue is damaged ({problem}); put a copy in its place, or push everything into an empty directory"
        ))
    };
    let text = std::str::from_utf8(bytes).map_err(|error| damaged(&error))?;
    let line = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
    let Some((line, seal)) = line else { return Err(damaged(&"its end is missing")) };
    if seal != sealed(line) {
        return Err(damaged(&"its checksum does not match its content"));
    }
    let Format { v } = serde_json::from_str(line).map_err(|error| damaged(&error))?;
    if v > FORMAT {
        return Err(Fault::damaged(format!(
            "its catalogue was written by a newer version of stem (format {v}, this one knows {FORMAT}); upgrade stem on this machine"
        )));
    }
    let document: Document<Shelves> =
        serde_json::from_str(line).map_err(|error| damaged(&error))?;
    Ok(document.shelves)
}

fn sealed(line: &str) -> String {
    format!("{:08x}", crc32c::crc32c(line.as_bytes()))
}

/// Puts a new one in its place. Must be called under the lock. Its time is its revision, which no other has: the clock of a
/// file system may stand still over several changes, and then nothing else would tell them apart.
pub(super) fn write(path: &Path, shelves: &Shelves, mode: u32) -> Result<Stamp, Fault> {
    let line = serde_json::to_string(&Document { v: FORMAT, shelves })
        .expect("these types have a JSON form, and memory takes it");
    let text = format!("{line}\n{}\n", sealed(&line));
    if text.len() > BYTES {
        return Err(Fault::refused(format!(
            "not stored: the catalogue would have {} bytes, and {BYTES} are the most; remove old releases",
            text.len()
        )));
    }
    let revised = UNIX_EPOCH + Duration::from_micros(shelves.revision);
    files::replace(path, text.as_bytes(), mode, revised)?;
    let stamp = Stamp::at(path).map_err(|error| Fault::io(WHAT, error))?;
    stamp.ok_or_else(|| Fault::transient("its catalogue has just gone"))
}
