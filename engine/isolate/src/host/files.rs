//! What an attempt sees of the file system: nothing, unless it is granted a scratch directory or inputs.
//!
//! WASI resolves paths inside its directories. Added here is what it does not have: the quota of the scratch directory,
//! and that nothing but files and directories is opened, since opening a pipe would hold a thread for as long as nobody
//! is at its other end.

mod descriptors;
mod handles;
mod meter;
mod preview1;
mod preview2;
mod remove;
mod scratch;
mod stream;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use stem_core::outcome::{FailureKind, Outcome};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use self::handles::Handles;
use self::meter::Meter;
pub(crate) use self::preview1::add_to_linker as add_preview1_to_linker;
pub(crate) use self::preview2::add_to_linker as add_preview2_to_linker;
use self::scratch::ScratchGuard;
use self::scratch::Scratches;
pub use self::scratch::hold_base as hold_scratch_base;
use crate::granted::Granted;

/// Where a guest finds its scratch directory.
const SCRATCH: &str = "/scratch";
/// Where it finds its inputs, each below this by its name.
const INPUTS: &str = "/inputs";

/// What attempts share of the process's.
#[derive(Debug)]
pub(crate) struct Place {
    /// Where their scratch directories lie.
    pub(crate) scratches: Scratches,
    /// How many files and directories each may have open.
    open: usize,
}

impl Place {
    /// With scratch directories below this one, for so many attempts at once.
    pub(crate) fn new(below: Option<&Path>, attempts: u32) -> Self {
        Self { scratches: Scratches::new(below), open: descriptors::for_each(attempts) }
    }
}

/// The file system of one attempt, from before its guest begins until after it has ended.
#[derive(Debug)]
pub(crate) struct Files {
    granted: Arc<Granted>,
    rules: FileRules,
    scratch: Option<ScratchGuard>,
    /// Where no scratch directory keeps it.
    _room: Option<OwnedSemaphorePermit>,
}

/// What file functions look at. Default: no files at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileRules {
    /// The quota, where there is a scratch directory.
    meter: Option<Arc<Meter>>,
    /// Whether there may be something else than files and directories.
    inputs: bool,
    /// What a component holds.
    handles: Option<Arc<Handles>>,
}

/// [`FileRules`] for a core module, whose files are numbers.
#[derive(Debug, Default)]
pub(crate) struct CoreFiles {
    rules: FileRules,
    /// What it has opened, and up to where that is paid for, at least.
    open: BTreeMap<u32, u64>,
}

impl From<FileRules> for CoreFiles {
    fn from(rules: FileRules) -> Self {
        Self { rules, open: BTreeMap::new() }
    }
}

impl Granted {
    /// Whether its guests see any file, or cannot be run without.
    pub(crate) fn needs_files(&self) -> bool {
        let commands = self.input_file.is_some() || self.result_file.is_some();
        self.grants.scratch.is_some() || !self.inputs.is_empty() || commands
    }
}

impl Files {
    /// Makes the scratch directory; with the payload of a command as a file in it, if that is asked for. `room` is kept
    /// until the directory is gone. An error is the attempt's outcome.
    pub(crate) async fn prepare(
        place: Arc<Place>,
        granted: Arc<Granted>,
        payload: Option<&mut Vec<u8>>,
        room: OwnedSemaphorePermit,
    ) -> Result<Self, Outcome> {
        let rules = FileRules {
            meter: granted.grants.scratch.map(|quota| Arc::new(Meter::new(quota))),
            inputs: !granted.inputs.is_empty(),
            handles: Some(Arc::new(Handles::new(place.open))),
        };
        let Some(meter) = rules.meter.clone() else {
            let file = granted.input_file.as_ref().or(granted.result_file.as_ref());
            if let Some(path) = file.filter(|_| payload.is_some()) {
                let message = format!("it needs {path}, and no scratch directory is granted");
                return Err(Outcome::fatal(FailureKind::Error, "denied", &message));
            }
            return Ok(Self { granted, rules, scratch: None, _room: Some(room) });
        };
        let input = match (&granted.input_file, payload) {
            (Some(path), Some(payload)) => Some((path.clone(), std::mem::take(payload))),
            _ => None,
        };
        if let Some((path, bytes)) = &input
            && !(meter.take_file() && meter.take_bytes(bytes.len() as u64))
        {
            let message =
                format!("the payload does not fit into {path}; see the handler's grants.scratch");
            return Err(Outcome::fatal(FailureKind::PayloadTooLarge, "input-too-large", &message));
        }
        let blocking = tokio::runtime::Handle::current();
        let made = tokio::task::spawn_blocking(move || {
            let scratches = &place.scratches;
            let made = scratches.make().map_err(|error| {
                let directory = scratches.base().display();
                tracing::warn!(%directory, %error, "no scratch directory can be made");
                error
            })?;
            if let Some((path, bytes)) = input {
                let path = made.path().join(in_scratch(&path)?);
                std::fs::write(path, bytes)?;
            }
            Ok(made)
        });
        // Whoever asked for the task need not know where the worker keeps things; its log tells.
        let scratch = joined(made.await).map_err(|error| {
            let kind = error.kind();
            unavailable(&format!("the worker has no scratch directory for it: {kind}"))
        })?;
        let scratch = Some(scratch.guard(room, blocking));
        Ok(Self { granted, rules, scratch, _room: None })
    }

