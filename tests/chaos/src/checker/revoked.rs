//! Rules about revocations.

use std::collections::BTreeMap;

use stem_core::id::TaskId;
use stem_core::revoke::Version;
use stem_core::task::TaskState;

use super::run::{Attempt, Task};
use super::{Checker, Violation};
use crate::history::{Moment, Move};

impl Checker<'_> {
    /// What processes did with a task that was revoked.
    pub(super) fn revocation(&mut self, id: &TaskId, task: &Task, state: Option<TaskState>) {
        if state == Some(TaskState::Revoked) {
            self.verdict.counts.ended_revoked += 1;
            self.verdict.counts.terminated += usize::from(task.starts() > 0);
            if !task.revoked {
                self.verdict.violations.push(Violation::RevokedUnasked(id.clone()));
            }
        }
        if !task.revoked {
            return;
        }
        let run = self.run;
        let stored = run.acknowledged.iter().filter(|(_, revoked)| revoked.task == *id);
        let first = stored.min_by_key(|(at, _)| *at);
        for attempt in &task.attempts {
            let mind = &run.minds[attempt.process];
            if let Some((known, since)) = mind.knew(id) {
                let delivered = attempt.leased.iter().min();
                // What is delivered after this is looked up after this.
                if !attempt.started.is_empty() && delivered.is_some_and(|at| *at > since) {
                    let violation =
                        Violation::StartedThoughKnown(id.clone(), attempt.token, known.version);
                    self.verdict.violations.push(violation);
                }
                if known.terminate
                    && attempt.ended.is_some_and(|ended| ended > since)
                    && ended_by_itself(task, attempt)
                {
                    let violation =
                        Violation::OutlivedTermination(id.clone(), attempt.token, known.version);
                    self.verdict.violations.push(violation);
                }
            }
            if let (Some((stored, revoked)), Some(boots)) = (first, mind.boots)
                && *stored < boots
                && !attempt.started.is_empty()
            {
                let (token, version) = (attempt.token, revoked.version);
                let violation = Violation::StartedThoughStored(id.clone(), token, version);
                self.found(violation, &[*stored]);
            }
        }
    }

    /// What a store has acknowledged it shows: to whoever asks afterwards, and to whoever has read beyond it.
    pub(super) fn looks(&mut self) {
        let run = self.run;
        let mut missed: BTreeMap<(TaskId, Version), Moment> = BTreeMap::new();
        for mind in &run.minds {
            let mut shown: BTreeMap<&TaskId, Version> = BTreeMap::new();
            for look in &mind.looks {
                for (task, version) in &look.shown {
                    let newest = shown.entry(task).or_default();
                    *newest = (*newest).max(*version);
                }
                for (at, revoked) in &run.acknowledged {
                    let passed = revoked.version <= look.after;
                    let covered =
                        *at < look.sent && look.end.is_none_or(|end| revoked.version <= end);
                    let seen = shown.get(&revoked.task).is_some_and(|it| *it >= revoked.version);
                    if (passed || covered) && !seen {
                        missed.insert((revoked.task.clone(), revoked.version), *at);
                    }
                }
            }
        }
        for ((task, version), at) in missed {
            self.found(Violation::RevocationMissed(task, version), &[at]);
        }
    }

    /// Nobody is told what is not stored.
    pub(super) fn tellings(&mut self) {
        let run = self.run;
        let stored: BTreeMap<_, Moment> = run
            .acknowledged
            .iter()
            .map(|(at, revoked)| ((&revoked.task, revoked.version), *at))
            .collect();
        let mut unstored: Vec<_> = run
            .minds
            .iter()
            .flat_map(|mind| &mind.told)
            .filter(|(at, told)| stored.get(&(&told.task, told.version)).is_none_or(|it| it > at))
            .map(|(_, told)| (told.task.clone(), told.version))
            .collect();
        unstored.sort();
        unstored.dedup();
        let found =
            unstored.into_iter().map(|(task, version)| Violation::ToldUnstored(task, version));
        self.verdict.violations.extend(found);
    }
}

/// Whether a settlement of this attempt was accepted that says what its handler came to.
fn ended_by_itself(task: &Task, attempt: &Attempt) -> bool {
    task.settled.iter().chain(&task.recorded).any(|accepted| {
        let own = (accepted.process, accepted.settle.token) == (attempt.process, attempt.token);
        own && matches!(accepted.settle.by, Move::Succeed | Move::Fail | Move::Retry)
    })
}
