//! Where the guests' standard library comes from: the target of a rustup toolchain, or Debian's packages, whose compiler and
//! library sources are of one version, so that the library can be built once and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::{TARGET, clean, output, run};

const VARIABLE: &str = "STEM_GUEST_STD";
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "wasi-libc"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// What cargo must be told to find the library.
pub(super) enum StdSource {
    /// Nothing: its own toolchain has the target.
    Toolchain,
    /// A compiler and a folder in the form of a sysroot.
    Built { rustc: PathBuf, sysroot: PathBuf, linker: Linker },
}

/// Debian's compiler for the browsers comes without a linker for WebAssembly; every rustup toolchain has one.
pub(super) struct Linker {
    component_ld: PathBuf,
    wasm_ld: PathBuf,
}

#[derive(Debug, PartialEq)]
enum Choice {
    Auto,
    Rustup,
    Debian,
}

impl Choice {
    fn parse(value: &str) -> Result<Self> {
        match value {
            "" => Ok(Self::Auto),
            "rustup" => Ok(Self::Rustup),
            "debian" => Ok(Self::Debian),
            other => {
                bail!("{VARIABLE}={other} is not understood\nhint: rustup, debian, or not set")
            }
        }
    }
}

impl StdSource {
    /// Finds the library, or gets it.
    pub(super) fn find() -> Result<Self> {
        let choice = Choice::parse(&std::env::var(VARIABLE).unwrap_or_default())?;
        if choice == Choice::Debian {
            return debian().with_context(both_ways);
        }
        if toolchain_has_target() {
            println!("std for {TARGET}: part of the toolchain");
            return Ok(Self::Toolchain);
        }
        println!("std for {TARGET}: rustup target add {TARGET}");
        let added = run(Command::new("rustup").args(["target", "add", TARGET]));
        match added {
            Ok(()) if toolchain_has_target() => Ok(Self::Toolchain),
            Ok(()) => Err(anyhow::anyhow!("rustup added {TARGET} to another toolchain than this"))
                .with_context(both_ways),
            Err(error) if choice == Choice::Rustup => Err(error).with_context(both_ways),
            Err(error) => {
                println!("  not possible ({error:#}); trying Debian's packages");
                debian().with_context(both_ways)
            }
        }
    }

    pub(super) fn apply(&self, cargo: &mut Command) {
        cargo.envs(self.environment());
    }

    /// What cargo's environment must have.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let Self::Built { rustc, sysroot, linker } = self else { return Vec::new() };
        let wasm_ld = format!("-Clink-arg=--wasm-ld-path={}", linker.wasm_ld.display());
        let flags = ["--sysroot", &sysroot.display().to_string(), &wasm_ld].join("\x1f");
        vec![
            ("RUSTC", rustc.display().to_string()),
            // Encoded, since a home folder may have a space in its name. With --target these reach the guests only.
            ("CARGO_ENCODED_RUSTFLAGS", flags),
            ("CARGO_TARGET_WASM32_WASIP2_LINKER", linker.component_ld.display().to_string()),
        ]
    }
}

fn both_ways() -> String {
    format!(
        "no standard library for {TARGET}; get one by\n  rustup target add {TARGET}\nor, on Debian,\n  \
         apt-get install --no-install-recommends {}\n  {VARIABLE}=debian cargo xtask guests\nwhat went wrong",
        PACKAGES.join(" ")
    )
}

fn toolchain_has_target() -> bool {
    output(rustc().args(["--print", "target-libdir", "--target", TARGET]))
        .is_ok_and(|folder| has_std(Path::new(&folder)))
}

/// The compiler of the toolchain that runs this.
fn rustc() -> Command {
    let mut rustc = Command::new("rustc");
    clean(&mut rustc);
    rustc
}

fn has_std(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libstd-") && name.ends_with(".rlib")
        })
    })
}

