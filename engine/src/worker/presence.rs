//! Heartbeats, and the housekeeping that goes along with them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stem_core::control::{Heartbeat, Quiet, WorkerState};
use stem_core::observe::Service;
use stem_core::time::Timestamp;

use super::shared::{InHand, Shared};

/// How often what has expired is removed.
const HOUSEKEEPING: Duration = Duration::from_mins(1);

/// The machine's name.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What the worker says of itself now.
pub(super) fn heartbeat(shared: &Shared) -> Heartbeat {
    let mut queues: BTreeMap<_, _> =
        shared.config.queues.iter().map(|queue| (queue.clone(), 0)).collect();
    let in_hand = shared.in_hand();
    for hand in &in_hand {
        *queues.entry(hand.receipt.queue.clone()).or_default() += 1;
    }
    Heartbeat {
        worker: shared.config.id.clone(),
        boot_id: shared.incarnation,
        namespace: shared.config.namespace.clone(),
        state: shared.worker_state(),
        host: host(),
        pid: std::process::id(),
        started_at: shared.started_at,
        seen_at: Timestamp::default(),
        interval_ms: u64::try_from(shared.config.heartbeat_interval.as_millis())
            .unwrap_or(u64::MAX),
        concurrency: u32::try_from(shared.slots.limit()).unwrap_or(u32::MAX),
        queues,
        tasks: shared.names().to_vec(),
        inflight: u32::try_from(in_hand.len()).unwrap_or(u32::MAX),
        oldest_without_progress: quietest(&in_hand),
    }
}

/// The running attempt whose last checkpoint is the longest ago.
fn quietest(in_hand: &[Arc<InHand>]) -> Option<Quiet> {
    let running = in_hand.iter().filter_map(|hand| {
        let running = hand.running.get()?;
        Some((running.interrupt.since_checkpoint(), running.started_at, hand))
    });
    let (since, started_at, hand) = running.max_by_key(|(since, ..)| *since)?;
    Some(Quiet {
        id: hand.receipt.task.clone(),
        task: hand.name.clone(),
        attempt: hand.attempt,
        started_at,
        last_checkpoint_ms_ago: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Beats until dropped, at its interval, at each change of state, and when other names are served than before.
pub(super) async fn beat(shared: Arc<Shared>) {
    let mut state = shared.state.subscribe();
    loop {
        if let Err(error) = shared.backends.presence.beat(&heartbeat(&shared)).await {
            shared.saw_failure(Service::Presence, &error);
            tracing::debug!(%error, "a heartbeat was not written");
        }
        tokio::select! {
            () = tokio::time::sleep(shared.config.heartbeat_interval) => {}
            () = shared.names_changed.notified() => {}
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// The last heartbeat: says `stopped`.
pub(super) async fn say_goodbye(shared: &Shared) {
    let goodbye = Heartbeat { state: WorkerState::Stopped, ..heartbeat(shared) };
    if let Err(error) = shared.backends.presence.beat(&goodbye).await {
        shared.saw_failure(Service::Presence, &error);
        tracing::debug!(%error, "the last heartbeat was not written");
    }
}

/// Removes what has expired, until dropped. Every worker does it; all of it may be done twice.
pub(super) async fn keep_house(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        let backends = &shared.backends;
        let now = shared.wall();
        let swept = [
            ("records", Service::Results, backends.results.prune().await),
            (
                "revocations",
                Service::Revokes,
                backends.revokes.prune(&shared.config.namespace).await,
            ),
            ("commands", Service::Control, backends.control.prune().await),
            ("tasks that no worker knows", Service::Broker, bury_unroutable(&shared, now).await),
        ];
        for (what, service, result) in swept {
            match result {
                Ok(0) => {}
                Ok(count) => tracing::debug!(count, "removed {what} whose time was over"),
                Err(error) => {
                    shared.saw_failure(service, &error);
                    tracing::debug!(%error, "{what} were not looked through");
                }
            }
        }
        shared.revocations().prune(shared.store_time());
    }
}

/// Gives up tasks whose name no live worker has known for too long. A name that something should serve is known, also
/// while its module is recalled or cannot be had.
async fn bury_unroutable(
    shared: &Shared,
    now: Timestamp,
) -> Result<u64, stem_core::backend::BackendError> {
    if shared.awaits_releases() {
        return Ok(0);
    }
    let (workers, at) = shared.backends.presence.workers(&shared.config.namespace).await?;
    let mut known: Vec<_> = workers
        .into_iter()
        .filter(|worker| worker.is_fresh(at))
        .flat_map(|worker| worker.tasks)
        .collect();
    known.extend(shared.routes().wanted_names().cloned());
    let patience = i64::try_from(shared.config.unroutable_after.as_millis()).unwrap_or(i64::MAX);
    let since = Timestamp::from_unix_millis(now.unix_millis().saturating_sub(patience));
    shared.backends.broker.bury_unroutable(&known, since, shared.records).await
}

#[cfg(test)]
mod tests {
    use stem_core::envelope::Payload;
    use stem_core::id::{TaskName, WorkerId};
    use stem_core::release::{Assignment, AtHand};
    use stem_core::task::TaskState;
    use stem_memory::Memory;

    use super::super::config::WorkerConfig;
    use super::*;
    use crate::clock::SystemClock;
    use crate::{Backends, Client, EnqueueOptions};

    #[tokio::test]
    async fn tasks_whose_release_is_not_at_hand_are_not_given_up() {
        let backends = Backends::all_in_one(Memory::new(Arc::new(SystemClock)));
        let config = WorkerConfig {
            unroutable_after: Duration::ZERO,
            ..WorkerConfig::new(WorkerId::new("w").unwrap())
        };
        let shared = Shared::alone(config, backends.clone());
        let client = Client::new(backends, Arc::new(SystemClock));
        let mut tasks = Vec::new();
        for name in ["job", "stranger"] {
            let name = TaskName::new(name).unwrap();
            let payload = Payload::json("{}");
            tasks.push(client.enqueue(name, payload, EnqueueOptions::default()).await.unwrap().id);
        }
        let later = shared.wall().after(Duration::from_secs(1));
        shared.set_awaits_releases(true);
        assert_eq!(bury_unroutable(&shared, later).await.unwrap(), 0, "nothing is known yet");
        shared.set_awaits_releases(false);
        let wanted = Assignment { version: 1, canary: None };
        shared.change_routes(|routes| {
            routes.change_pushed(|pushed| {
                pushed.insert(TaskName::new("job").unwrap(), AtHand::new(wanted))
            })
        });
        assert_eq!(bury_unroutable(&shared, later).await.unwrap(), 1);
        let mut states = Vec::new();
        for task in &tasks {
            states.push(client.show(task).await.unwrap().unwrap().state);
        }
        assert_eq!(states, [TaskState::Queued, TaskState::Failed]);
    }
}
