//! Changes of the files of keys: a new one, one in the place of another, one that is good no more.
//!
//! A file is written anew beside the old one and put in its place, with the same mode and owner, under a lock file that
//! stays. Comments are lost. A half that signs is written last, so that what it signs is believed.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rustix::fs::{FlockOperation, OFlags};
use stem_core::id::{KeyId, Namespace, QueueName, WorkerId};
use stem_core::seal::{Level, Purpose, Role, Roles};
use stem_core::time::Timestamp;
use zeroize::Zeroizing;

use super::keyring::{Doc, Entry, Holds, Levels, Material, Ring, Terms};
use super::keys::{Algorithm, KeyFiles};

/// What a new key is for.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its name.
    pub id: KeyId,
    /// How it signs.
    pub algorithm: Algorithm,
    /// What it may; at least one.
    pub roles: Vec<Role>,
    /// Where its commands and replies hold; empty is everywhere.
    pub namespaces: Vec<Namespace>,
    /// Where its tasks hold; empty is everywhere.
    pub queues: Vec<QueueName>,
    /// Whose replies it signs; empty is everybody's.
    pub workers: Vec<WorkerId>,
    /// Until when it is good, if not for ever.
    pub not_after: Option<Timestamp>,
}

/// What was written, in the order in which it was.
pub type Written = Vec<PathBuf>;

/// Makes a key and writes it into the files: for Ed25519 into those of public and of private keys, else into the shared
/// one. A file that is not there is made, and says that the key's purposes are checked where they are signed.
pub fn add(files: &KeyFiles, new: &NewKey) -> Result<Written, String> {
    let mut change = Change::begin(files)?;
    change.must_be_new(&new.id)?;
    let terms = Terms {
        roles: Roles::new(new.roles.iter().copied()),
        namespaces: texts(&new.namespaces),
        queues: texts(&new.queues),
        workers: Some(new.workers.clone()).filter(|workers| !workers.is_empty()),
        not_before: None,
        not_after: new.not_after,
    };
    match new.algorithm {
        Algorithm::Ed25519 => {
            let (private, public) = pair()?;
            change.put(Holds::Public, &new.id, public, terms.clone())?;
            change.put(Holds::Private, &new.id, private, terms)?;
        }
        Algorithm::HmacSha256 => change.put(Holds::Shared, &new.id, secret()?, terms)?,
    }
    change.write()
}

/// How one key takes the place of another.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Until the new one signs; by then every verifier must have the file.
    pub lead: Duration,
    /// How long the old one is good after that.
    pub overlap: Option<Duration>,
}

/// What a rotation set.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// Which files were written.
    pub written: Written,
    /// From when the new one signs.
    pub signs_from: Timestamp,
    /// Until when the old one is good.
    pub old_until: Timestamp,
}

/// Puts a new key beside one, with the same roles. Without an overlap of its own, one for tasks has as long as a task's
/// signature holds, else a week.
pub fn rotate(
    files: &KeyFiles,
    old: &KeyId,
    new: &KeyId,
    rotation: Rotation,
    now: Timestamp,
) -> Result<Rotated, String> {
    let mut change = Change::begin(files)?;
    change.must_be_new(new)?;
    let secret_half = change.parts.iter().find_map(|part| {
        let holds = part.holds.is_secret().then_some(part.holds)?;
        part.entry(old).map(|entry| (holds, entry.terms.clone()))
    });
    let (holds, terms) = secret_half
        .ok_or_else(|| format!("the half of {old} that signs is not in the files here"))?;
    let longest = Duration::from_hours(7 * 24);
    let for_tasks = change.levels().and_then(|levels| levels.task_max_age).unwrap_or(longest);
    let usual = if terms.roles.serve(Purpose::Task) { for_tasks.max(longest) } else { longest };
    let signs_from = now.after(rotation.lead);
    let old_until = signs_from.after(rotation.overlap.unwrap_or(usual));
    let fresh = Terms { not_before: Some(signs_from), not_after: None, ..terms };
    match holds {
        Holds::Shared => change.put(Holds::Shared, new, secret()?, fresh)?,
        Holds::Private | Holds::Public => {
            let (private, public) = pair()?;
            let Some(believed) = change.part(Holds::Public)?.entry(old) else {
                return Err(format!("the public half of {old} is not in the files here"));
            };
            let terms = Terms { not_before: None, not_after: None, ..believed.terms.clone() };
            change.put(Holds::Public, new, public, terms)?;
            change.put(Holds::Private, new, private, fresh)?;
        }
    }
    change.end(old, old_until);
    // It may have ended earlier.
    let ends = change.parts.iter().filter_map(|part| part.entry(old)?.terms.not_after);
    let old_until = ends.min().unwrap_or(old_until);
    let written = change.write()?;
    Ok(Rotated { written, signs_from, old_until })
}

/// Makes a key good no more from a time on, in each of the files.
pub fn retire(files: &KeyFiles, id: &KeyId, at: Timestamp) -> Result<Written, String> {
    let mut change = Change::begin(files)?;
    if !change.end(id, at) {
        return Err(format!("there is no key {id} in the files here"));
    }
    change.write()
}

fn texts<T: ToString>(names: &[T]) -> Option<Vec<String>> {
    (!names.is_empty()).then(|| names.iter().map(ToString::to_string).collect())
}

fn random() -> Result<Zeroizing<[u8; 32]>, String> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|error| format!("no randomness: {error}"))?;
    Ok(bytes)
}

