//! [`DeadLetters`] in memory.

use async_trait::async_trait;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, DeadLetters, RAW_BYTES, Replayed};
use stem_core::backend::{BackendError, Records, ServiceId};
use stem_core::envelope::wire;
use stem_core::id::{LeaseToken, TaskId};
use stem_core::settlement::DeadReason;
use stem_core::time::Timestamp;

use crate::Memory;
use crate::state::{Body, Dead, Phase, State};

#[async_trait]
impl DeadLetters for Memory {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    async fn list(&self, filter: &DeadFilter) -> Result<Vec<DeadLetter>, BackendError> {
        let state = self.state();
        let mut meant: Vec<&Dead> =
            state.dead.values().filter(|dead| matches(filter, dead)).collect();
        meant.sort_by_key(|dead| (dead.at, dead.entry.seq));
        meant.truncate(filter.limit);
        Ok(meant.into_iter().map(letter).collect())
    }

    async fn replay(
        &self,
        letters: &[(TaskId, LeaseToken)],
        records: Records,
    ) -> Result<Vec<Replayed>, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let replayed =
            letters.iter().map(|letter| replay(&mut state, now, letter, records)).collect();
        drop(state);
        self.ring();
        Ok(replayed)
    }

    async fn purge(&self, tasks: &[TaskId]) -> Result<u64, BackendError> {
        let mut state = self.state();
        Ok(tasks.iter().filter(|task| state.dead.remove(*task).is_some()).count() as u64)
    }
}

fn matches(filter: &DeadFilter, dead: &Dead) -> bool {
    let entry = &dead.entry;
    (filter.tasks.is_empty() || filter.tasks.contains(&entry.task))
        && filter.queue.as_ref().is_none_or(|queue| *queue == entry.queue)
        && filter.name.as_ref().is_none_or(|name| *name == entry.name)
        && filter.reason.is_none_or(|reason| reason == dead.reason)
        && filter.since.is_none_or(|since| dead.at >= since)
}

fn letter(dead: &Dead) -> DeadLetter {
    let entry = &dead.entry;
    let mut envelope = entry.body.bytes();
    if matches!(dead.reason, DeadReason::EnvelopeMalformed | DeadReason::EnvelopeVersion) {
        envelope.truncate(RAW_BYTES);
    }
    DeadLetter {
        task: entry.task.clone(),
        queue: entry.queue.clone(),
        name: entry.name.clone(),
        reason: dead.reason,
        failure: dead.failure.clone(),
        history: entry.history.clone(),
        deliveries: entry.deliveries,
        token: entry.token,
        dead_at: dead.at,
        envelope,
    }
}

fn replay(
    state: &mut State,
    now: Timestamp,
    (task, token): &(TaskId, LeaseToken),
    records: Records,
) -> Replayed {
    let dead = state.dead.get(task).filter(|dead| dead.entry.token == *token);
    let Some(dead) = dead else { return Replayed::Absent };
    if let Body::Raw(bytes) = &dead.entry.body
        && wire::decode(bytes).is_err()
    {
        return Replayed::Unreadable;
    }
    let Dead { mut entry, .. } = state.dead.remove(task).expect("it was there a line ago");
    // Another task may have taken the key meanwhile; this one then runs without holding it.
    entry.unique = entry.unique.filter(|key| state.holder(key).is_none());
    entry.phase = Phase::Ready { since: now };
    entry.retries = 0;
    entry.deliveries = 0;
    entry.losses = 0;
    state.put(entry);
    if records == Records::Here {
        state.records.replay(task, *token);
    }
    Replayed::Queued
}
