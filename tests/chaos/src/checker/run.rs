//! Histories by task: what the rules look at.

use std::collections::BTreeMap;
use std::time::Duration;

use stem_core::id::{LeaseToken, TaskId};

use super::mind::Mind;
use crate::history::{Answered, Event, Held, History, Line, Moment, Revoked, SERVER_KILLED};

/// A whole run.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) server_kills: Vec<Kill>,
    /// When the last one was over.
    pub(super) last_fault: Moment,
    /// Which process was frozen, from when to when.
    frozen: Vec<(String, Moment, Moment)>,
    /// By kind.
    pub(super) faults: BTreeMap<String, usize>,
    pub(super) refused: usize,
    /// Calls that services refused as a whole.
    pub(super) declined: usize,
    /// What each life of a process knew of revocations, by its place among the histories.
    pub(super) minds: Vec<Mind>,
    /// The revocations that a store acknowledged, and when the operator had the answer.
    pub(super) acknowledged: Vec<(Moment, Revoked)>,
}

/// Starts that a process had decided on when it was frozen, at most: one for each of its threads.
const DECIDED: usize = 2;
/// After it goes on, it writes them down so soon.
const AT_ONCE: Duration = Duration::from_millis(50);

/// A server that was killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kill {
    /// When it was about to be killed.
    pub(super) at: Moment,
    /// When it had begun anew. What it answered just before it died may be noted only after `at`.
    pub(super) back: Moment,
    /// When anybody last had an answer before, from any server.
    pub(super) last_answer: Moment,
}

/// One task.
#[derive(Debug, Default)]
pub(super) struct Task {
    /// How often a producer tried.
    pub(super) tried: usize,
    /// First.
    pub(super) acknowledged: Option<Moment>,
    /// Somebody tried to revoke it.
    pub(super) revoked: bool,
    pub(super) attempts: Vec<Attempt>,
    /// By the broker.
    pub(super) settled: Vec<Accepted>,
    /// By a result backend that is another service.
    pub(super) recorded: Vec<Accepted>,
}

/// What one life of a worker did under one token.
#[derive(Debug)]
pub(super) struct Attempt {
    /// By its place among the histories.
    pub(super) process: usize,
    pub(super) token: LeaseToken,
    /// When it was delivered, and when the lease was renewed.
    pub(super) leased: Vec<Moment>,
    /// When the lease ended; `None` if there was none.
    pub(super) until: Option<Moment>,
    pub(super) begun: Option<Moment>,
    pub(super) started: Vec<Moment>,
    /// When the last of its handlers was gone.
    pub(super) ended: Option<Moment>,
    /// When it first tried to give the task back.
    pub(super) given_back: Option<Moment>,
    /// When calls that stored a checkpoint began, and when they were answered.
    pub(super) checkpoints: Vec<(Moment, Moment)>,
    /// When a handler last said that it wants children, until it has them.
    wants: Option<Moment>,
    /// When handlers asked for children that they were given.
    pub(super) children: Vec<Moment>,
    /// When its guest was last seen before it asked to write a value.
    wants_write: Option<Moment>,
    /// When it was last seen before it asked for a write that was made.
    pub(super) writes: Vec<Moment>,
}

/// A settlement that was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) process: usize,
    /// When the answer came.
    pub(super) at: Moment,
    pub(super) settle: Answered,
}

impl Task {
    pub(super) fn starts(&self) -> usize {
        self.attempts.iter().map(|attempt| attempt.started.len()).sum()
    }

    /// Checkpoints that were stored, calls that enqueued children, and values that were written.
    pub(super) fn effects(&self) -> usize {
        let of = |one: &Attempt| one.checkpoints.len() + one.children.len() + one.writes.len();
        self.attempts.iter().map(of).sum()
    }

    /// Never acknowledged, and never delivered.
    pub(super) fn is_unborn(&self) -> bool {
        self.acknowledged.is_none() && self.attempts.is_empty()
    }

