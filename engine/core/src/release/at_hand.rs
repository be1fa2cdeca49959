//! Which builds of one pushed task name are at hand, while what should serve changes.
//!
//! A build that is wanted and not yet at hand leaves the one before in service, so a name that is served stays served.

use super::Assignment;
use crate::id::TaskId;

/// The version of a build that stands in and is no version's any more; stores give out 1 first.
const NOBODYS: u32 = 0;

/// The builds of one task name.
#[derive(Clone, Debug)]
pub struct AtHand<Build> {
    wanted: Assignment,
    /// Serves all tasks but those of the trial; of another version as long as the wanted one is not at hand.
    stable: Option<(u32, Build)>,
    canary: Option<(u32, Build)>,
    /// What should serve all tasks but those of the trial must not run.
    withdrawn: bool,
}

impl<Build: Clone> AtHand<Build> {
    /// Nothing is at hand yet.
    pub fn new(wanted: Assignment) -> Self {
        Self { wanted, stable: None, canary: None, withdrawn: false }
    }

    /// What should serve has changed: what is at hand takes its new place, and what has none is let go. `withdrawn` says
    /// that the version which is to serve all tasks but those of a trial must not run.
    pub fn follow(&mut self, wanted: Assignment, withdrawn: bool) {
        (self.wanted, self.withdrawn) = (wanted, withdrawn);
        let before = self.stable.take();
        let canary = self.canary.take();
        for (version, build) in before.iter().chain(&canary) {
            self.place(*version, build.clone());
        }
        self.stable = self.stable.take().or(before);
    }

    /// A version may have come to mean another build, in a store that lost its newest writes or was begun anew. Builds that
    /// are not what their version means now are no version's: they stand in until what is wanted is at hand.
    pub fn disown(&mut self, is_meant: impl Fn(u32, &Build) -> bool) {
        for (version, build) in self.stable.iter_mut().chain(&mut self.canary) {
            if !is_meant(*version, build) {
                *version = NOBODYS;
            }
        }
    }

    /// Lets builds go.
    pub fn retain(&mut self, keep: impl Fn(&Build) -> bool) {
        self.stable.take_if(|(_, build)| !keep(build));
        self.canary.take_if(|(_, build)| !keep(build));
    }

    /// A build is at hand; says whether it is wanted. A wanted one takes the place of the one that stood in for it.
    pub fn place(&mut self, version: u32, build: Build) -> bool {
        let trial = self.wanted.canary.is_some_and(|canary| canary.version == version);
        if version == self.wanted.version {
            self.stable = Some((version, build));
        } else if trial {
            self.canary = Some((version, build));
        } else {
            return false;
        }
        true
    }

    /// The versions that are wanted and not at hand.
    pub fn missing(&self) -> impl Iterator<Item = u32> + use<Build> {
        let has = |place: &Option<(u32, Build)>, version| {
            place.as_ref().is_some_and(|(at_hand, _)| *at_hand == version)
        };
        let stable = Some(self.wanted.version).filter(|version| !has(&self.stable, *version));
        let canary = self.wanted.canary.map(|canary| canary.version);
        let canary = canary
            .filter(|version| *version != self.wanted.version && !has(&self.canary, *version));
        stable.into_iter().chain(canary)
    }

    /// Whether some build serves the tasks of this name.
    pub fn serves(&self, usable: impl Fn(&Build) -> bool) -> bool {
        self.usable(usable) != (false, false)
    }

    /// Whether each of the two may serve.
    fn usable(&self, usable: impl Fn(&Build) -> bool) -> (bool, bool) {
        let of =
            |place: &Option<(u32, Build)>| place.as_ref().is_some_and(|(_, build)| usable(build));
        let stable = of(&self.stable);
        // A trial is of a part of the tasks. It gets the others where what should serve them must not run, and not where
        // that is only not at hand yet.
        let wanted_is_bad = self.withdrawn
            || self.stable.as_ref().is_some_and(|(version, _)| *version == self.wanted.version);
        (stable, (stable || wanted_is_bad) && of(&self.canary))
    }

    /// The build that serves a task: the same in every attempt, as long as neither what should serve nor what is at hand
    /// changes. One that must not be used leaves its tasks to the other.
    pub fn build_for(&self, task: &TaskId, usable: impl Fn(&Build) -> bool) -> Option<&Build> {
        let on_trial = || {
            let version = self.wanted.version_for(task);
            self.canary.as_ref().is_some_and(|(canary, _)| *canary == version)
        };
        // Most names have one build, for which no id is looked at.
        let place = match self.usable(usable) {
            (true, true) if on_trial() => &self.canary,
            (true, _) => &self.stable,
            (false, true) => &self.canary,
            (false, false) => return None,
        };
        place.as_ref().map(|(_, build)| build)
    }

    /// Every build at hand, with its version and the share of tasks if it is on trial.
    pub fn builds(&self) -> impl Iterator<Item = (u32, &Build, Option<u8>)> {
        let percent = self.wanted.canary.map(|canary| canary.percent.get());
        let stable = self.stable.iter().map(|(version, build)| (*version, build, None));
        stable.chain(self.canary.iter().map(move |(version, build)| (*version, build, percent)))
    }

