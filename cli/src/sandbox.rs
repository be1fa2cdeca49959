//! The sandbox as this program sets it up, and modules given as files.

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;

use stem_core::id::{TaskName, WorkerId};
use stem_core::limits::Limits;
use stem_engine::manifest::HandlerManifest;
use stem_engine::modules::{self, Found, ModulesError};
use stem_engine::policy::PolicyFile;
use stem_engine::signing::TrustFile;
use stem_engine::{WorkerConfig, units};
use stem_isolate::compile::CompileError;
use stem_isolate::runtime::RuntimeError;
use stem_isolate::{Compiler, IsolateRuntime, LoadError, RuntimeConfig};

use crate::error::CliError;
use crate::output::say;
use crate::settings::{Settings, module_cache};

/// A sandbox for so many isolates at once. Compiles in a child process; keeps compiled code in the user's cache.
pub fn start(isolates: u32) -> Result<Arc<IsolateRuntime>, CliError> {
    let mut config = RuntimeConfig {
        isolates,
        memory_cap_bytes: RuntimeConfig::MEMORY_CAP_BYTES,
        threads: std::thread::available_parallelism().map_or(1, NonZero::get),
        slice: RuntimeConfig::SLICE,
        compiler: Compiler::Child {
            program: crate::THIS_PROGRAM.into(),
            args: vec![crate::COMPILE.to_owned()],
            // This program's allocator would reserve a GiB at its start, which is all that the child may have.
            env: vec![("MIMALLOC_ARENA_RESERVE".to_owned(), "0".to_owned())],
        },
        cache_dir: module_cache(),
        scratch_dir: None,
    };
    let started = match IsolateRuntime::new(&config) {
        Err(RuntimeError::Cache(error)) => {
            tracing::warn!(%error, "compiled modules are not kept between starts");
            config.cache_dir = None;
            IsolateRuntime::new(&config)
        }
        started => started,
    };
    started.map_err(|error| match error {
        RuntimeError::Mappings(problem) => {
            CliError::usage(problem, "use a lower --concurrency, or raise the limit")
        }
        error => CliError::failed(error, "check the limits of this process (ulimit -a)"),
    })
}

/// Whose pushed modules may run; anybody's where no list is named.
pub fn trust(settings: &Settings) -> Result<Option<Arc<TrustFile>>, CliError> {
    let Some(path) = &settings.module_trust.value else { return Ok(None) };
    TrustFile::open(path).map(|list| Some(Arc::new(list))).map_err(|problem| {
        CliError::usage(
            format!("the trust list {} cannot be used: {problem}", path.display()),
            "write a public key (`stem module key show FILE`), a space and a name on each line",
        )
    })
}

/// What no handler gets more of.
pub fn limits_cap() -> Limits {
    let name = WorkerId::new("limits").expect("a constant that follows the rules");
    WorkerConfig::new(name).limits_cap
}

/// What says how modules are capped; nothing does where no file is named. Says what is unsafe about it.
pub fn policy(settings: &Settings) -> Result<Arc<PolicyFile>, CliError> {
    let Some(path) = &settings.policy.value else { return Ok(Arc::default()) };
    let file = PolicyFile::open(path).map_err(|error| {
        CliError::usage(
            format!("the policy {error}"),
            "correct the file, or name another with --policy; docs/operations.md has a whole one",
        )
    })?;
    for warning in file.current().warnings() {
        say(format!("warning: {warning}"));
    }
    Ok(Arc::new(file))
}

