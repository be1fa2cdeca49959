//! WASI commands: payload on standard input, result on standard output, failures by exit code and line.

use std::time::Duration;

use stem_core::outcome::{FailureKind, Outcome, RetryAdvice, StopHow, StopNotice, StopReason};
use stem_isolate::{AttemptSpec, ModuleKind, OnFailure};

use crate::bench::{Bench, exit, failure, kind_and_code, spec, stopped, text, within};
use crate::guests::{RAW_IMPORTS, command};

/// Copies standard input to standard output, 4,096 bytes at a time.
const CAT: &str = "(local $got i32)
  (block $done (loop $next
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 4096))
    (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
    (local.set $got (i32.load (i32.const 8)))
    (br_if $done (i32.eqz (local.get $got)))
    (if (call $write (i32.const 1) (i32.const 4096) (local.get $got)) (then unreachable))
    (br $next)))";

#[tokio::test]
async fn a_preview_1_command_reads_its_payload_and_prints_its_result() {
    let bench = Bench::new();
    let cat = command("", "", CAT);
    let ended = bench.run(&cat, b"{\"text\":\"abc\"}").await;
    assert_eq!(text(&ended), "{\"text\":\"abc\"}");
    let Outcome::Succeeded(payload) = ended.outcome else { unreachable!() };
    assert_eq!(payload.media_type, "application/json");
    let ended = bench.run(&cat, b"two words").await;
    let Outcome::Succeeded(payload) = ended.outcome else { panic!("{ended:?}") };
    assert_eq!(payload.media_type, "application/octet-stream");
    assert_eq!(bench.load(&cat).await.kind(), ModuleKind::Command);
}

#[tokio::test]
async fn standard_output_at_the_limit_is_a_result_and_one_byte_more_is_none() {
    let mut bench = Bench::new();
    bench.limits.result_bytes = 5_000;
    let cat = command("", "", CAT);
    assert_eq!(text(&bench.run(&cat, &[b'x'; 5_000]).await).len(), 5_000);
    let ended = bench.run(&cat, &[b'x'; 5_001]).await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "result-too-large"));
    assert_eq!(failure(&ended).1, RetryAdvice::Never);
}

/// A preview 1 command that imports `stem0` too, as tasks in Go do.
fn with_stem0(data: &str, start: &str) -> String {
    command(&format!("{RAW_IMPORTS}---"), data, start)
}

#[tokio::test]
async fn what_a_command_calls_of_stem0_counts_as_a_components_call_does() {
    let bench = Bench::new();
    let guest = with_stem0(
        "state",
        "(if (i32.ne (call $checkpoint_load (i32.const 4096) (i32.const 9)) (i32.const -4)) (then unreachable))
         (if (call $progress (i32.const 250) (i32.const 512) (i32.const 5)) (then unreachable))
         (if (call $checkpoint_save (i32.const 512) (i32.const 5)) (then unreachable))
         (drop (call $output_write (i32.const 4096)
           (call $checkpoint_load (i32.const 4096) (i32.const 9))))",
    );
    let module = bench.load(&guest).await;
    assert_eq!(module.kind(), ModuleKind::Command);
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    assert_eq!(text(&within(end).await), "state");
    assert!(interrupt.has_checkpointed());
    let told = bench.worker.last_progress().unwrap();
    assert_eq!((told.fraction, told.message.as_deref()), (Some(0.25), Some("state")));

    let beats = bench.load(&with_stem0("", "(drop (call $heartbeat))")).await;
    let (interrupt, end) = bench.start(&beats, b"").into_parts();
    within(end).await;
    assert!(interrupt.has_checkpointed());
    let plain = bench.load(&command("", "", CAT)).await;
    let (interrupt, end) = bench.start(&plain, b"").into_parts();
    within(end).await;
    assert!(!interrupt.has_checkpointed());
}

