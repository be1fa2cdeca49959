//! Scratch directories. Each process has one of its own below the base, and a lock file beside it that it holds as long
//! as it lives; each attempt has one in there. Where a lock can be had, its process is gone, and what it left is removed.
//!
//! ```text
//! BASE/stem-scratch-UID/          0700, ours or nothing is done
//!   w-0123456789abcdef.lock       locked by its process
//!   w-0123456789abcdef/           made with the first attempt that needs it
//!     17/                         an attempt's /scratch
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::remove::remove_tree;

/// Where the scratch directories of this process lie.
#[derive(Debug)]
pub(crate) struct Scratches {
    base: PathBuf,
    own: Mutex<Option<Arc<Own>>>,
    made: AtomicU64,
}

impl Scratches {
    /// Below this directory, or the system's for temporary files. Makes nothing yet.
    pub(crate) fn new(below: Option<&Path>) -> Self {
        let below = below.map_or_else(std::env::temp_dir, Path::to_owned);
        let uid = rustix::process::geteuid().as_raw();
        Self {
            base: below.join(format!("stem-scratch-{uid}")),
            own: Mutex::default(),
            made: AtomicU64::new(0),
        }
    }

    /// Removes what processes left that are gone. May take long; never fails, since the next start tries again.
    pub(crate) fn sweep(&self) {
        if !self.base.exists() {
            return;
        }
        let swept = private(&self.base).and_then(|()| sweep(&self.base));
        if let Err(error) = swept {
            tracing::warn!(directory = %self.base.display(), %error, "old scratch directories cannot be removed");
        }
    }

    /// An empty directory for one attempt. Blocks.
    pub(crate) fn make(&self) -> io::Result<ScratchDir> {
        let own = self.own()?;
        let path = own.path.join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(ScratchDir { path, _own: own, room: None })
    }

    /// Removes all that this process has, whoever still uses it: threads in the background may not come to it any more.
    /// Blocks.
    pub(crate) fn end(&self) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(own) = own {
            remove_locked(&own.path, &own.lock_path);
        }
    }

    /// Where they lie.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    fn own(&self) -> io::Result<Arc<Own>> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may clean a directory for temporary files while this process lives.
        if let Some(own) = own.as_ref().filter(|own| own.path.is_dir()) {
            return Ok(Arc::clone(own));
        }
        let made = Arc::new(Own::make(&self.base)?);
        *own = Some(Arc::clone(&made));
        Ok(made)
    }
}

/// Makes the directory below which the scratch directories of this user come to lie, unless it is there, and locks it,
/// together with whoever else does, for as long as the file lives: those who clean directories for temporary files
/// (systemd-tmpfiles) leave a locked one alone. For a process that could not make it once more.
///
/// # Errors
/// When it cannot be made, or is not this user's alone.
pub fn hold_base() -> io::Result<(PathBuf, File)> {
    let base = Scratches::new(None).base;
    private(&base)?;
    let held = File::open(&base)?;
    // One that is being cleaned at this moment is not waited for.
    let _ = held.try_lock_shared();
    Ok((base, held))
}

/// This process's directory, and the lock that says that it lives. Removed with the last attempt's.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held until the directory is gone.
    _lock: File,
}

impl Own {
    fn make(base: &Path) -> io::Result<Self> {
        private(base)?;
        loop {
            let mut number = [0; 8];
            getrandom::fill(&mut number).map_err(io::Error::other)?;
            let path = base.join(format!("{PREFIX}{:016x}", u64::from_le_bytes(number)));
            let lock_path = path.with_extension(LOCK);
            let lock = File::options().write(true).create_new(true).mode(0o600).open(&lock_path)?;
            // Whoever sweeps may have had the lock before us, and removes the file then.
            if lock.try_lock().is_ok() && is_same(&lock, &lock_path) {
                DirBuilder::new().mode(0o700).create(&path)?;
                return Ok(Self { path, lock_path, _lock: lock });
            }
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        remove_locked(&self.path, &self.lock_path);
    }
}

const PREFIX: &str = "w-";
const LOCK: &str = "lock";

fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (named.dev(), named.ino())
}

/// Sees to it that this is a directory that nobody else can look into. In a directory for temporary files anybody may
/// have made it.
fn private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let about = fs::symlink_metadata(path)?;
    let ours = about.uid() == rustix::process::geteuid().as_raw();
    if about.is_dir() && ours && about.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} is not a directory of this user alone (mode 0700)", path.display()),
    ))
}

fn sweep(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let lock_path = entry?.path();
        let Some(path) = directory_of(&lock_path) else { continue };
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let lock = File::options().read(true).custom_flags(nofollow).open(&lock_path);
        // Not ours to judge, or its process lives.
        let Ok(lock) = lock else { continue };
        if lock.try_lock().is_ok() && is_same(&lock, &lock_path) {
            remove_locked(&path, &lock_path);
        }
    }
    Ok(())
}

