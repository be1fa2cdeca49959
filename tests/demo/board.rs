//! The tasks as an operator sees them, by `stem task show`. A line for each change; on a terminal also one line that
//! keeps changing.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::by_name;
use crate::programs::Stem;
use crate::tasks::Task;

/// Columns of the line that keeps changing; a longer one would not be wiped whole.
const COLUMNS: usize = 79;

/// What was last seen of each task.
pub(crate) struct Board<'a> {
    tasks: &'a [Task],
    records: BTreeMap<&'a str, Value>,
    /// State and quarters of the way, as they were last printed.
    printed: BTreeMap<&'a str, (String, u8)>,
    since: Instant,
    terminal: bool,
}

impl<'a> Board<'a> {
    pub(crate) fn new(tasks: &'a [Task]) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let since = Instant::now();
        Self { tasks, records: BTreeMap::new(), printed: BTreeMap::new(), since, terminal }
    }

    /// Asks for every task that has not ended, and prints what has changed.
    pub(crate) fn look(&mut self, stem: &Stem) -> Result<()> {
        for task in self.tasks {
            if self.records.get(task.name).is_some_and(is_final) {
                continue;
            }
            let shown = stem.run(["task", "show", &task.id, "--json"])?;
            let record: Value = serde_json::from_str(&shown).context("stem task show --json")?;
            let news = (state_of(&record).to_owned(), quarters(&record));
            let line = line(task.name, &record);
            self.records.insert(task.name, record);
            if self.printed.get(task.name) != Some(&news) {
                self.printed.insert(task.name, news);
                self.say(&line);
            }
        }
        self.redraw()
    }

    /// Prints a line that stays.
    pub(crate) fn say(&self, line: &str) {
        let wipe = if self.terminal { "\r\x1b[K" } else { "" };
        println!("{wipe}   {:>5.2} s  {line}", self.since.elapsed().as_secs_f64());
    }

    fn redraw(&self) -> Result<()> {
        if !self.terminal {
            return Ok(());
        }
        let mut running = Vec::new();
        for (name, record) in &self.records {
            if state_of(record) == "running" {
                running.push(format!("{name} {}", percent(record).unwrap_or_default()));
            }
        }
        let line: String =
            format!("            {}", running.join("· ")).chars().take(COLUMNS).collect();
        print!("\r\x1b[K{line}{}", if self.all_final() { "\r\x1b[K" } else { "" });
        std::io::stdout().flush().context("the terminal is gone")
    }

    pub(crate) fn all_final(&self) -> bool {
        self.records.len() == self.tasks.len() && self.records.values().all(is_final)
    }

    /// Empty before the first look.
    pub(crate) fn state(&self, name: &str) -> &str {
        self.records.get(name).map_or("", state_of)
    }

    pub(crate) fn id(&self, name: &str) -> &'a str {
        &by_name(self.tasks, name).id
    }

    /// In the order of the enqueues.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Value> {
        self.tasks.iter().filter_map(|task| self.records.get(task.name))
    }

    pub(crate) fn record(&self, name: &str) -> Result<&Value> {
        self.records.get(name).with_context(|| format!("{name} was never seen"))
    }
}

fn state_of(record: &Value) -> &str {
    record["state"].as_str().unwrap_or_default()
}

fn is_final(record: &Value) -> bool {
    matches!(state_of(record), "succeeded" | "failed" | "revoked" | "expired")
}

fn fraction(record: &Value) -> Option<f64> {
    record["progress"]["fraction"].as_f64()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction is 0 to 1")]
fn quarters(record: &Value) -> u8 {
    (fraction(record).unwrap_or(0.0) * 4.0) as u8
}

fn percent(record: &Value) -> Option<String> {
    fraction(record).map(|fraction| format!("{:3.0}% ", fraction * 100.0))
}

fn line(name: &str, record: &Value) -> String {
    let message = record["progress"]["message"].as_str().unwrap_or_default();
    let percent = percent(record).unwrap_or_default();
    format!("{name:<13} {:<9} {percent:>5} {message}", state_of(record)).trim_end().to_owned()
}
