//! Rules about commands: stored before anybody sees what they carry, obeyed once by each worker that is meant and there, and
//! never late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stem_core::id::{RequestId, TaskId, WorkerId};
use stem_core::revoke::Version;
use stem_core::time::Timestamp;

use super::Setting;
use super::bench::{Bench, Rule};
use super::ends::Ends;
use super::health::{Health, Topic};
use super::revokes::Revokes;
use crate::fact::{Caller, Fact, Ms, ServiceKind, Word};

/// What must be undisturbed for a worker to obey.
const OBEYING: [Topic; 5] = [
    Topic::Process,
    Topic::Clock,
    Topic::Link(ServiceKind::Broker),
    Topic::Call("control.commands"),
    Topic::Call("control.reply"),
];
/// What is known of a worker's clock may be off by so many milliseconds.
const DRIFT: u64 = 50;

#[derive(Debug)]
struct Sent {
    order: Word,
    versions: Vec<(TaskId, Version)>,
    expires_at: Timestamp,
    targets: Option<Vec<WorkerId>>,
    at: Ms,
    /// Milliseconds from its storing to its expiry, by the store's clock.
    lives: u64,
    replied: BTreeSet<Caller>,
}

/// Commands, and what each process has heard and done.
#[derive(Debug, Default)]
pub(super) struct Orders {
    sent: BTreeMap<RequestId, Sent>,
    /// Pings that were not counted yet.
    open: BTreeSet<RequestId>,
    booted: BTreeMap<Caller, Ms>,
    ready: BTreeMap<Caller, Ms>,
    /// When it came, by the process' wall clock at that time.
    heard: BTreeMap<Caller, BTreeMap<RequestId, Timestamp>>,
    commanded: BTreeMap<Caller, usize>,
}

impl Orders {
    pub(super) fn hear(
        &mut self,
        bench: &mut Bench,
        (setting, health, ends): (&Setting, &Health, &Ends),
        revokes: &mut Revokes,
        (at, caller, fact): (Ms, Option<Caller>, &Fact),
    ) {
        let Some(caller) = caller else { return };
        match fact {
            Fact::CommandStored { id, order, versions, expires_at, targets, .. } => {
                if self.sent.contains_key(id) {
                    return;
                }
                let lives = setting.clock(at).until(*expires_at).as_millis();
                let sent = Sent {
                    order: order.clone(),
                    versions: versions.clone(),
                    expires_at: *expires_at,
                    targets: targets.clone(),
                    at,
                    lives: u64::try_from(lives).unwrap_or(u64::MAX),
                    replied: BTreeSet::new(),
                };
                if sent.order == Word::Ping {
                    self.open.insert(id.clone());
                }
                self.sent.insert(id.clone(), sent);
            }
            Fact::CommandsGiven { ids } => {
                for sent in ids.iter().filter_map(|id| self.sent.get(id)) {
                    for (task, version) in &sent.versions {
                        bench.must(Rule::I13, revokes.is_stored(task, *version), task, || {
                            format!("a command names revocation {version:?} of {task}, which is not stored")
                        });
                    }
                }
            }
            Fact::Booted { .. } => {
                self.booted.insert(caller, at);
            }
            Fact::Ready => {
                self.ready.insert(caller, at);
            }
            Fact::Gone { .. } => {
                self.ready.remove(&caller);
            }
            Fact::Heard(ids) => self.came((setting, health, ends), revokes, (at, caller), ids),
            Fact::Commanded { order, .. } => {
                let commanded = self.commanded.entry(caller).or_default();
                *commanded += 1;
                let (did, came) = (*commanded, self.heard.get(&caller).map_or(0, BTreeMap::len));
                bench.must_be(Rule::I16, did <= came, || {
                    format!("it has carried out {did} commands, the last a {order}, and {came} came to it")
                });
            }
            Fact::Replied { id, .. } => self.replied(bench, caller, id),
            _ => {}
        }
    }

    fn came(
        &mut self,
        (setting, health, ends): (&Setting, &Health, &Ends),
        revokes: &mut Revokes,
        (at, caller): (Ms, Caller),
        ids: &[RequestId],
    ) {
        for id in ids {
            let Some(sent) = self.sent.get(id) else { continue };
            let name = setting.name_of(caller);
            let meant = sent
                .targets
                .as_ref()
                .is_none_or(|targets| name.is_some_and(|name| targets.contains(name)));
            if !meant {
                continue;
            }
            let wall = health.wall(caller.host, at);
            self.heard.entry(caller).or_default().entry(id.clone()).or_insert(wall);
            let moment = Duration::from_millis(DRIFT);
            if wall.after(moment) < sent.expires_at {
                for (task, version) in &sent.versions {
                    revokes.learn(setting, ends, (at, caller), (task, *version));
                }
            }
        }
    }

    fn replied(&mut self, bench: &mut Bench, caller: Caller, id: &RequestId) {
        let Some(sent) = self.sent.get_mut(id) else {
            return bench.found(Rule::I16, None, format!("it answered {id}, which nobody asked"));
        };
        sent.replied.insert(caller);
        let booted = self.booted.get(&caller).copied().unwrap_or_default();
        bench.must_be(Rule::I18, sent.at >= booted, || {
            format!("it began at {booted} s and obeyed {id}, which was sent at {} s", sent.at)
        });
        let heard = self.heard.get(&caller).and_then(|heard| heard.get(id)).copied();
        bench.must_be(Rule::I16, heard.is_some(), || {
            format!("it obeyed {id}, which had not come to it")
        });
        if let Some(wall) = heard {
            let drift = Duration::from_millis(DRIFT);
            bench.must_be(Rule::I18, wall < sent.expires_at.after(drift), || {
                format!(
                    "it obeyed {id}, which came at {wall} by its clock and held until {}",
                    sent.expires_at
                )
            });
        }
    }

    /// Every half a second: every undisturbed worker has answered every ping that is over.
    pub(super) fn look(&mut self, bench: &mut Bench, setting: &Setting, health: &Health, at: Ms) {
        let (sent, ready) = (&self.sent, &self.ready);
        let enough = 1_000 + setting.round;
        self.open.retain(|id| {
            let Some(ping) = sent.get(id) else { return false };
            if at.since(ping.at) < ping.lives.saturating_add(1_000) {
                return true;
            }
            let since = Ms(ping.at.0.saturating_sub(setting.call_limit + 2_000));
            for (caller, ready) in ready {
                let name = setting.name_of(*caller);
                let meant = ping.targets.as_ref().is_none_or(|targets| {
                    name.is_some_and(|name| targets.contains(name))
                });
                if !meant || *ready > ping.at {
                    continue;
                }
                let wall = health.wall(caller.host, ping.at).after(Duration::from_millis(enough));
                let able = ping.lives > enough
                    && wall < ping.expires_at
                    && !setting.is_draining(*caller)
                    && health.undisturbed(caller.host, &OBEYING, since);
                if !able {
                    bench.excuse(Rule::I16);
                    continue;
                }
                bench.turn_to(at, Some(*caller));
                bench.must_be(Rule::I16, ping.replied.contains(caller), || {
                    format!("it did not answer {id}, which was sent at {} s, and nothing had disturbed it", ping.at)
                });
            }
            false
        });
    }
}
