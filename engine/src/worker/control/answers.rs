//! What each command does, and what is said of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};
use stem_core::backend::broker::Pause;
use stem_core::backend::{BackendError, ErrorClass};
use stem_core::control::{Command, Drain, Order, REVOCATIONS, WorkerState};
use stem_core::id::{Digest, QueueName, TaskId};
use stem_core::machine::lifecycle;
use stem_core::observe::Service;
use stem_core::outcome::StopHow;
use stem_core::revoke::{Revocation, RevocationChange, Version, module_of};
use stem_core::seal::{Purpose, Role};
use stem_core::time::Timestamp;
use tokio::task::JoinSet;

use super::super::routes::Row;
use super::super::shared::{InHand, Shared};
use super::super::{presence, revocations};
use super::quotas;
use crate::policy::words;

/// The most revocations that a reply lists, the newest; a worker may know a million.
const REVOKED_SHOWN: usize = 1_000;
/// How long a reply to a terminate waits for the end beyond the grace, before it says that it is still under way.
const TERMINATE_WAIT: Duration = Duration::from_secs(2);

/// Does what is asked; answers with the reply's payload.
pub(super) async fn execute(shared: &Arc<Shared>, command: Command) -> Result<Value, BackendError> {
    match command.order {
        Order::Ping {} => Ok(ping(shared)),
        Order::Inspect { include_revoked } => inspect(shared, include_revoked).await,
        Order::Stats {} => stats(shared).await,
        Order::Revoke { revocations } if revocations.len() > REVOCATIONS => {
            let count = revocations.len();
            let problem = format!(
                "it names {count} revocations; at most {REVOCATIONS} are taken from one command"
            );
            Err(BackendError::new(
                ErrorClass::Refused,
                shared.config.id.as_str(),
                "revoke",
                problem,
            ))
        }
        Order::Revoke { revocations } => Ok(revoke(shared, revocations).await),
        Order::Shutdown { mode, grace_ms } => {
            tracing::info!(mode = mode.as_str(), requester = command.requester, request = %command.request_id, "shutdown asked");
            Ok(shutdown(shared, mode, grace_ms))
        }
        Order::Pause { queues, reason } => {
            tracing::info!(?queues, reason, requester = command.requester, "pause asked");
            let pause = Pause { reason, since: shared.wall() };
            set_paused(shared, &queues, Some(&pause)).await
        }
        Order::Resume { queues, reason } => {
            tracing::info!(?queues, reason, requester = command.requester, "resume asked");
            set_paused(shared, &queues, None).await
        }
    }
}