    /// Settlements that made it final, where the record is.
    pub(super) fn ends(&self) -> impl Iterator<Item = &Accepted> {
        let layer = if self.recorded.is_empty() { &self.settled } else { &self.recorded };
        layer.iter().filter(|accepted| accepted.settle.by.state().is_some())
    }

    fn attempt(&mut self, process: usize, token: LeaseToken) -> &mut Attempt {
        let known = |attempt: &Attempt| (attempt.process, attempt.token) == (process, token);
        let index = self.attempts.iter().position(known).unwrap_or_else(|| {
            self.attempts.push(Attempt {
                process,
                token,
                leased: Vec::new(),
                until: None,
                begun: None,
                started: Vec::new(),
                ended: None,
                given_back: None,
                checkpoints: Vec::new(),
                wants: None,
                children: Vec::new(),
                wants_write: None,
                writes: Vec::new(),
            });
            self.attempts.len() - 1
        });
        &mut self.attempts[index]
    }
}

impl Run {
    pub(super) fn of(histories: &[History]) -> Self {
        let mut run = Self::default();
        run.minds.resize_with(histories.len(), Mind::default);
        let mut answers = Vec::new();
        for (process, history) in histories.iter().enumerate() {
            for Line(at, _, event) in &history.lines {
                run.take(process, *at, event);
                answers.extend(is_answer(event).then_some(*at));
            }
        }
        for (name, from, to) in std::mem::take(&mut run.frozen) {
            if let Some(process) = histories.iter().position(|history| history.process == name) {
                run.thaw(process, from, to);
            }
        }
        answers.sort_unstable();
        for kill in &mut run.server_kills {
            let before = answers.partition_point(|at| *at <= kill.at);
            kill.last_answer = before.checked_sub(1).map_or(kill.at, |last| answers[last]);
        }
        run
    }

    fn task(&mut self, id: &TaskId) -> &mut Task {
        if !self.tasks.contains_key(id) {
            self.tasks.insert(id.clone(), Task::default());
        }
        self.tasks.get_mut(id).expect("it was put there")
    }

    fn attempt(&mut self, process: usize, held: &Held) -> &mut Attempt {
        self.task(&held.task).attempt(process, held.token)
    }

    /// To look whether a lease is held and to start are two steps, and a process may be frozen between them. A few starts that
    /// follow a thaw at once are taken for what was decided before; that is why no store takes a lease's word for anything.
    fn thaw(&mut self, process: usize, from: Moment, to: Moment) {
        let attempts = self.tasks.values_mut().flat_map(|task| &mut task.attempts);
        let mut decided: Vec<(Moment, &mut Moment)> = attempts
            .filter(|attempt| attempt.process == process)
            .filter_map(|attempt| Some((*attempt.leased.iter().min()?, &mut attempt.started)))
            .filter(|(leased, _)| *leased < to)
            .flat_map(|(leased, starts)| starts.iter_mut().map(move |start| (leased, start)))
            .filter(|(_, start)| **start >= to && **start <= to.after(AT_ONCE))
            .collect();
        decided.sort_by_key(|(_, start)| **start);
        for (leased, start) in decided.into_iter().take(DECIDED) {
            *start = from.max(leased);
        }
    }

    fn fault(&mut self, at: Moment, begins: Option<&str>) {
        if let Some(kind) = begins {
            *self.faults.entry(kind.to_owned()).or_default() += 1;
        }
        self.last_fault = self.last_fault.max(at);
    }

