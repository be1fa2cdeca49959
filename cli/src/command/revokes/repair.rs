//! `stem revokes repair`

use serde_json::json;

use super::super::Context;
use super::super::consent::count;
use crate::args::JsonArg;
use crate::connect::{self, ServiceUrl};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say};

pub(super) async fn run(context: &Context, json: JsonArg) -> Outcome {
    let settings = context.settings(|_| {})?;
    let store = &settings.revoke_store_url;
    let ServiceUrl::File(path) = &store.value else {
        return Err(CliError::usage(
            format!("the revoke store {} ({}) is not a file of lines", store.value, store.source),
            "a database mends itself when it is opened; name a file with STEM_REVOKE_STORE_URL=file:///path",
        ));
    };
    let repaired = connect::revoke_file(path).repair().await?;
    let document = json!({
        "store": store.value.to_string(),
        "kept": repaired.kept,
        "setAside": repaired.set_aside,
        "setAsideIn": repaired.path_of_set_aside.as_ref().map(|path| path.display().to_string()),
    });
    Printer::new(json.json).print(&document, || {
        let kept = count(repaired.kept, "readable line");
        match &repaired.path_of_set_aside {
            None => format!("nothing to repair: {kept}"),
            Some(path) => format!(
                "{kept} kept, {} set aside in {}",
                count(repaired.set_aside, "unreadable line"),
                path.display()
            ),
        }
    })?;
    if repaired.set_aside > 0 {
        say(
            "note: what those lines ordered is not in force; look at them, and revoke again what must not run",
        );
    }
    Ok(Ending::Done)
}
