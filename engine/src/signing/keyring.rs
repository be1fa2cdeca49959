//! [`Ring`]: the keys of one reading of the files, and the deeds that are done with them.

mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use stem_core::id::{KeyId, WorkerId};
use stem_core::seal::{self, By, Level, Purpose, Refused, Role, Roles, Seal};
use stem_core::time::Timestamp;
use zeroize::Zeroizing;

pub(super) use self::read::{Doc, Holds};
use super::keys::KeyFiles;
use crate::policy::trusted::Mark;

/// A key that ends within this time is worth a word.
const ENDS_SOON: Duration = Duration::from_hours(7 * 24);

/// How a key signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// With a secret half and a public one: who verifies cannot sign.
    #[default]
    Ed25519,
    /// With one secret: whoever verifies can sign too.
    HmacSha256,
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Ed25519, Self::HmacSha256];

    /// The word used in files, JSON and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::HmacSha256 => "hmac-sha256",
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        // Not repeated: it could be a secret in the wrong place.
        found.ok_or_else(|| "it is neither \"ed25519\" nor \"hmac-sha256\"".to_owned())
    }
}

/// How strictly each purpose is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Levels {
    pub(super) commands: Level,
    pub(super) replies: Level,
    pub(super) tasks: Level,
    /// How long after its time to start a task's signature holds; `None` is for ever.
    pub(super) task_max_age: Option<Duration>,
}

impl Levels {
    pub(super) const UNCHECKED: Self = Self {
        commands: Level::Unchecked,
        replies: Level::Unchecked,
        tasks: Level::Unchecked,
        task_max_age: None,
    };

    /// Of a file that is made: nothing yet, and signatures of tasks hold for 30 days.
    pub(super) const NEW: Self = Self { task_max_age: Some(read::TASK_MAX_AGE), ..Self::UNCHECKED };

    pub(super) fn of(&self, purpose: Purpose) -> Level {
        match purpose {
            Purpose::Task => self.tasks,
            Purpose::Command => self.commands,
            Purpose::Reply => self.replies,
        }
    }
}

impl Default for Levels {
    fn default() -> Self {
        Self::UNCHECKED
    }
}

/// What an entry says of its key beside the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) roles: Roles,
    /// Where its commands and replies hold; `None` is everywhere.
    pub(super) namespaces: Option<Vec<String>>,
    /// Where its tasks hold; `None` is everywhere.
    pub(super) queues: Option<Vec<String>>,
    /// Whose replies it signs; `None` is everybody's.
    pub(super) workers: Option<Vec<WorkerId>>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) not_after: Option<Timestamp>,
}

impl Terms {
    fn is_valid(&self, now: Timestamp) -> bool {
        self.not_before.is_none_or(|from| from <= now) && self.not_after.is_none_or(|to| now < to)
    }

    fn covers(&self, purpose: Purpose, scope: &str) -> bool {
        let listed = match purpose {
            Purpose::Task => &self.queues,
            Purpose::Command | Purpose::Reply => &self.namespaces,
        };
        listed.as_ref().is_none_or(|names| names.iter().any(|name| name == scope))
    }

    fn state(&self, now: Timestamp) -> State {
        if self.not_after.is_some_and(|to| to <= now) {
            return State::Ended;
        }
        if self.not_before.is_some_and(|from| now < from) {
            return State::Upcoming;
        }
        let soon = now.after(ENDS_SOON);
        if self.not_after.is_some_and(|to| to <= soon) { State::EndsSoon } else { State::Valid }
    }
}

/// The key itself. Shown nowhere; secrets are overwritten when dropped.
#[derive(Clone)]
pub(super) enum Material {
    Public(VerifyingKey),
    Private(Box<SigningKey>),
    Shared(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public(_) => "Public",
            Self::Private(_) => "Private(..)",
            Self::Shared(_) => "Shared(..)",
        })
    }
}

impl Material {
    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Public(_) | Self::Private(_) => Algorithm::Ed25519,
            Self::Shared(_) => Algorithm::HmacSha256,
        }
    }

    fn mac(secret: &[u8], message: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
        mac.update(message);
        mac
    }

    /// In base64. A public key signs nothing.
    pub(super) fn sign(&self, message: &[u8]) -> String {
        match self {
            Self::Public(_) => String::new(),
            Self::Private(key) => STANDARD.encode(key.sign(message).to_bytes()),
            Self::Shared(secret) => {
                STANDARD.encode(Self::mac(secret, message).finalize().into_bytes())
            }
        }
    }

    /// Strictly, and in a time that does not tell where a wrong one differs.
    fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        let ed25519 = |key: &VerifyingKey| {
            <[u8; 64]>::try_from(&signature[..])
                .is_ok_and(|it| key.verify_strict(message, &Signature::from_bytes(&it)).is_ok())
        };
        match self {
            Self::Public(key) => ed25519(key),
            Self::Private(key) => ed25519(&key.verifying_key()),
            Self::Shared(secret) => Self::mac(secret, message).verify_slice(&signature).is_ok(),
        }
    }

    /// Whether a private key is the other half of a public one.
    pub(super) fn fits(&self, public: &Self) -> bool {
        match (self, public) {
            (Self::Private(private), Self::Public(public)) => private.verifying_key() == *public,
            _ => false,
        }
    }
}

/// A key with its terms, in one of the files.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) material: Material,
    pub(super) terms: Terms,
    pub(super) file: PathBuf,
}

