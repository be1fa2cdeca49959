//! `stem revokes prune`

use serde_json::json;

use super::super::Context;
use super::super::consent::count;
use crate::args::{JsonArg, NamespaceArg};
use crate::connect::{self, ServiceUrl};
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::{Printer, say};

pub(super) async fn run(context: &Context, namespace: NamespaceArg, json: JsonArg) -> Outcome {
    let settings = context.settings(|flags| flags.namespace = namespace.namespace)?;
    let namespace = &settings.namespace.value;
    let pruned = connect::revokes(&settings).await?.prune(namespace).await?;
    let document = json!({ "namespace": namespace, "pruned": pruned });
    Printer::new(json.json)
        .print(&document, || format!("{} removed", count(pruned, "expired record")))?;
    if pruned == 0 && matches!(settings.revoke_store_url.value, ServiceUrl::File(_)) {
        say("note: a file above 1 MiB is written anew once a quarter of it can go");
    }
    Ok(Ending::Done)
}
