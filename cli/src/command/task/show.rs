//! `stem task show`

use stem_core::id::TaskId;

use super::super::Context;
use super::{client, unknown};
use crate::args::JsonArg;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::Printer;
use crate::view::{RecordView, record_text};

pub(super) async fn run(context: &Context, task: &TaskId, json: JsonArg) -> Outcome {
    let settings = context.settings(|_| {})?;
    let client = client(&settings).await?;
    let record = client.show(task).await?.ok_or_else(|| unknown(task))?;
    let printer = Printer::new(json.json);
    let history = if printer.is_json() {
        Vec::new()
    } else {
        client.backends().results.history(task).await?
    };
    printer.print(&RecordView::from(&record), || record_text(&record, &history))?;
    Ok(Ending::Done)
}