/// What the files looked like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look(Vec<Option<Mark>>);

impl Look {
    pub(super) fn now(files: &KeyFiles) -> Self {
        let all = [&files.public, &files.private, &files.shared];
        Self(all.into_iter().flatten().map(|path| Mark::now(path)).collect())
    }
}

/// The halves of one key that are here.
#[derive(Clone, Debug, Default)]
pub(super) struct Halves {
    /// Who believes it.
    pub(super) verifies: Option<Entry>,
    /// Who signs with it. A shared key is both.
    pub(super) signs: Option<Entry>,
}

/// The keys of one reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    pub(super) levels: Levels,
    pub(super) keys: BTreeMap<KeyId, Halves>,
    pub(super) look: Look,
}

impl Ring {
    pub(super) fn levels(&self) -> &Levels {
        &self.levels
    }

    pub(super) fn look(&self) -> &Look {
        &self.look
    }

    /// A purpose that is checked, and for which no key is listed.
    pub(super) fn keyless(&self) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| {
            let listed = |halves: &Halves| {
                halves.verifies.as_ref().is_some_and(|entry| entry.terms.roles.serve(*purpose))
            };
            self.levels.of(*purpose) != Level::Unchecked && !self.keys.values().any(listed)
        })
    }

    /// The key to sign with: the active one where it may, else of those that may the one of the wanted kind that became
    /// good last.
    pub(super) fn signer(
        &self,
        role: Role,
        scope: &str,
        now: Timestamp,
        files: &KeyFiles,
    ) -> Option<(&KeyId, &Material)> {
        self.keys
            .iter()
            .filter_map(|(id, halves)| halves.signs.as_ref().map(|entry| (id, entry)))
            .filter(|(_, Entry { terms, .. })| {
                terms.roles.allow(role)
                    && terms.is_valid(now)
                    && terms.covers(role.purpose(), scope)
            })
            .max_by_key(|(id, entry)| {
                let is_active = files.active.as_ref() == Some(*id);
                let is_wanted = entry.material.algorithm() == files.algorithm;
                (is_active, is_wanted, entry.terms.not_before)
            })
            .map(|(id, entry)| (id, &entry.material))
    }

    /// Judges a seal over a body. The kind of signature is the key's, never the message's.
    pub(super) fn verify(
        &self,
        purpose: Purpose,
        scope: &str,
        seal: &Seal,
        body: &[u8],
        now: Timestamp,
    ) -> Result<By, Refused> {
        if seal.purpose != purpose {
            return Err(Refused::WrongPurpose);
        }
        if seal.scope != scope {
            return Err(Refused::WrongScope);
        }
        let known = self.keys.get(&seal.key).and_then(|halves| halves.verifies.as_ref());
        let Entry { material, terms, .. } = known.ok_or(Refused::UnknownKey)?;
        if !terms.roles.serve(purpose) {
            return Err(Refused::WrongPurpose);
        }
        let mut message = seal::before(purpose, scope, &seal.key);
        message.extend_from_slice(body);
        if !material.verifies(&message, &seal.signature) {
            return Err(Refused::WrongSignature);
        }
        if !terms.is_valid(now) {
            return Err(Refused::KeyNotValid);
        }
        if !terms.covers(purpose, scope) {
            return Err(Refused::WrongScope);
        }
        Ok(By { key: seal.key.clone(), may: terms.roles, workers: terms.workers.clone() })
    }

    pub(super) fn rows(&self, now: Timestamp) -> Vec<KeyRow> {
        self.keys.iter().filter_map(|(id, halves)| KeyRow::of(id, halves, now)).collect()
    }
}

/// How far a key is; what stands later says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Good.
    Valid,
    /// Good for another week at most.
    EndsSoon,
    /// Not signed with yet.
    Upcoming,
    /// Good no more.
    Ended,
}

impl State {
    /// The word used in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::EndsSoon => "ends-soon",
            Self::Upcoming => "upcoming",
            Self::Ended => "ended",
        }
    }
}

/// A key as it is shown: no half of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRow {
    /// Its id.
    pub id: KeyId,
    /// How it signs.
    pub algorithm: &'static str,
    /// What it may.
    pub roles: Vec<&'static str>,
    /// Where its commands and replies hold, if not everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Where its tasks hold, if not everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<String>>,
    /// Whose replies it signs, if not everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<Vec<WorkerId>>,
    /// From when it is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// How far it is.
    pub state: State,
    /// Whether this process can sign with it.
    pub signs: bool,
    /// Whether this process believes it.
    pub verifies: bool,
    /// Where it is written; its secret half, if that is here.
    pub file: PathBuf,
}

impl KeyRow {
    fn of(id: &KeyId, halves: &Halves, now: Timestamp) -> Option<Self> {
        let both = [halves.signs.as_ref(), halves.verifies.as_ref()];
        let state = both.into_iter().flatten().map(|entry| entry.terms.state(now)).max()?;
        let entry = both.into_iter().flatten().next()?;
        let terms = entry.terms.clone();
        Some(Self {
            id: id.clone(),
            algorithm: entry.material.algorithm().as_str(),
            roles: terms.roles.iter().map(Role::as_str).collect(),
            state,
            namespaces: terms.namespaces,
            queues: terms.queues,
            workers: terms.workers,
            not_before: terms.not_before,
            not_after: terms.not_after,
            signs: halves.signs.is_some(),
            verifies: halves.verifies.is_some(),
            file: entry.file.clone(),
        })
    }
}
