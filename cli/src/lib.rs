//! The `stem` command: it wires concrete backends to workers and clients, and talks to people and scripts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`args`] | the whole surface, on one page |
//! | [`command`] | what each command does, one file each |
//! | [`settings`] | flag, environment, file, default |
//! | [`env`](mod@env) | every environment variable that is read, in one table |
//! | [`connect`] | URL → backend; the only place that names concrete backends |
//! | [`audit`] | what is ordered here, written down before it is done |
//! | [`control`] | one command to workers, and their answers |
//! | [`follow`] | a task followed to its end, with progress |
//! | [`project`] | a task's project: how its module is built and tested |
//! | [`skeleton`] | what a new project is made of |
//! | [`sandbox`] | the sandbox and modules as this program sets them up |
//! | [`view`] | records as JSON and as text |
//! | [`telemetry`] | metrics and traces as this program sets them up |
//! | [`output`], [`logging`] | standard output is data, standard error is talk |
//! | [`exit`], [`error`] | exit codes, and errors with a hint |
//! | [`nodes`] | workers as processes of this machine: PID files, environment files |
//! | [`identity`] | who asks, on which machine |
//! | [`hardening`] | what a worker's process gives up, and what it keeps |
//! | [`service_manager`] | what systemd is told of a worker |

pub mod args;
pub mod audit;
pub mod command;
pub mod connect;
pub mod control;
pub mod env;
pub mod error;
pub mod exit;
pub mod follow;
pub mod hardening;
pub mod identity;
pub mod logging;
pub mod nodes;
pub mod output;
pub mod project;
pub mod sandbox;
pub mod service_manager;
pub mod settings;
pub mod skeleton;
pub mod telemetry;
pub mod view;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::exit::Ending;

/// The file of the program that runs, for starting it once more: the same one also after an upgrade has put another in
/// its place, or none.
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";
/// The first argument with which this program starts itself to compile a module.
pub const COMPILE: &str = "__compile";
/// The first argument with which this program starts itself to become a node in the background.
pub const DETACH: &str = "__detach";

/// Parses the command line, does what it says, and answers with the exit code.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &arguments).into(),
    };
    match command::run(cli) {
        Ok(ending) => ending,
        Err(error) => {
            output::say(&error);
            error.ending
        }
    }
    .into()
}

/// What the command line's parser has to say: help and version are data, everything else is wrong usage.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> Ending {
    let color = logging::lively_stderr(&env::Environment::of_process());
    let text = if color { error.render().ansi().to_string() } else { error.render().to_string() };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match output::write_stdout(error.render().to_string().as_bytes()) {
                Ok(_) => Ending::Done,
                Err(error) => error.ending,
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::say(text.trim_end());
            output::say("\nerror: a command is missing\nhint: choose one of the above");
            Ending::Usage
        }
        _ => {
            // The parser's own last line names --help; ours does so as a hint.
            let text = without_secrets(text, arguments);
            let body = text.split("For more information").next().unwrap_or_default();
            output::say(body.trim_end());
            output::say(format!(
                "hint: `{} --help` shows what it takes, with examples",
                command_words(arguments)
            ));
            Ending::Usage
        }
    }
}

/// The parser repeats what it refuses; a URL among it may hold a password.
fn without_secrets(text: String, arguments: &[OsString]) -> String {
    arguments.iter().filter_map(|argument| argument.to_str()).fold(text, |text, argument| {
        let value = argument
            .split_once('=')
            .filter(|_| argument.starts_with('-'))
            .map_or(argument, |(_, value)| value);
        if value.contains("://") { text.replace(value, &connect::mask(value)) } else { text }
    })
}

/// The words of the command that was given, as far as they are known.
fn command_words(arguments: &[OsString]) -> String {
    let mut words = vec!["stem".to_owned()];
    let mut command = <Cli as clap::CommandFactory>::command();
    for argument in arguments.iter().skip(1).filter_map(|argument| argument.to_str()) {
        let Some(next) = command.find_subcommand(argument).cloned() else { continue };
        words.push(argument.to_owned());
        command = next;
    }
    words.join(" ")
}
