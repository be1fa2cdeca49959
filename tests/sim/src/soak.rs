//! [`soak`]: many seeds at once, and what to say of one that failed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::host;
use crate::judge::{Rule, Violation};
use crate::shrink::needed;
use crate::trace::Keep;
use crate::world::{Options, run};

/// Lines that are printed of a trace.
const LINES: usize = 60;

/// When it is enough.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Threads, each with a world of its own.
    pub threads: usize,
    /// No seed is begun after so long.
    pub time: Option<Duration>,
    /// None after so many have failed.
    pub failures: usize,
    /// Between two words about how it goes.
    pub word: Option<Duration>,
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Summary {
    /// So many ran.
    pub seeds: u64,
    /// Every seed below this one ran, of those that were to.
    pub done: u64,
    /// What happened how often, in all of them.
    pub counts: BTreeMap<String, u64>,
    /// What went wrong, by seed.
    pub failures: BTreeMap<u64, Violation>,
    /// How long all of it took.
    pub took: Duration,
    /// The slowest seed, and how long it took.
    pub slowest: (u64, Duration),
}

/// What the threads share.
struct Course {
    next: u64,
    /// Since when each thread runs which seed.
    running: Vec<Option<(u64, Instant)>>,
    last_word: Instant,
    summary: Summary,
}

/// Runs seeds, in their order, until the bounds end it.
pub fn soak(seeds: Range<u64>, bounds: &Bounds, options: &Options) -> Summary {
    let began = Instant::now();
    let threads = bounds.threads.max(1);
    let course = Mutex::new(Course {
        next: seeds.start,
        running: vec![None; threads],
        last_word: began,
        summary: Summary::default(),
    });
    let course =
        || -> MutexGuard<'_, Course> { course.lock().unwrap_or_else(PoisonError::into_inner) };
    let work = |thread: usize| {
        loop {
            let seed = {
                let mut course = course();
                let over = bounds.time.is_some_and(|most| began.elapsed() >= most);
                if over
                    || course.next >= seeds.end
                    || course.summary.failures.len() >= bounds.failures
                {
                    return;
                }
                course.next += 1;
                let seed = course.next - 1;
                course.running[thread] = Some((seed, Instant::now()));
                seed
            };
            let report = catch_unwind(AssertUnwindSafe(|| run(seed, options)));
            let mut course = course();
            course.running[thread] = None;
            let summary = &mut course.summary;
            summary.seeds += 1;
            match report {
                Ok(report) => {
                    for (what, count) in report.counts {
                        *summary.counts.entry(what).or_default() += count;
                    }
                    *summary.counts.entry("simulated seconds".to_owned()).or_default() +=
                        report.ended.0 / 1_000;
                    if report.took > summary.slowest.1 {
                        summary.slowest = (seed, report.took);
                    }
                    summary.failures.extend(report.violation.map(|violation| (seed, violation)));
                }
                Err(_) => {
                    summary.failures.insert(seed, broken());
                }
            }
            course.say(bounds, &seeds, began);
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        for thread in 0..threads {
            scope.spawn(move || work(thread));
        }
    });
    let mut summary = std::mem::take(&mut course().summary);
    summary.done = course().next;
    summary.took = began.elapsed();
    summary
}

/// Of a world that panicked itself.
fn broken() -> Violation {
    let words = host::leave_broken().unwrap_or_else(|| "the simulation panicked".to_owned());
    Violation { rule: Rule::Broke, at: crate::fact::Ms(0), task: None, caller: None, words }
}

impl Course {
    /// Says now and then how it goes, and which seed has run for longest: one that never ends is seen.
    fn say(&mut self, bounds: &Bounds, seeds: &Range<u64>, began: Instant) {
        if bounds.word.is_none_or(|word| self.last_word.elapsed() < word) {
            return;
        }
        self.last_word = Instant::now();
        let seconds = began.elapsed().as_secs_f64();
        let rate = u32::try_from(self.summary.seeds).map_or(f64::NAN, f64::from) / seconds;
        let oldest = self.running.iter().flatten().min_by_key(|(_, since)| *since);
        let oldest = oldest.map_or_else(String::new, |(seed, since)| {
            format!(", seed {seed} since {} ms", since.elapsed().as_millis())
        });
        eprintln!(
            "{:>9} of {} seeds in {seconds:.0} s, {rate:.1} a second{oldest}",
            self.summary.seeds,
            seeds.end - seeds.start
        );
    }
}

impl Summary {
    /// What is promised and never happened; in a few seeds much does not.
    pub fn missing(&self) -> Vec<&str> {
        self.counts
            .iter()
            .filter(|(_, count)| **count == 0)
            .map(|(what, _)| what.as_str())
            .collect()
    }

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
