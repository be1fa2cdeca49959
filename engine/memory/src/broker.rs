//! [`Broker`] in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use stem_core::backend::broker::{
    Broker, Delivery, PURGED, Pause, Published, QueueStatus, ReceiveRequest, Renewal, Renewed,
    Settled,
};
use stem_core::backend::result::Begun;
use stem_core::backend::{BackendError, Health, Records, ServiceId};
use stem_core::envelope::{Envelope, wire};
use stem_core::id::{LeaseToken, QueueName, TaskId, TaskName};
use stem_core::outcome::{Failure, FailureKind};
use stem_core::settlement::{DeadReason, Receipt, Settle, Settlement};
use stem_core::tenant::Tenant;
use stem_core::time::Timestamp;

use crate::state::{Body, Entry, Phase, State, remember};
use crate::{Look, Memory};

#[async_trait]
impl Broker for Memory {
    fn service(&self) -> &ServiceId {
        &self.service
    }

    fn knows_shares(&self) -> bool {
        true
    }

    async fn publish(
        &self,
        envelopes: &[Envelope],
        records: Records,
    ) -> Result<Vec<Published>, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let published =
            envelopes.iter().map(|envelope| publish(&mut state, now, envelope, records)).collect();
        drop(state);
        self.ring();
        Ok(published)
    }

    async fn receive(&self, request: &ReceiveRequest) -> Result<Vec<Delivery>, BackendError> {
        let taken = self
            .look_until(&self.bells.work, request.wait, |state, now| {
                state.promote(now);
                let taken = claim(state, now, request);
                if taken.is_empty() {
                    Look::Nothing { due: state.next_due() }
                } else {
                    Look::Found(taken)
                }
            })
            .await;
        self.bells.records.ring();
        Ok(taken.unwrap_or_default())
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        let now = self.now();
        let mut state = self.state();
        state.keep_clock(now);
        Ok(renewals.iter().map(|renewal| renew(&mut state, now, renewal)).collect())
    }

    async fn settle(
        &self,
        batch: &[Settle],
        records: Records,
    ) -> Result<Vec<Settled>, BackendError> {
        let now = self.now();
        let mut state = self.state();
        let settled = batch.iter().map(|one| settle(&mut state, now, one, records)).collect();
        drop(state);
        self.ring();
        Ok(settled)
    }

    async fn bury_unroutable(
        &self,
        known: &[TaskName],
        since: Timestamp,
        records: Records,
    ) -> Result<u64, BackendError> {
        let now = self.now();
        let mut state = self.state();
        state.promote(now);
        let lost: Vec<TaskId> = state
            .entries()
            .filter(|entry| {
                matches!(entry.phase, Phase::Ready { since: at } if at < since)
                    && !known.contains(&entry.name)
            })
            .map(|entry| entry.task.clone())
            .collect();
        for task in &lost {
            let entry = state.take(task).expect("it was listed under the same lock");
            let message = format!("no worker knew the task name {} in time", entry.name);
            let failure = Failure::new(FailureKind::BadModule, "unroutable", &message);
            give_up(&mut state, entry, DeadReason::Unroutable, failure, now, records);
        }
        drop(state);
        self.ring();
        Ok(lost.len() as u64)
    }

    async fn queues(&self) -> Result<Vec<QueueStatus>, BackendError> {
        let mut state = self.state();
        state.promote(self.now());
        Ok(statuses(&state))
    }

    async fn purge(
        &self,
        queue: &QueueName,
        records: Records,
    ) -> Result<Vec<TaskId>, BackendError> {
        let mut state = self.state();
        state.promote(self.now());
        let idle: Vec<TaskId> = state
            .entries()
            .filter(|entry| entry.queue == *queue && !matches!(entry.phase, Phase::Leased { .. }))
            .map(|entry| entry.task.clone())
            .take(PURGED)
            .collect();
        for task in &idle {
            state.take(task);
            if records == Records::Here {
                state.records.remove(task);
            }
        }
        drop(state);
        self.ring();
        Ok(idle)
    }

    async fn set_paused(
        &self,
        queue: &QueueName,
        pause: Option<Pause>,
    ) -> Result<bool, BackendError> {
        let mut state = self.state();
        let queue = state.queues.entry(queue.clone()).or_default();
        let changed = match (&queue.pause, &pause) {
            (None, None) => false,
            (Some(old), Some(new)) => old.reason != new.reason,
            (None, Some(_)) | (Some(_), None) => true,
        };
        if changed {
            queue.pause = pause;
        }
        drop(state);
        self.ring();
        Ok(changed)
    }

    async fn health(&self) -> Result<Health, BackendError> {
        Ok(self.health_now())
    }
}

