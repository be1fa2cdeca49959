//! A trace from whoever enqueues, through the attempt, into the guest.

use serde_json::Value;

use crate::modules;
use crate::receiver::{Received, Receiver};
use crate::support::Place;
use crate::worker::{Worker, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn caller() -> String {
    format!("00-{TRACE}-{CALLER}-01")
}

/// The spans of a name, once there are so many.
#[track_caller]
fn named(receiver: &Receiver, name: &str, count: usize) -> Vec<Received> {
    until(&format!("{count} × {name}"), || {
        let spans = receiver.spans().into_iter();
        let found: Vec<_> = spans.filter(|received| received.span.name == name).collect();
        (found.len() >= count).then_some(found)
    })
}

#[test]
fn a_trace_goes_from_the_producer_through_each_attempt_into_the_guest_and_its_log() {
    let place = Place::new();
    let modules = modules::write(&place);
    let receiver = Receiver::start();
    let url = receiver.url();
    let parent = caller();
    let environment = [
        ("STEM_OTLP_ENDPOINT", url.as_str()),
        ("TRACEPARENT", &parent),
        ("STEM_LOG_FORMAT", "json"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key"),
    ];
    let args = ["--name", "w", "--modules", modules.to_str().unwrap()];
    let mut worker = Worker::start(&place, &environment, &args);
    let told =
        place.stem_env(&environment, &["task", "enqueue", "tell", "--id", "t", "--wait"]).expect(0);

    let enqueue = named(&receiver, "stem.enqueue", 1).remove(0);
    assert_eq!((enqueue.trace().as_str(), enqueue.parent().as_str()), (TRACE, CALLER));
    assert_eq!(enqueue.resource["service.name"], "stem");
    assert_eq!(enqueue.attributes()["messaging.message.id"], "t");
    let attempt = named(&receiver, "stem.execute.tell", 1).remove(0);
    assert_eq!((attempt.trace().as_str(), attempt.parent()), (TRACE, enqueue.id()));
    let about = attempt.attributes();
    for (name, value) in [
        ("messaging.system", "stem"),
        ("messaging.destination.name", "default"),
        ("messaging.message.id", "t"),
        ("stem.task.name", "tell"),
        ("stem.task.attempt", "1"),
        ("stem.outcome", "succeeded"),
    ] {
        assert_eq!(about[name], value, "{about:?}");
    }
    for (name, value) in [
        ("service.name", "stem-worker"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", "w"),
        ("stem.namespace", "stem"),
        ("deployment.environment", "test"),
    ] {
        assert_eq!(attempt.resource[name], value, "{:?}", attempt.resource);
    }
    // The guest was told of its attempt, not of what its attempt belongs to.
    let of_guest: Value = serde_json::from_str(&told.stdout).unwrap();
    let expected = format!("00-{TRACE}-{}-01", attempt.id());
    assert_eq!(of_guest["trace_parent"], expected.as_str(), "{of_guest}");

    // Each attempt is a span of its own below the same enqueue.
    place
        .stem_env(&environment, &["task", "enqueue", "trap", "--max-retries", "1", "--wait"])
        .expect(1);
    let enqueued = named(&receiver, "stem.enqueue", 2).remove(1);
    let attempts = named(&receiver, "stem.execute.trap", 2);
    for (attempt, outcome) in attempts.iter().zip(["retried", "failed"]) {
        assert_eq!(attempt.parent(), enqueued.id());
        assert_eq!(attempt.attributes()["stem.outcome"], outcome);
        assert_eq!(attempt.attributes()["error.type"], "trap");
        assert_eq!(attempt.span.status.as_ref().unwrap().code, 2, "{attempt:?}");
    }

    // What is done to an attempt is seen in its span.
    place.stem_env(&environment, &["task", "enqueue", "spin", "--id", "s"]).expect(0);
    // The record says running before any code ran.
    until("the guest's CPU time", || {
        let words = ["worker", "inspect", "--timeout", "1m", "--json"];
        let said = place.stem(&words).expect(0).json();
        let mut active = said["replies"][0]["payload"]["active"].as_array()?.iter();
        let computes = |row: &Value| row["id"] == "s" && row["cpuMs"].as_f64() > Some(0.0);
        active.any(computes).then_some(())
    });
    place.stem(&["worker", "revoke", "--task", "s", "--grace", "200ms"]).expect(0);
    let revoked = named(&receiver, "stem.execute.spin", 1).remove(0);
    let events: Vec<&str> = revoked.span.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["revoked", "stop"]);
    assert_eq!(revoked.attributes()["stem.outcome"], "revoked");

    // What the worker is like now is sent too, every few seconds while it lives.
    until("a gauge", || {
        receiver.metrics().iter().any(|name| name == "stem.worker.concurrency").then_some(())
    });
    place.stem(&["worker", "shutdown"]).expect(0);
    assert_eq!(worker.wait(), 0);
    let log = worker.log();
    let of_trace: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["trace_id"] == TRACE && line["task"] == "t")
        .collect();
    let messages: Vec<&Value> = of_trace.iter().map(|line| &line["message"]).collect();
    assert_eq!(messages, ["a line of the guest", "attempt ended"], "{log}");
    // The last numbers were sent at the end.
    let metrics = receiver.metrics();
    for name in ["stem.tasks.started", "stem.task.duration", "stem.control.commands"] {
        assert!(metrics.iter().any(|metric| metric == name), "{name} is not in {metrics:?}");
    }
    let authorizations = receiver.authorizations();
    assert!(!authorizations.is_empty() && authorizations.iter().all(|said| said == "Bearer key"));
}

#[test]
fn a_trace_that_is_not_recorded_is_carried_and_not_sent() {
    let place = Place::new();
    let modules = modules::write(&place);
    let receiver = Receiver::start();
    // The password of the endpoint is sent as such, and not a part of any address.
    let url = format!("http://me:p%40ss@127.0.0.1:{}", receiver.port());
    let unrecorded = caller().replace("-01", "-00");
    let environment = [
        ("STEM_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_SERVICE_NAME", "mailer"),
        ("TRACEPARENT", &unrecorded),
    ];
    let _worker = Worker::start(&place, &environment, &["--modules", modules.to_str().unwrap()]);
    let told = place.stem_env(&environment, &["task", "enqueue", "tell", "--wait"]).expect(0);
    let of_guest: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(of_guest["trace_parent"], unrecorded.as_str());
    // Without a caller the enqueue begins a trace, which shows that the first was left out and not only late.
    place.stem_env(&environment[..2], &["task", "enqueue", "tell", "--wait"]).expect(0);
    let attempt = named(&receiver, "stem.execute.tell", 1);
    assert_eq!(attempt.len(), 1);
    let enqueue = named(&receiver, "stem.enqueue", 1).remove(0);
    assert_eq!(attempt[0].resource["service.name"], "mailer");
    assert_eq!((enqueue.parent(), attempt[0].parent()), (String::new(), enqueue.id()));
    assert!(receiver.authorizations().iter().all(|said| said == "Basic bWU6cEBzcw=="));
}

#[test]
fn without_a_collector_the_callers_trace_is_carried_as_it_is() {
    let place = Place::new();
    let modules = modules::write(&place);
    let _worker = Worker::start(&place, &[], &["--modules", modules.to_str().unwrap()]);
    let enqueue = |parent: &str| {
        let args = ["task", "enqueue", "tell", "--wait"];
        place.stem_env(&[("TRACEPARENT", parent)], &args).expect(0)
    };
    let of_guest: Value = serde_json::from_str(&enqueue(&caller()).stdout).unwrap();
    assert_eq!(of_guest["trace_parent"], caller().as_str());
    for (bad, warned) in [("00-zz", true), ("", false)] {
        let ran = enqueue(bad);
        let of_guest: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(of_guest.get("trace_parent"), None);
        assert_eq!(ran.stderr.contains("warning: TRACEPARENT"), warned, "{ran:?}");
    }
}
