//! [`check`]: what must hold of every run, whatever was killed in it. A plain function of histories and records.
//!
//! | rule | finds |
//! |---|---|
//! | conservation | a task that was acknowledged and has no final record, or one that says something else than was accepted; a record of a task that nobody enqueued |
//! | single winner | a task with two accepted final settlements, or that started after one |
//! | one lease, one start | two starts of a task although the earlier one's lease was not over |
//! | fencing | an accepted settlement with a token that is not the newest |
//! | liveness | a run that does not come to its end within the bound after the last fault |
//!
//! What is found is there: where a history leaves open in which order a store did two things, the rules take the order
//! that is legal. The other way round a defect may slip through one run; it does not slip through many.

mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use stem_core::id::{LeaseToken, TaskId};
use stem_core::task::TaskState;

use crate::history::{Answered, History, Moment};
use run::{Accepted, Attempt, Run, Task};

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
}

impl Rules {
    /// Of a server that forgets nothing; 30 seconds to drain.
    pub const STRICT: Self = Self { drain: Duration::from_secs(30), forgets: None };
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

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged, and there is no record.
    Lost(TaskId),
    /// There is a record, and it is not final.
    Unfinished(TaskId, TaskState),
    /// A record of a task that nobody enqueued.
    Unexpected(TaskId),
    /// The record says something else than the settlement that was accepted.
    Differs(TaskId, TaskState),
    /// More than one final settlement was accepted, by these tokens.
    TwoWinners(TaskId, Vec<LeaseToken>),
    /// It started, under the second token, after the settlement by the first had made it final.
    StartedAfterEnd(TaskId, LeaseToken, LeaseToken),
    /// The first lease had not ended and was not given up when the task started under the second.
    StartedTwice(TaskId, LeaseToken, LeaseToken),
    /// A handler ran without a lease.
    StartedWithoutLease(TaskId, LeaseToken),
    /// A settlement by the first token was accepted although the second is newer.
    StaleAccepted(TaskId, LeaseToken, LeaseToken),
    /// Deliveries are left in the queues of a run that is over.
    Left(u64),
    /// It took so long.
    Late(Duration),
    /// It never came to its end.
    NeverDrained,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(task) => write!(f, "lost: {task} was acknowledged and has no record"),
            Self::Unfinished(task, state) => write!(f, "unfinished: {task} is still {state}"),
            Self::Unexpected(task) => write!(f, "unexpected: nobody enqueued {task}"),
            Self::Differs(task, state) => {
                write!(f, "differs: {task} is {state}, and another end was accepted")
            }
            Self::TwoWinners(task, tokens) => {
                let tokens: Vec<_> = tokens.iter().map(ToString::to_string).collect();
                write!(f, "two winners: {task} was ended by tokens {}", tokens.join(", "))
            }
            Self::StartedAfterEnd(task, end, start) => {
                write!(f, "started after its end: {task}, ended by token {end}, started by {start}")
            }
            Self::StartedTwice(task, earlier, later) => write!(
                f,
                "started twice: {task} by token {later} while token {earlier} had its lease"
            ),
            Self::StartedWithoutLease(task, token) => {
                write!(f, "started without a lease: {task} by token {token}")
            }
            Self::StaleAccepted(task, stale, newer) => {
                write!(f, "stale accepted: {task} by token {stale} while {newer} is newer")
            }
            Self::Left(deliveries) => write!(f, "{deliveries} deliveries are left in queues"),
            Self::Late(took) => {
                write!(f, "late: all were final only {took:?} after the last fault")
            }
            Self::NeverDrained => write!(f, "the run never came to its end"),
        }
    }
}

/// Figures of a run, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Tasks that a producer tried to enqueue.
    pub enqueued: usize,
    /// Of these, those that were acknowledged.
    pub acknowledged: usize,
    /// Handlers that ran.
    pub starts: usize,
    /// Of these, those of a task that had started before.
    pub duplicates: usize,
    /// Settlements and renewals that were refused since their token was stale.
    pub refused: usize,
    /// What a killed server forgot, within [`Rules::forgets`].
    pub forgotten: usize,
    /// Faults, kills and freezes.
    pub faults: usize,
    /// From the last fault, or the last enqueue after it, until all was final.
    pub drained_after: Option<Duration>,
    /// What must not be.
    pub violations: Vec<Violation>,
}

