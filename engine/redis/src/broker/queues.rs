//! What operators do to queues: count, pause, purge, give up what no worker knows.

use std::collections::BTreeMap;

use redis::Value;
use stem_core::backend::Records;
use stem_core::backend::broker::{PURGED, Pause, QueueStatus};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::outcome::{Failure, FailureKind};
use stem_core::time::Timestamp;

use super::flag;
use crate::fault::Fault;
use crate::read::{self, Fields};
use crate::{Inner, script};

/// The most that one script removes, so that none keeps the server for long.
const STEP: usize = 1_000;

/// Deliveries of one name that one look for unroutable ones sees.
const LOOKED_AT: usize = 2_000;

pub(super) async fn statuses(inner: &Inner, records: Records) -> Result<Vec<QueueStatus>, Fault> {
    let mut call = inner.call(&script::QUEUES);
    call.arg(flag(records));
    let mut statuses = Vec::new();
    for row in read::list(inner.run(&script::QUEUES, &call).await?)? {
        statuses.push(status(row)?);
    }
    statuses.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(statuses)
}

fn status(row: Value) -> Result<QueueStatus, Fault> {
    let mut row = Fields::of(row)?;
    let name = QueueName::new(&read::text(row.next()?)?)?;
    let pause = read::text(row.next()?)?;
    let paused: Option<Pause> =
        if pause.is_empty() { None } else { Some(serde_json::from_str(&pause)?) };
    let (delayed, inflight) = (read::large(row.next()?)?, read::large(row.next()?)?);
    let mut names: BTreeMap<TaskName, u64> = BTreeMap::new();
    let mut rest = row.rest();
    while let (Some(name), Some(count)) = (rest.next(), rest.next()) {
        *names.entry(TaskName::new(&read::text(name)?)?).or_default() += read::large(count)?;
    }
    let names: Vec<_> = names.into_iter().collect();
    let ready = names.iter().map(|(_, count)| count).sum();
    Ok(QueueStatus { name, ready, delayed, inflight, paused, names })
}

pub(super) async fn purge(
    inner: &Inner,
    queue: &QueueName,
    records: Records,
) -> Result<Vec<TaskId>, Fault> {
    let mut purged = Vec::new();
    loop {
        let most = STEP.min(PURGED - purged.len());
        let mut call = inner.call(&script::PURGE);
        call.arg(flag(records)).arg(queue.as_str()).arg(most);
        let mut answer = Fields::of(inner.run(&script::PURGE, &call).await?)?;
        let is_more_due = read::int(answer.next()?)? == 1;
        let step = read::list(answer.next()?)?;
        let last = step.len() < most && !is_more_due;
        for task in step {
            purged.push(TaskId::new(&read::text(task)?)?);
        }
        if last || purged.len() == PURGED {
            return Ok(purged);
        }
    }
}

pub(super) async fn set_paused(
    inner: &Inner,
    queue: &QueueName,
    pause: Option<Pause>,
) -> Result<bool, Fault> {
    let mut call = inner.call(&script::PAUSE);
    call.arg(queue.as_str());
    match &pause {
        Some(pause) => {
            call.arg(serde_json::to_string(pause)?).arg(pause.reason.as_deref().unwrap_or(""));
        }
        None => {
            call.arg("").arg("");
        }
    }
    Ok(read::int(inner.run(&script::PAUSE, &call).await?)? == 1)
}

pub(super) async fn bury_unroutable(
    inner: &Inner,
    known: &[TaskName],
    since: Timestamp,
    records: Records,
) -> Result<u64, Fault> {
    let mut buried = 0;
    for queue in statuses(inner, records).await? {
        for (name, _) in queue.names.iter().filter(|(name, _)| !known.contains(name)) {
            let message = format!("no worker knew the task name {name} in time");
            let failure = Failure::new(FailureKind::BadModule, "unroutable", &message);
            let mut call = inner.call(&script::BURY_UNROUTABLE);
            call.arg(flag(records))
                .arg(queue.name.as_str())
                .arg(name.as_str())
                .arg(since.unix_millis())
                .arg(LOOKED_AT)
                .arg(serde_json::to_string(&failure)?);
            loop {
                let some = read::large(inner.run(&script::BURY_UNROUTABLE, &call).await?)?;
                buried += some;
                if usize::try_from(some).unwrap_or(0) < LOOKED_AT {
                    break;
                }
            }
        }
    }
    Ok(buried)
}
