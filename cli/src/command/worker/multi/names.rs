//! `stem worker multi names`

use serde_json::{Value, json};

use super::super::super::Context;
use super::launches;
use crate::args::LaunchArgs;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::nodes::launch::Launch;
use crate::nodes::roster::without_secrets;
use crate::output::{Printer, table};

pub(super) fn run(context: &Context, args: &LaunchArgs) -> Outcome {
    let launches = launches(context, args)?;
    let nodes: Vec<Value> = launches.iter().map(document).collect();
    let document = json!({"action": "names", "nodes": nodes});
    Printer::new(args.nodes.json.json).print(&document, || {
        table(&["NODE", "PIDFILE", "LOGFILE", "WORKDIR", "COMMAND"], launches.iter().map(row))
    })?;
    Ok(Ending::Done)
}

fn document(launch: &Launch) -> Value {
    json!({
        "node": launch.node.name,
        "index": launch.node.index,
        "pidfile": launch.node.pidfile.display().to_string(),
        "logfile": launch.logfile.display().to_string(),
        "workdir": launch.workdir.display().to_string(),
        "command": words(launch),
    })
}

fn words(launch: &Launch) -> Vec<String> {
    launch.command.iter().map(|word| without_secrets(word)).collect()
}

fn row(launch: &Launch) -> Vec<String> {
    vec![
        launch.node.name.to_string(),
        launch.node.pidfile.display().to_string(),
        launch.logfile.display().to_string(),
        launch.workdir.display().to_string(),
        shell_words::join(words(launch)),
    ]
}