fn debian() -> Result<StdSource> {
    let linker = linker()?;
    if !debian_is_there() {
        install_packages()?;
        ensure!(
            debian_is_there(),
            "the packages are installed but {DEBIAN_RUSTC} has no library sources"
        );
    }
    let version = output(Command::new(DEBIAN_RUSTC).arg("--version"))?;
    let version = version.split(' ').nth(1).context("rustc tells no version")?.to_owned();
    let cache = cache()?;
    let sysroot = cache.join(&version);
    if has_std(&library_folder(&sysroot)) {
        println!("std for {TARGET}: {version}, cached in {}", sysroot.display());
    } else {
        build_std(&cache, &version, &sysroot)?;
    }
    Ok(StdSource::Built { rustc: DEBIAN_RUSTC.into(), sysroot, linker })
}

fn linker() -> Result<Linker> {
    let sysroot = PathBuf::from(output(rustc().args(["--print", "sysroot"]))?);
    let about = output(rustc().arg("-vV"))?;
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc tells no host")?;
    let tools = sysroot.join("lib/rustlib").join(host).join("bin");
    let linker = Linker {
        component_ld: tools.join("wasm-component-ld"),
        wasm_ld: tools.join("gcc-ld/wasm-ld"),
    };
    for tool in [&linker.component_ld, &linker.wasm_ld] {
        ensure!(
            tool.is_file(),
            "no linker at {}: run cargo from a rustup toolchain",
            tool.display()
        );
    }
    Ok(linker)
}

fn debian_is_there() -> bool {
    Path::new(DEBIAN_CARGO).is_file()
        && sources().is_ok_and(|folder| folder.join("sysroot/Cargo.toml").is_file())
        && libc().is_some()
}

/// The library's sources as Debian lays them out.
fn sources() -> Result<PathBuf> {
    let sysroot = output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot).join("lib/rustlib/src/rust/library"))
}

/// Newer packages of wasi-libc have a folder for each target. The one in Debian 12 is of preview 1; the linker's built-in
/// adapter makes preview 2 of it.
fn libc() -> Option<PathBuf> {
    [format!("/usr/lib/{TARGET}"), "/usr/lib/wasm32-wasi".to_owned()]
        .map(PathBuf::from)
        .into_iter()
        .find(|folder| folder.join("libc.a").is_file())
}

fn install_packages() -> Result<()> {
    ensure!(Path::new("/usr/bin/apt-get").is_file(), "this machine has no apt-get");
    let root = output(Command::new("id").arg("-u"))? == "0";
    let apt = || {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            command.arg("apt-get");
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    let prefix = if root { "" } else { "sudo " };
    println!(
        "std for {TARGET}: {prefix}apt-get install {} (about 115 MB, once)",
        PACKAGES.join(" ")
    );
    run(apt().arg("update"))?;
    run(apt().args(["install", "--yes", "--no-install-recommends"]).args(PACKAGES))
}

/// `$XDG_CACHE_HOME/stem/guest-std`, outside the repository: `cargo clean` need not cost the library.
fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from) {
        Some(base) if base.is_absolute() => base,
        _ => PathBuf::from(
            std::env::var_os("HOME").context("neither HOME nor XDG_CACHE_HOME is set")?,
        )
        .join(".cache"),
    };
    Ok(base.join("stem/guest-std"))
}

fn library_folder(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib").join(TARGET).join("lib")
}

/// Builds beside the final place and renames, so that a folder with the version's name is always complete, whatever stopped
/// an earlier build and whoever builds at the same time.
fn build_std(cache: &Path, version: &str, sysroot: &Path) -> Result<()> {
    let started = Instant::now();
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    remove_abandoned(cache)?;
    println!(
        "std for {TARGET}: building {version} from Debian's sources (once, one to two minutes)"
    );
    let work = cache.join(format!("{}.partial", std::process::id()));
    let done = compile(&work).and_then(|()| {
        match fs::rename(work.join("sysroot"), sysroot) {
            // Another run was faster, or an incomplete folder is in the way.
            Err(_) if has_std(&library_folder(sysroot)) => Ok(()),
            Err(_) if sysroot.exists() => {
                fs::remove_dir_all(sysroot)?;
                Ok(fs::rename(work.join("sysroot"), sysroot)?)
            }
            renamed => Ok(renamed?),
        }
    });
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    done?;
    println!("  kept in {} ({:.0} s)", sysroot.display(), started.elapsed().as_secs_f64());
    Ok(())
}

