//! Ids, names and tokens as types, so that none can be taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest name or id, in bytes. Long enough for a UUID with a prefix, short enough for any backend's key.
pub const NAME_BYTES: usize = 128;

/// A name or id that does not follow the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {given:?} is not valid: use 1 to {NAME_BYTES} of the characters A-Z a-z 0-9 . _ : - and begin with a letter, a digit or _"
)]
pub struct NameError {
    /// What kind of name was given, for instance `queue name`.
    pub what: &'static str,
    /// The offending text, cut to a length fit for a message.
    pub given: String,
}

/// Which bytes a name may hold. A table, as reading a million revocations checks a hundred million bytes.
const IN_NAMES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "the loop ends at 255")]
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        byte += 1;
    }
    table
};

fn valid(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && text.len() <= NAME_BYTES && text.bytes().all(|b| IN_NAMES[usize::from(b)])
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(std::sync::Arc<str>);

        impl $type {
            /// Checks the text against the rules for names.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { what: $what, given: text.chars().take(NAME_BYTES).collect() })
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.to_string()
            }
        }
    };
}

name!(
    /// One task through all its attempts. A `UUIDv7` unless the producer chose it.
    TaskId, "task id"
);
name!(
    /// The name by which a handler is known.
    TaskName, "task name"
);
name!(
    /// A queue.
    QueueName, "queue name"
);
name!(
    /// The scope of control commands, revocations and heartbeats.
    Namespace, "namespace"
);
name!(
    /// How far handlers are trusted, in a word of the operator's.
    TrustClass, "trust class"
);
name!(
    /// A worker as operators address it. The same id may be used by one process after another; see [`Incarnation`].
    WorkerId, "worker id"
);
name!(
    /// One control request.
    RequestId, "request id"
);
name!(
    /// A key that signs messages.
    KeyId, "key id"
);
name!(
    /// A bucket of small values.
    BucketName, "bucket name"
);
name!(
    /// What makes an enqueue idempotent: while a task with this key is not final, another enqueue returns that task.
    UniqueKey, "unique key"
);

/// One start of one worker process. Leases belong to an incarnation, never to a name that could come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub Uuid);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Grows by at least one with every delivery of a task, so that an older holder of a lease is told from a newer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LeaseToken(pub u64);

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The SHA-256 of a module's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("digest {text:?} is not \"sha256:\" and 64 hexadecimal digits");
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).ok_or_else(refuse)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| refuse())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_one_rule() {
        for good in ["a", "report.daily", "A_b:c-9", "_x", &"x".repeat(128)] {
            assert!(TaskName::new(good).is_ok(), "{good}");
        }
        for bad in
            ["", " ", "a b", "../x", "-rf", ".hidden", "a/b", "a\n", "ä", "{}", &"x".repeat(129)]
        {
            let error = TaskName::new(bad).unwrap_err().to_string();
            assert!(error.starts_with("task name"), "{error}");
        }
    }

    #[test]
    fn a_digest_reads_back_what_it_prints() {
        let digest = Digest([0xa5; 32]);
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!("sha256:zz".parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>().is_err());
    }
}
