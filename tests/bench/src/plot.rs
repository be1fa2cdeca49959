//! Pictures of how tasks/s and latency grow with something.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

const SIZE: (u32, u32) = (880, 440);
const RATE: RGBColor = RGBColor(46, 94, 170);
const MIDDLE: RGBColor = RGBColor(196, 78, 82);
const SLOW: RGBColor = RGBColor(221, 160, 108);

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    /// Attempts at once in one worker.
    Concurrency,
    /// Bytes of a task's input.
    Payload,
    /// Processes.
    Workers,
}

impl Axis {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Payload => "payload",
            Self::Workers => "workers",
        }
    }

    /// A value of it, for people.
    pub(crate) fn label(self, at: usize) -> String {
        match self {
            Self::Concurrency | Self::Workers => at.to_string(),
            Self::Payload if at < 1 << 10 => format!("{at} B"),
            Self::Payload if at < 1 << 20 => format!("{} KiB", at >> 10),
            Self::Payload => format!("{} MiB", at >> 20),
        }
    }
}

/// What was measured at one value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) at: usize,
    pub(crate) tasks_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Draws as SVG: left tasks/s, right milliseconds, below the value in powers of two.
#[expect(clippy::cast_precision_loss, reason = "a picture")]
pub(crate) fn draw(file: &Path, axis: Axis, points: &[Point]) -> Result<()> {
    let x = |point: &Point| (point.at as f64).log2();
    let from = points.first().map_or(0.0, x);
    let to = points.last().map_or(1.0, x).max(from + 1.0);
    let highest = |figure: fn(&Point) -> f64| {
        let figures = points.iter().map(figure);
        // Room for the legend.
        figures.fold(f64::MIN_POSITIVE, f64::max) * 1.3
    };
    let (rates, latencies) = (highest(|point| point.tasks_per_s), highest(|point| point.p99_ms));
    let label = |x: &f64| {
        let whole = (x - x.round()).abs() < 1e-9 && (0.0..=40.0).contains(x);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 40"
        )]
        let power = x.round() as u32;
        if whole { axis.label(1 << power) } else { String::new() }
    };
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(
                format!(
                    "Against {}: isolates that do nothing, on Redis, AOF everysec",
                    axis.name()
                ),
                ("sans-serif", 18),
            )
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .right_y_label_area_size(52)
            .build_cartesian_2d(from..to, 0.0..rates)?
            .set_secondary_coord(from..to, 0.0..latencies);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(12)
            .x_label_formatter(&label)
            .y_label_formatter(&|rate: &f64| format!("{rate:.0}"))
            .x_desc(axis.name())
            .y_desc("tasks/s")
            .draw()?;
        chart.configure_secondary_axes().y_desc("idle, enqueue → result, ms").draw()?;
        let key = |colour: RGBColor| {
            move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
        };
        let rates = || points.iter().map(|point| (x(point), point.tasks_per_s));
        chart
            .draw_series(LineSeries::new(rates(), RATE.stroke_width(2)))?
            .label("tasks/s (left)")
            .legend(key(RATE));
        chart.draw_series(rates().map(|at| Circle::new(at, 3, RATE.filled())))?;
        for (name, colour, figure) in [
            ("latency, p50", MIDDLE, (|point| point.p50_ms) as fn(&Point) -> f64),
            ("latency, p99", SLOW, |point| point.p99_ms),
        ] {
            let line = || points.iter().map(|point| (x(point), figure(point)));
            chart
                .draw_secondary_series(LineSeries::new(line(), colour.stroke_width(2)))?
                .label(name)
                .legend(key(colour));
            chart.draw_secondary_series(line().map(|at| Circle::new(at, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    };
    drawn()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("{} cannot be drawn", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_named_as_people_name_them() {
        let labels = [100, 1 << 10, 256 << 10, 1 << 20].map(|at| Axis::Payload.label(at));
        assert_eq!(labels, ["100 B", "1 KiB", "256 KiB", "1 MiB"]);
        assert_eq!(Axis::Concurrency.label(1 << 10), "1024");
    }

    #[test]
    fn a_picture_has_its_values_below_and_its_lines_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("growth.svg");
        let points = [(1, 100.0), (4, 400.0), (16, 1_500.0), (512, 9_000.0)]
            .map(|(at, tasks_per_s)| Point { at, tasks_per_s, p50_ms: 1.0, p99_ms: 2.0 });
        draw(&file, Axis::Concurrency, &points).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        for word in ["Against concurrency", "tasks/s (left)", "latency, p99", "512"] {
            assert!(text.contains(word), "{word}");
        }
    }
}