    /// What the guest's file functions look at.
    pub(crate) fn rules(&self) -> FileRules {
        self.rules.clone()
    }

    /// Opens the directories for the guest. An error is the attempt's outcome.
    pub(crate) async fn mount(&self, mut wasi: WasiCtxBuilder) -> Result<WasiCtxBuilder, Outcome> {
        let scratch = self.scratch.as_ref().map(|scratch| scratch.path().to_owned());
        let granted = Arc::clone(&self.granted);
        let mounted = tokio::task::spawn_blocking(move || {
            if let Some(path) = scratch {
                // Also as the current directory: many programs write beside themselves.
                for name in [SCRATCH, "."] {
                    wasi.preopened_dir(&path, name, FsPerms::ReadWrite)
                        .map_err(|error| format!("its scratch directory: {error:#}"))?;
                }
            }
            for (name, path) in &granted.inputs {
                wasi.preopened_dir(path, format!("{INPUTS}/{name}"), FsPerms::ReadOnly).map_err(
                    |error| {
                        let directory = path.display();
                        tracing::warn!(%directory, "the directory of input {name} cannot be opened: {error:#}");
                        format!("its input {name}: {error:#}")
                    },
                )?;
            }
            Ok::<_, String>(wasi)
        });
        match mounted.await {
            Ok(Ok(wasi)) => Ok(wasi),
            Ok(Err(problem)) => Err(unavailable(&format!("the worker cannot open {problem}"))),
            Err(error) => Err(unavailable(&format!("the worker cannot open its files: {error}"))),
        }
    }

    /// The file that holds a command's result, if it is a file's: `Ok(None)` for one over the limit. An error is the
    /// attempt's outcome. The guest has ended, and what it left may be anything.
    pub(crate) async fn result(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Outcome> {
        let name = in_scratch(path).map(str::to_owned);
        let directory = self.scratch.as_ref().map(|scratch| scratch.path().to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let path = directory.ok_or(io::ErrorKind::NotFound)?.join(name?);
            // Neither a link to somewhere else nor anything that waits.
            let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
            let flags = flags.bits().cast_signed();
            let file = File::options().read(true).custom_flags(flags).open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            let mut bytes = Vec::new();
            file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok((bytes.len() as u64 <= limit).then_some(bytes))
        });
        joined(read.await).map_err(|error| {
            let message = format!("it ended well, but {path} cannot be read: {error}");
            Outcome::failed(FailureKind::Error, "no-result", &message)
        })
    }
}

/// The name of a file right in the scratch directory, where no link of the guest's can stand in between.
fn in_scratch(path: &str) -> io::Result<&str> {
    path.strip_prefix(SCRATCH)
        .and_then(|path| path.strip_prefix('/'))
        .filter(|name| !matches!(*name, "" | "." | "..") && !name.contains(['/', '\0']))
        .ok_or_else(|| {
            io::Error::other(format!("{path} is not the path of a file right in {SCRATCH}"))
        })
}

/// A payload as the file that a command finds. One that is a JSON string is its text, since JSON is all that most
/// producers write.
pub(crate) fn as_file(payload: Vec<u8>, media_type: &str) -> Vec<u8> {
    if media_type != stem_host_abi::JSON {
        return payload;
    }
    serde_json::from_slice::<String>(&payload).map_or(payload, String::into_bytes)
}

/// Whether a command's payload or result may be in this file.
pub fn is_scratch_file(path: &str) -> bool {
    in_scratch(path).is_ok()
}

fn joined<T>(done: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Something of this worker's is missing or full: another attempt, perhaps elsewhere, may have it.
fn unavailable(message: &str) -> Outcome {
    Outcome::failed(FailureKind::Error, "host-unavailable", message)
}
