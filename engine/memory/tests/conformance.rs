//! The memory backend held to the contract.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_conformance::{Backends, Harness, ManualClock};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::{Clock, Timestamp};
use stem_memory::Memory;

struct InMemory {
    clock: Arc<ManualClock>,
    memory: Arc<Memory>,
}

#[async_trait]
impl Harness for InMemory {
    async fn connect(&self) -> Backends {
        Backends::of(Arc::clone(&self.memory))
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.memory.poke();
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
        self.connect().await.results.record_queued(&[whole]).await.unwrap();
        self.memory.plant(queue.clone(), id.clone(), name.clone(), bytes.to_vec());
    }
}

async fn harness() -> InMemory {
    let clock = ManualClock::new();
    InMemory { memory: Memory::new(clock.clone()), clock }
}

stem_conformance::every_suite!(harness);

#[tokio::test]
async fn no_random_sequence_gets_a_stale_operation_accepted() {
    let refused = stem_conformance::model::fencing_holds(&harness().await, 5_000).await;
    println!("{refused} stale operations refused, 0 accepted");
    assert!(refused > 10_000, "the sequences must try stale operations, not only {refused}");
}
