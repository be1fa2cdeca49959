//! Producers and operators: what clients do, each until it is done.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stem_core::backend::broker::Pause;
use stem_core::backend::control::Position;
use stem_core::backend::dead_letter::DeadFilter;
use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Answer, Command, Order};
use stem_core::envelope::Priority;
use stem_core::id::{QueueName, RequestId, TaskId, TaskName, WorkerId};
use stem_core::retry::RetryPolicy;
use stem_core::revoke::{RevokeRequest, Version};
use stem_core::time::Timestamp;
use stem_engine::{Client, EnqueueOptions};

use crate::desk::Desk;
use crate::dice::{self, Dice};
use crate::fact::Fact;
use crate::host::namespace;
use crate::plan::Planned;
use crate::script::NAME;

/// Most dead letters that one replay takes.
const REPLAYED: usize = 1_000;

/// What clients go by: the world's time.
fn now(desk: &Desk) -> Timestamp {
    desk.now().shown()
}

fn until(now: Timestamp, ms: Option<u64>) -> Option<Timestamp> {
    ms.map(|ms| now.after(Duration::from_millis(ms)))
}

/// A pause of 100 to 500 ms, by the dice.
async fn pause(dice: &mut Dice) {
    tokio::time::sleep(Duration::from_millis(dice.between(100, 500))).await;
}

/// Enqueues a task, again and again until the broker says that it is there.
pub async fn produce(client: Client, desk: Arc<Desk>, task: Planned) {
    let now = now(&desk);
    let options = EnqueueOptions {
        queue: task.queue,
        priority: Priority::new(task.priority).expect("0 to 9"),
        not_before: until(now, task.delay),
        expires_at: until(now, task.expires),
        // No jitter: real delays are asked for by the scripts.
        retry: RetryPolicy { max_retries: task.retries, base_ms: 0, factor: 1, cap_ms: 0 },
        timeout: task.timeout.map(Duration::from_millis),
        id: Some(task.id.clone()),
        ..EnqueueOptions::default()
    };
    let name = TaskName::new(NAME).expect("a constant that follows the rules");
    let envelope =
        client.envelope(name, task.script.payload(), options).expect("a plan's task is valid");
    let mut dice = Dice::numbered(dice::hash(task.id.as_str()), &[]);
    desk.tell(Fact::Tried { task: task.id.clone() });
    while client.enqueue_all(std::slice::from_ref(&envelope)).await.is_err() {
        pause(&mut dice).await;
    }
    desk.tell(Fact::Acknowledged { task: task.id });
}

/// Sends a command until it is stored or over, and reads replies until it is over.
pub async fn order(
    client: Client,
    desk: Arc<Desk>,
    id: RequestId,
    targets: Option<Vec<WorkerId>>,
    order: Order,
    lives: u64,
) {
    let issued_at = now(&desk);
    let expires_at = issued_at.after(Duration::from_millis(lives));
    let shows = matches!(order, Order::Inspect { include_revoked: true });
    let command = Command {
        request_id: id.clone(),
        namespace: namespace(),
        targets,
        order,
        issued_at,
        expires_at,
        requester: "sim".to_owned(),
    };
    let control = &client.backends().control;
    let mut dice = Dice::numbered(dice::hash(id.as_str()), &[]);
    let frame = CommandFrame::plain(&command);
    while control.send(&frame).await.is_err() {
        pause(&mut dice).await;
        if now(&desk) >= expires_at {
            return;
        }
    }
    let mut after = Position::default();
    loop {
        // One look more when it is over: who answered in time is heard.
        let left = now(&desk).until(expires_at);
        let Ok(replies) = control.replies(&namespace(), &id, after, left).await else {
            pause(&mut dice).await;
            if left.is_zero() {
                return;
            }
            continue;
        };
        for (position, text) in replies {
            after = position;
            let reply = wire::reply(text.as_bytes()).expect("workers write what can be read");
            let worker = reply.worker.clone();
            if shows && let Answer::Ok { payload } = &reply.answer {
                let versions = shown(payload);
                desk.tell(Fact::Shows { worker: worker.clone(), versions });
            }
            desk.tell(Fact::Answered { id: id.clone(), worker });
        }
        if left.is_zero() {
            return;
        }
    }
}

/// What a worker lists as revoked.
fn shown(payload: &Value) -> Vec<(TaskId, Version)> {
    let listed = payload["revoked"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |entry: &Value| {
        let task = TaskId::new(entry["taskId"].as_str()?).ok()?;
        Some((task, Version(entry["version"].as_u64()?)))
    };
    listed.iter().filter_map(one).collect()
}

/// Stores revocations until the store says so, then tells the workers.
pub async fn revoke(
    client: Client,
    desk: Arc<Desk>,
    id: RequestId,
    tasks: Vec<TaskId>,
    request: RevokeRequest,
    expires: Option<u64>,
) {
    let mut dice = Dice::numbered(dice::hash(id.as_str()), &[]);
    let from = match expires {
        None => now(&desk),
        Some(_) => loop {
            match client.backends().revokes.time().await {
                Ok(time) => break time.expect("the simulated store has a clock"),
                Err(_) => pause(&mut dice).await,
            }
        },
    };
    let request = RevokeRequest { expires_at: until(from, expires), ..request };
    let requests: Vec<_> = tasks.into_iter().map(|task| (task, request.clone())).collect();
    let revocations = loop {
        match client.revoke(&namespace(), &requests).await {
            Ok(revocations) => break revocations,
            Err(_) => pause(&mut dice).await,
        }
    };
    for revocation in &revocations {
        let (task, version) = (revocation.task_id.clone(), revocation.version);
        desk.tell(Fact::RevokeAcknowledged { task, version });
    }
    order(client, desk, id, None, Order::Revoke { revocations }, 5_000).await;
}

/// Takes a revocation back, until the store says so.
pub async fn undo(client: Client, task: TaskId) {
    let mut dice = Dice::numbered(dice::hash(task.as_str()), &[1]);
    while client.backends().revokes.undo(&namespace(), &task).await.is_err() {
        pause(&mut dice).await;
    }
}

/// Pauses a queue or resumes it, until the broker says so.
pub async fn set_paused(client: Client, desk: Arc<Desk>, queue: QueueName, paused: bool) {
    let mut dice = Dice::numbered(dice::hash(queue.as_str()), &[2]);
    let word = paused.then(|| Pause { reason: None, since: now(&desk) });
    while client.backends().broker.set_paused(&queue, word.clone()).await.is_err() {
        pause(&mut dice).await;
    }
}

/// Replays every dead letter there is. One try: what fails is left where it is. If it `must`, it is tried until it works.
pub async fn replay(client: Client, must: bool) {
    let filter = DeadFilter { limit: REPLAYED, ..DeadFilter::default() };
    let mut dice = Dice::numbered(3, &[]);
    loop {
        if let Ok(letters) = client.backends().dead_letters.list(&filter).await {
            let tasks: Vec<TaskId> = letters.into_iter().map(|letter| letter.task).collect();
            if tasks.is_empty() || client.replay(&tasks).await.is_ok() {
                return;
            }
        }
        if !must {
            return;
        }
        pause(&mut dice).await;
    }
}
