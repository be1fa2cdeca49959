//! What became of each hostile input in this run: the page that lists them, with what the tests that it names came to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// The page, from the root of the project.
const PAGE: &str = "docs/hostile-input.md";

/// What tests came to, by the last part of their names. Of those that have one name all count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Came {
    ran: u32,
    failed: u32,
}

/// Writes the page with a column more to `table`, says how many lines it has, and fails if a test that it names did not run
/// or has failed. `report` is what the runner wrote, as `JUnit`.
pub(crate) fn end(root: &Path, report: &Path, table: &Path) -> Result<()> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (page, report) = (read(&root.join(PAGE))?, read(report)?);
    let tests = came(&report);
    let (text, lines, bad) = with_outcomes(&page, &tests);
    fs::write(table, text).with_context(|| format!("cannot write {}", table.display()))?;
    println!("hostile inputs: {lines} lines of {PAGE}, as this run saw them: {}", table.display());
    ensure!(bad.is_empty(), "{PAGE} names tests that failed or did not run: {}", bad.join(", "));
    Ok(())
}

fn came(report: &str) -> BTreeMap<&str, Came> {
    let mut tests: BTreeMap<&str, Came> = BTreeMap::new();
    for case in report.split("<testcase ").skip(1) {
        let Some(name) = case.split("name=\"").nth(1).and_then(|rest| rest.split('"').next())
        else {
            continue;
        };
        let came = tests.entry(name.rsplit("::").next().unwrap_or(name)).or_default();
        came.ran += 1;
        let case = case.split("</testcase>").next().unwrap_or(case);
        came.failed += u32::from(case.contains("<failure") || case.contains("<error"));
    }
    tests
}

/// The page, how many lines have tests, and the tests that failed or did not run.
fn with_outcomes(page: &str, tests: &BTreeMap<&str, Came>) -> (String, usize, Vec<String>) {
    let (mut text, mut lines, mut bad) = (String::new(), 0, Vec::new());
    // Other tables than those that name tests are what tests compare with what they see.
    let mut names_tests = false;
    for line in page.lines() {
        text.push_str(line);
        if line.ends_with(" | shown by |") {
            names_tests = true;
            text.push_str(" in this run |");
        } else if !line.starts_with('|') {
            names_tests = false;
        } else if names_tests && line.starts_with("|---") {
            text.push_str("---|");
        } else if names_tests {
            lines += 1;
            let shown = line.rsplit(" | ").next().unwrap_or_default();
            let _ = write!(text, " {} |", outcome(shown, tests, &mut bad));
        }
        text.push('\n');
    }
    (text, lines, bad)
}

/// What the tests that a cell names came to.
fn outcome(shown: &str, tests: &BTreeMap<&str, Came>, bad: &mut Vec<String>) -> String {
    let (mut passed, mut wrong) = (0, Vec::new());
    for name in shown.split('`').skip(1).step_by(2) {
        match tests.get(name) {
            Some(came) if came.failed == 0 => passed += came.ran,
            Some(came) => wrong.push(format!("`{name}` failed {} times", came.failed)),
            None => wrong.push(format!("`{name}` did not run")),
        }
    }
    bad.extend_from_slice(&wrong);
    if passed > 0 {
        wrong.push(format!("{passed} passed"));
    }
    wrong.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<testsuite name="a"><testcase name="x::good" classname="a" time="0.1">
    </testcase><testcase name="bad" classname="a"><failure type="test failure"/></testcase>
    <testcase name="y::good" classname="b"/></testsuite>"#;

    #[test]
    fn a_report_is_read_by_the_last_part_of_names() {
        let tests = came(REPORT);
        assert_eq!(tests["good"], Came { ran: 2, failed: 0 });
        assert_eq!(tests["bad"], Came { ran: 1, failed: 1 });
    }

    #[test]
    fn each_line_says_what_its_tests_came_to() {
        let page = "## Of\n| what comes | what becomes of it | shown by |\n|---|---|---|\n| one | refused | `good` |\n\
                    | two | nothing is | |\n| three | ended | `bad`, `good`, `gone` |\n\n| read as | what | answer |\n|---|---|---|\n| a | b | `c` |\n";
        let (text, lines, bad) = with_outcomes(page, &came(REPORT));
        let said: Vec<&str> = text.lines().collect();
        assert_eq!(said[1], "| what comes | what becomes of it | shown by | in this run |");
        assert_eq!(said[2], "|---|---|---|---|");
        assert_eq!(said[3], "| one | refused | `good` | 2 passed |");
        assert!(said[5].ends_with("| `bad` failed 1 times, `gone` did not run, 2 passed |"));
        assert_eq!((said[8], said[9]), ("|---|---|---|", "| a | b | `c` |"));
        assert_eq!((lines, bad.len()), (3, 2), "{text}");
    }
}
