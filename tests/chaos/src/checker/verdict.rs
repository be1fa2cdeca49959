//! [`Violation`], and the [`Verdict`] that counts them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stem_core::id::{LeaseToken, TaskId};
use stem_core::revoke::Version;
use stem_core::task::TaskState;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged, and there is no record.
    Lost(TaskId),
    /// There is a record, and it is not final.
    Unfinished(TaskId, TaskState),
    /// A record of a task that nobody enqueued.
    Unexpected(TaskId),
    /// The record says something else than the settlement that was accepted.
    Differs(TaskId, TaskState),
    /// It failed or expired, which no task of these runs does.
    EndedBadly(TaskId, TaskState),
    /// It succeeded, and no worker has ever started it.
    NeverRan(TaskId),
    /// More than one final settlement was accepted, by these tokens.
    TwoWinners(TaskId, Vec<LeaseToken>),
    /// It started, under the second token, after the settlement by the first had made it final.
    StartedAfterEnd(TaskId, LeaseToken, LeaseToken),
    /// The first lease had not ended and was not given up when the task started under the second.
    StartedTwice(TaskId, LeaseToken, LeaseToken),
    /// A handler ran without a lease.
    StartedWithoutLease(TaskId, LeaseToken),
    /// A settlement by the first token was accepted although the second is newer.
    StaleAccepted(TaskId, LeaseToken, LeaseToken),
    /// A checkpoint by the first token was stored although the second is newer.
    StaleCheckpoint(TaskId, LeaseToken, LeaseToken),
    /// Children were enqueued by an attempt that asked for it when its lease was over.
    StaleChildren(TaskId, LeaseToken),
    /// A value was written for an attempt that asked for it when its lease was over.
    StaleWrite(TaskId, LeaseToken),
    /// It started under this token in a process that had known before the delivery that it is revoked.
    StartedThoughKnown(TaskId, LeaseToken, Version),
    /// It started under this token in a process that began after the revocation was acknowledged.
    StartedThoughStored(TaskId, LeaseToken, Version),
    /// It ran under this token in a process that knew that it is to be terminated, and ended some other way.
    OutlivedTermination(TaskId, LeaseToken, Version),
    /// It ended as revoked, and nobody had asked for that.
    RevokedUnasked(TaskId),
    /// A look at the store that began after the revocation was acknowledged, or told, did not show it.
    RevocationMissed(TaskId, Version),
    /// Workers were told of a revocation that the store had not acknowledged.
    ToldUnstored(TaskId, Version),
    /// Deliveries are left in the queues of a run that is over.
    Left(u64),
    /// It took so long.
    Late(Duration),
    /// It never came to its end.
    NeverDrained,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(task) => write!(f, "lost: {task} was acknowledged and has no record"),
            Self::Unfinished(task, state) => write!(f, "unfinished: {task} is still {state}"),
            Self::Unexpected(task) => write!(f, "unexpected: nobody enqueued {task}"),
            Self::Differs(task, state) => {
                write!(f, "differs: {task} is {state}, and another end was accepted")
            }
            Self::EndedBadly(task, state) => write!(f, "ended badly: {task} is {state}"),
            Self::NeverRan(task) => write!(f, "never ran: {task} succeeded, and nobody started it"),
            Self::TwoWinners(task, tokens) => {
                let tokens: Vec<_> = tokens.iter().map(ToString::to_string).collect();
                write!(f, "two winners: {task} was ended by tokens {}", tokens.join(", "))
            }
            Self::StartedAfterEnd(task, end, start) => {
                write!(f, "started after its end: {task}, ended by token {end}, started by {start}")
            }
            Self::StartedTwice(task, earlier, later) => write!(
                f,
                "started twice: {task} by token {later} while token {earlier} had its lease"
            ),
            Self::StartedWithoutLease(task, token) => {
                write!(f, "started without a lease: {task} by token {token}")
            }
            Self::StaleAccepted(task, stale, newer) => {
                write!(f, "stale accepted: {task} by token {stale} while {newer} is newer")
            }
            Self::StaleCheckpoint(task, stale, newer) => {
                write!(f, "stale checkpoint: {task} by token {stale} while {newer} is newer")
            }
            Self::StaleChildren(task, token) => {
                write!(f, "stale children: {task} by token {token}, whose lease was over")
            }
            Self::StaleWrite(task, token) => {
                write!(f, "stale write: {task} by token {token}, whose lease was over")
            }
            Self::StartedThoughKnown(task, token, version) => write!(
                f,
                "started though revoked: {task} by token {token}, delivered to a process that knew version {}",
                version.0
            ),
            Self::StartedThoughStored(task, token, version) => write!(
                f,
                "started though revoked: {task} by token {token}, in a process that began after version {} was acknowledged",
                version.0
            ),
            Self::OutlivedTermination(task, token, version) => write!(
                f,
                "outlived its termination: {task} by token {token}, in a process that knew version {}",
                version.0
            ),
            Self::RevokedUnasked(task) => write!(f, "revoked unasked: {task}"),
            Self::RevocationMissed(task, version) => write!(
                f,
                "revocation missed: {task}, version {}, by a look at the store that began later",
                version.0
            ),
            Self::ToldUnstored(task, version) => {
                write!(f, "told before it was stored: {task}, version {}", version.0)
            }
            Self::Left(deliveries) => write!(f, "{deliveries} deliveries are left in queues"),
            Self::Late(took) => {
                write!(f, "late: all were final only {took:?} after the last fault")
            }
            Self::NeverDrained => write!(f, "the run never came to its end"),
        }
    }
}

