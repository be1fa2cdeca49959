//! A seed is one run, whenever and wherever it is made.

use std::thread;

use stem_sim::trace::Keep;
use stem_sim::{Options, run};

fn hashes(seeds: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let options = Options { keep: Keep::Hash, ..Options::default() };
    seeds.map(|seed| (seed, run(seed, &options).trace.hash())).collect()
}

/// Twice, the second time the other way round, on another thread, while this one runs others.
#[test]
fn the_same_seed_is_the_same_run() {
    let other = thread::spawn(|| hashes((0..15).rev()));
    let first = hashes(0..15);
    let mut second = other.join().expect("the worlds of the other thread end");
    second.reverse();
    assert_eq!(first, second);
}