/// The directory that a lock file stands for; `None` for any other file.
fn directory_of(lock_path: &Path) -> Option<PathBuf> {
    let number = lock_path.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(".lock")?;
    let is_ours = number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then(|| lock_path.with_extension(""))
}

/// Removes a directory, and then its lock file; the caller holds the lock.
fn remove_locked(path: &Path, lock_path: &Path) {
    if let Err(error) = remove_tree(path) {
        tracing::warn!(directory = %path.display(), %error, "a scratch directory is left for the next start");
        return;
    }
    let _ = fs::remove_file(lock_path);
}

/// One attempt's directory. Dropping it removes it, on a thread that may block; until it is gone its attempt keeps its
/// place, so that the disk never holds more of them than attempts may run at once.
#[derive(Debug)]
pub(crate) struct ScratchDir {
    path: PathBuf,
    _own: Arc<Own>,
    room: Option<OwnedSemaphorePermit>,
}

impl ScratchDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A guard that removes it when it is dropped, wherever that is.
    pub(crate) fn guard(mut self, room: OwnedSemaphorePermit, blocking: Handle) -> ScratchGuard {
        self.room = Some(room);
        ScratchGuard { path: self.path.clone(), dir: Some(self), blocking }
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(directory = %self.path.display(), %error, "a scratch directory is left until this worker ends");
        }
    }
}

/// See [`ScratchDir::guard`].
#[derive(Debug)]
pub(crate) struct ScratchGuard {
    path: PathBuf,
    dir: Option<ScratchDir>,
    blocking: Handle,
}

impl ScratchGuard {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchGuard {
    fn drop(&mut self) {
        let dir = self.dir.take();
        // A runtime that ends drops the closure, and with it the directory.
        self.blocking.spawn_blocking(move || drop(dir));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn each_is_private_and_the_last_takes_everything_with_it() {
        let below = tempfile::tempdir().unwrap();
        let scratches = Scratches::new(Some(below.path()));
        assert_eq!(names(below.path()), Vec::<String>::new());
        let (one, other) = (scratches.make().unwrap(), scratches.make().unwrap());
        assert_ne!(one.path(), other.path());
        for path in [one.path(), one.path().parent().unwrap(), scratches.base()] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
        }
        fs::write(one.path().join("file"), "text").unwrap();
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists() && other.path().exists());
        drop(scratches);
        assert!(other.path().exists(), "an attempt still has it");
        drop(other);
        assert_eq!(
            names(&below.path().join(names(below.path())[0].as_str())),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_end_takes_everything_whoever_has_it() {
        let below = tempfile::tempdir().unwrap();
        let scratches = Scratches::new(Some(below.path()));
        scratches.end();
        let kept = scratches.make().unwrap();
        fs::write(kept.path().join("file"), "text").unwrap();
        scratches.end();
        assert_eq!(names(scratches.base()), Vec::<String>::new());
        drop(kept);
        // And it can begin anew.
        assert!(scratches.make().unwrap().path().is_dir());
    }

    #[test]
    fn what_a_dead_process_left_is_swept_and_what_a_living_one_has_stays() {
        let below = tempfile::tempdir().unwrap();
        let living = Scratches::new(Some(below.path()));
        let kept = living.make().unwrap();
        let base = living.base();
        // As a killed process leaves it: nobody holds the lock.
        for number in ["0000000000000001", "0000000000000002"] {
            fs::create_dir_all(base.join(format!("w-{number}/3/deep/er"))).unwrap();
            fs::write(base.join(format!("w-{number}/3/deep/file")), "text").unwrap();
            File::create(base.join(format!("w-{number}.lock"))).unwrap();
        }
        // Nothing of ours.
        fs::create_dir(base.join("other")).unwrap();
        File::create(base.join("other.lock")).unwrap();
        File::create(base.join("w-...lock")).unwrap();
        symlink(below.path(), base.join("w-0000000000000003.lock")).unwrap();
        let before = names(base);
        Scratches::new(Some(below.path())).sweep();
        let expected: Vec<_> = before
            .into_iter()
            .filter(|name| !name.contains("00000001") && !name.contains("00000002"))
            .collect();
        assert_eq!(names(base), expected);
        assert!(kept.path().is_dir());
    }

    #[test]
    fn a_base_of_somebody_else_is_not_used() {
        let below = tempfile::tempdir().unwrap();
        let scratches = Scratches::new(Some(below.path()));
        fs::create_dir(scratches.base()).unwrap();
        fs::set_permissions(scratches.base(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(scratches.make().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        fs::remove_dir(scratches.base()).unwrap();
        symlink(below.path(), scratches.base()).unwrap();
        assert_eq!(scratches.make().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let missing = Scratches::new(Some(&below.path().join("missing")));
        assert_eq!(missing.make().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_directory_that_somebody_cleaned_away_is_made_again() {
        let below = tempfile::tempdir().unwrap();
        let scratches = Scratches::new(Some(below.path()));
        drop(scratches.make().unwrap());
        fs::remove_dir_all(scratches.base()).unwrap();
        assert!(scratches.make().unwrap().path().is_dir());
    }
}
