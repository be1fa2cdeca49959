//! `stem task list`

use stem_core::backend::result::RecordFilter;

use super::super::Context;
use crate::args::JsonArg;
use crate::connect;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::{Printer, say};
use crate::view::{RecordView, records_text};

pub(super) async fn run(context: &Context, mut filter: RecordFilter, json: JsonArg) -> Outcome {
    let settings = context.settings(|_| {})?;
    let limit = filter.limit;
    // One more than is shown tells whether there are more.
    filter.limit = limit.saturating_add(1);
    let mut records = connect::results(&settings).await?.list(&filter).await?;
    let more = records.len() > limit;
    records.truncate(limit);
    let printer = Printer::new(json.json);
    let views: Vec<RecordView<'_>> = records.iter().map(RecordView::from).collect();
    printer.print(&views, || {
        if records.is_empty() { String::new() } else { records_text(&records) }
    })?;
    if records.is_empty() && !printer.is_json() {
        say("no task fits");
    }
    if more {
        say(format!("note: there are more than the newest {limit}; --limit shows more"));
    }
    Ok(Ending::Done)
}
