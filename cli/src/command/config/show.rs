//! `stem config show`

use std::time::Duration;

use serde_json::{Map, Value, json};
use stem_core::id::Namespace;

use super::super::Context;
use crate::args::JsonArg;
use crate::error::Outcome;
use crate::exit::Ending;
use crate::output::{Printer, table};
use crate::settings::Source;

pub(super) fn run(
    context: &Context,
    namespace: Option<Namespace>,
    timeout: Option<Duration>,
    json: JsonArg,
) -> Outcome {
    let settings = context.settings(|flags| {
        flags.namespace = namespace;
        flags.timeout = timeout;
    })?;
    let rows = settings.rows();
    Printer::new(json.json).print(&document(&rows), || text(&rows))?;
    Ok(Ending::Done)
}

/// Settings as JSON: an object for each, in order.
pub(in super::super) fn document(rows: &[(&'static str, Value, &Source)]) -> Value {
    let settings: Vec<Value> = rows
        .iter()
        .map(|(key, value, source)| {
            let mut row = Map::new();
            row.insert("key".to_owned(), json!(key));
            row.insert("value".to_owned(), value.clone());
            let (word, detail) = match source {
                Source::Flag(flag) => ("flag", Some(("flag", json!(flag)))),
                Source::Environment(variable) => {
                    ("environment", Some(("variable", json!(variable))))
                }
                Source::File(path) => ("file", Some(("path", json!(path.display().to_string())))),
                Source::Default => ("default", None),
                Source::Follows(key) => ("default", Some(("follows", json!(key)))),
            };
            row.insert("source".to_owned(), json!(word));
            row.extend(detail.map(|(name, value)| (name.to_owned(), value)));
            Value::Object(row)
        })
        .collect();
    json!({ "settings": settings })
}

/// Settings for people.
pub(in super::super) fn text(rows: &[(&'static str, Value, &Source)]) -> String {
    let rows = rows.iter().map(|(key, value, source)| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().unwrap_or_default())
                .collect::<Vec<_>>()
                .join(","),
            other => other.to_string(),
        };
        vec![(*key).to_owned(), value, source.to_string()]
    });
    table(&["SETTING", "VALUE", "FROM"], rows)
}
