//! What a claim, a settlement, a lost lease and a replay do to a task's record.

use std::collections::{BTreeMap, HashMap};

use stem_core::backend::result::{Begun, Recorded};
use stem_core::envelope::Envelope;
use stem_core::id::{Incarnation, LeaseToken, TaskId};
use stem_core::outcome::Failure;
use stem_core::settlement::{Receipt, Settle, Settlement};
use stem_core::task::{FailedAttempt, TaskRecord, TaskState};
use stem_core::time::Timestamp;

use crate::state::remember;

/// A record with what fences it and what hangs on it.
pub(crate) struct Kept {
    pub(crate) record: TaskRecord,
    pub(crate) history: Vec<FailedAttempt>,
    pub(crate) checkpoint: Option<Vec<u8>>,
    owner: Option<Incarnation>,
    /// The token of the newest settlement, so that a repeated one is told from a second one.
    settled: Option<LeaseToken>,
    order: u64,
}

impl Kept {
    /// Whether this receipt is for the attempt that runs.
    pub(crate) fn is_run_by(&self, receipt: &Receipt) -> bool {
        self.record.state == TaskState::Running
            && self.record.token == receipt.token
            && self.owner == Some(receipt.owner)
    }

    fn end(&mut self, at: Timestamp) {
        self.record.finished_at = Some(at);
        self.checkpoint = None;
    }
}

/// Records in the order in which they came.
#[derive(Default)]
pub(crate) struct Records {
    count: u64,
    kept: HashMap<TaskId, Kept>,
    order: BTreeMap<u64, TaskId>,
}

impl Records {
    pub(crate) fn get(&self, task: &TaskId) -> Option<&Kept> {
        self.kept.get(task)
    }

    pub(crate) fn get_mut(&mut self, task: &TaskId) -> Option<&mut Kept> {
        self.kept.get_mut(task)
    }

    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Kept> {
        self.order.values().rev().filter_map(|task| self.kept.get(task))
    }

    pub(crate) fn remove(&mut self, task: &TaskId) {
        if let Some(kept) = self.kept.remove(task) {
            self.order.remove(&kept.order);
        }
    }

    /// A new record, unless the task is known.
    pub(crate) fn queue(&mut self, envelope: &Envelope) {
        if self.kept.contains_key(&envelope.id) {
            return;
        }
        self.count += 1;
        let kept = Kept {
            record: TaskRecord::queued(envelope),
            history: Vec::new(),
            checkpoint: None,
            owner: None,
            settled: None,
            order: self.count,
        };
        self.order.insert(self.count, envelope.id.clone());
        self.kept.insert(envelope.id.clone(), kept);
    }

    /// An attempt begins under a token that is newer than any known, or the same news comes again.
    pub(crate) fn begin(&mut self, begun: &Begun) -> Recorded {
        let Some(kept) = self.kept.get_mut(&begun.receipt.task) else { return Recorded::Stale };
        if kept.is_run_by(&begun.receipt) {
            return Recorded::Stored;
        }
        if begun.receipt.token <= kept.record.token
            || !kept.record.state.may_become(TaskState::Running)
        {
            return Recorded::Stale;
        }
        kept.owner = Some(begun.receipt.owner);
        let record = &mut kept.record;
        record.state = TaskState::Running;
        record.token = begun.receipt.token;
        record.attempt = begun.attempt;
        record.delivery_count = begun.deliveries;
        record.started_at = Some(begun.at);
        record.worker = Some(begun.worker.clone());
        record.progress = None;
        record.failure = None;
        Recorded::Stored
    }

