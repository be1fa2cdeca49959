//! [`Keys`]: what a process signs its messages with and whom it believes, from files that it follows.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stem_core::envelope::{Envelope, wire};
use stem_core::id::{KeyId, QueueName};
use stem_core::seal::{self, By, Framed, Level, Purpose, Refused, Role, Seal};
use stem_core::time::Timestamp;
use tokio::sync::watch;

pub use super::keyring::{Algorithm, KeyRow, State};
use super::keyring::{Look, Ring};
use crate::policy::trusted;

/// Where keys lie; each is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFiles {
    /// Public keys with their roles, and what must be signed.
    pub public: Option<PathBuf>,
    /// Ed25519 keys to sign with. Nobody but its owner may read it.
    pub private: Option<PathBuf>,
    /// HMAC-SHA256 keys, which sign and verify. Nobody but its owner may read it.
    pub shared: Option<PathBuf>,
    /// The key to sign with wherever it may.
    pub active: Option<KeyId>,
    /// Which kind is signed with where both kinds may.
    pub algorithm: Algorithm,
}

impl KeyFiles {
    /// Whether any file is named.
    pub fn is_any(&self) -> bool {
        self.public.is_some() || self.private.is_some() || self.shared.is_some()
    }
}

/// A message that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Without its seal.
    pub body: &'a [u8],
    /// Whose signature over it holds; `None` where it has none, or nobody looked.
    pub by: Option<By>,
}

/// Nothing can be signed so that those who check it would let it through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key here may sign this {} now (role {})", purpose.as_str(), role.as_str())]
pub struct NoKey {
    /// What was to be signed.
    pub purpose: Purpose,
    /// What its key must have.
    pub role: Role,
}

/// The keys of a process. Without files nothing is signed, and seals that come are opened without a look.
#[derive(Debug)]
pub struct Keys {
    files: Option<KeyFiles>,
    current: watch::Sender<Arc<Ring>>,
    /// Why the files as they are now are not what holds.
    problem: Mutex<Option<String>>,
}

impl Keys {
    fn new(files: Option<KeyFiles>, ring: Ring) -> Arc<Self> {
        let current = watch::Sender::new(Arc::new(ring));
        Arc::new(Self { files, current, problem: Mutex::default() })
    }

    /// No files, no keys, nothing checked.
    pub fn none() -> Arc<Self> {
        Self::new(None, Ring::default())
    }

    /// Reads the files. A purpose that is checked must have a key that may sign for it. The error completes a sentence:
    /// "FILE cannot be used: …".
    pub fn open(files: KeyFiles) -> Result<Arc<Self>, String> {
        if !files.is_any() {
            return Ok(Self::none());
        }
        let ring = Ring::open(&files)?;
        if let Some(purpose) = ring.keyless() {
            return Err(format!(
                "no key is listed that may sign a {}, and each is to be checked: none could act",
                purpose.as_str()
            ));
        }
        Ok(Self::new(Some(files), ring))
    }

    /// Whether any file is configured.
    pub fn is_configured(&self) -> bool {
        self.files.is_some()
    }

