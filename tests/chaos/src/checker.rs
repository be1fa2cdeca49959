//! [`check`]: what must hold of every run, whatever was killed in it. A plain function of histories and records.
//!
//! | rule | finds |
//! |---|---|
//! | conservation | a task that was acknowledged and has no final record, or one that says something else than was accepted; one that failed or expired, though no handler fails, or succeeded and never started; a record of a task that nobody enqueued |
//! | single winner | a task with two accepted final settlements, or that started after one |
//! | one lease, one start | two starts of a task although the earlier one's lease was not over |
//! | fencing | an accepted settlement or checkpoint with a token that is not the newest; children or a written value of an attempt whose lease was over when it asked |
//! | revocation honoured | a start of a task that its process knew, or had to know, to be revoked; another end of one that was to be terminated; an end as revoked that nobody asked for; a look at the store that misses what was acknowledged |
//! | store before broadcast | workers that are told of a revocation which the store has not acknowledged |
//! | liveness | a run that does not come to its end within the bound after the last fault |
//!
//! What is found is there: where a history leaves open in which order a store did two things, the rules take the order
//! that is legal. The other way round a defect may slip through one run; it does not slip through many. No rule but the
//! last asks how long anything took.

mod mind;
mod revoked;
mod run;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use stem_core::id::TaskId;
use stem_core::task::TaskState;

use crate::history::{Answered, History, Moment};
use run::{Accepted, Attempt, Run, Task};

pub use verdict::{Counts, Verdict, Violation};

/// Deadlines are kept in milliseconds, so one may have passed this much before it seems to have.
const SLACK: Duration = Duration::from_millis(5);

/// What differs between runs.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// From the last fault, or the last task that was enqueued after it, until all are final.
    pub drain: Duration,
    /// A server that is killed may forget what it acknowledged so shortly before its last answer: Redis with `appendfsync
    /// everysec` holds writes back for up to two seconds while it waits for the disk; after that it answers nobody until
    /// they are written, however long that takes. Such losses are counted apart.
    pub forgets: Option<Duration>,
    /// Records are in another service than deliveries. Then a task that was not acknowledged may have a record and no
    /// delivery, and what is newest among tokens is what the record was told.
    pub apart: bool,
}

impl Rules {
    /// Of a server that forgets nothing; 30 seconds to drain.
    pub const STRICT: Self = Self { drain: Duration::from_secs(30), forgets: None, apart: false };
}

/// What the stores hold at the end of a run.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// The state of every task.
    pub records: BTreeMap<TaskId, TaskState>,
    /// Deliveries that are still in queues.
    pub deliveries: u64,
    /// When it was first seen that nothing was left to do; `None` if it never was.
    pub drained: Option<Moment>,
}

/// Holds a run against the rules.
pub fn check(histories: &[History], stored: &Stored, rules: Rules) -> Verdict {
    let run = Run::of(histories);
    let mut checker = Checker { run: &run, rules, verdict: Verdict::default() };
    for (id, task) in &run.tasks {
        checker.conservation(id, task, stored.records.get(id).copied());
        checker.single_winner(id, task);
        checker.one_lease_one_start(id, task);
        checker.fencing(id, task);
        checker.effects(id, task);
        checker.revocation(id, task, stored.records.get(id).copied());
        let counts = &mut checker.verdict.counts;
        counts.enqueued += usize::from(task.tried > 0);
        counts.acknowledged += usize::from(task.acknowledged.is_some());
        counts.starts += task.starts();
        counts.duplicates += task.starts().saturating_sub(1);
        counts.effects += task.effects();
    }
    for id in stored.records.keys() {
        if run.tasks.get(id).is_none_or(|task| task.tried == 0) {
            checker.verdict.violations.push(Violation::Unexpected(id.clone()));
        }
    }
    checker.looks();
    checker.tellings();
    checker.liveness(stored);
    checker.verdict.counts.refused = run.refused;
    checker.verdict.counts.declined = run.declined;
    checker.verdict.counts.revoked = run.acknowledged.len();
    checker.verdict.faults.clone_from(&run.faults);
    checker.verdict
}

