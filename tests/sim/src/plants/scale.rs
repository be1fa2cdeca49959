//! Bugs in how many run at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stem_core::backend::broker::QueueStatus;
use stem_engine::{AutoscaleRules, WorkerConfig};

use crate::dice::Dice;
use crate::plan::Plan;
use crate::tap::{Answer, Mischief};

/// Sees now a thousand tasks that wait, now none.
#[derive(Debug)]
struct Flaps(AtomicBool);

pub(super) fn flaps(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(Flaps(AtomicBool::new(false)))
}

impl Mischief for Flaps {
    fn queues(&self, answer: &mut Answer<Vec<QueueStatus>>) {
        let many = !self.0.fetch_xor(true, Ordering::Relaxed);
        for queue in answer.iter_mut().flatten() {
            queue.ready = if many { 1_000 } else { 0 };
        }
    }
}

/// Changes its mind at once.
pub(super) fn restless(config: &mut WorkerConfig) {
    if let Some(rules) = &mut config.autoscale {
        rules.tick = Duration::from_millis(100);
        rules.idle_period = Duration::from_millis(1);
        rules.scale_up_cooldown = Duration::from_millis(1);
        rules.scale_down_cooldown = Duration::from_millis(1);
    }
}

/// A first worker that scales, declared to do so slowly, and few tasks.
pub(super) fn scales(plan: &mut Plan) {
    super::calm(plan);
    for worker in &mut plan.workers {
        worker.concurrency = worker.concurrency.max(4);
        let rules = AutoscaleRules {
            tick: Duration::from_millis(500),
            idle_period: Duration::from_secs(1),
            scale_up_cooldown: Duration::from_secs(2),
            scale_down_cooldown: Duration::from_secs(2),
            ..AutoscaleRules::between(1, worker.concurrency)
        };
        worker.autoscale = Some(rules);
    }
}

/// Runs more than is declared.
pub(super) fn boundless(config: &mut WorkerConfig) {
    config.concurrency *= 2;
    config.prefetch = config.prefetch.max(config.concurrency);
    if let Some(rules) = &mut config.autoscale {
        rules.max = config.concurrency;
        rules.scale_up_step = config.concurrency;
    }
}
