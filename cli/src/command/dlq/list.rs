//! `stem dlq list`

use super::super::Context;
use super::{document, filter, text};
use crate::args::{DeadArgs, JsonArg};
use crate::connect;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::{Printer, say};

pub(super) async fn run(context: &Context, args: DeadArgs, json: JsonArg) -> Outcome {
    let settings = context.settings(|_| {})?;
    let backends = connect::connect(&settings).await?;
    let letters = backends.dead_letters.list(&filter(args)).await?;
    let printer = Printer::new(json.json);
    let documents: Vec<_> = letters.iter().map(document).collect();
    printer.print(&documents, || text(&letters))?;
    if letters.is_empty() && !printer.is_json() {
        say("no dead letter fits");
    }
    Ok(Ending::Done)
}
