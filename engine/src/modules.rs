//! A directory of modules: `stem.toml` files and `.wasm` files, in it and in the directories right below it.
//!
//! A `.wasm` file that no manifest names is a handler by the name of the file, with the default limits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stem_core::id::TaskName;
use stem_core::limits::Limits;
use stem_core::task::ModuleRef;
use stem_isolate::{Granted, IsolateRuntime, LoadError, Module, ModuleKind, OnFailure};

use crate::manifest::{self, HandlerManifest, ManifestError};
use crate::policy::{Origin, Policy, Resolved};

/// Largest manifest.
const MANIFEST_BYTES: u64 = 1 << 20;

/// A handler that runs as an isolate.
#[derive(Clone, Debug)]
pub struct ModuleHandler {
    /// The task name it serves.
    pub name: TaskName,
    /// Its code.
    pub module: Arc<Module>,
    /// What it gets: what it asks for, capped by the worker.
    pub limits: Limits,
    /// What a failure without words means.
    pub on_failure: OnFailure,
    /// What its author calls this version.
    pub version: Option<String>,
    /// What it may reach.
    pub granted: Arc<Granted>,
}

impl ModuleHandler {
    /// A module that serves a name as its manifest says, with what it gets.
    pub fn new(manifest: &HandlerManifest, module: Arc<Module>, resolved: Resolved) -> Self {
        Self {
            name: manifest.name.clone(),
            module,
            limits: resolved.limits,
            on_failure: manifest.on_failure,
            version: manifest.version.clone(),
            granted: resolved.granted,
        }
    }

    /// What is written into the task's record.
    pub fn reference(&self) -> ModuleRef {
        ModuleRef { digest: self.module.digest(), version: self.version.clone() }
    }
}

