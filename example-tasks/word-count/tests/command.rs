//! The command as a process, which is all that a worker sees of it.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn run(input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_word-count"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().expect("it was piped").write_all(input).expect("the command reads");
    child.wait_with_output().expect("the command ends")
}

#[test]
fn the_counts_go_to_standard_output() {
    let output = run(br#"{"text":"to be,\nor not to be"}"#);
    assert!(output.status.success() && output.stderr.is_empty());
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result, json!({ "words": 6, "lines": 2, "characters": 19, "longest": "be," }));
}

#[test]
fn bad_input_is_a_fatal_failure_on_standard_error() {
    for input in [
        &b""[..],
        b"text",
        b"{}",
        br#"{"text":7}"#,
        br#"{"text":"a","more":1}"#,
        b"{\"text\":\"\xff\"}",
    ] {
        let output = run(input);
        assert_eq!(output.status.code(), Some(65));
        assert!(output.stdout.is_empty());
        let line = String::from_utf8(output.stderr).unwrap();
        let report =
            line.strip_prefix("stem-error: ").and_then(|rest| rest.strip_suffix('\n')).unwrap();
        let report: Value = serde_json::from_str(report).unwrap();
        assert_eq!(
            (&report["kind"], &report["code"]),
            (&json!("fatal"), &json!("invalid-arguments"))
        );
        assert!(!report["message"].as_str().unwrap().is_empty());
    }
}
