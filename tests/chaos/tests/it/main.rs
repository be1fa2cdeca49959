//! Whole processes on servers of their own: killed, frozen, cut off, under load. The crate's documentation says how to
//! run the full counts.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

mod broadcast;
mod clocks;
mod family;
mod frozen;
mod storm;
mod trouble;

use stem_chaos::checker::Verdict;

/// A number that the environment may change.
fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a whole number"))
}

/// Prints the verdict; fails if there is anything that must not be.
#[track_caller]
fn must_hold(what: &str, verdict: &Verdict) {
    println!("{what}: {verdict}");
    assert!(verdict.violations.is_empty(), "{what}: {verdict}");
    count(verdict.counts.enqueued);
}

/// Tells whoever sums them how many tasks have been through.
fn count(tasks: usize) {
    stem_services::count("chaos", u64::try_from(tasks).unwrap());
}
