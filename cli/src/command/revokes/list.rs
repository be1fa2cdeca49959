//! `stem revokes list`

use stem_core::revoke::{Revocation, judged_at};
use stem_core::time::Clock;
use stem_engine::SystemClock;

use super::super::Context;
use crate::args::{JsonArg, NamespaceArg};
use crate::connect;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::{Printer, say, table};
use crate::view::how_text;

pub(super) async fn run(context: &Context, namespace: NamespaceArg, json: JsonArg) -> Outcome {
    let settings = context.settings(|flags| flags.namespace = namespace.namespace)?;
    let store = connect::revokes(&settings).await?;
    let known = stem_engine::revocations::read_all(&store, &settings.namespace.value).await?;
    let revocations = known.all(judged_at(store.time().await?, SystemClock.now()));
    let printer = Printer::new(json.json);
    printer.print(&revocations, || text(&revocations))?;
    if revocations.is_empty() && !printer.is_json() {
        say(format!("nothing is revoked in namespace {}", settings.namespace.value));
    }
    Ok(Ending::Done)
}

fn text(revocations: &[Revocation]) -> String {
    if revocations.is_empty() {
        return String::new();
    }
    let rows = revocations.iter().map(|revocation| {
        let request = &revocation.request;
        vec![
            revocation.task_id.to_string(),
            how_text(request),
            revocation.issued_at.to_string(),
            request.expires_at.map_or_else(|| "never".to_owned(), |at| at.to_string()),
            request.requested_by.clone().unwrap_or_default(),
            request.reason.clone().unwrap_or_default(),
        ]
    });
    table(&["TASK", "HOW", "ISSUED", "EXPIRES", "BY", "REASON"], rows)
}
