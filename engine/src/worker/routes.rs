//! Which handler serves a task: those that the worker was given, those of its directory, and releases that were pushed.
//! What the worker has itself wins over what was pushed, unless it was recalled; a build that was recalled serves nothing,
//! nor does anything under a name that is of another trust class than the worker's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use stem_core::envelope::Envelope;
use stem_core::id::{Digest, TaskName};
use stem_core::release::{AtHand, Release};

use super::classes::Classes;
use super::handler::{Handler, Serving};

/// So many builds that only pinned tasks ask for stay prepared; the one that was asked for the longest ago goes first.
const PINNED: usize = 8;

/// What is loaded of the releases of each task name.
pub(super) type Pushed = BTreeMap<TaskName, AtHand<Arc<Serving>>>;

/// One build in service, for `stats`.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) task: TaskName,
    pub(super) handler: Handler,
    /// Of its tasks, while it is on trial.
    pub(super) percent: Option<u8>,
}

/// Everything that can serve, now.
#[derive(Debug, Default)]
pub(super) struct Routes {
    local: Arc<BTreeMap<TaskName, Handler>>,
    pushed: Pushed,
    pinned: VecDeque<Arc<Serving>>,
    recalled: BTreeSet<Digest>,
    classes: Classes,
    names: Arc<[TaskName]>,
}

impl Routes {
    /// What the worker was given.
    pub(super) fn new(local: BTreeMap<TaskName, Handler>, classes: Classes) -> Self {
        let mut routes = Self { local: Arc::new(local), classes, ..Self::default() };
        routes.draw_names();
        routes
    }

    fn may_serve(&self, module: &Digest) -> bool {
        !self.recalled.contains(module)
    }

    fn may_run(&self, handler: &Handler) -> bool {
        match handler {
            Handler::Inline(_) => true,
            Handler::Isolate(module) => self.may_serve(&module.module.digest()),
        }
    }

    /// Which names are this worker's at all.
    pub(super) fn classes(&self) -> &Classes {
        &self.classes
    }

    /// What the worker has itself for a name and may run: it goes before what was pushed.
    fn own(&self, name: &TaskName) -> Option<&Handler> {
        let local = self.local.get(name).filter(|handler| self.may_run(handler));
        local.filter(|_| self.classes.serve(name))
    }

    /// What was pushed for a name, if it serves anything and goes behind nothing.
    fn pushed_for(&self, name: &TaskName) -> Option<&AtHand<Arc<Serving>>> {
        let good = |build: &Arc<Serving>| self.may_serve(&build.module.digest());
        let builds = self.pushed.get(name).filter(|builds| builds.serves(good))?;
        (self.own(name).is_none() && self.classes.serve(name)).then_some(builds)
    }

    /// The names that the worker serves with what it has itself.
    pub(super) fn own_names(&self) -> BTreeSet<TaskName> {
        self.local.keys().filter(|name| self.own(name).is_some()).cloned().collect()
    }

    /// Every name that something here should serve, also while nothing can.
    pub(super) fn wanted_names(&self) -> impl Iterator<Item = &TaskName> {
        self.local.keys().chain(self.pushed.keys())
    }

    /// The handler of a task that asks for no build of its own.
    pub(super) fn handler(&self, envelope: &Envelope) -> Option<Handler> {
        if let Some(own) = self.own(&envelope.name) {
            return Some(own.clone());
        }
        let usable = |build: &Arc<Serving>| self.may_serve(&build.module.digest());
        let pushed = self.pushed.get(&envelope.name).filter(|_| self.classes.serve(&envelope.name));
        let build = pushed?.build_for(&envelope.id, usable)?;
        Some(Handler::Isolate(Arc::clone(build)))
    }

    /// A build of a task name of ours that is prepared, whether it serves or not; recalled or not.
    pub(super) fn build(&mut self, name: &TaskName, digest: &Digest) -> Option<Handler> {
        if !self.classes.serve(name) {
            return None;
        }
        let meant = |build: &Serving| build.name == *name && build.module.digest() == *digest;
        if let Some(Handler::Isolate(local)) = self.local.get(name)
            && meant(local)
        {
            return Some(Handler::Isolate(Arc::clone(local)));
        }
        let mut pushed = self.pushed.get(name).into_iter().flat_map(AtHand::builds);
        if let Some((_, build, _)) = pushed.find(|(_, build, _)| meant(build)) {
            return Some(Handler::Isolate(Arc::clone(build)));
        }
        let place = self.pinned.iter().position(|build| meant(build))?;
        let build = self.pinned.remove(place)?;
        self.pinned.push_back(Arc::clone(&build));
        Some(Handler::Isolate(build))
    }

    /// The names that deliveries may be asked for, sorted.
    pub(super) fn names(&self) -> Arc<[TaskName]> {
        Arc::clone(&self.names)
    }