#[tokio::test]
async fn what_a_command_gives_to_output_write_is_its_result_and_what_it_prints_is_not() {
    let mut bench = Bench::new();
    bench.limits.result_bytes = 3;
    let prints = "(drop (call $write (i32.const 1) (i32.const 512) (i32.const 5)))";
    let gives = |len: u32| format!("(call $output_write (i32.const 517) (i32.const {len}))");
    let guest = |start: &str| with_stem0("said\\n12345", start);
    let ended = bench.run(&guest(&format!("{prints} (drop {})", gives(2))), b"").await;
    let Outcome::Succeeded(payload) = &ended.outcome else { panic!("{ended:?}") };
    assert_eq!(
        (payload.bytes.as_slice(), payload.media_type.as_str()),
        (&b"12"[..], "application/json")
    );
    assert_eq!(bench.worker.lines(), ["said"]);
    let ended = bench
        .run(&guest(&format!("(drop {}) (call $proc_exit (i32.const 0))", gives(0))), b"")
        .await;
    assert_eq!(text(&ended), "", "nothing is a result if it is given");
    for nothing in [prints, "(call $proc_exit (i32.const 0))"] {
        let ended = bench.run(&guest(nothing), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, "no-result"));
        assert_eq!(failure(&ended).1, RetryAdvice::Policy);
    }
    let refused =
        format!("(if (i32.eq {} (i32.const -3)) (then (call $proc_exit (i32.const 1))))", gives(4));
    let ended = bench.run(&guest(&refused), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "result-too-large"));
    assert_eq!(failure(&ended).1, RetryAdvice::Never);
}

#[tokio::test]
async fn a_command_with_checkpoints_sees_a_notice_and_obeys_a_gentle_stop() {
    let bench = Bench::new();
    let module = bench
        .load(&with_stem0(
            "",
            "(drop (call $progress (i32.const -1) (i32.const 0) (i32.const 0)))
             (loop $again (br_if $again (i32.eqz (call $heartbeat))))
             (call $proc_exit (i32.const 79))",
        ))
        .await;
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    let message = String::new();
    interrupt.notify(StopNotice { code: "worker-drain", message, force_after: None });
    assert_eq!(stopped(&within(end).await), (StopReason::Shutdown, StopHow::Checkpoint));
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    interrupt.stop(StopReason::Revoked, false);
    assert_eq!(stopped(&within(end).await), (StopReason::Revoked, StopHow::Checkpoint));
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn exit_codes_mean_what_the_table_says() {
    let bench = Bench::new();
    let exits = |code: u32| command("", "", &format!("(call $proc_exit (i32.const {code}))"));
    assert_eq!(text(&bench.run(&exits(0), b"").await), "");
    for (code, retry) in [
        (75, RetryAdvice::Policy),
        (64, RetryAdvice::Never),
        (65, RetryAdvice::Never),
        (78, RetryAdvice::Never),
        // Nobody asked it to stop.
        (79, RetryAdvice::Never),
        // As the manifest says, and here it says nothing.
        (1, RetryAdvice::Policy),
        (3, RetryAdvice::Policy),
        // Those of shells and signals, and what exit(-1) is.
        (126, RetryAdvice::Policy),
        (255, RetryAdvice::Policy),
    ] {
        let ended = bench.run(&exits(code), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, format!("exit-{code}").as_str()));
        assert_eq!(failure(&ended).1, retry, "{code}");
    }
}

#[tokio::test]
async fn a_code_that_no_system_has_is_a_failure_like_any_other() {
    let bench = Bench::new();
    let line = "stem-error: {\"kind\":\"fatal\",\"code\":\"told\",\"message\":\"\"}\n";
    for (code, name) in [
        (126, "exit-126"),
        (134, "exit-134"),
        (255, "exit-255"),
        (u32::MAX, "exit-255"),
        (256, "exit-1"),
    ] {
        let exits = command("", "", &format!("(call $proc_exit (i32.const {code}))"));
        let ended = bench.run(&exits, b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, name));
        assert_eq!(failure(&ended).1, RetryAdvice::Policy);
        let module = bench.load(&exits).await;
        let spec = AttemptSpec { on_failure: OnFailure::Fail, ..spec(b"", bench.limits.clone()) };
        let ended = exit(bench.runtime.start(&module, spec, bench.worker.clone())).await;
        assert_eq!(failure(&ended).1, RetryAdvice::Never, "{code}");
        let ended = bench.run(&complains(line, code), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, "told"), "{code}");
        assert_eq!(failure(&ended).1, RetryAdvice::Never);
    }
}

