//! What stands in front of the simulated services keeps the contract: else the simulation would test something else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_conformance::{Backends, Harness, ManualClock};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::{Clock, Timestamp};
use stem_memory::Memory;
use stem_sim::dice::Dice;
use stem_sim::judge::Judge;
use stem_sim::plan::{Kinds, Plan};
use stem_sim::plants::by_name;
use stem_sim::tap::{Mischief, tap};
use stem_sim::trace::{Keep, Trace};
use stem_sim::witness::witness;

/// Services as a simulated server has them, by a clock that is moved by hand.
struct Simulated {
    clock: Arc<ManualClock>,
    memory: Arc<Memory>,
    stack: stem_engine::Backends,
}

impl Simulated {
    fn with(mischief: Option<Arc<dyn Mischief>>) -> Self {
        let clock = ManualClock::new();
        let memory = Memory::new(clock.clone());
        // It judges nothing here: the cases do things that no worker does, and only the first finding is kept.
        let plan = Plan::of_kinds(0, Kinds::default());
        let judge = Judge::shared(&plan, Trace::new(Keep::Nothing));
        let bare = stem_engine::Backends::all_in_one(Arc::clone(&memory));
        let stack = witness(tap(bare, mischief), &judge);
        Self { clock, memory, stack }
    }
}

#[async_trait]
impl Harness for Simulated {
    async fn connect(&self) -> Backends {
        let stack = self.stack.clone();
        Backends {
            broker: stack.broker,
            results: stack.results,
            revokes: stack.revokes,
            control: stack.control,
            presence: stack.presence,
            dead: stack.dead_letters,
            modules: stack.modules,
            buckets: stack.buckets,
        }
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.memory.poke();
    }

    fn set_back(&self, by: Duration) {
        self.clock.set_back(by);
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn plant_raw_envelope(
        &self,
        queue: &QueueName,
        id: &TaskId,
        name: &TaskName,
        bytes: &[u8],
    ) {
        let whole = stem_conformance::stand_in(self, queue, id, name);
        let stored = self.stack.results.record_queued(&[whole]).await;
        stored.expect("memory stores records");
        self.memory.plant(queue.clone(), id.clone(), name.clone(), bytes.to_vec());
    }
}

async fn harness() -> Simulated {
    Simulated::with(None)
}

stem_conformance::every_suite!(harness);

#[tokio::test]
async fn no_random_sequence_gets_a_stale_operation_accepted() {
    let refused = stem_conformance::model::fencing_holds(&harness().await, 500).await;
    assert!(refused > 1_000, "the sequences must try stale operations, not only {refused}");
}

/// Else the sequences above might try nothing that matters.
#[tokio::test]
#[should_panic(expected = "[Done]")]
async fn a_store_that_takes_stale_settlements_is_found() {
    let plant = by_name("takes-stale-settlements").expect("a plant");
    let harness = Simulated::with(Some((plant.make)(Dice::of(0, &[]))));
    stem_conformance::model::fencing_holds(&harness, 500).await;
}
