//! `stem task result`

use std::io::Write;
use std::path::Path;

use serde_json::json;
use stem_core::envelope::Payload;
use stem_core::id::TaskId;
use stem_core::task::{TaskRecord, TaskState};

use super::super::Context;
use super::{client, unknown};
use crate::args::JsonArg;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, payload_json, print_result, say};
use crate::view::ending_text;

pub(super) async fn run(
    context: &Context,
    task: &TaskId,
    output: Option<&Path>,
    json: JsonArg,
) -> Outcome {
    let settings = context.settings(|_| {})?;
    let record = client(&settings).await?.show(task).await?.ok_or_else(|| unknown(task))?;
    let Some(result) = &record.result else { return Err(no_result(&record)) };
    let printer = Printer::new(json.json);
    let size = result.bytes.len();
    match (output, printer.is_json()) {
        (None, false) => print_result(result, Some(task))?,
        (None, true) => {
            let document = json!({
                "id": task, "state": record.state, "mediaType": result.media_type, "size": size, "result": payload_json(result),
            });
            printer.print(&document, String::new)?;
        }
        (Some(path), _) => {
            write_whole(path, result)?;
            let document = json!({
                "id": task, "state": record.state, "mediaType": result.media_type, "size": size,
                "output": path.display().to_string(),
            });
            printer.print(&document, String::new)?;
            if !printer.is_json() {
                say(format!("{size} bytes of {} written to {}", result.media_type, path.display()));
            }
        }
    }
    Ok(Ending::Done)
}

fn no_result(record: &TaskRecord) -> CliError {
    match record.state {
        TaskState::Queued | TaskState::Running | TaskState::Retrying => CliError::nothing(
            format!("task {} has no result yet: it is {}", record.id, record.state),
            format!("`stem task wait {}` waits for it", record.id),
        ),
        TaskState::Succeeded | TaskState::Failed | TaskState::Revoked | TaskState::Expired => {
            CliError::failed(
                ending_text(record),
                format!("`stem task show {}` shows all that is known of it", record.id),
            )
        }
    }
}

/// Writes beside the target and renames, so that nobody ever sees half a result.
fn write_whole(path: &Path, result: &Payload) -> Result<(), CliError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let write = || {
        let mut builder = tempfile::Builder::new();
        // As any new file: readable as the user's mask says, and not for this user alone as temporary files are.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let mut file =
            builder.prefix(".stem-result-").permissions(permissions).tempfile_in(directory)?;
        file.write_all(&result.bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error: std::io::Error| {
        CliError::failed(
            format!("cannot write {}: {error}", path.display()),
            "name a file in a directory that this user can write to",
        )
    })
}
