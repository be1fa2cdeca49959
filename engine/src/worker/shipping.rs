//! Follows the module store: what begins to serve is fetched, checked and prepared while what served before goes on, and
//! then takes its place in one step. Attempts that run keep the build they began with, which is let go with the last of
//! them.
//!
//! A store that is away changes nothing: what is at hand serves. Nothing here uses up an attempt.

mod choice;
mod prepare;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::{BackendError, ModuleStore};
use stem_core::id::{Digest, TaskName};
use stem_core::observe::Service;
use stem_core::release::{AtHand, Catalogue, Release, Served};
use stem_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

pub(super) use self::choice::{Choice, PinOrder, choose, note_build};
pub(super) use self::prepare::Source;
use self::prepare::{Trouble, find, may_pass, prepare, trusted, with_policy_of_now};
use super::handler::Serving;
use super::shared::{Shared, whole_millis};
use crate::signing::Trust;

/// The longest between two looks at the store, without a wake-up.
const LOOK: Duration = Duration::from_secs(30);
/// Between two looks in any case.
const PACE: Duration = Duration::from_millis(50);
/// The pause after a look that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// So many releases are fetched and prepared at once: their bytes lie in memory meanwhile.
const AT_ONCE: usize = 2;

/// A build that is to be at hand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    /// Since it serves. A store that lost its newest writes, or was begun anew, gives a version out again; when it was
    /// pushed tells the one from the other.
    Serve(TaskName, u32, Timestamp),
    /// Since a task may run on nothing else.
    Pin(TaskName, Digest),
}

/// A build that could not be prepared.
#[derive(Debug)]
struct Failing {
    trouble: Trouble,
    tries: u32,
    /// `None` if trying again cannot help.
    again_at: Option<Instant>,
}

struct Follower {
    shared: Arc<Shared>,
    source: Arc<Source>,
    catalogue: Catalogue,
    jobs: JoinSet<Result<Arc<Serving>, Trouble>>,
    under_way: HashMap<Id, Job>,
    failing: BTreeMap<Job, Failing>,
    waiting: BTreeMap<Job, Vec<oneshot::Sender<Result<(), Trouble>>>>,
    /// Pushed names that the worker serves with something of its own, as the log was told.
    shadowed: BTreeSet<TaskName>,
}

/// Follows the store until dropped. Jobs under way are dropped with it, and leave nothing behind.
pub(super) async fn follow(
    shared: Arc<Shared>,
    source: Arc<Source>,
    mut orders: mpsc::UnboundedReceiver<PinOrder>,
) {
    let store = Arc::clone(&source.store);
    let mut policy = shared.config.policy.subscribe();
    let mut trust = source.publishers.subscribe();
    shared.set_awaits_releases(true);
    let mut follower = Follower::new(Arc::clone(&shared), source);
    let mut looking = Box::pin(look(Arc::clone(&store), None, Duration::ZERO));
    let mut seen = None;
    let mut away = false;
    loop {
        follower.plan();
        let next_try = follower.next_try();
        // All are cancel-safe: the look goes on where it was, jobs and orders stay in their places.
        tokio::select! {
            looked = &mut looking => {
                let pause = match looked {
                    Ok(catalogue) => {
                        if std::mem::take(&mut away) {
                            tracing::info!("the module store can be read again");
                        }
                        seen = Some(catalogue.revision);
                        follower.take(catalogue);
                        shared.set_awaits_releases(false);
                        PACE
                    }
                    Err(error) => {
                        shared.saw_failure(Service::Modules, &error);
                        if !std::mem::replace(&mut away, true) {
                            tracing::warn!(%error, "the module store cannot be read; what is at hand goes on serving");
                        }
                        if may_pass(&error) { PAUSE } else { PAUSE * 20 }
                    }
                };
                looking.set(look(Arc::clone(&store), seen, pause));
            }
            Some(ended) = follower.jobs.join_next_with_id() => follower.ended(ended),
            Some(order) = orders.recv() => follower.ask(order),
            () = shared.routes_changed.notified() => {}
            Ok(()) = policy.changed() => follower.apply_policy(),
            () = changed(&mut trust) => follower.apply_trust(),
            () = sleep_until(next_try) => {}
        }
    }
}

async fn look(
    store: Arc<dyn ModuleStore>,
    seen: Option<u64>,
    pause: Duration,
) -> Result<Catalogue, BackendError> {
    tokio::time::sleep(pause).await;
    if let Some(seen) = seen {
        store.changed(seen, LOOK).await?;
    }
    store.catalogue().await
}

