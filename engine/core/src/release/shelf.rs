//! What a push, an assignment and a removal do to one task name. Pure, and the same in every store.

use serde::{Deserialize, Serialize};

use super::{Assignment, Canary, Push, RELEASES, Release, Rollout, Served};
use crate::backend::modules::{Assigned, History, Removed};
use crate::time::Timestamp;

/// One task name, with everything that a store knows of it. It outlives its releases, so that no version comes twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shelf {
    /// The highest version that was given out; 0 before the first.
    pub last: u32,
    /// Which serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    /// Versions that served every task before the one that does, the latest last; who goes back to one of them takes
    /// it and those after it away. Empty while nothing serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<u32>,
    /// Newest first.
    pub releases: Vec<Release>,
}

/// What serves a name and what did, for stores that keep it in one place: as JSON an [`Assignment`] with more in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Which serve.
    #[serde(flatten)]
    pub assignment: Assignment,
    /// See [`Shelf::before`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<u32>,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelved {
    /// The release: a new one, or the newest if it is the same.
    pub release: Release,
    /// Whether it is new.
    pub new: bool,
    /// Those that went to make place for it.
    pub gone: Vec<Release>,
}

impl Shelf {
    /// As a store has it; releases in any order.
    pub fn of(last: u32, head: Option<Head>, mut releases: Vec<Release>) -> Self {
        releases.sort_by_key(|release| std::cmp::Reverse(release.version));
        let (assignment, before) =
            head.map_or_else(Default::default, |head| (Some(head.assignment), head.before));
        Self { last, assignment, before, releases }
    }

    /// What a store keeps beside the releases and the last version; `None` while nothing serves.
    pub fn head(&self) -> Option<Head> {
        let before = self.before.clone();
        self.assignment.map(|assignment| Head { assignment, before })
    }

    /// Makes a release and rolls it out. A push that has made one already changes nothing any more, whatever was decided
    /// since: it was sent again because its answer did not come.
    ///
    /// * [`Rollout::Whole`]: it serves every task, and a canary ends.
    /// * [`Rollout::Canary`]: it is on trial beside what serves, in place of another canary. Where nothing serves the name,
    ///   it serves every task. Where it is what serves already, nothing changes.
    /// * [`Rollout::Held`]: nothing changes.
    pub fn push(&mut self, push: &Push, rollout: Rollout, now: Timestamp) -> Shelved {
        if let Some(made) = self.releases.iter().find(|it| it.push == Some(push.id)) {
            return Shelved { release: made.clone(), new: false, gone: Vec::new() };
        }
        let same = |newest: &&Release| {
            (newest.digest, &newest.manifest, &newest.signatures)
                == (push.digest, &push.manifest, &push.signatures)
        };
        let known = self.releases.first().filter(same).cloned();
        let new = known.is_none();
        let release = known.unwrap_or_else(|| Release {
            name: push.name.clone(),
            version: self.last.saturating_add(1),
            digest: push.digest,
            size: push.size,
            manifest: push.manifest.clone(),
            pushed_at: now,
            pushed_by: push.pushed_by.clone(),
            signatures: push.signatures.clone(),
            push: Some(push.id),
        });
        let version = release.version;
        let serving = match (rollout, self.assignment) {
            (Rollout::Held, assignment) => assignment,
            (Rollout::Whole, _) | (Rollout::Canary(_), None) => {
                Some(Assignment { version, canary: None })
            }
            (Rollout::Canary(_), Some(serving)) if serving.version == version => Some(serving),
            (Rollout::Canary(percent), Some(serving)) => {
                Some(Assignment { canary: Some(Canary { version, percent }), ..serving })
            }
        };
        self.serve(serving);
        let mut gone = Vec::new();
        if new {
            self.last = version;
            self.releases.insert(0, release.clone());
            while self.releases.len() > RELEASES
                && let Some(oldest) = self.releases.iter().rposition(|it| !self.serves(it.version))
            {
                gone.push(self.releases.remove(oldest));
            }
            self.before.retain(|version| !gone.iter().any(|it| it.version == *version));
        }
        Shelved { release, new, gone }
    }

