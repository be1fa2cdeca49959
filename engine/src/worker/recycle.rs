//! Prepares a module anew after so many attempts, or after one that took much memory.
//!
//! Every attempt has a store of its own, so nothing of a guest is left to be cleaned up. What is kept between attempts
//! is the prepared module: its compiled code, its memory image, and the places of the pool in which that image stays
//! mapped. All of that goes when the last attempt on the old one ends; new attempts begin on the new one. Native
//! handlers keep threads instead, and get new ones.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stem_core::observe::Seen;

use super::handler::{Handler, Serving};
use super::shared::{Counters, Shared};

/// An attempt waits no longer for a module that is prepared anew, and begins on the worn one: its lease runs meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// When to recycle; absent means never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Guards {
    pub(super) max_tasks: Option<u64>,
    pub(super) max_memory_bytes: Option<u64>,
}

/// Why a module is prepared anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    MaxTasks,
    MaxMemory,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::MaxTasks => "max-tasks",
            Self::MaxMemory => "max-memory",
        }
    }
}

/// What the guards need beside the modules, which count for themselves.
#[derive(Debug, Default)]
pub(super) struct Recycling {
    guards: Guards,
    /// Attempts begun on the threads that native handlers have now.
    inline: Mutex<u64>,
    /// One at a time: whoever comes second finds the work done.
    turn: tokio::sync::Mutex<()>,
}

impl Recycling {
    pub(super) fn new(guards: Guards) -> Self {
        Self { guards, ..Self::default() }
    }

    /// Counts an attempt, unless this module has begun all it may.
    fn count(&self, module: &Serving) -> bool {
        let most = self.guards.max_tasks.unwrap_or(u64::MAX);
        let more = |begun: u64| (begun < most).then(|| begun + 1);
        module.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// An attempt that was counted did not begin after all.
    fn take_back(&self, module: &Serving) {
        if self.guards.max_tasks.is_some() {
            let fewer = |begun: u64| Some(begun.saturating_sub(1));
            let _ = module.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        }
    }

    fn is_worn(&self, module: &Serving) -> bool {
        self.guards.max_tasks.is_some_and(|most| module.begun.load(Ordering::Relaxed) >= most)
    }
}

/// Before an attempt: the handler to begin it on, which has not begun more attempts than it may.
pub(super) async fn before(shared: &Shared, handler: Handler) -> Handler {
    if shared.recycling.guards.max_tasks.is_none() || shared.draining().is_some() {
        return handler;
    }
    match &handler {
        Handler::Inline(_) => {
            renew_threads_if_worn(shared);
            handler
        }
        Handler::Isolate(worn) => {
            let counted = async {
                let mut module = Arc::clone(worn);
                while !shared.recycling.count(&module) {
                    module = renew(shared, &module, Reason::MaxTasks).await;
                }
                module
            };
            if let Ok(module) = tokio::time::timeout(PATIENCE, counted).await {
                return Handler::Isolate(module);
            }
            tracing::warn!(task = %worn.name, "the module takes long to be prepared anew; an attempt begins on the worn one");
            handler
        }
    }
}

/// After an attempt, before its place is free: what it began on is replaced if it is worn by now. One that never ran
/// does not count.
pub(super) async fn after(shared: &Shared, handler: &Handler, ran: bool, peak_memory_bytes: u64) {
    let Handler::Isolate(module) = handler else { return };
    let recycling = &shared.recycling;
    if !ran {
        recycling.take_back(module);
        return;
    }
    if shared.draining().is_some() {
        return;
    }
    let too_large = recycling.guards.max_memory_bytes.is_some_and(|most| peak_memory_bytes >= most);
    let reason = match (too_large, recycling.is_worn(module)) {
        (true, _) => Reason::MaxMemory,
        (false, true) => Reason::MaxTasks,
        (false, false) => return,
    };
    if tokio::time::timeout(PATIENCE, renew(shared, module, reason)).await.is_err() {
        tracing::warn!(task = %module.name, "the module takes long to be prepared anew; the next attempt tries again");
    }
}

/// Puts a module prepared anew in the place of this one, unless another is there by now; answers what is there. One that
/// cannot be prepared anew goes on as if it were new: a worker that serves from a worn module is better than one that
/// does not serve. Dropped in the middle it has changed nothing.
async fn renew(shared: &Shared, worn: &Arc<Serving>, reason: Reason) -> Arc<Serving> {
    let _turn = shared.recycling.turn.lock().await;
    let runtime = match (shared.routes().now(worn), &shared.threads.isolates) {
        (Some(now), _) if !Arc::ptr_eq(&now, worn) => return now,
        (Some(_), Some(runtime)) => Arc::clone(runtime),
        // Out of service by now: what was taken is still served.
        _ => return worn.as_new(),
    };
    let module = Arc::clone(&worn.module);
    // Copying code and linking it is work, and this runtime renews leases.
    let prepared = tokio::task::spawn_blocking(move || runtime.prepare_anew(&module)).await;
    let problem = match prepared {
        Ok(Ok(module)) => {
            let fresh = worn.with_module(module);
            if shared.change_routes(|routes| routes.replace(worn, &fresh)) {
                let attempts = worn.begun.load(Ordering::Relaxed);
                Counters::count(&shared.counters.recycled);
                shared.observer.saw(Seen::Recycled { reason: reason.as_str() });
                tracing::info!(task = %worn.name, reason = reason.as_str(), attempts, "isolate recycled");
                return fresh;
            }
            // Somebody else has put another in its place meanwhile, for instance with fewer grants.
            return shared.routes().now(worn).unwrap_or(fresh);
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(task = %worn.name, problem, reason = reason.as_str(), "the module could not be prepared anew; the old one goes on");
    worn.as_new()
}

fn renew_threads_if_worn(shared: &Shared) {
    let Some(most) = shared.recycling.guards.max_tasks else { return };
    let mut begun = shared.recycling.inline.lock().unwrap_or_else(PoisonError::into_inner);
    if *begun >= most {
        match shared.threads.renew_inline() {
            Ok(()) => {
                Counters::count(&shared.counters.recycled);
                shared.observer.saw(Seen::Recycled { reason: Reason::MaxTasks.as_str() });
                tracing::info!(
                    reason = Reason::MaxTasks.as_str(),
                    attempts = *begun,
                    "threads of native handlers recycled"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "native handlers got no new threads; the old ones go on");
            }
        }
        *begun = 0;
    }
    *begun += 1;
}
