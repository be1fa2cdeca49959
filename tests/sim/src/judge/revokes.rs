//! Rules about revocations: each is honoured once a worker can know of it, none is forgotten, and a worker that cannot
//! know takes nothing.

use std::collections::BTreeMap;

use stem_core::id::TaskId;
use stem_core::revoke::{RevokeRequest, Version};
use stem_core::time::Timestamp;

use super::Setting;
use super::bench::{Bench, Rule};
use super::ends::Ends;
use super::health::{Health, Topic};
use crate::fact::{Caller, Fact, Held, Move, Ms, ServiceKind};

/// What must be undisturbed for a worker to follow the revocations and to start by what it knows.
const FOLLOWING: [Topic; 7] = [
    Topic::Process,
    Topic::Link(ServiceKind::Revokes),
    Topic::Link(ServiceKind::Records),
    Topic::Call("revokes.time"),
    Topic::Call("revokes.since"),
    Topic::Call("revokes.changed"),
    Topic::Call("results.record_begun"),
];
/// A handler that was told to stop by force has this long to end by itself, in milliseconds.
const COURTESY: u64 = 250;
/// An answer of an undisturbed worker that an undisturbed operator reads is no older, in milliseconds.
const OLDEST: u64 = 4_000;

/// A change that was stored.
#[derive(Debug)]
struct Stored {
    task: TaskId,
    /// `None` takes it back.
    request: Option<RevokeRequest>,
    at: Ms,
}

impl Stored {
    /// In force by the store's clock, and for a moment more.
    fn holds(&self, clock: Timestamp) -> bool {
        self.request.as_ref().is_some_and(|request| holds(request, clock))
    }
}

fn holds(request: &RevokeRequest, clock: Timestamp) -> bool {
    let moment = std::time::Duration::from_secs(1);
    request.expires_at.is_none_or(|until| until > clock.after(moment))
}

/// What one process could know.
#[derive(Debug, Default)]
struct Known {
    booted: Ms,
    /// When it began to take tasks.
    ready: Option<Ms>,
    /// The newest change of each task that reached it, and when.
    newest: BTreeMap<TaskId, (Version, Ms)>,
    /// When the last read that was answered was sent.
    looked: Option<Ms>,
}

impl Known {
    /// It was stored before the process began, or while it did: between reading what there is and hearing what comes.
    fn is_from_its_start(&self, stored: &Stored) -> bool {
        self.ready.is_none_or(|ready| stored.at <= ready.after(1_000))
    }
}

/// A handler that was told to stop.
#[derive(Clone, Copy, Debug)]
struct Forced {
    at: Ms,
    deadline: Option<Ms>,
    ended: Option<Ms>,
    /// The revocation was over by the deadline. A worker that is disturbed may come to its command as late as that, and then
    /// stops nothing; when it came to it nobody tells.
    brief: bool,
    /// It was over before the handler ended.
    over: bool,
}

/// Everything about revocations.
#[derive(Debug, Default)]
pub(super) struct Revokes {
    stored: BTreeMap<Version, Stored>,
    newest: BTreeMap<TaskId, Version>,
    acknowledged: BTreeMap<TaskId, (Version, Ms)>,
    known: BTreeMap<Caller, Known>,
    forced: BTreeMap<(Caller, Held), Forced>,
}

impl Revokes {
    pub(super) fn hear(
        &mut self,
        bench: &mut Bench,
        (setting, health, ends): (&Setting, &Health, &Ends),
        (at, caller, fact): (Ms, Option<Caller>, &Fact),
    ) {
        match fact {
            Fact::RevokeStored { version, task, request } => {
                self.store(bench, at, *version, (task, Some(request.clone())));
            }
            Fact::UndoStored { version, task } => self.store(bench, at, *version, (task, None)),
            Fact::RevokeAcknowledged { task, version } => {
                self.acknowledged.insert(task.clone(), (*version, at));
            }
            _ => {}
        }
        let Some(caller) = caller else { return };
        match fact {
            Fact::Booted { .. } => {
                self.known.insert(caller, Known { booted: at, ..Known::default() });
            }
            Fact::Ready => {
                if let Some(known) = self.known.get_mut(&caller) {
                    known.ready = Some(at);
                }
            }
            Fact::Learned { sent, revoked, undone, .. } => {
                if let Some(known) = self.known.get_mut(&caller) {
                    known.looked = known.looked.max(Some(*sent));
                }
                for (task, version) in revoked.iter().chain(undone) {
                    self.learn(setting, ends, (at, caller), (task, *version));
                }
            }
            Fact::Asked { .. } => self.asked(bench, setting, at, caller),
            Fact::Started { held, .. } => {
                self.started(bench, (setting, health), (at, caller), held);
            }
            Fact::HandlerEnded { held, .. } => {
                let known = self.known.get(&caller).and_then(|known| known.newest.get(&held.task));
                let stored = known.and_then(|(version, _)| self.stored.get(version));
                if let Some(forced) = self.forced.get_mut(&(caller, held.clone())) {
                    forced.ended.get_or_insert(at);
                    forced.over = !stored.is_some_and(|it| it.holds(setting.latest_clock(at)));
                }
            }
            Fact::Settled {
                held, by, answer: stem_core::backend::broker::Settled::Done, ..
            }
            | Fact::Recorded { held, by, answer: stem_core::backend::result::Recorded::Stored } => {
                self.settled(bench, (setting, health), caller, (held, by));
            }
            Fact::Shows { worker, versions } => {
                if let Some(shown) = setting.caller_of(worker) {
                    self.shows(bench, (setting, health), (at, caller, shown), versions);
                }
            }
            _ => {}
        }
    }

