//! The samples in `golden/` mean what the README says. The readers here are written from the README alone, to show
//! that it is enough to write one from.

use std::path::Path;

use serde_json::{Map, Value, json};
use stem_host_abi::{command, limits, raw};

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a line of standard error says about the failure, if it says anything.
fn read_stem_error(line: &str) -> Option<Value> {
    if line.len() > command::STEM_ERROR_LINE_BYTES {
        return None;
    }
    let Value::Object(read) =
        serde_json::from_str(line.strip_prefix(command::STEM_ERROR_PREFIX)?).ok()?
    else {
        return None;
    };
    let kind = read.get("kind")?.as_str()?;
    if ![command::KIND_RETRYABLE, command::KIND_FATAL, command::KIND_CANCELLED].contains(&kind) {
        return None;
    }
    let mut report = Map::from_iter([
        ("kind".to_owned(), json!(kind)),
        ("code".to_owned(), json!(read.get("code")?.as_str()?)),
        ("message".to_owned(), json!(read.get("message")?.as_str()?)),
    ]);
    if let Some(delay) = read.get("retry_after_ms") {
        report.insert("retry_after_ms".to_owned(), json!(delay.as_u64()?));
    }
    if let Some(detail) = read.get("detail") {
        report.insert("detail".to_owned(), detail.clone());
    }
    Some(Value::Object(report))
}

#[test]
fn each_good_stem_error_line_is_read_as_expected() {
    let read: Vec<_> = golden("stem-error.good.txt").lines().map(read_stem_error).collect();
    let expected: Vec<Value> =
        serde_json::from_str(&golden("stem-error.good.expected.json")).unwrap();
    assert_eq!(read, expected.into_iter().map(Some).collect::<Vec<_>>());
}

#[test]
fn no_bad_stem_error_line_is_a_failure_report() {
    let bad = golden("stem-error.bad.txt");
    assert!(bad.lines().count() >= 15);
    for line in bad.lines() {
        assert_eq!(read_stem_error(line), None, "{line}");
    }
}

#[test]
fn a_stem_error_line_over_the_bound_is_a_log_line() {
    let line = |message: usize| {
        let head = r#"stem-error: {"kind":"fatal","code":"c","message":""#;
        format!("{head}{}\"}}", "x".repeat(message - head.len() - 2))
    };
    assert!(read_stem_error(&line(command::STEM_ERROR_LINE_BYTES)).is_some());
    assert!(read_stem_error(&line(command::STEM_ERROR_LINE_BYTES + 1)).is_none());
}

/// Key order and absence of white space are part of the sample, so the text is compared, not the value.
#[test]
fn task_info_has_the_fields_of_the_wit_record_in_its_order() {
    let full = golden("task-info.full.json");
    let wit =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("wit/context.wit"))
            .unwrap();
    let fields = wit
        .lines()
        .filter(|line| line.starts_with("    ") && line.ends_with(',') && !line.contains("///"));
    let mut rest = full.as_str();
    let mut count = 0;
    for field in fields {
        let name = field.trim().split(':').next().unwrap().replace('-', "_");
        let key = format!("\"{}\":", if name == "enqueued_at" { "enqueued_at_ms" } else { &name });
        let at = rest.find(&key).unwrap_or_else(|| panic!("{key} is missing or out of order"));
        rest = &rest[at + key.len()..];
        count += 1;
    }
    let value: Map<String, Value> = serde_json::from_str(&full).unwrap();
    assert_eq!(value.len(), count);
    assert!(!full.contains('\n') && !full.contains(": "));
}

#[test]
fn an_absent_value_of_task_info_has_no_key() {
    let full: Map<String, Value> = serde_json::from_str(&golden("task-info.full.json")).unwrap();
    let minimal: Map<String, Value> =
        serde_json::from_str(&golden("task-info.minimal.json")).unwrap();
    let absent: Vec<_> =
        full.keys().filter(|key| !minimal.contains_key(*key)).map(String::as_str).collect();
    assert_eq!(absent, ["max_attempts", "parent_id", "trace_parent"]);
    assert!(minimal.values().all(|value| !value.is_null()));
    assert_eq!(minimal["root_id"], minimal["task_id"]);
}

#[test]
fn stop_notices_have_a_code_that_is_sent_a_message_and_perhaps_a_grace() {
    for (name, keys) in [
        ("stop-notice.json", &["code", "message", "grace_ms"][..]),
        ("stop-notice.minimal.json", &["code", "message"][..]),
    ] {
        let text = golden(name);
        let notice: Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(notice.len(), keys.len(), "{name}");
        let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":"))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{name}");
        assert!(stem_host_abi::STOP_CODES.contains(&notice["code"].as_str().unwrap()), "{name}");
        assert!(notice["message"].is_string(), "{name}");
        assert!(notice.get("grace_ms").is_none_or(Value::is_u64), "{name}");
    }
}

#[test]
fn fail_texts_have_a_code_and_a_message() {
    for name in ["fail.json", "fail.minimal.json"] {
        let text = golden(name);
        assert!(text.len() <= raw::FAIL_BYTES);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["code"].is_string() && value["message"].is_string(), "{name}");
    }
}

