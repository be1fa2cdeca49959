//! Picks up changed modules and a changed policy without a restart. Attempts that run keep the module they began with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stem_isolate::IsolateRuntime;

use super::handler::{Handler, Serving};
use super::shared::Shared;
use crate::modules;

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Watches a directory until dropped.
pub(super) async fn watch(shared: Arc<Shared>, runtime: Arc<IsolateRuntime>, dir: PathBuf) {
    let mut seen = modules::fingerprint(&dir);
    let mut policy = shared.config.policy.subscribe();
    loop {
        // Cancel-safe, both: a change that is missed here is seen by the next look.
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            Ok(()) = policy.changed() => {
                apply_policy(&shared);
                if shared.routes().classes().are_some() {
                    // Other names may be ours now.
                    reload(&shared, &runtime, &dir).await;
                }
                continue;
            }
        }
        let now = modules::fingerprint(&dir);
        if now == seen {
            continue;
        }
        // A file that is being written changes again; it is read when it has been still for one look.
        tokio::time::sleep(LOOK).await;
        if modules::fingerprint(&dir) != now {
            continue;
        }
        seen = now;
        reload(&shared, &runtime, &dir).await;
    }
}

/// Modules get what the policy gives them now. Nothing is read for that: what was taken away must not stay because a
/// file cannot be read.
fn apply_policy(shared: &Shared) {
    let (policy, cap) = (shared.config.policy.current(), &shared.config.limits_cap);
    shared.change_routes(|routes| {
        let mut local = std::collections::BTreeMap::clone(&routes.local());
        for handler in local.values_mut() {
            if let Handler::Isolate(serving) = handler
                && let Some(fresh) = serving.with_policy(&policy, cap)
            {
                *serving = fresh;
            }
        }
        routes.set_local(local);
    });
}

async fn reload(shared: &Shared, runtime: &IsolateRuntime, dir: &std::path::Path) {
    let found = match modules::find(dir) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the modules have changed and cannot be read; the old ones stay");
            return;
        }
    };
    let policy = shared.config.policy.current();
    let (old, classes) = {
        let routes = shared.routes();
        (routes.local(), routes.classes().clone())
    };
    let mut new: std::collections::BTreeMap<_, _> = old
        .iter()
        .filter(|(_, handler)| matches!(handler, Handler::Inline(_)))
        .map(|(name, handler)| (name.clone(), handler.clone()))
        .collect();
    for (name, found) in found.iter().filter(|(name, _)| classes.serve(name)) {
        let before = match old.get(name) {
            Some(Handler::Isolate(before)) => Some(before),
            _ => None,
        };
        let loaded = modules::load_found(runtime, found, &policy, &shared.config.limits_cap);
        match loaded.await {
            Ok(handler) => {
                if before.is_none_or(|before| before.module.digest() != handler.module.digest()) {
                    tracing::info!(task = %name, digest = %handler.module.digest(), "module loaded");
                }
                let serving = Serving::of_directory(handler, Arc::new(found.manifest.clone()));
                new.insert(name.clone(), Handler::Isolate(serving));
            }
            Err(error) => {
                tracing::warn!(task = %name, %error, "a changed module is refused; the old one stays, if there was one");
                if let Some(before) = before {
                    new.insert(name.clone(), Handler::Isolate(Arc::clone(before)));
                }
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        tracing::info!(task = %name, "module removed, or of another trust class; its tasks wait for a worker that has it");
    }
    shared.change_routes(|routes| routes.set_local(new));
    shared.routes_changed.notify_one();
}