    /// Which files.
    pub fn files(&self) -> Option<&KeyFiles> {
        self.files.as_ref()
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.current.borrow())
    }

    /// Follows the files until dropped; never ends; cancel-safe.
    pub async fn follow(&self) {
        let Some(files) = &self.files else { return std::future::pending().await };
        let seen = self.ring().look().clone();
        trusted::follow(seen, || Look::now(files), |now| self.read_again(files).then_some(now))
            .await;
    }

    /// Reads them anew; whether they can be used. Files that cannot are logged once, and what was known stays.
    fn read_again(&self, files: &KeyFiles) -> bool {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match Ring::open(files) {
            Ok(ring) => {
                tracing::info!("the signing keys have changed");
                *problem = ring.keyless().map(|purpose| {
                    format!("no key is listed that may sign a {}", purpose.as_str())
                });
                if let Some(problem) = &*problem {
                    tracing::warn!(
                        problem,
                        "messages are to be checked that nobody can sign: they are refused"
                    );
                }
                self.current.send_replace(Arc::new(ring));
                true
            }
            Err(error) => {
                if problem.as_ref() != Some(&error) {
                    tracing::error!(problem = %error, "the signing keys have changed and cannot be used; the old ones stay until they can");
                }
                *problem = Some(error);
                false
            }
        }
    }

    /// Why the files as they are now are not what holds, or refuse everything of a purpose.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How strictly messages of a purpose are judged here.
    pub fn level(&self, purpose: Purpose) -> Level {
        if self.files.is_none() {
            return Level::Unchecked;
        }
        self.ring().levels().of(purpose)
    }

    /// How long after its time to start the signature of a task holds; `None` is for ever.
    pub fn task_max_age(&self) -> Option<Duration> {
        self.ring().levels().task_max_age
    }

    /// Every key, by its id, as it is at this time.
    pub fn rows(&self, now: Timestamp) -> Vec<KeyRow> {
        self.ring().rows(now)
    }

    /// The key that would sign, if there is one.
    pub fn signer(&self, role: Role, scope: &str, now: Timestamp) -> Option<KeyId> {
        let files = self.files.as_ref()?;
        self.ring().signer(role, scope, now, files).map(|(id, _)| id.clone())
    }

    /// Signs a command or a reply wherever a key that is good now has the role in this scope. Where there is none the body
    /// is given back as it is, unless what is sent here would be checked here: then it is [`NoKey`].
    pub fn seal(
        &self,
        role: Role,
        scope: &str,
        body: Vec<u8>,
        now: Timestamp,
    ) -> Result<Vec<u8>, NoKey> {
        match self.sign(role, scope, &body, now)? {
            Some(seal) => Ok(seal::join(&seal, &body)),
            None => Ok(body),
        }
    }

    fn sign(
        &self,
        role: Role,
        scope: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Option<Seal>, NoKey> {
        let Some(files) = &self.files else { return Ok(None) };
        let (ring, purpose) = (self.ring(), role.purpose());
        if let Some((id, signer)) = ring.signer(role, scope, now, files) {
            let mut message = seal::before(purpose, scope, id);
            message.extend_from_slice(body);
            let signature = signer.sign(&message);
            return Ok(Some(Seal { purpose, scope: scope.to_owned(), key: id.clone(), signature }));
        }
        if ring.levels().of(purpose) == Level::Unchecked {
            return Ok(None);
        }
        Err(NoKey { purpose, role })
    }

    /// Opens a command or a reply. Nothing of the body is looked at before its signature holds.
    pub fn open_sealed<'a>(
        &self,
        purpose: Purpose,
        scope: &str,
        bytes: &'a [u8],
        now: Timestamp,
    ) -> Result<Opened<'a>, Refused> {
        match seal::split(bytes).map_err(|_| Refused::Malformed)? {
            Framed::Plain(body) => {
                self.unsigned(purpose)?;
                Ok(Opened { body, by: None })
            }
            Framed::Sealed { seal, body } => {
                if self.level(purpose) == Level::Unchecked {
                    return Ok(Opened { body, by: None });
                }
                let by = self.ring().verify(purpose, scope, &seal, body, now)?;
                Ok(Opened { body, by: Some(by) })
            }
        }
    }

    fn unsigned(&self, purpose: Purpose) -> Result<(), Refused> {
        match self.level(purpose) {
            Level::Required => Err(Refused::Unsigned),
            Level::Permitted | Level::Unchecked => Ok(()),
        }
    }

    /// Signs a task that is to be published, as [`seal`](Self::seal) does; the last thing before it is. One that is sealed
    /// already stays as it is.
    pub fn seal_task(&self, envelope: &mut Envelope, now: Timestamp) -> Result<(), NoKey> {
        if self.files.is_none() || envelope.seal.is_some() {
            return Ok(());
        }
        let header = wire::header(envelope);
        let body = wire::body(&header, &envelope.payload);
        if let Some(seal) = self.sign(Role::Publish, envelope.queue.as_str(), &body, now)? {
            envelope.seal_with(seal, header);
        }
        Ok(())
    }

    /// Judges a task that was delivered from this queue. Answers with who has signed it, if it is signed and looked at.
    pub fn check_task(
        &self,
        envelope: &Envelope,
        queue: &QueueName,
        now: Timestamp,
    ) -> Result<Option<By>, Refused> {
        if self.files.is_none() {
            return Ok(None);
        }
        let Some(sealed) = &envelope.seal else {
            return self.unsigned(Purpose::Task).map(|()| None);
        };
        let ring = self.ring();
        if ring.levels().tasks == Level::Unchecked {
            return Ok(None);
        }
        let body = sealed.body(&envelope.payload);
        let by = ring.verify(Purpose::Task, queue.as_str(), sealed.seal(), &body, now)?;
        if !sealed.is_of(envelope) {
            return Err(Refused::WrongSignature);
        }
        let from =
            envelope.not_before.map_or(envelope.enqueued_at, |at| at.max(envelope.enqueued_at));
        if ring.levels().task_max_age.is_some_and(|most| now.since(from) > most) {
            return Err(Refused::TooOld);
        }
        Ok(Some(by))
    }
}

#[cfg(test)]
mod tests;
