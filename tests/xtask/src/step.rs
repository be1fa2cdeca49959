//! Running one program as a step: said beforehand, and its exit code is ours when it fails.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result};

/// A step that ran and did not succeed.
#[derive(Debug)]
pub(crate) struct Failed {
    step: String,
    status: ExitStatus,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.status)
    }
}

impl std::error::Error for Failed {}

impl Failed {
    /// As a shell would give it: the program's own code, or 128 and the signal that ended it.
    pub(crate) fn code(&self) -> u8 {
        let code = self.status.code().or(self.status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)
    }
}

/// A program and its arguments, to be run in the repository without standard input.
pub(crate) struct Step {
    command: Command,
    shown: Vec<String>,
}

impl Step {
    pub(crate) fn new(root: &Path, program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command.current_dir(root).stdin(Stdio::null());
        Self { command, shown: vec![program.to_string_lossy().into_owned()] }
    }

    /// The cargo that runs this, without what it said of this package: build scripts look at that (that of `ring` does), and
    /// would run again, with all that depends on them, each time that cargo is called from here and not by hand.
    pub(crate) fn cargo(root: &Path) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut step = Self::new(root, cargo);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                step.command.env_remove(&*name);
            }
        }
        Self { shown: vec!["cargo".to_owned()], ..step }
    }

    /// Further arguments.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        for arg in args {
            self.shown.push(arg.as_ref().to_string_lossy().into_owned());
            self.command.arg(arg);
        }
        self
    }

    /// With this variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Says what runs, and runs it.
    pub(crate) fn run(mut self) -> Result<()> {
        let step = self.shown.join(" ");
        println!("+ {step}");
        let status = self.command.status().with_context(|| format!("cannot start {step}"))?;
        if status.success() { Ok(()) } else { Err(Failed { step, status }.into()) }
    }

    /// Whether it can be run and succeeds, without a word.
    pub(crate) fn succeeds(mut self) -> bool {
        let quiet = self.command.stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Step {
        Step::new(Path::new("/"), "sh").args(["-c", line])
    }

    #[test]
    fn the_code_of_a_failed_step_is_kept() {
        for (line, code) in [("exit 7", 7), ("kill -TERM $$", 143)] {
            let error = shell(line).run().unwrap_err();
            assert_eq!(error.downcast_ref::<Failed>().map(Failed::code), Some(code), "{line}");
        }
        assert!(shell("exit 0").run().is_ok());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Step::new(Path::new("/"), "no-such-program").run().unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
        assert!(!Step::new(Path::new("/"), "no-such-program").succeeds());
    }
}
