//! [`Setting`]: what the plan says and who is who, as the rules ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stem_core::id::{QueueName, TaskId, WorkerId};
use stem_core::time::Timestamp;

use crate::fact::{Caller, Fact, Ms, Phase};
use crate::plan::{Declared, Layout, Plan, Planned};

/// The plan, and the processes.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) window: u64,
    pub(super) call_limit: u64,
    /// Milliseconds between two looks: what is seen may have happened so long before.
    pub(super) look: u64,
    /// The longest that an undisturbed call takes there and back, in milliseconds, with a call that waits at the server
    /// until it is looked at again.
    pub(super) round: u64,
    pub(super) clients: u8,
    pub(super) records_apart: bool,
    planned: BTreeMap<TaskId, Planned>,
    declared: BTreeMap<Caller, Arc<Declared>>,
    names: BTreeMap<WorkerId, Caller>,
    draining: BTreeSet<Caller>,
    draining_all: bool,
    paused: BTreeSet<QueueName>,
    /// What the server's clock showed, and when.
    clock: (Ms, Timestamp),
    /// The furthest that it was ever ahead, in milliseconds; behind, if it is negative.
    ahead: i64,
}

impl Setting {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            window: plan.window,
            call_limit: plan.call_limit,
            look: plan.look,
            round: 6 * plan.window + 50,
            clients: plan.clients,
            records_apart: matches!(plan.layout, Layout::RecordsApart | Layout::AllApart),
            planned: plan.all_tasks().map(|task| (task.id.clone(), task.clone())).collect(),
            declared: BTreeMap::new(),
            names: BTreeMap::new(),
            draining: BTreeSet::new(),
            draining_all: false,
            paused: BTreeSet::new(),
            clock: (Ms(0), Ms(0).shown()),
            ahead: 0,
        }
    }

    pub(super) fn hear(&mut self, (_, caller, fact): (Ms, Option<Caller>, &Fact)) {
        match (caller, fact) {
            (Some(caller), Fact::Booted { config: Some(declared) }) => {
                self.names.insert(declared.name.clone(), caller);
                self.declared.insert(caller, Arc::clone(declared));
            }
            (_, Fact::DrainAsked { worker, .. }) => {
                self.draining.extend(caller.or_else(|| self.caller_of(worker)));
            }
            (Some(caller), Fact::Gone { .. }) => self.names.retain(|_, of| *of != caller),
            (_, Fact::PauseSet { queue, paused: true }) => {
                self.paused.insert(queue.clone());
            }
            (_, Fact::PauseSet { queue, paused: false }) => {
                self.paused.remove(queue);
            }
            (_, Fact::Phase(phase)) => {
                self.draining_all |= matches!(phase, Phase::Draining | Phase::Over);
            }
            _ => {}
        }
    }

    pub(super) fn note_clock(&mut self, at: Ms, clock: Timestamp) {
        self.clock = (at, clock);
        self.ahead = self.ahead.max(clock.unix_millis() - at.shown().unix_millis());
    }

    /// What the server's clock shows, as far as is known.
    pub(super) fn clock(&self, at: Ms) -> Timestamp {
        let (seen, clock) = self.clock;
        clock.after(std::time::Duration::from_millis(at.since(seen)))
    }

    /// The latest that a process may take the server's time for: it may have asked before the clock was set back.
    pub(super) fn latest_clock(&self, at: Ms) -> Timestamp {
        Timestamp::from_unix_millis(at.shown().unix_millis() + self.ahead)
    }

    /// How a process is to behave, if it is a worker.
    pub(super) fn declared(&self, caller: Caller) -> Option<&Declared> {
        self.declared.get(&caller).map(Arc::as_ref)
    }

    pub(super) fn planned(&self, task: &TaskId) -> Option<&Planned> {
        self.planned.get(task)
    }

    /// The newest process under a name, if it is there.
    pub(super) fn caller_of(&self, name: &WorkerId) -> Option<Caller> {
        self.names.get(name).copied()
    }

    pub(super) fn name_of(&self, caller: Caller) -> Option<&WorkerId> {
        self.declared(caller).map(|declared| &declared.name)
    }

    /// It was asked to stop.
    pub(super) fn is_draining(&self, caller: Caller) -> bool {
        self.draining.contains(&caller)
    }

    /// All were, at the end.
    pub(super) fn is_draining_all(&self) -> bool {
        self.draining_all
    }

    pub(super) fn is_paused(&self, queue: &QueueName) -> bool {
        self.paused.contains(queue)
    }
}