    /// The same, to put another in its place.
    pub fn builds_mut(&mut self) -> impl Iterator<Item = (u32, &mut Build)> {
        self.stable.iter_mut().chain(&mut self.canary).map(|(version, build)| (*version, build))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Canary, Percent};
    use super::*;

    fn only(version: u32) -> Assignment {
        Assignment { version, canary: None }
    }

    fn with_canary(version: u32, canary: u32) -> Assignment {
        let canary = Canary { version: canary, percent: Percent::new(50).unwrap() };
        Assignment { version, canary: Some(canary) }
    }

    fn serving(at_hand: &AtHand<u32>, bad: &[u32]) -> Vec<u32> {
        let ids = (0..50).map(|id| TaskId::new(format!("t{id}")).unwrap());
        let mut builds: Vec<_> = ids
            .filter_map(|id| at_hand.build_for(&id, |build| !bad.contains(build)).copied())
            .collect();
        builds.sort_unstable();
        builds.dedup();
        builds
    }

    fn missing(at_hand: &AtHand<u32>) -> Vec<u32> {
        at_hand.missing().collect()
    }

    #[test]
    fn the_old_one_serves_until_the_new_one_is_at_hand() {
        let mut at_hand = AtHand::new(only(1));
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![], vec![1]));
        assert!(at_hand.place(1, 1));
        at_hand.follow(only(2), false);
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![1], vec![2]));
        at_hand.follow(only(3), false);
        assert!(!at_hand.place(2, 2), "nobody wants it any more");
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![1], vec![3]));
        assert!(at_hand.place(3, 3));
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![3], vec![]));
        assert_eq!(at_hand.builds().count(), 1, "the old one is let go");
    }

    #[test]
    fn a_trial_is_promoted_or_ended_without_loading_anything_anew() {
        let mut at_hand = AtHand::new(only(1));
        at_hand.place(1, 1);
        at_hand.follow(with_canary(1, 2), false);
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![1], vec![2]));
        at_hand.place(2, 2);
        assert_eq!(serving(&at_hand, &[]), [1, 2]);
        let mut promoted = at_hand.clone();
        promoted.follow(only(2), false);
        assert_eq!((serving(&promoted, &[]), missing(&promoted)), (vec![2], vec![]));
        at_hand.follow(only(1), false);
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![1], vec![]));
        let mut turned = promoted;
        turned.follow(with_canary(1, 2), false);
        assert_eq!((serving(&turned, &[]), missing(&turned)), (vec![2], vec![1]));
    }

    #[test]
    fn a_build_whose_version_means_another_now_stands_in_for_that() {
        let mut at_hand = AtHand::new(with_canary(1, 2));
        at_hand.place(1, 10);
        at_hand.place(2, 20);
        at_hand.disown(|version, build| (version, *build) != (1, 10));
        at_hand.follow(with_canary(1, 2), false);
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![10, 20], vec![1]));
        at_hand.disown(|version, _| version != 2);
        at_hand.follow(with_canary(1, 2), false);
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![10], vec![1, 2]));
        assert!(at_hand.place(1, 11) && at_hand.place(2, 21));
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![11, 21], vec![]));
    }

    #[test]
    fn a_trial_gets_no_more_than_its_part_because_the_other_is_not_there_yet() {
        let mut at_hand = AtHand::new(with_canary(1, 2));
        at_hand.place(2, 2);
        let serves = |at_hand: &AtHand<u32>| at_hand.serves(|_| true);
        assert_eq!((serving(&at_hand, &[]), serves(&at_hand)), (vec![], false));
        at_hand.follow(with_canary(1, 2), true);
        assert_eq!((serving(&at_hand, &[]), serves(&at_hand)), (vec![2], true), "it never comes");
        at_hand.follow(with_canary(1, 2), false);
        at_hand.place(1, 1);
        assert_eq!((serving(&at_hand, &[]), serves(&at_hand)), (vec![1, 2], true));
        // One that stands in and must not be used says nothing of the one that is wanted.
        at_hand.follow(with_canary(3, 2), false);
        assert_eq!((serving(&at_hand, &[1]), serving(&at_hand, &[])), (vec![], vec![1, 2]));
        at_hand.retain(|build| *build != 1);
        assert_eq!((serving(&at_hand, &[]), missing(&at_hand)), (vec![], vec![3]));
    }

    #[test]
    fn a_build_that_must_not_be_used_leaves_its_tasks_to_the_other() {
        let mut at_hand = AtHand::new(with_canary(1, 2));
        at_hand.place(1, 1);
        at_hand.place(2, 2);
        for (bad, left) in [(&[2][..], &[1][..]), (&[1], &[2]), (&[1, 2], &[])] {
            assert_eq!(serving(&at_hand, bad), left, "{bad:?}");
        }
    }

    #[test]
    fn a_task_stays_with_its_build() {
        let mut at_hand = AtHand::new(with_canary(1, 2));
        at_hand.place(1, 1);
        at_hand.place(2, 2);
        for id in (0..50).map(|id| TaskId::new(format!("t{id}")).unwrap()) {
            let first = at_hand.build_for(&id, |_| true).copied();
            at_hand.follow(with_canary(1, 2), false);
            assert_eq!(at_hand.build_for(&id, |_| true).copied(), first);
        }
    }
}
