//! `stem module check FILE`

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use stem_core::id::TaskName;
use stem_engine::modules::{self, ModulesError};
use stem_engine::policy::Origin;
use stem_isolate::module::Outline;
use stem_isolate::{IsolateRuntime, LoadError, admission};

use super::super::Context;
use super::needs::{self, Need};
use crate::args::CheckArgs;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say, table};
use crate::sandbox;
use crate::view::memory;

/// What is known of a module, admitted or not.
struct Report {
    file: String,
    digest: String,
    size: u64,
    task: String,
    origin: Origin,
    kind: Option<&'static str>,
    outline: Option<Outline>,
    grants: Vec<Need>,
    warnings: Vec<String>,
    refusal: Option<CliError>,
}

pub(super) async fn run(context: &Context, args: CheckArgs) -> Outcome {
    let CheckArgs { file, name, pushed, policy, json } = args;
    let file = file.as_path();
    let settings = context.settings(|flags| flags.policy = policy.policy)?;
    let policy = sandbox::policy(&settings)?.current();
    let (mut found, others) = find(file, name.as_ref())?;
    // A relative path names the file from here, whatever the manifest says.
    found.path = file.to_owned();
    let wasm = read(file)?;
    let runtime = sandbox::start(1)?;
    let mut report = Report {
        file: file.display().to_string(),
        digest: admission::digest(&wasm).to_string(),
        size: wasm.len() as u64,
        task: found.manifest.name.to_string(),
        origin: if pushed { Origin::Pushed } else { Origin::Local },
        kind: None,
        outline: None,
        grants: Vec::new(),
        warnings: Vec::new(),
        refusal: None,
    };
    let resolved = policy.resolve(&found.manifest, report.origin, &sandbox::limits_cap());
    match modules::load_with(&runtime, &found, resolved.clone()).await {
        Ok(handler) => {
            report.kind = Some(handler.module.kind().as_str());
            report.outline = Some(handler.module.outline().clone());
        }
        Err(error) => {
            report.outline = outline(&runtime, &wasm, &error).await;
            // Elsewhere a refused module is a wrong argument; here it is what was asked about.
            report.refusal = Some(CliError { ending: Ending::Failed, ..sandbox::refused(error) });
        }
    }
    if let Some(outline) = &report.outline {
        let granted = &resolved.granted.grants;
        report.grants = needs::of(&outline.imports, &found.manifest.grants, granted);
        report.warnings = needs::warnings(&found.manifest, &report.grants, &resolved);
        report.warnings.extend(others);
    }
    Printer::new(json.json).print(&report.document(), || report.text())?;
    for warning in &report.warnings {
        say(format!("warning: {warning}"));
    }
    match report.refusal {
        None => Ok(Ending::Done),
        Some(refusal) => {
            say(&refusal);
            Ok(refusal.ending)
        }
    }
}

/// The module and its manifest. One that serves several names is checked as the first of them unless one is named, and
/// with it comes a warning of the others: they have the same code, and limits and grants of their own.
fn find(
    file: &Path,
    name: Option<&TaskName>,
) -> Result<(modules::Found, Option<String>), CliError> {
    let error = match sandbox::find(file, name) {
        Err(error) if name.is_none() => error,
        found => return Ok((found?, None)),
    };
    let manifest = file.with_file_name("stem.toml");
    let source = file.file_name().unwrap_or_default().to_string_lossy();
    let handlers = modules::read_manifest(&manifest).unwrap_or_default();
    let mut names = handlers.into_iter().filter(|it| it.source == source).map(|it| it.name);
    let first = names.next().ok_or(error)?;
    let others = names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    let found = sandbox::find(file, Some(&first))?;
    Ok((
        found,
        Some(format!("it serves {others} too, with limits and grants of their own; see --name")),
    ))
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    let size = std::fs::metadata(file).map(|about| about.len());
    if let Ok(size) = size
        && size > admission::MODULE_BYTES as u64
    {
        return Err(CliError::failed(
            format!(
                "{} is refused: it has {size} bytes; at most {} are allowed",
                file.display(),
                admission::MODULE_BYTES
            ),
            "make the module smaller, for instance by building it for release and stripping it",
        ));
    }
    std::fs::read(file).map_err(|error| {
        CliError::usage(
            format!("cannot read {}: {error}", file.display()),
            "give the path of a .wasm file",
        )
    })
}

