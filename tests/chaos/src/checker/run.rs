//! Histories by task: what the rules look at.

use std::collections::BTreeMap;

use stem_core::id::{LeaseToken, TaskId};

use crate::history::{Answered, Event, Held, History, Line, Moment, SERVER_KILLED};

/// A whole run.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) server_kills: Vec<Kill>,
    /// When the last one was over.
    pub(super) last_fault: Moment,
    pub(super) faults: usize,
    pub(super) refused: usize,
}

/// A server that was killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kill {
    pub(super) at: Moment,
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
    /// When it first tried to give the task back.
    pub(super) given_back: Option<Moment>,
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
                given_back: None,
            });
            self.attempts.len() - 1
        });
        &mut self.attempts[index]
    }
}

impl Run {
    pub(super) fn of(histories: &[History]) -> Self {
        let mut run = Self::default();
        let mut answers = Vec::new();
        for (process, history) in histories.iter().enumerate() {
            for Line(at, _, event) in &history.lines {
                run.take(process, *at, event);
                answers.extend(is_answer(event).then_some(*at));
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

    fn fault(&mut self, at: Moment, begins: bool) {
        self.faults += usize::from(begins);
        self.last_fault = self.last_fault.max(at);
    }

    fn take(&mut self, process: usize, at: Moment, event: &Event) {
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
            Event::RenewStale(_) | Event::SettleStale(_) | Event::RecordStale(_) => {
                self.refused += 1;
            }
            Event::Fault { kind, on } => {
                if kind == SERVER_KILLED && *on {
                    self.server_kills.push(Kill { at, last_answer: at });
                }
                self.fault(at, *on);
            }
            Event::Killed(_) | Event::Frozen(_) => self.fault(at, true),
            Event::Thawed(_) => self.fault(at, false),
            Event::Ready | Event::End { .. } | Event::CtlRecv(_) | Event::CtlReply(_) => {}
        }
    }
}

/// Whether a server said that it did something.
fn is_answer(event: &Event) -> bool {
    match event {
        Event::EnqOk(_)
        | Event::Lease { .. }
        | Event::Renewed { .. }
        | Event::Begun(_)
        | Event::SettleOk(_)
        | Event::RecordOk(_) => true,
        Event::EnqTry(_)
        | Event::Start(_)
        | Event::GiveBack(_)
        | Event::RenewStale(_)
        | Event::SettleStale(_)
        | Event::RecordStale(_)
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
