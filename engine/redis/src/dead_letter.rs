//! [`DeadLetters`] on Redis. A dead letter is the delivery's own hash in another phase; only its place changes.

use std::collections::HashSet;

use async_trait::async_trait;
use redis::Value;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, DeadLetters, Replayed};
use stem_core::backend::{BackendError, Records, ServiceId};
use stem_core::envelope::wire;
use stem_core::id::{LeaseToken, QueueName, TaskId, TaskName};
use stem_core::settlement::DeadReason;

use crate::fault::Fault;
use crate::read::{self, Fields};
use crate::records::histories;
use crate::{Inner, Redis, script};

/// The most that one script changes or looks at, so that none keeps the server for long.
const ITEMS: usize = 200;

/// A dead letter, and its place among those of one moment.
fn letter(row: Value) -> Result<(DeadLetter, i64), Fault> {
    let mut row = Fields::of(row)?;
    let task = TaskId::new(&read::text(row.next()?)?)?;
    let queue = QueueName::new(&read::text(row.next()?)?)?;
    let name = TaskName::new(&read::text(row.next()?)?)?;
    let reason = serde_json::from_value(serde_json::Value::String(read::text(row.next()?)?))?;
    let failure = serde_json::from_str(&read::text(row.next()?)?)?;
    let deliveries = read::small(row.next()?)?;
    let token = LeaseToken(read::large(row.next()?)?);
    let dead_at = read::time(row.next()?)?;
    let place = read::int(row.next()?)?;
    let envelope = read::bytes(row.next()?)?.unwrap_or_default();
    let history = histories(row.next()?)?;
    let letter = DeadLetter {
        task,
        queue,
        name,
        reason,
        failure,
        history,
        deliveries,
        token,
        dead_at,
        envelope,
    };
    Ok((letter, place))
}

impl Inner {
    async fn dead_by_task(&self, filter: &DeadFilter) -> Result<Vec<(DeadLetter, i64)>, Fault> {
        let mut found = Vec::new();
        for tasks in filter.tasks.chunks(ITEMS) {
            let mut call = self.call(&script::DEAD_FETCH);
            for task in tasks {
                call.arg(task.as_str());
            }
            for row in read::list(self.run(&script::DEAD_FETCH, &call).await?)? {
                found.push(letter(row)?);
            }
        }
        found.retain(|(letter, _)| {
            filter.queue.as_ref().is_none_or(|queue| *queue == letter.queue)
                && filter.name.as_ref().is_none_or(|name| *name == letter.name)
                && filter.reason.is_none_or(|reason| reason == letter.reason)
                && filter.since.is_none_or(|since| letter.dead_at >= since)
        });
        Ok(found)
    }

    async fn dead_by_time(&self, filter: &DeadFilter) -> Result<Vec<(DeadLetter, i64)>, Fault> {
        let mut found = Vec::new();
        let mut offset = 0;
        while found.len() < filter.limit {
            let mut call = self.call(&script::DEAD_LIST);
            call.arg(
                filter.since.map_or_else(|| "-inf".to_owned(), |at| at.unix_millis().to_string()),
            )
            .arg(offset)
            .arg(ITEMS)
            .arg(filter.limit - found.len())
            .arg(filter.queue.as_ref().map_or("", QueueName::as_str))
            .arg(filter.name.as_ref().map_or("", TaskName::as_str))
            .arg(filter.reason.map_or("", DeadReason::as_str));
            let mut page = Fields::of(self.run(&script::DEAD_LIST, &call).await?)?;
            let looked = read::large(page.next()?)?;
            for row in page.rest() {
                found.push(letter(row)?);
            }
            if looked == 0 {
                break;
            }
            offset += looked;
        }
        Ok(found)
    }

    async fn dead_letters(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, Fault> {
        let mut found = if filter.tasks.is_empty() {
            self.dead_by_time(filter).await?
        } else {
            self.dead_by_task(filter).await?
        };
        found.sort_by_key(|(letter, place)| (letter.dead_at, *place));
        // One that was replayed and died again meanwhile comes up twice.
        let mut seen = HashSet::new();
        found.retain(|(letter, _)| seen.insert(letter.task.clone()));
        found.truncate(filter.limit);
        Ok(found.into_iter().map(|(letter, _)| letter).collect())
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, Fault> {
        // No tasks would mean all dead letters, but for the bound.
        let tasks = letters.iter().map(|(task, _)| task.clone()).collect();
        let filter = DeadFilter { tasks, limit: letters.len(), ..DeadFilter::default() };
        // The bytes of a dead letter do not change, so what is read here holds when the script runs.
        let unreadable: HashSet<(TaskId, LeaseToken)> = self
            .dead_letters(&filter)
            .await?
            .into_iter()
            .filter(|letter| {
                wire::decode(&letter.envelope).map_or(true, |envelope| envelope.id != letter.task)
            })
            .map(|letter| (letter.task, letter.token))
            .collect();
        let readable: Vec<_> =
            letters.iter().filter(|letter| !unreadable.contains(*letter)).collect();
        let mut queued = Vec::with_capacity(readable.len());
        for letters in readable.chunks(ITEMS) {
            let mut call = self.call(&script::REPLAY);
            call.arg(u8::from(records == Records::Here));
            for (task, token) in letters {
                call.arg(task.as_str()).arg(token.0);
            }
            queued.extend(read::list(self.run(&script::REPLAY, &call).await?)?);
        }
        let mut queued = queued.into_iter();
        let mut replayed = Vec::with_capacity(letters.len());
        for letter in letters {
            if unreadable.contains(letter) {
                replayed.push(Replayed::Unreadable);
                continue;
            }
            let answer = queued.next().ok_or_else(|| Fault::corrupt("an answer is too short"))?;
            let done = read::int(answer)? == 1;
            replayed.push(if done { Replayed::Queued } else { Replayed::Absent });
        }
        Ok(replayed)
    }

    async fn purge_dead(&self, tasks: &[TaskId]) -> Result<u64, Fault> {
        let mut purged = 0;
        for tasks in tasks.chunks(ITEMS) {
            let mut call = self.call(&script::DEAD_PURGE);
            for task in tasks {
                call.arg(task.as_str());
            }
            purged += read::large(self.run(&script::DEAD_PURGE, &call).await?)?;
        }
        Ok(purged)
    }
}

#[async_trait]
impl DeadLetters for Redis {
    fn service(&self) -> &ServiceId {
        &self.inner.service
    }

    async fn list(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, BackendError> {
        let listed = self.inner.dead_letters(filter).await;
        listed.map_err(|fault| self.inner.during(fault, "list dead letters"))
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, BackendError> {
        let replayed = self.inner.replay(letters, records).await;
        replayed.map_err(|fault| self.inner.during(fault, "replay dead letters"))
    }

    async fn purge(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        let purged = self.inner.purge_dead(tasks).await;
        purged.map_err(|fault| self.inner.during(fault, "remove dead letters"))
    }
}