/// What a refused module needs and gives, where that can be known.
async fn outline(runtime: &IsolateRuntime, wasm: &[u8], error: &ModulesError) -> Option<Outline> {
    match error {
        ModulesError::Load {
            source: LoadError::NotAdmitted(_) | LoadError::Compile(_), ..
        } => None,
        _ => runtime.outline(wasm).await.ok(),
    }
}

fn as_what(origin: Origin) -> &'static str {
    match origin {
        Origin::Local => "a module of the worker's own",
        Origin::Pushed => "a module that was pushed",
    }
}

/// What the imports ask for, without versions and without the names of single functions.
fn capabilities(imports: &[String]) -> BTreeSet<&str> {
    imports
        .iter()
        .map(|import| match import.split_once('@') {
            Some((interface, _)) => interface,
            None => import.split_once('.').map_or(import.as_str(), |(module, _)| module),
        })
        .collect()
}

impl Report {
    fn document(&self) -> Value {
        let mut document = Map::new();
        let mut put = |key: &str, value: Value| document.insert(key.to_owned(), value);
        put("file", json!(self.file));
        put("task", json!(self.task));
        put("origin", json!(if self.origin == Origin::Pushed { "pushed" } else { "local" }));
        put("digest", json!(self.digest));
        put("size", json!(self.size));
        put("verdict", json!(if self.refusal.is_none() { "admitted" } else { "refused" }));
        put("admitted", json!(self.refusal.is_none()));
        if let Some(kind) = self.kind {
            put("kind", json!(kind));
        }
        if let Some(outline) = &self.outline {
            put("imports", json!(outline.imports));
            put("exports", json!(outline.exports));
            put("unknownImports", json!(outline.unknown));
            put("capabilities", json!(capabilities(&outline.imports)));
            put("grants", self.grants.iter().map(Need::document).collect());
            put("warnings", json!(self.warnings));
        }
        if let Some(refusal) = &self.refusal {
            put("problem", json!(refusal.what));
            put("hint", json!(refusal.hint));
        }
        Value::Object(document)
    }

    fn text(&self) -> String {
        let mut rows = vec![
            vec!["file".to_owned(), self.file.clone()],
            vec!["task".to_owned(), self.task.clone()],
            vec!["as".to_owned(), as_what(self.origin).to_owned()],
            vec!["digest".to_owned(), self.digest.clone()],
            vec!["size".to_owned(), memory(self.size)],
        ];
        rows.extend(self.kind.map(|kind| vec!["kind".to_owned(), kind.to_owned()]));
        if let Some(outline) = &self.outline {
            for (key, names) in [
                ("imports", &outline.imports),
                ("exports", &outline.exports),
                ("unknown", &outline.unknown),
            ] {
                for (index, name) in names.iter().enumerate() {
                    rows.push(vec![
                        if index == 0 { key.to_owned() } else { String::new() },
                        stem_core::text::printable(name, 200),
                    ]);
                }
            }
        }
        for (index, need) in self.grants.iter().enumerate() {
            let key = if index == 0 { "grants" } else { "" };
            rows.push(vec![key.to_owned(), stem_core::text::printable(&need.text(), 500)]);
        }
        rows.push(vec![
            "verdict".to_owned(),
            if self.refusal.is_none() { "admitted" } else { "refused" }.to_owned(),
        ]);
        table(&[], rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_interfaces_and_modules() {
        let imports = [
            "stem:task/log@0.1.0",
            "wasi:io/poll@0.2.0",
            "wasi_snapshot_preview1.fd_read",
            "wasi_snapshot_preview1.fd_write",
        ];
        let found: Vec<String> = imports.map(str::to_owned).to_vec();
        assert_eq!(
            capabilities(&found).into_iter().collect::<Vec<_>>(),
            ["stem:task/log", "wasi:io/poll", "wasi_snapshot_preview1"]
        );
    }
}