/// Why a directory of modules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The name of a module's file is not a task name, or two files serve one name.
    #[error("{path}: {problem}")]
    Name {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A module is refused.
    #[error("{path} is refused: {source}")]
    Load {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: LoadError,
    },
    /// A module is not the one its manifest describes.
    #[error("{path}: {problem}")]
    Mismatch {
        /// Which file.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
}

/// One module's file and what its manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// Its manifest, or the defaults.
    pub manifest: HandlerManifest,
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> ModulesError {
    let path = path.to_owned();
    move |source| ModulesError::Read { path, source }
}

fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>, ModulesError> {
    let entries = std::fs::read_dir(dir)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(read_error(dir))?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Finds modules and manifests; reads manifests, loads nothing.
pub fn find(dir: &Path) -> Result<BTreeMap<TaskName, Found>, ModulesError> {
    let mut dirs = vec![dir.to_owned()];
    dirs.extend(sorted_entries(dir)?.into_iter().filter(|path| path.is_dir()));
    let mut found = BTreeMap::new();
    // Also by the manifest of the directory above.
    let mut described = BTreeSet::new();
    for dir in dirs {
        let entries = sorted_entries(&dir)?;
        let manifest = dir.join("stem.toml");
        if entries.contains(&manifest) {
            for handler in read_manifest(&manifest)? {
                let path = dir.join(&handler.source);
                described.insert(path.clone());
                insert(&mut found, path, handler)?;
            }
        }
        for path in entries {
            if path.extension().is_some_and(|extension| extension == "wasm")
                && !described.contains(&path)
                && path.is_file()
            {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let name = TaskName::new(&*stem).map_err(|error| ModulesError::Name {
                    path: path.clone(),
                    problem: error.to_string(),
                })?;
                let source = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let manifest = HandlerManifest::plain(name, source);
                insert(&mut found, path, manifest)?;
            }
        }
    }
    Ok(found)
}

/// Reads one manifest file.
pub fn read_manifest(path: &Path) -> Result<Vec<HandlerManifest>, ModulesError> {
    let size = std::fs::metadata(path).map_err(read_error(path))?.len();
    if size > MANIFEST_BYTES {
        let problem =
            format!("the manifest has {size} bytes; at most {MANIFEST_BYTES} are allowed");
        return Err(ManifestError { file: path.display().to_string(), problem }.into());
    }
    let text = std::fs::read_to_string(path).map_err(read_error(path))?;
    Ok(manifest::read(path, &text)?)
}

fn insert(
    found: &mut BTreeMap<TaskName, Found>,
    path: PathBuf,
    manifest: HandlerManifest,
) -> Result<(), ModulesError> {
    if let Some(earlier) = found.get(&manifest.name) {
        let problem = format!(
            "the task name {} is served by {} already",
            manifest.name,
            earlier.path.display()
        );
        return Err(ModulesError::Name { path, problem });
    }
    found.insert(manifest.name.clone(), Found { path, manifest });
    Ok(())
}

/// Loads one module as its manifest describes it, with all that the manifest asks for, which is the word of whoever put
/// it beside the module; `cap` bounds its limits.
pub async fn load(
    runtime: &IsolateRuntime,
    found: &Found,
    cap: &Limits,
) -> Result<ModuleHandler, ModulesError> {
    load_with(runtime, found, Policy::none().resolve(&found.manifest, Origin::Local, cap)).await
}

/// Loads one module as its manifest describes it, with what it gets.
pub async fn load_with(
    runtime: &IsolateRuntime,
    found: &Found,
    resolved: Resolved,
) -> Result<ModuleHandler, ModulesError> {
    let path = &found.path;
    let size = std::fs::metadata(path).map_err(read_error(path))?.len();
    let bound = stem_isolate::admission::MODULE_BYTES as u64;
    if size > bound {
        let source = stem_isolate::admission::NotAdmitted::TooLarge {
            what: "module size in bytes",
            size,
            bound,
        };
        return Err(ModulesError::Load { path: path.clone(), source: source.into() });
    }
    let wasm = std::fs::read(path).map_err(read_error(path))?;
    prepare(runtime, found, &wasm, resolved).await
}

/// Prepares a module from its bytes, as its manifest describes it; the path is only what it is called.
pub(crate) async fn prepare(
    runtime: &IsolateRuntime,
    found: &Found,
    wasm: &[u8],
    resolved: Resolved,
) -> Result<ModuleHandler, ModulesError> {
    let path = &found.path;
    let mismatch = |problem: String| ModulesError::Mismatch { path: path.clone(), problem };
    // Looked at before anything is compiled; loading makes it for itself.
    if let Some(wanted) = found.manifest.digest {
        let digest = stem_isolate::admission::digest(wasm);
        if wanted != digest {
            let problem = format!("the manifest asks for {wanted} and the file is {digest}");
            return Err(mismatch(problem));
        }
    }
    let module = runtime
        .load(wasm)
        .await
        .map_err(|source| ModulesError::Load { path: path.clone(), source })?;
    if let Some(kind) = found.manifest.kind.filter(|kind| *kind != module.kind()) {
        return Err(mismatch(format!(
            "the manifest says kind {} and the module is a {}",
            kind.as_str(),
            module.kind().as_str()
        )));
    }
    let HandlerManifest { arguments, input_file, result_file, .. } = &found.manifest;
    let for_commands = [
        ("arguments", !arguments.is_empty()),
        ("input-file", input_file.is_some()),
        ("result-file", result_file.is_some()),
    ];
    for (key, is_there) in for_commands {
        if is_there && module.kind() != ModuleKind::Command {
            return Err(mismatch(format!(
                "the manifest has {key}, which is for a command, and the module is a {}",
                module.kind().as_str()
            )));
        }
    }
    Ok(ModuleHandler::new(&found.manifest, module, resolved))
}

/// Loads every module of a directory; the first that is refused stops it. Warns of grants that are not given.
pub async fn load_dir(
    runtime: &IsolateRuntime,
    dir: &Path,
    policy: &Policy,
    cap: &Limits,
) -> Result<Vec<ModuleHandler>, ModulesError> {
    let mut handlers = Vec::new();
    for found in find(dir)?.values() {
        handlers.push(load_found(runtime, found, policy, cap).await?);
    }
    Ok(handlers)
}

/// Loads one module of the worker's own directory. Warns of grants that are not given.
pub(crate) async fn load_found(
    runtime: &IsolateRuntime,
    found: &Found,
    policy: &Policy,
    cap: &Limits,
) -> Result<ModuleHandler, ModulesError> {
    let resolved = policy.resolve(&found.manifest, Origin::Local, cap);
    resolved.warn(&found.manifest.name);
    load_with(runtime, found, resolved).await
}

/// What a directory holds, for noticing a change without reading modules: each file's name, size and time.
pub fn fingerprint(dir: &Path) -> BTreeSet<(PathBuf, u64, Option<std::time::SystemTime>)> {
    let mut dirs = vec![dir.to_owned()];
    dirs.extend(sorted_entries(dir).unwrap_or_default().into_iter().filter(|path| path.is_dir()));
    let files = dirs.iter().flat_map(|dir| sorted_entries(dir).unwrap_or_default());
    files
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "wasm" || extension == "toml")
        })
        .filter_map(|path| {
            let about = std::fs::metadata(&path).ok()?;
            Some((path, about.len(), about.modified().ok()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_in_a_directory_below_is_served_as_the_manifest_above_says_and_not_twice() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("stem.toml", "[handlers.a]\nsource = \"file:build/x.wasm\"\n");
        write("build/x.wasm", "");
        write("build/y.wasm", "");
        let found = find(dir.path()).unwrap();
        let names: Vec<_> = found.keys().map(TaskName::as_str).collect();
        assert_eq!(names, ["a", "y"]);
        assert_eq!(found.values().next().unwrap().path, dir.path().join("build/x.wasm"));
    }
}
