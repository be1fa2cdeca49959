//! `stem module list` and `stem module show NAME`

use serde_json::{Value, json};
use stem_core::id::TaskName;
use stem_core::release::{Release, WORD_BYTES};
use stem_core::text::printable;

use super::super::Context;
use super::shelf::{Shelf, document, recalled, short};
use crate::args::JsonArg;
use crate::connect;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::{Printer, say, table};
use crate::view::memory;

/// What serves each task name.
pub(super) async fn run(context: &Context, json: JsonArg) -> Outcome {
    let settings = context.settings(|_| {})?;
    let catalogue = connect::modules(&settings).await?.catalogue().await?;
    let recalled = recalled(&settings).await?;
    let mut documents = Vec::new();
    let mut rows = Vec::new();
    for served in &catalogue.served {
        let canary = served.assignment.canary;
        for release in &served.releases {
            let trial = canary.filter(|canary| canary.version == release.version);
            let mut document = document(release, &recalled);
            document.remove("manifest");
            document.insert("canaryPercent".to_owned(), json!(trial.map(|trial| trial.percent)));
            documents.push(Value::Object(document));
            let trial = trial.map_or_else(String::new, |trial| format!("{}%", trial.percent.get()));
            let recalled = recalled.contains(&release.digest);
            rows.push(row(release.name.as_str(), release, &trial, recalled));
        }
    }
    let printer = Printer::new(json.json);
    let empty = rows.is_empty();
    printer.print(&documents, || if empty { String::new() } else { table(&HEADER, rows) })?;
    for name in &catalogue.unreadable {
        say(format!(
            "warning: what serves {name} cannot be read: somebody else wrote there, or a newer version of this program"
        ));
        say(format!("hint: `stem module show {name}` lists what can be read of it"));
    }
    if empty && catalogue.unreadable.is_empty() && !printer.is_json() {
        say("nothing that was pushed serves; `stem module push` ships a module");
    }
    Ok(Ending::Done)
}

const HEADER: [&str; 8] =
    ["NAME", "VERSION", "DIGEST", "SIZE", "SINCE", "BY", "SIGNATURES", "CANARY"];

fn row(name: &str, release: &Release, serving: &str, recalled: bool) -> Vec<String> {
    let note = if recalled { "recalled".to_owned() } else { serving.to_owned() };
    vec![
        name.to_owned(),
        release.version.to_string(),
        short(&release.digest),
        memory(release.size),
        release.pushed_at.to_string(),
        pushed_by(release),
        release.signatures.len().to_string(),
        note,
    ]
}

/// Whoever pushed it wrote that.
fn pushed_by(release: &Release) -> String {
    printable(release.pushed_by.as_deref().unwrap_or_default(), WORD_BYTES)
}

/// Every release of a task name.
pub(super) async fn show(context: &Context, name: TaskName, json: JsonArg) -> Outcome {
    let shelf = Shelf::open(context, name).await?;
    let assignment = shelf.history.assignment;
    let serving = |release: &Release| match assignment {
        Some(serving) if serving.version == release.version => Some("serves".to_owned()),
        Some(serving) => serving
            .canary
            .filter(|canary| canary.version == release.version)
            .map(|canary| format!("{}%", canary.percent.get())),
        None => None,
    };
    let releases: Vec<_> =
        shelf.history.releases.iter().map(|release| document(release, &shelf.recalled)).collect();
    let before = &shelf.history.before;
    let document = json!({
        "name": shelf.name, "assignment": assignment, "before": before, "releases": releases,
    });
    Printer::new(json.json).print(&document, || {
        let rows = shelf.history.releases.iter().map(|release| {
            vec![
                release.version.to_string(),
                release.digest.to_string(),
                memory(release.size),
                release.pushed_at.to_string(),
                pushed_by(release),
                release.signatures.len().to_string(),
                serving(release).unwrap_or_default(),
                if shelf.recalled.contains(&release.digest) { "recalled" } else { "" }.to_owned(),
            ]
        });
        table(&["VERSION", "DIGEST", "SIZE", "PUSHED", "BY", "SIGNATURES", "SERVES", ""], rows)
    })?;
    Ok(Ending::Done)
}