/// Cancel-safe.
async fn changed(trust: &mut Option<watch::Receiver<Arc<Trust>>>) {
    let changed = match trust {
        Some(trust) => trust.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

/// Never, without a time.
pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The name that these releases are of.
fn name_of(served: &Served) -> Option<&TaskName> {
    served.releases.first().map(|release| &release.name)
}

impl Follower {
    fn new(shared: Arc<Shared>, source: Arc<Source>) -> Self {
        Self {
            shared,
            source,
            catalogue: Catalogue::default(),
            jobs: JoinSet::new(),
            under_way: HashMap::new(),
            failing: BTreeMap::new(),
            waiting: BTreeMap::new(),
            shadowed: BTreeSet::new(),
        }
    }

    /// Takes in what the store says now.
    fn take(&mut self, catalogue: Catalogue) {
        let known = |name: &&TaskName| self.catalogue.unreadable.contains(name);
        for name in catalogue.unreadable.iter().filter(|name| !known(name)) {
            tracing::warn!(task = %name, "what serves this name cannot be read from the module store; what is at hand goes on serving it");
        }
        self.catalogue = catalogue;
    }

    /// Puts what is at hand in the places where it should be, and begins to fetch what is missing.
    fn plan(&mut self) {
        let missing = self.follow_catalogue();
        self.waiting.retain(|_, answers| {
            answers.retain(|answer| !answer.is_closed());
            !answers.is_empty()
        });
        let now = Instant::now();
        let (waiting, wanted) = (&self.waiting, &missing);
        self.failing.retain(|job, failing| match job {
            Job::Serve(..) => wanted.iter().any(|(other, _)| other == job),
            // Kept for a while, so that what is refused is not compiled for each task that asks.
            Job::Pin(..) => {
                waiting.contains_key(job) || failing.again_at.is_some_and(|at| at > now)
            }
        });
        let pins: Vec<Job> = self.waiting.keys().cloned().collect();
        let jobs = missing.into_iter().map(|(job, release)| (job, Some(release)));
        // What many tasks wait for goes before what one does.
        for (job, release) in jobs.chain(pins.into_iter().map(|job| (job, None))) {
            let due =
                self.failing.get(&job).is_none_or(|it| it.again_at.is_some_and(|at| at <= now));
            let under_way = self.under_way.values().any(|other| *other == job);
            if due && !under_way && self.jobs.len() < AT_ONCE {
                self.begin(job, release);
            }
        }
        self.report();
    }

    /// Follows what should serve; says what of it is not at hand and may run.
    fn follow_catalogue(&mut self) -> Vec<(Job, Arc<Release>)> {
        let (own, recalled, classes) = {
            let routes = self.shared.routes();
            (routes.own_names(), routes.recalled().clone(), routes.classes().clone())
        };
        let served: BTreeMap<_, _> = self
            .catalogue
            .served
            .iter()
            .filter_map(|served| Some((name_of(served)?, served)))
            .filter(|(name, _)| classes.serve(name))
            .collect();
        let shadowed: BTreeSet<_> =
            served.keys().filter(|name| own.contains(**name)).map(|name| (*name).clone()).collect();
        for name in shadowed.difference(&self.shadowed) {
            tracing::info!(task = %name, "releases of this name are not used: the worker has a handler of its own for it");
        }
        self.shadowed = shadowed;
        let unreadable = &self.catalogue.unreadable;
        let mut missing = Vec::new();
        self.shared.change_routes(|routes| {
            routes.change_pushed(|pushed| {
                pushed.retain(|name, _| {
                    let is_known = served.contains_key(name) || unreadable.contains(name);
                    let stays = is_known && !own.contains(name);
                    if !stays && !own.contains(name) {
                        tracing::info!(task = %name, "no release serves this name here any more; its tasks wait");
                    }
                    stays
                });
                for (name, served) in served.iter().filter(|(name, _)| !own.contains(**name)) {
                    let at_hand = pushed
                        .entry((*name).clone())
                        .or_insert_with(|| AtHand::new(served.assignment));
                    at_hand.disown(|version, build| {
                        let mut named = served.releases.iter().filter(|it| it.version == version);
                        named.all(|release| build.release.as_deref() == Some(release))
                    });
                    let wanted = served.assignment.version;
                    let withdrawn =
                        |it: &Release| it.version == wanted && recalled.contains(&it.digest);
                    at_hand.follow(served.assignment, served.releases.iter().any(withdrawn));
                    for version in at_hand.missing() {
                        let release = served.releases.iter().find(|it| it.version == version);
                        if let Some(release) = release.filter(|it| !recalled.contains(&it.digest)) {
                            let job = Job::Serve((*name).clone(), version, release.pushed_at);
                            missing.push((job, Arc::new(release.clone())));
                        }
                    }
                }
            });
        });
        missing
    }

    fn begin(&mut self, job: Job, release: Option<Arc<Release>>) {
        let (shared, source) = (Arc::clone(&self.shared), Arc::clone(&self.source));
        let what = job.clone();
        let handle = self.jobs.spawn(async move {
            let release = match (release, what) {
                (Some(release), _) => release,
                (None, Job::Pin(name, digest)) => find(&shared, &source, &name, &digest).await?,
                (None, Job::Serve(..)) => unreachable!("what serves comes with its release"),
            };
            prepare(&shared, &source, release).await
        });
        self.under_way.insert(handle.id(), job);
    }

    fn ended(&mut self, ended: Result<(Id, Result<Arc<Serving>, Trouble>), JoinError>) {
        let (id, came) = match ended {
            Ok((id, came)) => (id, came),
            Err(broken) => {
                let trouble = Trouble::Refused(format!("preparing it broke: {broken}"));
                (broken.id(), Err(trouble))
            }
        };
        let Some(job) = self.under_way.remove(&id) else { return };
        match came {
            Ok(build) => self.at_hand(job, build),
            Err(trouble) => self.failed(job, trouble),
        }
    }

    fn at_hand(&mut self, job: Job, build: Arc<Serving>) {
        // Trust list and policy may have changed since this began.
        let still = build.release.as_deref().map_or(Ok(()), |it| trusted(&self.source, it));
        if let Err(untrusted) = still {
            return self.failed(job, untrusted);
        }
        let build = with_policy_of_now(&self.shared, &build).unwrap_or(build);
        self.failing.remove(&job);
        let digest = build.module.digest();
        match &job {
            Job::Serve(name, version, _) => {
                let mut served = self.catalogue.served.iter().flat_map(|served| &served.releases);
                let meant = served.any(|release| build.release.as_deref() == Some(release));
                let placed = meant
                    && self.shared.change_routes(|routes| {
                        routes.change_pushed(|pushed| {
                            pushed.get_mut(name).is_some_and(|it| it.place(*version, build))
                        })
                    });
                if placed {
                    tracing::info!(task = %name, release = version, %digest, "release loaded; new attempts begin on it");
                }
            }
            Job::Pin(name, _) => {
                tracing::info!(task = %name, %digest, "a build is loaded that a task is pinned to");
                self.shared.change_routes(|routes| routes.keep_pinned(build));
                for answer in self.waiting.remove(&job).unwrap_or_default() {
                    // Whoever asked may have given up.
                    let _ = answer.send(Ok(()));
                }
            }
        }
    }

    fn failed(&mut self, job: Job, trouble: Trouble) {
        let before = self.failing.remove(&job);
        let said = before.as_ref().is_some_and(|before| before.trouble == trouble);
        let tries = before.map_or(0, |before| before.tries.saturating_add(1));
        let pause = trouble.pause(tries);
        let (code, problem, again_ms) =
            (trouble.code(), trouble.problem(), pause.map(whole_millis));
        match &job {
            Job::Serve(name, version, _) if !said => {
                tracing::warn!(task = %name, release = version, code, problem, again_ms, "a release is not used; what served before stays, if there was anything");
            }
            Job::Pin(name, digest) if !said => {
                tracing::warn!(task = %name, %digest, code, problem, again_ms, "a build that a task is pinned to cannot be had");
            }
            Job::Serve(name, ..) | Job::Pin(name, _) => {
                tracing::debug!(task = %name, code, problem, again_ms, "it was tried again in vain");
            }
        }
        if !matches!(trouble, Trouble::Unavailable(_)) {
            for answer in self.waiting.remove(&job).unwrap_or_default() {
                let _ = answer.send(Err(trouble.clone()));
            }
        }
        let again_at = pause.map(|pause| Instant::now() + pause);
        self.failing.insert(job, Failing { trouble, tries, again_at });
    }

    /// A task waits for a build.
    fn ask(&mut self, order: PinOrder) {
        let job = Job::Pin(order.name, order.digest);
        match self.failing.get(&job) {
            Some(failing) if !matches!(failing.trouble, Trouble::Unavailable(_)) => {
                let _ = order.answer.send(Err(failing.trouble.clone()));
            }
            _ => self.waiting.entry(job).or_default().push(order.answer),
        }
    }

    fn next_try(&self) -> Option<Instant> {
        let under_way = |job: &Job| self.under_way.values().any(|other| other == job);
        let now = Instant::now();
        let times = self.failing.iter().filter(|(job, _)| !under_way(job));
        // What is due and was not begun waits for a job to end.
        times.filter_map(|(_, failing)| failing.again_at).filter(|at| *at > now).min()
    }

    /// What nobody on the list has signed serves no new attempt; those that run end on it, and what is on the list by now
    /// is tried again.
    fn apply_trust(&mut self) {
        self.failing.retain(|_, failing| !matches!(failing.trouble, Trouble::Untrusted(_)));
        let source = &self.source;
        self.shared.change_routes(|routes| {
            routes.retain_releases(|release| {
                let trusted = trusted(source, release);
                if trusted.is_err() {
                    tracing::warn!(task = %release.name, release = release.version, digest = %release.digest, "nobody who is trusted by now has signed a build; no attempt begins on it any more");
                }
                trusted.is_ok()
            });
        });
    }

    /// Builds get what the policy gives them now; attempts that run keep what they began with.
    fn apply_policy(&mut self) {
        let shared = &self.shared;
        shared.change_routes(|routes| {
            // Rare, and prepared again in a moment.
            routes.forget_pinned();
            routes.change_pushed(|pushed| {
                for (_, build) in pushed.values_mut().flat_map(AtHand::builds_mut) {
                    if let Some(fresh) = with_policy_of_now(shared, build) {
                        *build = fresh;
                    }
                }
            });
        });
    }
}
