//! `stem man`

use std::path::Path;

use clap::{Command, CommandFactory};

use crate::args::Cli;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{say, write_stdout};

pub(super) fn run(dir: Option<&Path>) -> Outcome {
    let mut command = Cli::command();
    command.build();
    match dir {
        None => {
            write_stdout(&page(&command)?)?;
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(unwritable(dir))?;
            let written = write_pages(dir, &command)?;
            say(format!("{written} pages written to {}", dir.display()));
        }
    }
    Ok(Ending::Done)
}

fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> CliError {
    move |error| {
        CliError::failed(
            format!("cannot write to {}: {error}", path.display()),
            "name a directory that this user can write to",
        )
    }
}

fn page(command: &Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    clap_mangen::Man::new(command.clone().name(name)).render(&mut page).map_err(|error| {
        CliError::failed(format!("the page cannot be written: {error}"), "report this as a bug")
    })?;
    Ok(page)
}

fn write_pages(dir: &Path, command: &Command) -> Result<usize, CliError> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = dir.join(format!("{name}.1"));
    std::fs::write(&file, page(command)?).map_err(unwritable(&file))?;
    command.get_subcommands().try_fold(1, |written, sub| Ok(written + write_pages(dir, sub)?))
}
