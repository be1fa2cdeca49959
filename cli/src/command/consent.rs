//! Consent before what cannot be undone: `--yes`, or an answer on a terminal. Never silence.

use std::io::{IsTerminal, Write};

use crate::args::ConsentArgs;
use crate::error::CliError;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consent {
    /// Do it.
    Given,
    /// Only say what would be done.
    DryRun,
}

/// Asks. `deed` is what will be done, with the count, for instance "remove 3 dead letters".
pub(super) fn ask(args: ConsentArgs, deed: &str) -> Result<Consent, CliError> {
    if args.dry_run {
        return Ok(Consent::DryRun);
    }
    if args.yes {
        return Ok(Consent::Given);
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(CliError::usage(
            format!("this would {deed}, and there is no terminal to ask on; nothing was done"),
            "add --yes to do it, or --dry-run to see what is meant",
        ));
    }
    let mut answer = String::new();
    let mut stderr = std::io::stderr().lock();
    let asked = write!(stderr, "This will {deed}. Go on? [y/N] ").and_then(|()| stderr.flush());
    let read = asked.and_then(|()| std::io::stdin().read_line(&mut answer));
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(Consent::Given),
        _ => Err(CliError::usage("nothing was done", "answer y, or add --yes")),
    }
}

/// `1 dead letter`, `2 dead letters`.
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
