//! The seal: a line in front of a message that says by which key it is signed. No cryptography is done here.
//!
//! ```text
//! {"v":2,"for":"command","in":"stem","key":"ops-20261122","sig":"<standard base64>"}\n<body>
//! ```
//! Signed is [`before`] and the body: `"stem {for} 1\n{in}\n{key}\n"`. Names hold no line feed, so no two messages share
//! those bytes. A message is sealed exactly when it begins with `{"v":2,`: an envelope without a seal begins with
//! `{"v":1,`, a command or reply with `{"requestId"`, so nothing is guessed.
//!
//! The line has one form: what is read must be what [`line()`] writes. `v` is 2 so that a reader of envelopes that does not
//! know seals says that a newer Stem has written this, and not that it is broken.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{KeyId, WorkerId};

/// The version of the line.
pub const VERSION: u32 = 2;
/// The longest line, with its line feed.
pub const LINE_BYTES: usize = 1_024;
/// The largest body of a command or reply; judged before anything else is.
pub const COMMAND_BYTES: usize = 8 << 20;
/// How every line begins.
const BEGINNING: &[u8] = b"{\"v\":2,";
/// The longest signature in base64; that of Ed25519 has 88 characters.
const SIGNATURE_CHARS: usize = 128;

/// What a message is. A signature for one purpose is none for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The envelope of a task; its scope is the queue.
    Task,
    /// A command to workers; its scope is the namespace.
    Command,
    /// A worker's reply; its scope is the namespace.
    Reply,
}

impl Purpose {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Task, Self::Command, Self::Reply];

    /// The word used in seals, labels and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Command => "command",
            Self::Reply => "reply",
        }
    }
}

/// How strictly messages of one purpose are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Seals are opened and not looked at.
    #[default]
    Unchecked,
    /// What is not signed acts and is counted; a seal that does not hold is refused.
    Permitted,
    /// Only what is signed acts.
    Required,
}

impl Level {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Unchecked, Self::Permitted, Self::Required];

    /// The word used in files and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Permitted => "permitted",
            Self::Required => "required",
        }
    }
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// To ask workers how they are: ping, inspect, stats.
    Inspect,
    /// To give every command.
    Control,
    /// To enqueue tasks.
    Publish,
    /// To answer commands.
    Worker,
}

impl Role {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Inspect, Self::Control, Self::Publish, Self::Worker];

    /// The word used in files, JSON and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Control => "control",
            Self::Publish => "publish",
            Self::Worker => "worker",
        }
    }

    /// The messages that a key with this role may sign.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Inspect | Self::Control => Purpose::Command,
            Self::Publish => Purpose::Task,
            Self::Worker => Purpose::Reply,
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// These.
    pub fn new(roles: impl IntoIterator<Item = Role>) -> Self {
        Self(roles.into_iter().fold(0, |set, role| set | (1 << role as u8)))
    }

    /// Whether it says this very role.
    pub fn holds(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// Whether who has it may do what asks for a role: `control` may all that `inspect` may.
    pub fn allow(self, role: Role) -> bool {
        self.holds(role) || (role == Role::Inspect && self.holds(Role::Control))
    }

    /// Whether any of them is for messages of this purpose.
    pub fn serve(self, purpose: Purpose) -> bool {
        self.iter().any(|role| role.purpose() == purpose)
    }

    /// Each, in the order of [`Role::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.holds(*role))
    }

    /// None at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Who has signed a message, as the verifier's own list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// The key.
    pub key: KeyId,
    /// What it may be used for.
    pub may: Roles,
    /// Whose replies it may sign; `None` is everybody's.
    pub workers: Option<Vec<WorkerId>>,
}

/// A line that was read, or is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// What the message is.
    pub purpose: Purpose,
    /// Where it holds: a namespace, or a queue.
    pub scope: String,
    /// By which key.
    pub key: KeyId,
    /// In standard base64, padded: 64 bytes of Ed25519 or 32 bytes of HMAC-SHA256.
    pub signature: String,
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// Without a seal: all of it is the body.
    Plain(&'a [u8]),
    /// With one.
    Sealed {
        /// The line.
        seal: Seal,
        /// What follows.
        body: &'a [u8],
    },
}

