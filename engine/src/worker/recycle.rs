//! Prepares a module anew after so many attempts, or after one that took much memory.
//!
//! Every attempt has a store of its own, so nothing of a guest is left to be cleaned up. What is kept between attempts
//! is the prepared module: its compiled code, its memory image, and the places of the pool in which that image stays
//! mapped. All of that goes when the last attempt on the old one ends; new attempts begin on the new one. Native
//! handlers keep threads instead, and get new ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stem_core::id::TaskName;
use stem_isolate::Module;

use super::handler::Handler;
use super::shared::{Counters, Shared};
use crate::modules::ModuleHandler;

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

/// Attempts that one prepared module, or one set of threads, has begun.
#[derive(Debug)]
struct Served {
    module: Arc<Module>,
    begun: u64,
}

/// Counts attempts for the guards.
#[derive(Debug, Default)]
pub(super) struct Recycling {
    guards: Guards,
    modules: Mutex<HashMap<TaskName, Served>>,
    inline: Mutex<u64>,
    /// One at a time: whoever comes second finds the work done.
    turn: tokio::sync::Mutex<()>,
}

impl Recycling {
    pub(super) fn new(guards: Guards) -> Self {
        Self { guards, ..Self::default() }
    }

    fn modules(&self) -> MutexGuard<'_, HashMap<TaskName, Served>> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this prepared module has begun all the attempts it may.
    fn is_worn(&self, handler: &ModuleHandler) -> bool {
        let Some(most) = self.guards.max_tasks else { return false };
        self.modules().get(&handler.name).is_some_and(|served| {
            Arc::ptr_eq(&served.module, &handler.module) && served.begun >= most
        })
    }

    fn count(&self, handler: &ModuleHandler) {
        let mut modules = self.modules();
        let served = modules
            .entry(handler.name.clone())
            .or_insert_with(|| Served { module: Arc::clone(&handler.module), begun: 0 });
        if !Arc::ptr_eq(&served.module, &handler.module) {
            *served = Served { module: Arc::clone(&handler.module), begun: 0 };
        }
        served.begun += 1;
    }
}

/// Before an attempt: the handler to begin it on, which has not begun more attempts than it may.
pub(super) async fn before(shared: &Shared, handler: Handler) -> Handler {
    let recycling = &shared.recycling;
    if recycling.guards == Guards::default() {
        return handler;
    }
    match handler {
        Handler::Inline(inline) => {
            if let Some(most) = recycling.guards.max_tasks {
                let mut begun = recycling.inline.lock().unwrap_or_else(PoisonError::into_inner);
                if *begun >= most {
                    renew_threads(shared, most);
                    *begun = 0;
                }
                *begun += 1;
            }
            Handler::Inline(inline)
        }
        Handler::Isolate(mut handler) => {
            if recycling.is_worn(&handler) {
                handler = renew(shared, &handler, Reason::MaxTasks).await;
            }
            recycling.count(&handler);
            Handler::Isolate(handler)
        }
    }
}

/// After an attempt, before its place is free: what it began on is replaced if it is worn by now.
pub(super) async fn after(shared: &Shared, handler: &Handler, peak_memory_bytes: Option<u64>) {
    let Handler::Isolate(handler) = handler else { return };
    let recycling = &shared.recycling;
    let too_large = recycling
        .guards
        .max_memory_bytes
        .zip(peak_memory_bytes)
        .is_some_and(|(most, peak)| peak >= most);
    if too_large {
        renew(shared, handler, Reason::MaxMemory).await;
    } else if recycling.is_worn(handler) {
        renew(shared, handler, Reason::MaxTasks).await;
    }
}

/// Puts a module prepared anew in the place of this one, unless another is there by now; answers what is there. One that
/// cannot be prepared anew goes on: a worker that serves from a worn module is better than one that does not serve.
async fn renew(shared: &Shared, worn: &Arc<ModuleHandler>, reason: Reason) -> Arc<ModuleHandler> {
    let _turn = shared.recycling.turn.lock().await;
    match shared.handler(&worn.name) {
        Some(Handler::Isolate(now)) if Arc::ptr_eq(&now.module, &worn.module) => {}
        Some(Handler::Isolate(now)) => return now,
        // Out of service by now.
        Some(Handler::Inline(_)) | None => return Arc::clone(worn),
    }
    let Some(runtime) = &shared.threads.isolates else { return Arc::clone(worn) };
    let begun = shared.recycling.modules().remove(&worn.name).map_or(0, |served| served.begun);
    match runtime.prepare_anew(&worn.module).await {
        Ok(module) => {
            let fresh = Arc::new(ModuleHandler { module, ..(**worn).clone() });
            if shared.replace_module(worn, &fresh) {
                Counters::count(&shared.counters.recycled);
                tracing::info!(task = %worn.name, reason = reason.as_str(), attempts = begun, "isolate recycled");
            }
            fresh
        }
        Err(error) => {
            tracing::warn!(task = %worn.name, %error, reason = reason.as_str(), "the module could not be prepared anew; the old one goes on");
            Arc::clone(worn)
        }
    }
}

fn renew_threads(shared: &Shared, attempts: u64) {
    match shared.threads.renew_inline() {
        Ok(()) => {
            Counters::count(&shared.counters.recycled);
            tracing::info!(
                reason = Reason::MaxTasks.as_str(),
                attempts,
                "threads of native handlers recycled"
            );
        }
        Err(error) => {
            tracing::warn!(%error, "native handlers got no new threads; the old ones go on");
        }
    }
}
