//! The file as one process sees it: opened, read on, mended, appended to. Every method blocks.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use stem_core::time::Clock;

use crate::fault::Fault;
use crate::index::Index;
use crate::lock::Lock;
use crate::place::{self, Opened, Stamp};
use crate::window::{Found, Window};
use crate::wire::{self, Remainder, Unreadable};

/// What this process knows of the file.
#[derive(Debug)]
pub(crate) struct Journal {
    /// As it was given.
    pub(crate) path: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    /// Kept open: while it is, no other file can have its inode's number.
    pub(crate) opened: Option<Opened>,
    pub(crate) index: Index,
    /// Of the file when the index was last complete.
    pub(crate) stamp: Option<Stamp>,
    /// Whether there was a file at some time. One that is missing then is lost, and not new.
    known: bool,
    /// The name of the file that is open is known to be durable.
    named: bool,
}

/// What lies behind the last line's end.
enum Tail {
    Nothing,
    /// A record that lacks only its end.
    Whole,
    Begun(Vec<u8>),
}

impl Journal {
    pub(crate) fn new(path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            path,
            clock,
            opened: None,
            index: Index::default(),
            stamp: None,
            known: false,
            named: false,
        }
    }

    /// Reads on. Needs the lock only if something changed, so a writer that is stuck before it wrote holds up nobody
    /// who reads.
    pub(crate) fn read_on(&mut self, deadline: Instant) -> Result<(), Fault> {
        let path = place::resolve(&self.path)?;
        let Some(metadata) = place::look(&path)? else {
            if self.known {
                return Err(Fault::gone());
            }
            return self.write_on(deadline, Missing::Make).map(drop);
        };
        if self.opened.is_some() && self.stamp == Some(Stamp::of(&metadata)) {
            return Ok(());
        }
        let first = self.opened.is_none();
        let lock = Lock::for_reading(&path, deadline)?;
        let tail = self.load(&path)?;
        let locked = lock.is_some();
        drop(lock);
        let mend = match &tail {
            Tail::Nothing => false,
            Tail::Whole => true,
            // Later on it may be a person's editor that is still writing; a writer has to cut it, a reader can wait.
            Tail::Begun(_) => first,
        };
        if mend && locked {
            // To read what is whole, a reader needs no mended file.
            if let Err(fault) = self.write_on(deadline, Missing::Refuse) {
                tracing::warn!(path = %path.display(), ?fault, "the end of the revoke file is torn and cannot be mended");
            }
        }
        Ok(())
    }

    /// Takes the lock for writing, reads on, and mends the end. What is done while the lock is held starts from all
    /// that is stored.
    pub(crate) fn write_on(&mut self, deadline: Instant, missing: Missing) -> Result<Lock, Fault> {
        let path = place::resolve(&self.path)?;
        place::look(&path)?;
        let lock = Lock::for_writing(&path, deadline)?;
        if place::look(&path)?.is_none() {
            if self.known && missing == Missing::Refuse {
                return Err(Fault::gone());
            }
            if self.known {
                tracing::warn!(path = %path.display(), "the revoke file is gone; a new one is made without its records");
            }
            place::create(&path)?;
        }
        let tail = self.load(&path)?;
        self.make_writable(&path)?;
        if !self.named {
            // Whoever made the file or put it in its place may have been killed before its name was durable.
            place::sync_directory(&path)?;
            self.named = true;
        }
        self.mend(&tail)?;
        Ok(lock)
    }

    pub(crate) fn file(&self) -> &File {
        &self.opened.as_ref().expect("whoever asks has read on").file
    }

    /// Brings the index up to date. The lock should be held.
    fn load(&mut self, path: &Path) -> Result<Tail, Fault> {
        let fault = |error| Fault::io("it cannot be read", error);
        let current = Stamp::at(path).map_err(fault)?.ok_or_else(Fault::gone)?;
        // A file that another program wrote to without making it longer: any line may have changed.
        let rewritten =
            current.bytes == self.index.end && self.stamp.is_some_and(|known| known != current);
        let same = match &self.opened {
            Some(Opened { file, .. }) if !rewritten => {
                Stamp::of(&file.metadata().map_err(fault)?).same_file(current)
                    && self.index.continues_in(file).map_err(fault)?
            }
            _ => false,
        };
        self.stamp = None;
        if !same {
            self.index = Index::default();
            self.opened = Some(place::open(path)?);
            self.named = false;
        }
        self.known = true;
        let metadata = self.file().metadata().map_err(fault)?;
        if metadata.len() > self.index.end {
            // Whoever wrote this may have been killed before it was durable, and nothing may be seen that is not.
            sync(self.file()).map_err(fault)?;
        }
        let scanned = self.scan();
        if scanned.is_err() {
            // Whoever mends the file may change any line of it: the next look begins at the first.
            self.index = Index::default();
        } else {
            self.stamp = Some(Stamp::of(&metadata));
        }
        scanned
    }

    /// Takes in the lines behind those that are known.
    fn scan(&mut self) -> Result<Tail, Fault> {
        let fault = |error| Fault::io("it cannot be read", error);
        let Self { opened, index, .. } = self;
        let file = &opened.as_ref().expect("it was opened").file;
        let mut window = Window::new(file);
        let tail = loop {
            let offset = index.end;
            let corrupt =
                |why: &Unreadable, index: &Index| Fault::corrupt(index.lines + 1, offset, why);
            match window.at(offset).map_err(fault)? {
                Found::Line(line) => {
                    let admitted = wire::read(line)
                        .and_then(|read| read.map(|read| index.admit(offset, &read)).transpose());
                    admitted.map_err(|why| corrupt(&why, index))?;
                    index.end += line.len() as u64 + 1;
                    index.lines += 1;
                }
                Found::Rest(rest) => {
                    // A record that cannot be taken in must not be given its end: that would stop everybody.
                    let tail = judge(rest).and_then(|tail| {
                        let whole = matches!(tail, Tail::Whole).then(|| wire::read(rest));
                        let whole = whole.transpose()?.flatten();
                        whole.map_or(Ok(()), |read| index.admits(&read)).map(|()| tail)
                    });
                    break tail.map_err(|why| corrupt(&why, index))?;
                }
                Found::Endless => return Err(corrupt(&endless(), index)),
            }
        };
        index.close(file).map_err(fault)?;
        Ok(tail)
    }

    fn make_writable(&mut self, path: &Path) -> Result<(), Fault> {
        let fault = |error| Fault::io("it cannot be opened", error);
        place::check_writable("it", &self.file().metadata().map_err(fault)?)?;
        if self.opened.as_ref().is_some_and(|opened| !opened.writable) {
            // It may have become so since. Under the lock, so it is the same file.
            self.opened = Some(place::open(path)?);
        }
        match &self.opened {
            Some(opened) if opened.writable => Ok(()),
            _ => Err(Fault::refused("this user may not write to it; check its permissions")),
        }
    }

    /// Gives the file an end that can be appended to.
    fn mend(&mut self, tail: &Tail) -> Result<(), Fault> {
        let path = self.path.display().to_string();
        let end = self.index.end;
        let mended = match tail {
            Tail::Nothing => return Ok(()),
            Tail::Whole => {
                tracing::warn!(%path, offset = end, "the last record of the revoke file lacked its end and was completed");
                let file = self.file();
                (&*file).write_all(b"\n").and_then(|()| file.sync_data())
            }
            Tail::Begun(rest) => {
                let cut = String::from_utf8_lossy(&rest[..rest.len().min(200)]).into_owned();
                tracing::warn!(%path, offset = end, bytes = rest.len(), cut, "a write to the revoke file was cut short; its beginning was removed");
                self.file().set_len(end).and_then(|()| self.file().sync_data())
            }
        };
        mended.map_err(|error| Fault::io("its torn end cannot be mended", error))?;
        self.take_in_own()
    }

    /// Appends lines durably, all or none. The lock must be held, and the file end with a line's end.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<(), Fault> {
        let file = self.file();
        let appended = (&*file).write_all(lines).and_then(|()| file.sync_data());
        if let Err(error) = appended {
            // What was written of it must not be taken for stored, by nobody and at no time.
            let cut = file.set_len(self.index.end).and_then(|()| file.sync_data());
            if let Err(error) = &cut {
                tracing::error!(path = %self.path.display(), %error, "a write to the revoke file failed and could not be taken back; part of it may come into force");
            }
            if cut.is_ok() {
                self.stamp_own();
            }
            return Err(Fault::not_stored(error));
        }
        self.take_in_own()
    }

    fn take_in_own(&mut self) -> Result<(), Fault> {
        self.scan()?;
        self.stamp_own();
        Ok(())
    }

    /// What this process did to the file is no news to it.
    fn stamp_own(&mut self) {
        self.stamp = self.file().metadata().ok().map(|metadata| Stamp::of(&metadata));
    }

    /// Forgets the file's content, so that the next call reads all of it.
    pub(crate) fn forget(&mut self) {
        self.opened = None;
        self.stamp = None;
        self.index = Index::default();
    }
}

/// What a writer does when there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Makes one.
    Make,
    /// Makes one, unless there was one before.
    Refuse,
}

pub(crate) fn endless() -> Unreadable {
    Unreadable::Damaged(format!("it has more than {} bytes", wire::LINE_BYTES))
}

/// A rest of zeros is damage too: the file systems of today leave none after a crash, a failing disk does.
fn judge(rest: &[u8]) -> Result<Tail, Unreadable> {
    if rest.is_empty() {
        return Ok(Tail::Nothing);
    }
    Ok(match wire::judge(rest)? {
        Remainder::Whole => Tail::Whole,
        Remainder::Begun => Tail::Begun(rest.to_vec()),
    })
}

/// Also by those who may only read; where nothing can be written, everything is durable.
fn sync(file: &File) -> io::Result<()> {
    match file.sync_data() {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ReadOnlyFilesystem | ErrorKind::InvalidInput | ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}
