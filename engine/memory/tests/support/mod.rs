//! The memory backend as the suites want it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_conformance::{Backends, Harness, ManualClock};
use stem_core::id::{QueueName, TaskId, TaskName};
use stem_core::time::{Clock, Timestamp};
use stem_memory::Memory;

/// A store with no data, by a clock that is moved by hand.
pub(crate) struct InMemory {
    clock: Arc<ManualClock>,
    memory: Arc<Memory>,
}

impl InMemory {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        Self { memory: Memory::new(clock.clone()), clock }
    }
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
        self.connect().await.results.record_queued(&[whole]).await.unwrap();
        self.memory.plant(queue.clone(), id.clone(), name.clone(), bytes.to_vec());
    }
}
