//! Libraries of our own that a server loads before all others: built from C, and named to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Builds the library of this name into this directory.
pub(crate) fn build(directory: &Path, name: &str, source: &str) -> Result<()> {
    let file = directory.join(format!("{name}.c"));
    fs::write(&file, source)?;
    let built = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .args([library(directory, name), file])
        .output()
        .context("no C compiler for what a server is to load: run `cargo xtask setup`")?;
    let said = String::from_utf8_lossy(&built.stderr);
    ensure!(built.status.success(), "{name}.c cannot be built: {said}");
    Ok(())
}

/// Has a server load these.
pub(crate) fn load(command: &mut Command, directory: &Path, names: &[&str]) {
    let libraries = names.iter().map(|name| library(directory, name).into_os_string());
    let all: Vec<_> = libraries.collect();
    if !all.is_empty() {
        command.env("LD_PRELOAD", all.join(std::ffi::OsStr::new(":")));
    }
}

fn library(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.so"))
}
