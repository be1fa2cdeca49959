//! [`PolicyFile`]: a policy that follows its file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::{Policy, PolicyError};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The policy of a worker, which changes with its file and with those of its secrets.
#[derive(Debug)]
pub struct PolicyFile {
    path: Option<PathBuf>,
    current: watch::Sender<Arc<Policy>>,
}

impl Default for PolicyFile {
    fn default() -> Self {
        Self { path: None, current: watch::Sender::new(Arc::default()) }
    }
}

/// Name, size and time of files, for noticing a change without reading them.
type Look = BTreeMap<PathBuf, Option<(u64, Option<SystemTime>)>>;

fn look(files: &[PathBuf]) -> Look {
    files
        .iter()
        .map(|path| {
            let about = std::fs::metadata(path).ok();
            (path.clone(), about.map(|about| (about.len(), about.modified().ok())))
        })
        .collect()
}

impl PolicyFile {
    /// Reads a policy that is followed from now on.
    pub fn open(path: &Path) -> Result<Self, PolicyError> {
        let policy = Policy::open(path)?;
        Ok(Self { path: Some(path.to_owned()), current: watch::Sender::new(Arc::new(policy)) })
    }

    /// As it is now.
    pub fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.current.borrow())
    }

    /// Learns of every change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Policy>> {
        self.current.subscribe()
    }

    /// Follows the files until dropped; never ends; cancel-safe.
    pub async fn follow(&self) {
        let Some(path) = &self.path else { return std::future::pending().await };
        let mut seen = look(self.current().files());
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look(self.current().files());
            if now == seen {
                continue;
            }
            // A file that is being written changes again; it is read when it has been still for one look.
            tokio::time::sleep(LOOK).await;
            if look(self.current().files()) == now {
                self.read_again(path);
                seen = look(self.current().files());
                // What changed while it was read is read once more.
                for (path, about) in &mut seen {
                    if let Some(before) = now.get(path) {
                        *about = *before;
                    }
                }
            }
        }
    }

    /// Reads it anew. One that cannot be used is logged, and what was known stays.
    fn read_again(&self, path: &Path) {
        match Policy::open(path) {
            Ok(policy) => {
                tracing::info!(file = %path.display(), "the policy has changed");
                for warning in policy.warnings() {
                    tracing::warn!("{warning}");
                }
                self.current.send_replace(Arc::new(policy));
            }
            Err(error) => {
                tracing::warn!(%error, "the policy has changed and cannot be used; the old one stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_follows_its_file_and_a_bad_one_changes_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        };
        write("[config]\nA = \"1\"");
        let file = PolicyFile::open(&path).unwrap();
        let mut news = file.subscribe();
        let has =
            |policy: &Policy, name: &str| policy.0.as_ref().unwrap().config.contains_key(name);
        write("[config]\nA = 1");
        file.read_again(&path);
        assert!(!news.has_changed().unwrap() && has(&file.current(), "A"));
        write("[config]\nB = \"1\"");
        file.read_again(&path);
        assert!(news.has_changed().unwrap() && has(&news.borrow_and_update(), "B"));
        assert!(!has(&file.current(), "A"));
    }
}
