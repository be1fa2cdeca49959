//! Who published a release: detached Ed25519 signatures, made with a publisher's key and held against a list of those
//! that a worker trusts.
//!
//! A signature covers the task name, the module's digest and the manifest, so a good one cannot be moved to another
//! name, build or set of grants. It does not cover the version: which of its releases serves is the operator's business.
//!
//! Who commands, answers and enqueues is another matter with other keys: [`keys`].

pub mod edit;
mod keyring;
pub mod keys;
pub mod live;

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use stem_core::release::{Push, Release, Signature};

pub use self::keys::{Algorithm, KeyFiles, KeyRow, Keys, NoKey, Opened};
pub use self::live::TrustFile;
use crate::policy::trusted;

/// Before the secret in the file of a key, so that it is not taken for a public one or for anything else.
const PREFIX: &str = "stem-module-key-1:";
/// Most publishers of a trust list.
const PUBLISHERS: usize = 1_000;
/// Largest file of a key.
const KEY_BYTES: u64 = 1 << 10;
/// Largest file of a trust list.
const LIST_BYTES: u64 = 1 << 20;

/// A publisher's secret key. Shown nowhere; overwritten when dropped.
pub struct PublisherKey(SigningKey);

impl fmt::Debug for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublisherKey({})", self.public())
    }
}

impl PublisherKey {
    /// A new one, from the system's randomness.
    pub fn generate() -> Result<Self, String> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| format!("no randomness: {error}"))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads the key in a file, which nobody but its owner may read or write. The error completes "…cannot be used: ".
    pub fn open(file: &Path) -> Result<Self, String> {
        let read = trusted::read(file, KEY_BYTES)?;
        if read.mode & 0o077 != 0 {
            return Err(format!(
                "others than its owner may read it (mode {:04o}); take the right away: chmod 600",
                read.mode & 0o7777
            ));
        }
        Self::read(std::str::from_utf8(&read.bytes).unwrap_or_default())
    }

    /// Reads what [`to_file`](Self::to_file) wrote. The error never repeats the text.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("it is not {PREFIX:?} and 32 bytes in base64, on one line");
        let secret = text.trim_end_matches('\n').strip_prefix(PREFIX).ok_or_else(wrong)?;
        let seed = STANDARD.decode(secret).ok().and_then(|seed| <[u8; 32]>::try_from(seed).ok());
        Ok(Self(SigningKey::from_bytes(&seed.ok_or_else(wrong)?)))
    }

    /// The file of this key; secret.
    pub fn to_file(&self) -> String {
        format!("{PREFIX}{}\n", STANDARD.encode(self.0.to_bytes()))
    }

    /// Its public half in base64: what a trust list names.
    pub fn public(&self) -> String {
        STANDARD.encode(self.0.verifying_key().to_bytes())
    }

    /// Signs a release that is to be made.
    pub fn sign(&self, push: &Push) -> Signature {
        let signature = self.0.sign(&push.signed_bytes());
        Signature { key: self.public(), signature: STANDARD.encode(signature.to_bytes()) }
    }
}

/// Whose releases may run.
#[derive(Clone, Debug)]
pub struct Trust {
    publishers: Vec<(String, VerifyingKey)>,
}

/// Why a release may not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Nobody signed it.
    #[error("it is not signed, and only signed releases are trusted here")]
    Unsigned,
    /// Nobody on the list signed it.
    #[error("no key that signed it is trusted here: {}", .0.join(", "))]
    Unknown(Vec<String>),
    /// It is not what its trusted publisher signed.
    #[error("the signature of {0} is not one over this release")]
    Wrong(String),
}

impl Trust {
    /// Reads a list: on each line a public key in base64 and the publisher's name, or `#` and anything. The error
    /// completes "…cannot be used: ".
    pub fn read(text: &str) -> Result<Self, String> {
        let mut publishers: Vec<(String, VerifyingKey)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, key) =
                publisher(line).map_err(|problem| format!("line {number}: {problem}"))?;
            if publishers.iter().any(|(_, known)| *known == key) {
                return Err(format!(
                    "line {number}: the key of {} is there already",
                    stem_core::text::printable(&name, 128)
                ));
            }
            if publishers.len() == PUBLISHERS {
                return Err(format!("line {number}: more than {PUBLISHERS} keys"));
            }
            publishers.push((name, key));
        }
        if publishers.is_empty() {
            return Err("it names no key, so nothing could be trusted".to_owned());
        }
        Ok(Self { publishers })
    }

    /// Reads the list in a file, which nobody but its owner, this user or root, may write. The error completes
    /// "…cannot be used: ".
    pub fn open(file: &Path) -> Result<Self, String> {
        let read = trusted::read(file, LIST_BYTES)?;
        let text = std::str::from_utf8(&read.bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        Self::read(text)
    }

    /// The same for what is about to be pushed.
    pub fn publisher_of_push(&self, push: &Push) -> Result<&str, Untrusted> {
        self.check(&push.signatures, &push.signed_bytes())
    }

    /// Who of the list published a release; one good signature is enough.
    pub fn publisher_of(&self, release: &Release) -> Result<&str, Untrusted> {
        self.check(&release.signatures, &release.signed_bytes())
    }

    fn check(&self, signatures: &[Signature], signed: &[u8]) -> Result<&str, Untrusted> {
        let mut wrong = None;
        for signature in signatures {
            let Some((name, key)) = self
                .publishers
                .iter()
                .find(|(_, key)| STANDARD.encode(key.as_bytes()) == signature.key)
            else {
                continue;
            };
            let bytes = STANDARD.decode(&signature.signature).ok();
            let bytes = bytes.and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
            // Strictly: nothing that one verifier takes and another refuses.
            if bytes.is_some_and(|bytes| {
                key.verify_strict(signed, &ed25519_dalek::Signature::from_bytes(&bytes)).is_ok()
            }) {
                return Ok(name);
            }
            wrong = Some(name.clone());
        }
        Err(match wrong {
            Some(name) => Untrusted::Wrong(name),
            None if signatures.is_empty() => Untrusted::Unsigned,
            None => {
                let shown = |it: &Signature| stem_core::text::printable(&it.key, 44);
                Untrusted::Unknown(signatures.iter().map(shown).collect())
            }
        })
    }
}

