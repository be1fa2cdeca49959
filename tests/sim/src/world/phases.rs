//! The phases of a world: the storm, the peace after it, another life for what was given up, and the farewell.

use std::sync::atomic::Ordering;

use stem_core::control::{Drain, Order};
use stem_core::id::{RequestId, WorkerId};

use super::World;
use crate::fact::{Fact, HostId, Ms, Phase, ServiceKind, State};
use crate::host::Is;
use crate::operator;
use crate::plan::RESTART;

/// The last question to the workers is open for so many milliseconds; then they are told to stop.
const LAST_WORD: u64 = 2_000;
/// An order to stop is obeyed within so many milliseconds once all is well, beside what is in hand.
const FAREWELL: u64 = 15_000;

impl World {
    /// From one phase to the next, when its work is done or its time is over.
    pub(super) fn move_on(&mut self) {
        match self.phase {
            Phase::Storm if self.now >= self.plan.heal => self.heal(),
            Phase::Healed { bound } => {
                self.keep_up();
                if self.at_rest(bound) {
                    self.replay();
                }
            }
            Phase::Replayed { bound } => {
                self.keep_up();
                if self.at_rest(bound) {
                    self.say_farewell();
                }
            }
            Phase::Draining => {
                let passed = self.now.since(self.since);
                if (LAST_WORD..LAST_WORD + self.plan.window).contains(&passed) {
                    self.drain_all();
                }
                let mut workers = self.hosts.values().filter(|host| host.declared.is_some());
                if passed > FAREWELL || workers.all(|host| host.is == Is::Down) {
                    self.enter(Phase::Over);
                }
            }
            Phase::Storm | Phase::Over => {}
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.look(true);
        self.phase = phase;
        self.since = self.now;
        self.tell(None, Fact::Phase(phase));
    }

    /// Whether nothing waits or runs any more, or the time for it is over. Looked at twice a second.
    fn at_rest(&mut self, bound: Ms) -> bool {
        if self.now >= bound {
            return true;
        }
        // Commands of the storm are over by then, and what was sent in it has arrived.
        if self.now.since(self.since) < 3_000
            || !self.now.0.is_multiple_of(500)
            || !self.waiting.is_empty()
        {
            return false;
        }
        self.server.is_idle()
    }

    /// Ends all trouble: everything is as it should be from now on.
    fn heal(&mut self) {
        self.endings.clear();
        self.net.heal();
        self.net.release();
        self.server.heal();
        for service in ServiceKind::ALL {
            self.tell(None, Fact::Service { service, state: State::Good });
        }
        let behind = self.server.clock().off().min(0);
        if behind < 0 {
            self.server.clock().step(-behind);
            self.tell(None, Fact::Stepped(-behind));
        }
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        for id in ids {
            for service in ServiceKind::ALL {
                let state = State::Good;
                self.tell(Some(self.hosts[&id].caller()), Fact::Link { service, state });
            }
            let off = self.hosts[&id].set_clock_right();
            if off != 0 {
                self.tell(Some(self.hosts[&id].caller()), Fact::Stepped(-off));
            }
            if matches!(self.hosts[&id].is, Is::Paused(_)) {
                self.resume(id);
            }
        }
        // Operators first: they have something to say.
        self.boot_down(HostId::is_client);
        self.resume_queues();
        let bound = self.now.after(self.plan.patience());
        self.enter(Phase::Healed { bound });
        let lives = 4_000;
        self.order(0, None, Order::Ping {}, lives);
    }

    /// Starts those of these hosts on which nothing runs.
    fn boot_down(&mut self, which: fn(HostId) -> bool) {
        let down = self.hosts.values().filter(|host| host.is == Is::Down && which(host.id));
        for id in down.map(|host| host.id).collect::<Vec<_>>() {
            self.boot(id, None);
        }
    }

    fn resume_queues(&self) {
        for queue in self.plan.workers[0].queues.clone() {
            let client = &self.hosts[&HostId::Client(0)];
            client.does(|client, desk| operator::set_paused(client, desk, queue, false));
        }
    }

    /// Starts workers that are not there, and resumes what an order of the storm has paused, which may come as late as that.
    fn keep_up(&mut self) {
        if !self.now.0.is_multiple_of(RESTART) {
            return;
        }
        self.resume_queues();
        self.boot_down(|_| true);
    }

    /// Everything that was given up gets another life, in which it succeeds.
    fn replay(&mut self) {
        self.calm.store(true, Ordering::Relaxed);
        let bound = self.now.after(self.plan.patience());
        self.enter(Phase::Replayed { bound });
        self.hosts[&HostId::Client(0)].does(|client, _| operator::replay(client, true));
    }

    fn say_farewell(&mut self) {
        self.order(1, None, Order::Inspect { include_revoked: true }, LAST_WORD);
        self.enter(Phase::Draining);
    }

    /// Sends a command from a client.
    pub(super) fn order(
        &mut self,
        client: u8,
        targets: Option<Vec<WorkerId>>,
        order: Order,
        lives: u64,
    ) {
        let id = self.request();
        self.hosts[&HostId::Client(client)]
            .does(|client, desk| operator::order(client, desk, id, targets, order, lives));
    }

    pub(super) fn request(&mut self) -> RequestId {
        self.commands += 1;
        RequestId::new(format!("r{:03}", self.commands)).expect("a short name")
    }

    /// In the last phase, once the operator has seen what the workers know.
    fn drain_all(&mut self) {
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        for id in ids {
            self.drain(id, Drain::Warm, None, false);
        }
    }
}
