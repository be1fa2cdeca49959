//! Puts into the program what `stem task new` writes: the templates and libraries under `guest-sdk`, and the WIT files.
//! Lists them as a table of paths in the repository and texts, so that no list of files has to be kept by hand.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What is put in, as folders and files of the repository.
const ROOTS: [&str; 17] = [
    "guest-sdk/c/library",
    "guest-sdk/c/template",
    "guest-sdk/go/library",
    "guest-sdk/go/template",
    "guest-sdk/javascript/library",
    "guest-sdk/javascript/template",
    "guest-sdk/javascript/template-typescript",
    "guest-sdk/python/library",
    "guest-sdk/python/template",
    "guest-sdk/rust/template",
    // The crate with what it depends on by path.
    "guest-sdk/rust/Cargo.toml",
    "guest-sdk/rust/src",
    "guest-sdk/rust/macros",
    "guest-sdk/rust/vendored",
    "host-abi/Cargo.toml",
    "host-abi/src",
    "host-abi/wit",
];

/// What builds and tests leave in those folders.
const LEFT_OUT: [&str; 6] = [".stem", ".venv", "__pycache__", "build", "node_modules", "target"];

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let repository = folder.parent().expect("this crate lies in the repository");
    let mut files = Vec::new();
    for root in ROOTS {
        println!("cargo::rerun-if-changed={}", repository.join(root).display());
        collect(&repository.join(root), &mut files)?;
    }
    files.sort();
    let mut table = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(repository).expect("it lies in the repository");
        let text = |path: &Path| path.to_str().expect("the paths here are UTF-8").to_owned();
        // As the debug form of a string it is a Rust literal, whatever is in a path.
        let (name, file) = (text(name), text(&file));
        writeln!(table, "({name:?}, include_str!({file:?})),").expect("a string takes text");
    }
    table.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("skeletons.rs"), table)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        if path.extension().is_none_or(|ending| ending != "wasm") {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}