impl Verdict {
    fn count(&self, meant: impl Fn(&Violation) -> bool) -> usize {
        self.violations.iter().filter(|violation| meant(violation)).count()
    }

    /// Acknowledged tasks without a final record.
    pub fn lost(&self) -> usize {
        self.count(|found| matches!(found, Violation::Lost(_) | Violation::Unfinished(..)))
    }

    /// Tasks that ended twice.
    pub fn double_terminal(&self) -> usize {
        self.count(|found| matches!(found, Violation::TwoWinners(..)))
    }

    /// Settlements by a stale token that were accepted.
    pub fn stale_accepted(&self) -> usize {
        self.count(|found| matches!(found, Violation::StaleAccepted(..)))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "enqueued {}, acknowledged {}, starts {}, duplicates {}, lost {}, double-terminal {}, stale accepted {}, \
             stale refused {}, forgotten by a killed server {}, faults {}, drained after ",
            self.enqueued,
            self.acknowledged,
            self.starts,
            self.duplicates,
            self.lost(),
            self.double_terminal(),
            self.stale_accepted(),
            self.refused,
            self.forgotten,
            self.faults,
        )?;
        match self.drained_after {
            Some(took) => write!(f, "{took:.1?}")?,
            None => write!(f, "never")?,
        }
        for violation in self.violations.iter().take(20) {
            write!(f, "\n  {violation}")?;
        }
        match self.violations.len().checked_sub(20) {
            Some(more) if more > 0 => write!(f, "\n  and {more} more"),
            _ => Ok(()),
        }
    }
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
        checker.verdict.enqueued += usize::from(task.tried > 0);
        checker.verdict.acknowledged += usize::from(task.acknowledged.is_some());
        checker.verdict.starts += task.starts();
        checker.verdict.duplicates += task.starts().saturating_sub(1);
    }
    for id in stored.records.keys() {
        if run.tasks.get(id).is_none_or(|task| task.tried == 0) {
            checker.verdict.violations.push(Violation::Unexpected(id.clone()));
        }
    }
    checker.liveness(stored);
    checker.verdict.refused = run.refused;
    checker.verdict.faults = run.faults;
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
        kills.any(|kill| at <= kill.at && kill.last_answer <= at.after(window))
    }

    /// Notes a violation, or counts it where a killed server explains it by what it forgot.
    fn found(&mut self, violation: Violation, forgettable: &[Moment]) {
        if forgettable.iter().any(|at| self.may_be_forgotten(*at)) {
            self.verdict.forgotten += 1;
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
            Some(state) if !state.is_final() => {
                self.verdict.violations.push(Violation::Unfinished(id.clone(), state));
            }
            Some(state) => {
                let ends: Vec<&Accepted> = task.ends().collect();
                let differs = ends.iter().all(|end| end.settle.by.state() != Some(state));
                if !ends.is_empty() && differs {
                    let times: Vec<Moment> = ends.iter().map(|end| end.at).collect();
                    self.found(Violation::Differs(id.clone(), state), &times);
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
                ends.sort_by_key(|end| (end.process, end.settle.token, end.at));
                ends.dedup_by_key(|end| (end.process, end.settle.token));
            }
            ends.sort_by_key(|end| end.at);
            // All but the last may have been forgotten.
            if let Some((_, earlier)) = ends.split_last()
                && let Some(kept) = earlier.iter().find(|end| !self.may_be_forgotten(end.at))
            {
                let tokens = ends.iter().map(|end| end.settle.token).collect();
                self.found(Violation::TwoWinners(id.clone(), tokens), &[kept.at]);
            } else {
                self.verdict.forgotten += ends.len().saturating_sub(1);
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
