//! The memory backend held to the contract through faults: calls that are delayed, that do not arrive and are made
//! again, and that are made twice. See `Faulty` for which of these change what.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stem_conformance::{Backends, Faults, FaultyHarness, Harness, ManualClock};
use stem_core::backend::Records;
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

fn through(faults: Faults) -> FaultyHarness<InMemory> {
    let clock = ManualClock::new();
    let inner = InMemory { memory: Memory::new(clock.clone()), clock };
    FaultyHarness::new(inner, faults)
}

/// All suites through these faults.
macro_rules! suites {
    ($name:ident, $faults:expr) => {
        mod $name {
            use super::*;

            async fn harness() -> FaultyHarness<InMemory> {
                through($faults)
            }

            stem_conformance::every_suite!(harness);
        }
    };
}

suites!(some_of_each, Faults::unnoticed(1));
suites!(every_write_twice, Faults::twice());

#[tokio::test]
async fn no_random_sequence_gets_a_stale_operation_accepted() {
    let harness = through(Faults::unnoticed(2));
    let refused = stem_conformance::model::fencing_holds(&harness, 200).await;
    let injected = harness.faulty().injected();
    println!("{refused} stale operations refused, 0 accepted; {injected:?}");
    assert!(injected.failed > 100 && injected.duplicated > 100, "{injected:?}");
}

/// Else the suites could pass because nothing is ever disturbed.
#[tokio::test]
async fn a_call_through_the_harness_meets_faults() {
    let harness = through(Faults::unnoticed(1));
    let backends = harness.connect().await;
    for n in 0..100 {
        let id = TaskId::new(format!("t{n}")).unwrap();
        let (queue, name) = (QueueName::new("q").unwrap(), TaskName::new("job").unwrap());
        let envelope = stem_conformance::stand_in(&harness, &queue, &id, &name);
        backends.broker.publish(&[envelope], Records::Here).await.unwrap();
    }
    let injected = harness.faulty().injected();
    assert!(injected.delayed > 0 && injected.failed > 0 && injected.duplicated > 0, "{injected:?}");
    assert_eq!(harness.faulty().calls("broker.publish"), 100 + injected.failed);
}