/// Reads a task of `children_enqueue` as the README says.
fn read_child(child: &Value) -> Option<(&str, Value, Vec<u8>)> {
    let name = child["task_name"].as_str()?;
    let media_type = child.get("media_type").cloned().unwrap_or(json!(stem_host_abi::JSON));
    let bytes = match (child.get("input"), child.get("input_base64")) {
        (Some(input), None) => input.to_string().into_bytes(),
        (None, Some(text)) => {
            let letters = text.as_str()?.trim_end_matches('=').bytes().map(|letter| match letter {
                b'A'..=b'Z' => u32::from(letter - b'A'),
                b'a'..=b'z' => u32::from(letter - b'a') + 26,
                b'0'..=b'9' => u32::from(letter - b'0') + 52,
                b'+' => 62,
                _ => 63,
            });
            let letters: Vec<u32> = letters.collect();
            let bytes = letters.chunks(4).flat_map(|four| {
                let bits = four.iter().fold(0, |bits, letter| bits << 6 | letter);
                let bits = bits << (6 * (4 - four.len()));
                bits.to_be_bytes()[1..].iter().copied().take(four.len() - 1).collect::<Vec<_>>()
            });
            bytes.collect()
        }
        (None, None) => b"null".to_vec(),
        (Some(_), Some(_)) => return None,
    };
    Some((name, media_type, bytes))
}

#[test]
fn children_have_a_name_and_json_or_bytes() {
    let full: Vec<Value> = serde_json::from_str(&golden("children.json")).unwrap();
    let read: Vec<_> = full.iter().map(|child| read_child(child).unwrap()).collect();
    assert_eq!(
        read,
        [
            ("thumb.small", json!("application/json"), br#"{"picture":"a.png"}"#.to_vec()),
            ("thumb.large", json!("image/png"), b"\x89PNG".to_vec()),
        ]
    );
    let minimal: Vec<Value> = serde_json::from_str(&golden("children.minimal.json")).unwrap();
    assert_eq!(
        minimal.iter().map(read_child).collect::<Vec<_>>(),
        [Some(("thumb.small", json!("application/json"), b"null".to_vec()))]
    );
}

/// The README's tables are for people; a number changed in one place only would mislead them.
#[test]
fn the_readme_names_every_constant() {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for name in command::ENVIRONMENT.iter().chain(&raw::FUNCTIONS) {
        assert!(readme.contains(&format!("| `{name}` |")), "{name}");
    }
    for word in stem_host_abi::STOP_CODES {
        assert!(readme.contains(&format!("`{word}`")), "{word}");
    }
    let table = readme.split("## Bounds").nth(1).unwrap().split("## Errors").next().unwrap();
    for (bound, text) in [
        (limits::PAYLOAD_BYTES, "| payload | 1 MiB |"),
        (limits::RESULT_BYTES, "| result | 1 MiB |"),
        (limits::LOG_BYTES_PER_ATTEMPT, "| log of an attempt | 1 MiB,"),
    ] {
        assert_eq!(bound, 1 << 20);
        assert!(table.contains(text), "{text}");
    }
    let line = |text: String| assert!(table.contains(&text), "{text}");
    line(format!("| media type | {} bytes |", limits::MEDIA_TYPE_BYTES));
    line(format!("| failure code, message | {}, 4,096 bytes |", limits::FAILURE_CODE_BYTES));
    assert_eq!(limits::FAILURE_MESSAGE_BYTES, 4096);
    line(format!("| failure detail | {} KiB |", limits::FAILURE_DETAIL_BYTES / 1024));
    line(format!("| `fail` text | {} KiB |", raw::FAIL_BYTES / 1024));
    line(format!(
        "| delay before the next attempt | {} h |",
        limits::NOT_BEFORE_CAP.as_secs() / 3600
    ));
    line(format!("| checkpoint | {} KiB |", limits::CHECKPOINT_BYTES / 1024));
    line(format!(
        "| progress message, data | {} KiB, {} KiB |",
        limits::PROGRESS_MESSAGE_BYTES / 1024,
        limits::PROGRESS_DATA_BYTES / 1024
    ));
    line(format!("| children of a call, of an attempt | {}, 1,000 |", limits::CHILDREN_PER_CALL));
    assert_eq!(limits::CHILDREN_PER_ATTEMPT, 1000);
    line(format!("| `children_enqueue` text | {} MiB |", raw::CHILDREN_BYTES >> 20));
    line(format!(
        "| delay of a child | {} days |",
        limits::CHILD_DELAY_CAP.as_secs() / (24 * 3600)
    ));
    line(format!(
        "| bucket name, key, value | {} bytes, {} bytes, {} KiB |",
        limits::KV_BUCKET_BYTES,
        limits::KV_KEY_BYTES,
        limits::KV_VALUE_BYTES / 1024
    ));
    line("| time to live of a value | 3,650 days |".to_owned());
    assert_eq!(limits::KV_TTL_CAP.as_secs(), 3650 * 24 * 3600);
    line(format!("| name of a setting or secret | {} bytes |", limits::SETTING_NAME_BYTES));
    line(format!("| progress | {} a second |", limits::PROGRESS_UPDATES_PER_SECOND));
    line(format!("passed on within {} s |", limits::HEARTBEAT_FLUSH.as_secs()));
    line(format!("| lease extension | {} a second |", limits::LEASE_EXTENSIONS_PER_SECOND));
    line("| log line | 4,096 bytes with its fields |".to_owned());
    assert_eq!(limits::LOG_LINE_BYTES, 4096);
    line(format!("| log fields | {} |", limits::LOG_FIELDS));
    line(format!(
        "| log lines | {} a second after a burst of {} |",
        limits::LOG_LINES_PER_SECOND,
        limits::LOG_BURST
    ));
}