/// A message that begins like a sealed one and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seal is malformed: {0}")]
pub struct SealError(String);

impl SealError {
    fn new(problem: impl fmt::Display) -> Self {
        Self(crate::text::printable(&problem.to_string(), 256))
    }
}

/// The line in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    v: u32,
    #[serde(rename = "for")]
    purpose: Purpose,
    #[serde(rename = "in", borrow)]
    scope: Cow<'a, str>,
    key: KeyId,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

/// Takes the seal off, if there is one.
pub fn split(bytes: &[u8]) -> Result<Framed<'_>, SealError> {
    if !bytes.starts_with(BEGINNING) {
        return Ok(Framed::Plain(bytes));
    }
    let end = bytes.iter().take(LINE_BYTES).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| SealError::new("its line does not end"))? + 1;
    let (given, body) = bytes.split_at(end);
    let read: Line<'_> = serde_json::from_slice(given).map_err(SealError::new)?;
    let in_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if read.sig.len() > SIGNATURE_CHARS || !read.sig.bytes().all(in_base64) {
        return Err(SealError::new("its signature is not standard base64"));
    }
    // A name of a queue or namespace is one of the same rules as a key's.
    if KeyId::new(&read.scope).is_err() {
        return Err(SealError::new("what it is for is not a name"));
    }
    let seal = Seal {
        purpose: read.purpose,
        scope: read.scope.into_owned(),
        key: read.key,
        signature: read.sig.into_owned(),
    };
    if line(&seal) != given {
        return Err(SealError::new("it is not written in the one form"));
    }
    Ok(Framed::Sealed { seal, body })
}

/// The line, with its line feed.
pub fn line(seal: &Seal) -> Vec<u8> {
    let line = Line {
        v: VERSION,
        purpose: seal.purpose,
        scope: Cow::Borrowed(&seal.scope),
        key: seal.key.clone(),
        sig: Cow::Borrowed(&seal.signature),
    };
    let mut bytes = serde_json::to_vec(&line).expect("a seal holds only text and a number");
    bytes.push(b'\n');
    bytes
}

/// A sealed message.
pub fn join(seal: &Seal, body: &[u8]) -> Vec<u8> {
    let mut bytes = line(seal);
    bytes.extend_from_slice(body);
    bytes
}

/// What comes before the body in what is signed.
pub fn before(purpose: Purpose, scope: &str, key: &KeyId) -> Vec<u8> {
    format!("stem {} 1\n{scope}\n{key}\n", purpose.as_str()).into_bytes()
}

/// Why a message does not act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// It has no seal, and must have one.
    Unsigned,
    /// Its seal or its body is not one.
    Malformed,
    /// Its body is over [`COMMAND_BYTES`].
    TooLarge,
    /// Nobody here knows the key.
    UnknownKey,
    /// It is sealed as something else, or the key is for something else.
    WrongPurpose,
    /// It, or its key, is for another namespace or queue.
    WrongScope,
    /// The signature is not one over these bytes by that key.
    WrongSignature,
    /// The key is not good yet, or no more.
    KeyNotValid,
    /// The key may not order this.
    WrongRole,
    /// Its time is over.
    Expired,
    /// It was issued later than now.
    FromTheFuture,
    /// It would hold for longer than any command may.
    TooLong,
    /// It was issued before this worker started.
    BeforeStart,
    /// It has acted already.
    Replayed,
    /// More commands hold than a worker remembers.
    TooMany,
    /// The task is older than a signature may be.
    TooOld,
}

