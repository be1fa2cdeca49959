//! What a plan's acts do to a world.

use stem_core::control::{Drain, Order};
use stem_core::id::WorkerId;

use super::{Ending, World};
use crate::fact::{Fact, HostId, Phase, ServiceKind, State};
use crate::host::Is;
use crate::operator;
use crate::plan::{Act, Planned};

/// Which client enqueues a task.
pub(super) fn client_of(task: &Planned) -> HostId {
    HostId::Client(u8::from(crate::dice::hash(task.id.as_str()) % 2 == 1))
}

impl World {
    /// Ends states whose time is over.
    pub(super) fn end_states(&mut self) {
        while let Some(due) = self.endings.first_entry().filter(|next| *next.key() <= self.now) {
            for ending in due.remove() {
                match ending {
                    Ending::Link(host, service) => self.link(host, service, State::Good),
                    Ending::Service(service) => self.service(service, State::Good),
                }
            }
        }
    }

    /// Does what is due.
    pub(super) fn act(&mut self) {
        while let Some(task) = self.to_come.pop_if(|task| task.at <= self.now) {
            self.produce(task);
        }
        while let Some(due) = self.plan.acts.first_entry().filter(|next| *next.key() <= self.now) {
            for act in due.remove() {
                // What is late, as the second half of a drain, waits for nothing: all is well by then.
                if self.phase == Phase::Storm {
                    self.perform(act);
                }
            }
        }
    }

    /// By its client, or once that runs again.
    pub(super) fn produce(&mut self, task: Planned) {
        self.waiting.insert(task.id.clone(), task.clone());
        let host = &self.hosts[&client_of(&task)];
        host.does(|client, desk| operator::produce(client, desk, task));
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Crash(host) => self.crash(host),
            Act::Start(host, name) => self.start(host, name),
            Act::Pause(host, ms) => {
                let until = self.now.after(ms);
                let host = self.hosts.get_mut(&host).expect("a plan's host");
                if host.pause(until) {
                    let caller = host.caller();
                    self.count(if caller.host.is_client() { "clients stopped" } else { "pauses" });
                    self.tell(Some(caller), Fact::Stopped(ms));
                }
            }
            Act::Link(host, service, state, ms) => {
                self.count(if host.is_client() { "clients cut off" } else { "links" });
                self.link(host, service, state);
                let ending = Ending::Link(host, service);
                self.endings.entry(self.now.after(ms)).or_default().push(ending);
            }
            Act::Service(service, state, ms) => {
                self.count("services");
                self.service(service, state);
                let ending = Ending::Service(service);
                self.endings.entry(self.now.after(ms)).or_default().push(ending);
            }
            Act::StepHost(host, by) => {
                self.count("steps");
                let host = &self.hosts[&host];
                host.step_clock(by);
                self.tell(Some(host.caller()), Fact::Stepped(by));
            }
            Act::StepServer(by) => {
                self.count("steps");
                self.server.clock().step(by);
                self.tell(None, Fact::Stepped(by));
            }
            Act::Burst(tasks) => {
                self.count("bursts");
                for task in tasks {
                    self.produce(task);
                }
            }
            act => self.operate(act),
        }
    }

    /// What operators do.
    fn operate(&mut self, act: Act) {
        match act {
            Act::Ping(targets, lives) => {
                self.count("pings");
                self.order(0, targets, Order::Ping {}, lives);
            }
            Act::Inspect => {
                self.order(1, None, Order::Inspect { include_revoked: true }, 2_000);
            }
            Act::Revoke(tasks, request, expires) => {
                self.count("revokes");
                let id = self.request();
                self.hosts[&HostId::Client(0)].does(|client, desk| {
                    operator::revoke(client, desk, id, tasks, request, expires)
                });
            }
            Act::Undo(task) => {
                self.count("undos");
                self.hosts[&HostId::Client(1)].does(|client, _| operator::undo(client, task));
            }
            Act::SetPaused(queue, paused) => {
                self.count("queue-pauses");
                self.hosts[&HostId::Client(0)]
                    .does(|client, desk| operator::set_paused(client, desk, queue, paused));
            }
            Act::Replay { both } => {
                self.count("replays");
                self.hosts[&HostId::Client(0)].does(|client, _| operator::replay(client, false));
                if both {
                    self.count("replays from two at once");
                    let other = &self.hosts[&HostId::Client(1)];
                    other.does(|client, _| operator::replay(client, false));
                }
            }
            Act::Drain { host, mode, grace, remote } => {
                self.count("drains");
                self.drain(host, mode, grace, remote);
            }
            _ => {}
        }
    }

    fn start(&mut self, host: HostId, name: Option<WorkerId>) {
        if self.hosts[&host].is == Is::Down {
            self.boot(host, name);
        }
    }

    /// Orders the worker of a host to stop.
    pub(super) fn drain(&mut self, id: HostId, mode: Drain, grace: Option<u64>, remote: bool) {
        let host = &self.hosts[&id];
        let Some(declared) = &host.declared else { return };
        let (caller, worker) = (host.caller(), declared.name.clone());
        if remote {
            self.tell(None, Fact::DrainAsked { worker: worker.clone(), mode, grace });
            let order = Order::Shutdown { mode, grace_ms: grace };
            self.order(0, Some(vec![worker]), order, 3_000);
        } else if host.is == Is::Up {
            self.tell(Some(caller), Fact::DrainAsked { worker, mode, grace });
            self.hosts[&id].drain(mode, grace);
        }
    }

    fn link(&mut self, host: HostId, service: ServiceKind, state: State) {
        self.net.link(host, service, state);
        self.tell(Some(self.hosts[&host].caller()), Fact::Link { service, state });
    }

    fn service(&mut self, service: ServiceKind, state: State) {
        self.server.service(service, state);
        self.tell(None, Fact::Service { service, state });
    }
}
