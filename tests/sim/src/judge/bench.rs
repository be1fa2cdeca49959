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

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let asked = self.asked.iter().map(|(rule, count)| (format!("rule.{rule}"), *count));
        let excused = self.excused.iter().map(|(rule, count)| (format!("excuse.{rule}"), *count));
        let seen = self.seen.iter().map(|(what, count)| (format!("seen.{what}"), *count));
        asked.chain(excused).chain(seen).collect()
    }
}
