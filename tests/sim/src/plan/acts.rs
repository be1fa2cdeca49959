//! What operators and bad luck do in a plan, and when.

use std::collections::BTreeMap;

use stem_core::control::Drain;
use stem_core::id::WorkerId;
use stem_core::revoke::RevokeRequest;

use super::tasks::{self, Mould};
use super::{Act, Declared, Kinds, Planned};
use crate::dice::Dice;
use crate::fact::{HostId, Ms, ServiceKind, State};

/// The last moment at which trouble begins.
const LAST: u64 = 15_000;

/// Puts acts together.
pub(super) struct Acts<'a> {
    pub(super) mould: &'a Mould,
    pub(super) workers: &'a [Declared],
    pub(super) tasks: &'a [Planned],
    pub(super) due: BTreeMap<Ms, Vec<Act>>,
}

impl Acts<'_> {
    fn dice(&self, name: &str) -> Dice {
        Dice::of(self.mould.seed, &["acts", name])
    }

    fn put(&mut self, kind: Kinds, at: u64, act: Act) {
        if self.mould.kinds.has(kind) {
            self.due.entry(Ms(at)).or_default().push(act);
        }
    }

    fn host(&self, dice: &mut Dice) -> HostId {
        let workers = self.workers.len() as u64;
        HostId::Worker(u8::try_from(dice.below(workers)).expect("few workers"))
    }

    pub(super) fn draw(&mut self) {
        self.crashes();
        self.pauses();
        self.links();
        self.clocks();
        self.revocations();
        self.drains();
        self.orders();
        self.bursts();
        self.clients();
    }

    /// A crash, and a start some time after; now and then under another name.
    fn crashes(&mut self) {
        let mut dice = self.dice("crash");
        for n in 0..dice.below(7) {
            let (at, host) = (dice.below(LAST), self.host(&mut dice));
            let again = at + dice.below(3_000);
            let name = dice
                .chance(300)
                .then(|| WorkerId::new(format!("other-{n}")).expect("a short name"));
            self.put(Kinds::CRASH, at, Act::Crash(host));
            self.put(Kinds::CRASH, again, Act::Start(host, name));
        }
    }

    fn pauses(&mut self) {
        let mut dice = self.dice("pause");
        for _ in 0..dice.below(7) {
            let (at, host) = (dice.below(LAST), self.host(&mut dice));
            let ms = dice.between(self.mould.lease / 10, self.mould.lease * 3);
            self.put(Kinds::PAUSE, at, Act::Pause(host, ms));
            let other = self.host(&mut dice);
            if dice.chance(200) && other != host {
                self.put(Kinds::CRASH, at + ms / 2, Act::Crash(other));
                self.put(Kinds::CRASH, at + ms, Act::Start(other, None));
            }
        }
    }

    fn state(dice: &mut Dice, service: bool) -> State {
        match dice.below(if service { 5 } else { 4 }) {
            0 => State::Down { quick: true },
            1 => State::Down { quick: false },
            2 => State::Slow(dice.between(20, 800)),
            3 => State::Held,
            _ => State::ReadOnly,
        }
    }

    fn links(&mut self) {
        let mut dice = self.dice("link");
        for _ in 0..dice.below(8) {
            let (at, host) = (dice.below(LAST), self.host(&mut dice));
            let (service, state) = (*dice.pick(&ServiceKind::ALL), Self::state(&mut dice, false));
            let ms = dice.between(100, 6_000);
            self.put(Kinds::LINKS, at, Act::Link(host, service, state, ms));
        }
        let mut dice = self.dice("service");
        for _ in 0..dice.below(4) {
            let at = dice.below(LAST);
            let (service, state) = (*dice.pick(&ServiceKind::ALL), Self::state(&mut dice, true));
            let ms = dice.between(100, 6_000);
            self.put(Kinds::SERVICES, at, Act::Service(service, state, ms));
        }
    }

    fn clocks(&mut self) {
        let mut dice = self.dice("clock");
        for _ in 0..dice.below(4) {
            let (at, host) = (dice.below(LAST), self.host(&mut dice));
            let by = i64::try_from(dice.between(100, 10_000)).expect("small");
            let by = if dice.chance(500) { by } else { -by };
            self.put(Kinds::CLOCKS, at, Act::StepHost(host, by));
        }
        let mut dice = self.dice("server");
        for _ in 0..dice.below(2) {
            let at = dice.below(LAST);
            let by = if dice.chance(500) {
                i64::try_from(dice.between(100, 10_000)).expect("small")
            } else {
                -i64::try_from(dice.between(100, self.mould.lease)).expect("small")
            };
            self.put(Kinds::CLOCKS, at, Act::StepServer(by));
        }
    }

    fn revocations(&mut self) {
        let mut dice = self.dice("revoke");
        for n in 0..dice.below(12) {
            let at = dice.below(LAST);
            let count = if dice.chance(200) { dice.between(2, 20) } else { 1 };
            let tasks: Vec<_> = (0..count).map(|_| dice.pick(self.tasks).id.clone()).collect();
            let terminate = dice.chance(600);
            let request = RevokeRequest {
                terminate,
                cooperative: terminate && dice.chance(250),
                grace_ms: (terminate && dice.chance(400)).then(|| dice.between(50, 2_000)),
                reason: Some(format!("reason {n}")),
                requested_by: Some("sim".to_owned()),
                expires_at: None,
            };
            let expiry = dice.chance(300).then(|| dice.between(500, 20_500));
            let undone = dice.chance(250).then(|| (at + dice.below(3_000), tasks[0].clone()));
            let mut tasks = tasks;
            tasks.sort();
            tasks.dedup();
            self.put(Kinds::REVOKES, at, Act::Revoke(tasks, request, expiry));
            if let Some((at, task)) = undone {
                self.put(Kinds::REVOKES, at, Act::Undo(task));
            }
        }
    }

    /// One order, or one that gets harder; then a start.
    fn drains(&mut self) {
        let mut dice = self.dice("drain");
        for _ in 0..dice.below(4) {
            let (mut at, host) = (dice.below(LAST), self.host(&mut dice));
            let first = *dice.pick(&[Drain::Warm, Drain::Soft, Drain::Hard]);
            let remote = dice.chance(500);
            let escalates = dice.chance(400);
            for mode in [Drain::Warm, Drain::Soft, Drain::Hard] {
                let grace =
                    (mode == Drain::Soft && dice.chance(500)).then(|| dice.between(50, 1_500));
                let later = dice.below(2_000);
                if mode == first || (escalates && mode > first) {
                    self.put(Kinds::DRAINS, at, Act::Drain { host, mode, grace, remote });
                    at += later;
                }
            }
            let again = at + dice.between(1_000, 4_000);
            self.put(Kinds::DRAINS, again, Act::Start(host, None));
        }
    }

    fn orders(&mut self) {
        let mut dice = self.dice("orders");
        for _ in 0..dice.below(6) {
            let at = dice.below(LAST);
            let listed = dice.chance(300).then(|| vec![dice.pick(self.workers).name.clone()]);
            let expiry = if dice.chance(300) { dice.between(20, 300) } else { 2_000 };
            self.put(Kinds::ORDERS, at, Act::Ping(listed, expiry));
            if dice.chance(300) {
                self.put(Kinds::ORDERS, at + dice.below(500), Act::Inspect);
            }
        }
        let mut dice = self.dice("queues");
        for _ in 0..dice.below(3) {
            let (at, queue) = (dice.below(LAST), dice.pick(&self.mould.queues).clone());
            let until = at + dice.between(100, 5_000);
            self.put(Kinds::QUEUES, at, Act::SetPaused(queue.clone(), true));
            self.put(Kinds::QUEUES, until, Act::SetPaused(queue, false));
        }
        let mut dice = self.dice("replay");
        for _ in 0..dice.below(4) {
            let (at, both) = (dice.below(LAST), dice.chance(500));
            self.put(Kinds::REPLAYS, at, Act::Replay { both });
        }
    }

    /// Where producers and operators are: killed in the middle of what they do and started again, stopped, cut off.
    fn clients(&mut self) {
        let mut dice = self.dice("clients");
        let client = |dice: &mut Dice| HostId::Client(u8::from(dice.chance(500)));
        for _ in 0..dice.below(6) {
            let (at, host) = (dice.below(LAST), client(&mut dice));
            let again = at + dice.below(2_000);
            self.put(Kinds::CLIENTS, at, Act::Crash(host));
            self.put(Kinds::CLIENTS, again, Act::Start(host, None));
        }
        for _ in 0..dice.below(3) {
            let (at, host, ms) = (dice.below(LAST), client(&mut dice), dice.between(50, 5_000));
            self.put(Kinds::CLIENTS, at, Act::Pause(host, ms));
        }
        for _ in 0..dice.below(4) {
            let (at, host) = (dice.below(LAST), client(&mut dice));
            let (service, state) = (*dice.pick(&ServiceKind::ALL), Self::state(&mut dice, false));
            let ms = dice.between(100, 6_000);
            self.put(Kinds::CLIENTS, at, Act::Link(host, service, state, ms));
        }
        // What an operator does is over within moments: one that is killed in it is killed right after it was begun.
        let begun = |act: &Act| match act {
            Act::Replay { .. } | Act::Revoke(..) | Act::SetPaused(..) => Some(HostId::Client(0)),
            Act::Undo(_) => Some(HostId::Client(1)),
            _ => None,
        };
        let acts: Vec<(u64, HostId)> = self
            .due
            .iter()
            .flat_map(|(at, acts)| acts.iter().filter_map(begun).map(|host| (at.0, host)))
            .collect();
        for (at, host) in acts {
            // By the act alone: whether others are there moves nothing.
            let mut dice = self.dice(&format!("killed {at} {host}"));
            let (killed, again) = (at + dice.below(400), dice.below(2_000));
            if dice.chance(300) {
                self.put(Kinds::CLIENTS, killed, Act::Crash(host));
                self.put(Kinds::CLIENTS, killed + again, Act::Start(host, None));
            }
        }
    }

    fn bursts(&mut self) {
        let mut dice = self.dice("burst");
        let mut next = self.tasks.len();
        for _ in 0..dice.below(2) {
            let (at, count) = (dice.below(10_000), dice.between(5, 40));
            let count = usize::try_from(count).expect("small");
            let burst = (next..next + count).map(|n| tasks::draw(self.mould, n, Ms(at))).collect();
            next += count;
            self.put(Kinds::BURSTS, at, Act::Burst(burst));
        }
    }
}