fn pair() -> Result<(Material, Material), String> {
    let private = SigningKey::from_bytes(&*random()?);
    let public = private.verifying_key();
    Ok((Material::Private(Box::new(private)), Material::Public(public)))
}

fn secret() -> Result<Material, String> {
    Ok(Material::Shared(Zeroizing::new(random()?.to_vec())))
}

/// One of the files, as it is to be.
struct Part {
    holds: Holds,
    /// Where it lies, behind links.
    path: PathBuf,
    doc: Doc,
    changed: bool,
    /// Held until it is written.
    _lock: File,
}

impl Part {
    fn entry(&self, id: &KeyId) -> Option<&Entry> {
        self.doc.keys.iter().find(|(known, _)| known == id).map(|(_, entry)| entry)
    }
}

/// All of the files, locked and read.
struct Change {
    parts: Vec<Part>,
}

impl Change {
    fn begin(files: &KeyFiles) -> Result<Self, String> {
        let named = [
            (&files.public, Holds::Public),
            (&files.private, Holds::Private),
            (&files.shared, Holds::Shared),
        ];
        let mut parts: Vec<Part> = Vec::new();
        for (path, holds) in named {
            let Some(path) = path else { continue };
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            if parts.iter().any(|part| part.path == path) {
                return Err(format!("{} is named for two kinds of keys", path.display()));
            }
            let lock = lock(&path)?;
            let doc = if path.exists() { Doc::open(&path, holds)? } else { Doc::default() };
            parts.push(Part { holds, path, doc, changed: false, _lock: lock });
        }
        let change = Self { parts };
        // What could not be used as it is must not be made worse.
        if change.parts.iter().all(|part| part.path.exists()) {
            Ring::open(files)?;
        }
        Ok(change)
    }

    fn must_be_new(&self, id: &KeyId) -> Result<(), String> {
        match self.parts.iter().find(|part| part.entry(id).is_some()) {
            Some(part) => Err(format!("there is a key {id} already, in {}", part.path.display())),
            None => Ok(()),
        }
    }

    fn levels(&self) -> Option<&Levels> {
        self.parts.iter().find_map(|part| part.doc.levels.as_ref())
    }

    fn part(&mut self, holds: Holds) -> Result<&mut Part, String> {
        self.parts.iter_mut().find(|part| part.holds == holds).ok_or_else(|| {
            format!(
                "it is not said which file holds {}",
                match holds {
                    Holds::Public => "public keys (--public, or the setting signing-public-keys)",
                    Holds::Private =>
                        "private keys (--private, or the setting signing-private-keys)",
                    Holds::Shared => "shared keys (--shared, or the setting signing-keys)",
                }
            )
        })
    }

    fn put(
        &mut self,
        holds: Holds,
        id: &KeyId,
        material: Material,
        terms: Terms,
    ) -> Result<(), String> {
        let levels_elsewhere = holds == Holds::Shared && self.part(Holds::Public).is_ok();
        let part = self.part(holds)?;
        if part.doc.levels.is_none() && holds != Holds::Private && !levels_elsewhere {
            let level = |purpose| {
                if terms.roles.serve(purpose) { Level::Permitted } else { Level::Unchecked }
            };
            part.doc.levels = Some(Levels {
                commands: level(Purpose::Command),
                replies: level(Purpose::Reply),
                tasks: level(Purpose::Task),
                ..Levels::NEW
            });
        }
        let entry = Entry { material, terms, file: part.path.clone() };
        part.doc.keys.push((id.clone(), entry));
        part.changed = true;
        Ok(())
    }

    /// Nothing is good for longer than it was.
    fn end(&mut self, id: &KeyId, at: Timestamp) -> bool {
        let mut found = false;
        for part in &mut self.parts {
            for (_, entry) in part.doc.keys.iter_mut().filter(|(known, _)| known == id) {
                let terms = &mut entry.terms;
                terms.not_after = Some(terms.not_after.map_or(at, |end| end.min(at)));
                // What ends before it begins has no beginning.
                terms.not_before = terms.not_before.filter(|from| Some(*from) < terms.not_after);
                (part.changed, found) = (true, true);
            }
        }
        found
    }

    fn write(self) -> Result<Written, String> {
        let mut written = Vec::new();
        let public_first = [Holds::Public, Holds::Shared, Holds::Private];
        for holds in public_first {
            for part in self.parts.iter().filter(|part| part.holds == holds && part.changed) {
                replace(&part.path, &part.doc.write(), holds).map_err(|error| {
                    format!("{} cannot be written: {error}", part.path.display())
                })?;
                written.push(part.path.clone());
            }
        }
        Ok(written)
    }
}

/// The file's name with a dot before it and an ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

fn lock(path: &Path) -> Result<File, String> {
    let beside = beside(path, "lock");
    let refuse = |error: std::io::Error| format!("{} cannot be locked: {error}", beside.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(&beside)
        .map_err(refuse)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| refuse(error.into()))?;
    Ok(file)
}

/// All at once, with the mode and owner of the one that was there.
fn replace(path: &Path, text: &str, holds: Holds) -> std::io::Result<()> {
    let mut new = beside(path, "new").into_os_string();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let _ = std::fs::remove_file(&new);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        match std::fs::metadata(path) {
            Ok(old) => {
                let ours = file.metadata()?;
                if (ours.uid(), ours.gid()) != (old.uid(), old.gid()) {
                    std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
                file.set_permissions(old.permissions())?;
            }
            Err(_) if holds.is_secret() => {}
            Err(_) => file.set_permissions(PermissionsExt::from_mode(0o644))?,
        }
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
