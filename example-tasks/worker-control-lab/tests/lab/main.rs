//! Runs the lab, and compares what it prints with the transcript in its README, line by line. `LAB_BLESS=1` writes the
//! transcript anew.
//!
//! Not run by the usual harness, since this program is also the `stem` that the lab calls: a test may not rely on a
//! program of another package, which nobody may have built, or long ago.
#![expect(clippy::unwrap_used, reason = "a test")]

mod transcript;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const NAME: &str = "the_lab_prints_what_its_readme_shows";
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- transcript: begin -->\n```text\n";
const END: &str = "```\n<!-- transcript: end -->";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = PathBuf::from(args.next().unwrap_or_default());
    if called.file_name().is_some_and(|name| name == "stem") {
        return stem_cli::run();
    }
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let asked = |flag: &str| args.iter().any(|arg| arg == flag);
    if asked("--list") {
        if !asked("--ignored") {
            println!("{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut names = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
    if asked("--ignored")
        || (names.peek().is_some() && !names.any(|name| NAME.contains(name.as_str())))
    {
        return ExitCode::SUCCESS;
    }
    let passed = test();
    println!("test {NAME} ... {}", if passed { "ok" } else { "FAILED" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where the example tasks' modules are. `cargo xtask test` builds them first.
fn modules() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")),
        PathBuf::from,
    );
    target.join("stem-modules")
}

fn test() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let stem = dir.path().join("stem");
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &stem).unwrap();
    let lab = Command::new(env!("CARGO_BIN_EXE_worker-control-lab"))
        .arg("--stem")
        .arg(&stem)
        .arg("--modules")
        .arg(modules())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let printed = String::from_utf8(lab.stdout).unwrap();
    if !lab.status.success() {
        println!("{printed}\nthe lab: {}", lab.status);
        return false;
    }
    let printed = transcript::steady(&printed);
    let readme = std::fs::read_to_string(README).unwrap();
    let (head, rest) = readme.split_once(BEGIN).unwrap();
    let (shown, tail) = rest.split_once(END).unwrap();
    if shown == printed {
        return true;
    }
    if std::env::var_os("LAB_BLESS").is_some() {
        std::fs::write(Path::new(README), format!("{head}{BEGIN}{printed}{END}{tail}")).unwrap();
        println!("{README} is written anew");
        return true;
    }
    println!("README.md (-) and the lab (+) differ:\n{}", transcript::difference(shown, &printed));
    println!(
        "LAB_BLESS=1 cargo test -p worker-control-lab --test lab writes the README's transcript anew"
    );
    false
}
