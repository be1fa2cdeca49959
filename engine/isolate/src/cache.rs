//! Compiled code, kept between starts, that nobody can forge.
//!
//! An entry is named by what it was made from (the module's digest, the engine's version and settings) and begins with
//! an HMAC-SHA256 over that name and the code, made with a key that only this user can read. An entry whose MAC is
//! wrong, or that lies in a directory others can write to, is not used: the module is compiled again.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use stem_core::id::Digest;
use wasmtime::Engine;

/// Bytes of the key and of a MAC.
const KEY_BYTES: usize = 32;

/// So much code is kept, that of a few hundred small modules or a few dozen large ones; what was used the longest ago
/// goes first, and is compiled again where it is needed again.
const MOST_BYTES: u64 = 2 << 30;

/// A file that was begun and not finished goes after so long: whoever wrote it is gone.
const UNFINISHED: Duration = Duration::from_hours(1);

/// Compiled code that may be run: it came from our compiler a moment ago, was authenticated, or runs already.
#[derive(Debug)]
pub struct Trusted(Vec<u8>);

impl Trusted {
    /// The compiler's output as it was received from it.
    pub(crate) fn from_compiler(code: Vec<u8>) -> Self {
        Self(code)
    }

    /// What the engine runs now, which was trusted when it was loaded.
    pub(crate) fn from_engine(code: Vec<u8>) -> Self {
        Self(code)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A directory of compiled code.
#[derive(Debug)]
pub struct CodeCache {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
    most_bytes: u64,
}

/// Names an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName(String);

impl EntryName {
    /// What the code depends on: the module, the engine's version, target and settings.
    pub fn new(module: &Digest, engine: &Engine) -> Self {
        struct Feed(Sha256);
        impl std::hash::Hasher for Feed {
            fn finish(&self) -> u64 {
                0
            }
            fn write(&mut self, bytes: &[u8]) {
                self.0.update(bytes);
            }
        }
        let mut feed = Feed(Sha256::new());
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut feed);
        feed.0.update(module.0);
        feed.0.update(stem_host_abi::ABI_VERSION);
        Self(Digest(feed.0.finalize().into()).to_string().replace("sha256:", ""))
    }
}

impl CodeCache {
    /// Opens a directory, which is made if it is not there. Refuses one that others can write to.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let about = fs::metadata(dir)?;
        let ours = about.uid() == rustix::process::geteuid().as_raw();
        if !ours || about.permissions().mode() & 0o022 != 0 {
            let problem = format!(
                "{} is not ours alone to write to (owner {}, mode {:o})",
                dir.display(),
                about.uid(),
                about.mode() & 0o7777
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
        }
        let key = Self::key(&dir.join("key"))?;
        Ok(Self { key, dir: dir.to_owned(), most_bytes: MOST_BYTES })
    }

