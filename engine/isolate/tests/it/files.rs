//! What guests can do with files, and what they cannot: through preview 1 and through WASI 0.2, which are different code.

mod guest;
mod lifecycle;
mod paths;
mod planted;
mod quota;
mod race;
mod spec;

use std::path::PathBuf;
use std::sync::Arc;

use stem_core::envelope::Payload;
use stem_core::grants::{Grants, Scratch};
use stem_core::outcome::Outcome;
use stem_isolate::{AttemptHost, AttemptSpec, Granted, Module, RunningIsolate, RuntimeConfig};

use self::guest::{Answer, Script};
use crate::bench::{self, Bench, config, within};

/// A sandbox whose scratch directories lie below a directory of the test's own.
pub(crate) struct Yard {
    pub(crate) bench: Bench,
    pub(crate) dir: tempfile::TempDir,
    /// The scripted guest, as preview 1 and as WASI 0.2.
    pub(crate) guests: [Arc<Module>; 2],
}

impl Yard {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::of(&RuntimeConfig {
            isolates: 8,
            scratch_dir: Some(dir.path().join("scratches")),
            ..config()
        })
        .await;
        std::fs::create_dir(dir.path().join("scratches")).unwrap();
        let core = bench.runtime.load(&guest::core()).await.unwrap();
        let component = bench.runtime.load(&guest::component()).await.unwrap();
        Self { bench, dir, guests: [core, component] }
    }

    /// The directories of attempts that are there.
    pub(crate) fn scratches(&self) -> Vec<PathBuf> {
        let list = |path: &PathBuf| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        let bases = list(&self.dir.path().join("scratches"));
        bases.iter().flat_map(list).collect::<Vec<_>>().iter().flat_map(list).collect()
    }

    /// Waits until no attempt has a scratch directory any more.
    pub(crate) async fn swept(&self) {
        let gone = async {
            while !self.scratches().is_empty() {
                tokio::task::yield_now().await;
                std::thread::yield_now();
            }
        };
        within(gone).await;
    }

    pub(crate) fn start(
        &self,
        module: &Arc<Module>,
        input: Vec<u8>,
        granted: Granted,
    ) -> RunningIsolate {
        let mut limits = self.bench.limits.clone();
        limits.result_bytes = 1 << 20;
        let spec = AttemptSpec {
            input: Payload { bytes: input, media_type: stem_core::envelope::JSON.to_owned() },
            granted: Arc::new(granted),
            ..bench::spec(b"", limits)
        };
        let worker = Arc::clone(&self.bench.worker) as Arc<dyn AttemptHost>;
        self.bench.runtime.start(module, spec, worker)
    }

    /// Runs a script to its end; one answer for each step.
    pub(crate) async fn run(
        &self,
        guest: &Arc<Module>,
        script: &Script,
        granted: Granted,
    ) -> Vec<Answer> {
        let exit = bench::exit(self.start(guest, script.bytes(), granted)).await;
        match exit.outcome {
            Outcome::Succeeded(payload) => guest::answers(&payload.bytes),
            other => panic!("{other:?}"),
        }
    }
}

/// A scratch directory of so many bytes and files.
pub(crate) fn scratch(bytes: u64, files: u64) -> Granted {
    let grants = Grants { scratch: Some(Scratch { bytes, files }), ..Grants::default() };
    Granted { grants, ..Granted::default() }
}

/// This directory as the input `x`.
pub(crate) fn input(path: PathBuf) -> Granted {
    let grants = Grants { inputs: vec!["x".to_owned()], ..Grants::default() };
    Granted { grants, inputs: [("x".to_owned(), path)].into(), ..Granted::default() }
}
