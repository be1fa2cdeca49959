//! What was heard last of each part, when, and what went wrong since. A part that cannot be read keeps its last value.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use stem_core::backend::broker::QueueStatus;
use stem_core::control::{Answer, Heartbeat};
use stem_core::id::{QueueName, TaskId, TaskName, WorkerId};
use stem_core::text::printable;
use stem_core::time::Timestamp;

use crate::control::Answers;

/// Longest text of others that is kept, in bytes.
const TEXT_BYTES: usize = 300;

/// What one look brought.
#[derive(Debug)]
pub(super) enum News {
    /// Every heartbeat, and the store's time.
    Heartbeats(Result<(Vec<Heartbeat>, Timestamp), String>),
    /// Every queue.
    Queues(Result<Vec<QueueStatus>, String>),
    /// What those workers said that were asked.
    Answers(Result<Box<Asked>, String>),
}

/// The answers of one round.
#[derive(Debug)]
pub(super) struct Asked {
    /// To `inspect`.
    pub(super) inspected: Answers,
    /// To `stats`.
    pub(super) counted: Answers,
}

/// The last value of one part.
#[derive(Debug)]
pub(super) struct Part<T> {
    /// As it was read last.
    pub(super) value: T,
    /// When that was; `None` before the first time.
    pub(super) heard: Option<Instant>,
    /// Why it could not be read since.
    pub(super) problem: Option<String>,
}

impl<T: Default> Part<T> {
    fn new() -> Self {
        Self { value: T::default(), heard: None, problem: None }
    }

    fn take(&mut self, news: Result<T, String>, at: Instant) {
        match news {
            Ok(value) => *self = Self { value, heard: Some(at), problem: None },
            Err(problem) => self.problem = Some(printable(&problem, TEXT_BYTES)),
        }
    }
}

/// A task in a worker's hands, by its own account.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Running {
    /// Which.
    pub(super) id: TaskId,
    /// Its handler.
    pub(super) task: TaskName,
    /// Where it waited.
    pub(super) queue: QueueName,
    /// Which attempt.
    pub(super) attempt: u32,
    /// Absent while it waits for a place.
    pub(super) kind: Option<Kind>,
    /// How long it has run.
    pub(super) runtime_ms: Option<f64>,
    /// How long its lease holds without a renewal.
    pub(super) lease_expires_in_ms: f64,
    /// Since its last sign of life.
    pub(super) last_checkpoint_ms_ago: Option<f64>,
    /// Whether that is its start.
    #[serde(default)]
    pub(super) never_checkpointed: bool,
    /// CPU time so far; of isolates.
    pub(super) cpu_ms: Option<f64>,
    /// Most memory so far; of isolates.
    pub(super) memory_bytes: Option<u64>,
    /// The newest it reported.
    pub(super) progress: Option<Reported>,
    /// Whether it was told to stop.
    #[serde(default)]
    pub(super) terminating: bool,
    /// CPU time as a part of one core, from one look to the next.
    #[serde(skip)]
    pub(super) cpu_rate: Option<f64>,
}

/// How a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// In the worker's own code.
    Inline,
    /// In the sandbox.
    Isolate,
}

/// Progress without its data.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Reported {
    /// 0 to 1.
    pub(super) fraction: Option<f64>,
    /// In the task's words; control characters are escaped.
    pub(super) message: Option<String>,
}

/// A worker's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Figures {
    /// Resident memory.
    pub(super) rss_bytes: Option<u64>,
    /// Since its start.
    pub(super) counters: Counters,
}

/// Ends of attempts since a worker's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Counters {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) retried: u64,
    pub(super) revoked: u64,
}

/// What one worker said of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    /// What it runs.
    pub(super) running: Vec<Running>,
    /// When it said so.
    pub(super) at: Option<Instant>,
    /// Its figures, since it first gave some.
    pub(super) figures: Option<Figures>,
    /// Since when it has not answered.
    pub(super) silent_since: Option<Instant>,
    /// Why it would not say more.
    pub(super) refused: Option<String>,
}

