//! Tasks that enqueue tasks. Broker and results are one service, and two.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use stem_conformance::{Faults, Faulty};
use stem_core::backend::ErrorClass;
use stem_core::backend::broker::Settled;
use stem_core::backend::result::RecordFilter;
use stem_core::control::Drain;
use stem_core::envelope::{DEPTH, Payload};
use stem_core::id::{Namespace, QueueName, TaskId, TaskName};
use stem_core::outcome::FailureKind;
use stem_core::seal::Role;
use stem_core::settlement::{CHILDREN, CHILDREN_BYTES, Receipt, Settle, Settlement};
use stem_core::task::{TaskRecord, TaskState};
use stem_engine::signing::edit::{self, NewKey};
use stem_engine::signing::{Algorithm, KeyFiles, Keys};
use stem_engine::{
    Backends, Child, EnqueueOptions, Release, TaskContext, TaskError, WorkerBuilder, WorkerConfig,
};

mod support;

use support::*;

fn child(name: &str) -> Child {
    Child::new(TaskName::new(name).unwrap(), Payload::json("{}"))
}

fn keyed(name: &str, key: &str) -> Child {
    Child { dedup_key: Some(key.to_owned()), ..child(name) }
}

/// What a leaf was told about itself.
type Told = Arc<Mutex<Vec<(String, Option<String>, String, String)>>>;

/// Serves `leaf`, which writes down who it is.
fn leaf(builder: WorkerBuilder, told: &Told) -> WorkerBuilder {
    let told = Arc::clone(told);
    let handler = move |context: TaskContext, _: Value| {
        let info = context.info();
        let facts = (
            info.task_id.clone(),
            info.parent_id.clone(),
            info.root_id.clone(),
            info.queue.clone(),
        );
        told.lock().unwrap().push(facts);
        async { Ok(()) }
    };
    builder.inline("leaf", handler).unwrap()
}

async fn records_of(bench: &Bench, name: &str) -> Vec<TaskRecord> {
    let name = Some(TaskName::new(name).unwrap());
    let filter = RecordFilter { name, limit: 10_000, ..RecordFilter::default() };
    bench.client.backends().results.list(&filter).await.unwrap()
}