/// Writes this to standard error and exits.
fn complains(words: &str, code: u32) -> String {
    let len = words.len();
    let data = words.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    command(
        "",
        &data,
        &format!(
            "(drop (call $write (i32.const 2) (i32.const 512) (i32.const {len}))) (call $proc_exit (i32.const {code}))"
        ),
    )
}

#[tokio::test]
async fn the_last_stem_error_line_tells_the_failure_unless_the_code_decides() {
    let bench = Bench::new();
    let line = "starting\nstem-error: {\"kind\":\"fatal\",\"code\":\"first\",\"message\":\"\"}\n\
                stem-error: {\"kind\":\"retryable\",\"code\":\"upstream\",\"message\":\"503\",\"retry_after_ms\":1500}";
    let ended = bench.run(&complains(line, 1), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "upstream"));
    assert_eq!(failure(&ended).1, RetryAdvice::After(Duration::from_millis(1500)));
    assert_eq!(bench.worker.lines(), ["starting"], "failure lines are no log lines");
    let ended = bench.run(&complains(line, 64), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "upstream"));
    assert_eq!(failure(&ended).1, RetryAdvice::Never, "the code has decided");
    let ended = bench.run(&complains(line, 0), b"").await;
    assert_eq!(text(&ended), "", "success is success");
    let ended = bench.run(&complains("stem-error: [\"fatal\",\"c\",\"m\"]\n", 1), b"").await;
    assert_eq!(kind_and_code(&ended).1, "exit-1");
}

#[tokio::test]
async fn the_environment_and_the_arguments_are_the_contracts_and_nothing_else() {
    let bench = Bench::new();
    // Sizes at 16 and 20, pointers at 1024, text at 4096.
    let environ = command(
        "",
        "",
        "(drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
         (drop (call $environ_get (i32.const 1024) (i32.const 4096)))
         (drop (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))",
    );
    let ended = bench.run(&environ, b"").await;
    let told = text(&ended);
    let variables: Vec<_> = told.split_terminator('\0').collect();
    let deadline: u128 = variables
        .iter()
        .find_map(|variable| variable.strip_prefix("STEM_DEADLINE_MS="))
        .unwrap()
        .parse()
        .unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let left = deadline - now.as_millis();
    assert!((20_000..=60_000).contains(&left), "{left}");
    let mut rest: Vec<_> = variables
        .into_iter()
        .filter(|variable| !variable.starts_with("STEM_DEADLINE_MS="))
        .collect();
    rest.sort_unstable();
    assert_eq!(
        rest,
        [
            "STEM_ATTEMPT=2",
            "STEM_IDEMPOTENCY_KEY=key-1",
            "STEM_MAX_ATTEMPTS=5",
            "STEM_MEDIA_TYPE=application/json",
            "STEM_QUEUE=default",
            "STEM_TASK_ID=task-1",
            "STEM_TASK_NAME=echo",
            "TRACEPARENT=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ]
    );
    let arguments = command(
        "",
        "",
        "(drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
         (drop (call $args_get (i32.const 1024) (i32.const 4096)))
         (drop (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 20))))",
    );
    assert_eq!(text(&bench.run(&arguments, b"").await), "echo\0");
}

