//! The task `fan-out`: starts a task for each document, and for none that it has seen in the last days.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use stem_guest::{Child, Context, TaskError};

/// Documents that are looked at between two heartbeats; as many children may be enqueued in one call.
const BATCH: usize = 100;

/// The task's arguments.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Args {
    documents: Vec<Document>,
    /// How long a document counts as seen.
    #[serde(default = "month")]
    keep_days: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    id: String,
    text: String,
}

fn month() -> u32 {
    30
}

/// The task's result.
#[derive(Debug, Default, Serialize)]
pub struct Spread {
    /// The ids of the tasks.
    started: Vec<String>,
    /// Documents that were seen before.
    skipped: usize,
}

/// The task.
#[stem_guest::task]
pub fn fan_out(ctx: &Context, args: Args) -> Result<Spread, TaskError> {
    let seen = ctx.kv("seen").expiring_after(Duration::from_hours(24) * args.keep_days);
    let mut spread = Spread::default();
    for batch in args.documents.chunks(BATCH) {
        ctx.heartbeat()?;
        let mut new = Vec::new();
        for document in batch {
            if seen.entry(&document.id)?.is_some() {
                spread.skipped += 1;
            } else {
                new.push(document);
            }
        }
        let children = new.iter().map(|document| {
            Child::new("word-count", &json!({ "text": document.text })).dedup_key(&document.id)
        });
        let ids = ctx.children().enqueue_all(children)?;
        // Only now: noted first, a document would be lost with an attempt that dies in between.
        for (document, id) in new.iter().zip(&ids) {
            seen.put(&document.id, id)?;
        }
        spread.started.extend(ids);
    }
    Ok(spread)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stem_guest::testing::TestHost;

    use super::*;

    fn host(ids: &[&str]) -> TestHost {
        let documents: Vec<_> =
            ids.iter().map(|id| json!({ "id": id, "text": format!("text of {id}") })).collect();
        let host = TestHost::new().allow_children("word-count").bucket("seen");
        host.args(&json!({ "documents": documents }))
    }

    #[test]
    fn each_new_document_gets_a_task_and_is_noted() {
        let run = host(&["a", "b", "c"]).value("seen", "b", "earlier").run(fan_out);
        assert_eq!(run.json::<Value>(), json!({ "started": ["child-1", "child-2"], "skipped": 1 }));
        let child = &run.children[1].child;
        assert_eq!(
            (child.task_name.as_str(), child.dedup_key.as_deref()),
            ("word-count", Some("c"))
        );
        assert_eq!(child.input.as_ref().unwrap().bytes, br#"{"text":"text of c"}"#);
        assert_eq!(run.value::<String>("seen", "c").as_deref(), Some("child-2"));
        assert_eq!(run.value::<String>("seen", "b").as_deref(), Some("earlier"));
    }

    #[test]
    fn a_document_that_comes_twice_gets_one_task() {
        let run = host(&["a", "a"]).run(fan_out);
        assert_eq!(run.children.len(), 1);
    }

    #[test]
    fn more_documents_than_a_call_takes_are_no_trouble() {
        let ids: Vec<_> = (0..250).map(|number| format!("d{number}")).collect();
        let run = host(&ids.iter().map(String::as_str).collect::<Vec<_>>()).run(fan_out);
        assert_eq!((run.children.len(), run.beats), (250, 3));
    }

    #[test]
    fn without_its_grants_it_says_what_is_missing() {
        let documents = json!({ "documents": [{ "id": "a", "text": "" }] });
        let run = TestHost::new().args(&documents).run(fan_out);
        assert_eq!(run.failure().code(), "denied");
        assert!(run.failure().message().contains("kv = [\"seen\"]"), "{}", run.failure());
    }
}
