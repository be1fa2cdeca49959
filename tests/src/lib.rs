//! What Stem's tests share: where the repository is, and what is in it.

use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests lie in the repository").to_owned()
}

/// Every file of the repository, as paths relative to it, in order; without what git keeps and what builds make.
pub fn files() -> std::io::Result<Vec<PathBuf>> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else {
                found.push(path.strip_prefix(&root).unwrap_or(&path).to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}