impl Memory {
    pub(crate) fn ring(&self) {
        self.bells.work.ring();
        self.bells.records.ring();
    }
}

fn publish(state: &mut State, now: Timestamp, envelope: &Envelope, records: Records) -> Published {
    let id = &envelope.id;
    let known = state.entry(id).is_some()
        || state.dead.contains_key(id)
        || (records == Records::Here && state.records.get(id).is_some());
    if known {
        return Published::Duplicate { existing: id.clone() };
    }
    if let Some(holder) = envelope.unique_key.as_ref().and_then(|key| state.holder(key)) {
        return Published::Duplicate { existing: holder.clone() };
    }
    let entry = Entry {
        seq: state.next_seq(),
        task: id.clone(),
        queue: envelope.queue.clone(),
        name: envelope.name.clone(),
        tenant: Tenant::of(&envelope.headers),
        priority: envelope.priority,
        unique: envelope.unique_key.clone(),
        body: Body::Envelope(Box::new(envelope.clone())),
        phase: match envelope.not_before.filter(|at| *at > now) {
            Some(due) => Phase::Delayed { due },
            None => Phase::Ready { since: now },
        },
        token: LeaseToken(0),
        retries: 0,
        deliveries: 0,
        losses: 0,
        history: Vec::new(),
    };
    state.put(entry);
    if records == Records::Here {
        state.records.queue(envelope);
    }
    Published::Stored
}

fn claim(state: &mut State, now: Timestamp, request: &ReceiveRequest) -> Vec<Delivery> {
    let mut taken = Vec::new();
    if let Some(shares) = &request.shares {
        for queue in &request.queues {
            loop {
                let gone = taken.iter().map(|it: &Delivery| (&it.receipt.queue, &it.tenant));
                let mut left = shares.without(gone);
                let max = request.max - taken.len();
                let ready = state.ready_for(queue, &request.names, (&left, &shares.from), max);
                let whose: Vec<Tenant> = ready.iter().map(|(tenant, _)| tenant.clone()).collect();
                let chosen = left.choose(queue, &whose, max);
                let before = taken.len();
                for index in &chosen {
                    let entry = state.take(&ready[*index].1).expect("what is indexed exists");
                    taken.extend(lease(state, now, request, entry));
                }
                // What cannot be read was nobody's share, so others have a turn.
                if taken.len() - before == chosen.len() {
                    break;
                }
            }
        }
        return taken;
    }
    for queue in &request.queues {
        while taken.len() < request.max {
            let Some(task) = state.first_ready(queue, &request.names) else { break };
            let entry = state.take(&task).expect("what is indexed exists");
            taken.extend(lease(state, now, request, entry));
        }
    }
    taken
}

/// Leases one entry, or buries it if its bytes cannot be read.
fn lease(
    state: &mut State,
    now: Timestamp,
    request: &ReceiveRequest,
    mut entry: Entry,
) -> Option<Delivery> {
    let decoded = match &entry.body {
        Body::Envelope(envelope) => Ok((**envelope).clone()),
        Body::Raw(bytes) => wire::decode(bytes).and_then(|envelope| {
            // One that says it is another task is damaged too.
            let same = envelope.id == entry.task
                && envelope.name == entry.name
                && envelope.queue == entry.queue;
            if same {
                Ok(envelope)
            } else {
                Err(wire::WireError::Malformed("it says it is another task".to_owned()))
            }
        }),
    };
    let envelope = match decoded {
        Ok(envelope) => envelope,
        Err(error) => {
            let reason = match error {
                wire::WireError::Version(_) => DeadReason::EnvelopeVersion,
                wire::WireError::Malformed(_) => DeadReason::EnvelopeMalformed,
            };
            let failure = Failure::new(FailureKind::BadModule, error.reason(), &error.to_string());
            give_up(state, entry, reason, failure, now, request.records);
            return None;
        }
    };
    let lease_until = now.after(request.lease);
    entry.token = LeaseToken(entry.token.0 + 1);
    entry.deliveries += 1;
    entry.phase = Phase::Leased { until: lease_until, owner: request.owner };
    let receipt = Receipt {
        task: entry.task.clone(),
        queue: entry.queue.clone(),
        token: entry.token,
        owner: request.owner,
    };
    let delivery = Delivery {
        envelope,
        receipt: receipt.clone(),
        lease_until,
        attempt: entry.retries + 1,
        deliveries: entry.deliveries,
        losses: entry.losses,
        tenant: entry.tenant.clone(),
    };
    state.put(entry);
    if request.records == Records::Here {
        state.records.begin(&Begun {
            receipt,
            attempt: delivery.attempt,
            deliveries: delivery.deliveries,
            at: now,
            worker: request.worker.clone(),
        });
    }
    Some(delivery)
}