impl Refused {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::Unsigned,
        Self::Malformed,
        Self::TooLarge,
        Self::UnknownKey,
        Self::WrongPurpose,
        Self::WrongScope,
        Self::WrongSignature,
        Self::KeyNotValid,
        Self::WrongRole,
        Self::Expired,
        Self::FromTheFuture,
        Self::TooLong,
        Self::BeforeStart,
        Self::Replayed,
        Self::TooMany,
        Self::TooOld,
    ];

    /// The word used in labels, the log and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::UnknownKey => "unknown-key",
            Self::WrongPurpose => "wrong-purpose",
            Self::WrongScope => "wrong-scope",
            Self::WrongSignature => "wrong-signature",
            Self::KeyNotValid => "key-not-valid",
            Self::WrongRole => "wrong-role",
            Self::Expired => "expired",
            Self::FromTheFuture => "from-the-future",
            Self::TooLong => "too-long",
            Self::BeforeStart => "before-start",
            Self::Replayed => "replayed",
            Self::TooMany => "too-many",
            Self::TooOld => "too-old",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal {
            purpose: Purpose::Command,
            scope: "stem".to_owned(),
            key: KeyId::new("ops-1").unwrap(),
            signature: "QUJD".to_owned(),
        }
    }

    const LINE: &str = r#"{"v":2,"for":"command","in":"stem","key":"ops-1","sig":"QUJD"}"#;

    #[test]
    fn a_sealed_message_has_one_form() {
        let bytes = join(&seal(), b"body\nmore");
        assert_eq!(bytes, format!("{LINE}\nbody\nmore").into_bytes());
        assert_eq!(split(&bytes), Ok(Framed::Sealed { seal: seal(), body: b"body\nmore" }));
        for plain in [&b"{\"v\":1,"[..], b"{\"requestId\"", b"", b"{", b"{\"v\": 2,"] {
            assert_eq!(split(plain), Ok(Framed::Plain(plain)));
        }
        assert_eq!(before(Purpose::Task, "mail", &seal().key), b"stem task 1\nmail\nops-1\n");
    }

    #[test]
    fn every_other_way_to_write_a_line_is_malformed() {
        let long = LINE.replace("QUJD", &"A".repeat(LINE_BYTES));
        for bad in [
            LINE.replace(",\"in\"", ", \"in\""),
            LINE.replace("\"in\":\"stem\",\"key\":\"ops-1\"", "\"key\":\"ops-1\",\"in\":\"stem\""),
            LINE.replace("\"key\"", "\"key\":\"ops-1\",\"key\""),
            LINE.replace('}', ",\"more\":1}"),
            LINE.replace("QUJD", "QU-_"),
            LINE.replace("QUJD", "QUJD\\n"),
            LINE.replace("ops-1", "\\u006fps-1"),
            LINE.replace("\"stem\"", "\"st\\nem\""),
            LINE.replace("\"stem\"", "\"\""),
            LINE.replace("command", "other"),
            LINE.replace(",\"sig\":\"QUJD\"", ""),
            long,
        ] {
            assert!(split(format!("{bad}\nbody").as_bytes()).is_err(), "{bad}");
        }
        assert!(split(LINE.as_bytes()).is_err(), "a line that does not end");
    }

    #[test]
    fn control_may_what_inspect_may_and_words_are_told_apart() {
        let roles = Roles::new([Role::Control]);
        assert!(roles.allow(Role::Inspect) && !roles.holds(Role::Inspect));
        assert!(!Roles::new([Role::Inspect]).allow(Role::Control));
        assert!(!roles.allow(Role::Publish) && !roles.serve(Purpose::Reply));
        let words: std::collections::BTreeSet<_> =
            Refused::ALL.iter().map(|refused| refused.as_str()).collect();
        assert_eq!(words.len(), Refused::ALL.len());
    }

    proptest::proptest! {
        #[test]
        fn no_change_of_a_byte_leaves_the_same_message(at in 0_usize..90, byte: u8) {
            let bytes = join(&seal(), b"the body that follows");
            let mut changed = bytes.clone();
            let at = at % bytes.len();
            changed[at] = byte;
            let same = split(&changed) == split(&bytes);
            proptest::prop_assert_eq!(same, changed == bytes);
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = split(&[BEGINNING, &bytes].concat());
        }
    }
}
