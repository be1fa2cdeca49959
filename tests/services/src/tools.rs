//! The compilers for tasks that `cargo xtask setup` got, for tests that build some.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is meant for the build of the tests themselves and not for that of a task.
const NOT_THEIRS: [&str; 5] = [
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
];

/// Where builds go, and in it what was got for tests.
fn target() -> PathBuf {
    let named = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let named = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"));
    // Absolute: programs are started in other folders.
    std::path::absolute(&named).unwrap_or(named)
}

/// Variables for a program that builds tasks, beside the `HOME` of whoever runs the tests: those of [`native`], and what leads
/// cargo to the standard library for WebAssembly.
///
/// # Panics
/// When the tools are not there.
pub fn environment() -> Vec<(OsString, OsString)> {
    let about_rust = target().join("guest-tools/rust.env");
    let about_rust = fs::read_to_string(&about_rust).unwrap_or_else(|error| {
        panic!("{}: {error}: run `cargo xtask setup`", about_rust.display())
    });
    let lines = about_rust.lines().filter_map(|line| line.split_once('='));
    native().into_iter().chain(lines.map(|(name, value)| (name.into(), value.into()))).collect()
}

/// Takes from a program what is meant for the tests and not for the tasks that it builds: also every setting of Stem.
pub fn clean(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("STEM_") || NOT_THEIRS.contains(&text.as_ref()) {
            command.env_remove(name);
        }
    }
}

/// Variables for a program that tests tasks without WebAssembly: where tools are, and caches that tests share.
pub fn native() -> Vec<(OsString, OsString)> {
    let tools = target().join("guest-tools");
    let mut places = vec![tools.join("go/bin")];
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(places).expect("the path was one before");
    vec![
        ("PATH".into(), path),
        ("GOCACHE".into(), tools.join("go-cache").into()),
        // What tasks in Rust need is compiled once for all of them.
        ("CARGO_BUILD_BUILD_DIR".into(), tools.join("cargo-build").into()),
        // The Go that is there and no other.
        ("GOTOOLCHAIN".into(), "local".into()),
    ]
}
