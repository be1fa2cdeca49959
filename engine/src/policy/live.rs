//! [`PolicyFile`]: a policy that follows its file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::trusted::{self, Mark};
use super::{Policy, PolicyError};

/// The policy of a worker, which changes with its file and with those of its secrets.
#[derive(Debug)]
pub struct PolicyFile {
    path: Option<PathBuf>,
    current: watch::Sender<Arc<Policy>>,
    /// Why what is there now cannot be used.
    problem: Mutex<Option<PolicyError>>,
}

impl Default for PolicyFile {
    fn default() -> Self {
        Self::new(None, Policy::none())
    }
}

impl PolicyFile {
    fn new(path: Option<PathBuf>, policy: Policy) -> Self {
        let current = watch::Sender::new(Arc::new(policy));
        Self { path, current, problem: Mutex::default() }
    }

    /// Reads a policy that is followed from now on.
    pub fn open(path: &Path) -> Result<Self, PolicyError> {
        Ok(Self::new(Some(path.to_owned()), Policy::open(path)?))
    }

    /// As it is now; while its file cannot be used, as it was before.
    pub fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.current.borrow())
    }

    /// Why the file as it is now is not what holds, if it is not.
    pub fn problem(&self) -> Option<PolicyError> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Learns of every change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Policy>> {
        self.current.subscribe()
    }

    /// Follows the files from when they were read, until dropped; never ends; cancel-safe.
    pub async fn follow(&self) {
        let Some(path) = &self.path else { return std::future::pending().await };
        let seen: Look = self.current().files().iter().map(|(_, mark)| Some(*mark)).collect();
        trusted::follow(seen, || look(&self.current()), |_| self.read_again(path)).await;
    }

    /// Reads it anew, and tells what its files were like. One that cannot be used is logged once, and what was known stays.
    fn read_again(&self, path: &Path) -> Option<Look> {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match Policy::open(path) {
            Ok(policy) => {
                tracing::info!(file = %path.display(), "the policy has changed");
                for warning in policy.warnings() {
                    tracing::warn!("{warning}");
                }
                *problem = None;
                let read = policy.files().iter().map(|(_, mark)| Some(*mark)).collect();
                self.current.send_replace(Arc::new(policy));
                Some(read)
            }
            Err(error) => {
                if problem.as_ref() != Some(&error) {
                    tracing::error!(%error, "the policy has changed and cannot be used; the old one stays until it can");
                }
                *problem = Some(error);
                None
            }
        }
    }
}

/// What a policy's files are like.
type Look = Vec<Option<Mark>>;

fn look(policy: &Policy) -> Look {
    policy.files().iter().map(|(path, _)| Mark::now(path)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new(policy: &str) -> (Self, Arc<PolicyFile>) {
            let place = Self(tempfile::tempdir().unwrap());
            place.write("policy.toml", policy);
            let file = PolicyFile::open(&place.path("policy.toml")).unwrap();
            (place, Arc::new(file))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// In place of what was there, all at once.
        fn write(&self, name: &str, text: &str) {
            let text = text.replace("DIR", &self.0.path().display().to_string());
            let new = self.path("new");
            std::fs::write(&new, text).unwrap();
            self.mode("new", 0o600);
            std::fs::rename(new, self.path(name)).unwrap();
        }

        fn mode(&self, name: &str, mode: u32) {
            std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(mode)).unwrap();
        }
    }

    fn config(policy: &Policy) -> String {
        let config = &policy.0.as_ref().unwrap().config;
        config.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let poll = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), poll).await.expect(what);
    }

    fn follow(file: &Arc<PolicyFile>) {
        let file = Arc::clone(file);
        tokio::spawn(async move { file.follow().await });
    }

    #[tokio::test]
    async fn what_changed_before_it_was_followed_is_followed_too() {
        let (place, file) = Place::new("[config]\nA = \"1\"");
        place.write("policy.toml", "[config]\nA = \"2\"");
        follow(&file);
        until("the change from before", || config(&file.current()) == "A=2").await;
    }

    #[tokio::test]
    async fn a_bad_one_changes_nothing_and_is_tried_until_it_can_be_used() {
        let (place, file) = Place::new("[config]\nA = \"1\"");
        let news = file.subscribe();
        follow(&file);
        // The secret comes after the policy that names it.
        place.write("policy.toml", "[config]\nA = \"2\"\n[secrets.KEY]\nfile = \"DIR/key\"");
        until("the problem", || file.problem().is_some()).await;
        assert!(file.problem().unwrap().problem.contains("secrets.KEY.file"));
        assert!(!news.has_changed().unwrap() && config(&file.current()) == "A=1");
        place.write("key", "hunter2");
        until("the secret", || file.problem().is_none()).await;
        assert_eq!(config(&file.current()), "A=2");
        // A mode is changed by nothing that shows in the size or in the time of the last write.
        place.mode("policy.toml", 0o622);
        until("the mode", || file.problem().is_some()).await;
        assert_eq!(config(&file.current()), "A=2");
        place.mode("policy.toml", 0o600);
        until("the mode as before", || file.problem().is_none()).await;
        std::fs::remove_file(place.path("policy.toml")).unwrap();
        until("the absence", || file.problem().is_some()).await;
        assert_eq!(config(&file.current()), "A=2");
    }

    #[tokio::test]
    async fn another_file_of_the_same_size_and_time_is_another_file() {
        let (place, file) = Place::new("[config]\nA = \"1\"");
        let modified = std::fs::metadata(place.path("policy.toml")).unwrap().modified().unwrap();
        follow(&file);
        place.write("other.toml", "[config]\nA = \"2\"");
        let other = std::fs::File::options().write(true).open(place.path("other.toml")).unwrap();
        other.set_modified(modified).unwrap();
        std::fs::rename(place.path("other.toml"), place.path("policy.toml")).unwrap();
        until("the other file", || config(&file.current()) == "A=2").await;
    }
}
