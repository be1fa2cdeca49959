//! `stem keys list`

use serde_json::json;
use stem_core::seal::Purpose;
use stem_core::time::Clock;
use stem_engine::SystemClock;
use stem_engine::signing::{KeyRow, Keys};

use super::super::Context;
use super::files;
use crate::args::{JsonArg, KeyFileArgs};
use crate::error::{CliError, Outcome};
use crate::exit::Ending;
use crate::output::{Printer, say, table};

pub(super) fn run(context: &Context, args: &KeyFileArgs, json: JsonArg) -> Outcome {
    let (_, files) = files(context, args)?;
    let keys = Keys::open(files).map_err(|problem| {
        CliError::usage(problem, "mend the file; `stem help keys new` says what it holds")
    })?;
    let rows = keys.rows(SystemClock.now());
    let level = |purpose| keys.level(purpose).as_str();
    let document = json!({
        "commands": level(Purpose::Command),
        "replies": level(Purpose::Reply),
        "tasks": level(Purpose::Task),
        "keys": rows,
    });
    let printer = Printer::new(json.json);
    printer.print(&document, || text(&rows))?;
    if rows.is_empty() {
        return Err(CliError::nothing(
            "the files hold no key",
            "`stem keys new ID --role ROLE` makes one",
        ));
    }
    let [tasks, commands, replies] = Purpose::ALL.map(level);
    if !printer.is_json() {
        say(format!("commands: {commands}; replies: {replies}; tasks: {tasks}"));
    }
    Ok(Ending::Done)
}

fn text(rows: &[KeyRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let every = |names: Option<String>| names.unwrap_or_else(|| "every".to_owned());
    let rows = rows.iter().map(|row| {
        let workers = row
            .workers
            .as_ref()
            .map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        let listed = [
            row.namespaces.as_ref().map(|names| format!("namespace {}", names.join(", "))),
            row.queues.as_ref().map(|names| format!("queue {}", names.join(", "))),
            workers.map(|ids| format!("worker {ids}")),
        ];
        let listed: Vec<_> = listed.into_iter().flatten().collect();
        let side = match (row.signs, row.verifies) {
            (true, true) => "signs, believed",
            (true, false) => "signs",
            (false, _) => "believed",
        };
        vec![
            row.id.to_string(),
            row.algorithm.to_owned(),
            row.roles.join(", "),
            every(Some(listed.join("; ")).filter(|text| !text.is_empty())),
            row.state.as_str().to_owned(),
            row.not_after.map_or_else(|| "never".to_owned(), |at| at.to_string()),
            side.to_owned(),
        ]
    });
    table(&["KEY", "ALGORITHM", "ROLES", "FOR", "STATE", "ENDS", "HERE"], rows)
}
