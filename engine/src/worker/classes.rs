//! A worker that serves some trust classes only, so that a process of one class never holds another's code or credentials.

use std::collections::BTreeSet;
use std::sync::Arc;

use stem_core::id::{TaskName, TrustClass};

use super::config::WorkerConfig;
use super::shared::Shared;
use crate::policy::PolicyFile;

/// Which task names are a worker's, as the policy is at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    /// None: every name.
    ours: BTreeSet<TrustClass>,
    policy: Arc<PolicyFile>,
}

impl Classes {
    pub(super) fn of(config: &WorkerConfig) -> Self {
        let ours = config.classes.iter().cloned().collect();
        Self { ours, policy: Arc::clone(&config.policy) }
    }

    /// Whether tasks of this name are for this worker.
    pub(super) fn serve(&self, name: &TaskName) -> bool {
        self.ours.is_empty() || self.ours.contains(&self.policy.current().class(name))
    }

    /// Whether there are names that are not.
    pub(super) fn are_some(&self) -> bool {
        !self.ours.is_empty()
    }
}

/// Asks for other deliveries when the policy gives names to other classes, until dropped.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut policy = shared.config.policy.subscribe();
    while policy.changed().await.is_ok() {
        shared.change_routes(super::routes::Routes::draw_names);
        // What was not ours may have to be fetched now.
        shared.routes_changed.notify_one();
    }
}
