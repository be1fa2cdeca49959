//! The model on a screen: two lines about everything, three tables, and below them the chosen row, what was said last
//! and the keys. Made for 80 × 24; a larger screen gets more columns and rows.

mod popup;
mod tables;
mod theme;

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};
use stem_core::text::printable;
use stem_engine::units::write_duration;

pub(super) use self::theme::Theme;
use super::deed::Question;
use super::model::{Mode, Model, Pane};
use super::rows::Tone;
use super::words;
use crate::view::memory;

/// Below that nothing useful fits.
const SMALLEST: (u16, u16) = (60, 16);
/// From this width on tables have all columns.
const WIDE: u16 = 140;
/// A picture that is older than so many intervals, and than this, is called old.
const OLD: (u32, Duration) = (3, Duration::from_secs(4));

/// Whether there is room for the view. Without it no key may order anything, as nobody sees what.
pub(super) fn fits(area: Rect) -> bool {
    area.width >= SMALLEST.0 && area.height >= SMALLEST.1
}

/// Whether there is room for all of a question.
pub(super) fn fits_question(area: Rect, question: &Question) -> bool {
    fits(area) && popup::fits(area, question)
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme, now: Instant) {
    let area = frame.area();
    if !fits(area) {
        let text = format!(
            "stem top is made for 80 x 24. Here are {} x {}. q leaves.",
            area.width, area.height
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let line = |row: u16| Rect { y: area.y + row, height: 1, ..area };
    frame.render_widget(title(model, theme, area.width), line(0));
    frame.render_widget(summary(model, theme, now), line(1));
    // Two lines at the top, three of headings, five at the bottom.
    let room = area.height - 10;
    let counts = [model.rows.workers.len(), model.rows.queues.len(), model.rows.tasks.len()];
    let heights = shares(room, counts);
    let mut top = 2;
    for (pane, height) in [Pane::Workers, Pane::Queues, Pane::Tasks].into_iter().zip(heights) {
        let part = Rect { y: area.y + top, height: height + 1, ..area };
        tables::draw(frame, part, model, pane, theme);
        top += height + 1;
    }
    let lines = |row: u16| Rect { y: area.y + row, height: 2, ..area };
    let wrap = Wrap { trim: true };
    frame.render_widget(chosen(model).wrap(wrap), lines(area.height - 5));
    frame.render_widget(said_last(model, theme, now).wrap(wrap), lines(area.height - 3));
    frame.render_widget(keys(model), line(area.height - 1));
    match &model.mode {
        Mode::Asking(question) => popup::question(frame, area, question, theme),
        Mode::Help => popup::help(frame, area, theme),
        Mode::Looking | Mode::Searching => {}
    }
}

/// How many rows each table gets: a third for workers and a quarter for queues, where there are that many, and the rest
/// for tasks; what tasks do not need goes to workers and queues first.
fn shares(room: u16, counts: [usize; 3]) -> [u16; 3] {
    let [workers, queues, tasks] =
        counts.map(|rows| u16::try_from(rows.max(1)).unwrap_or(u16::MAX));
    let (some_workers, some_queues) = (workers.min(room / 3), queues.min(room / 4));
    let spare = (room - some_workers - some_queues).saturating_sub(tasks);
    let more_workers = (workers - some_workers).min(spare);
    let more_queues = (queues - some_queues).min(spare - more_workers);
    let (workers, queues) = (some_workers + more_workers, some_queues + more_queues);
    [workers, queues, room - workers - queues]
}

fn title(model: &Model, theme: Theme, width: u16) -> Line<'static> {
    let place = &model.place;
    let every = format!("every {}", write_duration(place.interval));
    let left =
        format!("stem top  namespace {}  {}", place.namespace, printable(&place.service, 300));
    let room = usize::from(width).saturating_sub(every.len() + 1);
    let left: String = left.chars().take(room).collect();
    let gap = room + 1 - left.chars().count();
    Line::from(vec![
        Span::styled(left, Theme::strong()),
        Span::raw(" ".repeat(gap)),
        Span::styled(every, theme.of(Tone::Faint)),
    ])
}

/// What there is, or that it is old and why.
fn summary(model: &Model, theme: Theme, now: Instant) -> Line<'static> {
    let picture = &model.picture;
    let age = picture.age(now);
    let is_old = age > OLD.1.max(model.place.interval * OLD.0);
    if let Some(problem) = picture.problem() {
        let what = if picture.is_complete() {
            format!("! {} OLD: {problem}", words::age(age))
        } else {
            format!("! NOTHING WAS SEEN YET: {problem}")
        };
        return Line::styled(what, theme.of(Tone::Bad));
    }
    if !picture.is_complete() {
        let tone = if is_old { Tone::Bad } else { Tone::Faint };
        return Line::styled(format!("looking for {}", words::age(age)), theme.of(tone));
    }
    if is_old {
        let what = format!("! {} OLD: no answer yet", words::age(age));
        return Line::styled(what, theme.of(Tone::Bad));
    }
    let rows = &model.rows;
    let mute = rows.workers.iter().filter(|worker| !worker.answers).count();
    let sum = |of: fn(&super::rows::QueueRow) -> u64| rows.queues.iter().map(of).sum::<u64>();
    let (ready, delayed) = (sum(|queue| queue.status.ready), sum(|queue| queue.status.delayed));
    let paused = rows.queues.iter().filter(|queue| queue.paused.is_some()).count();
    let mut spans = Vec::new();
    if !model.narrow.text.is_empty() {
        let text = format!("tasks with {:?} | ", model.narrow.text);
        spans.push(Span::styled(text, theme.of(Tone::Warning)));
    }
    spans.push(Span::raw(words::count(rows.workers.len(), "worker")));
    if mute > 0 {
        spans.push(Span::styled(format!(", {mute} not answering"), theme.of(Tone::Bad)));
    }
    if rows.gone > 0 {
        spans.push(Span::styled(format!(", {} gone", rows.gone), theme.of(Tone::Faint)));
    }
    let figures = format!(" | {} in hand | {ready} ready, {delayed} delayed", rows.tasks.len());
    spans.push(Span::raw(figures));
    if paused > 0 {
        spans.push(Span::styled(format!(" | {paused} paused"), theme.of(Tone::Warning)));
    }
    Line::from(spans)
}

