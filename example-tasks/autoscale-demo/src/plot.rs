//! The picture: what waits and what may run, over time.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::*;
use stem_engine::AutoscaleRules;

use crate::decisions::Change;
use crate::wave::Seen;

const SIZE: (u32, u32) = (960, 480);
const WAITING: RGBColor = RGBColor(196, 78, 82);
const RUNNING: RGBColor = RGBColor(129, 143, 160);
const PLACES: RGBColor = RGBColor(46, 94, 170);

/// Draws a run as SVG. Left the tasks that wait; right the attempts that may run, those that do, and a dot for each
/// decision; grey behind it, while tasks come.
#[expect(clippy::cast_precision_loss, reason = "a picture")]
pub(crate) fn draw(
    file: &Path,
    seen: &[Seen],
    made: &[Change],
    rules: &AutoscaleRules,
) -> Result<()> {
    let end = seen.last().map_or(1.0, |seen| seen.at);
    let deepest = seen.iter().map(|seen| seen.depth).max().unwrap_or(0).max(1) as f64 * 1.1;
    let most = rules.max as f64 + 1.0;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(
                "A backlog that comes and goes, and how many may run at once",
                ("sans-serif", 18),
            )
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .right_y_label_area_size(44)
            .build_cartesian_2d(0.0..end, 0.0..deepest)?
            .set_secondary_coord(0.0..end, 0.0..most);
        chart.draw_series(seen.windows(2).filter(|pair| pair[0].high).map(|pair| {
            Rectangle::new([(pair[0].at, 0.0), (pair[1].at, deepest)], BLACK.mix(0.06).filled())
        }))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc("seconds")
            .y_desc("tasks that wait")
            .draw()?;
        chart.configure_secondary_axes().y_desc("attempts at once").draw()?;
        let key = |colour: RGBColor| {
            move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
        };
        chart
            .draw_series(LineSeries::new(
                seen.iter().map(|seen| (seen.at, seen.depth as f64)),
                WAITING.stroke_width(2),
            ))?
            .label("tasks that wait (left)")
            .legend(key(WAITING));
        chart
            .draw_secondary_series(LineSeries::new(
                seen.iter().map(|seen| (seen.at, seen.inflight as f64)),
                RUNNING.stroke_width(1),
            ))?
            .label("attempts in hand")
            .legend(key(RUNNING));
        chart
            .draw_secondary_series(LineSeries::new(
                seen.iter().map(|seen| (seen.at, seen.concurrency as f64)),
                PLACES.stroke_width(2),
            ))?
            .label("attempts that may run")
            .legend(key(PLACES));
        chart.draw_secondary_series(
            made.iter().map(|made| Circle::new((made.at, made.to), 4, PLACES.filled())),
        )?;
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