fn ping(shared: &Shared) -> Value {
    json!({
        "timestamp": shared.wall(),
        "state": shared.worker_state(),
        "bootId": shared.incarnation,
        "queues": shared.config.queues,
        "inflight": shared.inflight(),
    })
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A failure of the broker is told to those who watch too.
fn seen<T>(shared: &Shared, answer: Result<T, BackendError>) -> Result<T, BackendError> {
    answer.inspect_err(|error| shared.saw_failure(Service::Broker, error))
}

async fn paused_queues(shared: &Shared) -> Result<Vec<QueueName>, BackendError> {
    let queues = seen(shared, shared.backends.broker.queues().await)?;
    Ok(queues.into_iter().filter(|queue| queue.paused.is_some()).map(|queue| queue.name).collect())
}

fn active(shared: &Shared, hand: &InHand) -> Value {
    let now = shared.now();
    let held_until = Timestamp::from_unix_millis(hand.held_until.load(Ordering::Relaxed));
    let mut row = Map::new();
    row.insert("id".to_owned(), json!(hand.receipt.task));
    row.insert("task".to_owned(), json!(hand.name));
    row.insert("queue".to_owned(), json!(hand.receipt.queue));
    row.insert("attempt".to_owned(), json!(hand.attempt));
    if shared.quotas.is_some() {
        row.insert("tenant".to_owned(), json!(hand.tenant));
    }
    row.insert("leaseExpiresInMs".to_owned(), json!(millis(now.until(held_until))));
    if let Some(running) = hand.running.get() {
        row.insert("kind".to_owned(), json!(running.kind));
        row.insert("startedAt".to_owned(), json!(running.started_at));
        row.insert("runtimeMs".to_owned(), json!(millis(now.since(running.since))));
        row.insert(
            "lastCheckpointMsAgo".to_owned(),
            json!(millis(running.interrupt.since_checkpoint())),
        );
        if !running.interrupt.has_checkpointed() {
            row.insert("neverCheckpointed".to_owned(), json!(true));
        }
        if let Some(usage) = running.interrupt.usage() {
            row.insert("memoryBytes".to_owned(), json!(usage.peak_memory_bytes));
            row.insert("cpuMs".to_owned(), json!(usage.cpu_ms));
        }
    }
    if let Some(progress) = shared.progress.newest(&hand.receipt) {
        row.insert("progress".to_owned(), json!(progress));
    }
    if hand.is_stopping() {
        row.insert("terminating".to_owned(), json!(true));
    }
    Value::Object(row)
}

async fn inspect(shared: &Shared, include_revoked: bool) -> Result<Value, BackendError> {
    let mut hands = shared.in_hand();
    hands.sort_by(|a, b| a.receipt.task.cmp(&b.receipt.task));
    let mut payload = json!({
        "timestamp": shared.wall(),
        "state": shared.worker_state(),
        "active": hands.iter().map(|hand| active(shared, hand)).collect::<Vec<_>>(),
        "pausedQueues": paused_queues(shared).await?,
    });
    if let Some(hardening) = &shared.config.hardening {
        payload["hardening"] = json!(hardening);
    }
    if !shared.config.classes.is_empty() {
        payload["classes"] = json!(shared.config.classes);
    }
    if let Some(quotas) = &shared.quotas {
        quotas::inspect(quotas, &mut payload);
    }
    if let Some(releases) = shared.releases() {
        payload["releases"] = json!(releases);
    }
    if include_revoked {
        let now = shared.store_time();
        // Written as JSON when others may look again.
        let (newest, count) = {
            let revocations = shared.revocations();
            (revocations.newest(now, REVOKED_SHOWN), revocations.count())
        };
        payload["revoked"] = json!(newest);
        payload["revokedCount"] = json!(count);
    }
    Ok(payload)
}

/// Resident memory of this process.
fn rss_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

async fn stats(shared: &Shared) -> Result<Value, BackendError> {
    let now = shared.wall();
    let known = shared.names();
    let in_broker = seen(shared, shared.backends.broker.queues().await)?;
    let mut unroutable = 0;
    let queues: Vec<_> = shared
        .config
        .queues
        .iter()
        .map(|name| {
            let status = in_broker.iter().find(|queue| queue.name == *name);
            let names = status.map(|status| status.names.as_slice()).unwrap_or_default();
            unroutable += names
                .iter()
                .filter(|(name, _)| !known.contains(name))
                .map(|(_, count)| count)
                .sum::<u64>();
            json!({
                "name": name,
                "depth": status.map_or(0, |status| status.ready),
                "inflight": status.map_or(0, |status| status.inflight),
                "paused": status.is_some_and(|status| status.paused.is_some()),
            })
        })
        .collect();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &shared.counters;
    let rows = shared.routes().rows();
    let modules: Vec<_> = rows
        .iter()
        .filter_map(|Row { task, handler, percent }| {
            let module = handler.module()?;
            let mut row = json!({ "task": task, "digest": module.digest });
            if let Some(percent) = percent {
                row["canaryPercent"] = json!(percent);
            }
            if let Some(version) = module.version {
                row["version"] = json!(version);
            }
            let grants = handler.granted().map(|granted| words::all(&granted.grants));
            if let Some(grants) = grants.filter(|grants| !grants.is_empty()) {
                row["grants"] = json!(grants);
            }
            Some(row)
        })
        .collect();
    let autoscale = shared.config.autoscale.as_ref();
    let mut payload = json!({
        "timestamp": now,
        "state": shared.worker_state(),
        "host": presence::host(),
        "pid": std::process::id(),
        "startedAt": shared.started_at,
        "uptimeSeconds": now.since(shared.started_at).as_secs_f64(),
        "namespace": shared.config.namespace,
        "queues": queues,
        "unroutable": unroutable,
        "inflight": shared.inflight(),
        "activeConcurrency": shared.slots.limit(),
        "minConcurrency": autoscale.map_or(shared.config.concurrency, |rules| rules.min),
        "maxConcurrency": shared.config.concurrency,
        "autoscale": autoscale.is_some(),
        "prefetch": shared.config.prefetch,
        "counters": {
            "started": count(&counters.started),
            "succeeded": count(&counters.succeeded),
            "failed": count(&counters.failed),
            "retried": count(&counters.retried),
            "revoked": count(&counters.revoked),
            "terminated": count(&counters.terminated),
            "recycled": count(&counters.recycled),
            "leaseLost": count(&counters.lease_lost),
        },
        "modules": modules,
        "revocations": {
            "count": shared.revocations().count(),
            "policy": shared.config.revoke_policy.as_str(),
            "lastReadMsAgo": shared.revocations_age().map(millis),
            "stale": shared.is_blind(),
        },
    });
    let renewed = shared.last_renewal.load(Ordering::Relaxed);
    if renewed != 0 {
        payload["lastLeaseRenewalMsAgo"] =
            json!(millis(shared.now().since(Timestamp::from_unix_millis(renewed))));
    }
    if shared.keys.is_configured() {
        payload["signing"] = signing(shared);
    }
    if let Some(auditor) = &shared.audit {
        payload["audit"] =
            json!({ "file": auditor.path().display().to_string(), "lost": auditor.lost() });
        if let Some(problem) = auditor.problem() {
            payload["audit"]["problem"] = json!(problem);
        }
    }
    if let Some(hardening) = &shared.config.hardening {
        payload["hardening"] = json!(hardening);
    }
    if !shared.config.classes.is_empty() {
        payload["classes"] = json!(shared.config.classes);
    }
    if let Some(problem) = shared.config.policy.problem() {
        payload["policyProblem"] = json!(problem.to_string());
    }
    if let Some(quotas) = &shared.quotas {
        payload["quotas"] = quotas::stats(quotas);
    }
    if let Some(rss) = rss_bytes() {
        payload["rssBytes"] = json!(rss);
    }
    if let Some(runtime) = &shared.threads.isolates {
        payload["sandbox"] = json!(match runtime.allocator() {
            stem_isolate::config::Allocator::Pool { pagemap_scan: true } => "pool, page-map scan",
            stem_isolate::config::Allocator::Pool { pagemap_scan: false } => "pool",
            stem_isolate::config::Allocator::OnDemand => "on demand",
        });
    }
    Ok(payload)
}

/// Whom this worker believes, and what it asks to be signed.
fn signing(shared: &Shared) -> Value {
    let (keys, now) = (&shared.keys, shared.wall());
    let level = |purpose| keys.level(purpose).as_str();
    let rows: Vec<_> = keys
        .rows(now)
        .into_iter()
        .map(|row| {
            json!({"id": row.id, "algorithm": row.algorithm, "roles": row.roles, "state": row.state})
        })
        .collect();
    let mut signing = json!({
        "commands": level(Purpose::Command),
        "replies": level(Purpose::Reply),
        "tasks": level(Purpose::Task),
        "keys": rows,
    });
    if let Some(key) = keys.signer(Role::Worker, shared.config.namespace.as_str(), now) {
        signing["signsWith"] = json!(key);
    }
    if let Some(problem) = keys.problem() {
        signing["problem"] = json!(problem);
    }
    signing
}

async fn revoke(shared: &Arc<Shared>, revocations: Vec<Revocation>) -> Value {
    let now = shared.store_time();
    let (mut applied, mut inflight, mut ignored, mut expired) = (vec![], vec![], vec![], vec![]);
    let mut waiting = JoinSet::new();
    for revocation in revocations {
        let task = revocation.task_id.clone();
        if revocation.expired(now) {
            expired.push(task);
            continue;
        }
        // What follows the store may have been faster than the command; that is not a reason to ignore it.
        let version = revocation.version;
        let terminate = revocation.request.terminate;
        let grace = revocation.request.grace_ms.map(Duration::from_millis);
        let grace = grace.unwrap_or(shared.config.terminate_grace);
        let build = module_of(&task);
        let on_build: BTreeSet<TaskId> = build.map_or_else(BTreeSet::new, |build| {
            let hands = shared.in_hand_on(&build);
            hands.iter().map(|hand| hand.receipt.task.clone()).collect()
        });
        // Then it may have ended the attempt, too.
        let ended_by_it = shared
            .revoked_end(&task)
            .is_some_and(|end| end.version == Some(version) && end.how != StopHow::BeforeStart);
        let in_hand = ended_by_it || !shared.in_hand_of(&task).is_empty();
        revocations::apply(shared, RevocationChange::Revoked(revocation));
        let in_force = shared.revocations().get(&task, now).map(|revocation| revocation.version);
        if in_force == Some(version) {
            applied.push(task.clone());
        } else {
            ignored.push(task.clone());
        }
        if in_hand {
            inflight.push(task.clone());
        }
        if let Some(build) = build {
            let ended = shared.ends_by(version).into_iter().map(|end| end.task);
            inflight.extend(ended.chain(on_build).collect::<BTreeSet<_>>());
            if terminate {
                let shared = Arc::clone(shared);
                let patience = grace + TERMINATE_WAIT;
                waiting.spawn(async move { ended_on(&shared, &build, version, patience).await });
            }
        } else if terminate {
            let shared = Arc::clone(shared);
            let patience = grace + TERMINATE_WAIT;
            waiting.spawn(async move {
                ended(&shared, task, patience).await.into_iter().collect::<Vec<_>>()
            });
        }
    }
    let mut terminated = Vec::new();
    while let Some(ended) = waiting.join_next().await {
        terminated.extend(ended.into_iter().flatten());
    }
    json!({ "applied": applied, "inflight": inflight, "ignored": ignored, "expired": expired, "terminated": terminated })
}

/// Waits until a task is out of this worker's hands, and tells how it was revoked, if it was.
async fn ended(shared: &Shared, task: TaskId, patience: Duration) -> Option<Value> {
    let mut changes = shared.in_hand_changed.subscribe();
    let gone =
        async { while !shared.in_hand_of(&task).is_empty() && changes.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(patience, gone).await;
    let end = shared.revoked_end(&task)?;
    Some(json!({ "id": end.task, "how": end.how, "elapsedMs": end.elapsed_ms }))
}

/// Waits until nothing in this worker's hands is to run on a build that was recalled, and tells how what ran on it ended.
async fn ended_on(
    shared: &Shared,
    build: &Digest,
    recall: Version,
    patience: Duration,
) -> Vec<Value> {
    let mut changes = shared.in_hand_changed.subscribe();
    let gone =
        async { while !shared.in_hand_on(build).is_empty() && changes.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(patience, gone).await;
    let ends = shared.ends_by(recall);
    ends.into_iter()
        .map(|end| json!({ "id": end.task, "how": end.how, "elapsedMs": end.elapsed_ms }))
        .collect()
}

fn shutdown(shared: &Shared, mode: Drain, grace_ms: Option<u64>) -> Value {
    let before = shared.draining();
    shared
        .tell(lifecycle::Event::ShutdownAsked { mode, grace: grace_ms.map(Duration::from_millis) });
    let mut payload = json!({
        "mode": before.max(Some(mode)),
        "state": WorkerState::Draining,
        "active": shared.inflight(),
    });
    if before.is_some() {
        payload["already"] = json!(before);
    }
    payload
}

async fn set_paused(
    shared: &Shared,
    queues: &[QueueName],
    pause: Option<&Pause>,
) -> Result<Value, BackendError> {
    // Every worker is asked, and the first has done it for all; so each answers with what holds now, and not with what it
    // changed.
    for queue in queues {
        seen(shared, shared.backends.broker.set_paused(queue, pause.cloned()).await)?;
    }
    Ok(json!({ "updated": queues, "paused": paused_queues(shared).await? }))
}
