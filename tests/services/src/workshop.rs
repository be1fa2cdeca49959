//! Folders in which tests build projects. They are the same in every run, so that what tools have got and made is there the next
//! time, and tools decide by themselves what is still good of it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What tools keep in a project for the next time.
const KEPT: [&str; 4] = [".stem", ".venv", "node_modules", "target"];

/// A folder for projects, for one process at a time.
#[derive(Debug)]
pub struct Workshop {
    folder: PathBuf,
    _alone: File,
}

impl Workshop {
    /// The one of this name, below the `CARGO_TARGET_TMPDIR` of a test. Waits while another process has it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn open(tmp: &str, name: &str) -> Self {
        let folder = Path::new(tmp).join(name);
        fs::create_dir_all(&folder).expect("a folder that tests may write");
        let alone = File::create(folder.join("lock")).expect("a folder that tests may write");
        alone.lock().expect("a file that can be locked");
        Self { folder, _alone: alone }
    }

    /// Where projects are laid out.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a project of what was written elsewhere, and returns its folder. Of what lay there what tools keep stays, and
    /// a file that is as it was is not touched: by its time tools see that it has not changed. Everything else goes, what was
    /// built above all.
    ///
    /// # Panics
    /// When a file cannot be read or written.
    pub fn lay_out(&self, fresh: &Path) -> PathBuf {
        let project = self.folder.join(fresh.file_name().expect("a folder with a name"));
        lay(fresh, &project, &KEPT);
        project
    }
}

fn lay(from: &Path, to: &Path, kept: &[&str]) {
    fs::create_dir_all(to).expect("a folder that tests may write");
    let wanted = names(from);
    for name in names(to).difference(&wanted) {
        if !kept.iter().any(|kept| OsStr::new(kept) == name) {
            remove(&to.join(name));
        }
    }
    for name in wanted {
        let (source, target) = (from.join(&name), to.join(&name));
        let is_folder = source.is_dir();
        if target.symlink_metadata().is_ok_and(|there| there.is_dir() != is_folder) {
            remove(&target);
        }
        if is_folder {
            lay(&source, &target, &[]);
            continue;
        }
        let bytes = fs::read(&source).expect("a file that was just written");
        if !fs::read(&target).is_ok_and(|there| there == bytes) {
            fs::write(&target, bytes).expect("a file that tests may write");
        }
    }
}

fn names(folder: &Path) -> BTreeSet<std::ffi::OsString> {
    let entries = fs::read_dir(folder).expect("a folder that is there");
    entries.map(|entry| entry.expect("a folder that can be read").file_name()).collect()
}

fn remove(path: &Path) {
    let is_folder = path.symlink_metadata().is_ok_and(|about| about.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.expect("a file of an earlier run");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_is_not_touched_and_what_is_not_wanted_goes() {
        let tmp = tempfile::tempdir().unwrap();
        let fresh = tmp.path().join("fresh/project");
        fs::create_dir_all(fresh.join("src")).unwrap();
        fs::write(fresh.join("src/same"), "1").unwrap();
        fs::write(fresh.join("src/changed"), "1").unwrap();
        let workshop = Workshop::open(tmp.path().to_str().unwrap(), "shop");
        let project = workshop.lay_out(&fresh);
        let time = |name: &str| fs::metadata(project.join(name)).unwrap().modified().unwrap();
        let before = time("src/same");

        for folder in ["target", "node_modules", "build", "src/target"] {
            fs::create_dir_all(project.join(folder)).unwrap();
            fs::write(project.join(folder).join("made"), "").unwrap();
        }
        fs::write(project.join("module.wasm"), "").unwrap();
        fs::write(fresh.join("src/changed"), "2").unwrap();
        fs::create_dir(fresh.join("build")).unwrap();
        assert_eq!(workshop.lay_out(&fresh), project);
        assert_eq!(time("src/same"), before);
        assert_eq!(fs::read_to_string(project.join("src/changed")).unwrap(), "2");
        for (name, stays) in [
            ("target/made", true),
            ("node_modules/made", true),
            ("build/made", false),
            ("src/target", false),
            ("module.wasm", false),
        ] {
            assert_eq!(project.join(name).exists(), stays, "{name}");
        }
    }
}
