//! The memory backend held to the contract.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod support;

use support::InMemory;

async fn harness() -> InMemory {
    InMemory::new()
}

stem_conformance::every_suite!(harness);

#[tokio::test]
async fn no_random_sequence_gets_a_stale_operation_accepted() {
    let refused = stem_conformance::model::fencing_holds(&harness().await, 20_000).await;
    println!("{refused} stale operations refused, 0 accepted");
    assert!(refused > 200_000, "the sequences must try stale operations, not only {refused}");
}
