//! What a command is told by its manifest: arguments, settings, and files for its payload and its result.

use std::fs;
use std::sync::Arc;

use stem_core::outcome::{FailureKind, Outcome, RetryAdvice};
use stem_isolate::Granted;

use super::guest::{Do, Script};
use super::{Yard, scratch};
use crate::bench::{self, failure, kind_and_code, text};
use crate::guests::command;

/// Prints what one of `args` and `environ` holds.
fn prints(what: &str) -> String {
    command(
        "",
        "",
        &format!(
            "(drop (call ${what}_sizes_get (i32.const 16) (i32.const 20)))
             (drop (call ${what}_get (i32.const 1024) (i32.const 4096)))
             (drop (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))"
        ),
    )
}

#[tokio::test]
async fn arguments_follow_the_name_and_settings_never_stand_for_the_contracts() {
    let yard = Yard::new().await;
    let granted = Granted {
        arguments: vec!["--size".to_owned(), "40 %".to_owned(), String::new()],
        settings: [("LANG", "C"), ("STEM_TASK_ID", "forged"), ("TRACEPARENT", "forged")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Granted::default()
    };
    let module = yard.bench.load(&prints("args")).await;
    let ended = bench::exit(yard.start(&module, vec![], granted.clone())).await;
    assert_eq!(text(&ended), "echo\0--size\x0040 %\0\0");
    let module = yard.bench.load(&prints("environ")).await;
    let ended = bench::exit(yard.start(&module, vec![], granted)).await;
    let told = text(&ended);
    let ours: Vec<_> = told.split('\0').filter(|variable| !variable.starts_with("STEM_")).collect();
    assert_eq!(ours[0], "LANG=C");
    assert!(!told.contains("forged") && told.contains("STEM_TASK_ID=task-1"), "{told}");
}

#[tokio::test]
async fn a_payload_may_be_a_file_and_a_result_too() {
    let yard = Yard::new().await;
    for guest in &yard.guests {
        // The script comes on standard input, and leaves a file.
        let leaves = |name: &str| {
            let script = Script::default().open(name, 1);
            script.with(Do::Put, 1_000).with(Do::Close, 0).bytes()
        };
        let granted =
            |result: &str| Granted { result_file: Some(result.to_owned()), ..scratch(1 << 20, 10) };
        let ended = bench::exit(yard.start(guest, leaves("out"), granted("/scratch/out"))).await;
        let Outcome::Succeeded(payload) = &ended.outcome else { panic!("{ended:?}") };
        assert_eq!(payload.bytes, vec![0; 1_000]);
        assert_eq!(payload.media_type, "application/octet-stream");
        // None, a directory, a link: nothing to return.
        let ended = bench::exit(yard.start(guest, leaves("other"), granted("/scratch/out"))).await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, "no-result"));
        let script = Script::default().at(Do::MakeDir, "out").bytes();
        let ended = bench::exit(yard.start(guest, script, granted("/scratch/out"))).await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, "no-result"));
        let script = Script::default().both(Do::Symlink, "out", "../../../../outside").bytes();
        fs::write(yard.dir.path().join("outside"), "nobody may read this").unwrap();
        let ended = bench::exit(yard.start(guest, script, granted("/scratch/out"))).await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, "no-result"));
        // Over the limit.
        let mut script = Script::default().open("out", 1);
        for _ in 0..17 {
            script = script.with(Do::Put, 65_536);
        }
        let big = Granted { result_file: Some("/scratch/out".to_owned()), ..scratch(8 << 20, 10) };
        let ended = bench::exit(yard.start(guest, script.bytes(), big)).await;
        assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "result-too-large"));
        // With its payload in a file a command's standard input is empty: no step, no answer.
        let input = Granted { input_file: Some("/scratch/in".to_owned()), ..scratch(100, 1) };
        let ended = bench::exit(yard.start(guest, vec![b'x'; 100], input.clone())).await;
        assert_eq!(text(&ended), "");
        let both = Granted { result_file: Some("/scratch/in".to_owned()), ..input.clone() };
        let ended = bench::exit(yard.start(guest, b"there and back".to_vec(), both)).await;
        assert_eq!(text(&ended), "there and back");
        // One JSON string is its text; any other JSON is what it is.
        for (payload, file) in [(r#""caf\u00e9 \"x\"""#, "café \"x\""), ("[\"a\"]", "[\"a\"]")] {
            let both = Granted { result_file: Some("/scratch/in".to_owned()), ..input.clone() };
            let ended = bench::exit(yard.start(guest, payload.into(), both)).await;
            assert_eq!(text(&ended), file);
        }
        let ended = bench::exit(yard.start(guest, vec![b'x'; 101], input.clone())).await;
        assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "input-too-large"));
        let denied = Granted { grants: stem_core::grants::Grants::default(), ..input };
        let ended = bench::exit(yard.start(guest, vec![], denied)).await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, "denied"));
        assert_eq!(failure(&ended).1, RetryAdvice::Never);
    }
    yard.swept().await;
}

#[tokio::test]
async fn a_task_that_is_no_command_keeps_its_payload() {
    let yard = Yard::new().await;
    let granted = Granted {
        input_file: Some("/scratch/in".to_owned()),
        result_file: Some("/scratch/out".to_owned()),
        ..scratch(1 << 20, 10)
    };
    let good = Arc::clone(yard.bench.good());
    let ended = bench::exit(yard.start(&good, b"good task".to_vec(), granted)).await;
    assert_eq!(text(&ended), "GOOD\0TASK");
}

#[tokio::test]
async fn a_command_whose_result_is_a_file_logs_what_it_prints() {
    let yard = Yard::new().await;
    let line = "stem-error: {\"kind\":\"fatal\",\"code\":\"c\",\"message\":\"m\"}";
    let prints = command(
        "",
        &line.replace('"', "\\\""),
        &format!(
            "(drop (call $write (i32.const 1) (i32.const 512) (i32.const {}))) (call $proc_exit (i32.const 3))",
            line.len()
        ),
    );
    let module = yard.bench.load(&prints).await;
    let granted = Granted { result_file: Some("/scratch/out".to_owned()), ..scratch(1 << 20, 10) };
    let ended = bench::exit(yard.start(&module, vec![], granted)).await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "exit-3"));
    assert_eq!(yard.bench.worker.lines(), [line]);
}
