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
    /// Newest first.
    pub releases: Vec<Release>,
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
    /// Makes a release and rolls it out.
    ///
    /// * [`Rollout::Whole`]: it serves every task, and a canary ends.
    /// * [`Rollout::Canary`]: it is on trial beside what serves, in place of another canary. Where nothing serves the name,
    ///   it serves every task. Where it is what serves already, nothing changes.
    /// * [`Rollout::Held`]: nothing changes.
    pub fn push(&mut self, push: &Push, rollout: Rollout, now: Timestamp) -> Shelved {
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
        });
        let version = release.version;
        self.assignment = match (rollout, self.assignment) {
            (Rollout::Held, assignment) => assignment,
            (Rollout::Whole, _) | (Rollout::Canary(_), None) => {
                Some(Assignment { version, canary: None })
            }
            (Rollout::Canary(_), Some(serving)) if serving.version == version => Some(serving),
            (Rollout::Canary(percent), Some(serving)) => {
                Some(Assignment { canary: Some(Canary { version, percent }), ..serving })
            }
        };
        let mut gone = Vec::new();
        if new {
            self.last = version;
            self.releases.insert(0, release.clone());
            while self.releases.len() > RELEASES
                && let Some(oldest) = self.releases.iter().rposition(|it| !self.serves(it.version))
            {
                gone.push(self.releases.remove(oldest));
            }
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
        self.assignment = wanted;
        Assigned::Done
    }

    /// Removes a release; [`Removed::Done`] comes with it.
    pub fn remove(&mut self, version: u32) -> Result<Release, Removed> {
        let place = self.releases.iter().position(|release| release.version == version);
        match place {
            None => Err(Removed::NoSuchVersion),
            Some(_) if self.serves(version) => Err(Removed::InUse),
            Some(place) => Ok(self.releases.remove(place)),
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
        let Self { assignment, releases, .. } = self;
        (!releases.is_empty()).then_some(History { assignment, releases })
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
    use super::super::Percent;
    use super::*;
    use crate::id::{Digest, TaskName};

    fn push(shelf: &mut Shelf, digest: u8, rollout: Rollout) -> Shelved {
        let push = Push {
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
