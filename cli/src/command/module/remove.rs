//! `stem module remove NAME VERSION`

use serde_json::json;
use stem_core::backend::modules::Removed;

use super::super::Context;
use super::super::consent::{self, Consent};
use super::shelf::{Shelf, short};
use crate::args::RemoveArgs;
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say};

pub(super) async fn run(context: &Context, args: RemoveArgs) -> Outcome {
    let shelf = Shelf::open(context, args.name).await?;
    let (name, version) = (&shelf.name, args.version);
    let release = shelf.release(version)?;
    let serves = shelf.history.assignment.is_some_and(|serving| {
        serving.version == version || serving.canary.is_some_and(|canary| canary.version == version)
    });
    let in_use = || {
        CliError::failed(
            format!("version {version} of {name} serves tasks; nothing was removed"),
            format!("let another serve first: stem module rollback {name}"),
        )
    };
    if serves {
        return Err(in_use());
    }
    let deed = format!("remove version {version} of {name} ({})", short(&release.digest));
    let dry_run = consent::ask(args.consent, &deed)? == Consent::DryRun;
    if !dry_run {
        match shelf.store.remove(name, version).await? {
            Removed::Done => {}
            Removed::InUse => return Err(in_use()),
            Removed::NoSuchVersion => return Err(shelf.no_version(version)),
        }
    }
    let document = json!({
        "name": name, "version": version, "digest": release.digest, "dryRun": dry_run, "removed": !dry_run,
    });
    Printer::new(args.json.json).print(&document, || {
        if dry_run { String::new() } else { format!("version {version} of {name} is removed") }
    })?;
    if dry_run {
        say(format!("dry run: would {deed}; nothing was done"));
    }
    Ok(Ending::Done)
}
