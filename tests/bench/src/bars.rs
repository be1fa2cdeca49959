//! A picture of a group: a bar for each figure, beside its goal if it has one.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

use crate::figure::Goal;
use crate::record::Figure;
use crate::table::number;

const WIDTH: i32 = 880;
const MARGIN: i32 = 16;
/// A line of words, and a bar below it.
const LINE: i32 = 34;
const BAR: i32 = 10;
/// Where a bar ends that just meets its goal, as a part of the longest.
const AT_GOAL: f64 = 0.6;
const MET: RGBColor = RGBColor(62, 142, 88);
const MISSED: RGBColor = RGBColor(196, 78, 82);
const FREE: RGBColor = RGBColor(150, 160, 175);

/// Draws as SVG. A bar with a goal is as long as the figure is in goals, and meets it by not passing the line; where more is
/// better it is the goal in figures. One without is as long as it is beside the largest of its unit.
pub(crate) fn draw(file: &Path, group: &str, figures: &[Figure]) -> anyhow::Result<()> {
    let height = 48 + LINE * i32::try_from(figures.len()).unwrap_or(0) + MARGIN;
    let area = SVGBackend::new(file, (pixels(WIDTH), pixels(height))).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        area.draw(&Text::new(group.to_owned(), (MARGIN, 14), ("sans-serif", 18)))?;
        for (place, figure) in (0..).zip(figures) {
            let top = 44 + place * LINE;
            let goal = figure.goal.map_or_else(String::new, |goal| format!(" (goal {goal})"));
            let words = format!("{}: {} {}{goal}", figure.what, number(figure.value), figure.unit);
            area.draw(&Text::new(words, (MARGIN, top), ("sans-serif", 12)))?;
            let colour = match figure.goal {
                None => FREE,
                Some(goal) if goal.is_met(figure.value) => MET,
                Some(_) => MISSED,
            };
            let end = along(length(figure, figures));
            let bar = [(MARGIN, top + 15), (end, top + 15 + BAR)];
            area.draw(&Rectangle::new(bar, colour.filled()))?;
            if figure.goal.is_some() {
                let at = along(AT_GOAL);
                let line = [(at, top + 13), (at, top + 17 + BAR)];
                area.draw(&PathElement::new(line, BLACK.stroke_width(2)))?;
            }
        }
        area.present()?;
        Ok(())
    };
    drawn()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("{} cannot be drawn", file.display()))
}

/// As a part of the longest bar.
fn length(figure: &Figure, figures: &[Figure]) -> f64 {
    let part = match figure.goal {
        Some(Goal::AtMost(bound)) => figure.value / bound * AT_GOAL,
        Some(Goal::AtLeast(bound)) => bound / figure.value * AT_GOAL,
        None => {
            let alike = figures.iter().filter(|other| other.unit == figure.unit);
            let free = alike.filter(|other| other.goal.is_none());
            figure.value / free.map(|other| other.value).fold(f64::MIN_POSITIVE, f64::max)
        }
    };
    if part.is_finite() { part.clamp(0.0, 1.0) } else { 1.0 }
}

#[expect(clippy::cast_possible_truncation, reason = "within the picture")]
fn along(part: f64) -> i32 {
    MARGIN + (part * f64::from(WIDTH - 2 * MARGIN)) as i32
}

fn pixels(length: i32) -> u32 {
    u32::try_from(length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Row, row};

    fn figures(rows: impl IntoIterator<Item = Row>) -> Vec<Figure> {
        rows.into_iter().map(|row| Figure::new("group", row).unwrap()).collect()
    }

    #[test]
    fn a_bar_passes_the_line_when_its_goal_is_missed() {
        let all = figures([
            row("met", 4.0, "ms").at_most(5.0),
            row("missed", 6.0, "ms").at_most(5.0),
            row("enough", 3.0, "×").at_least(2.0),
            row("too little", 1.0, "×").at_least(2.0),
            row("nothing", 0.0, "×").at_least(2.0),
        ]);
        let passes: Vec<_> = all.iter().map(|figure| length(figure, &all) > AT_GOAL).collect();
        assert_eq!(passes, [false, true, false, true, true]);
    }

    #[test]
    fn without_a_goal_bars_of_one_unit_are_side_by_side() {
        let all = figures([row("a", 1.0, "s"), row("b", 4.0, "s"), row("c", 7.0, "ms")]);
        let lengths: Vec<_> = all.iter().map(|figure| length(figure, &all)).collect();
        assert!(lengths.iter().zip([0.25, 1.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-9));
    }

    #[test]
    fn every_figure_stands_in_the_picture_with_its_goal() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("group.svg");
        let all = figures([row("a & b", 1_234.0, "ms").at_most(5.0), row("c", -1.0, "%")]);
        draw(&file, "group", &all).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for word in ["group", "a &amp; b: 1,234 ms (goal ≤ 5)", "c: -1.00 %"] {
            assert!(text.contains(word), "{word} in {text}");
        }
    }
}
