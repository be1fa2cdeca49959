//! The task `word-count` as a plain WASI command: arguments as JSON on standard input, the result as JSON on standard
//! output, a failure as a `stem-error:` line on standard error. It knows nothing of Stem otherwise and runs on any machine.

mod count;

use std::io::{Read, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    text: String,
}

/// `EX_DATAERR`: the input is wrong, and will be the next time.
const WRONG_INPUT: u8 = 65;
/// `EX_TEMPFAIL`: the streams failed, not the work.
const TRY_AGAIN: u8 = 75;

fn main() -> ExitCode {
    let mut input = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut input) {
        return failed(TRY_AGAIN, "retryable", "input", &error.to_string());
    }
    let args: Args = match serde_json::from_slice(&input) {
        Ok(args) => args,
        Err(error) => return failed(WRONG_INPUT, "fatal", "invalid-arguments", &error.to_string()),
    };
    match print(&count::count(&args.text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(TRY_AGAIN, "retryable", "output", &error.to_string()),
    }
}

fn print(counts: &count::Counts) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, counts)?;
    writeln!(stdout)
}

#[derive(Serialize)]
struct Failure<'a> {
    kind: &'a str,
    code: &'a str,
    message: &'a str,
}

/// The exit code says it where it arrives; most WASI hosts learn no more than "failed", so the line says it too.
fn failed(exit: u8, kind: &str, code: &str, message: &str) -> ExitCode {
    let failure = Failure { kind, code, message };
    let report = serde_json::to_string(&failure).expect("three texts can be written");
    eprintln!("stem-error: {report}");
    ExitCode::from(exit)
}