    fn store(
        &mut self,
        bench: &mut Bench,
        at: Ms,
        version: Version,
        (task, request): (&TaskId, Option<RevokeRequest>),
    ) {
        let last = self.stored.last_key_value().map(|(version, _)| *version).unwrap_or_default();
        bench.must(Rule::I17, version > last, task, || {
            format!("a change of {task} got version {version:?} after {last:?}")
        });
        self.newest.insert(task.clone(), version);
        self.stored.insert(version, Stored { task: task.clone(), request, at });
    }

    /// Whether this version is stored, and about this task.
    pub(super) fn is_stored(&self, task: &TaskId, version: Version) -> bool {
        self.stored.get(&version).is_some_and(|stored| stored.task == *task)
    }

    /// A change has reached a process, by a read or a command.
    pub(super) fn learn(
        &mut self,
        setting: &Setting,
        ends: &Ends,
        (at, caller): (Ms, Caller),
        (task, version): (&TaskId, Version),
    ) {
        let Some(known) = self.known.get_mut(&caller) else { return };
        if known.newest.get(task).is_some_and(|(newest, _)| *newest >= version) {
            return;
        }
        known.newest.insert(task.clone(), (version, at));
        let request = self.stored.get(&version).and_then(|stored| stored.request.as_ref());
        // One that is over as it comes stops nothing.
        let in_force = |request: &&RevokeRequest| holds(request, setting.latest_clock(at));
        let terminate = request.filter(|request| request.terminate).filter(in_force);
        for held in ends.running(caller, task) {
            let key = (caller, held);
            // What a newer word does to an older one that is under way is asked of neither.
            let before = self.forced.remove(&key);
            let Some(request) = terminate.filter(|_| before.is_none()) else { continue };
            let grace = request.grace_ms.unwrap_or(0);
            let slack = COURTESY + setting.window + 50;
            let latest = at.after(grace + grace / 100 + slack);
            let deadline = (!request.cooperative).then_some(latest);
            let brief = !holds(request, setting.latest_clock(latest));
            self.forced.insert(key, Forced { at, deadline, ended: None, brief, over: false });
        }
    }

    fn asked(&self, bench: &mut Bench, setting: &Setting, at: Ms, caller: Caller) {
        let Some(declared) = setting.declared(caller).filter(|declared| !declared.fail_open) else {
            return;
        };
        let looked = self.known.get(&caller).and_then(|known| known.looked);
        let most = declared.staleness + declared.staleness / 50 + setting.window;
        bench.must_be(Rule::I20, looked.is_some_and(|looked| at.since(looked) <= most), || {
            format!(
                "it asks for deliveries, and has last read the revocations at {looked:?}; {} ms are allowed",
                declared.staleness
            )
        });
    }

    fn started(
        &self,
        bench: &mut Bench,
        (setting, health): (&Setting, &Health),
        (at, caller): (Ms, Caller),
        held: &Held,
    ) {
        let task = &held.task;
        let Some(known) = self.known.get(&caller) else { return };
        let clock = setting.latest_clock(at);
        let learned = known.newest.get(task);
        if let Some((version, learned)) = learned
            && let Some(stored) = self.stored.get(version)
            && at > learned.after(setting.window + 2)
        {
            let past = at.since(*learned);
            let holds = stored.holds(clock);
            let by_worker = stored.holds(health.wall(caller.host, at));
            if holds != by_worker {
                bench.note("a start whose revocation is over by one clock only");
            }
            let rule = match past {
                _ if known.is_from_its_start(stored) => Rule::I15,
                0..=1_000 => Rule::I14,
                _ => Rule::I19,
            };
            bench.must(rule, !holds, task, || {
                format!("{task} was started {past} ms after its revocation {version:?} had come")
            });
        }
        let Some((version, acknowledged)) = self.acknowledged.get(task) else { return };
        let newest = self.newest.get(task).and_then(|newest| self.stored.get(newest));
        let fail_open = setting.declared(caller).is_none_or(|declared| declared.fail_open);
        let knows = learned.is_some_and(|(learned, _)| learned >= version);
        if fail_open || knows || !newest.is_some_and(|it| it.holds(clock)) {
            return;
        }
        let late = at.since(*acknowledged);
        if known.booted > *acknowledged {
            return bench.must(Rule::I15, false, task, || {
                format!(
                    "{task} was started by a process that began after its revocation {version:?} was acknowledged"
                )
            });
        }
        if late <= 1_000 + setting.round {
            return;
        }
        let since = Ms(acknowledged.0.saturating_sub(setting.call_limit + 1_000));
        if !health.undisturbed(caller.host, &FOLLOWING, since) {
            return bench.excuse(Rule::I14);
        }
        let from_start = newest.is_some_and(|newest| known.is_from_its_start(newest));
        bench.must(if from_start { Rule::I15 } else { Rule::I14 }, false, task, || {
            format!(
                "{task} was started {late} ms after its revocation {version:?} was acknowledged"
            )
        });
    }

