//! What the three tables show: the picture, narrowed, sorted and put into words.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use stem_core::backend::broker::QueueStatus;
use stem_core::control::{Heartbeat, WorkerState};
use stem_core::id::{QueueName, TaskId, TaskName, WorkerId};
use stem_core::text::printable;

use super::picture::{Kind, Picture, Running, Told};
use super::words;
use crate::command::queue::unroutable;
use crate::command::worker::Life;

/// How much attention something asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Plain,
    /// Old, or of no interest.
    Faint,
    /// On its way, or held back.
    Warning,
    /// Not as it should be.
    Bad,
}

/// What is looked at; what is empty narrows nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Narrow {
    /// Only these workers.
    pub(super) workers: Vec<WorkerId>,
    /// Only these queues.
    pub(super) queues: Vec<QueueName>,
    /// Only tasks with this in their id, name, queue or worker.
    pub(super) text: String,
    /// Workers too that are gone.
    pub(super) gone: bool,
}

impl Narrow {
    /// Whether a worker is looked at, gone or not.
    pub(super) fn wants(&self, heartbeat: &Heartbeat) -> bool {
        (self.workers.is_empty() || self.workers.contains(&heartbeat.worker))
            && (self.queues.is_empty()
                || self.queues.iter().any(|queue| heartbeat.queues.contains_key(queue)))
    }

    fn wants_queue(&self, queue: &QueueName) -> bool {
        self.queues.is_empty() || self.queues.contains(queue)
    }

    fn wants_task(&self, worker: &WorkerId, task: &Running) -> bool {
        let words = [task.id.as_str(), task.task.as_str(), task.queue.as_str(), worker.as_str()];
        let text = self.text.to_lowercase();
        self.wants_queue(&task.queue)
            && words.iter().any(|word| word.to_lowercase().contains(&text))
    }
}

/// By what tasks are sorted, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// How long they run.
    #[default]
    Run,
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// The newest id last.
    Id,
}

impl Sort {
    /// The next one, round and round.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Run => Self::Cpu,
            Self::Cpu => Self::Memory,
            Self::Memory => Self::Id,
            Self::Id => Self::Run,
        }
    }
}

/// A worker.
#[derive(Clone, Debug)]
pub(super) struct WorkerRow {
    pub(super) id: WorkerId,
    /// What it does, or for how long nothing was heard.
    pub(super) state: String,
    pub(super) tone: Tone,
    /// Whether it could be told anything.
    pub(super) answers: bool,
    pub(super) inflight: u32,
    pub(super) concurrency: u32,
    /// Parts of one core that its isolates use.
    pub(super) cpu: Option<f64>,
    pub(super) told: Told,
    pub(super) heartbeat: Heartbeat,
    /// Since the last heartbeat, by the store's clock.
    pub(super) silent: Duration,
    pub(super) uptime: Duration,
}

/// A queue.
#[derive(Clone, Debug)]
pub(super) struct QueueRow {
    pub(super) status: QueueStatus,
    /// Live workers that serve it.
    pub(super) workers: usize,
    /// Waiting tasks that no live worker would take.
    pub(super) unroutable: u64,
    /// How long it has been paused, and why.
    pub(super) paused: Option<(Duration, Option<String>)>,
}

/// A task in a worker's hands.
#[derive(Clone, Debug)]
pub(super) struct TaskRow {
    pub(super) worker: WorkerId,
    pub(super) running: Running,
    /// How old this is, where its worker does not answer.
    pub(super) old: Option<Duration>,
}

/// Everything on the screen.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) workers: Vec<WorkerRow>,
    pub(super) queues: Vec<QueueRow>,
    pub(super) tasks: Vec<TaskRow>,
    /// Workers that are gone and not shown.
    pub(super) gone: usize,
}

impl Rows {
    /// Puts a picture into rows.
    pub(super) fn of(picture: &Picture, narrow: &Narrow, sort: Sort, now: Instant) -> Self {
        let (heartbeats, store_now) = &picture.heartbeats.value;
        let mut rows = Self::default();
        for heartbeat in heartbeats.iter().filter(|heartbeat| narrow.wants(heartbeat)) {
            let told = picture.told.get(&heartbeat.worker).cloned().unwrap_or_default();
            let silent = store_now.since(heartbeat.seen_at);
            let life = Life::of(heartbeat, *store_now, None);
            if life == Life::Gone && !narrow.gone {
                rows.gone += 1;
                continue;
            }
            let row =
                worker(heartbeat, told, life, silent, store_now.since(heartbeat.started_at), now);
            if life != Life::Gone {
                rows.tasks.extend(tasks(&row, narrow, now));
            }
            rows.workers.push(row);
        }
        let alive: Vec<Heartbeat> =
            heartbeats.iter().filter(|heartbeat| heartbeat.is_fresh(*store_now)).cloned().collect();
        let queues = picture.queues.value.iter().filter(|queue| narrow.wants_queue(&queue.name));
        rows.queues = queues
            .map(|status| QueueRow {
                workers: alive
                    .iter()
                    .filter(|worker| worker.queues.contains_key(&status.name))
                    .count(),
                unroutable: unroutable(status, &alive),
                paused: status.paused.as_ref().map(|pause| {
                    let reason = pause.reason.as_deref().map(|reason| printable(reason, 300));
                    (store_now.since(pause.since), reason)
                }),
                status: status.clone(),
            })
            .collect();
        sort_tasks(&mut rows.tasks, sort);
        rows
    }
}

