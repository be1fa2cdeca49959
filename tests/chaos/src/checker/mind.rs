//! What one life of a worker knew of revocations, and from when on it knew it for certain.

use std::collections::BTreeMap;

use stem_core::id::{RequestId, TaskId};
use stem_core::revoke::Version;

use crate::history::{Event, Moment, Revoked};

/// One look at a store.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) sent: Moment,
    pub(super) after: Version,
    /// Up to which version it shows everything; `None` if to the end.
    pub(super) end: Option<Version>,
    pub(super) shown: Vec<(TaskId, Version)>,
}

/// One life of a process.
#[derive(Debug, Default)]
pub(super) struct Mind {
    /// When it began.
    pub(super) boots: Option<Moment>,
    pub(super) looks: Vec<Look>,
    /// What it was told, and when.
    pub(super) told: Vec<(Moment, Revoked)>,
    /// What came by looks, and by commands. A life that has it from both takes it in twice at once, and is done with it
    /// only when both are.
    by_looks: BTreeMap<TaskId, Known>,
    by_commands: BTreeMap<TaskId, Known>,
    /// What was read and not yet taken in.
    reading: Vec<TaskId>,
    /// What commands say whose replies are not stored.
    answering: BTreeMap<RequestId, Vec<TaskId>>,
}

/// What is known of one task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) version: Version,
    pub(super) terminate: bool,
    /// When it surely had been taken in, and attempts in hand been told; `None` if that is not sure.
    since: Option<Moment>,
}

impl Mind {
    pub(super) fn take(&mut self, at: Moment, event: &Event) {
        match event {
            Event::Boots => self.boots = Some(at),
            Event::Looked { sent, after, whole, revoked } => {
                let shown: Vec<_> =
                    revoked.iter().map(|one| (one.task.clone(), one.version)).collect();
                let end = shown.last().map(|(_, version)| *version).filter(|_| !whole);
                self.looks.push(Look { sent: *sent, after: *after, end, shown });
                for one in revoked {
                    note(&mut self.by_looks, one);
                    self.reading.push(one.task.clone());
                }
            }
            // A worker that waits for the next change is done with the last.
            Event::Knows => done(&mut self.by_looks, &std::mem::take(&mut self.reading), at),
            Event::Told { request, revoked } => {
                self.told.extend(revoked.iter().map(|one| (at, one.clone())));
                for one in revoked {
                    note(&mut self.by_commands, one);
                }
                let tasks = revoked.iter().map(|one| one.task.clone()).collect();
                self.answering.insert(request.clone(), tasks);
            }
            // What is asked for is done before the reply is written.
            Event::CtlReply(request) => {
                let tasks = self.answering.remove(request).unwrap_or_default();
                done(&mut self.by_commands, &tasks, at);
            }
            _ => {}
        }
    }

    /// What it surely knew of this task, and from when on.
    pub(super) fn knew(&self, task: &TaskId) -> Option<(Known, Moment)> {
        let (looked, told) = (self.by_looks.get(task), self.by_commands.get(task));
        match (looked, told) {
            (Some(looked), Some(told)) => {
                let since = looked.since?.max(told.since?);
                Some((if looked.version > told.version { *looked } else { *told }, since))
            }
            (Some(known), None) | (None, Some(known)) => Some((*known, known.since?)),
            (None, None) => None,
        }
    }
}

fn note(into: &mut BTreeMap<TaskId, Known>, one: &Revoked) {
    if into.get(&one.task).is_none_or(|known| known.version < one.version) {
        let known = Known { version: one.version, terminate: one.terminate, since: None };
        into.insert(one.task.clone(), known);
    }
}

fn done(of: &mut BTreeMap<TaskId, Known>, tasks: &[TaskId], at: Moment) {
    for task in tasks {
        if let Some(known) = of.get_mut(task) {
            known.since.get_or_insert(at);
        }
    }
}
