//! `stem task build [FOLDER]` and `stem task test [FOLDER]`: what the recipe in the project's manifest says.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use stem_isolate::admission;

use crate::args::JsonArg;
use crate::control::millis;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::Printer;
use crate::project::{Project, Talk, shown};
use crate::view::memory;

pub(super) async fn build(folder: PathBuf, json: JsonArg) -> Outcome {
    let started = Instant::now();
    let project = Project::open(&folder)?;
    // The answer, the module's path, is all that goes to standard output.
    let module = apart(move || project.build(Talk::Error)).await?;
    let bytes = read(&module)?;
    let digest = admission::digest(&bytes).to_string();
    let document = json!({
        "module": shown(&module),
        "bytes": bytes.len(),
        "digest": digest,
        "elapsedMs": millis(started.elapsed()),
    });
    Printer::new(json.json).print(&document, || {
        format!("{}  {}  {digest}", shown(&module), memory(bytes.len() as u64))
    })?;
    Ok(Ending::Done)
}

pub(super) async fn test(folder: PathBuf, json: JsonArg) -> Outcome {
    let started = Instant::now();
    let project = Project::open(&folder)?;
    let talk = if json.json { Talk::Error } else { Talk::Output };
    let printer = Printer::new(json.json);
    let tested = apart(move || project.test(talk)).await;
    let document = json!({"passed": tested.is_ok(), "elapsedMs": millis(started.elapsed())});
    match tested {
        Ok(()) => {
            printer.print(&document, || "the tests passed".to_owned())?;
            Ok(Ending::Done)
        }
        Err(error) => {
            // Where nothing was tested there is no answer.
            if error.ending == Ending::Failed {
                printer.print(&document, String::new)?;
            }
            Err(error)
        }
    }
}

fn read(module: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(module).map_err(|error| {
        CliError::failed(
            format!("cannot read {}, which was just built: {error}", shown(module)),
            "build it again",
        )
    })
}

/// Tools run for long, and waiting for them blocks.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        CliError::failed(format!("the build did not end: {error}"), "report this as a bug")
    })?
}
