//! `stem completions SHELL`

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::{Cli, CompletionShell};
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::write_stdout;

pub(super) fn run(shell: CompletionShell) -> Outcome {
    // Into memory first: the generator panics when its writer fails, and a pipe may close.
    let mut script = Vec::new();
    clap_complete::generate(Shell::from(shell), &mut Cli::command(), "stem", &mut script);
    write_stdout(&script)?;
    Ok(Ending::Done)
}
