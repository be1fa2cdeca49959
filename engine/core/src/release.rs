//! Releases: which build of a module serves a task name, now and before.

mod ask;
mod at_hand;
mod shelf;
mod shelves;

pub use ask::{Ask, Assign, Change, Remove};
pub use at_hand::AtHand;
pub use shelf::{Head, Shelf, Shelved};
pub use shelves::Shelves;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::backend::modules::MODULE_BYTES;
use crate::id::{Digest, TaskId, TaskName};
use crate::time::Timestamp;

/// Largest manifest of a release, in bytes.
pub const MANIFEST_BYTES: usize = 64 << 10;
/// Most signatures of a release.
pub const SIGNATURES: usize = 16;
/// Longest name of whoever pushed a release, and longest key and signature in base64, in bytes.
pub const WORD_BYTES: usize = 256;
/// Most releases that are kept of one task name; the oldest that serves nothing goes when another comes.
pub const RELEASES: usize = 100;

/// A build that was pushed for a task name. Never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The task name.
    pub name: TaskName,
    /// 1 for the first of this name; the store counts. Never given out again.
    pub version: u32,
    /// The module.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The `stem.toml` of the handler, as it was pushed.
    pub manifest: String,
    /// By the store's clock.
    pub pushed_at: Timestamp,
    /// Who pushed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed_by: Option<String>,
    /// Its publishers' signatures over [`Push::signed_bytes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
    /// The push that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushId>,
}

/// One push, however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PushId(pub Uuid);

impl PushId {
    /// One that nobody has used yet.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

/// A detached Ed25519 signature. Base64, so that it can be shown and pasted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// The public key: 32 bytes in base64.
    pub key: String,
    /// The signature: 64 bytes in base64.
    pub signature: String,
}

/// A release that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The same when it is sent again because its answer did not come.
    pub id: PushId,
    /// The task name.
    pub name: TaskName,
    /// The module, which the store holds already.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The `stem.toml` of the handler.
    pub manifest: String,
    /// Who pushes it.
    pub pushed_by: Option<String>,
    /// Its publishers' signatures.
    pub signatures: Vec<Signature>,
}

impl Push {
    /// What publishers sign.
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(&self.name, &self.digest, &self.manifest)
    }

    /// Refuses what is larger than a store takes.
    pub fn check(&self) -> Result<(), String> {
        let words = self.signatures.iter().flat_map(|it| [&it.key, &it.signature]);
        let longest = words.chain(&self.pushed_by).map(String::len).max().unwrap_or_default();
        for (what, has, most) in [
            ("the manifest's bytes", self.manifest.len() as u64, MANIFEST_BYTES as u64),
            ("the signatures", self.signatures.len() as u64, SIGNATURES as u64),
            ("the bytes of a signature or name", longest as u64, WORD_BYTES as u64),
            ("the module's bytes", self.size, MODULE_BYTES as u64),
        ] {
            if has > most {
                return Err(format!("{what} are {has}; a store takes {most} at most"));
            }
        }
        Ok(())
    }
}

impl Release {
    /// What publishers sign.
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(&self.name, &self.digest, &self.manifest)
    }
}

/// Purpose, name, digest and manifest. Name and digest hold no line feed, so no two releases have the same bytes.
fn signed_bytes(name: &TaskName, digest: &Digest, manifest: &str) -> Vec<u8> {
    format!("stem release 1\n{name}\n{digest}\n{manifest}").into_bytes()
}

/// What a push does beside storing the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// Every task is served by it from now on; a canary ends.
    Whole,
    /// So many of a hundred tasks are served by it. Where nothing serves the name yet: all of them.
    Canary(Percent),
    /// Nothing; it can be assigned or pinned.
    Held,
}

/// 1 to 99.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// Refuses what is not in 1 to 99.
    pub fn new(percent: u8) -> Result<Self, String> {
        if (1..=99).contains(&percent) {
            Ok(Self(percent))
        } else {
            Err(format!("{percent}% is not in 1% to 99%"))
        }
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = String;
    fn try_from(percent: u8) -> Result<Self, String> {
        Self::new(percent)
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

/// Which releases serve a task name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The version that serves every task without a canary and a pin.
    pub version: u32,
    /// A version on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// A version on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Which.
    pub version: u32,
    /// For so many of a hundred tasks.
    pub percent: Percent,
}

impl Assignment {
    /// The version that serves a task: the same in every attempt and on every worker, as long as the assignment is.
    pub fn version_for(&self, task: &TaskId) -> u32 {
        match self.canary {
            Some(canary) if bucket(task) < u64::from(canary.percent.get()) => canary.version,
            _ => self.version,
        }
    }
}

/// 0 to 99, by FNV-1a over the id (64 bit, offset basis and prime as published by Fowler, Noll and Vo), folded so that
/// the low bits, which the remainder looks at, depend on all of it.
fn bucket(task: &TaskId) -> u64 {
    let hash = task.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32)) % 100
}

/// One task name as workers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Which versions.
    pub assignment: Assignment,
    /// Those releases: the one, and the canary's if there is one.
    pub releases: Vec<Release>,
}

impl Served {
    /// The release that serves a task.
    pub fn release_for(&self, task: &TaskId) -> Option<&Release> {
        let version = self.assignment.version_for(task);
        self.releases.iter().find(|release| release.version == version)
    }
}

/// The revision of a store after a change: above the one before, and not below the time in microseconds, so that a store
/// which was restored from an older copy gives none out again that somebody has seen.
pub fn next_revision(last: u64, now: Timestamp) -> u64 {
    let micros = u64::try_from(now.unix_millis()).unwrap_or(0).saturating_mul(1_000);
    (last + 1).max(micros)
}

/// Every task name that something serves, as one consistent picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// Grows with every change of the store; 0 before the first.
    pub revision: u64,
    /// Sorted by name.
    pub served: Vec<Served>,
    /// Names that something serves which cannot be read, sorted: somebody else wrote there, or a newer version. What a
    /// worker has of them goes on serving.
    pub unreadable: Vec<TaskName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_gets_its_share_and_keeps_it() {
        let percent = Percent::new(10).unwrap();
        let assignment = Assignment { version: 1, canary: Some(Canary { version: 2, percent }) };
        let ids: Vec<_> =
            (0..10_000).map(|index| TaskId::new(format!("task-{index}")).unwrap()).collect();
        let share = ids.iter().filter(|id| assignment.version_for(id) == 2).count();
        assert!((850..1_150).contains(&share), "{share}");
        // Who was among the tenth is among the half.
        let wider = Assignment {
            canary: Some(Canary { version: 2, percent: Percent::new(50).unwrap() }),
            ..assignment
        };
        assert!(ids.iter().all(|id| assignment.version_for(id) == 1 || wider.version_for(id) == 2));
        assert_eq!(Assignment { canary: None, ..assignment }.version_for(&ids[0]), 1);
    }

    #[test]
    fn a_percentage_is_neither_none_nor_all() {
        assert!(Percent::new(0).is_err() && Percent::new(100).is_err());
        assert_eq!(Percent::new(99).unwrap().get(), 99);
    }
}
