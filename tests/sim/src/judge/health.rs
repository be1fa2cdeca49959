//! [`Health`]: when each host, link and method was last disturbed, and how far off each clock is. A rule that asks what an
//! undisturbed worker must do asks here whether it was one.

use std::collections::BTreeMap;

use stem_core::time::Timestamp;

use crate::fact::{Caller, EPOCH, Fact, HostId, Method, Ms, ServiceKind, State};

/// What may be disturbed at a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Topic {
    /// It runs, and is not stopped.
    Process,
    /// Its wall clock, and the server's, go on evenly.
    Clock,
    /// It reaches this service, which works.
    Link(ServiceKind),
    /// Calls by this name meet no fault.
    Call(Method),
}

#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    last: Option<Ms>,
    on: bool,
}

impl Trouble {
    fn turn(&mut self, at: Ms, on: bool) {
        self.last = self.last.max(Some(at));
        self.on = on;
    }

    fn none_since(self, since: Ms) -> bool {
        !self.on && self.last.is_none_or(|last| last < since)
    }
}

#[derive(Clone, Copy, Debug)]
struct Wall {
    /// At the first boot, with all steps since.
    off: i64,
    /// Millionths too fast.
    ppm: i64,
    booted: Ms,
}

/// Everything that was disturbed.
#[derive(Debug, Default)]
pub(super) struct Health {
    hosts: BTreeMap<(HostId, Topic), Trouble>,
    services: BTreeMap<ServiceKind, Trouble>,
    server_clock: Trouble,
    server_stepped_back: bool,
    walls: BTreeMap<HostId, Wall>,
}

impl Health {
    pub(super) fn hear(&mut self, at: Ms, caller: Option<Caller>, fact: &Fact) {
        let Some(Caller { host, .. }) = caller else {
            match fact {
                Fact::Stepped(by) => {
                    self.server_clock.turn(at, false);
                    self.server_stepped_back |= *by < 0;
                }
                Fact::Service { service, state } => {
                    self.services.entry(*service).or_default().turn(at, *state != State::Good);
                }
                _ => {}
            }
            return;
        };
        match fact {
            Fact::Booted { config } => {
                self.turn(host, Topic::Process, at, false);
                // The machine's clock is what it was when its process before died.
                let (off, ppm) = config.as_ref().map_or((0, 0), |it| (it.skew, it.ppm));
                let off = self.walls.get(&host).map_or(off, |wall| wall.off);
                self.walls.insert(host, Wall { off, ppm, booted: at });
            }
            Fact::Gone { .. } | Fact::Stopped(_) => self.turn(host, Topic::Process, at, true),
            Fact::Continued => self.turn(host, Topic::Process, at, false),
            Fact::Stepped(by) => {
                self.turn(host, Topic::Clock, at, false);
                if let Some(wall) = self.walls.get_mut(&host) {
                    wall.off += by;
                }
            }
            Fact::Link { service, state } => {
                self.turn(host, Topic::Link(*service), at, *state != State::Good);
            }
            Fact::Met { method, until, .. } => {
                self.turn(host, Topic::Call(method), at.max(*until), false);
            }
            _ => {}
        }
    }

    fn turn(&mut self, host: HostId, topic: Topic, at: Ms, on: bool) {
        self.hosts.entry((host, topic)).or_default().turn(at, on);
    }

    /// Whether nothing of this kind has happened to the host since then.
    pub(super) fn undisturbed(&self, host: HostId, topics: &[Topic], since: Ms) -> bool {
        topics.iter().all(|topic| {
            let here = self.hosts.get(&(host, *topic)).copied().unwrap_or_default();
            let there = match topic {
                Topic::Link(service) => self.services.get(service).copied().unwrap_or_default(),
                Topic::Clock => self.server_clock,
                Topic::Process | Topic::Call(_) => Trouble::default(),
            };
            here.none_since(since) && there.none_since(since)
        })
    }

    /// Whether nothing at all has happened to the host since then.
    pub(super) fn quiet(&self, host: HostId, since: Ms) -> bool {
        let here = self.hosts.range((host, Topic::Process)..);
        here.take_while(|((of, _), _)| *of == host).all(|(_, trouble)| trouble.none_since(since))
            && self.services.values().all(|trouble| trouble.none_since(since))
            && self.server_clock.none_since(since)
    }

    /// What the wall clock of a host shows.
    pub(super) fn wall(&self, host: HostId, at: Ms) -> Timestamp {
        let millis = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let (off, drift) = self.walls.get(&host).map_or((0, 0), |wall| {
            (wall.off, millis(at.since(wall.booted)).saturating_mul(wall.ppm) / 1_000_000)
        });
        Timestamp::from_unix_millis(EPOCH.saturating_add(millis(at.0)).saturating_add(off + drift))
    }

    /// Whether the server's clock was ever set back.
    pub(super) fn server_stepped_back(&self) -> bool {
        self.server_stepped_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_or_was_on_since_then_disturbs_and_nothing_else() {
        let mut health = Health::default();
        let caller = Some(Caller { host: HostId::Worker(0), start: 1 });
        let host = HostId::Worker(0);
        let link = Topic::Link(ServiceKind::Broker);
        let state = State::Down { quick: true };
        health.hear(Ms(10), caller, &Fact::Link { service: ServiceKind::Broker, state });
        assert!(!health.undisturbed(host, &[link], Ms(500)), "it is down");
        health.hear(
            Ms(20),
            caller,
            &Fact::Link { service: ServiceKind::Broker, state: State::Good },
        );
        assert!(health.undisturbed(host, &[link, Topic::Process], Ms(21)));
        assert!(!health.undisturbed(host, &[link], Ms(20)));
        assert!(health.undisturbed(HostId::Worker(1), &[link], Ms(0)), "another host's link");
        health.hear(Ms(30), None, &Fact::Service { service: ServiceKind::Broker, state });
        assert!(!health.undisturbed(HostId::Worker(1), &[link], Ms(40)), "everybody's service");
    }

    #[test]
    fn a_wall_clock_is_off_by_its_steps() {
        let mut health = Health::default();
        let host = HostId::Worker(0);
        let caller = Some(Caller { host, start: 1 });
        health.hear(Ms(0), caller, &Fact::Booted { config: None });
        health.hear(Ms(5), caller, &Fact::Stepped(-700));
        assert_eq!(health.wall(host, Ms(1_000)).unix_millis(), EPOCH + 300);
    }
}
