//! [`Bench`]: where rules say what they found, and where it is counted what was asked and what was excused.

use std::collections::BTreeMap;
use std::fmt;

use stem_core::id::TaskId;

use crate::fact::{Caller, Ms};

/// What must hold, by its number in the list of invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the table of `judge` says what each is about")]
pub enum Rule {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
    I11,
    I12,
    I13,
    I14,
    I15,
    I16,
    I17,
    I18,
    I19,
    I20,
    I21,
    I23,
    I24,
    I28,
    /// A part of a host panicked, or the simulation broke its own word.
    Broke,
}

impl Rule {
    /// Every one that is asked; what I5 asks about, a lease that ran out, is excused or wrong.
    const ASKED: [Self; 23] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I11,
        Self::I12,
        Self::I13,
        Self::I14,
        Self::I15,
        Self::I16,
        Self::I17,
        Self::I18,
        Self::I19,
        Self::I20,
        Self::I21,
        Self::I23,
        Self::I24,
        Self::I28,
    ];
    /// Those that excuse what has a reason.
    const EXCUSING: [Self; 8] =
        [Self::I5, Self::I8, Self::I14, Self::I16, Self::I17, Self::I21, Self::I23, Self::I24];
}

/// What is allowed, happens, and is worth a look when it no longer does.
const NOTED: [&str; 6] = [
    "leases lost",
    "leftover lives",
    "stale refused",
    "starts of a task that had started before",
    "innocents given up as poison",
    "inspections read",
];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Of this rule.
    pub rule: Rule,
    /// When it was found.
    pub at: Ms,
    /// About this task, if it is about one.
    pub task: Option<TaskId>,
    /// By this process, as far as that is known.
    pub caller: Option<Caller>,
    /// What happened.
    pub words: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} s: ", self.rule, self.at)?;
        if let Some(caller) = self.caller {
            write!(f, "{caller}: ")?;
        }
        f.write_str(&self.words)
    }
}

/// The first violation and the counts.
#[derive(Debug, Default)]
pub(super) struct Bench {
    at: Ms,
    caller: Option<Caller>,
    first: Option<Violation>,
    asked: BTreeMap<Rule, u64>,
    excused: BTreeMap<Rule, u64>,
    seen: BTreeMap<&'static str, u64>,
}

impl Bench {
    /// What is found from here on is found now, and is this one's doing.
    pub(super) fn turn_to(&mut self, at: Ms, caller: Option<Caller>) {
        self.at = at;
        self.caller = caller;
    }

    /// What must be true of a task. Only the first that is not is kept: the others may follow from it.
    pub(super) fn must(
        &mut self,
        rule: Rule,
        holds: bool,
        task: &TaskId,
        words: impl FnOnce() -> String,
    ) {
        *self.asked.entry(rule).or_default() += 1;
        if !holds {
            self.found(rule, Some(task), words());
        }
    }

    /// What must be true of everything.
    pub(super) fn must_be(&mut self, rule: Rule, holds: bool, words: impl FnOnce() -> String) {
        *self.asked.entry(rule).or_default() += 1;
        if !holds {
            self.found(rule, None, words());
        }
    }

    pub(super) fn found(&mut self, rule: Rule, task: Option<&TaskId>, words: String) {
        let (at, caller) = (self.at, self.caller);
        self.first.get_or_insert_with(|| Violation {
            rule,
            at,
            task: task.cloned(),
            caller,
            words,
        });
    }

    /// The rule would have asked, but something explains what it saw.
    pub(super) fn excuse(&mut self, rule: Rule) {
        *self.excused.entry(rule).or_default() += 1;
    }

    /// Something that is allowed, and that somebody wants to know.
    pub(super) fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(super) fn first(&self) -> Option<&Violation> {
        self.first.as_ref()
    }

    /// All counts; of what is promised also that it never was.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let promised = Rule::ASKED
            .map(|rule| format!("rule {rule}"))
            .into_iter()
            .chain(Rule::EXCUSING.map(|rule| format!("excuse {rule}")))
            .chain(NOTED.map(|what| format!("seen: {what}")));
        let mut counts: BTreeMap<String, u64> = promised.map(|what| (what, 0)).collect();
        let asked = self.asked.iter().map(|(rule, count)| (format!("rule {rule}"), *count));
        let excused = self.excused.iter().map(|(rule, count)| (format!("excuse {rule}"), *count));
        let seen = self.seen.iter().map(|(what, count)| (format!("seen: {what}"), *count));
        counts.extend(asked.chain(excused).chain(seen));
        counts
    }
}