    /// Changes what serves.
    pub fn assign(&mut self, seen: Option<Assignment>, wanted: Option<Assignment>) -> Assigned {
        let named = wanted.iter().flat_map(versions);
        if named.into_iter().any(|version| self.release(version).is_none()) {
            return Assigned::NoSuchVersion;
        }
        if self.assignment != wanted && self.assignment != seen {
            return Assigned::Conflict;
        }
        self.serve(wanted);
        Assigned::Done
    }

    /// Lets this serve, and notes what did.
    fn serve(&mut self, wanted: Option<Assignment>) {
        let was = self.assignment.map(|serving| serving.version);
        match wanted.map(|wanted| wanted.version) {
            None => self.before.clear(),
            Some(now) => match self.before.iter().position(|version| *version == now) {
                Some(place) => self.before.truncate(place),
                None => self.before.extend(was.filter(|was| *was != now)),
            },
        }
        self.assignment = wanted;
    }

    /// Removes a release; [`Removed::Done`] comes with it.
    pub fn remove(&mut self, version: u32) -> Result<Release, Removed> {
        let place = self.releases.iter().position(|release| release.version == version);
        match place {
            None => Err(Removed::NoSuchVersion),
            Some(_) if self.serves(version) => Err(Removed::InUse),
            Some(place) => {
                self.before.retain(|before| *before != version);
                Ok(self.releases.remove(place))
            }
        }
    }

    /// A release.
    pub fn release(&self, version: u32) -> Option<&Release> {
        self.releases.iter().find(|release| release.version == version)
    }

    /// Whether some task is served by it.
    fn serves(&self, version: u32) -> bool {
        self.assignment.iter().flat_map(versions).any(|serving| serving == version)
    }

    /// Every release; `None` if there is none.
    pub fn history(self) -> Option<History> {
        let Self { assignment, before, releases, .. } = self;
        (!releases.is_empty()).then_some(History { assignment, before, releases })
    }

    /// What workers need; `None` if nothing serves.
    pub fn served(&self) -> Option<Served> {
        let assignment = self.assignment?;
        let mut releases: Vec<_> =
            versions(&assignment).filter_map(|it| self.release(it)).collect();
        releases.dedup();
        Some(Served { assignment, releases: releases.into_iter().cloned().collect() })
    }
}

/// The versions that serve: the one, then the canary's.
fn versions(assignment: &Assignment) -> impl Iterator<Item = u32> + use<> {
    let canary = assignment.canary.map(|canary| canary.version);
    std::iter::once(assignment.version).chain(canary)
}

#[cfg(test)]
mod tests {
    use super::super::{Percent, PushId};
    use super::*;
    use crate::id::{Digest, TaskName};

    fn push(shelf: &mut Shelf, digest: u8, rollout: Rollout) -> Shelved {
        send(shelf, PushId::fresh(), digest, rollout)
    }

    fn send(shelf: &mut Shelf, id: PushId, digest: u8, rollout: Rollout) -> Shelved {
        let push = Push {
            id,
            name: TaskName::new("job").unwrap(),
            digest: Digest([digest; 32]),
            size: 8,
            manifest: String::new(),
            pushed_by: None,
            signatures: Vec::new(),
        };
        shelf.push(&push, rollout, Timestamp::default())
    }

    fn serving(shelf: &Shelf) -> (u32, Option<u32>) {
        let assignment = shelf.assignment.unwrap();
        (assignment.version, assignment.canary.map(|canary| canary.version))
    }

    #[test]
    fn a_rollout_moves_what_serves() {
        let ten = Rollout::Canary(Percent::new(10).unwrap());
        let mut shelf = Shelf::default();
        push(&mut shelf, 1, Rollout::Held);
        assert_eq!(shelf.assignment, None);
        push(&mut shelf, 2, ten);
        assert_eq!(serving(&shelf), (2, None), "nobody else serves the others");
        push(&mut shelf, 3, ten);
        assert_eq!(serving(&shelf), (2, Some(3)));
        push(&mut shelf, 4, Rollout::Held);
        assert_eq!(serving(&shelf), (2, Some(3)));
        push(&mut shelf, 5, ten);
        assert_eq!(serving(&shelf), (2, Some(5)));
        assert!(!push(&mut shelf, 5, Rollout::Whole).new);
        assert_eq!(serving(&shelf), (5, None));
        push(&mut shelf, 5, ten);
        assert_eq!(serving(&shelf), (5, None), "it is on no trial any more");
        push(&mut shelf, 6, Rollout::Whole);
        assert_eq!(serving(&shelf), (6, None));
    }

