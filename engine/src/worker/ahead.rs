//! Reading what is revoked while the modules are still being loaded: both take their time, and neither needs the other.
//!
//! It is a beginning only. What a worker goes by is still read after it has noted where the log of commands ends; that
//! reading goes on where this one ended.

use stem_core::backend::BackendError;
use stem_core::revoke::{Revocations, Version};
use stem_core::time::{Clock, Timestamp};
use tokio::task::JoinSet;

use super::config::WorkerConfig;
use super::revocations::with_default_grace;
use crate::{Backends, revocations};

/// A reading under way; dropped, it ends.
#[derive(Debug)]
pub(super) struct Ahead {
    /// By the wall clock.
    began: Timestamp,
    reading: JoinSet<Result<Revocations, BackendError>>,
}

impl Ahead {
    /// Begins, by the wall clock. On a runtime.
    pub(super) fn begin(backends: &Backends, config: &WorkerConfig, wall: &dyn Clock) -> Self {
        let (store, namespace) = (backends.revokes.clone(), config.namespace.clone());
        let grace = config.terminate_grace;
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            let mut known = Revocations::new(namespace.clone());
            let take = |change| {
                known.follow(with_default_grace(grace, change));
            };
            revocations::read(&store, &namespace, Version::default(), take).await?;
            Ok(known)
        });
        Self { began: wall.now(), reading }
    }

    /// When it began, and what it has read. Nothing where it failed: the reading that counts finds out why.
    pub(super) async fn end(mut self) -> Option<(Timestamp, Revocations)> {
        let known = self.reading.join_next().await?.ok()?.ok()?;
        Some((self.began, known))
    }
}
