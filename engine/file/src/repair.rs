//! Repair: readable lines stay, the others go into a file beside it. Only on an operator's word: an unreadable line
//! may be a revocation that is not in force afterwards.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::fault::Fault;
use crate::index::{Admitted, Index};
use crate::journal::{Journal, endless};
use crate::lock::Lock;
use crate::place::{self, Replacement, beside};
use crate::revoke::next_version;
use crate::window::{Found, Window};
use crate::wire::{self, LAST_VERSION, Unreadable};

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Lines that could be read, and stay.
    pub kept: u64,
    /// Lines that could not.
    pub set_aside: u64,
    /// Where those are now; `None` if there were none, and the file was left as it was.
    pub path_of_set_aside: Option<PathBuf>,
}

/// A line and what becomes of it.
enum Verdict {
    Stays,
    /// Written by hand: sealed under this version.
    Sealed(u64),
    Goes,
}

struct Judged {
    offset: u64,
    bytes: u64,
    verdict: Verdict,
}

impl Journal {
    pub(crate) fn repair(&mut self, deadline: Instant) -> Result<Repaired, Fault> {
        let path = place::resolve(&self.path)?;
        place::look(&path)?.ok_or_else(Fault::gone)?;
        let _lock = Lock::for_writing(&path, deadline)?;
        let fault = |error| Fault::io("it cannot be read", error);
        let metadata = place::look(&path)?.ok_or_else(Fault::gone)?;
        place::check_writable("it", &metadata)?;
        let opened = place::open(&path)?;
        let mut window = Window::new(&opened.file);
        let (lines, index) = judge(&mut window)?;
        let set_aside = lines.iter().filter(|line| matches!(line.verdict, Verdict::Goes)).count();
        let kept = (lines.len() - set_aside) as u64;
        if set_aside == 0 {
            return Ok(Repaired { kept, set_aside: 0, path_of_set_aside: None });
        }
        let mut replacement = Replacement::begin(&path, &metadata)?;
        let aside = beside(&path, &format!(".unreadable-{}", self.clock.now().unix_millis()));
        let mut unreadable = create_aside(&aside)?;
        for line in &lines {
            match line.verdict {
                Verdict::Goes => pour(&mut window, line, &mut unreadable).map_err(|error| {
                    Fault::io("the unreadable lines cannot be set aside", error)
                })?,
                Verdict::Stays => {
                    if let Found::Line(bytes) | Found::Rest(bytes) =
                        window.at(line.offset).map_err(fault)?
                    {
                        replacement.write(bytes)?;
                        replacement.write(b"\n")?;
                    }
                }
                Verdict::Sealed(version) => {
                    let mut out = Vec::new();
                    if let Found::Line(bytes) | Found::Rest(bytes) =
                        window.at(line.offset).map_err(fault)?
                        && let Ok(Some(read)) = wire::read(bytes)
                    {
                        wire::write_again(&mut out, read, version)
                            .map_err(|why| Fault::corrupt(0, line.offset, &why))?;
                    }
                    replacement.write(&out)?;
                }
            }
        }
        unreadable
            .sync_all()
            .map_err(|error| Fault::io("the unreadable lines cannot be set aside", error))?;
        // The highest version may have been in a line that goes. By the clock, so above that too.
        let now = self.clock.now();
        let mut marks = Vec::new();
        for (namespace, last) in index.lasts() {
            wire::write_mark(&mut marks, namespace, next_version(last, now).min(LAST_VERSION));
        }
        replacement.write(&marks)?;
        replacement.place()?;
        self.forget();
        Ok(Repaired { kept, set_aside: set_aside as u64, path_of_set_aside: Some(aside) })
    }
}

/// Every line that is not empty.
fn judge(window: &mut Window<'_>) -> Result<(Vec<Judged>, Index), Fault> {
    let fault = |error| Fault::io("it cannot be read", error);
    let (mut lines, mut index) = (Vec::new(), Index::default());
    let (mut offset, mut number) = (0, 0);
    loop {
        number += 1;
        let (read, bytes) = match window.at(offset).map_err(fault)? {
            Found::Rest([]) => return Ok((lines, index)),
            Found::Line(line) => (admit(&mut index, offset, line), Some(line.len() as u64 + 1)),
            Found::Rest(rest) => (admit(&mut index, offset, rest), Some(rest.len() as u64)),
            Found::Endless => (Err(endless()), None),
        };
        let bytes = if let Some(bytes) = bytes {
            bytes
        } else if let Some(next) = window.behind(offset).map_err(fault)? {
            next - offset
        } else {
            // Without an end: all that is left of the file is one line, and there is none behind it.
            lines.push(Judged { offset, bytes: u64::MAX - offset, verdict: Verdict::Goes });
            return Ok((lines, index));
        };
        let verdict = match read {
            Ok(verdict) => verdict,
            Err(why @ Unreadable::Newer(_)) => return Err(Fault::corrupt(number, offset, &why)),
            Err(Unreadable::Damaged(_)) => Some(Verdict::Goes),
        };
        if let Some(verdict) = verdict {
            lines.push(Judged { offset, bytes, verdict });
        }
        offset += bytes;
    }
}

fn admit(index: &mut Index, offset: u64, line: &[u8]) -> Result<Option<Verdict>, Unreadable> {
    let Some(read) = wire::read(line)? else { return Ok(None) };
    // A right checksum over what is no record: a line that stays would go on stopping everybody.
    read.content.check()?;
    let (sealed, written) = (read.sealed, read.version);
    Ok(Some(match index.admit(offset, &read)? {
        Admitted::Change { version } if !sealed || written != Some(version) => {
            Verdict::Sealed(version)
        }
        _ => Verdict::Stays,
    }))
}

fn create_aside(path: &Path) -> Result<File, Fault> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Fault::io("the unreadable lines cannot be set aside", error))
}

/// Copies a line of any length, with its end if it has one.
fn pour(window: &mut Window<'_>, line: &Judged, into: &mut File) -> std::io::Result<()> {
    let (mut offset, mut left) = (line.offset, line.bytes);
    while left > 0 {
        let piece = window.piece(offset)?;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        if most == 0 {
            break;
        }
        into.write_all(&piece[..most])?;
        offset += most as u64;
        left -= most as u64;
    }
    Ok(())
}