    /// What a settlement means for the record. Recording the same one again changes nothing and is `Stored`.
    pub(crate) fn settle(&mut self, settle: &Settle) -> Recorded {
        let Some(kept) = self.kept.get_mut(&settle.receipt.task) else { return Recorded::Stale };
        let (token, state) = (settle.receipt.token, kept.record.state);
        let same_token = token == kept.record.token;
        if token < kept.record.token || (same_token && kept.owner != Some(settle.receipt.owner)) {
            return Recorded::Stale;
        }
        let Some(target) = settle.settlement.state() else { return Recorded::Stored };
        if kept.settled == Some(token) {
            return if state == target { Recorded::Stored } else { Recorded::Stale };
        }
        if settle.settlement == Settlement::Release
            && matches!(state, TaskState::Queued | TaskState::Retrying)
        {
            // The attempt was never recorded as begun, so there is nothing to take back.
            return Recorded::Stored;
        }
        // Of what is final only a replay makes something else.
        if !state.may_become(target) || state.is_final() {
            return Recorded::Stale;
        }
        kept.record.token = token;
        kept.owner = Some(settle.receipt.owner);
        kept.settled = Some(token);
        apply(kept, settle, target, same_token);
        Recorded::Stored
    }

    /// The lease ran out, and the task is back in its queue.
    pub(crate) fn lose(&mut self, task: &TaskId, token: LeaseToken) {
        if let Some(kept) = self.kept.get_mut(task)
            && kept.record.state == TaskState::Running
            && kept.record.token == token
        {
            kept.record.state = TaskState::Queued;
        }
    }

    /// The broker gave the task up without an attempt.
    pub(crate) fn fail(&mut self, task: &TaskId, failure: &Failure, at: Timestamp) {
        if let Some(kept) = self.kept.get_mut(task)
            && kept.record.state.may_become(TaskState::Failed)
        {
            kept.record.state = TaskState::Failed;
            kept.record.failure = Some(failure.clone());
            kept.end(at);
        }
    }

    /// The task is back in its queue with nothing used up; nobody with the token of its dead letter has a say any more.
    pub(crate) fn replay(&mut self, task: &TaskId, token: LeaseToken) -> Recorded {
        if let Some(kept) = self.kept.get_mut(task)
            && kept.record.state == TaskState::Failed
        {
            if kept.record.token > token {
                return Recorded::Stale;
            }
            kept.owner = None;
            let record = &mut kept.record;
            record.token = token;
            record.state = TaskState::Queued;
            record.attempt = 0;
            record.delivery_count = 0;
            record.not_before = None;
            record.started_at = None;
            record.finished_at = None;
            record.progress = None;
            record.failure = None;
        }
        Recorded::Stored
    }
}

/// `begun` says whether the delivery that ends was counted in the record.
fn apply(kept: &mut Kept, settle: &Settle, target: TaskState, begun: bool) {
    kept.record.state = target;
    if let Some(failed) = settle.failed_attempt() {
        remember(&mut kept.history, failed);
    }
    match &settle.settlement {
        Settlement::Succeed(result) => {
            kept.record.result = Some(result.clone());
            kept.end(settle.at);
        }
        Settlement::Fail { failure, .. } => {
            kept.record.failure = Some(failure.clone());
            kept.end(settle.at);
        }
        Settlement::Retry { failure, not_before } => {
            kept.record.failure = Some(failure.clone());
            kept.record.not_before = Some(*not_before);
        }
        Settlement::Revoke(end) => {
            kept.record.revocation = Some(end.clone());
            kept.end(settle.at);
        }
        Settlement::Expire => kept.end(settle.at),
        Settlement::Release => {
            if !begun {
                return;
            }
            kept.record.attempt = settle.attempt.saturating_sub(1);
            kept.record.delivery_count = kept.record.delivery_count.saturating_sub(1);
            kept.record.started_at = None;
            kept.record.progress = None;
            return;
        }
        Settlement::Discard => return,
    }
    if begun && settle.settlement.is_before_start() {
        kept.record.attempt = settle.attempt.saturating_sub(1);
        kept.record.started_at = None;
    }
    kept.record.usage = settle.usage.or(kept.record.usage);
    kept.record.module = settle.module.clone().or(kept.record.module.take());
}
