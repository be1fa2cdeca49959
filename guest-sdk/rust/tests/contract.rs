//! The SDK against the contract: what a task sees of its host, what the host gets from a task, and the samples in
//! `host-abi/golden`.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stem_guest::testing::{End, Run, TestHost};
use stem_guest::{Binary, Context, HostError, Level, Progress, StopNotice, TaskError, TimeLeft};
use stem_host_abi::{STOP_CODES, limits};

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host-abi/golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a closure that has no arguments and no result.
fn with(host: TestHost, look: impl FnOnce(&Context) -> Result<(), TaskError>) -> Run {
    host.run(|ctx, (): ()| look(ctx))
}

/// Like [`with`], for a closure that must come to its end.
fn passes(host: TestHost, look: impl FnOnce(&Context) -> Result<(), TaskError>) -> Run {
    let run = with(host, look);
    assert!(matches!(run.end, End::Returned(_)), "{:?}", run.end);
    run
}

#[derive(Debug, Deserialize, Serialize, PartialEq)]
struct Point {
    x: i32,
    y: i32,
}

#[stem_guest::task]
fn mirror(_: &Context, point: Point) -> Result<Point, TaskError> {
    Ok(Point { x: point.y, y: point.x })
}

#[test]
fn arguments_and_results_travel_as_json() {
    let run = TestHost::new().args(&json!({ "x": 1, "y": 2 })).run(mirror);
    assert_eq!(run.result(), &Binary::json(br#"{"x":2,"y":1}"#.to_vec()));
    assert_eq!(run.json::<Point>(), Point { x: 2, y: 1 });
}

#[test]
fn arguments_that_do_not_fit_are_fatal_before_the_task_is_called() {
    for (payload, message) in [
        (Binary::json(b"".to_vec()), "EOF while parsing a value"),
        (Binary::json(b"{\"x\":1}".to_vec()), "missing field `y`"),
        (Binary::json(b"{\"x\":1,\"y\":2} trailing".to_vec()), "trailing characters"),
        (Binary::new("text/plain", b"hello".to_vec()), "expected JSON, got text/plain"),
    ] {
        let called = Cell::new(false);
        let run = TestHost::new().payload(payload).run(|_: &Context, _: Point| {
            called.set(true);
            Ok(())
        });
        let failure = run.failure();
        assert_eq!(failure.code(), "invalid-arguments");
        assert!(failure.message().contains(message), "{failure}");
        assert!(!failure.is_retryable() && !called.get());
    }
}

#[test]
fn bytes_pass_through_as_they_are() {
    let picture = Binary::new("image/png", vec![0, 159, 146, 150]);
    let run = TestHost::new().payload(picture.clone()).run(|_: &Context, input: Binary| Ok(input));
    assert_eq!(run.result(), &picture);
}

#[test]
fn a_result_that_json_cannot_hold_is_a_failure() {
    let run = TestHost::new()
        .run(|_: &Context, (): ()| Ok(std::collections::HashMap::from([((1, 2), 3)])));
    assert_eq!(run.failure().code(), "invalid-result");
}

#[test]
fn a_result_over_the_bound_fails_and_one_at_it_does_not() {
    let sized = |size| {
        TestHost::new().run(move |_: &Context, (): ()| Ok(Binary::new("x/y", vec![0; size])))
    };
    assert!(matches!(sized(limits::RESULT_BYTES).end, End::Returned(_)));
    assert_eq!(sized(limits::RESULT_BYTES + 1).failure().code(), "result-too-large");
}

/// Every fact of the contract's sample reaches the task under its own name.
#[test]
fn the_context_tells_the_facts_of_the_sample() {
    let sample: Value = serde_json::from_str(&golden("task-info.full.json")).unwrap();
    let text = |key: &str| sample[key].as_str().unwrap().to_owned();
    let number = |key: &str| sample[key].as_u64().unwrap();
    let mut host = TestHost::new()
        .task_id(text("task_id"))
        .task_name(text("task_name"), text("queue"))
        .attempt(
            number("attempt").try_into().unwrap(),
            u32::try_from(number("max_attempts")).unwrap(),
        )
        .enqueued_at(UNIX_EPOCH + Duration::from_millis(number("enqueued_at_ms")))
        .parent(text("parent_id"), text("root_id"))
        .trace_parent(text("trace_parent"));
    let headers: Vec<(String, String)> = serde_json::from_value(sample["headers"].clone()).unwrap();
    for (name, value) in &headers {
        host = host.header(name, value);
    }
    passes(host, |ctx| {
        let seen = json!({
            "task_id": ctx.task_id(),
            "task_name": ctx.task_name(),
            "queue": ctx.queue(),
            "attempt": ctx.attempt(),
            "max_attempts": ctx.max_attempts(),
            "enqueued_at_ms": u64::try_from(ctx.enqueued_at().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap(),
            "parent_id": ctx.parent_id(),
            "root_id": ctx.root_id(),
            "idempotency_key": ctx.idempotency_key(),
            "trace_parent": ctx.trace_parent(),
            "headers": ctx.headers(),
        });
        assert_eq!(seen, sample);
        assert_eq!(ctx.header("Tenant"), Some("blue"));
        assert_eq!(ctx.header("absent"), None);
        Ok(())
    });
}

#[test]
fn failures_are_written_as_the_contracts_good_lines() {
    let failures = [
        TaskError::fatal("invalid-arguments", "missing field `text`"),
        TaskError::retryable("upstream-busy", "the map service answered 503")
            .retry_after(Duration::from_secs(30)),
        TaskError::retryable("locked", ""),
        TaskError::cancelled("stopped", "gave up at item 40"),
    ];
    let good = golden("stem-error.good.txt");
    for (failure, line) in failures.iter().zip(good.lines()) {
        assert_eq!(failure.stem_error_line(), line);
    }
}

#[test]
fn a_line_that_would_not_be_read_is_shortened() {
    let long = TaskError::fatal("c", "\u{1}".repeat(3000)).detail(&json!({ "kept": "no" }));
    let line = long.stem_error_line();
    assert!(line.len() <= stem_host_abi::command::STEM_ERROR_LINE_BYTES);
    let report: Value = serde_json::from_str(line.strip_prefix("stem-error: ").unwrap()).unwrap();
    assert_eq!(report["message"].as_str().unwrap().len(), 375);
    assert_eq!(report.get("detail"), None);
    let short = TaskError::fatal("c", "m").detail(&json!({ "kept": true })).stem_error_line();
    assert!(short.ends_with(r#""detail":{"kept":true}}"#), "{short}");
}

#[test]
fn a_stop_notice_passed_up_retries_unless_the_task_itself_is_unwanted() {
    let failure = |code: &str| {
        let run = with(TestHost::new().stop_after(0, StopNotice::new(code)), Context::heartbeat);
        run.failure().clone()
    };
    for code in STOP_CODES {
        let failure = failure(code);
        assert_eq!(failure.code(), code);
        assert_eq!(failure.is_retryable(), code != "revoked", "{code}");
    }
    assert!(!failure("a-later-word").is_retryable());
}

#[test]
fn a_stop_notice_is_told_at_every_call_from_then_on() {
    let notice = StopNotice {
        code: "revoked".into(),
        message: "wrong file".into(),
        grace: Some(Duration::from_secs(3)),
    };
    let run = passes(TestHost::new().stop_after(2, notice.clone()), |ctx| {
        assert_eq!(ctx.beat(), None);
        assert_eq!(ctx.stop_requested(), None);
        assert_eq!(ctx.publish(&Progress::new()), Ok(None));
        assert_eq!(ctx.stop_requested().as_ref(), Some(&notice));
        assert_eq!(ctx.beat().as_ref(), Some(&notice));
        assert_eq!(ctx.progress(0.1, "x").unwrap_err().message(), "wrong file");
        assert_eq!(ctx.sleep(Duration::from_secs(1)).unwrap_err().code(), "revoked");
        ctx.checkpoint().save("still works")
    });
    assert_eq!((run.beats, run.elapsed), (4, Duration::ZERO));
    assert_eq!(run.checkpoint_json::<String>(), "still works");
}

#[test]
fn after_a_terminate_no_call_returns() {
    type Call = fn(&Context);
    let calls: [Call; 10] = [
        |ctx| drop(ctx.task_id().to_owned()),
        |ctx| drop(ctx.beat()),
        |ctx| drop(ctx.extend_lease(Duration::ZERO)),
        |ctx| drop(ctx.publish(&Progress::new())),
        |ctx| drop(ctx.stop_requested()),
        |ctx| drop(ctx.sleep(Duration::ZERO)),
        |ctx| {
            ctx.time_left();
        },
        |ctx| ctx.log(Level::Info, "x", &[]),
        |ctx| drop(ctx.checkpoint().load_bytes()),
        |ctx| drop(ctx.checkpoint().save_bytes(b"x")),
    ];
    for (index, call) in calls.into_iter().enumerate() {
        let after = Cell::new(false);
        let run =
            with(TestHost::new().checkpoint_bytes(b"old".to_vec()).terminate_after(1), |ctx| {
                ctx.heartbeat()?;
                call(ctx);
                after.set(true);
                Ok(())
            });
        assert_eq!(run.end, End::Terminated, "call {index}");
        assert!(!after.get() && run.log.is_empty() && run.progress.is_empty());
        assert_eq!(run.checkpoint.as_deref(), Some(&b"old"[..]));
    }
}

#[test]
fn progress_is_brought_into_its_bounds_and_publish_refuses() {
    let run = passes(TestHost::new(), |ctx| {
        ctx.progress(-0.5, "é".repeat(1000))?;
        ctx.progress(1.5, "")?;
        ctx.progress(f64::NAN, "unknown")?;
        for (update, error) in [
            (
                Progress::new().fraction(1.01),
                HostError::Invalid("fraction is not within 0.0 to 1.0".into()),
            ),
            (Progress::new().message("x".repeat(1025)), HostError::TooLarge(1024)),
            (Progress::new().data(&"x".repeat(16 * 1024)), HostError::TooLarge(16 * 1024)),
        ] {
            assert_eq!(ctx.publish(&update), Err(error));
        }
        Ok(())
    });
    let fractions: Vec<_> = run.progress.iter().map(|update| update.fraction).collect();
    assert_eq!(fractions, [Some(0.0), Some(1.0), None]);
    assert_eq!(run.progress[0].message.as_ref().unwrap().len(), 1024);
    assert_eq!(run.beats, 3);
}

#[test]
fn time_passes_in_sleep_and_the_limits_come_in_their_order() {
    let host =
        TestHost::new().soft_limit(Duration::from_secs(10)).hard_limit(Duration::from_secs(15));
    let run = passes(host.clone(), |ctx| {
        ctx.sleep(Duration::from_secs(4))?;
        let (soft, hard) = (Some(Duration::from_secs(6)), Some(Duration::from_secs(11)));
        assert_eq!(ctx.time_left(), TimeLeft { soft, hard });
        let stopped = ctx.sleep(Duration::MAX).unwrap_err();
        assert_eq!(stopped.code(), "soft-time-limit");
        assert_eq!(ctx.stop_requested().unwrap().grace, Some(Duration::from_secs(5)));
        Ok(())
    });
    assert_eq!(run.elapsed, Duration::from_secs(10));

    let run = with(host.beat_takes(Duration::from_secs(1)), |ctx| {
        loop {
            ctx.beat();
        }
    });
    assert_eq!((run.end, run.beats), (End::Terminated, 15));
    assert_eq!(
        passes(TestHost::new(), |ctx| ctx.sleep(Duration::from_secs(9))).elapsed,
        Duration::from_secs(9)
    );
}

#[test]
fn a_checkpoint_outlives_the_attempt_and_keeps_its_bounds() {
    let first = passes(TestHost::new(), |ctx| {
        assert_eq!(ctx.checkpoint().load::<Point>()?, None);
        ctx.checkpoint().save(&Point { x: 1, y: 2 })?;
        let large = vec![0; limits::CHECKPOINT_BYTES + 1];
        assert_eq!(ctx.checkpoint().save_bytes(&large), Err(HostError::TooLarge(262_144)));
        Ok(())
    });
    let saved = first.checkpoint.clone().unwrap();
    assert_eq!(first.checkpoint_json::<Point>(), Point { x: 1, y: 2 });
    passes(TestHost::new().attempt(2, None).checkpoint_bytes(saved), |ctx| {
        assert_eq!(ctx.attempt(), 2);
        assert_eq!(ctx.checkpoint().load()?, Some(Point { x: 1, y: 2 }));
        assert_eq!(ctx.checkpoint().load::<u8>().unwrap_err().code(), "invalid-checkpoint");
        ctx.checkpoint().save_bytes(b"")?;
        assert_eq!(ctx.checkpoint().load_bytes(), Ok(Some(Vec::new())));
        Ok(())
    });
}

#[test]
fn a_host_that_cannot_reach_its_services_says_so() {
    let run = with(TestHost::new().unavailable(), |ctx| {
        assert!(matches!(ctx.extend_lease(Duration::from_secs(1)), Err(HostError::Unavailable(_))));
        assert!(matches!(ctx.checkpoint().load_bytes(), Err(HostError::Unavailable(_))));
        ctx.heartbeat()?;
        ctx.checkpoint().save(&1)
    });
    assert!(run.failure().is_retryable());
    assert_eq!(run.failure().code(), "unavailable");
    let capped = TestHost::new().max_lease(Duration::from_secs(5));
    passes(capped, |ctx| {
        assert_eq!(ctx.extend_lease(Duration::from_secs(3))?, Duration::from_secs(3));
        assert_eq!(ctx.extend_lease(Duration::from_secs(9))?, Duration::from_secs(5));
        Ok(())
    });
}

#[test]
fn log_lines_carry_fields_and_levels_nobody_keeps_cost_nothing() {
    let evaluated = Cell::new(0);
    let count = || {
        evaluated.set(evaluated.get() + 1);
        evaluated.get()
    };
    let run = passes(TestHost::new().log_level(Level::Info), |ctx| {
        let file = "a.png";
        stem_guest::info!(ctx, "wrote {file} {}", count(); width = 3, file = file);
        stem_guest::debug!(ctx, "not kept {}", count());
        stem_guest::error!(ctx, "plain");
        Ok(())
    });
    assert_eq!(evaluated.get(), 1);
    assert_eq!(run.log.len(), 2);
    assert_eq!((run.log[0].level, run.log[0].message.as_str()), (Level::Info, "wrote a.png 1"));
    assert_eq!(
        run.log[0].fields,
        [("width".to_owned(), "3".to_owned()), ("file".to_owned(), "a.png".to_owned())]
    );
    assert_eq!((run.log[1].level, run.log[1].message.as_str()), (Level::Error, "plain"));
}

#[test]
fn a_log_line_is_cut_between_characters_and_to_its_fields() {
    let run = passes(TestHost::new(), |ctx| {
        ctx.log(Level::Info, &format!("x{}", "é".repeat(4000)), &[("name", &"value")]);
        let fields: Vec<(&str, &dyn std::fmt::Display)> = vec![("n", &1); 40];
        ctx.log(Level::Info, "many", &fields);
        Ok(())
    });
    assert_eq!(run.log[0].message.len(), 4095);
    assert_eq!(run.log[0].fields, [("n".to_owned(), String::new())]);
    assert_eq!(run.log[1].fields.len(), 32);
}

#[test]
#[should_panic(expected = "a fault of the task")]
fn a_panic_of_the_task_is_one_of_the_test() {
    with(TestHost::new(), |_| panic!("a fault of the task"));
}
