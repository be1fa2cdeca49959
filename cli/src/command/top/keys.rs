//! What keys mean. They are told in one table, which the help shows and the tests walk.

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Mode, Pane};

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// End the view.
    Leave,
    /// Go to the next table.
    NextPane,
    /// Go to the table before.
    PaneBefore,
    /// Go to this table.
    Show(Pane),
    /// Go so many rows down, or up.
    Move(isize),
    /// Go to the first row.
    First,
    /// Go to the last row.
    Last,
    /// Sort tasks by something else.
    Sort,
    /// Show workers that are gone, or hide them.
    Gone,
    /// Show the keys.
    Help,
    /// Look for tasks with a text in them.
    Search,
    /// Close what is open; with nothing open: show all tasks again.
    Close,
    /// Text.
    Type(String),
    /// Take the last letter back.
    TakeBack,
    /// Do what is asked about, or keep what was typed.
    Agree,
    /// Revoke the chosen task.
    Revoke {
        /// And stop it.
        terminate: bool,
    },
    /// Pause the chosen queue, or resume it.
    Pause,
    /// Drain the chosen worker.
    Drain,
}

/// Rows that a page has.
const PAGE: isize = 10;

/// The keys and what they do, for people.
pub(super) const TABLE: [(&str, &str); 14] = [
    ("Tab, Shift-Tab", "next table, table before"),
    ("1 2 3", "workers, queues, tasks"),
    ("up down, k j", "choose a row; PgUp PgDn Home End too"),
    ("t", "terminate the chosen task: stop it by force"),
    ("r", "revoke the chosen task: let it finish, never start it again"),
    ("p", "pause the chosen queue, or resume it"),
    ("d", "drain the chosen worker: it finishes what it has, and ends"),
    ("s", "sort tasks by run time, CPU, memory, id"),
    ("/", "only tasks with a text in id, name, queue or worker"),
    ("g", "show workers that are gone, or hide them"),
    ("Esc", "close what is open; show all tasks again"),
    ("Enter", "do what is asked about"),
    ("?", "these keys"),
    ("q, Ctrl-C", "leave"),
];

/// What an event means, if anything. Pasted text is never taken for keys.
pub(super) fn action(mode: &Mode, event: &Event) -> Option<Action> {
    match (mode, event) {
        (Mode::Asking(_) | Mode::Searching, Event::Paste(text)) => Some(Action::Type(text.clone())),
        (_, Event::Key(key)) if key.kind != KeyEventKind::Release => of_key(mode, key),
        _ => None,
    }
}

/// What an event means while nothing but the key for leaving is shown.
pub(super) fn unseen(event: &Event) -> Option<Action> {
    action(&Mode::Looking, event).filter(|action| *action == Action::Leave)
}

fn of_key(mode: &Mode, key: &KeyEvent) -> Option<Action> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        return Some(Action::Leave);
    }
    if control || key.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    match mode {
        Mode::Looking => looking(key.code),
        Mode::Help => Some(Action::Close),
        Mode::Asking(_) => match key.code {
            // A key that is held down must not agree to what it has just asked for.
            KeyCode::Enter if key.kind == KeyEventKind::Press => Some(Action::Agree),
            KeyCode::Esc => Some(Action::Close),
            code => typing(code),
        },
        Mode::Searching => match key.code {
            KeyCode::Enter => Some(Action::Agree),
            KeyCode::Esc => Some(Action::Close),
            code => typing(code),
        },
    }
}

fn typing(code: KeyCode) -> Option<Action> {
    match code {
        KeyCode::Char(letter) => Some(Action::Type(letter.to_string())),
        KeyCode::Backspace => Some(Action::TakeBack),
        _ => None,
    }
}

fn looking(code: KeyCode) -> Option<Action> {
    Some(match code {
        KeyCode::Char('q') => Action::Leave,
        KeyCode::Char('?' | 'h') => Action::Help,
        KeyCode::Tab => Action::NextPane,
        KeyCode::BackTab => Action::PaneBefore,
        KeyCode::Char('1') => Action::Show(Pane::Workers),
        KeyCode::Char('2') => Action::Show(Pane::Queues),
        KeyCode::Char('3') => Action::Show(Pane::Tasks),
        KeyCode::Up | KeyCode::Char('k') => Action::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Move(1),
        KeyCode::PageUp => Action::Move(-PAGE),
        KeyCode::PageDown => Action::Move(PAGE),
        KeyCode::Home => Action::First,
        KeyCode::End => Action::Last,
        KeyCode::Char('t') => Action::Revoke { terminate: true },
        KeyCode::Char('r') => Action::Revoke { terminate: false },
        KeyCode::Char('p') => Action::Pause,
        KeyCode::Char('d') => Action::Drain,
        KeyCode::Char('s') => Action::Sort,
        KeyCode::Char('g') => Action::Gone,
        KeyCode::Char('/') => Action::Search,
        KeyCode::Esc => Action::Close,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::top::deed::{Deed, Question};
    use crate::command::top::testing;

    fn key(code: KeyCode) -> Event {
        Event::Key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn letters_are_orders_only_while_nothing_is_typed() {
        let question = Question::revoke(&testing::model().rows.tasks[0], true);
        assert!(matches!(question.deed, Deed::Revoke { terminate: true, .. }));
        let asking = Mode::Asking(question);
        for letter in ['q', 't', 'r', 'p', 'd', 's', 'g', '/', '?'] {
            let event = key(KeyCode::Char(letter));
            assert!(!matches!(action(&Mode::Looking, &event), None | Some(Action::Type(_))));
            for mode in [&asking, &Mode::Searching] {
                assert_eq!(action(mode, &event), Some(Action::Type(letter.to_string())));
            }
            assert_eq!(action(&Mode::Help, &event), Some(Action::Close));
        }
        assert_eq!(action(&asking, &key(KeyCode::Enter)), Some(Action::Agree));
        assert_eq!(action(&asking, &key(KeyCode::Esc)), Some(Action::Close));
        assert_eq!(action(&Mode::Looking, &key(KeyCode::Enter)), None);
    }

    #[test]
    fn control_c_always_leaves() {
        let event = Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        let asking = Mode::Asking(Question::revoke(&testing::model().rows.tasks[0], true));
        for mode in [Mode::Looking, Mode::Searching, Mode::Help, asking] {
            assert_eq!(action(&mode, &event), Some(Action::Leave), "{mode:?}");
        }
        let alt = Event::Key(KeyEvent::new(KeyCode::Char('t'), KeyModifiers::ALT));
        assert_eq!(action(&Mode::Looking, &alt), None);
    }

    #[test]
    fn what_is_pasted_orders_nothing() {
        let pasted = Event::Paste("t\r".to_owned());
        assert_eq!(action(&Mode::Looking, &pasted), None);
        assert_eq!(action(&Mode::Searching, &pasted), Some(Action::Type("t\r".to_owned())));
    }
}
