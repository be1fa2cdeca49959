//! `stem worker status`: heartbeats as they lie in the store; no worker is asked anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use stem_core::backend::Presence;
use stem_core::control::{Heartbeat, Quiet, WorkerState};
use stem_core::id::{Namespace, WorkerId};
use stem_core::time::Timestamp;
use stem_engine::units;

use super::super::Context;
use crate::args::StatusArgs;
use crate::connect;
use crate::control::millis;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, Written, say, table};

/// How often heartbeats are read while following or waiting.
const LOOK: Duration = Duration::from_millis(250);
/// A worker that was silent for so many times the threshold of a stale one counts as gone.
const GONE: u32 = 10;

/// Whether a worker is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::command) enum Life {
    /// Heard in time.
    Alive,
    /// Not heard in time.
    Stale,
    /// It said goodbye, or was not heard for long.
    Gone,
}

impl Life {
    /// By the store's clock; without a threshold, after three of its intervals.
    pub(in crate::command) fn of(
        heartbeat: &Heartbeat,
        now: Timestamp,
        stale_after: Option<Duration>,
    ) -> Self {
        let patience = stale_after
            .unwrap_or_else(|| Duration::from_millis(heartbeat.interval_ms.saturating_mul(3)));
        let silent = now.since(heartbeat.seen_at);
        if heartbeat.state == WorkerState::Stopped || silent > patience.saturating_mul(GONE) {
            Self::Gone
        } else if silent > patience {
            Self::Stale
        } else {
            Self::Alive
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Stale => "stale",
            Self::Gone => "gone",
        }
    }
}

/// One worker as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'a> {
    status: Life,
    silent_ms: f64,
    #[serde(flatten)]
    heartbeat: &'a Heartbeat,
}

struct Watch<'a> {
    presence: &'a dyn Presence,
    namespace: &'a Namespace,
    wanted: &'a [WorkerId],
    stale_after: Option<Duration>,
    printer: Printer,
}

pub(super) async fn run(context: &Context, args: StatusArgs) -> Outcome {
    let settings =
        context.settings(|flags| flags.namespace.clone_from(&args.namespace.namespace))?;
    let backends = connect::connect(&settings).await?;
    let watch = Watch {
        presence: &*backends.presence,
        namespace: &settings.namespace.value,
        wanted: &args.worker,
        stale_after: args.stale_after,
        printer: Printer::new(args.json.json),
    };
    if args.follow { watch.follow(args.timeout).await } else { watch.snapshot(args.timeout).await }
}

