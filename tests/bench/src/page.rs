//! The page of the documentation that shows the kept run: each figure with a goal, and why the missed ones are missed.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use stem_services::marked;

use crate::record::Run;
use crate::table::number;

/// Between these marks stands what is written here; the rest is written by hand.
const NAME: &str = "bench";

pub(crate) fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.md"))
}

/// Puts the run into the page.
pub(crate) fn write(run: &Run) -> anyhow::Result<()> {
    let page = std::fs::read_to_string(path())?;
    let page = marked::with(&page, NAME, &render(run)).context("it has no place for a run")?;
    Ok(std::fs::write(path(), page)?)
}

/// The machine, and a row for each figure that has a goal.
fn render(run: &Run) -> String {
    let mut text = format!(
        "```text\n{}\n```\n\n| part | what | figure | goal | |\n|---|---|---|---|---|\n",
        run.machine.lines()
    );
    for figure in &run.figures {
        let Some(goal) = figure.goal else { continue };
        let verdict = if goal.is_met(figure.value) { "met" } else { "**missed**" };
        let (value, unit) = (number(figure.value), &figure.unit);
        let _ = writeln!(
            text,
            "| {} | {} | {value} {unit} | {goal} | {verdict} |",
            figure.group, figure.what
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Row, row};
    use crate::machine::Machine;

    fn run(rows: Vec<Row>) -> Run {
        let mut run = Run { machine: Machine { cores: 2, ..Machine::default() }, figures: vec![] };
        run.add("group", rows).unwrap();
        run
    }

    #[test]
    fn what_has_a_goal_has_a_row_with_its_verdict() {
        let text = render(&run(vec![
            row("a", 4.0, "ms").at_most(5.0),
            row("b", 1.5, "×").at_least(2.0),
            row("c", 1.0, "ms"),
        ]));
        assert!(text.starts_with("```text\ncores              2\n```\n"), "{text}");
        assert!(text.ends_with(
            "| group | a | 4.00 ms | ≤ 5 | met |\n| group | b | 1.50 × | ≥ 2 | **missed** |\n"
        ));
    }

    #[test]
    fn the_page_shows_the_run_that_is_kept_and_a_reason_for_each_goal_that_it_misses() {
        let page = std::fs::read_to_string(path()).unwrap();
        let part = marked::part(&page, NAME).expect("it has a place for a run");
        if !crate::kept().is_file() {
            assert_eq!(part, "No whole run is kept yet.\n");
            return;
        }
        let kept = Run::read(&crate::kept()).unwrap();
        assert_eq!(part, render(&kept), "cargo xtask bench --save");
        let reasons = page.split("## What is missed").nth(1).expect("it has that part");
        for figure in kept.figures {
            let is_missed = figure.goal.is_some_and(|goal| !goal.is_met(figure.value));
            let row = format!("| {} |", figure.what);
            assert!(!is_missed || reasons.contains(&row), "no reason why it is missed: {row}");
        }
    }
}