/// One line of a trust list.
fn publisher(line: &str) -> Result<(String, VerifyingKey), String> {
    let (key, name) = line
        .split_once([' ', '\t'])
        .ok_or("write the public key in base64, a space, and the publisher's name")?;
    let name = name.trim();
    if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
        return Err("the publisher's name has 1 to 128 bytes without control characters".to_owned());
    }
    let bytes = STANDARD.decode(key).ok().and_then(|key| <[u8; 32]>::try_from(key).ok());
    let bytes = bytes.ok_or("the public key is not 32 bytes in base64")?;
    let key = VerifyingKey::from_bytes(&bytes)
        .ok()
        .filter(|key| !key.is_weak() && *key.as_bytes() == bytes)
        .ok_or("that is no public key of Ed25519")?;
    Ok((name.to_owned(), key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stem_core::id::{Digest, TaskName};
    use stem_core::release::PushId;

    fn push() -> Push {
        Push {
            id: PushId::fresh(),
            name: TaskName::new("job").unwrap(),
            digest: Digest([7; 32]),
            size: 8,
            manifest: "[handlers.job]\n".to_owned(),
            pushed_by: None,
            signatures: Vec::new(),
        }
    }

    fn trust(keys: &[&PublisherKey]) -> Trust {
        let lines =
            keys.iter().zip(["ann", "bob"]).map(|(key, name)| format!("{} {name}\n", key.public()));
        Trust::read(&format!("# ours\n\n{}", lines.collect::<String>())).unwrap()
    }

    fn check<'a>(trust: &'a Trust, push: &Push) -> Result<&'a str, Untrusted> {
        trust.publisher_of_push(push)
    }

    #[test]
    fn a_key_reads_back_what_it_wrote_and_is_shown_nowhere() {
        let key = PublisherKey::generate().unwrap();
        let again = PublisherKey::read(&key.to_file()).unwrap();
        assert_eq!(again.public(), key.public());
        let secret = key.to_file()[PREFIX.len()..].trim_end().to_owned();
        assert!(!format!("{key:?}").contains(&secret));
        for bad in [&secret[..], &key.public(), "", "stem-module-key-1:", "stem-module-key-1:AAAA"]
        {
            let problem = PublisherKey::read(bad).unwrap_err();
            assert!(!problem.contains(&secret), "{problem}");
        }
    }

    #[test]
    fn only_what_a_trusted_publisher_signed_is_trusted() {
        let [ann, bob, eve] = [(); 3].map(|()| PublisherKey::generate().unwrap());
        let list = trust(&[&ann, &bob]);
        let mut push = push();
        assert_eq!(check(&list, &push), Err(Untrusted::Unsigned));
        push.signatures = vec![eve.sign(&push)];
        assert_eq!(check(&list, &push), Err(Untrusted::Unknown(vec![eve.public()])));
        push.signatures.push(bob.sign(&push));
        assert_eq!(check(&list, &push), Ok("bob"));
        for changed in [
            Push { name: TaskName::new("other").unwrap(), ..push.clone() },
            Push { digest: Digest([8; 32]), ..push.clone() },
            Push { manifest: "[handlers.job.grants]\n".to_owned(), ..push.clone() },
        ] {
            assert_eq!(check(&list, &changed), Err(Untrusted::Wrong("bob".to_owned())));
        }
        // A name is not a key.
        let forged = Signature { key: bob.public(), ..eve.sign(&push) };
        push.signatures = vec![forged];
        assert_eq!(check(&list, &push), Err(Untrusted::Wrong("bob".to_owned())));
    }

    #[test]
    fn a_list_is_read_strictly() {
        let key = PublisherKey::generate().unwrap().public();
        let weak = STANDARD.encode({
            let mut identity = [0; 32];
            identity[0] = 1;
            identity
        });
        for (list, words) in [
            (String::new(), "names no key"),
            ("# nothing\n".to_owned(), "names no key"),
            (key.clone(), "line 1"),
            (format!("{key} "), "line 1"),
            (format!("{} ann", &key[1..]), "32 bytes"),
            (format!("{weak} ann"), "no public key"),
            (format!("{key} ann\n{key} bob"), "line 2: the key of bob"),
            (format!("{key} a\u{7}"), "control"),
        ] {
            let problem = Trust::read(&list).unwrap_err();
            assert!(problem.contains(words), "{list:?}: {problem}");
        }
    }
}
