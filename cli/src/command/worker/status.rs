//! `stem worker status`: heartbeats as they lie in the store; no worker is asked anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use stem_core::backend::Presence;
use stem_core::control::{Heartbeat, WorkerState};
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
enum Life {
    Alive,
    Stale,
    Gone,
}

impl Life {
    fn of(heartbeat: &Heartbeat, now: Timestamp, stale_after: Option<Duration>) -> Self {
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

    /// A line for every heartbeat and for every worker that falls silent.
    async fn follow(&self, timeout: Option<Duration>) -> Outcome {
        let mut known: BTreeMap<WorkerId, (Timestamp, Life)> = BTreeMap::new();
        let mut heard = Instant::now();
        loop {
            let (heartbeats, now) = self.look().await?;
            for heartbeat in &heartbeats {
                let view = self.view(heartbeat, now);
                let news = (heartbeat.seen_at, view.status);
                if known.get(&heartbeat.worker) == Some(&news) {
                    continue;
                }
                if known
                    .get(&heartbeat.worker)
                    .is_none_or(|(seen_at, _)| *seen_at != heartbeat.seen_at)
                {
                    heard = Instant::now();
                }
                known.insert(heartbeat.worker.clone(), news);
                if self.printer.print(&view, || view.row().join("  "))? == Written::ReaderGone {
                    return Ok(Ending::Done);
                }
            }
            if let Some(timeout) = timeout.filter(|timeout| heard.elapsed() >= *timeout) {
                if known.is_empty() {
                    return Err(self.none());
                }
                say(format!("nothing was heard for {}", units::write_duration(timeout)));
                return Ok(Ending::Done);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

const HEADER: [&str; 8] =
    ["WORKER", "STATUS", "STATE", "SEEN", "INFLIGHT", "CONCURRENCY", "QUEUES", "TASKS"];

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
            queues.join(","),
            tasks.join(","),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stem_core::id::Incarnation;

    #[test]
    fn every_worker_is_alive_stale_or_gone() {
        let at = Timestamp::from_unix_millis;
        let mut heartbeat = Heartbeat {
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
        };
        let long = Some(Duration::from_mins(1));
        assert_eq!(Life::of(&heartbeat, at(3_000), None), Life::Alive);
        assert_eq!(Life::of(&heartbeat, at(3_001), None), Life::Stale);
        assert_eq!(Life::of(&heartbeat, at(30_001), None), Life::Gone);
        assert_eq!(Life::of(&heartbeat, at(30_001), long), Life::Alive);
        assert_eq!(Life::of(&heartbeat, at(10), Some(Duration::from_millis(9))), Life::Stale);
        heartbeat.state = WorkerState::Stopped;
        assert_eq!(Life::of(&heartbeat, at(1), None), Life::Gone);
    }
}