/// A module's file with what the `stem.toml` beside it says, if it names it; else with the defaults.
pub fn find(file: &Path, wanted: Option<&TaskName>) -> Result<Found, CliError> {
    let unreadable = |error: std::io::Error| {
        CliError::usage(
            format!("cannot read {}: {error}", file.display()),
            "give the path of a .wasm file",
        )
    };
    let about = std::fs::metadata(file).map_err(unreadable)?;
    if !about.is_file() {
        return Err(CliError::usage(
            format!("{} is not a file", file.display()),
            "give the path of a .wasm file",
        ));
    }
    // Opened here so that a file that cannot be read is told from one that is refused.
    std::fs::File::open(file).map_err(unreadable)?;
    let manifest = file.with_file_name("stem.toml");
    let mut described: Vec<HandlerManifest> = Vec::new();
    if manifest.exists() {
        let source = file.file_name().unwrap_or_default().to_string_lossy();
        let handlers = modules::read_manifest(&manifest).map_err(refused)?;
        described.extend(handlers.into_iter().filter(|handler| handler.source == source));
    }
    choose(file, &described, wanted)
}

/// A module's file with the one of its handlers that is wanted, or the only one.
pub fn choose(
    file: &Path,
    described: &[HandlerManifest],
    wanted: Option<&TaskName>,
) -> Result<Found, CliError> {
    let names = || described.iter().map(|handler| handler.name.to_string()).collect::<Vec<_>>();
    let manifest = match (wanted, described) {
        (None, [only]) => only.clone(),
        (None, []) => defaults(file, None),
        (None, several) => {
            return Err(CliError::usage(
                format!(
                    "{} serves {} task names: {}",
                    file.display(),
                    several.len(),
                    names().join(", ")
                ),
                "choose one with --name",
            ));
        }
        (Some(name), []) => defaults(file, Some(name)),
        (Some(name), several) => {
            several.iter().find(|handler| handler.name == *name).cloned().ok_or_else(|| {
                let near = units::nearest(
                    name.as_str(),
                    several.iter().map(|handler| handler.name.as_str()),
                )
                .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                CliError::usage(
                    format!("{} does not serve {name}{near}", file.display()),
                    format!("it serves {}", names().join(", ")),
                )
            })?
        }
    };
    Ok(Found { path: file.to_owned(), manifest })
}

/// The name of a module whose file's name is not a task name.
const UNNAMED: &str = "module";

/// A handler that no manifest describes.
fn defaults(file: &Path, name: Option<&TaskName>) -> HandlerManifest {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.cloned().or_else(|| TaskName::new(&*stem).ok());
    let name =
        name.unwrap_or_else(|| TaskName::new(UNNAMED).expect("a constant that follows the rules"));
    let source = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    HandlerManifest::plain(name, source)
}

/// A module or manifest that is refused, with what to do.
pub fn refused(error: ModulesError) -> CliError {
    match &error {
        ModulesError::Read { .. } => {
            CliError::usage(error, "give a directory or file that this user can read")
        }
        ModulesError::Manifest(_) => {
            CliError::usage(error, "correct the manifest; it describes handlers as [handlers.NAME]")
        }
        ModulesError::Name { .. } => CliError::usage(
            error,
            "each task name is served by one module: rename one, or give it a manifest",
        ),
        ModulesError::Mismatch { .. } => {
            CliError::usage(error, "build the module again, or correct its manifest")
        }
        ModulesError::Load { source, .. } => {
            let hint = load_hint(source);
            CliError::usage(error, hint)
        }
    }
}

/// What to do about a module that is refused.
pub fn load_hint(error: &LoadError) -> &'static str {
    match error {
        LoadError::NotAdmitted(_) => {
            "give a binary .wasm file, a component or a core module, within the bounds"
        }
        LoadError::Compile(CompileError::Invalid(_)) => "build it without experimental features",
        LoadError::Compile(CompileError::TooSlow(_) | CompileError::Died(_)) => {
            "make the module smaller, or split its largest functions"
        }
        LoadError::Compile(CompileError::Unavailable(_)) => {
            "check that this program's file can be executed"
        }
        LoadError::UnknownImports(_) => {
            "build it for the interfaces a worker offers: stem:task 0.1 and WASI up to 0.2.12, or preview 1"
        }
        LoadError::NotATask { .. } => {
            "export stem:task/handler, or make it a program with a main function"
        }
        LoadError::Link(_) => "build it again with a current toolchain",
    }
}
