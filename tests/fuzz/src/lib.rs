//! Everything that Stem reads and others may have written, as plain functions over any bytes: [`TARGETS`]. Each says what
//! must hold of whatever comes, beside that nothing panics, and is run by two drivers.
//!
//! | driver | what it is | when |
//! |---|---|---|
//! | `tests/smoke.rs` | the corpus, then [`search`]: a seeded [mutator](mutate) that keeps what led to an answer it had not seen | with all tests |
//! | `libfuzzer/` | libFuzzer, which sees the branches that are taken; built without nightly and without a sanitizer | `cargo xtask fuzz` |
//!
//! A corpus lies in `corpus/TARGET`. Files whose names begin with `good` are read, those with `bad` refused. What a driver
//! finds is put there, under a name that says what it is, together with the repair.
//!
//! | variable | what it sets | unless it is set |
//! |---|---|---|
//! | `STEM_TEST_FUZZ` | seconds of each target | 4 |
//! | `STEM_TEST_SEED` | repeats the inputs of a run that has printed it | another each time |

#[cfg(feature = "engine")]
pub mod control;
pub mod env_file;
pub mod envelope;
#[cfg(feature = "engine")]
pub mod manifest;
#[cfg(feature = "engine")]
pub mod module;
pub mod mutate;
pub mod revokes;
pub mod search;
mod told;

use std::path::{Path, PathBuf};

/// What was made of an input. The words tell answers apart, for a driver that looks for new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// It is what it claims to be.
    Read(String),
    /// It is not, and whoever asks is told this.
    Refused(String),
}

/// One reader of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also the name of its corpus and of its program for libFuzzer.
    pub name: &'static str,
    /// Panics if what must hold of these bytes does not.
    pub check: fn(&[u8]) -> Met,
    /// Words that mean something to it.
    pub words: &'static [&'static str],
}

/// Each of them.
pub const TARGETS: &[Target] = &[
    Target { name: "envelope", check: envelope::check, words: envelope::WORDS },
    Target { name: "env-file", check: env_file::check, words: env_file::WORDS },
    Target { name: "revokes", check: revokes::check, words: revokes::WORDS },
    #[cfg(feature = "engine")]
    Target { name: "control", check: control::check, words: control::WORDS },
    #[cfg(feature = "engine")]
    Target { name: "manifest", check: manifest::check, words: manifest::WORDS },
    #[cfg(feature = "engine")]
    Target { name: "module", check: module::check, words: module::WORDS },
];

/// The files of a target's corpus with their names, in order.
pub fn corpus(target: &str) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, std::fs::read(path)?))
        })
        .collect()
}

/// A directory of this thread's own, in memory where there is a place for that: some targets read files, and many.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory can be made for temporary files")
}
