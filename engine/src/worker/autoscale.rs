//! Grows and shrinks the number of places with the backlog. The decision is the core's; this reads and obeys.

use std::sync::Arc;

use stem_core::backend::BackendError;
use stem_core::control::WorkerState;
use stem_core::machine::autoscale::{Autoscale, Decision, Rules, Sample};
use stem_core::observe::Service;

use super::shared::Shared;

/// Decides at every tick until dropped. A worker that drains takes nothing, so nothing is decided any more.
pub(super) async fn run(shared: Arc<Shared>, rules: Rules) {
    let tick = rules.tick;
    let mut scale = Autoscale::new(rules);
    loop {
        tokio::time::sleep(tick).await;
        if shared.worker_state() != WorkerState::Running {
            continue;
        }
        // A backend bounds its calls, and a look that comes late is a later look.
        let depth = depth(&shared).await;
        let sample = Sample {
            now: shared.now(),
            depth: depth.as_ref().ok().copied(),
            inflight: shared.inflight(),
        };
        let from = scale.current();
        let decision = scale.decide(sample);
        let inflight = sample.inflight;
        match decision {
            Decision::Up(to) | Decision::Down(to) => {
                shared.slots.set_limit(to);
                tracing::info!(from, to, depth = sample.depth, inflight, "concurrency changed");
            }
            Decision::Hold(why) => {
                let error = depth.err();
                let error = error.as_ref().map(tracing::field::display);
                tracing::debug!(
                    at = from,
                    why = why.as_str(),
                    depth = sample.depth,
                    inflight,
                    error,
                    "concurrency stays"
                );
            }
        }
    }
}

/// Deliveries that this worker could take if it had a place: what waits in a paused queue, or for a name that it does
/// not know, is not among them.
pub(super) async fn depth(shared: &Shared) -> Result<u64, BackendError> {
    let looked = shared.backends.broker.queues().await;
    let queues = looked.inspect_err(|error| shared.saw_failure(Service::Broker, error))?;
    shared.note_depths(&queues);
    let known = shared.names();
    let ours = queues
        .iter()
        .filter(|queue| shared.config.queues.contains(&queue.name) && queue.paused.is_none());
    let names = ours.flat_map(|queue| &queue.names);
    Ok(names.filter(|(name, _)| known.binary_search(name).is_ok()).map(|(_, count)| count).sum())
}
