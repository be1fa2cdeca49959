//! Reads lines of a file by their place, in large pieces, without moving the file's own position.

use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::fs::FileExt;

use crate::wire::LINE_BYTES;

/// Read at once; more than the longest line.
const WINDOW_BYTES: usize = 256 * 1024;

/// What begins at a place of the file.
pub(crate) enum Found<'a> {
    /// A line, without its end.
    Line(&'a [u8]),
    /// What is left behind the last line's end; empty at the end of the file.
    Rest(&'a [u8]),
    /// More than a line may have.
    Endless,
}

/// A part of the file in memory.
pub(crate) struct Window<'f> {
    file: &'f File,
    bytes: Box<[u8]>,
    begins: u64,
    filled: usize,
}

impl<'f> Window<'f> {
    pub(crate) fn new(file: &'f File) -> Self {
        Self { file, bytes: vec![0; WINDOW_BYTES].into(), begins: 0, filled: 0 }
    }

    /// What begins at `offset`.
    pub(crate) fn at(&mut self, offset: u64) -> io::Result<Found<'_>> {
        if let Some(range) = self.line_in_memory(offset)? {
            return Ok(Found::Line(&self.bytes[range]));
        }
        self.fill(offset)?;
        match self.line_in_memory(offset)? {
            Some(range) => Ok(Found::Line(&self.bytes[range])),
            None if self.filled > LINE_BYTES => Ok(Found::Endless),
            None => Ok(Found::Rest(&self.bytes[..self.filled])),
        }
    }

    /// Where the line behind the one that begins at `offset` begins, however long that is; `None` if it does not end.
    pub(crate) fn behind(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        loop {
            self.fill(offset)?;
            if self.filled == 0 {
                return Ok(None);
            }
            let piece = &self.bytes[..self.filled];
            let found = (&*piece).skip_until(b'\n')?;
            offset += found as u64;
            if piece[found - 1] == b'\n' {
                return Ok(Some(offset));
            }
        }
    }

    /// As much as is read at once, from `offset`; empty at the end of the file.
    pub(crate) fn piece(&mut self, offset: u64) -> io::Result<&[u8]> {
        self.fill(offset)?;
        Ok(&self.bytes[..self.filled])
    }

    /// The number of the line that begins at `offset`, for messages.
    pub(crate) fn line_number(&mut self, offset: u64) -> io::Result<u64> {
        let (mut number, mut place) = (1, 0);
        while place < offset {
            match self.at(place)? {
                Found::Line(line) => place += line.len() as u64 + 1,
                Found::Rest(_) => break,
                Found::Endless => match self.behind(place)? {
                    Some(next) => place = next,
                    None => break,
                },
            }
            number += 1;
        }
        Ok(number)
    }

    fn line_in_memory(&self, offset: u64) -> io::Result<Option<std::ops::Range<usize>>> {
        let start = offset.checked_sub(self.begins).and_then(|start| usize::try_from(start).ok());
        let Some(start) = start.filter(|start| *start < self.filled) else { return Ok(None) };
        // The standard library's search for a byte is fast, and has no other door.
        let length = (&self.bytes[start..self.filled]).skip_until(b'\n')?;
        let ends = self.bytes[start + length - 1] == b'\n' && length <= LINE_BYTES + 1;
        Ok(ends.then(|| start..start + length - 1))
    }

    fn fill(&mut self, offset: u64) -> io::Result<()> {
        self.begins = offset;
        self.filled = 0;
        while self.filled < self.bytes.len() {
            let at = offset + self.filled as u64;
            match self.file.read_at(&mut self.bytes[self.filled..], at) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
