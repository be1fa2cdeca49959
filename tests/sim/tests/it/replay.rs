//! A seed is one run, whenever and wherever it is made.

use std::thread;

use stem_sim::plants::THROWS_DICE;
use stem_sim::trace::Keep;
use stem_sim::{Options, run};

const HASHED: Options = Options { plant: None, keep: Keep::Hash, off: stem_sim::plan::Kinds(0) };

fn hashes(options: Options, seeds: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    seeds.map(|seed| (seed, run(seed, &options).trace.hash())).collect()
}

/// Twice, the second time the other way round, on another thread, while this one runs others.
#[test]
fn the_same_seed_is_the_same_run() {
    let other = thread::spawn(|| hashes(HASHED, (0..15).rev()));
    let first = hashes(HASHED, 0..15);
    let mut second = other.join().expect("the worlds of the other thread end");
    second.reverse();
    assert_eq!(first, second);
}

/// Else the test above could not see anything.
#[test]
fn a_store_that_throws_dice_is_seen() {
    let options = Options { plant: Some(&THROWS_DICE), ..HASHED };
    assert_ne!(hashes(options, 0..3), hashes(options, 0..3));
}
