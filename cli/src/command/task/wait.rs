//! `stem task wait`, and how a followed task is told.

use std::time::Duration;

use serde::Serialize;
use stem_core::id::TaskId;
use stem_core::task::{TaskRecord, TaskState};
use stem_engine::units;

use super::super::Context;
use super::{client, unknown};
use crate::args::JsonArg;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::follow;
use crate::output::{Printer, print_result};
use crate::view::{RecordView, ending_text};

pub(super) async fn run(
    context: &Context,
    task: &TaskId,
    timeout: Option<Duration>,
    json: JsonArg,
) -> Outcome {
    let settings = context.settings(|_| {})?;
    let client = client(&settings).await?;
    let record = follow::to_the_end(&client, task, timeout, context.lively()).await?;
    let record = record.ok_or_else(|| unknown(task))?;
    let printer = Printer::new(json.json);
    if let Some(timeout) = timeout.filter(|_| !record.state.is_final()) {
        if printer.is_json() {
            printer.print(&RecordView::from(&record), String::new)?;
        }
        return Err(CliError::failed(
            format!(
                "task {task} is still {} after {}",
                record.state,
                units::write_duration(timeout)
            ),
            format!("it goes on; `stem task wait {task}` follows it again"),
        ));
    }
    conclude(printer, &record, &RecordView::from(&record))
}

/// Prints what a task came to: its result, or with JSON its record. Anything but success is an error.
pub(super) fn conclude(
    printer: Printer,
    record: &TaskRecord,
    document: &impl Serialize,
) -> Outcome {
    if printer.is_json() {
        printer.print(document, String::new)?;
    } else if let Some(result) = &record.result {
        print_result(result, Some(&record.id))?;
    }
    if record.state == TaskState::Succeeded {
        return Ok(Ending::Done);
    }
    let hint = match record.state {
        TaskState::Failed => format!(
            "`stem task show {0}` shows every attempt, `stem dlq replay {0}` tries again",
            record.id
        ),
        _ => format!("`stem task show {}` shows all that is known of it", record.id),
    };
    Err(CliError::failed(ending_text(record), hint))
}