fn give_up(
    state: &mut State,
    entry: Entry,
    reason: DeadReason,
    failure: Failure,
    at: Timestamp,
    records: Records,
) {
    if records == Records::Here {
        state.records.fail(&entry.task, &failure, at);
    }
    state.bury(entry, reason, failure, at);
}

/// Takes out the entry that this receipt holds.
fn take_held(state: &mut State, receipt: &Receipt) -> Option<Entry> {
    let entry = state.entry(&receipt.task)?;
    let held = entry.token == receipt.token
        && matches!(entry.phase, Phase::Leased { owner, .. } if owner == receipt.owner);
    if held { state.take(&receipt.task) } else { None }
}

fn renew(state: &mut State, now: Timestamp, renewal: &Renewal) -> Renewed {
    let Some(mut entry) = take_held(state, &renewal.receipt) else { return Renewed::Stale };
    let asked = now.after(renewal.lease);
    let until = match entry.phase {
        Phase::Leased { until, .. } => until.max(asked),
        Phase::Ready { .. } | Phase::Delayed { .. } => asked,
    };
    entry.phase = Phase::Leased { until, owner: renewal.receipt.owner };
    state.put(entry);
    Renewed::Until(until)
}

fn settle(state: &mut State, now: Timestamp, settle: &Settle, records: Records) -> Settled {
    let Some(mut entry) = take_held(state, &settle.receipt) else { return Settled::Stale };
    if records == Records::Here {
        state.records.settle(settle);
    }
    if let Some(failed) = settle.failed_attempt() {
        remember(&mut entry.history, failed);
    }
    match &settle.settlement {
        Settlement::Succeed(_)
        | Settlement::Revoke(_)
        | Settlement::Expire
        | Settlement::Discard => {}
        Settlement::Fail { failure, reason } => {
            state.bury(entry, *reason, failure.clone(), now);
        }
        Settlement::Retry { not_before, .. } => {
            entry.retries += 1;
            entry.phase = Phase::Delayed { due: *not_before };
            state.put(entry);
        }
        Settlement::Release => {
            entry.deliveries -= 1;
            entry.phase = Phase::Ready { since: now };
            state.put(entry);
        }
    }
    for child in settle.publishes() {
        // What is in its way, if anything, is left as it is.
        publish(state, now, child, records);
    }
    Settled::Done
}

fn statuses(state: &State) -> Vec<QueueStatus> {
    let mut statuses: BTreeMap<&QueueName, QueueStatus> = state
        .queues
        .iter()
        .map(|(name, queue)| {
            let mut names: Vec<_> = queue
                .ready
                .iter()
                .map(|(name, lanes)| {
                    let count: usize = lanes.values().map(BTreeMap::len).sum();
                    (name.clone(), count as u64)
                })
                .collect();
            names.sort();
            let status = QueueStatus {
                name: name.clone(),
                ready: names.iter().map(|(_, count)| count).sum(),
                delayed: 0,
                inflight: 0,
                paused: queue.pause.clone(),
                names,
            };
            (name, status)
        })
        .collect();
    for entry in state.entries() {
        let Some(status) = statuses.get_mut(&entry.queue) else { continue };
        match entry.phase {
            Phase::Ready { .. } => {}
            Phase::Delayed { .. } => status.delayed += 1,
            Phase::Leased { .. } => status.inflight += 1,
        }
    }
    statuses.into_values().collect()
}
