//! Tasks that tasks enqueue, and the values that they share, through a worker and its store.

use std::fs;

use serde_json::{Value, json};

use crate::lab::{Lab, modules};

#[test]
fn a_task_starts_others_and_remembers_which() {
    let lab = Lab::new();
    let _worker = lab.worker(&[]);
    let fan_out = |ids: &[&str]| {
        let documents: Vec<_> =
            ids.iter().map(|id| json!({"id": id, "text": format!("two {id}")})).collect();
        let id = lab.enqueue("fan-out", &json!({"documents": documents}).to_string(), &[]);
        lab.until_state(&id, "succeeded")["result"].clone()
    };
    let first = fan_out(&["a", "b"]);
    assert_eq!(first["skipped"], 0, "{first}");
    let started = first["started"].as_array().unwrap();
    assert_eq!(started.len(), 2);
    for child in started {
        let record = lab.until_state(child.as_str().unwrap(), "succeeded");
        assert_eq!((&record["name"], &record["queue"]), (&json!("word-count"), &json!("default")));
        assert_eq!(record["result"]["words"], 2, "{record}");
    }
    let second = fan_out(&["a", "b", "c"]);
    assert_eq!((&second["skipped"], second["started"].as_array().unwrap().len()), (&json!(2), 1));
}

/// Enqueues `leaf` with its own success, and fails for good if its payload is 1.
const PARENT: &str = r#"(module
  (import "stem0" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
  (import "stem0" "children_enqueue" (func $enqueue (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "[{\"task_name\":\"leaf\",\"input\":[1,2]}]")
  (func (export "stem_run") (result i32)
    (drop (call $input_read (i32.const 1024) (i64.const 0) (i32.const 1)))
    (if (i32.lt_s (call $enqueue (i32.const 0) (i32.const 36) (i32.const 1) (i32.const 2048) (i32.const 131)) (i32.const 0))
      (then unreachable))
    (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 49))))"#;

/// Returns what it is told of itself.
const LEAF: &str = r#"(module
  (import "stem0" "info" (func $info (param i32 i32) (result i32)))
  (import "stem0" "output_write" (func $output_write (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "stem_run") (result i32)
    (call $output_write (i32.const 0) (call $info (i32.const 0) (i32.const 65536)))))"#;

#[test]
fn children_of_a_success_come_with_it_and_not_without_it() {
    let lab = Lab::new();
    let dir = lab.path("modules");
    fs::create_dir(&dir).unwrap();
    for (name, text) in [("parent", PARENT), ("leaf", LEAF)] {
        fs::write(dir.join(format!("{name}.wasm")), wat::parse_str(text).unwrap()).unwrap();
    }
    let manifest = "[handlers.parent]\nsource = \"file:parent.wasm\"\non-failure = \"fail\"\n\
                    [handlers.parent.grants]\nchildren = [\"leaf\"]\n";
    fs::write(dir.join("stem.toml"), manifest).unwrap();
    let _worker = lab.worker_from(&["worker", "start", "--modules", dir.to_str().unwrap()]);
    let leaves = || -> Vec<Value> {
        let said = lab.stem(&["task", "list", "--name", "leaf", "--json"]).ok().json();
        said.as_array().unwrap().clone()
    };
    let failed = lab.enqueue("parent", "1", &[]);
    lab.until_state(&failed, "failed");
    assert_eq!(leaves(), Vec::<Value>::new());
    let succeeded = lab.enqueue("parent", "0", &[]);
    lab.until_state(&succeeded, "succeeded");
    let there = leaves();
    assert_eq!(there.len(), 1, "{there:?}");
    let leaf = lab.until_state(there[0]["id"].as_str().unwrap(), "succeeded");
    let told = &leaf["result"];
    assert_eq!((&told["parent_id"], &told["root_id"]), (&json!(succeeded), &json!(succeeded)));
    assert_eq!(told["queue"], "default", "its parent's");
    assert_eq!((&leaf["parentId"], &leaf["rootId"]), (&json!(succeeded), &json!(succeeded)));
    let shown = lab.stem(&["task", "show", leaf["id"].as_str().unwrap()]).ok().stdout;
    for key in ["parent", "root"] {
        let line = shown.lines().find(|line| line.trim_start().starts_with(key));
        assert!(line.is_some_and(|line| line.contains(&succeeded)), "{shown}");
    }
    assert_eq!(lab.until_state(&succeeded, "succeeded").get("parentId"), None);
}

#[test]
fn what_no_grant_covers_is_denied_by_name_and_line() {
    let lab = Lab::new();
    let dir = lab.path("modules");
    fs::create_dir(&dir).unwrap();
    fs::copy(modules().join("fan-out/fan-out.wasm"), dir.join("fan-out.wasm")).unwrap();
    let worker = lab.worker_from(&["worker", "start", "--modules", dir.to_str().unwrap()]);
    let id = lab.enqueue("fan-out", r#"{"documents":[{"id":"a","text":""}]}"#, &[]);
    let record = lab.until_state(&id, "failed");
    assert_eq!(record["failure"]["code"], "denied", "{record}");
    let line = "put kv = [\"seen\"] under [handlers.fan-out.grants] in stem.toml";
    assert!(record["failure"]["message"].as_str().unwrap().contains(line), "{record}");
    lab.wait_for("the warning", |_| worker.log(), |log| log.contains("denied: put kv = "));
}
