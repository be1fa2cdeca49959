//! A run as it is kept: JSON with a line for each figure, so that a change of one is a change of one line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::bars;
use crate::figure::{Goal, RATIO, Row};
use crate::machine::Machine;

/// One figure of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) group: String,
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<Goal>,
}

impl Figure {
    /// The row of a group. Refuses what is no number, which JSON could not hold.
    pub(crate) fn new(group: &str, row: Row) -> anyhow::Result<Self> {
        let Row { what, value, unit, goal } = row;
        anyhow::ensure!(value.is_finite(), "{what} came to {value}");
        let value = rounded(value);
        Ok(Self { group: group.to_owned(), what, value, unit: unit.to_owned(), goal })
    }

    /// What names it in every run.
    fn key(&self) -> (&str, &str, &str) {
        (&self.group, &self.what, &self.unit)
    }
}

/// To four digits: no more of them were measured.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// The figures of one run, in the order in which they were measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) machine: Machine,
    pub(crate) figures: Vec<Figure>,
}

impl Run {
    /// Reads what [`write`](Self::write) wrote.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("{} cannot be read as a run", path.display());
        let text = std::fs::read(path).with_context(what)?;
        serde_json::from_slice(&text).with_context(what)
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, self.json()?)
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Takes the rows of a group, or none of them. Refuses two of one name, which no later run could tell apart.
    pub(crate) fn add(&mut self, group: &str, rows: Vec<Row>) -> anyhow::Result<()> {
        let figures = rows.into_iter().map(|row| Figure::new(group, row));
        let figures = figures.collect::<anyhow::Result<Vec<_>>>()?;
        let mut seen = BTreeSet::new();
        let twice = figures.iter().find(|figure| !seen.insert(figure.key()));
        if let Some(Figure { what, unit, .. }) = twice {
            anyhow::bail!("{what} in {unit} is there twice");
        }
        self.figures.extend(figures);
        Ok(())
    }

    /// Draws each group as SVG, into a folder that is made if it is not there.
    pub(crate) fn draw(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        for figures in self.figures.chunk_by(|one, next| one.group == next.group) {
            let group = &figures[0].group;
            bars::draw(&folder.join(format!("{group}.svg")), group, figures)?;
        }
        Ok(())
    }

    fn json(&self) -> anyhow::Result<String> {
        let figures: Result<Vec<String>, _> =
            self.figures.iter().map(serde_json::to_string).collect();
        // Facts of the machine a line each too, and everything in the order of the declarations.
        let machine = serde_json::to_string_pretty(&self.machine)?;
        Ok(format!(
            "{{\n\"machine\": {machine},\n\"figures\": [\n{}\n]\n}}\n",
            figures?.join(",\n")
        ))
    }
}

/// A run beside an earlier one.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    last: BTreeMap<(&'a str, &'a str, &'a str), f64>,
    /// In what the machines differ.
    pub(crate) differences: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(run: &Run, last: &'a Run) -> Self {
        Self {
            last: last.figures.iter().map(|figure| (figure.key(), figure.value)).collect(),
            differences: run.machine.differs_from(&last.machine),
        }
    }

    /// What the earlier run had for this figure.
    pub(crate) fn last(&self, figure: &Figure) -> Option<f64> {
        self.last.get(&figure.key()).copied()
    }

    /// This value over the earlier one, where that says something: on another machine only figures that are ratios
    /// themselves may be compared.
    pub(crate) fn ratio(&self, figure: &Figure) -> Option<f64> {
        let comparable = self.differences.is_empty() || figure.unit == RATIO;
        let last = self.last(figure).filter(|last| comparable && *last != 0.0)?;
        Some(figure.value / last)
    }

    /// What the earlier run had, of the groups in this one, and this one has not.
    pub(crate) fn missing(&self, run: &Run) -> Vec<&'a str> {
        let measured = |group: &str| run.figures.iter().any(|figure| figure.group == group);
        let has = |key: &(&str, &str, &str)| run.figures.iter().any(|figure| figure.key() == *key);
        let keys = self.last.keys().filter(|key| measured(key.0) && !has(key));
        keys.map(|(_, what, _)| *what).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::row;

    fn run(rows: impl IntoIterator<Item = Row>) -> Run {
        let figures = rows.into_iter().map(|row| Figure::new("group", row).unwrap()).collect();
        Run { machine: Machine { cores: 2, ..Machine::default() }, figures }
    }

    #[test]
    fn what_is_written_is_read_again_and_has_a_line_for_each_figure() {
        let one = run([
            row("a", 1.234_567, "ms").at_most(5.0),
            row("b", 11_850.4, "tasks/s"),
            row("c", 0.0, "s").at_least(0.5),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        one.write(&path).unwrap();
        assert_eq!(Run::read(&path).unwrap(), one);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| line.contains("\"what\"")).collect();
        let a = r#"{"group":"group","what":"a","value":1.235,"unit":"ms","goal":{"atMost":5.0}},"#;
        let b = r#"{"group":"group","what":"b","value":11850.0,"unit":"tasks/s"},"#;
        assert_eq!(lines[..2], [a, b]);
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_file_that_is_no_run_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        assert!(Run::read(&path).unwrap_err().to_string().contains("run.json"));
        std::fs::write(&path, "{}").unwrap();
        assert!(Run::read(&path).unwrap_err().to_string().contains("run.json"));
    }

    #[test]
    fn what_is_no_number_is_no_figure() {
        let error = Figure::new("group", row("a", f64::NAN, "ms")).unwrap_err();
        assert!(error.to_string().starts_with("a came to"), "{error}");
    }

    #[test]
    fn two_figures_of_one_name_are_refused() {
        let mut run = Run::default();
        run.add("one", vec![row("a", 1.0, "ms"), row("a", 1.0, "s")]).unwrap();
        run.add("two", vec![row("a", 1.0, "ms")]).unwrap();
        assert!(run.add("three", vec![row("a", 1.0, "ms"), row("a", 2.0, "ms")]).is_err());
        assert_eq!(run.figures.len(), 3);
    }

    #[test]
    fn figures_are_found_by_group_name_and_unit() {
        let last = run([row("a", 2.0, "ms"), row("gone", 1.0, "ms"), row("b", 0.0, "ms")]);
        let now = run([row("a", 3.0, "ms"), row("a", 3.0, "s"), row("b", 1.0, "ms")]);
        let comparison = Comparison::new(&now, &last);
        let seen: Vec<_> = now
            .figures
            .iter()
            .map(|figure| (comparison.last(figure), comparison.ratio(figure)))
            .collect();
        assert_eq!(seen, [(Some(2.0), Some(1.5)), (None, None), (Some(0.0), None)]);
        assert_eq!(comparison.missing(&now), ["gone"]);
    }

    #[test]
    fn what_was_not_measured_now_is_not_missing() {
        let last = run([row("a", 2.0, "ms")]);
        let now = Run { figures: Vec::new(), ..last.clone() };
        assert!(Comparison::new(&now, &last).missing(&now).is_empty());
    }

    #[test]
    fn on_another_machine_only_ratios_are_compared() {
        let rows = || [row("a", 2.0, "ms"), row("a over b", 1.0, RATIO)];
        let last = run(rows());
        let mut now = run(rows());
        now.machine.cores = 64;
        let comparison = Comparison::new(&now, &last);
        let ratios: Vec<_> = now.figures.iter().map(|figure| comparison.ratio(figure)).collect();
        assert_eq!(ratios, [None, Some(1.0)]);
        assert_eq!(comparison.differences, ["cores: 2 → 64"]);
    }
}
