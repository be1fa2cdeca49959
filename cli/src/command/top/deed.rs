//! What an operator can do from here, in words: beforehand what will happen to what, and afterwards what became of it.

use std::time::{Duration, Instant};

use serde_json::Value;
use stem_core::control::Answer;
use stem_core::id::{Incarnation, QueueName, TaskId, WorkerId};
use stem_core::text::printable;

use super::rows::{QueueRow, TaskRow, Tone, WorkerRow};
use super::words;
use crate::control::Answers;

/// The reason that is given where none is typed.
pub(super) const REASON: &str = "by hand in stem top";
/// Longest reason, in bytes; as on the command line.
const REASON_BYTES: usize = 500;

/// What is to be done, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// A task must not run, or not go on running.
    Revoke {
        /// Which.
        task: TaskId,
        /// Whether a running attempt is stopped too.
        terminate: bool,
    },
    /// A queue hands out nothing.
    Pause(QueueName),
    /// A queue hands out again.
    Resume(QueueName),
    /// A worker finishes what it has and ends.
    Drain {
        /// Its name, by which it is told.
        worker: WorkerId,
        /// The process that the question named; another one may have the name by now.
        boot_id: Incarnation,
    },
}

impl Deed {
    /// For a line on the screen.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Revoke { task, terminate: true } => format!("terminate task {task}"),
            Self::Revoke { task, terminate: false } => format!("revoke task {task}"),
            Self::Pause(queue) => format!("pause queue {queue}"),
            Self::Resume(queue) => format!("resume queue {queue}"),
            Self::Drain { worker, .. } => format!("drain worker {worker}"),
        }
    }

    /// Whether it is remembered with a reason.
    fn takes_reason(&self) -> bool {
        matches!(self, Self::Revoke { .. } | Self::Pause(_))
    }
}

/// A deed that waits for consent. What it names was taken when the key was pressed and does not move with the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// What is meant.
    pub(super) deed: Deed,
    /// To what it will happen, and what.
    pub(super) lines: Vec<String>,
    reason: Option<String>,
}

impl Question {
    fn new(deed: Deed, lines: Vec<String>) -> Self {
        let reason = deed.takes_reason().then(String::new);
        Self { deed, lines, reason }
    }

    /// About a task.
    pub(super) fn revoke(row: &TaskRow, terminate: bool) -> Self {
        let task = &row.running;
        let since = row.run().map_or_else(
            || "not started yet".to_owned(),
            |run| format!("running for {}", words::run(run)),
        );
        let mut lines = vec![
            format!("task     {}", task.id),
            format!("name     {}, attempt {}, {since}", task.task, task.attempt),
            format!("where    worker {}, queue {}", row.worker, task.queue),
            String::new(),
        ];
        lines.push(if terminate {
            "It is stopped by force, wherever it is, and ends as revoked.".to_owned()
        } else {
            "The attempt that runs may finish; the task is not started again.".to_owned()
        });
        lines.push("The order is stored first, then told to every worker.".to_owned());
        if row.old.is_some() {
            lines.push(format!("Worker {} does not answer; it obeys when it can.", row.worker));
        }
        Self::new(Deed::Revoke { task: task.id.clone(), terminate }, lines)
    }

    /// About a queue: to pause it, or to resume it if it is paused.
    pub(super) fn pause(row: &QueueRow) -> Self {
        let status = &row.status;
        let mut lines = vec![
            format!("queue    {}", status.name),
            format!(
                "holds    {} ready, {} delayed, {} in flight",
                status.ready, status.delayed, status.inflight
            ),
            format!("served   by {}", words::count(row.workers, "live worker")),
            String::new(),
        ];
        if let Some((age, reason)) = &row.paused {
            let why = reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
            lines.push(format!("It was paused {} ago{why}", words::age(*age)));
            lines.push("Every worker that serves it may take from it again.".to_owned());
            return Self::new(Deed::Resume(status.name.clone()), lines);
        }
        lines.push(
            "No worker takes from it until it is resumed, nor one that starts later.".to_owned(),
        );
        lines.push("What runs goes on.".to_owned());
        Self::new(Deed::Pause(status.name.clone()), lines)
    }

