//! Set-up, tests, demonstrations, benchmarks and guests in one command each: `cargo xtask <command>`.

mod attacks;
mod commands;
mod counts;
mod deny;
mod fuzz;
mod go;
mod guests;
mod published;
mod setup;
mod step;
mod wheels;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo      build everything, and show a worker at work: under a minute after the build
  lab       build three workers, and show what an operator can do to them and their tasks
  autoscale a backlog that comes and goes, and a worker whose concurrency follows it; see autoscale --help
  test      build everything, and run every test
  guests    build the example tasks to WebAssembly, into target/stem-modules
  setup     install what builds and tests need and this machine lacks; the others do so by themselves
  bench     measure, with the release build: everything, or the groups that are named; see bench --help
  sim       whole fleets in simulated time, by seeds; see sim --help
  audit     what is known against the versions in the lock files; [--db DIRECTORY]
  deny      licences, sources and bans, by cargo deny, which comes from the Python package index
  chaos     a million tasks while everything is killed, frozen and cut off, with the release build; see chaos --help
  fuzz      libFuzzer on what reads bytes from outside; see fuzz --help
  ci        what runs before a change is taken: .ci/run

What is missing is installed: a C compiler, and for the tests Redis, Postgres, tmux,
systemd-analyze, logrotate, clang for WebAssembly, Python and npm, through the system's package manager;
Go for the tests, into the target folder; and Rust's standard library for WebAssembly. STEM_GUEST_STD=rustup|debian says where that library comes from; without
it each is tried in turn.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let words: Vec<String> = arguments.collect();
    let root = root();
    // Only these take more words.
    let takes_words =
        |name: &str| matches!(name, "audit" | "autoscale" | "bench" | "chaos" | "fuzz" | "sim");
    let done = match command.as_deref().filter(|name| words.is_empty() || takes_words(name)) {
        Some("setup") => commands::setup(&root),
        Some("guests") => guests::build(&root),
        Some("test") => commands::test(&root),
        Some("demo") => commands::demo(&root),
        Some("lab") => commands::lab(&root),
        Some("autoscale") => commands::autoscale(&root, &words),
        Some("bench") => commands::bench(&root, &words),
        Some("sim") => commands::sim(&root, &words),
        Some("audit") => commands::audit(&root, &words),
        Some("deny") => deny::run(&root),
        Some("chaos") => commands::chaos(&root, &words),
        Some("fuzz") => fuzz::run(&root, &words),
        Some("ci") => commands::ci(&root),
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
            error
                .downcast_ref::<step::Failed>()
                .map_or(ExitCode::FAILURE, |failed| failed.code().into())
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.ancestors().nth(2).map_or_else(|| xtask.clone(), PathBuf::from)
}

/// Where builds go. The guests and their modules lie in it too, beside what cargo itself puts there.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Compilers for tasks in other languages, and what tests must know of them.
fn guest_tools(root: &Path) -> PathBuf {
    target_dir(root).join("guest-tools")
}
