//! Hostile guests, one attack a test. Each ends with the right outcome, and then the sandbox runs a good task.

mod arguments;
mod endless;
mod floods;
mod memory;
mod panics;
mod table;

use crate::bench::{Bench, When, assert_preempted};

pub(crate) const LOOP: &str = "(loop $again (br $again)) (unreachable)";

pub(crate) async fn stopped_while_computing(text: &str) {
    let bench = Bench::new();
    let module = bench.load(text).await;
    assert_preempted(&bench.run_and_stop(&module, When::Computing).await);
}
