//! Seeds in eight parts, so that several run at a time. `STEM_TEST_SEEDS` and `STEM_TEST_FIRST_SEED` say how many and from
//! where.

use stem_sim::Options;
use stem_sim::soak::{explain, soak};

/// So many seeds if nothing else is said: what an unoptimised build runs in a minute on two cores. `cargo xtask sim` runs
/// 2,000.
const SEEDS: u64 = 240;
const PARTS: u64 = 8;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn part(part: u64) {
    let (first, seeds) = (number("STEM_TEST_FIRST_SEED", 0), number("STEM_TEST_SEEDS", SEEDS));
    let size = seeds.div_ceil(PARTS);
    let begin = first + part * size;
    let end = (begin + size).min(first + seeds);
    let options = Options::default();
    let summary = soak(begin..end.max(begin), 1, &options);
    println!("seeds {begin}..{end}\n{}", summary.table());
    let said: Vec<String> =
        summary.failures.keys().take(1).map(|seed| explain(*seed, &options)).collect();
    assert!(said.is_empty(), "{} seeds failed:\n{}", summary.failures.len(), said.concat());
}

macro_rules! parts {
    ($($name:ident $part:literal),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                part($part);
            }
        )+
    };
}

parts! {
    every_rule_holds_in_the_first_eighth 0,
    every_rule_holds_in_the_second_eighth 1,
    every_rule_holds_in_the_third_eighth 2,
    every_rule_holds_in_the_fourth_eighth 3,
    every_rule_holds_in_the_fifth_eighth 4,
    every_rule_holds_in_the_sixth_eighth 5,
    every_rule_holds_in_the_seventh_eighth 6,
    every_rule_holds_in_the_last_eighth 7,
}