    fn take(&mut self, process: usize, at: Moment, event: &Event) {
        self.minds[process].take(at, event);
        match event {
            Event::EnqTry(tasks) => {
                for task in tasks {
                    self.task(task).tried += 1;
                }
            }
            Event::EnqOk(tasks) => {
                for task in tasks {
                    self.task(task).acknowledged.get_or_insert(at);
                }
            }
            Event::Lease { held, until } | Event::Renewed { held, until } => {
                let attempt = self.attempt(process, held);
                attempt.leased.push(at);
                attempt.until = attempt.until.max(Some(*until));
            }
            Event::Begun(held) => {
                self.attempt(process, held).begun.get_or_insert(at);
            }
            Event::Start(held) => self.attempt(process, held).started.push(at),
            Event::End { held, .. } => self.attempt(process, held).ended = Some(at),
            Event::CheckpointOk { held, sent } => {
                self.attempt(process, held).checkpoints.push((*sent, at));
            }
            Event::WantsChildren(held) => self.attempt(process, held).wants = Some(at),
            Event::ChildrenOk(held) => {
                let attempt = self.attempt(process, held);
                attempt.children.extend(attempt.wants.take());
            }
            Event::WantsWrite(held) => self.attempt(process, held).wants_write = Some(at),
            Event::WriteOk(held) => {
                let attempt = self.attempt(process, held);
                attempt.writes.extend(attempt.wants_write);
            }
            Event::RevokeTry(task) => self.task(task).revoked = true,
            Event::RevokeOk(revoked) => self.acknowledged.push((at, revoked.clone())),
            Event::GiveBack(held) => {
                self.attempt(process, held).given_back.get_or_insert(at);
            }
            Event::SettleOk(settle) => {
                let accepted = Accepted { process, at, settle: settle.clone() };
                self.task(&settle.task).settled.push(accepted);
            }
            Event::RecordOk(settle) => {
                let accepted = Accepted { process, at, settle: settle.clone() };
                self.task(&settle.task).recorded.push(accepted);
            }
            Event::RenewStale(_)
            | Event::SettleStale(_)
            | Event::RecordStale(_)
            | Event::CheckpointStale(_) => self.refused += 1,
            Event::Declined => self.declined += 1,
            Event::Fault { kind, on } => {
                if kind == SERVER_KILLED {
                    if *on {
                        self.server_kills.push(Kill { at, back: at, last_answer: at });
                    } else if let Some(kill) = self.server_kills.last_mut() {
                        kill.back = at;
                    }
                }
                self.fault(at, on.then_some(kind.as_str()));
            }
            Event::Killed(process) => self.fault(at, Some(&killed(process))),
            Event::Frozen(process) => {
                self.frozen.push((process.clone(), at, at));
                self.fault(at, Some("worker-frozen"));
            }
            Event::Thawed(process) => {
                let same = |(name, ..): &&mut (String, Moment, Moment)| name == process;
                if let Some((_, _, to)) = self.frozen.iter_mut().rev().find(same) {
                    *to = at;
                }
                self.fault(at, None);
            }
            Event::Boots
            | Event::Ready
            | Event::Told { .. }
            | Event::Looked { .. }
            | Event::Knows
            | Event::CtlRecv(_)
            | Event::CtlReply(_) => {}
        }
    }
}

/// The kind of a kill, by the name of the history.
fn killed(process: &str) -> String {
    let who = if process.starts_with('p') { "producer" } else { "worker" };
    format!("{who}-killed")
}

/// Whether a server said that it did something.
fn is_answer(event: &Event) -> bool {
    match event {
        Event::EnqOk(_)
        | Event::Lease { .. }
        | Event::Renewed { .. }
        | Event::Begun(_)
        | Event::SettleOk(_)
        | Event::RecordOk(_)
        | Event::CheckpointOk { .. }
        | Event::WriteOk(_)
        | Event::RevokeOk(_)
        | Event::Looked { .. } => true,
        Event::EnqTry(_)
        | Event::Boots
        | Event::WantsChildren(_)
        | Event::WantsWrite(_)
        | Event::ChildrenOk(_)
        | Event::CheckpointStale(_)
        | Event::RevokeTry(_)
        | Event::Told { .. }
        | Event::Knows
        | Event::Start(_)
        | Event::GiveBack(_)
        | Event::RenewStale(_)
        | Event::SettleStale(_)
        | Event::RecordStale(_)
        | Event::Declined
        | Event::Fault { .. }
        | Event::Killed(_)
        | Event::Frozen(_)
        | Event::Thawed(_)
        | Event::Ready
        | Event::End { .. }
        | Event::CtlRecv(_)
        | Event::CtlReply(_) => false,
    }
}