    /// Reads the key, or makes one. Two processes that start together agree: the file appears whole or not at all.
    fn key(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
        for _ in 0..2 {
            match fs::OpenOptions::new()
                .read(true)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
                .open(path)
            {
                Ok(mut file) => {
                    let about = file.metadata()?;
                    let others = about.permissions().mode() & 0o077;
                    let private = about.uid() == rustix::process::geteuid().as_raw() && others == 0;
                    let mut key = [0; KEY_BYTES];
                    if private
                        && about.len() == KEY_BYTES as u64
                        && file.read_exact(&mut key).is_ok()
                    {
                        return Ok(key);
                    }
                    // Not a key that can be trusted: with a new one, the old entries are simply compiled again.
                    fs::remove_file(path)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let mut key = [0; KEY_BYTES];
            getrandom::fill(&mut key).map_err(io::Error::other)?;
            let temporary = path.with_extension(format!("new-{}", std::process::id()));
            write_private(&temporary, &[&key])?;
            // A link does not replace: whoever is first wins, and the other reads that key in the next turn.
            let linked = fs::hard_link(&temporary, path);
            fs::remove_file(&temporary)?;
            match linked {
                Ok(()) => return Ok(key),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{} changes while it is read", path.display())))
    }

    fn mac(&self, name: &EntryName, code: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(name.0.as_bytes());
        mac.update(code);
        mac
    }

    /// The code, if there is an entry whose MAC is right.
    pub fn get(&self, name: &EntryName) -> Option<Trusted> {
        let mut bytes = fs::read(self.path(name)).ok()?;
        // For those that clean up. Where that cannot be noted, it is compiled again some day.
        let _ =
            fs::File::open(self.path(name)).and_then(|file| file.set_modified(SystemTime::now()));
        let (mac, code) = bytes.split_at_checked(KEY_BYTES)?;
        if self.mac(name, code).verify_slice(mac).is_err() {
            tracing::warn!(
                entry = name.0,
                "compiled code in the cache was changed; the module is compiled again"
            );
            return None;
        }
        bytes.drain(..KEY_BYTES);
        Some(Trusted(bytes))
    }

    /// Keeps code, and removes what was used the longest ago where all is too much. An entry appears whole or not at all.
    pub fn put(&self, name: &EntryName, code: &Trusted) -> io::Result<()> {
        let temporary = self.dir.join(format!("{}.new-{}", name.0, std::process::id()));
        let mac = self.mac(name, &code.0).finalize().into_bytes();
        write_private(&temporary, &[&mac, &code.0])?;
        fs::rename(&temporary, self.path(name))?;
        self.clean_up(&self.path(name));
        Ok(())
    }

    /// What cannot be removed now is looked at again by the next.
    fn clean_up(&self, fresh: &Path) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut kept = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path != fresh) {
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if extension == "cwasm" {
                kept.push((used, about.len(), path));
            } else if extension.starts_with("new-")
                && used.elapsed().is_ok_and(|age| age >= UNFINISHED)
            {
                let _ = fs::remove_file(path);
            }
        }
        kept.sort_unstable();
        let mut bytes = fs::metadata(fresh).map_or(0, |about| about.len());
        bytes += kept.iter().map(|(_, size, _)| size).sum::<u64>();
        for (_, size, path) in kept {
            if bytes <= self.most_bytes {
                break;
            }
            let _ = fs::remove_file(path);
            bytes -= size;
        }
    }

    fn path(&self, name: &EntryName) -> PathBuf {
        self.dir.join(format!("{}.cwasm", name.0))
    }
}

fn write_private(path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    pieces.iter().try_for_each(|piece| file.write_all(piece))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EntryName {
        EntryName(text.to_owned())
    }

    #[test]
    fn an_entry_reads_back_and_a_changed_or_swapped_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let cache = CodeCache::open(&path).unwrap();
        cache.put(&name("a"), &Trusted(b"code".to_vec())).unwrap();
        cache.put(&name("b"), &Trusted(b"other".to_vec())).unwrap();
        assert_eq!(CodeCache::open(&path).unwrap().get(&name("a")).unwrap().0, b"code");
        fs::copy(path.join("b.cwasm"), path.join("a.cwasm")).unwrap();
        assert!(cache.get(&name("a")).is_none(), "swapped");
        let mut bytes = fs::read(path.join("b.cwasm")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path.join("b.cwasm"), bytes).unwrap();
        assert!(cache.get(&name("b")).is_none(), "changed");
        fs::write(path.join("b.cwasm"), b"short").unwrap();
        assert!(cache.get(&name("b")).is_none(), "cut");
    }

    #[test]
    fn what_was_used_the_longest_ago_makes_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let mut cache = CodeCache::open(&path).unwrap();
        let code = || Trusted(vec![7; 100]);
        let ago = |file: &str, hours: u64| {
            let then = SystemTime::now() - Duration::from_hours(hours);
            fs::File::open(path.join(file)).unwrap().set_modified(then).unwrap();
        };
        for (entry, hours) in [("a", 5), ("b", 4), ("c", 3)] {
            cache.put(&name(entry), &code()).unwrap();
            ago(&format!("{entry}.cwasm"), hours);
        }
        for (file, hours) in [("x.new-1", 2), ("y.new-1", 0)] {
            fs::write(path.join(file), b"half").unwrap();
            ago(file, hours);
        }
        // Used again.
        assert!(cache.get(&name("a")).is_some());
        cache.most_bytes = 3 * (KEY_BYTES as u64 + 100);
        cache.put(&name("d"), &code()).unwrap();
        let has = |entry: &str| cache.get(&name(entry)).is_some();
        assert_eq!(["a", "b", "c", "d"].map(has), [true, false, true, true]);
        assert!(!path.join("x.new-1").exists() && path.join("y.new-1").exists());
        assert!(path.join("key").exists());
        // One that is too large by itself is kept until the next comes.
        cache.most_bytes = 1;
        cache.put(&name("e"), &code()).unwrap();
        assert_eq!(
            ["a", "c", "d", "e"].map(|entry| cache.get(&name(entry)).is_some()),
            [false, false, false, true]
        );
    }

    #[test]
    fn code_of_another_engine_has_another_name() {
        let module = Digest([1; 32]);
        let engine = |config: &wasmtime::Config| Engine::new(config).unwrap();
        let ours = crate::config::compiling();
        let mut other = crate::config::compiling();
        other.consume_fuel(true);
        let name = EntryName::new(&module, &engine(&ours));
        assert_eq!(name, EntryName::new(&module, &engine(&ours)));
        assert_ne!(name, EntryName::new(&module, &engine(&other)));
        assert_ne!(name, EntryName::new(&Digest([2; 32]), &engine(&ours)));
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused_and_a_readable_key_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let first = CodeCache::open(&path).unwrap().key;
        fs::set_permissions(path.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_ne!(CodeCache::open(&path).unwrap().key, first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(CodeCache::open(&path).unwrap_err().to_string().contains("write"));
    }
}
