//! A project: a folder whose `stem.toml` says how its module is built and tested.

mod recipe;
mod remedy;
mod step;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use stem_core::id::TaskName;
use stem_engine::manifest::HandlerManifest;
use stem_engine::modules::{self, Found};
use stem_engine::units;
use stem_isolate::admission;

pub use self::step::Talk;

use self::recipe::Recipe;
use self::step::Step;
use crate::error::CliError;
use crate::output::say;
use crate::sandbox;

/// The manifest, which also has the recipe.
pub const MANIFEST: &str = "stem.toml";
/// Where this program keeps what it must remember of a project.
const OWN_FOLDER: &str = ".stem";
/// Largest manifest; engine and settings read no larger one either.
const MANIFEST_BYTES: u64 = 1 << 20;

/// A folder with a manifest.
#[derive(Debug)]
pub struct Project {
    folder: PathBuf,
    handlers: Vec<HandlerManifest>,
}

impl Project {
    /// Reads the manifest of a folder.
    pub fn open(folder: &Path) -> Result<Self, CliError> {
        let manifest = folder.join(MANIFEST);
        if !manifest.is_file() {
            return Err(CliError::usage(
                format!("{} has no {MANIFEST}", shown(folder)),
                "go to a project's folder or name it; `stem task new` makes one",
            ));
        }
        let handlers = modules::read_manifest(&manifest).map_err(sandbox::refused)?;
        Ok(Self { folder: folder.to_owned(), handlers })
    }

    /// The source of the module that serves this task name, or, without one, of the only module there is.
    fn source(&self, name: Option<&TaskName>) -> Result<&str, CliError> {
        let wanted = |handler: &&HandlerManifest| name.is_none_or(|name| handler.name == *name);
        let mut sources: Vec<&str> =
            self.handlers.iter().filter(wanted).map(|handler| handler.source.as_str()).collect();
        sources.sort_unstable();
        sources.dedup();
        match sources[..] {
            [source] => Ok(source),
            [] => {
                let names = self.handlers.iter().map(|handler| handler.name.as_str());
                let what = name.map_or_else(String::new, |name| {
                    let near = units::nearest(name.as_str(), names)
                        .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                    format!(" for {name}{near}")
                });
                Err(CliError::usage(
                    format!("{} describes no handler{what}", self.manifest()),
                    "describe it there as [handlers.NAME], with its source",
                ))
            }
            _ => Err(CliError::usage(
                format!("{} describes several modules: {}", self.manifest(), sources.join(", ")),
                "name the file of one of them",
            )),
        }
    }

    /// Gets what is missing of the tools, builds, and puts the module where the manifest says. Returns its path.
    pub fn build(&self, talk: Talk) -> Result<PathBuf, CliError> {
        let module = self.folder.join(self.source(None)?);
        let recipe = self.recipe()?;
        recipe.look_for_needs(&self.folder)?;
        self.set_up(&recipe, talk)?;
        self.run_all(&recipe.command, talk, "the module is not built")?;
        self.install(&recipe, &module)?;
        Ok(module)
    }

    /// Gets what is missing of the tools, and runs the local test.
    pub fn test(&self, talk: Talk) -> Result<(), CliError> {
        let recipe = self.recipe()?;
        if recipe.test.is_empty() {
            return Err(CliError::usage(
                format!("{} has no build.test", self.manifest()),
                "say there what tests the task, as a list of commands",
            ));
        }
        recipe.look_for_needs(&self.folder)?;
        self.set_up(&recipe, talk)?;
        self.run_all(&recipe.test, talk, "the tests did not pass")
    }

    fn manifest(&self) -> String {
        shown(&self.folder.join(MANIFEST))
    }

    fn recipe(&self) -> Result<Recipe, CliError> {
        let path = self.folder.join(MANIFEST);
        let unusable = |problem: String| {
            CliError::usage(
                format!("{}: {problem}", self.manifest()),
                "correct the table [build]; `stem task new` writes one that works",
            )
        };
        let size = fs::metadata(&path).map_err(|error| unusable(error.to_string()))?.len();
        if size > MANIFEST_BYTES {
            return Err(unusable(format!(
                "it has {size} bytes; at most {MANIFEST_BYTES} are read"
            )));
        }
        let text = fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
        Recipe::read(&text).map_err(unusable)
    }