    #[test]
    fn a_push_that_is_sent_again_changes_nothing_that_was_decided_since() {
        let mut shelf = Shelf::default();
        push(&mut shelf, 1, Rollout::Whole);
        for rollout in [Rollout::Whole, Rollout::Canary(Percent::new(10).unwrap())] {
            let id = PushId::fresh();
            let made = send(&mut shelf, id, 2, rollout).release;
            push(&mut shelf, 3, Rollout::Whole);
            let before = shelf.clone();
            let again = send(&mut shelf, id, 2, rollout);
            assert_eq!((again.release, again.new, &shelf), (made, false, &before));
            // Also where it is the newest, and was rolled back.
            let id = PushId::fresh();
            send(&mut shelf, id, 4, rollout);
            let back = Some(Assignment { version: 1, canary: None });
            assert_eq!(shelf.assign(shelf.assignment, back), Assigned::Done);
            assert!(!send(&mut shelf, id, 4, rollout).new);
            assert_eq!(serving(&shelf), (1, None));
        }
    }

    #[test]
    fn what_served_before_is_known_and_what_was_only_held_or_tried_is_not_among_it() {
        let mut shelf = Shelf::default();
        let to = |shelf: &mut Shelf, version| {
            let wanted = Some(Assignment { version, canary: None });
            assert_eq!(shelf.assign(shelf.assignment, wanted), Assigned::Done);
        };
        push(&mut shelf, 1, Rollout::Held);
        push(&mut shelf, 2, Rollout::Whole);
        push(&mut shelf, 3, Rollout::Canary(Percent::new(10).unwrap()));
        push(&mut shelf, 4, Rollout::Held);
        assert_eq!(shelf.before, [0; 0]);
        push(&mut shelf, 5, Rollout::Whole);
        push(&mut shelf, 6, Rollout::Whole);
        push(&mut shelf, 6, Rollout::Whole);
        assert_eq!(shelf.before, [2, 5]);
        to(&mut shelf, 4);
        assert_eq!(shelf.before, [2, 5, 6], "an older one that never served is no way back");
        to(&mut shelf, 5);
        assert_eq!(shelf.before, [2]);
        let read = Shelf::of(shelf.last, shelf.head(), shelf.releases.clone());
        assert_eq!(read, shelf);
        shelf.remove(2).unwrap();
        assert_eq!(shelf.before, [0; 0]);
        to(&mut shelf, 6);
        assert_eq!(shelf.assign(shelf.assignment, None), Assigned::Done);
        assert_eq!((&shelf.before[..], shelf.head()), (&[0; 0][..], None));
    }

    #[test]
    fn the_head_is_an_assignment_with_more_in_it() {
        let percent = Percent::new(10).unwrap();
        let assignment = Assignment { version: 3, canary: Some(Canary { version: 4, percent }) };
        let head = Head { assignment, before: vec![1, 2] };
        let text = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<Head>(&text).unwrap(), head);
        assert_eq!(serde_json::from_str::<Assignment>(&text).unwrap(), assignment);
        let text = serde_json::to_string(&assignment).unwrap();
        assert_eq!(serde_json::from_str::<Head>(&text).unwrap().before, [0; 0]);
    }

    #[test]
    fn the_oldest_that_serves_nothing_makes_place() {
        let mut shelf = Shelf::default();
        for digest in 0..100 {
            assert_eq!(push(&mut shelf, digest, Rollout::Held).gone, []);
        }
        let one = Some(Assignment { version: 1, canary: None });
        assert_eq!(shelf.assign(None, one), Assigned::Done);
        let gone = push(&mut shelf, 100, Rollout::Held).gone;
        assert_eq!(gone.iter().map(|it| it.version).collect::<Vec<_>>(), [2]);
        assert_eq!((shelf.releases.len(), shelf.last), (RELEASES, 101));
        assert_eq!(shelf.releases.last().unwrap().version, 1);
    }
}