    fn settled(
        &self,
        bench: &mut Bench,
        (setting, health): (&Setting, &Health),
        caller: Caller,
        (held, by): (&Held, &Move),
    ) {
        let Some(forced) = self.forced.get(&(caller, held.clone())) else { return };
        let after = forced.ended.is_some_and(|ended| ended > forced.at.after(setting.window + 2));
        if after && forced.over && !health.quiet(caller.host, Self::heard_since(setting, forced)) {
            bench.excuse(Rule::I21);
        } else if after {
            bench.must(Rule::I21, matches!(by, Move::Revoke { .. }), &held.task, || {
                format!("{} was terminated while it ran, and ended by {by:?}", held.task)
            });
        }
    }

    /// When what a worker may still wait for, as it was told to stop a handler, was sent.
    fn heard_since(setting: &Setting, forced: &Forced) -> Ms {
        Ms(forced.at.0.saturating_sub(setting.call_limit + 1_000))
    }

    fn shows(
        &self,
        bench: &mut Bench,
        (setting, health): (&Setting, &Health),
        (at, reader, shown): (Ms, Caller, Caller),
        versions: &[(TaskId, Version)],
    ) {
        bench.note("inspections read");
        let since = Ms(at.0.saturating_sub(1_000 + setting.call_limit));
        let quiet = health.quiet(shown.host, since) && health.quiet(reader.host, since);
        let Some(known) = self.known.get(&shown) else { return };
        if !quiet {
            return bench.excuse(Rule::I17);
        }
        let shows: BTreeMap<&TaskId, Version> =
            versions.iter().map(|(task, version)| (task, *version)).collect();
        let clock = setting.latest_clock(at).after(std::time::Duration::from_secs(5));
        for (task, newest) in &self.newest {
            let Some(stored) = self.stored.get(newest).filter(|it| at.since(it.at) > OLDEST) else {
                continue;
            };
            let rule = if known.is_from_its_start(stored) { Rule::I15 } else { Rule::I17 };
            let it = shows.get(task).copied();
            if stored.request.is_none() {
                bench.must(rule, it.is_none(), task, || {
                    format!(
                        "{shown} holds {task} for revoked by {it:?}, which {newest:?} took back"
                    )
                });
            } else if stored.holds(clock) {
                bench.must(rule, it == Some(*newest), task, || {
                    format!(
                        "{shown} knows {it:?} of {task}; {newest:?} was stored at {} s",
                        stored.at
                    )
                });
            }
        }
    }

    /// Every half a second.
    pub(super) fn look(
        &mut self,
        bench: &mut Bench,
        (setting, health, ends): (&Setting, &Health, &Ends),
        at: Ms,
    ) {
        let late: Vec<(Caller, Held)> = self
            .forced
            .iter()
            .filter(|(_, forced)| forced.deadline.is_some_and(|deadline| deadline < at))
            .map(|(key, _)| key.clone())
            .collect();
        for key in late {
            let Some(forced) = self.forced.get_mut(&key) else { continue };
            let Some(deadline) = forced.deadline.take() else { continue };
            let (caller, held) = &key;
            let disturbed = !health.undisturbed(caller.host, &[Topic::Process], forced.at)
                || (forced.brief && !health.quiet(caller.host, Self::heard_since(setting, forced)));
            if disturbed {
                bench.excuse(Rule::I21);
                continue;
            }
            let over =
                forced.ended.is_some_and(|ended| ended <= deadline) || !ends.runs(*caller, held);
            bench.turn_to(at, Some(*caller));
            bench.must(Rule::I21, over, &held.task, || {
                format!("{} was to be stopped at {deadline} s and runs", held.task)
            });
        }
    }
}
