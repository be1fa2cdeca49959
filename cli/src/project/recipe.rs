//! The table `[build]` of a project's manifest. Unknown keys are refused with the nearest known one.

use std::path::{Component, Path, PathBuf};

use stem_engine::units;
use toml::{Table, Value};

use super::step::{Step, find_program};
use crate::error::CliError;

const KEYS: [&str; 7] =
    ["needs", "setup", "setup-inputs", "setup-output", "command", "test", "output"];

/// How a module is built and tested.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Programs that must be there, and what to do where one is not.
    pub(super) needs: Vec<(String, String)>,
    /// Gets tools.
    pub(super) setup: Vec<Step>,
    /// Files that decide what the setup gets.
    pub(super) setup_inputs: Vec<PathBuf>,
    /// What must be there after it.
    pub(super) setup_output: Option<PathBuf>,
    /// Builds.
    pub(super) command: Vec<Step>,
    /// Tests, without WebAssembly.
    pub(super) test: Vec<Step>,
    /// What the build makes.
    pub(super) output: PathBuf,
}

impl Recipe {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let manifest: Table =
            text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
        let table = match manifest.get("build") {
            Some(Value::Table(table)) => table,
            Some(other) => return Err(format!("build is {}, not a table", other.type_str())),
            None => return Err("it has no table [build]".to_owned()),
        };
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(match units::nearest(key, KEYS) {
                Some(near) => format!("build has an unknown key {key:?}; did you mean {near:?}?"),
                None => format!("build has an unknown key {key:?}; known are {}", KEYS.join(", ")),
            });
        }
        let command = steps(table, "command")?;
        if command.is_empty() {
            return Err("build.command is missing: the commands that build the module".to_owned());
        }
        let output = table.get("output").map(|value| path("output", value)).transpose()?;
        Ok(Self {
            needs: needs(table)?,
            setup: steps(table, "setup")?,
            setup_inputs: list(table, "setup-inputs")?
                .iter()
                .map(|value| path("setup-inputs", value))
                .collect::<Result<_, _>>()?,
            setup_output: table
                .get("setup-output")
                .map(|value| path("setup-output", value))
                .transpose()?,
            command,
            test: steps(table, "test")?,
            output: output
                .ok_or("build.output is missing: the file that the build makes".to_owned())?,
        })
    }

    /// Tells of the first program that is not there, before anything has run.
    pub(super) fn look_for_needs(&self, folder: &Path) -> Result<(), CliError> {
        match self.needs.iter().find(|(program, _)| find_program(program, folder).is_none()) {
            None => Ok(()),
            Some((program, remedy)) => {
                Err(CliError::usage(format!("{program} is not on this machine's PATH"), remedy))
            }
        }
    }
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, String> {
    let text = value.as_str().ok_or_else(|| {
        format!("build.{key} has {} where text in quotes belongs", value.type_str())
    })?;
    if text.contains('\0') { Err(format!("build.{key} has a zero byte")) } else { Ok(text) }
}

/// A path in the project.
fn path(key: &str, value: &Value) -> Result<PathBuf, String> {
    let path = Path::new(text(key, value)?);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if path.as_os_str().is_empty() || !inside {
        return Err(format!("build.{key} {:?} leaves the project's folder", path.display()));
    }
    Ok(path.to_owned())
}

fn list<'a>(table: &'a Table, key: &str) -> Result<&'a [Value], String> {
    match table.get(key) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(format!("build.{key} is {}, not a list", other.type_str())),
    }
}

fn steps(table: &Table, key: &str) -> Result<Vec<Step>, String> {
    list(table, key)?
        .iter()
        .map(|item| {
            let words = item.as_array().ok_or_else(|| {
                format!(
                    "build.{key} is a list of commands, each a list: [[\"program\", \"argument\"]]"
                )
            })?;
            let words: Vec<String> = words
                .iter()
                .map(|word| text(key, word).map(str::to_owned))
                .collect::<Result<_, _>>()?;
            Step::new(words).ok_or_else(|| format!("build.{key} has a command without a program"))
        })
        .collect()
}

fn needs(table: &Table) -> Result<Vec<(String, String)>, String> {
    match table.get("needs") {
        None => Ok(Vec::new()),
        Some(Value::Table(needs)) => needs
            .iter()
            .map(|(program, remedy)| Ok((program.clone(), text("needs", remedy)?.to_owned())))
            .collect(),
        Some(other) => Err(format!("build.needs is {}, not a table of programs", other.type_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_recipe_is_read() {
        let recipe = Recipe::read(
            r#"
            [handlers.x]
            source = "file:x.wasm"
            [build]
            needs = { npm = "install Node.js" }
            setup = [["npm", "ci"]]
            setup-inputs = ["package-lock.json"]
            setup-output = "node_modules"
            command = [["npm", "run", "build"], ["true"]]
            test = [["npm", "test"]]
            output = "build/x.wasm"
            "#,
        )
        .unwrap();
        assert_eq!(recipe.needs, [("npm".to_owned(), "install Node.js".to_owned())]);
        assert_eq!(recipe.setup_output.as_deref(), Some(Path::new("node_modules")));
        assert_eq!(recipe.command.len(), 2);
        assert_eq!(recipe.output, Path::new("build/x.wasm"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "no table [build]"),
            ("build = 3", "build is integer, not a table"),
            ("[build]\ncomand = []", "did you mean \"command\"?"),
            ("[build]\noutput = \"x\"", "build.command is missing"),
            ("[build]\ncommand = [[\"true\"]]", "build.output is missing"),
            ("[build]\ncommand = [\"make\"]", "each a list"),
            ("[build]\ncommand = [[]]", "a command without a program"),
            ("[build]\ncommand = [[3]]", "text in quotes"),
            ("[build]\ncommand = [[\"true\"]]\noutput = \"../x\"", "leaves the project's folder"),
            ("[build]\ncommand = [[\"true\"]]\noutput = \"/x\"", "leaves the project's folder"),
            ("[build]\nneeds = [\"npm\"]\ncommand = [[\"true\"]]\noutput = \"x\"", "build.needs"),
        ] {
            let problem = Recipe::read(text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }
}
