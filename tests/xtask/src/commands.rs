//! The commands, as lists of steps.

use std::path::Path;

use anyhow::Result;

use crate::step::Step;
use crate::{attacks, counts, guests, published, setup, target_dir};

/// Cargo on the example tasks, which are a workspace of their own.
fn guests_cargo(root: &Path, command: &str) -> Step {
    let target = target_dir(root).join("guests");
    Step::cargo(root)
        .args([
            command,
            "--quiet",
            "--locked",
            "--manifest-path",
            "example-tasks/Cargo.toml",
            "--target-dir",
        ])
        .args([target])
}

/// Everything that a build or a test needs.
pub(crate) fn setup(root: &Path) -> Result<()> {
    setup::compiler(root)?;
    setup::services(root)?;
    setup::languages(root)?;
    published::setup(root)?;
    guests::setup(root)
}

/// Every test there is. The largest part goes last, so that the summary of its runner is what one sees.
pub(crate) fn test(root: &Path) -> Result<()> {
    setup::compiler(root)?;
    setup::services(root)?;
    setup::languages(root)?;
    published::setup(root)?;
    guests::build(root)?;
    guests_cargo(root, "test").run()?;
    let runner = Step::cargo(root).args(["nextest", "--version"]).succeeds();
    if !runner {
        println!("cargo-nextest is not installed; cargo test runs the tests");
        return Step::cargo(root).args(["test", "--workspace", "--locked", "--no-fail-fast"]).run();
    }
    // The runner leaves the examples in the documentation out.
    Step::cargo(root).args(["test", "--quiet", "--doc", "--workspace", "--locked"]).run()?;
    // Most tests wait for servers, leases and other processes for most of their time.
    let threads =
        std::thread::available_parallelism().map_or(2, |cores| cores.get() * 5 / 2).to_string();
    let words = ["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--test-threads"];
    let counted = target_dir(root).join("test-counts");
    counts::begin(&counted)?;
    // What became of hostile inputs is worth a look also where a test has failed.
    let report = target_dir(root).join("nextest/default/junit.xml");
    counts::begin(&report)?;
    let ran = Step::cargo(root).args(words).args([threads]).env(counts::FILE, &counted).run();
    let attacks = attacks::end(root, &report, &target_dir(root).join("hostile-input.md"));
    ran.and(attacks)?;
    counts::end(&counted)
}

/// The demonstration; `tests/demo` is the program that shows it.
pub(crate) fn demo(root: &Path) -> Result<()> {
    setup::compiler(root)?;
    guests::build(root)?;
    guests_cargo(root, "build")
        .args(["--package", "render-image", "--example", "natively"])
        .run()?;
    let programs = ["--bin", "stem", "--bin", "report-worker", "--bin", "demo"];
    let packages = ["-p", "stem-cli", "-p", "report", "-p", "stem-tests"];
    Step::cargo(root).args(["build", "--locked"]).args(packages).args(programs).run()?;
    Step::new(root, target_dir(root).join("debug/demo")).run()
}

/// Three workers and an operator; `example-tasks/worker-control-lab` is the program that shows them.
pub(crate) fn lab(root: &Path) -> Result<()> {
    setup::compiler(root)?;
    guests::build(root)?;
    let programs = ["--bin", "stem", "--bin", "worker-control-lab"];
    let packages = ["-p", "stem-cli", "-p", "worker-control-lab"];
    Step::cargo(root).args(["build", "--locked"]).args(packages).args(programs).run()?;
    Step::new(root, target_dir(root).join("debug/worker-control-lab")).run()
}

/// A backlog that comes and goes; `example-tasks/autoscale-demo` is the program that shows what a worker makes of it, and
/// understands these words.
pub(crate) fn autoscale(root: &Path, words: &[String]) -> Result<()> {
    setup::compiler(root)?;
    let picture = target_dir(root).join("autoscale.svg");
    Step::cargo(root)
        .args(["run", "--quiet", "--locked", "--package", "autoscale-demo", "--", "--out"])
        .args([picture])
        .args(words)
        .run()
}

/// The benchmark suite, which understands these words. Some of it runs the example tasks, and some the `stem` program.
pub(crate) fn bench(root: &Path, words: &[String]) -> Result<()> {
    setup::compiler(root)?;
    let groups: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    if groups.is_empty() || groups.iter().any(|group| *group == "languages") {
        setup::languages(root)?;
    }
    guests::build(root)?;
    let packages = ["-p", "stem-cli", "-p", "stem-bench"];
    Step::cargo(root).args(["build", "--release", "--locked"]).args(packages).run()?;
    Step::new(root, target_dir(root).join("release/stem-bench")).args(words).run()
}

/// The simulation, which understands these words. With the release build, as it computes and waits for nothing.
pub(crate) fn sim(root: &Path, words: &[String]) -> Result<()> {
    setup::compiler(root)?;
    let program = ["run", "--quiet", "--release", "--locked", "--package", "stem-sim", "--"];
    Step::cargo(root).args(program).args(words).run()
}

/// What a database of advisories holds against the lock files; the program understands these words.
pub(crate) fn audit(root: &Path, words: &[String]) -> Result<()> {
    // As part of the whole workspace, so that nothing is built that the tests do not use too.
    let program = ["build", "--quiet", "--locked", "--workspace", "--bin", "stem-audit"];
    Step::cargo(root).args(program).run()?;
    Step::new(root, target_dir(root).join("debug/stem-audit")).args(words).run()
}

/// Tasks under every kind of fault, by the program of `tests/chaos`, which understands these words.
pub(crate) fn chaos(root: &Path, words: &[String]) -> Result<()> {
    setup::compiler(root)?;
    setup::services(root)?;
    // Beside its own processes, which are the same program.
    Step::cargo(root).args(["build", "--release", "--locked", "-p", "stem-chaos"]).run()?;
    let directory = target_dir(root).join("chaos");
    Step::new(root, target_dir(root).join("release/stem-chaos"))
        .args(["soak", "--directory"])
        .args([directory])
        .args(words)
        .run()
}

/// What runs before a change is taken.
pub(crate) fn ci(root: &Path) -> Result<()> {
    Step::new(root, root.join(".ci/run")).run()
}
