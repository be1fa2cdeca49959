//! What lies above the tables: a question before an order, and the keys.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::symbols::border;
use ratatui::text::Line;
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

fn show(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'static>>, theme: Theme) {
    // No stripes of what lies below at its sides.
    let width = if area.width < WIDTH + 10 { area.width } else { WIDTH + 4 };
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
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
    let title = words::cut(&question.deed.title(), usize::from(WIDTH) - 2);
    let mut lines: Vec<Line<'static>> = question.lines.iter().cloned().map(Line::from).collect();
    lines.push(Line::default());
    if let Some(reason) = question.reason() {
        let typed = words::tail(reason, usize::from(WIDTH) - 10);
        lines.push(Line::styled(format!("reason   {typed}_"), Theme::strong()));
        lines.push(Line::from(format!("         (with nothing typed: {REASON})")));
        lines.push(Line::default());
    }
    lines.push(Line::styled("Enter does it.  Esc leaves everything as it is.", Theme::strong()));
    show(frame, area, &title, lines, theme);
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
