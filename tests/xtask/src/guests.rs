//! `cargo xtask guests`: builds every example task for `wasm32-wasip2` and lays each out with its manifest as
//! `target/stem-modules/<name>/{<name>.wasm,stem.toml}`, the form that `stem worker start --modules` takes.

mod std_source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use self::std_source::StdSource;

const TARGET: &str = "wasm32-wasip2";

/// How a component begins: the WebAssembly magic number, then version 13 of layer 1. A core module has version 1, layer 0.
const COMPONENT_HEAD: [u8; 8] = *b"\0asm\x0d\0\x01\0";

pub(crate) fn build(root: &Path) -> Result<()> {
    let started = Instant::now();
    let tasks = root.join("example-tasks");
    let names = names(&tasks)?;
    println!("guests: {}", names.join(", "));

    let source = StdSource::find()?;
    tell(root, &source)?;
    let target_dir = crate::target_dir(root).join("guests");
    let mut cargo = cargo();
    cargo
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--manifest-path"])
        .arg(tasks.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        // Where tests that build tasks find what most of those need.
        .env("CARGO_BUILD_BUILD_DIR", crate::guest_tools(root).join("cargo-build"));
    source.apply(&mut cargo);
    run(&mut cargo).context("the guests do not build")?;

    let built = target_dir.join(TARGET).join("release");
    let modules = crate::target_dir(root).join("stem-modules");
    for name in &names {
        let size = install(name, &built, &tasks.join(name), &modules.join(name))?;
        println!("  {:<14} {:>7} KiB", name, size.div_ceil(1024));
    }
    println!("installed in {} ({:.1} s)", modules.display(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Gets the standard library for the guests, if this machine lacks it.
pub(crate) fn setup(root: &Path) -> Result<()> {
    tell(root, &StdSource::find()?)
}

/// Leaves word of where the library is for tests that build guests by themselves.
fn tell(root: &Path, source: &StdSource) -> Result<()> {
    let folder = crate::guest_tools(root);
    fs::create_dir_all(&folder)?;
    let lines = source.environment().into_iter().map(|(name, value)| format!("{name}={value}\n"));
    put(&folder.join("rust.env"), lines.collect::<String>().as_bytes())
}

/// The folders that hold a guest: those with a manifest for the worker, and something to build.
fn names(tasks: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(tasks).with_context(|| format!("cannot read {}", tasks.display()))? {
        let entry = entry?;
        let has = |file| entry.path().join(file).is_file();
        if has("stem.toml") && has("Cargo.toml") {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} holds no guests", tasks.display());
    Ok(names)
}

/// Puts one module and its manifest in place and returns the module's size. A worker may be watching the folder, so each file
/// appears whole or not at all, and one that has not changed stays untouched.
fn install(name: &str, built: &Path, source: &Path, module: &Path) -> Result<usize> {
    let wasm = artifact(name, built)?;
    let bytes = fs::read(&wasm)?;
    ensure!(bytes.starts_with(&COMPONENT_HEAD), "{} is not a component", wasm.display());
    let manifest = fs::read(source.join("stem.toml"))?;
    let line = format!("source = \"file:{name}.wasm\"");
    ensure!(
        String::from_utf8_lossy(&manifest).lines().any(|found| found.trim() == line),
        "{} has no line `{line}`",
        source.join("stem.toml").display()
    );
    fs::create_dir_all(module)?;
    put(&module.join(format!("{name}.wasm")), &bytes)?;
    put(&module.join("stem.toml"), &manifest)?;
    Ok(bytes.len())
}

/// Cargo names a library's file with underscores and a program's as the package.
fn artifact(name: &str, built: &Path) -> Result<PathBuf> {
    let library = built.join(format!("{}.wasm", name.replace('-', "_")));
    let program = built.join(format!("{name}.wasm"));
    match (library.is_file(), program.is_file()) {
        (true, _) => Ok(library),
        (false, true) => Ok(program),
        (false, false) => {
            bail!("cargo made neither {} nor {}", library.display(), program.display())
        }
    }
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)?;
    Ok(())
}

/// The cargo that runs this, without what the user or the outer cargo set for native builds.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    clean(&mut cargo);
    cargo
}

/// A wrapper or flags meant for the native build would mix two compilers' outputs.
fn clean(command: &mut Command) {
    for name in [
        "RUSTC",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
    ] {
        command.env_remove(name);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}

/// Standard output of a program that must succeed, without the line end.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("built")).unwrap();
        fs::create_dir_all(path.join("source")).unwrap();
        path
    }

    fn try_install(path: &Path) -> Result<usize> {
        install("word-count", &path.join("built"), &path.join("source"), &path.join("module"))
    }

    #[test]
    fn only_a_component_with_its_own_manifest_is_installed() {
        let path = scratch("install");
        assert!(try_install(&path).unwrap_err().to_string().contains("cargo made neither"));

        fs::write(path.join("built/word-count.wasm"), b"\0asm\x01\0\0\0").unwrap();
        assert!(try_install(&path).unwrap_err().to_string().contains("is not a component"));

        fs::write(path.join("built/word-count.wasm"), COMPONENT_HEAD).unwrap();
        fs::write(path.join("source/stem.toml"), "source = \"file:other.wasm\"\n").unwrap();
        assert!(try_install(&path).unwrap_err().to_string().contains("has no line"));
        assert!(!path.join("module").exists());

        fs::write(path.join("source/stem.toml"), "source = \"file:word-count.wasm\"\n").unwrap();
        assert_eq!(try_install(&path).unwrap(), COMPONENT_HEAD.len());
        let mut installed: Vec<_> = fs::read_dir(path.join("module"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        installed.sort();
        assert_eq!(installed, ["stem.toml", "word-count.wasm"]);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn an_unchanged_file_is_not_written_again() {
        let path = scratch("unchanged");
        let file = path.join("file");
        put(&file, b"one").unwrap();
        let first = fs::metadata(&file).unwrap().modified().unwrap();
        put(&file, b"one").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), first);
        put(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        fs::remove_dir_all(path).unwrap();
    }
}
