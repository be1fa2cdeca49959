//! `stem queue purge`

use serde_json::json;
use stem_core::id::QueueName;
use stem_engine::units;

use super::super::Context;
use super::super::consent::{self, Consent, count};
use crate::args::{ConsentArgs, JsonArg};
use crate::connect;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say};

pub(super) async fn run(
    context: &Context,
    name: QueueName,
    consent: ConsentArgs,
    json: JsonArg,
) -> Outcome {
    let settings = context.settings(|_| {})?;
    let (broker, results) = connect::broker_and_results(&settings).await?;
    let queues = broker.queues().await?;
    let Some(queue) = queues.iter().find(|queue| queue.name == name) else {
        let near = units::nearest(name.as_str(), queues.iter().map(|queue| queue.name.as_str()));
        return Err(CliError::nothing(
            format!("there is no queue {name}"),
            near.map_or_else(
                || "`stem queue list` shows what there is".to_owned(),
                |near| format!("did you mean {near}?"),
            ),
        ));
    };
    let waiting = queue.ready.saturating_add(queue.delayed);
    let deed = format!("remove {} from queue {name}", count(waiting, "waiting task"));
    let printer = Printer::new(json.json);
    if waiting > 0 && consent::ask(consent, &deed)? == Consent::DryRun {
        printer.print(&json!({"queue": name, "dryRun": true, "matched": waiting}), String::new)?;
        say(format!("dry run: would {deed}; nothing was done"));
        return Ok(Ending::Done);
    }
    let purged = match waiting {
        0 => 0,
        _ => stem_engine::purge(&*broker, &*results, &name).await?,
    };
    let document =
        json!({"queue": name, "dryRun": consent.dry_run, "matched": waiting, "purged": purged});
    printer.print(&document, || {
        format!("{} removed from queue {name}", count(purged, "waiting task"))
    })?;
    Ok(Ending::Done)
}
