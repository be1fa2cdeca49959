//! A file of keys, from text to [`Doc`] and back, and the files of a process as one [`Ring`].
//!
//! No error repeats what a file holds: it may be a secret in the wrong place.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{SigningKey, VerifyingKey};
use stem_core::id::{KeyId, NAME_BYTES, WorkerId};
use stem_core::seal::{Level, Role, Roles};
use stem_core::text::printable;
use stem_core::time::Timestamp;
use toml::{Table, Value};
use zeroize::Zeroizing;

use super::{Algorithm, Entry, Levels, Look, Material, Ring, Terms};
use crate::manifest::PROBLEM_BYTES;
use crate::manifest::part::Part;
use crate::policy::trusted;
use crate::signing::keys::KeyFiles;
use crate::units;

/// Largest file of keys.
const FILE_BYTES: u64 = 1 << 20;
/// Most keys of a file.
const KEYS: usize = 1_000;
/// Shortest and longest secret of HMAC, in bytes: as long as its result, and its block.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 32..=64;
/// How long a task's signature holds where the file does not say.
pub(super) const TASK_MAX_AGE: Duration = Duration::from_hours(30 * 24);
/// The form of the files that this code writes, and the only one.
const VERSION: i64 = 1;
/// For a time without end.
const NEVER: &str = "never";

const HEAD: [&str; 6] = ["version", "commands", "replies", "tasks", "task-max-age", "key"];
const ENTRY: [&str; 11] = [
    "id",
    "algorithm",
    "public",
    "private",
    "secret",
    "roles",
    "namespaces",
    "queues",
    "workers",
    NOT_BEFORE,
    NOT_AFTER,
];
const NOT_BEFORE: &str = "not-before";
const NOT_AFTER: &str = "not-after";

/// What a file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::signing) enum Holds {
    /// Public keys, and what must be signed.
    Public,
    /// Ed25519 keys to sign with.
    Private,
    /// Secrets of HMAC; where there is no file of public keys, also what must be signed.
    Shared,
}

impl Holds {
    /// The key's own key.
    fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Shared => "secret",
        }
    }

    /// Whether it is for its owner's eyes only.
    pub(in crate::signing) fn is_secret(self) -> bool {
        self != Self::Public
    }
}

/// What a file says.
#[derive(Clone, Debug, Default)]
pub(in crate::signing) struct Doc {
    pub(in crate::signing) levels: Option<Levels>,
    pub(in crate::signing) keys: Vec<(KeyId, Entry)>,
}

impl Doc {
    /// Reads a file. The error is a whole sentence.
    pub(in crate::signing) fn open(path: &Path, holds: Holds) -> Result<Self, String> {
        let refuse = |problem: String| {
            let problem = printable(&problem, PROBLEM_BYTES);
            format!("{} cannot be used: {problem}", path.display())
        };
        let read = trusted::read(path, FILE_BYTES).map_err(refuse)?;
        let bytes = Zeroizing::new(read.bytes);
        if holds.is_secret() && read.mode & 0o077 != 0 {
            return Err(refuse(format!(
                "others than its owner may read it (mode {:04o}); take the right away: chmod 600",
                read.mode & 0o7777
            )));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| refuse("it is not UTF-8".to_owned()))?;
        Self::read(text, holds, path).map_err(refuse)
    }

    /// Reads the text of a file.
    pub(in crate::signing) fn read(text: &str, holds: Holds, path: &Path) -> Result<Self, String> {
        let table = text.parse::<Table>().map_err(|error| {
            // The parser's words may hold a word of the file.
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            format!("line {}: it is not TOML", text[..at].matches('\n').count() + 1)
        })?;
        let part = Part::new("", &table, &HEAD)?;
        if part.get("version").and_then(Value::as_integer) != Some(VERSION) {
            return Err(format!("it must begin with version = {VERSION}"));
        }
        let mut doc = Self { levels: levels(&part)?, keys: Vec::new() };
        for (at, value) in part.list("key")? {
            let (id, entry) = entry(&at, value, holds, path)?;
            if doc.keys.iter().any(|(known, _)| *known == id) {
                return Err(format!("the key {id} is there twice"));
            }
            if doc.keys.len() == KEYS {
                return Err(format!("there are more than {KEYS} keys"));
            }
            doc.keys.push((id, entry));
        }
        Ok(doc)
    }

    /// The text of a file, which [`read`](Self::read) reads back.
    pub(in crate::signing) fn write(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!("version = {VERSION}\n"));
        if let Some(levels) = &self.levels {
            let age = levels.task_max_age.map_or_else(|| NEVER.to_owned(), units::write_duration);
            let _ = write!(
                text,
                "# required: only what is signed acts. permitted: what is not signed acts and is counted. unchecked: nobody looks.\n\
                 commands = \"{}\"\nreplies = \"{}\"\ntasks = \"{}\"\ntask-max-age = \"{age}\"\n",
                levels.commands.as_str(),
                levels.replies.as_str(),
                levels.tasks.as_str(),
            );
        }
        for (id, entry) in &self.keys {
            write_entry(&mut text, id, entry);
        }
        text
    }
}

