//! The ledger and the store, side by side.

use std::collections::BTreeMap;

use stem_core::id::TaskId;
use stem_core::task::TaskState;

use super::{Ledger, Life, Phase};
use crate::fact::{Audit, Move};
use crate::judge::bench::{Bench, Rule};

impl Ledger {
    /// Compares with what the store itself holds. It was promoted to the same time. `false` if the counts are wrong and
    /// what is known is not listed: with the list it can be said what is lost.
    pub(in crate::judge) fn audit(&self, bench: &mut Bench, audit: &Audit) -> bool {
        let known: BTreeMap<&TaskId, TaskState> =
            audit.known.iter().map(|(task, state)| (task, *state)).collect();
        if !known.is_empty() {
            for (task, life) in self.lives.iter().filter(|(_, life)| !life.is_child) {
                let (state, mine) = (known.get(task), life.acknowledged || !self.apart);
                bench.must(Rule::I1, !mine || state.is_some(), task, || {
                    format!("{task} was stored, and the store has no record of it")
                });
                if let Some(state) = state {
                    bench.must(Rule::I6, self.agrees(life, *state), task, || {
                        format!(
                            "{task} is {:?}, ended by {:?}, and its record says {state}",
                            life.phase, life.ended
                        )
                    });
                }
            }
        }
        let count = |meant: fn(Phase) -> bool| {
            self.lives.values().filter(|life| meant(life.phase)).count() as u64
        };
        let holds = (audit.ready, audit.delayed, audit.inflight, audit.dead.len() as u64);
        let right = (
            count(|phase| matches!(phase, Phase::Ready { .. })),
            count(|phase| matches!(phase, Phase::Delayed { .. })),
            count(|phase| matches!(phase, Phase::Leased { .. })),
            count(|phase| phase == Phase::Dead),
        );
        if known.is_empty() && holds != right {
            return false;
        }
        bench.must_be(Rule::I6, holds == right, || {
            format!("the store holds (ready, delayed, leased, dead) {holds:?}; {right:?} is right")
        });
        for task in &audit.dead {
            let is_dead = self.lives.get(task).is_some_and(|life| life.phase == Phase::Dead);
            bench.must(Rule::I6, is_dead, task, || {
                format!("{task} lies among the dead letters, and was not given up")
            });
        }
        true
    }

    /// Whether a record may say this of a task.
    fn agrees(&self, life: &Life, state: TaskState) -> bool {
        if let Some(end) = &life.ended {
            // Apart, the record of one that is replayed is written before the broker is asked.
            let ahead = self.apart && life.phase == Phase::Dead && state == TaskState::Queued;
            return ahead || state_of(&end.how) == Some(state);
        }
        if self.apart {
            // Two who replay it may have written its record before it failed once more. Then it fails again with its next
            // delivery, as its record says, and can be replayed again.
            let behind =
                || life.given_up.as_ref().and_then(|end| state_of(&end.how)) == Some(state);
            return !state.is_final() || behind();
        }
        match life.phase {
            Phase::Ready { .. } | Phase::Delayed { .. } => {
                matches!(state, TaskState::Queued | TaskState::Retrying)
            }
            Phase::Leased { .. } => state == TaskState::Running,
            Phase::Dead | Phase::Gone => false,
        }
    }
}

/// The state after a move that is final.
fn state_of(how: &Move) -> Option<TaskState> {
    match how {
        Move::Succeed(_) => Some(TaskState::Succeeded),
        Move::Fail(_) => Some(TaskState::Failed),
        Move::Revoke { .. } => Some(TaskState::Revoked),
        Move::Expire => Some(TaskState::Expired),
        Move::Retry { .. } | Move::Release | Move::Discard => None,
    }
}
