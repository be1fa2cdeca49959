//! What lies above the tables: a question before an order, and the keys.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::super::deed::{Question, REASON};
use super::super::keys::TABLE;
use super::super::words;
use super::theme::Theme;

/// ASCII, since not every terminal has lines.
const BORDER: border::Set<'_> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};
/// Lines are written to fit in so many columns, frame and margins not counted.
const WIDTH: u16 = 74;
/// Frame and margins, left and right of the text.
const SIDES: u16 = 4;
/// Frame above and below the text.
const ENDS: u16 = 2;
/// Columns before what a line of a question names.
const LABEL: usize = 9;

/// Of everything, the frame too. No stripes of what lies below at its sides.
fn width(area: Rect) -> u16 {
    if area.width < WIDTH + 10 { area.width } else { WIDTH + SIDES }
}

/// Of everything, the frame too.
fn height(lines: &[Line<'_>]) -> u16 {
    u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(ENDS)
}

fn show(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'static>>, theme: Theme) {
    let width = width(area);
    let height = height(&lines).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered()
        .border_set(BORDER)
        .border_style(theme.frame())
        .title(Line::styled(format!(" {title} "), Theme::strong()))
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

/// A question: what will happen to what.
pub(super) fn question(frame: &mut Frame<'_>, area: Rect, question: &Question, theme: Theme) {
    let room = usize::from(width(area).saturating_sub(SIDES));
    // It stands in full below.
    let title = words::cut(&question.deed.title(), room.saturating_sub(2));
    show(frame, area, &title, written(area, question), theme);
}

/// Whether all of a question is seen.
pub(super) fn fits(area: Rect, question: &Question) -> bool {
    height(&written(area, question)) <= area.height
}

/// The lines of a question. Those that are too long for the place go on in the next one: an order must not be agreed to
/// for something that is named only in part.
fn written(area: Rect, question: &Question) -> Vec<Line<'static>> {
    let room = usize::from(width(area).saturating_sub(SIDES));
    let mut lines = Vec::new();
    // What it is about has labels, and a blank line ends it.
    let mut indent = LABEL;
    for text in &question.lines {
        if text.is_empty() {
            indent = 0;
        }
        lines.extend(wrapped(text, indent, room).into_iter().map(Line::from));
    }
    lines.push(Line::default());
    if let Some(reason) = question.reason() {
        let typed = words::tail(reason, room.saturating_sub(LABEL + 1));
        lines.push(Line::styled(format!("reason   {typed}_"), Theme::strong()));
        lines.push(Line::from(format!("         (with nothing typed: {REASON})")));
        lines.push(Line::default());
    }
    lines.push(Line::styled("Enter does it.  Esc leaves everything as it is.", Theme::strong()));
    if height(&lines) > area.height {
        lines.retain(|line| line.width() > 0);
    }
    lines
}

/// Text in lines of so many columns, all but the first indented. Only words that are too long for any line are broken.
fn wrapped(text: &str, indent: usize, width: usize) -> Vec<String> {
    let (label, rest) = text.split_at_checked(indent).unwrap_or((text, ""));
    let mut lines = Vec::new();
    let mut line = label.to_owned();
    let mut used = indent;
    for word in rest.split_inclusive(' ') {
        let columns = Span::raw(word.trim_end()).width();
        let moves = used + columns > width && indent + columns <= width;
        for (at, letter) in word.chars().enumerate() {
            let columns = Span::raw(letter.to_string()).width();
            let is_full = used + columns > width;
            if is_full && letter == ' ' {
                continue;
            }
            if is_full || (moves && at == 0) {
                lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
                used = indent;
            }
            line.push(letter);
            used += columns;
        }
    }
    lines.push(line);
    lines
}

/// The keys.
pub(super) fn help(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    let mut lines: Vec<Line<'static>> =
        TABLE.iter().map(|(key, what)| Line::from(format!("{key:<15}{what}"))).collect();
    lines.push(Line::default());
    for text in [
        "CPU% is of one core: of workers, what their isolates use. Ids are cut",
        "at the front, since those of one time begin alike; the chosen one stands",
        "in full below the tables. Before any order there is a question.",
    ] {
        lines.push(Line::from(text));
    }
    show(frame, area, "keys", lines, theme);
}