fn remove_abandoned(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(process) = name.strip_suffix(".partial")
            && !Path::new("/proc").join(process).exists()
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn compile(work: &Path) -> Result<()> {
    let sources = sources()?;
    let target_dir = work.join("target");
    let mut cargo = Command::new(DEBIAN_CARGO);
    clean(&mut cargo);
    let flags = [
        // The library's unstable parts stay unstable for whoever links it.
        "-Zforce-unstable-if-unmarked".to_owned(),
        // The guests are linked with link-time optimisation.
        "-Cembed-bitcode=yes".to_owned(),
        "-Cdebuginfo=0".to_owned(),
        format!("--remap-path-prefix={}=/rustc/library", sources.display()),
    ];
    cargo
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--manifest-path"])
        .arg(sources.join("sysroot/Cargo.toml"))
        .args([
            "--no-default-features",
            "--features",
            "panic-unwind,compiler-builtins-mem",
            "--target-dir",
        ])
        .arg(&target_dir)
        .env("RUSTC", DEBIAN_RUSTC)
        // The library's own sources use unstable features; the guests get no such permission.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_DEFAULT_LIB_METADATA", "stem-guest-std")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RUSTUP_"))
    {
        cargo.env_remove(name);
    }
    run(&mut cargo).context("Debian's library sources do not build")?;

    let folder = library_folder(&work.join("sysroot"));
    let own = folder.join("self-contained");
    fs::create_dir_all(&own)?;
    for entry in fs::read_dir(target_dir.join(TARGET).join("release/deps"))? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "rlib") {
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    let libc = libc().context("wasi-libc is not installed")?;
    for name in ["crt1-command.o", "crt1-reactor.o", "libc.a"] {
        fs::copy(libc.join(name), own.join(name))
            .with_context(|| format!("no {name} in {}", libc.display()))?;
    }
    ensure!(has_std(&folder), "cargo made no libstd");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_nobody_knows_is_refused_with_the_known_ones() {
        assert_eq!(Choice::parse("").unwrap(), Choice::Auto);
        assert_eq!(Choice::parse("rustup").unwrap(), Choice::Rustup);
        assert_eq!(Choice::parse("debian").unwrap(), Choice::Debian);
        let error = Choice::parse("Debian").unwrap_err().to_string();
        assert!(
            error.contains("STEM_GUEST_STD=Debian") && error.contains("hint: rustup, debian"),
            "{error}"
        );
    }

    #[test]
    fn what_a_killed_build_left_is_removed_and_nothing_else() {
        let cache = std::env::temp_dir().join(format!("xtask-{}-abandoned", std::process::id()));
        let running = format!("{}.partial", std::process::id());
        for name in ["4194999.partial", &running, "1.96.0"] {
            fs::create_dir_all(cache.join(name)).unwrap();
        }
        remove_abandoned(&cache).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected = ["1.96.0".to_owned(), running];
        expected.sort();
        assert_eq!(left, expected.map(std::ffi::OsString::from));
        fs::remove_dir_all(cache).unwrap();
    }

    #[test]
    fn an_empty_folder_has_no_library() {
        let folder = std::env::temp_dir().join(format!("xtask-{}-std", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(!has_std(&folder));
        fs::write(folder.join("libstd-0123.rlib"), b"").unwrap();
        assert!(has_std(&folder));
        fs::remove_dir_all(folder).unwrap();
    }
}
