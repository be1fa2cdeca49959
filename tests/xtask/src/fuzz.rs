//! libFuzzer on each target of `tests/fuzz`, for a while, and a table of what came of it.
//!
//! The coverage that it is led by is LLVM's own, which a stable compiler can put in (`sancov-module`). An address
//! sanitizer needs a nightly one and is left out: the readers are safe Rust throughout, and what it would look at is the
//! code of others.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::step::Step;
use crate::{setup, target_dir};

const USAGE: &str = "\
usage: cargo xtask fuzz [TARGET…] [--seconds N]

  --seconds   of each target; 60 unless it is given

Targets: ";

/// Those that are built in a minute, and those that bring the sandbox, which takes many.
const SMALL: [&str; 3] = ["envelope", "env-file", "revokes"];
const LARGE: [&str; 3] = ["control", "manifest", "module"];

/// Counters in front of every branch, and comparisons told to libFuzzer: as cargo-fuzz passes them, but for `--cfg
/// fuzzing`, with which some crates are others than those that are shipped.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// A target that takes longer for one input is stuck, in seconds; one that takes more memory is a way to fill it, in MiB.
const TIMEOUT: u32 = 10;
const MEMORY: u32 = 2_048;

/// Builds and runs the targets that are named, or all of them. An input of which something does not hold is an error that
/// names its file.
pub(crate) fn run(root: &Path, words: &[String]) -> Result<()> {
    let Some(Asked { targets, seconds }) = asked(words)? else {
        println!("{USAGE}{}", known().join(" "));
        return Ok(());
    };
    setup::compilers(root)?;
    let out = target_dir(root).join("fuzz");
    let host = host()?;
    let mut build = Step::cargo(root)
        .args([
            "build",
            "--release",
            "--locked",
            "--manifest-path",
            "tests/fuzz/libfuzzer/Cargo.toml",
        ])
        .args(["--target", &host, "--target-dir"])
        .args([&out])
        .env("RUSTFLAGS", FLAGS.join(" "));
    if !targets.iter().any(|target| LARGE.contains(target)) {
        build = build.args(["--no-default-features"]);
    }
    build.args(targets.iter().flat_map(|target| ["--bin", target])).run()?;

    let mut table = "| target | inputs tried | branches reached | inputs kept | memory |\n|---|---|---|---|---|\n".to_owned();
    for target in targets {
        let (kept, found) = (out.join("corpus").join(target), out.join("found").join(target));
        for folder in [&kept, &found] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let log = out.join(format!("{target}.log"));
        println!("+ {target} for {seconds} s, into {}", log.display());
        let writes = std::fs::File::create(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let status = Command::new(out.join(&host).join("release").join(target))
            .current_dir(root)
            // New inputs go into the first of these.
            .args([kept, root.join("tests/fuzz/corpus").join(target)])
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .args(["-max_len=16384", "-print_final_stats=1"])
            .stdout(writes.try_clone()?)
            .stderr(writes)
            .status()
            .with_context(|| format!("cannot start {target}"))?;
        let said = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        if !status.success() {
            let last: Vec<&str> = said.lines().rev().take(40).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            println!("{}", last.join("\n"));
            bail!(
                "{target}: {status}; the input is in {}, all of it in {}",
                found.display(),
                log.display()
            );
        }
        let row =
            Row::of(&said).with_context(|| format!("{} says nothing of its end", log.display()))?;
        let Row { tried, branches, kept, memory } = row;
        writeln!(table, "| {target} | {tried} | {branches} | {kept} | {memory} MiB |")?;
    }
    println!("\n{table}");
    Ok(())
}

fn known() -> Vec<&'static str> {
    SMALL.into_iter().chain(LARGE).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    targets: Vec<&'static str>,
    seconds: u32,
}

/// Nothing where help is asked for.
fn asked(words: &[String]) -> Result<Option<Asked>> {
    let mut asked = Asked { targets: Vec::new(), seconds: 60 };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--help" | "-h" => return Ok(None),
            "--seconds" => {
                let seconds = words.next().and_then(|text| text.parse().ok());
                asked.seconds = seconds
                    .filter(|seconds| *seconds > 0)
                    .context("--seconds takes a number above 0")?;
            }
            name => match known().into_iter().find(|known| *known == name) {
                Some(target) if !asked.targets.contains(&target) => asked.targets.push(target),
                Some(_) => {}
                None => bail!("there is no target {name:?}; there are {}", known().join(", ")),
            },
        }
    }
    if asked.targets.is_empty() {
        asked.targets = known();
    }
    Ok(Some(asked))
}

/// The platform of this machine, by the name that cargo takes. Naming it keeps the flags from build scripts and macros,
/// which run outside of libFuzzer.
fn host() -> Result<String> {
    let told = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say for which platform it compiles")
}

/// What libFuzzer says at its end.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    tried: u64,
    branches: u64,
    kept: u64,
    memory: u64,
}

impl Row {
    fn of(said: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits: String =
                text.trim_start().chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        let stat = |name: &str| number(said.rsplit_once(name)?.1);
        let done = said.lines().rfind(|line| line.contains("DONE"))?;
        let after = |name: &str| number(done.split_once(name)?.1);
        Some(Self {
            tried: stat("stat::number_of_executed_units:")?,
            branches: after("cov:")?,
            kept: after("corp:")?,
            memory: stat("stat::peak_rss_mb:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn targets_and_seconds_are_taken_in_any_order_and_nothing_else() {
        let all = asked(&[]).unwrap().unwrap();
        assert_eq!((all.targets.len(), all.seconds), (6, 60));
        let some = asked(&words("revokes --seconds 5 envelope revokes")).unwrap().unwrap();
        assert_eq!(some, Asked { targets: vec!["revokes", "envelope"], seconds: 5 });
        assert_eq!(asked(&words("envelope --help")).unwrap(), None);
        for bad in ["nothing", "--seconds", "--seconds 0", "--seconds x", "--jobs 2"] {
            assert!(asked(&words(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_end_of_a_run_is_read() {
        let said = "#2\tINITED cov: 3 ft: 4 corp: 1/1b\n#90\tDONE   cov: 812 ft: 3100 corp: 245/31Kb lim: 4096 exec/s: 30 rss: 99Mb\n\
                    Done 90 runs in 3 second(s)\nstat::number_of_executed_units: 90\nstat::peak_rss_mb:              101\n";
        assert_eq!(Row::of(said), Some(Row { tried: 90, branches: 812, kept: 245, memory: 101 }));
        assert_eq!(Row::of("==1== ERROR: libFuzzer: deadly signal"), None);
    }
}