fn write_entry(text: &mut String, id: &KeyId, Entry { material, terms, .. }: &Entry) {
    let (word, bytes) = match material {
        Material::Public(key) => ("public", Zeroizing::new(key.as_bytes().to_vec())),
        Material::Private(key) => ("private", Zeroizing::new(key.to_bytes().to_vec())),
        Material::Shared(secret) => ("secret", secret.clone()),
    };
    let encoded = Zeroizing::new(STANDARD.encode(&*bytes));
    let list = |words: &[&str]| {
        words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
    };
    let roles: Vec<_> = terms.roles.iter().map(Role::as_str).collect();
    let _ = write!(
        text,
        "\n[[key]]\nid = \"{id}\"\nalgorithm = \"{}\"\n{word} = \"{}\"\nroles = [{}]\n",
        material.algorithm().as_str(),
        *encoded,
        list(&roles)
    );
    let names = |names: &Option<Vec<String>>| {
        names.as_ref().map(|names| list(&names.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let workers: Option<Vec<String>> =
        terms.workers.as_ref().map(|ids| ids.iter().map(ToString::to_string).collect());
    for (key, names) in [
        ("namespaces", names(&terms.namespaces)),
        ("queues", names(&terms.queues)),
        ("workers", names(&workers)),
    ] {
        if let Some(names) = names {
            let _ = writeln!(text, "{key} = [{names}]");
        }
    }
    for (key, at) in [(NOT_BEFORE, terms.not_before), (NOT_AFTER, terms.not_after)] {
        if let Some(at) = at {
            let _ = writeln!(text, "{key} = \"{at}\"");
        }
    }
}

/// All three or none; the age of tasks only beside them.
fn levels(part: &Part<'_>) -> Result<Option<Levels>, String> {
    let names = ["commands", "replies", "tasks"];
    if names.iter().all(|name| part.get(name).is_none()) {
        return match part.get("task-max-age") {
            None => Ok(None),
            Some(_) => Err("task-max-age stands where the levels stand".to_owned()),
        };
    }
    let level = |name: &str| {
        let text = part.text(name)?.ok_or_else(|| {
            format!("{name} is missing: write \"required\", \"permitted\" or \"unchecked\"")
        })?;
        let found = Level::ALL.into_iter().find(|level| level.as_str() == text);
        found.ok_or_else(|| format!("{name} is not \"required\", \"permitted\" or \"unchecked\""))
    };
    let task_max_age = match part.text("task-max-age")? {
        None => Some(TASK_MAX_AGE),
        Some(NEVER) => None,
        Some(_) => part.duration("task-max-age")?,
    };
    let [commands, replies, tasks] = [level(names[0])?, level(names[1])?, level(names[2])?];
    Ok(Some(Levels { commands, replies, tasks, task_max_age }))
}

fn entry(at: &str, value: &Value, holds: Holds, path: &Path) -> Result<(KeyId, Entry), String> {
    let part = Part::of(at, value, &ENTRY)?;
    let missing = |key: &str| format!("{at}.{key} is missing");
    let name = |key: &str, text: &str| {
        KeyId::new(text).map_err(|_| {
            format!("{at}.{key}: use 1 to {NAME_BYTES} of the characters A-Z a-z 0-9 . _ : - and begin with a letter, a digit or _")
        })
    };
    let id = name("id", part.text("id")?.ok_or_else(|| missing("id"))?)?;
    let algorithm = part.text("algorithm")?.ok_or_else(|| missing("algorithm"))?;
    let algorithm: Algorithm =
        algorithm.parse().map_err(|problem| format!("{at}.algorithm: {problem}"))?;
    let material = material(&part, holds, algorithm)?;
    let mut roles = Vec::new();
    for (at, word) in part.texts("roles")? {
        let role = Role::ALL.into_iter().find(|role| role.as_str() == word);
        roles.push(role.ok_or_else(|| {
            let all: Vec<_> = Role::ALL.into_iter().map(Role::as_str).collect();
            format!("{at} is none of {}", all.join(", "))
        })?);
    }
    let roles = Roles::new(roles);
    if roles.is_empty() {
        return Err(format!("{at}.roles names none, so the key would be for nothing"));
    }
    let names = |key: &'static str, serves: bool| -> Result<Option<Vec<String>>, String> {
        if part.get(key).is_none() {
            return Ok(None);
        }
        let listed = part.texts(key)?;
        if listed.is_empty() || !serves {
            return Err(format!(
                "{at}.{key} {}",
                if serves {
                    "names none; leave it out for every one"
                } else {
                    "fits none of its roles"
                }
            ));
        }
        listed
            .into_iter()
            .map(|(_, text)| name(key, text).map(String::from))
            .collect::<Result<_, _>>()
            .map(Some)
    };
    let time = |key: &str| -> Result<Option<Timestamp>, String> {
        let Some(text) = part.text(key)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            format!("{at}.{key} is not RFC 3339 with an offset, for instance 2026-11-22T08:00:00Z")
        })
    };
    let workers = names("workers", roles.holds(Role::Worker))?;
    let workers = workers.map(|names| {
        names
            .into_iter()
            .map(|name| WorkerId::new(name).expect("it follows the same rules"))
            .collect()
    });
    let elsewhere = roles.iter().any(|role| role != Role::Publish);
    let terms = Terms {
        roles,
        namespaces: names("namespaces", elsewhere)?,
        queues: names("queues", roles.holds(Role::Publish))?,
        workers,
        not_before: time(NOT_BEFORE)?,
        not_after: time(NOT_AFTER)?,
    };
    if let (Some(from), Some(to)) = (terms.not_before, terms.not_after)
        && to <= from
    {
        return Err(format!("{at}.{NOT_AFTER} is not after {at}.{NOT_BEFORE}"));
    }
    Ok((id, Entry { material, terms, file: path.to_owned() }))
}

