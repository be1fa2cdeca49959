//! What a worker tells whoever watches it: each start and each end once, with what became of it.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stem_core::control::Drain;
use stem_core::envelope::Payload;
use stem_core::id::{TaskId, TaskName, WorkerId};
use stem_core::observe::{AttemptEnd, AttemptFacts, Gauges, Observer, Seen, Trace};
use stem_core::retry::RetryPolicy;
use stem_core::revoke::RevokeRequest;
use stem_core::trace::TraceParent;
use stem_engine::{Backends, Client, EnqueueOptions, SystemClock, TaskError, Worker, WorkerConfig};

/// Writes down what it is told.
#[derive(Clone, Debug, Default)]
struct Witness(Arc<Mutex<Vec<String>>>);

impl Witness {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Debug)]
struct Traced {
    witness: Witness,
    task: String,
    parent: TraceParent,
}

impl Trace for Traced {
    fn parent(&self) -> TraceParent {
        TraceParent { span_id: 7, ..self.parent }
    }

    fn event(&mut self, name: &'static str, about: &str) {
        self.witness.note(format!("{}: event {name}: {about}", self.task));
    }

    fn end(self: Box<Self>, end: &AttemptEnd<'_>) {
        self.witness.note(format!("{}: trace {}", self.task, end.ending.as_str()));
    }
}

impl Observer for Witness {
    fn is_watching(&self) -> bool {
        true
    }

    fn started(&self, attempt: &AttemptFacts<'_>) -> Option<Box<dyn Trace>> {
        self.note(format!("{}: started {}", attempt.task, attempt.attempt));
        let (witness, task) = (self.clone(), attempt.task.to_string());
        attempt.parent.map(|parent| Box::new(Traced { witness, task, parent }) as _)
    }

    fn ended(&self, attempt: &AttemptFacts<'_>, end: &AttemptEnd<'_>) {
        let kind = end.failure_kind().map_or("", |kind| kind.as_str());
        let ran = if end.ran.is_some() { "ran" } else { "never ran" };
        let (task, ending) = (attempt.task, end.ending.as_str());
        self.note(format!("{task}: ended {} {ending} {kind} {ran}", attempt.attempt));
    }

    fn saw(&self, seen: Seen<'_>) {
        if let Seen::Stopped { reason, how, .. } = seen {
            self.note(format!("stopped {reason:?} {}", how.as_str()));
        }
    }
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn each_start_and_each_end_is_told_once_and_the_handler_is_told_of_its_own_trace() {
    let memory = stem_memory::Memory::new(Arc::new(SystemClock));
    let backends = Backends::all_in_one(memory);
    let (witness, tries) = (Witness::default(), Arc::new(AtomicU32::new(0)));
    let worker = Worker::builder(backends.clone(), WorkerConfig::new(WorkerId::new("w").unwrap()))
        .observer(Arc::new(witness.clone()))
        .inline("parent", |context, (): ()| async move { Ok(context.info().trace_parent.clone()) })
        .unwrap()
        .inline("second", move |_, (): ()| {
            let tries = Arc::clone(&tries);
            async move {
                let is_first = tries.fetch_add(1, Ordering::Relaxed) == 0;
                if is_first { Err(TaskError::retryable("again", "once more")) } else { Ok(()) }
            }
        })
        .unwrap()
        .inline("wait", |context, (): ()| async move {
            loop {
                context.heartbeat()?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            #[expect(unreachable_code, reason = "says what type the result would have")]
            Ok(())
        })
        .unwrap()
        .build()
        .unwrap();
    let (handle, gauges) = (worker.handle(), worker.gauges());
    let running = tokio::spawn(worker.run());
    let client = Client::new(backends.clone(), Arc::new(SystemClock));
    let enqueue = async |name: &str, id: &str, trace_parent: Option<&str>| {
        let options = EnqueueOptions {
            id: Some(TaskId::new(id).unwrap()),
            trace_parent: trace_parent.map(str::to_owned),
            retry: RetryPolicy { base_ms: 1, ..RetryPolicy::DEFAULT },
            ..EnqueueOptions::default()
        };
        let name = TaskName::new(name).unwrap();
        client.enqueue(name, Payload::json("null"), options).await.unwrap().id
    };
    let wait = async |id: &TaskId| client.wait(id, None, |_| {}).await.unwrap().unwrap();

    let traced = enqueue("parent", "traced", Some(PARENT)).await;
    let told = wait(&traced).await.result.unwrap().bytes;
    assert_eq!(
        told,
        format!("{:?}", PARENT.replace("00f067aa0ba902b7", "0000000000000007")).as_bytes()
    );
    let unread = enqueue("parent", "unread", Some("what is this")).await;
    // What is no trace context is carried as it came.
    assert_eq!(wait(&unread).await.result.unwrap().bytes, b"\"what is this\"");
    wait(&enqueue("second", "retried", None).await).await;
    let stopped = enqueue("wait", "stopped", Some(PARENT)).await;
    while !witness.lines().iter().any(|line| line == "stopped: started 1") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let now: Gauges = gauges().expect("the worker is there");
    assert_eq!((now.inflight, now.revocations), (1, 0));
    assert!(now.concurrency > 0 && now.revocations_age.is_some(), "{now:?}");
    let order = RevokeRequest { terminate: true, ..RevokeRequest::default() };
    let namespace = "stem".parse().unwrap();
    backends.revokes.revoke(&namespace, &[(stopped.clone(), order)]).await.unwrap();
    wait(&stopped).await;
    handle.shutdown(Drain::Warm, None);
    running.await.unwrap().unwrap();

    let lines = witness.lines();
    let of = |task: &str| -> Vec<String> {
        let beginning = format!("{task}: ");
        lines.iter().filter_map(|line| line.strip_prefix(&beginning)).map(str::to_owned).collect()
    };
    assert_eq!(of("traced"), ["started 1", "ended 1 succeeded  ran", "trace succeeded"]);
    assert_eq!(of("unread"), ["started 1", "ended 1 succeeded  ran"]);
    let twice = ["started 1", "ended 1 retried error ran", "started 2", "ended 2 succeeded  ran"];
    assert_eq!(of("retried"), twice);
    let by_force = [
        "started 1",
        "event stop: by force: the task was revoked",
        "ended 1 revoked  ran",
        "trace revoked",
    ];
    assert_eq!(of("stopped"), by_force);
    assert_eq!(lines.iter().filter(|line| *line == "stopped Revoked checkpoint").count(), 1);
    drop(handle);
    assert_eq!(gauges(), None, "the worker is gone, and nobody keeps it");
}
