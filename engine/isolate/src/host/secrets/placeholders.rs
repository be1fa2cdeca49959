//! Texts that stand for secrets in a guest. Outgoing requests get the secret in their place, on the worker's side of
//! the sandbox, and only on their way to a host that is granted for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::granted::Granted;
use crate::interrupt::lock;

/// What every such text begins with.
const BEGINNING: &[u8] = b"stem-secret-";
/// Random bytes of it, written as two hexadecimal digits each: nobody guesses the text of another attempt.
const RANDOM: usize = 16;
const LENGTH: usize = BEGINNING.len() + 2 * RANDOM;

/// The texts of one attempt; they mean nothing to any other. Clones are the same texts.
#[derive(Clone, Debug)]
pub(crate) struct Placeholders {
    granted: Arc<Granted>,
    /// By the names of the secrets.
    texts: Arc<Mutex<BTreeMap<String, String>>>,
}

/// A secret that may not go where a guest sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Withheld {
    /// Its name.
    pub(crate) secret: String,
}

impl Placeholders {
    pub(crate) fn new(granted: Arc<Granted>) -> Self {
        Self { granted, texts: Arc::default() }
    }

    /// The text that stands for a secret, the same at every call. Fails where the system has no randomness.
    pub(crate) fn stand_in(&self, secret: &str) -> Result<String, getrandom::Error> {
        let mut texts = lock(&self.texts);
        if let Some(text) = texts.get(secret) {
            return Ok(text.clone());
        }
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random)?;
        let mut text = String::from_utf8_lossy(BEGINNING).into_owned();
        text.extend(random.iter().map(|byte| format!("{byte:02x}")));
        texts.insert(secret.to_owned(), text.clone());
        Ok(text)
    }

    /// A header's value with every text of this attempt replaced by its secret; `None` if there is none in it. Fails if
    /// one of these secrets is not granted for that host and port, whatever else the value holds.
    pub(crate) fn fill(
        &self,
        value: &[u8],
        host: &str,
        port: u16,
    ) -> Result<Option<Vec<u8>>, Withheld> {
        let texts = lock(&self.texts);
        let mut filled = Vec::new();
        let mut rest = value;
        while let Some((at, secret)) = next(&texts, rest) {
            filled.extend_from_slice(&rest[..at]);
            rest = &rest[at + LENGTH..];
            let mut grants = self.granted.grants.secrets.iter();
            let goes = grants.any(|grant| {
                grant.name == secret && grant.hosts.iter().any(|ours| ours.matches(host, port))
            });
            match self.granted.secrets.get(secret) {
                Some(value) if goes => filled.extend_from_slice(value.expose()),
                _ => return Err(Withheld { secret: secret.to_owned() }),
            }
        }
        if rest.len() == value.len() {
            return Ok(None);
        }
        filled.extend_from_slice(rest);
        Ok(Some(filled))
    }
}

/// Where the next text begins, and the name of its secret.
fn next<'a>(texts: &'a BTreeMap<String, String>, value: &[u8]) -> Option<(usize, &'a str)> {
    if texts.is_empty() {
        return None;
    }
    value.windows(LENGTH).enumerate().filter(|(_, window)| window.starts_with(BEGINNING)).find_map(
        |(at, window)| {
            let (secret, _) = texts.iter().find(|(_, text)| text.as_bytes() == window)?;
            Some((at, secret.as_str()))
        },
    )
}

#[cfg(test)]
mod tests {
    use stem_core::grants::{Grants, HostPattern, SecretGrant};

    use super::*;
    use crate::granted::Secret;

    fn placeholders(key: &[u8]) -> Placeholders {
        let grant = |name: &str, host: &str| SecretGrant {
            name: name.to_owned(),
            hosts: vec![HostPattern::new(host).unwrap()],
            reveal: false,
        };
        let secrets =
            vec![grant("KEY", "api.example.org:443"), grant("OTHER", "other.example.org")];
        Placeholders::new(Arc::new(Granted {
            grants: Grants { secrets, ..Grants::default() },
            secrets: [("KEY", key), ("OTHER", b"swordfish")]
                .map(|(name, value)| (name.to_owned(), Secret::new(value)))
                .into(),
            ..Granted::default()
        }))
    }

    #[test]
    fn a_text_is_replaced_on_the_way_to_a_granted_host_and_nowhere_else() {
        let ours = placeholders(b"hunter2");
        let key = ours.stand_in("KEY").unwrap();
        assert_eq!(key.len(), LENGTH);
        assert_eq!(ours.clone().stand_in("KEY").unwrap(), key);
        let value = format!("Bearer {key}, {key}!");
        let filled = ours.fill(value.as_bytes(), "api.example.org", 443).unwrap();
        assert_eq!(filled.unwrap(), b"Bearer hunter2, hunter2!");
        for (host, port) in
            [("evil.example.org", 443), ("api.example.org", 80), ("api.example.org.evil.org", 443)]
        {
            let withheld = Withheld { secret: "KEY".to_owned() };
            assert_eq!(ours.fill(value.as_bytes(), host, port), Err(withheld), "{host}:{port}");
        }
        let other = ours.stand_in("OTHER").unwrap();
        assert_ne!(key, other);
        let both = format!("{key}{other}");
        let withheld = Withheld { secret: "OTHER".to_owned() };
        assert_eq!(ours.fill(both.as_bytes(), "api.example.org", 443), Err(withheld));
        assert_eq!(ours.fill(b"plain stem-secret-", "evil.example.org", 443), Ok(None));
    }

    #[test]
    fn a_text_of_another_attempt_is_only_text() {
        let (theirs, ours) = (placeholders(b"hunter2"), placeholders(b"hunter2"));
        let stolen = theirs.stand_in("KEY").unwrap();
        assert_ne!(ours.stand_in("KEY").unwrap(), stolen);
        assert_eq!(ours.fill(stolen.as_bytes(), "api.example.org", 443), Ok(None));
    }

    #[test]
    fn what_a_secret_holds_is_not_looked_at_for_further_texts() {
        let guessed = b"stem-secret-00000000000000000000000000000000";
        let ours = placeholders(guessed);
        let key = ours.stand_in("KEY").unwrap();
        lock(&ours.texts).insert("OTHER".to_owned(), String::from_utf8(guessed.to_vec()).unwrap());
        let filled = ours.fill(key.as_bytes(), "api.example.org", 443).unwrap();
        assert_eq!(filled.unwrap(), guessed);
    }
}