/// The chosen row in full: its whole id, and what has no column.
fn chosen(model: &Model) -> Paragraph<'static> {
    let text = match model.pane {
        Pane::Workers => model.worker().map(|row| {
            let heartbeat = &row.heartbeat;
            let refused =
                row.told.refused.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            format!(
                "{}{refused}  pid {} on {}, up {}, heard {} ago",
                row.id,
                heartbeat.pid,
                printable(&heartbeat.host, 100),
                words::run(row.uptime),
                words::age(row.silent)
            )
        }),
        Pane::Queues => model.queue().map(|row| {
            let waiting: Vec<String> =
                row.status.names.iter().map(|(name, count)| format!("{count} {name}")).collect();
            let waiting = match &row.paused {
                Some((_, Some(reason))) => format!("paused: {reason}"),
                _ if waiting.is_empty() => "nothing is ready".to_owned(),
                _ => format!("ready: {}", words::list(&waiting)),
            };
            format!("{}  {waiting}", row.status.name)
        }),
        Pane::Tasks => model.task().map(|row| {
            let running = &row.running;
            let message = running.progress.as_ref().and_then(|progress| progress.message.clone());
            format!(
                "{}  {} on {}{}",
                running.id,
                running.task,
                row.worker,
                message.map_or_else(String::new, |message| format!(": {message}"))
            )
        }),
    };
    Paragraph::new(text.unwrap_or_default()).style(Theme::strong())
}

fn said_last(model: &Model, theme: Theme, now: Instant) -> Paragraph<'static> {
    if let Some(deed) = &model.busy {
        return Paragraph::new(format!("{} ...", deed.title())).style(theme.of(Tone::Warning));
    }
    let Some(said) = &model.said else { return Paragraph::default() };
    let age = said.age(now);
    // Quiet at first, since there the age is plain.
    let ago = if age < Duration::from_secs(5) {
        String::new()
    } else {
        format!("{} ago: ", words::age(age))
    };
    Paragraph::new(format!("{ago}{}", said.report.text)).style(theme.of(said.report.tone))
}

fn keys(model: &Model) -> Line<'static> {
    if model.mode == Mode::Searching {
        let text = format!("tasks with: {}_   Enter keeps it, Esc shows all", model.narrow.text);
        return Line::styled(text, Theme::strong());
    }
    let own: &[(&str, &str)] = match model.pane {
        Pane::Workers => &[("d", "drain"), ("g", "gone")],
        Pane::Queues if model.queue().is_some_and(|row| row.paused.is_some()) => &[("p", "resume")],
        Pane::Queues => &[("p", "pause")],
        Pane::Tasks => &[("t", "terminate"), ("r", "revoke"), ("s", "sort"), ("/", "search")],
    };
    let common = [("Tab", "table"), ("?", "help"), ("q", "leave")];
    let spans = own.iter().chain(&common).flat_map(|(key, what)| {
        [Span::styled(format!(" {key} "), Theme::key()), Span::raw(format!(" {what} "))]
    });
    Line::from(spans.collect::<Vec<_>>())
}

/// Bytes for a column.
fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), memory)
}

#[cfg(test)]
mod tests;
