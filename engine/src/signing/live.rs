//! [`TrustFile`]: a trust list that follows its file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::Trust;
use crate::policy::trusted::{self, Mark};

/// The trust list of a worker, which changes with its file.
#[derive(Debug)]
pub struct TrustFile {
    /// With how it looked before it was read; `None` for a list that has no file.
    file: Option<(PathBuf, Option<Mark>)>,
    current: watch::Sender<Arc<Trust>>,
}

impl From<Trust> for TrustFile {
    /// A list that never changes.
    fn from(trust: Trust) -> Self {
        Self { file: None, current: watch::Sender::new(Arc::new(trust)) }
    }
}

impl TrustFile {
    /// Reads a list as [`Trust::open`] does. What changes from now on is seen by [`follow`](Self::follow).
    pub fn open(path: &Path) -> Result<Self, String> {
        let seen = Mark::now(path);
        let current = watch::Sender::new(Arc::new(Trust::open(path)?));
        Ok(Self { file: Some((path.to_owned(), seen)), current })
    }

    /// As it is now.
    pub fn current(&self) -> Arc<Trust> {
        Arc::clone(&self.current.borrow())
    }

    /// Learns of every change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Trust>> {
        self.current.subscribe()
    }

    /// Follows the file until dropped; never ends; cancel-safe.
    pub async fn follow(&self) {
        let Some((path, seen)) = &self.file else { return std::future::pending().await };
        let mut said = None;
        let read = |now| match self.read_again(path) {
            Ok(()) => {
                said = None;
                Some(now)
            }
            Err(problem) => {
                if said.as_ref() != Some(&problem) {
                    tracing::warn!(file = %path.display(), problem, "the trust list has changed and cannot be used; the old one stays");
                }
                said = Some(problem);
                None
            }
        };
        trusted::follow(*seen, || Mark::now(path), read).await;
    }

    /// Reads it anew. Where it cannot be used, what was known stays.
    fn read_again(&self, path: &Path) -> Result<(), String> {
        let trust = Trust::open(path)?;
        tracing::info!(file = %path.display(), "the trust list has changed");
        self.current.send_replace(Arc::new(trust));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::signing::PublisherKey;

    #[tokio::test]
    async fn a_list_follows_its_file_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust");
        let write = |text: &str| {
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let line = |name: &str| format!("{} {name}", PublisherKey::generate().unwrap().public());
        write(&line("ann"));
        let file = TrustFile::open(&path).unwrap();
        let mut news = file.subscribe();
        let names = || -> Vec<String> {
            file.current().publishers.iter().map(|(name, _)| name.clone()).collect()
        };
        // Also what changes before anybody follows it.
        write(&line("bob"));
        tokio::select! {
            () = file.follow() => {}
            changed = news.changed() => changed.unwrap(),
        }
        assert_eq!(names(), ["bob"]);
        write("nonsense");
        file.read_again(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        file.read_again(&path).unwrap_err();
        assert!(names() == ["bob"] && !news.has_changed().unwrap());
    }
}