impl Watch<'_> {
    async fn look(&self) -> Result<(Vec<Heartbeat>, Timestamp), CliError> {
        let (mut heartbeats, now) = self.presence.workers(self.namespace).await?;
        heartbeats
            .retain(|heartbeat| self.wanted.is_empty() || self.wanted.contains(&heartbeat.worker));
        Ok((heartbeats, now))
    }

    fn view<'a>(&self, heartbeat: &'a Heartbeat, now: Timestamp) -> View<'a> {
        View {
            status: Life::of(heartbeat, now, self.stale_after),
            silent_ms: millis(now.since(heartbeat.seen_at)),
            heartbeat,
        }
    }

    fn none(&self) -> CliError {
        let whom = if self.wanted.is_empty() {
            "no worker was ever seen".to_owned()
        } else {
            let names: Vec<&str> = self.wanted.iter().map(WorkerId::as_str).collect();
            format!("no worker {} was ever seen", names.join(", "))
        };
        CliError::nothing(
            format!("{whom} in namespace {}", self.namespace),
            "start one with `stem worker start`, or look in another --namespace",
        )
    }

    async fn snapshot(&self, timeout: Option<Duration>) -> Outcome {
        let started = Instant::now();
        let (heartbeats, now) = loop {
            let (heartbeats, now) = self.look().await?;
            let left = timeout.unwrap_or_default().saturating_sub(started.elapsed());
            if !heartbeats.is_empty() || left.is_zero() {
                break (heartbeats, now);
            }
            tokio::time::sleep(left.min(LOOK)).await;
        };
        let views: Vec<View<'_>> =
            heartbeats.iter().map(|heartbeat| self.view(heartbeat, now)).collect();
        self.printer.print(&views, || {
            if views.is_empty() {
                String::new()
            } else {
                table(&HEADER, views.iter().map(View::row))
            }
        })?;
        if views.is_empty() {
            return Err(self.none());
        }
        let unknown: Vec<&str> = self
            .wanted
            .iter()
            .filter(|worker| heartbeats.iter().all(|heartbeat| heartbeat.worker != **worker))
            .map(WorkerId::as_str)
            .collect();
        if unknown.is_empty() {
            return Ok(Ending::Done);
        }
        say(format!("error: never seen in namespace {}: {}", self.namespace, unknown.join(", ")));
        say("hint: `stem worker status` without --worker shows every worker");
        Ok(Ending::Partial)
    }

    /// A line for every heartbeat, for every worker that falls silent, and for every one that the store has forgotten.
    async fn follow(&self, timeout: Option<Duration>) -> Outcome {
        let mut known = Known::default();
        let mut heard = Instant::now();
        let mut begun = false;
        loop {
            let (heartbeats, now) = self.look().await?;
            let news =
                known.see(heartbeats, |heartbeat| Life::of(heartbeat, now, self.stale_after));
            for News { worker, beat } in news {
                if beat {
                    heard = Instant::now();
                }
                let (heartbeat, status) = &known.0[&worker];
                let view = View { status: *status, ..self.view(heartbeat, now) };
                let written = self.printer.print(&view, || {
                    let header = if begun { &[][..] } else { &HEADER };
                    table(header, [view.row()])
                })?;
                begun = true;
                if written == Written::ReaderGone {
                    return Ok(Ending::Done);
                }
            }
            if let Some(timeout) = timeout.filter(|timeout| heard.elapsed() >= *timeout) {
                if known.0.is_empty() {
                    return Err(self.none());
                }
                say(format!("nothing was heard for {}", units::write_duration(timeout)));
                return Ok(Ending::Done);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Each worker as it was last seen.
#[derive(Default)]
struct Known(BTreeMap<WorkerId, (Heartbeat, Life)>);

/// A worker of which there is something to tell.
#[derive(Debug, PartialEq)]
struct News {
    worker: WorkerId,
    /// It said something, and did not only fall silent.
    beat: bool,
}

impl Known {
    /// Takes in what a look found. A worker that was seen before and is not there any more is gone.
    fn see(&mut self, found: Vec<Heartbeat>, life: impl Fn(&Heartbeat) -> Life) -> Vec<News> {
        let mut news = Vec::new();
        for (worker, (_, status)) in &mut self.0 {
            if *status != Life::Gone && found.iter().all(|heartbeat| heartbeat.worker != *worker) {
                *status = Life::Gone;
                news.push(News { worker: worker.clone(), beat: false });
            }
        }
        for heartbeat in found {
            let (worker, seen_at, status) =
                (heartbeat.worker.clone(), heartbeat.seen_at, life(&heartbeat));
            let before = self.0.insert(worker.clone(), (heartbeat, status));
            let beat = before.as_ref().is_none_or(|(old, _)| old.seen_at != seen_at);
            if beat || before.is_some_and(|(_, old)| old != status) {
                news.push(News { worker, beat });
            }
        }
        news
    }
}

const HEADER: [&str; 9] = [
    "WORKER",
    "STATUS",
    "STATE",
    "SEEN",
    "INFLIGHT",
    "CONCURRENCY",
    "WITHOUT PROGRESS",
    "QUEUES",
    "TASKS",
];

impl View<'_> {
    fn row(&self) -> Vec<String> {
        let heartbeat = self.heartbeat;
        let queues: Vec<String> = heartbeat
            .queues
            .iter()
            .map(|(queue, inflight)| format!("{queue}:{inflight}"))
            .collect();
        let tasks: Vec<&str> =
            heartbeat.tasks.iter().map(stem_core::id::TaskName::as_str).collect();
        vec![
            heartbeat.worker.to_string(),
            self.status.as_str().to_owned(),
            heartbeat.state.as_str().to_owned(),
            format!("{:.1}s ago", self.silent_ms / 1e3),
            heartbeat.inflight.to_string(),
            heartbeat.concurrency.to_string(),
            heartbeat.oldest_without_progress.as_ref().map_or_else(|| "-".to_owned(), quiet),
            queues.join(","),
            tasks.join(","),
        ]
    }
}

/// The attempt that has gone without progress for the longest time, in a cell.
fn quiet(quiet: &Quiet) -> String {
    let seconds = Duration::from_millis(quiet.last_checkpoint_ms_ago).as_secs_f64();
    format!("{seconds:.1}s {} {}", quiet.task, quiet.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stem_core::id::Incarnation;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    fn heartbeat() -> Heartbeat {
        Heartbeat {
            worker: WorkerId::new("w").unwrap(),
            boot_id: Incarnation(uuid::Uuid::nil()),
            namespace: Namespace::new("stem").unwrap(),
            state: WorkerState::Running,
            host: "h".into(),
            pid: 1,
            started_at: at(0),
            seen_at: at(0),
            interval_ms: 1_000,
            concurrency: 1,
            queues: BTreeMap::new(),
            tasks: Vec::new(),
            inflight: 0,
            oldest_without_progress: None,
        }
    }

    #[test]
    fn every_worker_is_alive_stale_or_gone() {
        let mut heartbeat = heartbeat();
        let long = Some(Duration::from_mins(1));
        assert_eq!(Life::of(&heartbeat, at(3_000), None), Life::Alive);
        assert_eq!(Life::of(&heartbeat, at(3_001), None), Life::Stale);
        assert_eq!(Life::of(&heartbeat, at(30_001), None), Life::Gone);
        assert_eq!(Life::of(&heartbeat, at(30_001), long), Life::Alive);
        assert_eq!(Life::of(&heartbeat, at(10), Some(Duration::from_millis(9))), Life::Stale);
        heartbeat.state = WorkerState::Stopped;
        assert_eq!(Life::of(&heartbeat, at(1), None), Life::Gone);
    }
    #[test]
    fn news_are_beats_changes_and_workers_that_the_store_forgot() {
        let mut known = Known::default();
        let mut see = |heartbeats: &[Heartbeat], now: i64| -> Vec<(bool, Life)> {
            let news = known.see(heartbeats.to_vec(), |beat| Life::of(beat, at(now), None));
            news.iter().map(|news| (news.beat, known.0[&news.worker].1)).collect()
        };
        let (first, second) = (heartbeat(), Heartbeat { seen_at: at(5_000), ..heartbeat() });
        assert_eq!(see(std::slice::from_ref(&first), 1), [(true, Life::Alive)]);
        assert_eq!(see(std::slice::from_ref(&first), 2), []);
        assert_eq!(see(std::slice::from_ref(&first), 4_000), [(false, Life::Stale)]);
        assert_eq!(see(std::slice::from_ref(&second), 5_000), [(true, Life::Alive)]);
        assert_eq!(see(&[], 5_001), [(false, Life::Gone)]);
        assert_eq!(see(&[], 5_002), []);
        assert_eq!(see(std::slice::from_ref(&second), 5_003), [(false, Life::Alive)]);
    }
}
