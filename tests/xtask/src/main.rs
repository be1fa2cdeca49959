//! Set-up, tests, demo and guests in one command each: `cargo xtask <command>`.

mod guests;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  guests    build the example tasks to WebAssembly, into target/stem-modules
            STEM_GUEST_STD=rustup|debian says where Rust's standard library for them comes from
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("guests") if arguments.next().is_none() => guests::build(&root()),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.ancestors().nth(2).map_or_else(|| xtask.clone(), PathBuf::from)
}
