//! How things look. Without colour everything is still told apart, by words and by what terminals have beside colours.

use ratatui::style::{Color, Modifier, Style};

use super::super::rows::Tone;

/// With colours or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Theme {
    /// The terminal's own sixteen, so that they fit its background.
    Coloured,
    /// For `NO_COLOR`.
    Plain,
}

impl Theme {
    /// Text that asks for so much attention.
    pub(super) fn of(self, tone: Tone) -> Style {
        let style = Style::new();
        match (tone, self) {
            (Tone::Plain, _) => style,
            (Tone::Faint, _) => style.add_modifier(Modifier::DIM),
            (Tone::Warning, Self::Coloured) => style.fg(Color::Yellow),
            (Tone::Bad, Self::Coloured) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            (Tone::Warning | Tone::Bad, Self::Plain) => style.add_modifier(Modifier::BOLD),
        }
    }

    /// Text to be read first.
    pub(super) fn strong() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// The heading of a table; that of the one where the operator is stands out.
    pub(super) fn heading(self, here: bool) -> Style {
        let style = Style::new().add_modifier(Modifier::REVERSED);
        match (here, self) {
            (true, Self::Coloured) => style.fg(Color::Cyan).add_modifier(Modifier::BOLD),
            (true, Self::Plain) => style.add_modifier(Modifier::BOLD),
            (false, _) => style.add_modifier(Modifier::DIM),
        }
    }

    /// The chosen row.
    pub(super) fn chosen() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The name of a key.
    pub(super) fn key() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The frame of what lies above the tables.
    pub(super) fn frame(self) -> Style {
        match self {
            Self::Coloured => Style::new().fg(Color::Yellow),
            Self::Plain => Self::strong(),
        }
    }
}
