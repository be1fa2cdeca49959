//! Seeds on as many threads as there are cores. `STEM_TEST_SEEDS` and `STEM_TEST_FIRST_SEED` say how many and from where.

use std::thread::available_parallelism;

use stem_sim::Options;
use stem_sim::soak::{Bounds, explain, soak};

/// So many seeds if nothing else is said; in so many, everything happens that a plan promises.
const SEEDS: u64 = 2_000;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// One test and not several, so that its counts are those of all seeds.
#[test]
fn every_rule_holds_in_every_seed_and_everything_that_is_promised_happens() {
    let (first, seeds) = (number("STEM_TEST_FIRST_SEED", 0), number("STEM_TEST_SEEDS", SEEDS));
    let threads = available_parallelism().map_or(1, std::num::NonZero::get);
    let bounds = Bounds { threads, time: None, failures: 1, word: None };
    let options = Options::default();
    let summary = soak(first..first + seeds, &bounds, &options);
    println!("seeds {first}..{}\n{}", first + seeds, summary.table());
    if let Some(seed) = summary.failures.keys().next() {
        panic!("{}", explain(*seed, &options));
    }
    let missing = if seeds < SEEDS { Vec::new() } else { summary.missing() };
    stem_services::count("seeds", seeds);
    assert!(missing.is_empty(), "never happened in {seeds} seeds: {missing:?}");
}