/// Waits until so many tasks of this name have succeeded; there must not be more.
async fn until_all_succeed(bench: &Bench, name: &str, count: usize) -> Vec<TaskRecord> {
    let poll = async {
        loop {
            let records = records_of(bench, name).await;
            assert!(records.len() <= count, "{} tasks are {name}, not {count}", records.len());
            if records.len() == count && records.iter().all(|one| one.state == TaskState::Succeeded)
            {
                return records;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap()
}

/// The services as a worker sees them through faults.
fn through(faulty: &Arc<Faulty>, inner: &Backends) -> Backends {
    Backends {
        broker: faulty.broker(Arc::clone(&inner.broker)),
        results: faulty.results(Arc::clone(&inner.results)),
        ..inner.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_run_and_know_where_they_come_from() {
    for backends in both_ways() {
        let told = Told::default();
        let config = WorkerConfig {
            queues: vec![QueueName::new("default").unwrap(), QueueName::new("side").unwrap()],
            ..config()
        };
        let bench = start(backends, config, |builder| {
            let parent = |context: TaskContext, _: Value| async move {
                let side = Child { queue: Some(QueueName::new("side").unwrap()), ..child("leaf") };
                let now = context.enqueue(vec![child("leaf"), side], Release::Now).await?;
                let later = context.enqueue(vec![child("leaf")], Release::OnSuccess).await?;
                Ok([now, later].concat())
            };
            leaf(builder, &told).inline("parent", parent).unwrap()
        })
        .await;
        let parent = bench.enqueue("parent", EnqueueOptions::default()).await;
        let record = bench.ended(&parent).await;
        let ids: Vec<TaskId> =
            serde_json::from_slice(&record.result.expect("it succeeded").bytes).unwrap();
        until_all_succeed(&bench, "leaf", 3).await;
        let told = told.lock().unwrap().clone();
        for (id, queue) in ids.iter().zip(["default", "side", "default"]) {
            let (_, parent_id, root, told_queue) =
                told.iter().find(|(told, ..)| *told == id.as_str()).expect("its child ran");
            assert_eq!(parent_id.as_deref(), Some(parent.as_str()));
            assert_eq!((root.as_str(), told_queue.as_str()), (parent.as_str(), queue));
        }
        bench.stop(Drain::Hard).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_that_wait_for_a_success_come_to_be_with_none_but_that() {
    for backends in both_ways() {
        let told = Told::default();
        let bench = start(backends, config(), |builder| {
            let parent = |context: TaskContext, how: Value| async move {
                context.enqueue(vec![keyed("now", "k")], Release::Now).await?;
                context.enqueue(vec![child("leaf")], Release::OnSuccess).await?;
                match (how.as_str(), context.info().attempt) {
                    (Some("fatal"), _) => Err(TaskError::fatal("no", "never")),
                    (Some("at last"), 1..=2) => Err(TaskError::retryable("no", "not yet")),
                    _ => Ok(()),
                }
            };
            let now = |_: TaskContext, _: Value| async { Ok(()) };
            let builder = builder.inline("parent", parent).unwrap().inline("now", now).unwrap();
            leaf(builder, &told)
        })
        .await;
        let mut ended = 0;
        for (how, leaves) in [("fatal", 0), ("at last", 1), ("well", 2)] {
            let name = TaskName::new("parent").unwrap();
            let options = EnqueueOptions { retry: no_wait(), ..EnqueueOptions::default() };
            let payload = Payload::json(json!(how).to_string());
            let parent = bench.client.enqueue(name, payload, options).await.unwrap();
            bench.ended(&parent.id).await;
            ended += 1;
            until_all_succeed(&bench, "leaf", leaves).await;
            // Those that were not to wait are there in any case, each once over all attempts.
            until_all_succeed(&bench, "now", ended).await;
        }
        bench.stop(Drain::Hard).await;
    }
}

/// The delay of a child that waits for a success begins with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_begins_when_the_child_comes_to_be() {
    const DELAY: Duration = Duration::from_mins(10);
    for backends in both_ways() {
        let bench = start(backends, config(), |builder| {
            let parent = |context: TaskContext, _: Value| async move {
                let late = Child { delay: Some(DELAY), ..child("late") };
                context.enqueue(vec![late], Release::OnSuccess).await?;
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(())
            };
            builder.inline("parent", parent).unwrap()
        })
        .await;
        let parent = bench.enqueue("parent", EnqueueOptions::default()).await;
        let ended = bench.ended(&parent).await;
        let late = records_of(&bench, "late").await.remove(0);
        let begun = ended.started_at.unwrap().after(Duration::from_millis(300));
        assert!(late.enqueued_at >= begun, "{late:?}");
        assert_eq!(late.not_before, Some(late.enqueued_at.after(DELAY)));
        bench.stop(Drain::Hard).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_calls_fail_or_are_not_answered_children_come_to_be_once() {
    for inner in both_ways() {
        let faulty = Faulty::new(Faults::default());
        let told = Told::default();
        let config = WorkerConfig { lease: Duration::from_secs(5), ..config() };
        let bench = start(through(&faulty, &inner), config, |builder| {
            let parent = |context: TaskContext, _: Value| async move {
                context.enqueue(vec![child("leaf"), child("leaf")], Release::OnSuccess).await?;
                Ok(())
            };
            leaf(builder, &told).inline("parent", parent).unwrap()
        })
        .await;
        let bench = Bench {
            client: stem_engine::Client::new(inner, Arc::new(stem_engine::SystemClock)),
            ..bench
        };
        let methods =
            ["broker.settle", "broker.publish", "results.record_queued", "results.record_settled"];
        let mut parents = 0;
        for method in methods {
            for lost in [false, true] {
                if lost {
                    faulty.lose_next(method, 2);
                } else {
                    faulty.fail_next(method, 2, ErrorClass::Transient);
                }
                let parent = bench.enqueue("parent", EnqueueOptions::default()).await;
                let record = bench.ended(&parent).await;
                assert_eq!(record.state, TaskState::Succeeded, "{method}: {record:?}");
                parents += 1;
                until_all_succeed(&bench, "leaf", 2 * parents).await;
                faulty.heal();
            }
        }
        bench.stop(Drain::Hard).await;
    }
}

/// An attempt that has lost its task has no children, also where records lie elsewhere and children go first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_was_overtaken_has_no_children() {
    for backends in both_ways() {
        let told = Told::default();
        let config =
            WorkerConfig { lease: Duration::from_mins(1), concurrency: 1, prefetch: 1, ..config() };
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let handlers = |gate: Option<Arc<tokio::sync::Semaphore>>| {
            let told = Arc::clone(&told);
            move |builder: WorkerBuilder| {
                let parent = move |context: TaskContext, _: Value| {
                    let gate = gate.clone();
                    async move {
                        context.enqueue(vec![child("leaf")], Release::OnSuccess).await?;
                        if let Some(gate) = &gate {
                            gate.acquire().await.unwrap().forget();
                        }
                        Ok(if gate.is_some() { "first" } else { "second" })
                    }
                };
                leaf(builder, &told).inline("parent", parent).unwrap()
            }
        };
        let first =
            start(backends.clone(), config.clone(), handlers(Some(Arc::clone(&gate)))).await;
        let parent = first.enqueue("parent", EnqueueOptions::default()).await;
        let running = first.until(&parent, TaskState::Running).await;
        // Takes the delivery out of its hands, as the end of its lease would.
        let (workers, _) =
            backends.presence.workers(&Namespace::new("stem").unwrap()).await.unwrap();
        let receipt = Receipt {
            task: parent.clone(),
            queue: running.queue.clone(),
            token: running.token,
            owner: workers[0].boot_id,
        };
        let given_back = Settle {
            receipt,
            settlement: Settlement::Release,
            at: running.enqueued_at,
            worker: workers[0].worker.clone(),
            attempt: 1,
            usage: None,
            module: None,
            children: Vec::new(),
        };
        let settled = backends.broker.settle(&[given_back], backends.records()).await.unwrap();
        assert_eq!(settled, [Settled::Done]);
        let config = WorkerConfig { id: "second".parse().unwrap(), ..config };
        let second = start(backends, config, handlers(None)).await;
        let record = second.ended(&parent).await;
        assert_eq!(record.result.expect("it succeeded").bytes, b"\"second\"");
        until_all_succeed(&second, "leaf", 1).await;
        gate.add_permits(1);
        first.stop(Drain::Warm).await;
        assert_eq!(records_of(&second, "leaf").await.len(), 1);
        second.stop(Drain::Hard).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_ends_at_its_bound() {
    for backends in both_ways() {
        let bench = start(backends, config(), |builder| {
            let link = |context: TaskContext, _: Value| async move {
                context.enqueue(vec![child("link")], Release::Now).await?;
                Ok(())
            };
            builder.inline("link", link).unwrap()
        })
        .await;
        bench.enqueue("link", EnqueueOptions::default()).await;
        let links = DEPTH as usize + 1;
        let last = async {
            loop {
                let records = records_of(&bench, "link").await;
                if records.iter().all(|one| one.state.is_final()) && records.len() >= links {
                    return records;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let records = tokio::time::timeout(PATIENCE, last).await.unwrap();
        assert_eq!(records.len(), links);
        let failed: Vec<_> = records.iter().filter(|one| one.state == TaskState::Failed).collect();
        assert_eq!(failed.len(), 1, "{failed:?}");
        let failure = failed[0].failure.as_ref().unwrap();
        assert_eq!((failure.kind, failure.code.as_str()), (FailureKind::Error, "quota"));
        assert!(failure.message.contains("depth"), "{failure}");
        bench.stop(Drain::Hard).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_enqueues_all_that_is_asked_or_nothing_and_no_more_than_its_bounds() {
    for backends in both_ways() {
        let bench = start(backends, config(), |builder| {
            let parent = |context: TaskContext, how: Value| async move {
                let large = |bytes: usize| Child {
                    input: Payload::json(format!("\"{}\"", "x".repeat(bytes))),
                    ..child("never")
                };
                let refused = match how.as_str() {
                    Some("many") => {
                        let most = vec![child("never"); CHILDREN];
                        context.enqueue(most, Release::OnSuccess).await?;
                        context.enqueue(vec![child("never")], Release::Now).await
                    }
                    Some("large") => {
                        let half = vec![large(CHILDREN_BYTES / 5); 3];
                        context.enqueue(half.clone(), Release::OnSuccess).await?;
                        context.enqueue(half, Release::Now).await
                    }
                    // The first would do.
                    _ => {
                        let over = large(stem_core::envelope::PAYLOAD_BYTES);
                        context.enqueue(vec![child("never"), over], Release::Now).await
                    }
                };
                Err::<(), _>(refused.expect_err("it is over its bounds"))
            };
            builder.inline("parent", parent).unwrap()
        })
        .await;
        for (how, code) in [("many", "quota"), ("large", "quota"), ("too large", "invalid")] {
            let name = TaskName::new("parent").unwrap();
            let payload = Payload::json(json!(how).to_string());
            let parent = bench.client.enqueue(name, payload, EnqueueOptions::default()).await;
            let record = bench.ended(&parent.unwrap().id).await;
            assert_eq!(record.failure.unwrap().code, code, "{how}");
        }
        assert_eq!(records_of(&bench, "never").await, []);
        bench.stop(Drain::Hard).await;
    }
}

/// Native code may keep its context for longer than it is the task's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_is_over_enqueues_nothing() {
    for backends in both_ways() {
        let kept: Arc<Mutex<Option<TaskContext>>> = Arc::default();
        let keep = Arc::clone(&kept);
        let bench = start(backends, config(), |builder| {
            let parent = move |context: TaskContext, _: Value| {
                *keep.lock().unwrap() = Some(context);
                async { Ok(()) }
            };
            builder.inline("parent", parent).unwrap()
        })
        .await;
        let parent = bench.enqueue("parent", EnqueueOptions::default()).await;
        bench.ended(&parent).await;
        let context = kept.lock().unwrap().take().unwrap();
        for release in [Release::Now, Release::OnSuccess] {
            context.enqueue(vec![child("never")], release).await.unwrap_err();
        }
        assert_eq!(records_of(&bench, "never").await, []);
        bench.stop(Drain::Hard).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_are_signed_by_their_worker_and_none_is_promised_that_would_be_refused() {
    for backends in both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| Some(dir.path().join(name));
        let files =
            KeyFiles { public: file("public"), private: file("private"), ..KeyFiles::default() };
        let key = NewKey {
            id: "w".parse().unwrap(),
            algorithm: Algorithm::Ed25519,
            roles: vec![Role::Publish],
            namespaces: Vec::new(),
            queues: vec![QueueName::new("default").unwrap()],
            workers: Vec::new(),
            not_after: None,
        };
        edit::add(&files, &key).unwrap();
        let text = std::fs::read_to_string(dir.path().join("public")).unwrap();
        let text = text.replace("tasks = \"permitted\"", "tasks = \"required\"");
        std::fs::write(dir.path().join("public"), text).unwrap();
        let keys = Keys::open(files).unwrap();
        let told = Told::default();
        let mut bench = start(backends, config(), |builder| {
            let parent = |context: TaskContext, _: Value| async move {
                let side = Child { queue: Some(QueueName::new("side").unwrap()), ..child("leaf") };
                for (release, key) in [(Release::Now, "now"), (Release::OnSuccess, "later")] {
                    // Another attempt enqueues nothing again.
                    context.enqueue(vec![keyed("leaf", key)], release).await?;
                    let refused = context.enqueue(vec![side.clone()], release).await.unwrap_err();
                    assert!(format!("{refused:?}").contains("no key here may sign"), "{refused:?}");
                }
                match context.info().attempt {
                    1 => Err(TaskError::retryable("again", "once more")),
                    _ => Ok(()),
                }
            };
            leaf(builder.keys(Arc::clone(&keys)), &told).inline("parent", parent).unwrap()
        })
        .await;
        // Not signed: no handler is called, and the letter says why.
        let unsigned = bench.enqueue("leaf", EnqueueOptions::default()).await;
        let failure = bench.ended(&unsigned).await.failure.expect("it was refused");
        assert_eq!(failure.code, "signature-refused", "{failure:?}");
        assert!(told.lock().unwrap().is_empty());
        bench.client = bench.client.with_keys(keys);
        let options = EnqueueOptions { retry: no_wait(), ..EnqueueOptions::default() };
        let parent = bench.enqueue("parent", options).await;
        let record = bench.ended(&parent).await;
        assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 2), "{record:?}");
        let both = async {
            while told.lock().unwrap().len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, both).await.expect("both were signed");
        bench.stop(Drain::Warm).await;
    }
}
