//! Revoking, taking back, listing.

use std::time::Instant;

use stem_core::id::{Namespace, TaskId};
use stem_core::revoke::{Revocation, RevocationChange, RevokeRequest, Version};
use stem_core::time::Timestamp;

use crate::fault::Fault;
use crate::index::Slot;
use crate::journal::{Journal, Missing};
use crate::window::{Found, Window};
use crate::wire::{self, LAST_VERSION, LINE_BYTES, Unreadable};

impl Journal {
    pub(crate) fn revoke(
        &mut self,
        namespace: &Namespace,
        requests: &[(TaskId, RevokeRequest)],
        deadline: Instant,
    ) -> Result<Vec<Revocation>, Fault> {
        let _lock = self.write_on(deadline, Missing::Make)?;
        let now = self.clock.now();
        let first = self.next_version(namespace, now, requests.len() as u64)?;
        let mut lines = Vec::with_capacity(requests.len() * 256);
        let mut stored = Vec::with_capacity(requests.len());
        for (version, (task, request)) in (first..).zip(requests) {
            let revocation = Revocation {
                namespace: namespace.clone(),
                task_id: task.clone(),
                version: Version(version),
                issued_at: now,
                request: request.clone(),
            };
            let start = lines.len();
            wire::write_revoked(&mut lines, &revocation);
            if lines.len() - start > LINE_BYTES {
                return Err(Fault::refused(format!(
                    "not stored: the revocation of {task} is longer than {LINE_BYTES} bytes; shorten its reason"
                )));
            }
            stored.push(revocation);
        }
        self.append(&lines)?;
        Ok(stored)
    }

    pub(crate) fn undo(
        &mut self,
        namespace: &Namespace,
        task: &TaskId,
        deadline: Instant,
    ) -> Result<Option<Version>, Fault> {
        let _lock = self.write_on(deadline, Missing::Refuse)?;
        let now = self.clock.now();
        if !self.index.in_force(namespace, task, now) {
            return Ok(None);
        }
        let version = self.next_version(namespace, now, 1)?;
        let mut line = Vec::new();
        wire::write_undone(&mut line, namespace.as_str(), task, version, now);
        self.append(&line)?;
        Ok(Some(Version(version)))
    }

    /// The first of `count` versions: above all that were given out, and not below the time in microseconds. The
    /// order is that of the lock and never a clock's; the time only makes a file that was lost, emptied or restored
    /// from an older copy go on above what its readers have seen of it.
    pub(crate) fn next_version(
        &self,
        namespace: &Namespace,
        now: Timestamp,
        count: u64,
    ) -> Result<u64, Fault> {
        let first = next_version(self.index.last(namespace), now);
        if first + count > LAST_VERSION {
            return Err(Fault::refused(format!(
                "not stored: no version is left above {first}; correct the line that has it by hand"
            )));
        }
        Ok(first)
    }

    pub(crate) fn since(
        &mut self,
        namespace: &Namespace,
        after: Version,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<RevocationChange>, Fault> {
        self.read_on(deadline)?;
        let last = self.index.last(namespace);
        if after.0 > last {
            // Were this an empty answer, whoever follows would take a lost file for one in which nothing happens.
            return Err(Fault::transient(format!(
                "version {} was read from it before and now its last is {last}: an older file has taken its place; \
                 restart the workers that follow it",
                after.0
            )));
        }
        let now = self.clock.now();
        let slots = self.index.after(namespace, after.0, now).take(limit);
        let mut window = Window::new(self.file());
        let changes = slots.map(|slot| change(&mut window, namespace, slot));
        let changes: Option<Vec<_>> = changes.collect::<Result<_, _>>()?;
        changes.ok_or_else(|| {
            self.forget();
            Fault::transient("it was changed in place while it was read")
        })
    }
}

/// Also used where a mark stands for versions that are no longer known.
pub(crate) fn next_version(last: u64, now: Timestamp) -> u64 {
    // A clock that is centuries ahead must not use the versions up.
    let micros = u64::try_from(now.unix_millis()).unwrap_or(0).saturating_mul(1_000);
    (last + 1).max(micros.min(LAST_VERSION / 2))
}

/// Reads a change; `None` if its line has become another.
fn change(
    window: &mut Window<'_>,
    namespace: &Namespace,
    slot: Slot,
) -> Result<Option<RevocationChange>, Fault> {
    let fault = |error| Fault::io("it cannot be read", error);
    let read = match window.at(slot.offset()).map_err(fault)? {
        Found::Line(line) => read(line, namespace, slot),
        Found::Rest(_) | Found::Endless => return Ok(None),
    };
    match read {
        Ok(change) => Ok(change),
        Err(why) => {
            let number = window.line_number(slot.offset()).map_err(fault)?;
            Err(Fault::corrupt(number, slot.offset(), &why))
        }
    }
}

fn read(
    line: &[u8],
    namespace: &Namespace,
    slot: Slot,
) -> Result<Option<RevocationChange>, Unreadable> {
    let Some(line) = wire::read(line)? else { return Ok(None) };
    let as_numbered = !slot.numbered_by_its_line() || line.version == Some(slot.version);
    if line.namespace != namespace.as_str() || !as_numbered {
        return Ok(None);
    }
    let change = line.content.into_change(namespace, slot.version)?;
    Ok(change.filter(|change| slot.undone() == matches!(change, RevocationChange::Undone { .. })))
}