/// Figures of a run, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What was counted.
    pub counts: Counts,
    /// Faults, kills and freezes, by kind.
    pub faults: BTreeMap<String, usize>,
    /// From the last fault, or the last enqueue after it, until all was final.
    pub drained_after: Option<Duration>,
    /// What must not be.
    pub violations: Vec<Violation>,
}

/// Figures of a run, or of several.
///
/// What a run that was interrupted did not count yet is 0 when it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Tasks that somebody tried to enqueue.
    pub enqueued: usize,
    /// Of these, those that were acknowledged.
    pub acknowledged: usize,
    /// Handlers that ran.
    pub starts: usize,
    /// Of these, those of a task that had started before.
    pub duplicates: usize,
    /// Settlements, renewals and checkpoints that were refused since their token was stale.
    pub refused: usize,
    /// Calls that a service refused as a whole: it had no room, or took no writes.
    pub declined: usize,
    /// What a killed server forgot, within [`Rules::forgets`](super::Rules::forgets).
    pub forgotten: usize,
    /// Revocations that were acknowledged.
    pub revoked: usize,
    /// Tasks that ended as revoked.
    pub ended_revoked: usize,
    /// Of these, those that had started.
    pub terminated: usize,
    /// Checkpoints that were stored, calls that enqueued children, and values that were written.
    pub effects: usize,
}

impl Counts {
    /// Of both together.
    pub fn add(&mut self, more: Self) {
        self.enqueued += more.enqueued;
        self.acknowledged += more.acknowledged;
        self.starts += more.starts;
        self.duplicates += more.duplicates;
        self.refused += more.refused;
        self.declined += more.declined;
        self.forgotten += more.forgotten;
        self.revoked += more.revoked;
        self.ended_revoked += more.ended_revoked;
        self.terminated += more.terminated;
        self.effects += more.effects;
    }
}

impl Verdict {
    fn count(&self, meant: impl Fn(&Violation) -> bool) -> usize {
        self.violations.iter().filter(|violation| meant(violation)).count()
    }

    /// Acknowledged tasks without a final record.
    pub fn lost(&self) -> usize {
        self.count(|found| matches!(found, Violation::Lost(_)))
    }

    /// Tasks that ended twice.
    pub fn double_terminal(&self) -> usize {
        self.count(|found| matches!(found, Violation::TwoWinners(..)))
    }

    /// Settlements and effects by a stale token that were accepted.
    pub fn stale_accepted(&self) -> usize {
        self.count(|found| {
            use Violation::{StaleAccepted, StaleCheckpoint, StaleChildren, StaleWrite};
            matches!(
                found,
                StaleAccepted(..) | StaleCheckpoint(..) | StaleChildren(..) | StaleWrite(..)
            )
        })
    }

    /// Tasks that have not ended.
    pub fn stuck(&self) -> usize {
        self.count(|found| matches!(found, Violation::Unfinished(..)))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            enqueued,
            acknowledged,
            starts,
            duplicates,
            refused,
            declined,
            forgotten,
            revoked,
            ended_revoked,
            terminated,
            effects,
        } = self.counts;
        write!(
            f,
            "enqueued {enqueued}, acknowledged {acknowledged}, starts {starts}, duplicates {duplicates}, lost {}, \
             double-terminal {}, stale accepted {}, stuck {}, stale refused {refused}, calls declined {declined}, forgotten by a killed server \
             {forgotten}, revocations {revoked}, ended by one {ended_revoked}, of these started {terminated}, effects {effects}",
            self.lost(),
            self.double_terminal(),
            self.stale_accepted(),
            self.stuck(),
        )?;
        for (kind, times) in &self.faults {
            write!(f, ", {kind} {times}")?;
        }
        match self.drained_after {
            Some(took) => write!(f, ", drained after {took:.1?}")?,
            None => write!(f, ", never drained")?,
        }
        for violation in self.violations.iter().take(20) {
            write!(f, "\n  {violation}")?;
        }
        match self.violations.len().checked_sub(20) {
            Some(more) if more > 0 => write!(f, "\n  and {more} more"),
            _ => Ok(()),
        }
    }
}
