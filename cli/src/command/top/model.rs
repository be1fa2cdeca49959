//! What the screen shows and where the operator is in it. Nothing here reads a clock, a key or a service.

use std::time::Instant;

use stem_core::id::{QueueName, TaskId, WorkerId};

use super::deed::{Deed, Question, Report, Said, type_into};
use super::keys::Action;
use super::picture::{News, Picture};
use super::rows::{Narrow, QueueRow, Rows, Sort, TaskRow, Tone, WorkerRow};

/// Longest text to look for, in bytes.
const TEXT_BYTES: usize = 100;

/// One of the three tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pane {
    /// Who works.
    Workers,
    /// What waits.
    Queues,
    /// What runs.
    #[default]
    Tasks,
}

impl Pane {
    /// The one below, and from the last to the first.
    fn next(self) -> Self {
        match self {
            Self::Workers => Self::Queues,
            Self::Queues => Self::Tasks,
            Self::Tasks => Self::Workers,
        }
    }

    /// The one above.
    fn before(self) -> Self {
        self.next().next()
    }
}

/// Which row is chosen: the one with this key, wherever it moves; where that is gone, the one in its place.
#[derive(Clone, Debug)]
struct Cursor<K> {
    key: Option<K>,
    at: usize,
}

impl<K> Default for Cursor<K> {
    fn default() -> Self {
        Self { key: None, at: 0 }
    }
}

impl<K: PartialEq> Cursor<K> {
    fn follow(&mut self, mut keys: Vec<K>) {
        let found = keys.iter().position(|key| Some(key) == self.key.as_ref());
        self.at = found.unwrap_or(self.at).min(keys.len().saturating_sub(1));
        self.key = (self.at < keys.len()).then(|| keys.swap_remove(self.at));
    }

    fn go(&mut self, to: usize) {
        self.at = to;
        self.key = None;
    }
}

#[derive(Clone, Debug, Default)]
struct Cursors {
    workers: Cursor<WorkerId>,
    queues: Cursor<QueueName>,
    tasks: Cursor<(WorkerId, TaskId)>,
}

/// What keys mean now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Looking about.
    #[default]
    Looking,
    /// Typing what tasks must have in them.
    Searching,
    /// Being asked.
    Asking(Question),
    /// Reading what keys there are.
    Help,
}

/// What must be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// End.
    Leave,
    /// Give this order, for this reason.
    Do(Deed, Option<String>),
}

/// Where it looks, for the first line.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// The scope.
    pub(super) namespace: String,
    /// The broker's address, without secrets.
    pub(super) service: String,
    /// How often it looks.
    pub(super) interval: std::time::Duration,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) place: Place,
    pub(super) picture: Picture,
    pub(super) narrow: Narrow,
    pub(super) sort: Sort,
    pub(super) pane: Pane,
    pub(super) mode: Mode,
    pub(super) rows: Rows,
    pub(super) said: Option<Said>,
    /// What is being done.
    pub(super) busy: Option<Deed>,
    cursors: Cursors,
}

impl Model {
    /// Nothing is known yet.
    pub(super) fn new(place: Place, narrow: Narrow, now: Instant) -> Self {
        Self {
            place,
            picture: Picture::new(now),
            narrow,
            sort: Sort::default(),
            pane: Pane::default(),
            mode: Mode::default(),
            rows: Rows::default(),
            said: None,
            busy: None,
            cursors: Cursors::default(),
        }
    }

    /// Draws in what was heard.
    pub(super) fn hear(&mut self, news: News, now: Instant) {
        self.picture.take(news, now);
        self.refresh(now);
    }

    /// Makes ages and rows those of now.
    pub(super) fn refresh(&mut self, now: Instant) {
        self.rows = Rows::of(&self.picture, &self.narrow, self.sort, now);
        let rows = &self.rows;
        self.cursors.workers.follow(rows.workers.iter().map(|row| row.id.clone()).collect());
        self.cursors.queues.follow(rows.queues.iter().map(|row| row.status.name.clone()).collect());
        self.cursors.tasks.follow(rows.tasks.iter().map(TaskRow::key).collect());
    }

    /// An order was carried out, or not.
    pub(super) fn report(&mut self, report: Report, now: Instant) {
        self.busy = None;
        self.said = Some(Said { report, at: now });
    }

    /// The place of the chosen row in a table.
    pub(super) fn chosen(&self, pane: Pane) -> usize {
        match pane {
            Pane::Workers => self.cursors.workers.at,
            Pane::Queues => self.cursors.queues.at,
            Pane::Tasks => self.cursors.tasks.at,
        }
    }

