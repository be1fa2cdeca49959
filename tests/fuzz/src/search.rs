//! Looks for an input of which something does not hold: the corpus, then what the [`Mutator`] makes of it and of whatever
//! was answered in a way that had not been seen.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::mutate::Mutator;
use crate::{Met, Target};

/// What a search came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many inputs were tried.
    pub runs: u64,
    /// How many of them were read.
    pub read: u64,
    /// How many ways there were to answer.
    pub answers: usize,
}

/// An input of which something does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// As short as it was made.
    pub input: Vec<u8>,
    /// What was said.
    pub problem: String,
    /// How many inputs had been tried.
    pub runs: u64,
}

/// Inputs that are kept; the memory of a search is these, and the time to choose among them.
const KEPT: usize = 4_000;
/// Longer ones are tried, and not built upon.
const KEPT_BYTES: usize = 8 << 10;
/// Attempts at making a finding shorter.
const SHRINKS: usize = 2_000;

/// Tries the corpus, which is not empty, and then what comes of it until `enough` says so of the number of inputs. The
/// same seed gives the same inputs.
pub fn search(
    target: &Target,
    corpus: Vec<Vec<u8>>,
    seed: u64,
    mut enough: impl FnMut(u64) -> bool,
) -> Result<Report, Finding> {
    let mut mutator = Mutator::new(seed, target.words);
    let mut seen = HashSet::new();
    let mut report = Report::default();
    let mut waiting = corpus.clone().into_iter();
    let seeds = corpus.len();
    let mut pool = corpus;
    loop {
        let (input, is_kept) = match waiting.next() {
            Some(input) => (input, true),
            None if enough(report.runs) => return Ok(report),
            None => (mutator.next(&pool, seeds), false),
        };
        report.runs += 1;
        let met = attempt(target, &input).map_err(|problem| Finding {
            input: shrunk(target, input.clone()),
            problem,
            runs: report.runs,
        })?;
        report.read += u64::from(matches!(met, Met::Read(_)));
        if seen.insert(outline(met)) {
            report.answers += 1;
            if !is_kept && pool.len() < KEPT && input.len() <= KEPT_BYTES {
                pool.push(input);
            }
        }
    }
}

/// An answer without what it repeats of the input: numbers, and what stands in quotes.
fn outline(met: Met) -> String {
    let (word, words) = match met {
        Met::Read(words) => ("read ", words),
        Met::Refused(words) => ("refused ", words),
    };
    let mut outline = word.to_owned();
    let mut quoted = false;
    for letter in words.chars() {
        if matches!(letter, '"' | '`') {
            quoted = !quoted;
        } else if !quoted && !letter.is_ascii_digit() {
            outline.push(letter);
        }
    }
    outline.truncate(outline.floor_char_boundary(100));
    outline
}

thread_local! {
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Says nothing of panics that are a search's own business.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            if !SILENT.get() {
                usual(panicked);
            }
        }));
    });
    SILENT.set(true);
}

/// What is made of an input, or what its panic says.
fn attempt(target: &Target, input: &[u8]) -> Result<Met, String> {
    silence();
    let met = panic::catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    SILENT.set(false);
    met.map_err(|panicked| words_of(panicked.as_ref()))
}

fn words_of(panicked: &(dyn Any + Send)) -> String {
    let text = panicked.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panicked.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

/// The same finding with less around it: parts are left out, large ones first, while something still does not hold.
fn shrunk(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut left = SHRINKS;
    let mut size = input.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < input.len() && left > 0 {
            left -= 1;
            let to = (from + size).min(input.len());
            let shorter = [&input[..from], &input[to..]].concat();
            if attempt(target, &shorter).is_err() {
                input = shorter;
            } else {
                from = to;
            }
        }
        size /= 2;
    }
    input
}
