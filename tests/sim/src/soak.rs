//! [`soak`]: many seeds at once, and what to say of one that failed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::judge::Violation;
use crate::shrink::needed;
use crate::trace::Keep;
use crate::world::{Options, run};

/// Lines that are printed of a trace.
const LINES: usize = 60;
/// After so many failures no further seed is begun.
const ENOUGH: usize = 10;

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    /// So many ran.
    pub seeds: u64,
    /// What happened how often, in all of them.
    pub counts: BTreeMap<String, u64>,
    /// What went wrong, by seed.
    pub failures: BTreeMap<u64, Violation>,
    /// How long all of it took.
    pub took: Duration,
    /// The slowest seed, and how long it took.
    pub slowest: (u64, Duration),
}

/// Runs seeds on so many threads.
pub fn soak(seeds: Range<u64>, threads: usize, options: &Options) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let report = run(seed, options);
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            summary.seeds += 1;
            for (what, count) in report.counts {
                *summary.counts.entry(what).or_default() += count;
            }
            *summary.counts.entry("simulated seconds".to_owned()).or_default() +=
                report.ended.0 / 1_000;
            if report.took > summary.slowest.1 {
                summary.slowest = (seed, report.took);
            }
            if let Some(violation) = report.violation {
                summary.failures.insert(seed, violation);
            }
            if summary.failures.len() >= ENOUGH {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.took = began.elapsed();
    summary
}

impl Summary {
    /// The counts, a line each, and how long it took.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (what, count) in &self.counts {
            let _ = writeln!(text, "{count:>12}  {what}");
        }
        let seeds = u32::try_from(self.seeds.max(1)).unwrap_or(u32::MAX);
        let _ = writeln!(
            text,
            "{:>12}  seeds in {:.1} s: {:.1} ms each, the slowest ({}) {} ms; {} failed",
            self.seeds,
            self.took.as_secs_f64(),
            self.took.as_secs_f64() * 1e3 / f64::from(seeds),
            self.slowest.0,
            self.slowest.1.as_millis(),
            self.failures.len(),
        );
        text
    }
}

/// What went wrong with a seed: the rule, what trouble it needs, and the last facts about it. Runs the seed again.
pub fn explain(seed: u64, options: &Options) -> String {
    let report = run(seed, &Options { keep: Keep::All, ..*options });
    let Some(violation) = report.violation else {
        return format!("seed {seed}: no rule is broken\n");
    };
    let needed = needed(seed, options).words().join(", ");
    let lines = report.trace.about(violation.task.as_ref(), violation.caller, LINES);
    format!(
        "seed {seed}: {violation}\n  needs: {needed}   again: cargo xtask sim --seed {seed}\n{lines}"
    )
}
