//! One command of a recipe: shown, then run in the project's folder, its output passed through.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{OWN_FOLDER, remedy, shown};
use crate::error::CliError;
use crate::output::say;

/// Where the standard output of a tool goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// To ours.
    Output,
    /// To standard error: ours has an answer on it.
    Error,
}

/// A program and its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    program: String,
    arguments: Vec<String>,
}

impl Step {
    /// `None` without a program.
    pub(super) fn new(mut words: Vec<String>) -> Option<Self> {
        if words.first().is_none_or(String::is_empty) {
            return None;
        }
        let program = words.remove(0);
        Some(Self { program, arguments: words })
    }

    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.program.as_str()).chain(self.arguments.iter().map(String::as_str))
    }

    /// What one would type.
    fn typed(&self) -> String {
        self.words()
            .map(|word| {
                let plain = |letter: char| letter.is_alphanumeric() || "-_=./,:@+".contains(letter);
                if !word.is_empty() && word.chars().all(plain) {
                    word.to_owned()
                } else {
                    format!("'{}'", word.replace('\'', "'\\''"))
                }
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs it; `failed` says what it means when it does not end well.
    pub(super) fn run(&self, folder: &Path, talk: Talk, failed: &str) -> Result<(), CliError> {
        let Some(program) = find_program(&self.program, folder) else {
            return Err(self.absent(folder));
        };
        say(format!("+ {}", self.typed()));
        let started = talk.stdio().and_then(|stdout| {
            Command::new(program)
                .args(&self.arguments)
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(stdout)
                .status()
        });
        let status = started.map_err(|error| {
            CliError::failed(
                format!("cannot start {}: {error}", self.program),
                "check that it can be executed by this user",
            )
        })?;
        if status.success() {
            return Ok(());
        }
        let what = format!("{failed}: {} ended with {status}", self.program);
        Err(match remedy::of(self, folder) {
            // The machine lacks something; nothing is wrong with the project.
            Some(remedy) => CliError::usage(what, remedy),
            None => CliError::failed(what, "what it says is above; correct that, and try again"),
        })
    }

    fn absent(&self, folder: &Path) -> CliError {
        let (program, place) = (&self.program, shown(folder));
        if program.contains('/') {
            let own = folder.join(OWN_FOLDER);
            return CliError::usage(
                format!("{program} is not there in {place}, or cannot be run"),
                format!(
                    "remove {} to have the tools got again, or correct build in stem.toml",
                    shown(&own)
                ),
            );
        }
        CliError::usage(
            format!("{program} is not on PATH"),
            remedy::of(self, folder)
                .unwrap_or_else(|| "install it, or correct build in stem.toml".to_owned()),
        )
    }

    /// The program that this is about: `env` only starts another.
    pub(super) fn tool(&self) -> &str {
        if self.program != "env" {
            return &self.program;
        }
        self.arguments.iter().find(|word| !word.contains('=')).map_or("env", String::as_str)
    }

    /// Whether the word stands among the arguments.
    pub(super) fn has(&self, word: &str) -> bool {
        self.arguments.iter().any(|argument| argument == word)
    }
}

impl Talk {
    fn stdio(self) -> io::Result<Stdio> {
        match self {
            Self::Output => Ok(Stdio::inherit()),
            Self::Error => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
        }
    }
}

/// The file of a program: one with a slash lies in the project, another on the path.
pub(super) fn find_program(program: &str, folder: &Path) -> Option<PathBuf> {
    if program.contains('/') {
        // Absolute, since the program is started from another folder than this process's.
        return std::path::absolute(folder.join(program)).ok().filter(|path| can_run(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path).map(|place| place.join(program)).find(|path| can_run(path))
}

fn can_run(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}
