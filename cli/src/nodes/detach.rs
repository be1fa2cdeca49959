//! The step between `worker multi start` and a node: a session of its own, then the node's command in place of this
//! process, so that the node lives on when the terminal is closed and gets none of its signals.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::roster::without_secrets;
use crate::error::CliError;
use crate::exit::Ending;
use crate::output::say;

/// What this program does when it was started with [`DETACH`](crate::DETACH): the words after that are the command.
/// Returns only if the command cannot be run.
pub fn child_main() -> ExitCode {
    let mut words = std::env::args_os().skip(2);
    let error = match (rustix::process::setsid(), words.next()) {
        (Err(error), _) => error.to_string(),
        (Ok(_), None) => "no command was given".to_owned(),
        (Ok(_), Some(program)) => {
            let error = Command::new(&program).args(words).exec();
            format!("{}: {error}", without_secrets(&program.to_string_lossy()))
        }
    };
    say(CliError::usage(
        format!("the node's command cannot be run: {error}"),
        "check it with `stem worker multi names`",
    ));
    Ending::Usage.into()
}
