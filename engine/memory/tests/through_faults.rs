//! The memory backend held to the contract through faults: calls that are delayed, that do not arrive and are made
//! again, and that are made twice. See `Faulty` for which of these change what.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use stem_conformance::{Faults, FaultyHarness, Harness};
use stem_core::backend::Records;
use stem_core::id::{QueueName, TaskId, TaskName};

use support::InMemory;

fn through(faults: Faults) -> FaultyHarness<InMemory> {
    FaultyHarness::new(InMemory::new(), faults)
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
