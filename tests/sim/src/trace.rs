//! [`Trace`]: the facts of a run, as a hash or as text.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stem_core::id::TaskId;

use crate::fact::{Caller, Fact, HostId, Ms};

/// How much of a run is kept. To write facts down costs more than to judge them, and a run can be repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    #[default]
    Nothing,
    /// A hash of all facts, in their order.
    Hash,
    /// The hash and every fact.
    All,
}

type Line = (Ms, Option<Caller>, Fact);

/// The facts of one run. Clones share them.
#[derive(Clone, Debug)]
pub struct Trace {
    keep: Keep,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    hash: Fnv,
    lines: Vec<Line>,
}

/// FNV-1a, of whatever is written into it.
#[derive(Debug)]
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl Trace {
    /// An empty one.
    pub fn new(keep: Keep) -> Self {
        let inner = Inner { hash: Fnv(0xcbf2_9ce4_8422_2325), lines: Vec::new() };
        Self { keep, inner: Arc::new(Mutex::new(inner)) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a fact.
    pub fn note(&self, at: Ms, caller: Option<Caller>, fact: &Fact) {
        if self.keep == Keep::Nothing {
            return;
        }
        let mut inner = self.inner();
        let _ = write!(inner.hash, "{at:?}{caller:?}{fact:?}");
        if self.keep == Keep::All {
            inner.lines.push((at, caller, fact.clone()));
        }
    }

    /// Of all facts so far; the same for two runs only if they were.
    pub fn hash(&self) -> u64 {
        self.inner().hash.0
    }

    /// Every fact, a line each.
    pub fn whole(&self) -> String {
        print(self.inner().lines.iter())
    }

    /// The last facts that say what a violation is about: of its task, and of what befell the hosts.
    pub fn about(&self, task: Option<&TaskId>, caller: Option<Caller>, most: usize) -> String {
        let inner = self.inner();
        let host = caller.map(|caller| caller.host);
        let told: Vec<&Line> =
            inner.lines.iter().filter(|line| is_about(line, task, host)).collect();
        print(told[told.len().saturating_sub(most)..].iter().copied())
    }
}

fn print<'a>(lines: impl Iterator<Item = &'a Line>) -> String {
    let mut text = String::new();
    for (at, caller, fact) in lines {
        let who = caller.map_or_else(|| "world".to_owned(), |caller| caller.to_string());
        let _ = writeln!(text, "{at:>9}  {who:<6} {fact:?}");
    }
    text
}

fn is_about((_, caller, fact): &Line, task: Option<&TaskId>, host: Option<HostId>) -> bool {
    let of_host = host.is_none() || caller.is_none_or(|caller| Some(caller.host) == host);
    match fact {
        Fact::Booted { .. }
        | Fact::Ready
        | Fact::Gone { .. }
        | Fact::Stopped(_)
        | Fact::Continued
        | Fact::Link { .. }
        | Fact::Service { .. }
        | Fact::Stepped(_)
        | Fact::DrainAsked { .. } => of_host,
        Fact::Phase(_) => true,
        Fact::Met { .. } | Fact::Heard(_) | Fact::Commanded { .. } => task.is_none() && of_host,
        _ => task.is_some_and(|task| {
            let named = format!("{fact:?}");
            named.contains(&format!("TaskId({:?})", task.as_str()))
        }),
    }
}