/// Heartbeats, and the store's time when they were read.
pub(super) type Heard = (Vec<Heartbeat>, Timestamp);

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Picture {
    /// Since when anything could have been heard.
    pub(super) since: Instant,
    /// Who is there.
    pub(super) heartbeats: Part<Heard>,
    /// What waits.
    pub(super) queues: Part<Vec<QueueStatus>>,
    /// Whether workers could be asked.
    pub(super) asking: Part<()>,
    /// What they said.
    pub(super) told: BTreeMap<WorkerId, Told>,
}

impl Picture {
    /// Nothing is known yet.
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            heartbeats: Part::new(),
            queues: Part::new(),
            asking: Part::new(),
            told: BTreeMap::new(),
        }
    }

    /// Whether every part was read at least once.
    pub(super) fn is_complete(&self) -> bool {
        self.heartbeats.heard.is_some()
            && self.queues.heard.is_some()
            && self.asking.heard.is_some()
    }

    /// How old its oldest part is.
    pub(super) fn age(&self, now: Instant) -> Duration {
        let parts = [self.heartbeats.heard, self.queues.heard, self.asking.heard];
        let oldest = parts.into_iter().map(|heard| heard.unwrap_or(self.since)).min();
        now.saturating_duration_since(oldest.unwrap_or(self.since))
    }

    /// Why a part cannot be read; the first one's reason.
    pub(super) fn problem(&self) -> Option<&str> {
        let problems = [&self.heartbeats.problem, &self.queues.problem, &self.asking.problem];
        problems.into_iter().find_map(|problem| problem.as_deref())
    }

    /// Draws in what was heard.
    pub(super) fn take(&mut self, news: News, at: Instant) {
        match news {
            News::Heartbeats(heartbeats) => {
                self.heartbeats.take(heartbeats, at);
                let (heartbeats, _) = &self.heartbeats.value;
                self.told.retain(|worker, _| {
                    heartbeats.iter().any(|heartbeat| heartbeat.worker == *worker)
                });
            }
            News::Queues(queues) => self.queues.take(queues, at),
            News::Answers(Ok(asked)) => {
                self.asking.take(Ok(()), at);
                self.inspected(&asked.inspected, at);
                for reply in &asked.counted.replies {
                    if let Answer::Ok { payload } = &reply.answer {
                        self.told.entry(reply.worker.clone()).or_default().figures =
                            Figures::deserialize(payload).ok();
                    }
                }
            }
            News::Answers(Err(problem)) => self.asking.take(Err(problem), at),
        }
    }

    fn inspected(&mut self, answers: &Answers, at: Instant) {
        for reply in &answers.replies {
            let told = self.told.entry(reply.worker.clone()).or_default();
            told.silent_since = None;
            match &reply.answer {
                Answer::Ok { payload } => {
                    let before = std::mem::take(&mut told.running);
                    told.running = running(payload, &before);
                    (told.at, told.refused) = (Some(at), None);
                }
                Answer::Error { error } => {
                    told.refused = Some(printable(&error.message, TEXT_BYTES));
                }
            }
        }
        for worker in answers.missing() {
            let told = self.told.entry(worker.clone()).or_default();
            let asked = at.checked_sub(answers.elapsed).unwrap_or(at);
            told.silent_since = told.silent_since.or(told.at).or(Some(asked));
        }
    }
}

/// The tasks of a reply. One that cannot be read is left out: the worker may be of another version.
fn running(payload: &Value, before: &[Running]) -> Vec<Running> {
    let items = payload["active"].as_array().map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .filter_map(|item| {
            let mut running = Running::deserialize(item).ok()?;
            if let Some(message) =
                running.progress.as_mut().and_then(|progress| progress.message.as_mut())
            {
                *message = printable(message, TEXT_BYTES);
            }
            let earlier = before
                .iter()
                .find(|other| other.id == running.id && other.attempt == running.attempt);
            running.cpu_rate = rate(earlier, &running);
            Some(running)
        })
        .collect()
}

/// Both times are the worker's own, so what the way took does not matter.
fn rate(earlier: Option<&Running>, now: &Running) -> Option<f64> {
    let (cpu, time) = (now.cpu_ms?, now.runtime_ms?);
    let (cpu_then, time_then) = earlier
        .and_then(|earlier| Some((earlier.cpu_ms?, earlier.runtime_ms?)))
        .unwrap_or((0.0, 0.0));
    let (cpu, time) = (cpu - cpu_then, time - time_then);
    (time > 0.0 && cpu >= 0.0).then(|| cpu / time)
}
