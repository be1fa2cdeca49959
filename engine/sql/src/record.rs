//! What a start and a settlement mean for a task's record, decided apart from any statement. The statements that
//! read a [`Head`] and write a [`Change`] run in one transaction, so nothing moves in between.

use std::borrow::Cow;

use serde::Serialize;
use stem_core::backend::result::Recorded;
use stem_core::settlement::{Receipt, Settle, Settlement};
use stem_core::task::TaskState;

use crate::codec::{Packed, signed, to_json};

/// What fences a record.
pub(crate) struct Head {
    pub(crate) state: TaskState,
    pub(crate) token: u64,
    pub(crate) owner: Option<String>,
    /// The token of the newest settlement, so that a repeated one is told from a second one.
    pub(crate) settled: Option<u64>,
}

impl Head {
    fn owned_by(&self, receipt: &Receipt) -> bool {
        self.owner.as_deref() == Some(receipt.owner.to_string().as_str())
    }

    /// Whether this receipt is for the attempt that runs.
    pub(crate) fn is_run_by(&self, receipt: &Receipt) -> bool {
        self.state == TaskState::Running && self.token == receipt.token.0 && self.owned_by(receipt)
    }

    /// Whether an attempt may begin under this receipt: its token is newer than any known.
    pub(crate) fn may_begin(&self, receipt: &Receipt) -> bool {
        receipt.token.0 > self.token && self.state.may_become(TaskState::Running)
    }

    /// What a start makes of it.
    pub(crate) fn begin(&mut self, receipt: &Receipt) {
        self.state = TaskState::Running;
        self.token = receipt.token.0;
        self.owner = Some(receipt.owner.to_string());
    }

    /// What a settlement does here.
    pub(crate) fn judge(&self, settle: &Settle) -> Verdict {
        let token = settle.receipt.token.0;
        let known = token == self.token;
        if token < self.token || (known && !self.owned_by(&settle.receipt)) {
            return Verdict::Nothing(Recorded::Stale);
        }
        let Some(target) = settle.settlement.state() else {
            return Verdict::Nothing(Recorded::Stored);
        };
        if self.settled == Some(token) {
            let same = self.state == target;
            return Verdict::Nothing(if same { Recorded::Stored } else { Recorded::Stale });
        }
        if settle.settlement == Settlement::Release
            && matches!(self.state, TaskState::Queued | TaskState::Retrying)
        {
            // The attempt was never recorded as begun, so there is nothing to take back.
            return Verdict::Nothing(Recorded::Stored);
        }
        // Of what is final only a replay makes something else.
        if self.state.may_become(target) && !self.state.is_final() {
            Verdict::Apply { target, begun: known }
        } else {
            Verdict::Nothing(Recorded::Stale)
        }
    }
}

/// What became of replays, by those tasks that have failed also after them.
pub(crate) fn after_replay(tasks: &[&str], failed: &[String]) -> Vec<Recorded> {
    let still = |task: &str| failed.iter().any(|failed| failed == task);
    tasks.iter().map(|task| if still(task) { Recorded::Stale } else { Recorded::Stored }).collect()
}

/// What a settlement does to a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing, and this is the answer.
    Nothing(Recorded),
    /// The record changes. `begun` says whether the delivery that ends was counted in it.
    Apply { target: TaskState, begun: bool },
}

/// New values for one record; `None` leaves the old one. Written as one JSON object into the update.
#[derive(Serialize)]
pub(crate) struct Change<'a> {
    id: &'a str,
    state: &'static str,
    token: i64,
    owner: String,
    attempt: Option<u32>,
    /// 1 takes the delivery back as if it had not happened.
    given_back: u8,
    /// 1 takes the start back: nothing of the task ran.
    not_started: u8,
    not_before: Option<i64>,
    finished_at: Option<i64>,
    failure: Option<String>,
    revocation: Option<String>,
    module: Option<String>,
    usage: Option<String>,
    result_type: Option<Cow<'a, str>>,
    result_from: Option<usize>,
    result_len: Option<usize>,
}

impl<'a> Change<'a> {
    pub(crate) fn new(
        settle: &'a Settle,
        target: TaskState,
        begun: bool,
        results: &mut Packed,
    ) -> Self {
        let receipt = &settle.receipt;
        let mut change = Self {
            id: receipt.task.as_str(),
            state: target.as_str(),
            token: signed(receipt.token.0),
            owner: receipt.owner.to_string(),
            attempt: None,
            given_back: 0,
            not_started: 0,
            not_before: None,
            finished_at: target.is_final().then(|| settle.at.unix_millis()),
            failure: None,
            revocation: None,
            module: settle.module.as_ref().map(to_json),
            usage: settle.usage.as_ref().map(to_json),
            result_type: None,
            result_from: None,
            result_len: None,
        };
        match &settle.settlement {
            Settlement::Succeed(result) => {
                let (from, len) = results.add(&result.bytes);
                change.result_type = Some(storable(&result.media_type));
                change.result_from = Some(from);
                change.result_len = Some(len);
            }
            Settlement::Fail { failure, .. } => change.failure = Some(to_json(failure)),
            Settlement::Retry { failure, not_before } => {
                change.failure = Some(to_json(failure));
                change.not_before = Some(not_before.unix_millis());
            }
            Settlement::Revoke(end) => change.revocation = Some(to_json(end)),
            Settlement::Expire | Settlement::Discard => {}
            Settlement::Release => {
                (change.module, change.usage) = (None, None);
                if begun {
                    change.attempt = Some(settle.attempt.saturating_sub(1));
                    change.given_back = 1;
                    change.not_started = 1;
                }
            }
        }
        if begun && settle.settlement.is_before_start() {
            change.attempt = Some(settle.attempt.saturating_sub(1));
            change.not_started = 1;
        }
        change
    }
}

/// Text of a guest's, without the one character that no SQL text may hold everywhere.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}
