//! What tests have done, for whoever runs all of them.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Adds to what `cargo xtask test` sums up and prints, which fails if there is less of it than there is to be. Nothing where
/// `STEM_TEST_COUNTS` names no file.
///
/// # Panics
///
/// When `what` is not one word, or the file cannot be written.
#[track_caller]
pub fn count(what: &str, many: u64) {
    assert!(!what.is_empty() && !what.contains(char::is_whitespace), "{what:?} is one word");
    let Some(path) = std::env::var_os("STEM_TEST_COUNTS") else { return };
    // One write for a whole line, at the end whoever else writes.
    let file = OpenOptions::new().create(true).append(true).open(path);
    let line = format!("{what} {many}\n");
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("counts can be kept");
}