#[tokio::test]
async fn a_command_may_import_the_checkpoints_too() {
    let bench = Bench::new();
    let both = command(
        "(import \"stem0\" \"heartbeat\" (func $heartbeat (result i32)))
         (import \"stem0\" \"progress\" (func $progress (param i32 i32 i32) (result i32)))
         (import \"stem0\" \"fail\" (func $fail (param i32 i64 i32 i32) (result i32)))---",
        r#"{\"code\":\"c\",\"message\":\"m\"}"#,
        "(drop (call $progress (i32.const 250) (i32.const 0) (i32.const 0)))
         (loop $again (br_if $again (i32.eqz (call $heartbeat))))
         (drop (call $fail (i32.const 3) (i64.const 0) (i32.const 512) (i32.const 26)))
         (call $proc_exit (i32.const 1))",
    );
    let module = bench.load(&both).await;
    assert_eq!(module.kind(), ModuleKind::Command);
    let (interrupt, end) = bench.start(&module, b"").into_parts();
    within(bench.worker.called.notified()).await;
    interrupt.notify(StopNotice {
        code: "soft-time-limit",
        message: String::new(),
        force_after: None,
    });
    assert_eq!(stopped(&within(end).await), (StopReason::TimeLimit, StopHow::Checkpoint));
    assert_eq!(bench.worker.last_progress().unwrap().fraction, Some(0.25));
    bench.assert_good_task_runs().await;
}

#[tokio::test]
async fn exit_in_the_middle_in_a_nested_call_and_in_initialize_ends_the_command() {
    let bench = Bench::new();
    for (more, start) in [
        (
            "",
            "(drop (call $write (i32.const 1) (i32.const 16) (i32.const 1))) (call $proc_exit (i32.const 75)) (call $proc_exit (i32.const 0)) (loop $again (br $again))",
        ),
        (
            "(func $deep (param $n i32) (if (i32.eqz (local.get $n)) (then (call $proc_exit (i32.const 75)))) (call $deep (i32.sub (local.get $n) (i32.const 1))))",
            "(call $deep (i32.const 50))",
        ),
        ("(func (export \"_initialize\") (call $proc_exit (i32.const 75)))", "unreachable"),
        ("(func $begin (call $proc_exit (i32.const 75))) (start $begin)", "unreachable"),
    ] {
        let ended = bench.run(&command(more, "", start), b"").await;
        assert_eq!(kind_and_code(&ended), (FailureKind::Error, "exit-75"), "{more}");
    }
}

/// A WASI 0.2 command: imports of this version, functions to call, the body of `run` with 0 for success.
pub(crate) fn command_02(version: &str, more: &str, run: &str) -> String {
    format!(
        r#"(component
  (import "wasi:io/error@{version}" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))
  (import "wasi:io/poll@{version}" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))
    (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@{version}" (instance $streams
    (alias outer 1 $error (type $e)) (export "error" (type $error (eq $e)))
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (type $stream-error-v (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $stream-error-v)))
    (export "[method]input-stream.blocking-read" (func (param "self" (borrow $in)) (param "len" u64)
      (result (result (list u8) (error $stream-error)))))
    (export "[method]output-stream.blocking-write-and-flush" (func (param "self" (borrow $out)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "input-stream" (type $input))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdin@{version}" (instance $stdin
    (alias outer 1 $input (type $i)) (export "input-stream" (type $input (eq $i)))
    (export "get-stdin" (func (result (own $input))))))
  (import "wasi:cli/stdout@{version}" (instance $stdout
    (alias outer 1 $output (type $o)) (export "output-stream" (type $output (eq $o)))
    (export "get-stdout" (func (result (own $output))))))
  (import "wasi:cli/stderr@{version}" (instance $stderr
    (alias outer 1 $output (type $o)) (export "output-stream" (type $output (eq $o)))
    (export "get-stderr" (func (result (own $output))))))
  (import "wasi:cli/exit@{version}" (instance $exit (export "exit" (func (param "status" (result))))))
  (import "wasi:random/random@{version}" (instance $random (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  (import "wasi:clocks/monotonic-clock@{version}" (instance $clock
    (alias outer 1 $pollable (type $p)) (export "pollable" (type $pollable (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (core module $space-m
    (memory (export "memory") 4)
    (global $heap (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (global.get $heap)
      (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get $size)) (i32.const 7)) (i32.const -8)))))
  (core instance $space (instantiate $space-m))
  (alias core export $space "memory" (core memory $memory))
  (alias core export $space "realloc" (core func $realloc))
  (core func $read (canon lower (func $streams "[method]input-stream.blocking-read") (memory $memory) (realloc $realloc)))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $memory)))
  (core func $poll-list (canon lower (func $poll "poll") (memory $memory) (realloc $realloc)))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $stdin-f (canon lower (func $stdin "get-stdin")))
  (core func $stdout-f (canon lower (func $stdout "get-stdout")))
  (core func $stderr-f (canon lower (func $stderr "get-stderr")))
  (core func $exit-f (canon lower (func $exit "exit")))
  (core func $random-f (canon lower (func $random "get-random-bytes") (memory $memory) (realloc $realloc)))
  (core func $wait-f (canon lower (func $clock "subscribe-duration")))
  (core module $main-m
    (import "space" "memory" (memory 4))
    (import "host" "read" (func $read (param i32 i64 i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "poll" (func $poll (param i32 i32 i32)))
    (import "host" "block" (func $block (param i32)))
    (import "host" "stdin" (func $stdin (result i32)))
    (import "host" "stdout" (func $stdout (result i32)))
    (import "host" "stderr" (func $stderr (result i32)))
    (import "host" "exit" (func $exit (param i32)))
    (import "host" "random" (func $random (param i64 i32)))
    (import "host" "after" (func $after (param i64) (result i32)))
    {more}
    (func (export "run") (result i32) {run}))
  (core instance $main (instantiate $main-m (with "space" (instance $space)) (with "host" (instance
    (export "read" (func $read)) (export "write" (func $write)) (export "poll" (func $poll-list)) (export "block" (func $block))
    (export "stdin" (func $stdin-f)) (export "stdout" (func $stdout-f)) (export "stderr" (func $stderr-f))
    (export "exit" (func $exit-f)) (export "random" (func $random-f)) (export "after" (func $wait-f))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@{version}" (instance $command)))"#
    )
}

/// Copies standard input to standard output.
pub(crate) const CAT_02: &str = "(local $in i32) (local $out i32)
  (local.set $in (call $stdin)) (local.set $out (call $stdout))
  (block $done (loop $next
    (call $read (local.get $in) (i64.const 4096) (i32.const 1024))
    (br_if $done (i32.load8_u (i32.const 1024)))
    (call $write (local.get $out) (i32.load (i32.const 1028)) (i32.load (i32.const 1032)) (i32.const 1024))
    (br $next)))
  (i32.const 0)";

#[tokio::test]
async fn a_wasi_02_command_reads_its_payload_and_prints_its_result() {
    let mut bench = Bench::new();
    bench.limits.result_bytes = 5_000;
    let cat = command_02("0.2.12", "", CAT_02);
    assert_eq!(text(&bench.run(&cat, b"[true]").await), "[true]");
    assert_eq!(bench.load(&cat).await.kind(), ModuleKind::Command);
    assert_eq!(text(&bench.run(&cat, &[b'x'; 5_000]).await).len(), 5_000);
    let ended = bench.run(&cat, &[b'x'; 5_001]).await;
    assert_eq!(kind_and_code(&ended), (FailureKind::PayloadTooLarge, "result-too-large"));
}

#[tokio::test]
async fn a_wasi_02_command_fails_by_its_result_by_exit_and_by_line() {
    let bench = Bench::new();
    let ended = bench.run(&command_02("0.2.3", "", "(i32.const 1)"), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "exit"));
    assert_eq!(failure(&ended).1, RetryAdvice::Policy);
    let ended =
        bench.run(&command_02("0.2.3", "", "(call $exit (i32.const 1)) unreachable"), b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "exit"));
    let ended =
        bench.run(&command_02("0.2.3", "", "(call $exit (i32.const 0)) unreachable"), b"").await;
    assert_eq!(text(&ended), "");
    let line = "stem-error: {\"kind\":\"fatal\",\"code\":\"bad\",\"message\":\"m\"}\n";
    let tells = command_02(
        "0.2.3",
        &format!("(data (i32.const 512) \"{}\")", line.replace('"', "\\\"").replace('\n', "\\n")),
        &format!(
            "(call $write (call $stderr) (i32.const 512) (i32.const {}) (i32.const 1024)) (i32.const 1)",
            line.len()
        ),
    );
    let ended = bench.run(&tells, b"").await;
    assert_eq!(kind_and_code(&ended), (FailureKind::Error, "bad"));
    assert_eq!(failure(&ended).1, RetryAdvice::Never);
}