struct Checker<'a> {
    run: &'a Run,
    rules: Rules,
    verdict: Verdict,
}

impl Checker<'_> {
    /// Whether a server that was killed may have forgotten what it did then.
    fn may_be_forgotten(&self, at: Moment) -> bool {
        let Some(window) = self.rules.forgets else { return false };
        let mut kills = self.run.server_kills.iter();
        kills.any(|kill| at <= kill.back && kill.last_answer <= at.after(window))
    }

    /// Notes a violation, or counts it where a killed server explains it by what it forgot.
    fn found(&mut self, violation: Violation, forgettable: &[Moment]) {
        if forgettable.iter().any(|at| self.may_be_forgotten(*at)) {
            self.verdict.counts.forgotten += 1;
        } else {
            self.verdict.violations.push(violation);
        }
    }

    fn conservation(&mut self, id: &TaskId, task: &Task, state: Option<TaskState>) {
        match state {
            None => {
                if let Some(at) = task.acknowledged {
                    self.found(Violation::Lost(id.clone()), &[at]);
                }
            }
            // Between its two writes somebody was killed.
            Some(TaskState::Queued) if self.rules.apart && task.is_unborn() => {}
            Some(state) if !state.is_final() => {
                self.verdict.violations.push(Violation::Unfinished(id.clone(), state));
            }
            Some(state) => {
                let ends: Vec<&Accepted> = task.ends().collect();
                let differs = ends.iter().all(|end| end.settle.by.state() != Some(state));
                if !ends.is_empty() && differs {
                    let times: Vec<Moment> = ends.iter().map(|end| end.at).collect();
                    self.found(Violation::Differs(id.clone(), state), &times);
                } else if matches!(state, TaskState::Failed | TaskState::Expired) {
                    // No handler fails by itself, and none has a time after which it is not wanted.
                    self.verdict.violations.push(Violation::EndedBadly(id.clone(), state));
                } else if state == TaskState::Succeeded && task.starts() + task.effects() == 0 {
                    // A start is written down before the handler does anything; of guests it is what they do.
                    self.verdict.violations.push(Violation::NeverRan(id.clone()));
                }
            }
        }
    }

    fn single_winner(&mut self, id: &TaskId, task: &Task) {
        for (layer, may_repeat) in [(&task.settled, false), (&task.recorded, true)] {
            let mut ends: Vec<&Accepted> =
                layer.iter().filter(|end| end.settle.by.state().is_some()).collect();
            if may_repeat {
                // Recording the same again is accepted, and says the same.
                ends.sort_by_key(|end| (end.process, end.settle.token, end.settle.by, end.at));
                ends.dedup_by_key(|end| (end.process, end.settle.token, end.settle.by));
            }
            ends.sort_by_key(|end| end.at);
            // All but the last may have been forgotten.
            if let Some((_, earlier)) = ends.split_last()
                && let Some(kept) = earlier.iter().find(|end| !self.may_be_forgotten(end.at))
            {
                let tokens = ends.iter().map(|end| end.settle.token).collect();
                self.found(Violation::TwoWinners(id.clone(), tokens), &[kept.at]);
            } else {
                self.verdict.counts.forgotten += ends.len().saturating_sub(1);
            }
        }
        for end in task.ends() {
            let after = task.attempts.iter().find(|attempt| {
                let same = (attempt.process, attempt.token) == (end.process, end.settle.token);
                !same && attempt.started.iter().any(|start| *start > end.at)
            });
            if let Some(after) = after {
                let violation =
                    Violation::StartedAfterEnd(id.clone(), end.settle.token, after.token);
                self.found(violation, &[end.at]);
            }
        }
    }

    fn one_lease_one_start(&mut self, id: &TaskId, task: &Task) {
        let mut starts: Vec<(Moment, &Attempt)> = Vec::new();
        for attempt in &task.attempts {
            if attempt.until.is_none() && !attempt.started.is_empty() {
                let violation = Violation::StartedWithoutLease(id.clone(), attempt.token);
                self.verdict.violations.push(violation);
            }
            starts.extend(attempt.started.iter().map(|start| (*start, attempt)));
        }
        starts.sort_by_key(|(start, _)| *start);
        for (index, (_, earlier)) in starts.iter().enumerate() {
            for (start, later) in &starts[index + 1..] {
                let given_back = earlier.given_back.is_some_and(|at| at <= *start);
                let over = earlier.until.is_none_or(|until| until <= start.after(SLACK));
                let same = std::ptr::eq(*earlier, *later);
                if same || !(given_back || over) {
                    let violation = Violation::StartedTwice(id.clone(), earlier.token, later.token);
                    self.found(violation, &earlier.leased);
                }
            }
        }
    }

    fn fencing(&mut self, id: &TaskId, task: &Task) {
        // A broker that keeps no records forgets a task that is final. Enqueued again, because the acknowledgement was
        // lost, it begins with the first token once more, and its delivery is discarded.
        let anew = !task.recorded.is_empty() && task.tried > 1;
        for accepted in &task.settled {
            let Answered { token, sent, by, .. } = accepted.settle;
            if anew && by.state().is_none() {
                continue;
            }
            let is_last = task.recorded.is_empty() && !by.gives_back();
            let newer = task.attempts.iter().find(|other| {
                let is_newer = other.token > token
                    || (other.token == token && other.process != accepted.process && !anew);
                // After a settlement that ends the delivery there is no other, at any time.
                is_newer && other.leased.iter().any(|leased| is_last || *leased < sent)
            });
            if let Some(newer) = newer {
                let violation = Violation::StaleAccepted(id.clone(), token, newer.token);
                let mut forgettable = newer.leased.clone();
                forgettable.push(accepted.at);
                self.found(violation, &forgettable);
            }
        }
        for accepted in &task.recorded {
            let Answered { token, sent, .. } = accepted.settle;
            let newer = task
                .attempts
                .iter()
                .find(|other| other.token > token && other.begun.is_some_and(|begun| begun < sent));
            if let Some(newer) = newer {
                let violation = Violation::StaleAccepted(id.clone(), token, newer.token);
                let begun = newer.begun.unwrap_or_default();
                self.found(violation, &[begun, accepted.at]);
            }
        }
    }

    fn effects(&mut self, id: &TaskId, task: &Task) {
        for attempt in &task.attempts {
            for (sent, at) in &attempt.checkpoints {
                let newer = task.attempts.iter().find(|other| {
                    let known = if self.rules.apart {
                        other.begun.is_some_and(|begun| begun < *sent)
                    } else {
                        other.leased.iter().any(|leased| leased < sent)
                    };
                    other.token > attempt.token && known
                });
                if let Some(newer) = newer {
                    let violation =
                        Violation::StaleCheckpoint(id.clone(), attempt.token, newer.token);
                    let mut forgettable = newer.leased.clone();
                    forgettable.extend(newer.begun);
                    forgettable.push(*at);
                    self.found(violation, &forgettable);
                }
            }
            // Who asks when the lease is over is refused, whatever happens between asking and doing.
            let late =
                |asked: &Moment| attempt.until.is_none_or(|until| until.after(SLACK) < *asked);
            if attempt.children.iter().any(late) {
                let violation = Violation::StaleChildren(id.clone(), attempt.token);
                self.verdict.violations.push(violation);
            }
            // No store asks whose a value is: what holds is the worker's word for when it was asked.
            if attempt.writes.iter().any(late) {
                let violation = Violation::StaleWrite(id.clone(), attempt.token);
                self.verdict.violations.push(violation);
            }
        }
    }

    fn liveness(&mut self, stored: &Stored) {
        if stored.deliveries > 0 {
            self.verdict.violations.push(Violation::Left(stored.deliveries));
        }
        let Some(drained) = stored.drained else {
            self.verdict.violations.push(Violation::NeverDrained);
            return;
        };
        let enqueued = self.run.tasks.values().filter_map(|task| task.acknowledged).max();
        let took = drained.since(self.run.last_fault.max(enqueued.unwrap_or_default()));
        self.verdict.drained_after = Some(took);
        if took > self.rules.drain {
            self.verdict.violations.push(Violation::Late(took));
        }
    }
}