    fn run_all(&self, steps: &[Step], talk: Talk, failed: &str) -> Result<(), CliError> {
        steps.iter().try_for_each(|step| step.run(&self.folder, talk, failed))
    }

    /// Runs the setup unless what it was run for last is what it would be run for now.
    fn set_up(&self, recipe: &Recipe, talk: Talk) -> Result<(), CliError> {
        if recipe.setup.is_empty() {
            return self.own_folder().map(drop);
        }
        let own = self.own_folder()?;
        let stamp = own.join("setup");
        let _alone = self.alone(&own.join("lock"))?;
        let wanted = self.stamp(recipe)?;
        let there = recipe.setup_output.as_ref().is_none_or(|path| self.folder.join(path).exists());
        if there && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        say(format!("getting the tools of {}, once", shown(&self.folder)));
        // From here on what is there may be half of one thing and half of another.
        match fs::remove_file(&stamp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unwritable(&stamp, &error));
            }
            _ => {}
        }
        self.run_all(&recipe.setup, talk, "the tools are not there")?;
        fs::write(&stamp, wanted).map_err(|error| unwritable(&stamp, &error))
    }

    /// Tools are got by one process at a time. The lock ends with the file.
    fn alone(&self, path: &Path) -> Result<File, CliError> {
        let file = File::create(path).map_err(|error| unwritable(path, &error))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let folder = shown(&self.folder);
                say(format!("waiting: somebody else gets the tools of {folder}"));
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        locked.map(|()| file).map_err(|error| unwritable(path, &error))
    }

    fn own_folder(&self) -> Result<PathBuf, CliError> {
        let folder = self.folder.join(OWN_FOLDER);
        fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, &error))?;
        Ok(folder)
    }

    /// A digest of the commands and of the files that decide what they get.
    fn stamp(&self, recipe: &Recipe) -> Result<String, CliError> {
        let mut all = Vec::new();
        // Lengths keep what follows each other apart.
        let mut add = |bytes: &[u8]| {
            all.extend((bytes.len() as u64).to_le_bytes());
            all.extend(bytes);
        };
        for word in recipe.setup.iter().flat_map(Step::words) {
            add(word.as_bytes());
        }
        for input in &recipe.setup_inputs {
            let path = self.folder.join(input);
            let bytes = fs::read(&path).map_err(|error| {
                CliError::usage(
                    format!("cannot read {}: {error}", shown(&path)),
                    format!("build.setup-inputs in {} names it; put it back", self.manifest()),
                )
            })?;
            add(&bytes);
        }
        Ok(admission::digest(&all).to_string())
    }

    /// Puts what the build made at its place, whole or not at all: a worker may be watching.
    fn install(&self, recipe: &Recipe, module: &Path) -> Result<(), CliError> {
        let built = self.folder.join(&recipe.output);
        let bytes = fs::read(&built).map_err(|error| {
            CliError::failed(
                format!("the build ended well and left no {}: {error}", shown(&built)),
                format!("make build.output in {} the file that the build writes", self.manifest()),
            )
        })?;
        if built == *module || fs::read(module).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let mut partial = module.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        fs::write(&partial, &bytes)
            .and_then(|()| fs::rename(&partial, module))
            .map_err(|error| unwritable(module, &error))
    }
}

/// The module that is meant by a file, by a project's folder, or by nothing: the current folder; with what its manifest says.
pub fn found(given: Option<&Path>, name: Option<&TaskName>) -> Result<Found, CliError> {
    let folder = match given {
        Some(path) if !path.is_dir() => return sandbox::find(path, name),
        Some(folder) => folder,
        None => Path::new("."),
    };
    let mut project = Project::open(folder)?;
    let source = project.source(name)?.to_owned();
    let module = folder.join(&source);
    if !module.is_file() {
        return Err(CliError::usage(
            format!("{} is not there yet", shown(&module)),
            "`stem task build` makes it",
        ));
    }
    // The manifest need not lie beside it.
    project.handlers.retain(|handler| handler.source == source);
    sandbox::choose(&module, &project.handlers, name)
}

/// A path as people read it; the current folder has no name of its own.
pub fn shown(path: &Path) -> String {
    let path = path.strip_prefix(".").unwrap_or(path);
    if path.as_os_str().is_empty() { "this folder".to_owned() } else { path.display().to_string() }
}

/// Something in the project that cannot be written.
pub fn unwritable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(
        format!("cannot write {}: {error}", shown(path)),
        "make it writable for this user, or use another folder",
    )
}
