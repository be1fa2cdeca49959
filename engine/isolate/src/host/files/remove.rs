//! Removes a directory whatever a guest made in it. The standard library descends with an open directory and a stack
//! frame for each level; a guest may make ten thousand levels.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Removes a directory with everything in it, following no links. None is no error. Nobody else may change it meanwhile,
/// but for a last call of its guest that is still under way.
pub(super) fn remove_tree(root: &Path) -> io::Result<()> {
    let mut number = 0_u64;
    loop {
        match fs::remove_dir(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => return Err(error),
            Err(_) => gone(empty(root, &mut number))?,
            Ok(()) => return Ok(()),
        }
    }
}

/// Removes everything in a directory. What is deeper is first moved up, so that no path grows long.
fn empty(root: &Path, number: &mut u64) -> io::Result<()> {
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        // Read to the end first: what is moved up would come up again.
        let entries: Vec<_> = match fs::read_dir(&directory) {
            // Moved by a call that was still under way; the caller looks again.
            Err(error) if error.kind() == ErrorKind::NotFound && directory != root => continue,
            entries => entries?.collect::<Result<_, _>>()?,
        };
        for entry in entries {
            if !entry.file_type()?.is_dir() {
                gone(fs::remove_file(entry.path()))?;
                continue;
            }
            // Most are empty. One that is not gets a name that no other has, or the next one.
            match fs::remove_dir(entry.path()) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                    let moved = loop {
                        *number += 1;
                        let moved = root.join(format!(".removed-{number}"));
                        if fs::symlink_metadata(&moved).is_err() {
                            break moved;
                        }
                    };
                    match fs::rename(entry.path(), &moved) {
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        renamed => {
                            renamed?;
                            waiting.push(moved);
                        }
                    }
                }
                removed => gone(removed)?,
            }
        }
        if directory != root {
            match fs::remove_dir(&directory) {
                // A call that was still under way made something more; the caller looks again.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                removed => gone(removed)?,
            }
        }
    }
    Ok(())
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_that_still_changes_goes() {
        let below = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let root = below.path().join(round.to_string());
            for directory in 0..50 {
                let directory = root.join(directory.to_string());
                fs::create_dir_all(directory.join("a/b")).unwrap();
                fs::write(directory.join("file"), "text").unwrap();
            }
            let guest = root.clone();
            let guest = std::thread::spawn(move || {
                for step in 0..2_000 {
                    let (from, to) = (step % 50, step * 7 % 50);
                    let moved = guest.join(to.to_string()).join("moved");
                    let _ = fs::rename(guest.join(from.to_string()), moved);
                }
            });
            remove_tree(&root).unwrap();
            guest.join().unwrap();
            assert!(!root.exists());
        }
    }

    #[test]
    fn deep_wide_and_linked_trees_go_and_nothing_else_does() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "text").unwrap();
        let root = outside.path().join("root");
        fs::create_dir(&root).unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        symlink(outside.path(), root.join(".removed-1")).unwrap();
        fs::create_dir(root.join(".removed-2")).unwrap();
        for number in 0..500 {
            fs::write(root.join(format!("file-{number}")), "").unwrap();
        }
        // Deeper than a path may be long: each level is made above the last.
        let mut inner = root.join("inner");
        fs::create_dir(&inner).unwrap();
        for level in 0..3_000 {
            let outer = root.join(format!("outer-{level}"));
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join("inner")).unwrap();
            fs::write(outer.join("beside"), "").unwrap();
            inner = outer;
        }
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "text");
        remove_tree(&root).unwrap();
    }
}