    /// About a worker.
    pub(super) fn drain(row: &WorkerRow) -> Self {
        let heartbeat = &row.heartbeat;
        let mut lines = vec![
            format!("worker   {}", row.id),
            format!("where    {}, process {}", printable(&heartbeat.host, 100), heartbeat.pid),
            format!("has      {} in hand", words::count(row.inflight as usize, "task")),
            String::new(),
            "It takes nothing new, finishes what it has in hand, and ends.".to_owned(),
            "Nothing here starts it again.".to_owned(),
        ];
        if !row.answers {
            lines.push(
                "It does not answer; it obeys only if it is back before the order expires."
                    .to_owned(),
            );
        }
        Self::new(Deed::Drain { worker: row.id.clone(), boot_id: heartbeat.boot_id }, lines)
    }

    /// What was typed as the reason; `None` where none is asked for.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Adds to the reason, without what is not text.
    pub(super) fn type_in(&mut self, text: &str) {
        if let Some(reason) = &mut self.reason {
            type_into(reason, text, REASON_BYTES);
        }
    }

    /// Takes the last letter back.
    pub(super) fn take_back(&mut self) {
        if let Some(reason) = &mut self.reason {
            reason.pop();
        }
    }

    /// Consent: the deed, and its reason where it takes one.
    pub(super) fn agreed(self) -> (Deed, Option<String>) {
        let reason = self.reason.map(|typed| {
            let typed = typed.trim();
            if typed.is_empty() { REASON.to_owned() } else { typed.to_owned() }
        });
        (self.deed, reason)
    }
}

/// Adds text without control characters, up to so many bytes in all.
pub(super) fn type_into(text: &mut String, more: &str, limit: usize) {
    for letter in more.chars().filter(|letter| !letter.is_control()) {
        if text.len() + letter.len_utf8() > limit {
            return;
        }
        text.push(letter);
    }
}

/// What became of a deed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// In one or two lines.
    pub(super) text: String,
    /// How it went.
    pub(super) tone: Tone,
}

impl Report {
    /// It could not be done.
    pub(super) fn failed(deed: &Deed, what: &str) -> Self {
        Self { text: format!("{}: {}", deed.title(), printable(what, 400)), tone: Tone::Bad }
    }

    /// What it was about is not what it was when the question was asked.
    pub(super) fn overtaken(deed: &Deed, meanwhile: &str) -> Self {
        let text = format!("{}: it {meanwhile} meanwhile; NOTHING WAS ORDERED", deed.title());
        Self { text, tone: Tone::Warning }
    }

    /// A queue was paused or resumed, or was so before.
    pub(super) fn set(deed: &Deed, changed: bool) -> Self {
        let done = if changed { "done" } else { "it was so already" };
        Self { text: format!("{}: {done}", deed.title()), tone: Tone::Plain }
    }

    /// Workers were told; `first` says what was done before that.
    pub(super) fn told(deed: &Deed, first: &[String], answers: &Answers) -> Self {
        let mut parts = first.to_vec();
        let mut tone = Tone::Plain;
        let missing = answers.missing();
        if !missing.is_empty() {
            parts.push(format!("NO ANSWER from {}", words::list(&missing)));
            tone = Tone::Bad;
        }
        for reply in &answers.replies {
            match &reply.answer {
                Answer::Ok { payload } => parts.extend(ended(&reply.worker, payload)),
                Answer::Error { error } => {
                    let (code, message) =
                        (printable(&error.code, 40), printable(&error.message, 200));
                    parts.push(format!("{} REFUSED: {message} ({code})", reply.worker));
                    tone = Tone::Bad;
                }
            }
        }
        let acknowledged = answers.acknowledged_by();
        if !acknowledged.is_empty() {
            parts.push(format!("acknowledged by {}", words::list(&acknowledged)));
        }
        if answers.expected.is_empty() {
            parts.push("no worker is alive; the next one to start obeys".to_owned());
            tone = Tone::Warning;
        }
        Self { text: format!("{}: {}", deed.title(), parts.join("; ")), tone }
    }
}

/// What a worker says that it ended, or that it lets run.
fn ended(worker: &WorkerId, payload: &Value) -> Option<String> {
    let first = |key: &str| payload[key].as_array().and_then(|tasks| tasks.first());
    let Some(ended) = first("terminated") else {
        return first("inflight").map(|_| format!("it may finish on {worker}"));
    };
    let how = printable(ended["how"].as_str()?, 40);
    let after = ended["elapsedMs"]
        .as_f64()
        .filter(|_| how != "before-start")
        .map_or_else(String::new, |elapsed| format!(" after {elapsed:.3} ms"));
    Some(format!("{how} on {worker}{after}"))
}

/// What the line above the keys says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// What.
    pub(super) report: Report,
    /// When.
    pub(super) at: Instant,
}

impl Said {
    /// How long it has stood there.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}