    /// What the worker was given and what lies in its directory.
    pub(super) fn local(&self) -> Arc<BTreeMap<TaskName, Handler>> {
        Arc::clone(&self.local)
    }

    /// Every build in service.
    pub(super) fn rows(&self) -> Vec<Row> {
        let own = self.local.keys().filter_map(|name| Some((name, self.own(name)?)));
        let local = own.map(|(name, handler)| Row {
            task: name.clone(),
            handler: handler.clone(),
            percent: None,
        });
        let good = |build: &Arc<Serving>| self.may_serve(&build.module.digest());
        let served = self.pushed.keys().filter_map(|name| Some((name, self.pushed_for(name)?)));
        let pushed = served.flat_map(|(name, builds)| {
            builds.builds().filter(move |(_, build, _)| good(build)).map(|(_, build, percent)| {
                let handler = Handler::Isolate(Arc::clone(build));
                Row { task: name.clone(), handler, percent }
            })
        });
        local.chain(pushed).collect()
    }

    /// The builds that are recalled.
    pub(super) fn recalled(&self) -> &BTreeSet<Digest> {
        &self.recalled
    }

    /// What is loaded of the releases of each name.
    pub(super) fn pushed(&self) -> &Pushed {
        &self.pushed
    }

    /// Puts other handlers in the place of those the worker has itself.
    pub(super) fn set_local(&mut self, local: BTreeMap<TaskName, Handler>) {
        self.local = Arc::new(local);
        self.draw_names();
    }

    /// Changes what is loaded of releases.
    pub(super) fn change_pushed<T>(&mut self, change: impl FnOnce(&mut Pushed) -> T) -> T {
        let changed = change(&mut self.pushed);
        self.draw_names();
        changed
    }

    /// From now on these builds serve nothing.
    pub(super) fn set_recalled(&mut self, recalled: BTreeSet<Digest>) {
        self.pinned.retain(|build| !recalled.contains(&build.module.digest()));
        self.recalled = recalled;
        self.draw_names();
    }

    /// Lets every build of a release go that is not to be kept.
    pub(super) fn retain_releases(&mut self, keep: impl Fn(&Release) -> bool) {
        let keep = |build: &Arc<Serving>| build.release.as_deref().is_none_or(&keep);
        self.pinned.retain(keep);
        self.pushed.values_mut().for_each(|builds| builds.retain(keep));
        self.draw_names();
    }

    /// Keeps a build that a pinned task asked for.
    pub(super) fn keep_pinned(&mut self, build: Arc<Serving>) {
        if self.pinned.len() == PINNED {
            self.pinned.pop_front();
        }
        self.pinned.push_back(build);
    }

    /// Lets every build go that only pinned tasks asked for.
    pub(super) fn forget_pinned(&mut self) {
        self.pinned.clear();
    }

    /// What is there in the place of a module that an attempt began on: the same, or what was prepared anew for it. For one
    /// from the directory also another version of it.
    pub(super) fn now(&self, worn: &Serving) -> Option<Arc<Serving>> {
        let Some(release) = &worn.release else {
            return match self.local.get(&worn.name) {
                Some(Handler::Isolate(now)) => Some(Arc::clone(now)),
                _ => None,
            };
        };
        let pushed = self.pushed.get(&worn.name).into_iter().flat_map(AtHand::builds);
        let mut builds = pushed.map(|(_, build, _)| build).chain(&self.pinned);
        let same = |build: &&Arc<Serving>| {
            build
                .release
                .as_ref()
                .is_some_and(|now| (now.version, &now.name) == (release.version, &release.name))
        };
        builds.find(same).cloned()
    }

    /// Puts a module prepared anew in the place of the worn one; says whether that was still there.
    pub(super) fn replace(&mut self, worn: &Arc<Serving>, fresh: &Arc<Serving>) -> bool {
        let local = Arc::make_mut(&mut self.local).get_mut(&worn.name);
        let local = local.and_then(|handler| match handler {
            Handler::Isolate(now) => Some(now),
            Handler::Inline(_) => None,
        });
        let pushed = self.pushed.get_mut(&worn.name).into_iter().flat_map(AtHand::builds_mut);
        let builds = local.into_iter().chain(pushed.map(|(_, build)| build));
        let mut still = builds.chain(&mut self.pinned).filter(|now| Arc::ptr_eq(now, worn));
        still.next().map(|place| *place = Arc::clone(fresh)).is_some()
    }

    /// Works out which names something serves.
    pub(super) fn draw_names(&mut self) {
        let own = self.local.keys().filter(|name| self.own(name).is_some());
        let pushed = self.pushed.keys().filter(|name| self.pushed_for(name).is_some());
        let mut names: Vec<_> = own.chain(pushed).cloned().collect();
        names.sort();
        if *names != *self.names {
            self.names = names.into();
        }
    }
}