fn material(part: &Part<'_>, holds: Holds, algorithm: Algorithm) -> Result<Material, String> {
    let word = holds.word();
    for other in ["public", "private", "secret"] {
        if other != word && part.get(other).is_some() {
            return Err(format!("{} belongs into another file; here is {word}", part.place(other)));
        }
    }
    let at = part.place(word);
    let text = part.text(word)?.ok_or_else(|| format!("{at} is missing"))?;
    let bytes = STANDARD.decode(text).map_err(|_| format!("{at} is not base64"))?;
    let bytes = Zeroizing::new(bytes);
    let wanted = if holds == Holds::Shared { Algorithm::HmacSha256 } else { Algorithm::Ed25519 };
    if algorithm != wanted {
        return Err(format!(
            "{} must be \"{}\" in this file",
            part.place("algorithm"),
            wanted.as_str()
        ));
    }
    if holds == Holds::Shared {
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(format!(
                "{at} must have {} to {} bytes",
                SECRET_BYTES.start(),
                SECRET_BYTES.end()
            ));
        }
        return Ok(Material::Shared(bytes));
    }
    let half = <[u8; 32]>::try_from(&bytes[..]).map_err(|_| format!("{at} is not 32 bytes"))?;
    let half = Zeroizing::new(half);
    if holds == Holds::Private {
        return Ok(Material::Private(Box::new(SigningKey::from_bytes(&half))));
    }
    VerifyingKey::from_bytes(&half)
        .ok()
        .filter(|key| !key.is_weak() && *key.as_bytes() == *half)
        .map(Material::Public)
        .ok_or_else(|| format!("{at} is no public key of Ed25519"))
}

impl Ring {
    /// Reads the files and puts them together by the ids of their keys. The error is a whole sentence.
    pub(in crate::signing) fn open(files: &KeyFiles) -> Result<Self, String> {
        // From before they are read: what is written meanwhile is a change.
        let mut ring = Self { look: Look::now(files), ..Self::default() };
        let mut said = None;
        for (path, holds) in [
            (&files.public, Holds::Public),
            (&files.shared, Holds::Shared),
            (&files.private, Holds::Private),
        ] {
            let Some(path) = path else { continue };
            let refuse = |problem: &str| format!("{} cannot be used: {problem}", path.display());
            let doc = Doc::open(path, holds)?;
            match (holds, doc.levels, said) {
                (Holds::Private, Some(_), _) | (Holds::Shared, Some(_), Some(_)) => {
                    return Err(refuse("what must be signed is said in the file of public keys"));
                }
                (Holds::Public, None, _) | (Holds::Shared, None, None) => {
                    return Err(refuse(
                        "it must say what must be signed: commands, replies and tasks, each \"required\", \"permitted\" or \"unchecked\"",
                    ));
                }
                (_, levels, _) => said = said.or(levels),
            }
            for (id, entry) in doc.keys {
                let halves = ring.keys.entry(id.clone()).or_default();
                let there = halves.verifies.is_some() || halves.signs.is_some();
                match holds {
                    Holds::Public => halves.verifies = Some(entry),
                    Holds::Shared if there => {
                        return Err(refuse(&format!("the key {id} is in another file too")));
                    }
                    Holds::Shared => {
                        // Its time to begin is the signer's: whose clock is behind must not refuse the first message.
                        let believed = Terms { not_before: None, ..entry.terms.clone() };
                        halves.verifies = Some(Entry { terms: believed, ..entry.clone() });
                        halves.signs = Some(entry);
                    }
                    Holds::Private => {
                        let fits = |other: &Entry| entry.material.fits(&other.material);
                        if !halves.verifies.as_ref().is_none_or(fits) {
                            return Err(refuse(&format!(
                                "its key {id} is not the other half of the one of that id"
                            )));
                        }
                        halves.signs = Some(entry);
                    }
                }
            }
        }
        ring.levels = said.unwrap_or(Levels::UNCHECKED);
        Ok(ring)
    }
}