fn worker(
    heartbeat: &Heartbeat,
    told: Told,
    life: Life,
    silent: Duration,
    uptime: Duration,
    now: Instant,
) -> WorkerRow {
    let (state, tone) = match (life, told.silent_since) {
        (Life::Gone, _) if heartbeat.state == WorkerState::Stopped => {
            ("stopped".to_owned(), Tone::Faint)
        }
        (Life::Gone, _) => (format!("gone {}", words::age(silent)), Tone::Faint),
        (Life::Stale, _) => (format!("stale {}", words::age(silent)), Tone::Bad),
        (Life::Alive, Some(since)) => {
            let silent = now.saturating_duration_since(since);
            (format!("no answer {}", words::age(silent)), Tone::Bad)
        }
        (Life::Alive, None) if told.refused.is_some() => ("in trouble".to_owned(), Tone::Bad),
        (Life::Alive, None) => {
            let tone =
                if heartbeat.state == WorkerState::Running { Tone::Plain } else { Tone::Warning };
            (heartbeat.state.as_str().to_owned(), tone)
        }
    };
    let answers = life == Life::Alive && told.silent_since.is_none();
    // Its own account is newer than its heartbeat.
    let inflight = if answers && told.at.is_some() {
        u32::try_from(told.running.len()).unwrap_or(u32::MAX)
    } else {
        heartbeat.inflight
    };
    let rates = || told.running.iter().filter_map(|running| running.cpu_rate);
    let cpu = (answers && told.at.is_some()).then(|| rates().fold(0.0, |sum, rate| sum + rate));
    WorkerRow {
        id: heartbeat.worker.clone(),
        state,
        tone,
        answers,
        inflight,
        concurrency: heartbeat.concurrency,
        cpu,
        told,
        heartbeat: heartbeat.clone(),
        silent,
        uptime,
    }
}

fn tasks<'a>(
    worker: &'a WorkerRow,
    narrow: &'a Narrow,
    now: Instant,
) -> impl Iterator<Item = TaskRow> + 'a {
    let since = worker.told.silent_since.or(worker.told.at).filter(|_| !worker.answers);
    let old = since.map(|since| now.saturating_duration_since(since));
    let running = worker.told.running.iter().filter(|task| narrow.wants_task(&worker.id, task));
    running.map(move |running| TaskRow { worker: worker.id.clone(), running: running.clone(), old })
}

fn sort_tasks(tasks: &mut [TaskRow], sort: Sort) {
    // Whole microseconds, so that there is an order.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "such a cast is bounded, and none of these is negative"
    )]
    let micros = |millis: Option<f64>| (millis.unwrap_or(0.0) * 1e3) as u64;
    tasks.sort_by(|one, other| {
        let key = |row: &TaskRow| match sort {
            Sort::Run => Reverse(micros(row.running.runtime_ms)),
            Sort::Cpu => Reverse(micros(row.running.cpu_ms)),
            Sort::Memory => Reverse(row.running.memory_bytes.unwrap_or(0)),
            Sort::Id => Reverse(0),
        };
        key(one).cmp(&key(other)).then_with(|| one.running.id.cmp(&other.running.id))
    });
}

impl TaskRow {
    /// What tells it from every other row.
    pub(super) fn key(&self) -> (WorkerId, TaskId) {
        (self.worker.clone(), self.running.id.clone())
    }

    /// Its handler.
    pub(super) fn name(&self) -> &TaskName {
        &self.running.task
    }

    /// What it is doing, where that is not its progress.
    pub(super) fn state(&self) -> Option<(String, Tone)> {
        if let Some(old) = self.old {
            return Some((format!("{} old", words::age(old)), Tone::Faint));
        }
        if self.running.terminating {
            return Some(("stopping".to_owned(), Tone::Warning));
        }
        let waits = self.running.runtime_ms.is_none();
        waits.then(|| ("to be started".to_owned(), Tone::Faint))
    }

    /// How it runs.
    pub(super) fn kind(&self) -> &'static str {
        match self.running.kind {
            Some(Kind::Inline) => "inline",
            Some(Kind::Isolate) => "isolate",
            None => "-",
        }
    }

    /// How long it has run.
    pub(super) fn run(&self) -> Option<Duration> {
        self.running.runtime_ms.map(millis)
    }

    /// Since its last sign of life; `never` where there was none.
    pub(super) fn checkpoint(&self) -> String {
        match self.running.last_checkpoint_ms_ago {
            Some(_) if self.running.never_checkpointed => "never".to_owned(),
            Some(ago) => words::age(millis(ago)),
            None => "-".to_owned(),
        }
    }

    /// How long its lease holds without a renewal.
    pub(super) fn lease(&self) -> Duration {
        millis(self.running.lease_expires_in_ms)
    }
}

fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default()
}
