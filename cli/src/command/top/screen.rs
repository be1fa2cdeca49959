//! The terminal: taken over while the view is open, and given back however it ends.

use std::io::{self, Stdout, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, DisableBracketedPaste, EnableBracketedPaste, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc;

use crate::error::CliError;

/// Whether the terminal is taken over.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, taken over until this is dropped.
pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes it over: a screen of its own, keys one by one. A panic gives it back before it is reported.
    pub(super) fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                report(panic);
            }));
        });
        TAKEN.store(true, Ordering::SeqCst);
        let taken = Taken;
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        std::mem::forget(taken);
        Ok(Self(terminal))
    }

    /// Draws what has changed.
    pub(super) fn draw(
        &mut self,
        view: impl FnOnce(&mut ratatui::Frame<'_>),
    ) -> Result<(), CliError> {
        self.0.draw(view).map(|_| ()).map_err(|error| lost(&error))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back when taking it over fails half-way.
struct Taken;

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Nobody can be told when that fails.
        let _ = execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// What is typed, from a thread of its own, which ends with the process.
pub(super) fn events() -> io::Result<mpsc::Receiver<io::Result<Event>>> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::Builder::new().name("stem-keys".to_owned()).spawn(move || {
        loop {
            let event = event::read();
            let over = event.is_err();
            if sender.blocking_send(event).is_err() || over {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The terminal went away.
pub(super) fn lost(error: &io::Error) -> CliError {
    CliError::failed(
        format!("the terminal cannot be used any more: {error}"),
        "start it again; `stem worker status --follow --json` needs no terminal",
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    const INSIDE: &str = "STEM_TEST_INSIDE_A_TERMINAL";

    /// What the test below runs in a terminal; there is nothing to it elsewhere.
    #[test]
    fn panics_while_the_terminal_is_taken_over() {
        if std::env::var_os(INSIDE).is_some() {
            let _screen = Screen::open().unwrap();
            panic!("on purpose");
        }
    }

    #[test]
    fn a_panic_gives_the_terminal_back_and_is_read_there() {
        let dir = tempfile::tempdir().unwrap();
        let tmux = |words: &[&str]| {
            let mut command = Command::new("tmux");
            command.env(INSIDE, "1").env("RUST_BACKTRACE", "0").current_dir(dir.path());
            command.args(["-S", "socket", "-f", "/dev/null"]).args(words);
            let output = command.output().expect("tmux is installed by `cargo xtask setup`");
            String::from_utf8(output.stdout).unwrap()
        };
        let program = std::env::current_exe().unwrap();
        let inside = "command::top::screen::tests::panics_while_the_terminal_is_taken_over";
        let line =
            format!("{} --exact {inside} --nocapture; echo left; read line", program.display());
        tmux(&["new-session", "-d", "-x", "120", "-y", "40", "sh", "-c", &line]);
        let since = Instant::now();
        let screen = loop {
            let screen = tmux(&["capture-pane", "-p"]);
            if screen.contains("left") || since.elapsed() > Duration::from_mins(1) {
                break screen;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let alternate = tmux(&["display-message", "-p", "#{alternate_on}"]);
        tmux(&["send-keys", "-l", "typed"]);
        let since = Instant::now();
        while !tmux(&["capture-pane", "-p"]).contains("typed") {
            assert!(
                since.elapsed() < Duration::from_mins(1),
                "what is typed is not shown:\n{screen}"
            );
        }
        tmux(&["kill-server"]);
        assert_eq!(alternate, "0\n", "{screen}");
        assert!(screen.contains("on purpose"), "{screen}");
    }
}
