//! Compaction: a new file without what has expired and what another line rules out takes the place of the old.

use std::time::Instant;

use stem_core::id::Namespace;

use crate::fault::Fault;
use crate::index::Slot;
use crate::journal::{Journal, Missing};
use crate::place::{self, Replacement};
use crate::window::{Found, Window};
use crate::wire;

/// A file up to this is rewritten for any line that it can lose: it takes milliseconds.
const SMALL: u64 = 1024 * 1024;
/// A larger one only when this part of its lines can go, so that what is rewritten over time stays in proportion to
/// what is appended.
const WORTH_IT: u64 = 4;

impl Journal {
    /// Answers how many changes of the namespace were dropped; 0 when it was not worth it.
    pub(crate) fn prune(&mut self, namespace: &Namespace, deadline: Instant) -> Result<u64, Fault> {
        let _lock = self.write_on(deadline, Missing::Refuse)?;
        let now = self.clock.now();
        let forgettable = self.index.forgettable(namespace, now);
        let garbage = forgettable + self.index.dead();
        let small = self.index.end < SMALL;
        if garbage == 0 || !small && garbage < self.index.lines / WORTH_IT {
            return Ok(0);
        }
        let path = place::resolve(&self.path)?;
        let file = self.file();
        let metadata = file.metadata().map_err(|error| Fault::io("it cannot be read", error))?;
        let mut replacement = Replacement::begin(&path, &metadata)?;
        let (kept, marks) = self.index.without_forgettable(namespace, now);
        let (mut window, mut out) = (Window::new(file), Vec::new());
        for slot in kept {
            copy(&mut window, slot, &mut out)?;
            replacement.write(&out)?;
            out.clear();
        }
        // Behind all changes: what has a version below a mark is numbered by its place.
        for (namespace, last) in marks {
            wire::write_mark(&mut out, namespace, last);
        }
        replacement.write(&out)?;
        replacement.place()?;
        self.forget();
        Ok(forgettable)
    }
}

/// As it is if a store wrote it; else sealed, under the version that it has by its place.
fn copy(window: &mut Window<'_>, slot: Slot, out: &mut Vec<u8>) -> Result<(), Fault> {
    let fault = |error| Fault::io("it cannot be read", error);
    let offset = slot.offset();
    let copied = match window.at(offset).map_err(fault)? {
        Found::Line(bytes) => wire::read(bytes).and_then(|read| match read {
            Some(line) if line.sealed && line.version == Some(slot.version) => {
                out.extend_from_slice(bytes);
                out.push(b'\n');
                Ok(true)
            }
            Some(line) => wire::write_again(out, line, slot.version).map(|()| true),
            None => Ok(false),
        }),
        Found::Rest(_) | Found::Endless => Ok(false),
    };
    match copied {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fault::transient("it was changed in place while it was read")),
        Err(why) => {
            let number = window.line_number(offset).map_err(fault)?;
            Err(Fault::corrupt(number, offset, &why))
        }
    }
}
