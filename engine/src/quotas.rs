//! A worker's quotas: how much of it each tenant and each queue may have, from a file that is followed.
//!
//! | module | what it holds |
//! |---|---|
//! | `read` | the file, from text to [`Rules`] |
//!
//! What becomes of them is decided by [`Ledger`](stem_core::machine::quota::Ledger), for each worker on its own.

mod read;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use stem_core::machine::quota::{Rate, Rules};
use tokio::sync::watch;

use crate::policy::trusted::{self, Mark};

/// The quotas of a worker, which change with their file.
#[derive(Debug)]
pub struct QuotaFile {
    /// With how it looked before it was read; `None` for rules that have no file.
    file: Option<(PathBuf, Option<Mark>)>,
    current: watch::Sender<Arc<Rules>>,
    /// Why what is there now cannot be used.
    problem: Mutex<Option<String>>,
}

impl From<Rules> for QuotaFile {
    /// Rules that never change.
    fn from(rules: Rules) -> Self {
        Self::new(None, rules)
    }
}

impl QuotaFile {
    fn new(file: Option<(PathBuf, Option<Mark>)>, rules: Rules) -> Self {
        let current = watch::Sender::new(Arc::new(rules));
        Self { file, current, problem: Mutex::default() }
    }

    /// Reads a file, which must be a plain one of this user or root that nobody else can write. What changes from now on is
    /// seen by [`follow`](Self::follow).
    pub fn open(path: &Path) -> Result<Self, String> {
        let seen = Mark::now(path);
        Ok(Self::new(Some((path.to_owned(), seen)), read::open(path)?))
    }

    /// As they are now; while the file cannot be used, as they were before.
    pub fn current(&self) -> Arc<Rules> {
        Arc::clone(&self.current.borrow())
    }

    /// Where they are from.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// Why the file as it is now is not what holds, if it is not.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the file until dropped; never ends; cancel-safe.
    pub async fn follow(&self) {
        let Some((path, seen)) = &self.file else { return std::future::pending().await };
        trusted::follow(*seen, || Mark::now(path), |now| self.read_again(path).then_some(now))
            .await;
    }

    /// Reads it anew; whether it can be used. One that cannot is logged once, and what held before stays.
    fn read_again(&self, path: &Path) -> bool {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match read::open(path) {
            Ok(rules) => {
                tracing::info!(file = %path.display(), "the quotas have changed");
                *problem = None;
                self.current.send_replace(Arc::new(rules));
                true
            }
            Err(error) => {
                if problem.as_ref() != Some(&error) {
                    tracing::error!(problem = %error, "the quotas have changed and cannot be used; the old ones stay until they can");
                }
                *problem = Some(error);
                false
            }
        }
    }
}

/// A rate as the file has it.
pub fn write_rate(rate: Rate) -> String {
    let unit = match rate.per.as_secs() {
        1 => "s",
        60 => "m",
        _ => "h",
    };
    format!("{}/{unit}", rate.starts)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn rules_follow_their_file_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quotas.toml");
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        };
        write("[tenants.\"*\"]\nconcurrency = 4");
        let file = QuotaFile::open(&path).unwrap();
        let four = file.current();
        assert_eq!(four.each.concurrency, Some(4));
        write("[tenants.\"*\"]\nconcurrency = 0");
        file.read_again(&path);
        assert!(file.problem().unwrap().contains("tenants.*.concurrency is 0"));
        assert_eq!(file.current(), four);
        write("[tenants.\"*\"]\nconcurrency = 5");
        file.read_again(&path);
        assert_eq!((file.current().each.concurrency, file.problem()), (Some(5), None));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o622)).unwrap();
        file.read_again(&path);
        assert!(file.problem().is_some() && file.current().each.concurrency == Some(5));
    }
}
