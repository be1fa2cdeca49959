//! `stem task new NAME --lang …`: writes a project that can be built.

use std::fs;
use std::path::Path;

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
    let folder = Path::new(name.as_str());
    if !is_free(folder)? {
        return Err(CliError::usage(
            format!("{} is there already", folder.display()),
            "choose another name, or go to another folder",
        ));
    }
    let files = skeleton::files(language, name);
    for (path, text) in &files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|error| unwritable(parent, &error))?;
        fs::write(&path, text).map_err(|error| unwritable(&path, &error))?;
    }
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

/// Whether nothing is there, or an empty folder.
fn is_free(folder: &Path) -> Result<bool, CliError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(unwritable(folder, &error)),
    }
}