    /// The chosen worker.
    pub(super) fn worker(&self) -> Option<&WorkerRow> {
        self.rows.workers.get(self.cursors.workers.at)
    }

    /// The chosen queue.
    pub(super) fn queue(&self) -> Option<&QueueRow> {
        self.rows.queues.get(self.cursors.queues.at)
    }

    /// The chosen task.
    pub(super) fn task(&self) -> Option<&TaskRow> {
        self.rows.tasks.get(self.cursors.tasks.at)
    }

    /// Does what a key means; says what must be done outside.
    pub(super) fn act(&mut self, action: Action, now: Instant) -> Option<Effect> {
        match action {
            Action::Leave => return Some(Effect::Leave),
            Action::NextPane => self.pane = self.pane.next(),
            Action::PaneBefore => self.pane = self.pane.before(),
            Action::Show(pane) => self.pane = pane,
            Action::Move(by) => self.go(|at| at.saturating_add_signed(by)),
            Action::First => self.go(|_| 0),
            Action::Last => self.go(|_| usize::MAX),
            Action::Sort => self.sort = self.sort.next(),
            Action::Gone => self.narrow.gone = !self.narrow.gone,
            Action::Help => self.mode = Mode::Help,
            Action::Search => self.mode = Mode::Searching,
            Action::Close => self.close(),
            Action::Type(text) => self.type_in(&text),
            Action::TakeBack => self.take_back(),
            Action::Agree => return self.agree(),
            Action::Revoke { terminate } => {
                let question = self.task().map(|row| Question::revoke(row, terminate));
                self.ask(Pane::Tasks, question, now);
            }
            Action::Pause => {
                let question = self.queue().map(Question::pause);
                self.ask(Pane::Queues, question, now);
            }
            Action::Drain => {
                let question = self.worker().map(Question::drain);
                self.ask(Pane::Workers, question, now);
            }
        }
        self.refresh(now);
        None
    }

    fn go(&mut self, to: impl Fn(usize) -> usize) {
        let at = to(self.chosen(self.pane));
        let last = |rows: usize| at.min(rows.saturating_sub(1));
        match self.pane {
            Pane::Workers => self.cursors.workers.go(last(self.rows.workers.len())),
            Pane::Queues => self.cursors.queues.go(last(self.rows.queues.len())),
            Pane::Tasks => self.cursors.tasks.go(last(self.rows.tasks.len())),
        }
    }

    /// Asks about the chosen row of the table that the operator is in: elsewhere the mark is not seen.
    fn ask(&mut self, pane: Pane, question: Option<Question>, now: Instant) {
        let what = match pane {
            Pane::Workers => "worker",
            Pane::Queues => "queue",
            Pane::Tasks => "task",
        };
        let refusal = if let Some(deed) = &self.busy {
            format!("not yet: {} is still being done", deed.title())
        } else if self.pane != pane {
            format!("that key is for a {what}: go to the {what}s with Tab")
        } else if let Some(question) = question {
            self.mode = Mode::Asking(question);
            return;
        } else {
            format!("there is no {what} here")
        };
        self.said = Some(Said { report: Report { text: refusal, tone: Tone::Warning }, at: now });
    }

    fn agree(&mut self) -> Option<Effect> {
        match std::mem::take(&mut self.mode) {
            Mode::Asking(question) => {
                let (deed, reason) = question.agreed();
                self.busy = Some(deed.clone());
                self.said = None;
                Some(Effect::Do(deed, reason))
            }
            Mode::Looking | Mode::Searching | Mode::Help => None,
        }
    }

    /// Takes a question back that the screen has no room for.
    pub(super) fn withdraw(&mut self, now: Instant) {
        self.mode = Mode::Looking;
        let text = "nothing was ordered: this screen is too small for the question".to_owned();
        self.said = Some(Said { report: Report { text, tone: Tone::Warning }, at: now });
    }

    fn close(&mut self) {
        match std::mem::take(&mut self.mode) {
            Mode::Searching | Mode::Looking => self.narrow.text.clear(),
            Mode::Asking(_) | Mode::Help => {}
        }
    }

    fn type_in(&mut self, text: &str) {
        match &mut self.mode {
            Mode::Asking(question) => question.type_in(text),
            Mode::Searching => type_into(&mut self.narrow.text, text, TEXT_BYTES),
            Mode::Looking | Mode::Help => {}
        }
    }

    fn take_back(&mut self) {
        match &mut self.mode {
            Mode::Asking(question) => question.take_back(),
            Mode::Searching => {
                self.narrow.text.pop();
            }
            Mode::Looking | Mode::Help => {}
        }
    }
}
