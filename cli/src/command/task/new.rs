//! `stem task new NAME --lang …`: writes a project that can be built.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use stem_core::id::TaskName;

use crate::args::{JsonArg, Language};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::Printer;
use crate::project::unwritable;
use crate::skeleton;

/// Arguments that every template's task takes.
const EXAMPLE: &str = r#"{"numbers":[1,2,3]}"#;

pub(super) fn run(name: &TaskName, language: Language, json: JsonArg) -> Outcome {
    if !skeleton::is_project_name(name.as_str()) {
        return Err(CliError::usage(
            format!("{name} cannot be the name of a project"),
            format!(
                "begin with a small letter and go on with small letters, digits, - and _, at most {} in all",
                skeleton::NAME_BYTES
            ),
        ));
    }
    if skeleton::OURS.contains(&name.as_str()) {
        return Err(CliError::usage(
            format!("{name} is the name of a library that projects get"),
            "choose another name",
        ));
    }
    let folder = Path::new(name.as_str());
    if !is_free(folder)? {
        return Err(taken(folder));
    }
    let files = skeleton::files(language, name);
    write_whole(folder, &files)?;
    let paths: Vec<_> = files.iter().map(|(path, _)| path.display().to_string()).collect();
    let document = json!({"name": name, "language": language.title(), "folder": name.as_str(), "files": paths});
    Printer::new(json.json).print(&document, || {
        format!(
            "{name}: a task in {}, {} files. Next:\n\n  cd {name}\n  stem task build\n  stem task run --args '{EXAMPLE}'\n\n\
             `stem task test` runs its tests; {name}/README.md says more.",
            language.title(),
            files.len()
        )
    })?;
    Ok(Ending::Done)
}

/// Whether nothing is there, or an empty folder. A link is something: it leads elsewhere.
fn is_free(folder: &Path) -> Result<bool, CliError> {
    match fs::symlink_metadata(folder) {
        Ok(about) if !about.is_dir() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(unwritable(folder, &error)),
    }
    let mut entries = fs::read_dir(folder).map_err(|error| unwritable(folder, &error))?;
    Ok(entries.next().is_none())
}

fn taken(folder: &Path) -> CliError {
    CliError::usage(
        format!("{} is there already", folder.display()),
        "choose another name, or go to another folder",
    )
}

/// Beside its place and then renamed: what is at the place is a whole project, whenever this ends.
fn write_whole(folder: &Path, files: &[(PathBuf, String)]) -> Result<(), CliError> {
    let partial = tempfile::Builder::new()
        .prefix(".stem-new-")
        // As any new folder: the user's mask decides, and not the one for temporary files.
        .permissions(fs::Permissions::from_mode(0o777))
        .tempdir_in(".")
        .map_err(|error| unwritable(folder, &error))?;
    for (path, text) in files {
        let place = partial.path().join(path);
        let parent = place.parent().unwrap_or(partial.path());
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&place, text))
            .map_err(|error| unwritable(&folder.join(path), &error))?;
    }
    match fs::rename(partial.path(), folder) {
        Ok(()) => {
            // It is not there any more under its old name.
            let _ = partial.keep();
            Ok(())
        }
        Err(error)
            if [
                io::ErrorKind::DirectoryNotEmpty,
                io::ErrorKind::NotADirectory,
                io::ErrorKind::AlreadyExists,
            ]
            .contains(&error.kind()) =>
        {
            Err(taken(folder))
        }
        Err(error) => Err(unwritable(folder, &error)),
    }
}
