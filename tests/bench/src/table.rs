//! A run as a table for people.

use comfy_table::{ContentArrangement, Table};

use crate::record::{Comparison, Figure, Run};

/// A line for each figure, groups apart, and what there is to say of the comparison below it.
pub(crate) fn render(run: &Run, last: Option<&Run>) -> String {
    let comparison = last.map(|last| Comparison::new(run, last));
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["WHAT", "VALUE", "UNIT", "GOAL", "", "LAST", "RATIO TO LAST"]);
    let mut group = "";
    for figure in &run.figures {
        if figure.group != group {
            group = &figure.group;
            table.add_row([group]);
        }
        table.add_row(cells(figure, comparison.as_ref()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if [1, 5, 6].contains(&column.index) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    let mut text: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    let Some(comparison) = comparison else { return text };
    if !comparison.differences.is_empty() {
        text += "\nThe last run was on another machine. Values are not to be compared, only ratios within a run:\n";
        text += &indented(&comparison.differences);
    }
    let missing = comparison.missing(run);
    if !missing.is_empty() {
        text += "\nThe last run had these, and this one has not:\n";
        text += &indented(&missing);
    }
    text
}

fn indented(lines: &[impl AsRef<str>]) -> String {
    lines.iter().flat_map(|line| ["  ", line.as_ref(), "\n"]).collect()
}

fn cells(figure: &Figure, comparison: Option<&Comparison<'_>>) -> [String; 7] {
    let last = comparison.and_then(|comparison| comparison.last(figure));
    let ratio = comparison.and_then(|comparison| comparison.ratio(figure));
    let verdict = figure.goal.map(|goal| if goal.is_met(figure.value) { "met" } else { "missed" });
    [
        format!("  {}", figure.what),
        number(figure.value),
        figure.unit.clone(),
        figure.goal.map_or_else(String::new, |goal| goal.to_string()),
        verdict.unwrap_or_default().to_owned(),
        last.map_or_else(String::new, number),
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
    ]
}

/// As many digits as somebody can use, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1_000.0 {
        let digits = if size >= 100.0 {
            0
        } else if size >= 10.0 {
            1
        } else if size >= 0.1 || size == 0.0 {
            2
        } else {
            4
        };
        return format!("{value:.digits$}");
    }
    let digits = format!("{size:.0}");
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{RATIO, row};
    use crate::machine::Machine;

    fn run(cores: usize, value: f64) -> Run {
        let rows =
            [("one", row("a", value, "ms").at_most(5.0)), ("two", row("b", 11_850.0, RATIO))];
        let figures =
            rows.into_iter().map(|(group, row)| Figure::new(group, row).unwrap()).collect();
        Run { machine: Machine { cores, ..Machine::default() }, figures }
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn numbers_are_as_long_as_they_are_useful() {
        let shown =
            [0.0, 0.012_34, 0.5, 9.87, 11.26, 250.4, 1_000.0, 11_850.4, 1_234_567.0, -4_321.0]
                .map(number);
        let expected = [
            "0.00",
            "0.0123",
            "0.50",
            "9.87",
            "11.3",
            "250",
            "1,000",
            "11,850",
            "1,234,567",
            "-4,321",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn without_a_last_run_there_are_goals() {
        let text = render(&run(2, 6.0), None);
        let lines = words(&text);
        assert_eq!(lines[1], ["one"]);
        assert_eq!(lines[2], ["a", "6.00", "ms", "≤", "5", "missed"]);
        assert_eq!(lines[3], ["two"]);
        assert_eq!(lines[4], ["b", "11,850", "×"]);
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn the_last_value_and_the_ratio_to_it_stand_beside() {
        let text = render(&run(2, 4.0), Some(&run(2, 2.0)));
        assert_eq!(words(&text)[2], ["a", "4.00", "ms", "≤", "5", "met", "2.00", "2.00"]);
        assert!(!text.contains("another machine"), "{text}");
    }

    #[test]
    fn another_machine_is_said_and_its_values_are_not_compared() {
        let text = render(&run(64, 4.0), Some(&run(2, 2.0)));
        assert_eq!(words(&text)[2], ["a", "4.00", "ms", "≤", "5", "met", "2.00"]);
        assert_eq!(words(&text)[4], ["b", "11,850", "×", "11,850", "1.00"]);
        assert!(text.contains("another machine") && text.contains("cores: 2 → 64"), "{text}");
    }

    #[test]
    fn what_is_no_longer_measured_is_named() {
        let mut last = run(2, 2.0);
        last.figures.push(Figure::new("two", row("gone", 1.0, "s")).unwrap());
        let text = render(&run(2, 2.0), Some(&last));
        assert!(text.contains("this one has not:\n  gone\n"), "{text}");
    }
}
