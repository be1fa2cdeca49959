//! `stem revokes undo`

use serde_json::json;
use stem_core::id::TaskId;

use super::super::Context;
use super::called;
use crate::args::{JsonArg, NamespaceArg};
use crate::connect;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::Printer;

pub(super) async fn run(
    context: &Context,
    task: TaskId,
    namespace: NamespaceArg,
    json: JsonArg,
) -> Outcome {
    let settings = context.settings(|flags| flags.namespace = namespace.namespace)?;
    let namespace = &settings.namespace.value;
    let store = connect::revokes(&settings).await?;
    let Some(version) = store.undo(namespace, &task).await? else {
        return Err(CliError::nothing(
            format!("{} is not revoked in namespace {namespace}", called(&task)),
            "`stem revokes list` shows what is",
        ));
    };
    let document =
        json!({ "taskId": task, "namespace": namespace, "version": version, "undone": true });
    Printer::new(json.json).print(&document, || {
        format!("{} is no longer revoked; workers know within a second", called(&task))
    })?;
    Ok(Ending::Done)
}
