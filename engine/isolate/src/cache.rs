//! Compiled code, kept between starts, that nobody can forge.
//!
//! An entry is named by what it was made from (the module's digest, the engine's version and settings) and begins with
//! an HMAC-SHA256 over that name and the code, made with a key that only this user can read. An entry whose MAC is
//! wrong, or that lies in a directory others can write to, is not used: the module is compiled again.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use stem_core::id::Digest;
use wasmtime::Engine;

/// Bytes of the key and of a MAC.
const KEY_BYTES: usize = 32;

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
        Ok(Self { key: Self::key(&dir.join("key"))?, dir: dir.to_owned() })
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

    /// Keeps code. An entry appears whole or not at all.
    pub fn put(&self, name: &EntryName, code: &Trusted) -> io::Result<()> {
        let temporary = self.dir.join(format!("{}.new-{}", name.0, std::process::id()));
        let mac = self.mac(name, &code.0).finalize().into_bytes();
        write_private(&temporary, &[&mac, &code.0])?;
        fs::rename(&temporary, self.path(name))
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
