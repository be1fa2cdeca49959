//! A worker whose backends fail: calls that do not arrive, replies that are lost, services that refuse. Broker and results
//! are one service, and two.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use stem_conformance::Faults;
use stem_conformance::Faulty;
use stem_core::backend::ErrorClass;
use stem_core::backend::dead_letter::{DeadFilter, Replayed};
use stem_core::backend::result::{Begun, Recorded};
use stem_core::control::Drain;
use stem_core::envelope::Payload;
use stem_core::id::{Incarnation, LeaseToken, TaskId};
use stem_core::retry::RetryPolicy;
use stem_core::settlement::{DeadReason, Receipt};
use stem_core::task::TaskState;
use stem_core::time::Clock;
use stem_engine::{Backends, EnqueueOptions, TaskError, WorkerBuilder, WorkerConfig};

mod support;

use support::*;

/// The services as a worker sees them through faults.
fn through(faulty: &Arc<Faulty>, inner: &Backends) -> Backends {
    Backends {
        broker: faulty.broker(Arc::clone(&inner.broker)),
        results: faulty.results(Arc::clone(&inner.results)),
        revokes: faulty.revokes(Arc::clone(&inner.revokes)),
        control: faulty.control(Arc::clone(&inner.control)),
        presence: faulty.presence(Arc::clone(&inner.presence)),
        dead_letters: faulty.dead(Arc::clone(&inner.dead_letters)),
        modules: faulty.modules(Arc::clone(&inner.modules)),
        buckets: faulty.buckets(Arc::clone(&inner.buckets)),
    }
}

/// Counts how often each task was begun.
type Starts = Arc<Mutex<HashMap<TaskId, u32>>>;

fn counted(starts: &Starts) -> impl FnOnce(WorkerBuilder) -> WorkerBuilder {
    let starts = Arc::clone(starts);
    move |builder| {
        let handler = move |context: stem_engine::TaskContext, fails: Value| {
            let mut starts = starts.lock().unwrap();
            let count = starts.entry(context.info().task_id.parse().unwrap()).or_insert(0);
            *count += 1;
            let first = *count == 1;
            async move {
                context.progress(0.5, "half")?;
                if first && fails == true {
                    return Err(TaskError::retryable("again", "not yet"));
                }
                Ok("done")
            }
        };
        builder.inline("counted", handler).unwrap()
    }
}

async fn enqueue(bench: &Bench, count: usize) -> Vec<TaskId> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        tasks.push(bench.enqueue("counted", EnqueueOptions::default()).await);
    }
    tasks
}

/// With leases that run out while a test waits.
fn short() -> WorkerConfig {
    WorkerConfig { lease: Duration::from_millis(600), ..config() }
}

/// Until the broker has no task of any kind.
async fn until_nothing_is_left(inner: &Backends) {
    let gone = async {
        loop {
            let queue = inner.broker.queues().await.unwrap().remove(0);
            if queue.ready + queue.delayed + queue.inflight == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_task_ends_once_whatever_calls_fail_or_are_made_twice() {
    for inner in both_ways() {
        let odds = Faults { seed: 5, delay: 100, fail: 150, duplicate: 200, lose: 0 };
        let faulty = Faulty::new(odds);
        let starts = Starts::default();
        let config = WorkerConfig { concurrency: 32, lease: Duration::from_secs(3), ..config() };
        // The worker meets the faults, the producer does not.
        let bench = start(through(&faulty, &inner), config, counted(&starts)).await;
        let client = Bench {
            client: stem_engine::Client::new(inner.clone(), Arc::new(stem_engine::SystemClock)),
            ..bench
        };
        let tasks = enqueue(&client, 200).await;
        for task in &tasks {
            let record = client.ended(task).await;
            assert_eq!(record.state, TaskState::Succeeded, "{record:?}");
        }
        let injected = faulty.injected();
        assert!(injected.failed > 5 && injected.duplicated > 2, "{injected:?}");
        let starts = starts.lock().unwrap().clone();
        assert_eq!(starts.len(), tasks.len());
        let most = starts.values().max().unwrap();
        assert_eq!(*most, 1, "a task ran again though no lease was lost");
        faulty.heal();
        client.stop(Drain::Hard).await;
    }
}

/// A refusal is one element's; the others of its batch are settled one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_refused_is_settled_one_by_one() {
    for inner in both_ways() {
        let faulty = Faulty::new(Faults::default());
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let opened = Arc::clone(&gate);
        let config = WorkerConfig { concurrency: 8, lease: Duration::from_secs(5), ..config() };
        let bench = start(through(&faulty, &inner), config, move |builder| {
            let handler = move |_, _: Value| {
                let gate = Arc::clone(&opened);
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok("done")
                }
            };
            builder.inline("counted", handler).unwrap()
        })
        .await;
        let tasks = enqueue(&bench, 8).await;
        for task in &tasks {
            bench.until(task, TaskState::Running).await;
        }
        let before = faulty.calls("broker.settle");
        faulty.fail_next("broker.settle", 1, ErrorClass::Refused);
        gate.add_permits(8);
        for task in &tasks {
            assert_eq!(bench.ended(task).await.state, TaskState::Succeeded);
        }
        assert!(faulty.calls("broker.settle") > before + 1);
        // Every one of them: while the refusal lasts none is lost, and each is told once it is over.
        faulty.fail_next("broker.settle", 20, ErrorClass::Refused);
        gate.add_permits(8);
        let tasks = enqueue(&bench, 8).await;
        for task in &tasks {
            assert_eq!(bench.ended(task).await.state, TaskState::Succeeded);
        }
        bench.stop(Drain::Warm).await;
    }
}

/// With the results in another service the result goes first. The worker dies before it can settle; whoever gets the
/// delivery next finds the result and does not run the task again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_without_an_acknowledgement_is_acknowledged_by_the_next_worker_without_running() {
    let [_, inner] = both_ways();
    let faulty = Faulty::new(Faults::default());
    let starts = Starts::default();
    let dying = start(through(&faulty, &inner), short(), counted(&starts)).await;
    faulty.fail_next("broker.settle", u64::MAX, ErrorClass::Transient);
    let task = dying.enqueue("counted", EnqueueOptions::default()).await;
    assert_eq!(dying.ended(&task).await.state, TaskState::Succeeded);
    dying.running.abort();
    let queues = inner.broker.queues().await.unwrap();
    assert_eq!(queues[0].inflight, 1, "it is on record and not settled");
    let config = WorkerConfig { ..WorkerConfig::new("next".parse().unwrap()) };
    let next = start(inner.clone(), config, counted(&starts)).await;
    until_nothing_is_left(&inner).await;
    assert_eq!(starts.lock().unwrap()[&task], 1, "it ran once");
    assert_eq!(next.ended(&task).await.state, TaskState::Succeeded);
    next.stop(Drain::Warm).await;
}

/// The same with a failure: the letter that its worker could not write is written by the next, and can be replayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_without_a_dead_letter_gets_it_from_the_next_worker_without_running() {
    let [_, inner] = both_ways();
    let faulty = Faulty::new(Faults::default());
    let starts = Starts::default();
    let dying = start(through(&faulty, &inner), short(), counted(&starts)).await;
    faulty.fail_next("broker.settle", u64::MAX, ErrorClass::Transient);
    let retry = RetryPolicy { max_retries: 0, base_ms: 0, factor: 1, cap_ms: 0 };
    let options = EnqueueOptions { retry, ..EnqueueOptions::default() };
    let name = "counted".parse().unwrap();
    let task = dying.client.enqueue(name, Payload::json("true"), options).await.unwrap().id;
    assert_eq!(dying.ended(&task).await.state, TaskState::Failed);
    dying.running.abort();
    assert_eq!(inner.dead_letters.list(&all()).await.unwrap(), []);
    let config = WorkerConfig { ..WorkerConfig::new("next".parse().unwrap()) };
    let next = start(inner.clone(), config, counted(&starts)).await;
    let letter = async {
        loop {
            if let Some(letter) = inner.dead_letters.list(&all()).await.unwrap().pop() {
                return letter;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let letter = tokio::time::timeout(PATIENCE, letter).await.unwrap();
    assert_eq!((&letter.task, letter.reason), (&task, DeadReason::RetriesExhausted));
    assert_eq!(starts.lock().unwrap()[&task], 1, "it ran once");
    let replayed = next.client.replay(std::slice::from_ref(&task)).await.unwrap();
    assert_eq!(replayed, [Replayed::Queued]);
    assert_eq!(next.ended(&task).await.state, TaskState::Succeeded);
    next.stop(Drain::Warm).await;
}

fn all() -> DeadFilter {
    DeadFilter { limit: 10, ..DeadFilter::default() }
}

/// A broker that was restored from an older copy gives tokens anew that the records know already. What such a delivery does
/// would be refused by the record: it runs when its token is the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_from_an_older_copy_catches_up_with_the_records() {
    let [_, inner] = both_ways();
    let client = stem_engine::Client::new(inner.clone(), Arc::new(stem_engine::SystemClock));
    let name = "counted".parse().unwrap();
    let enqueued = client.enqueue(name, Payload::json("{}"), EnqueueOptions::default()).await;
    let task = enqueued.unwrap().id;
    let begun = Begun {
        receipt: Receipt {
            task: task.clone(),
            queue: "default".parse().unwrap(),
            token: LeaseToken(3),
            owner: Incarnation(uuid::Uuid::nil()),
        },
        attempt: 1,
        deliveries: 3,
        at: stem_engine::SystemClock.now(),
        worker: "before".parse().unwrap(),
    };
    assert_eq!(inner.results.record_begun(&[begun]).await.unwrap(), [Recorded::Stored]);
    let starts = Starts::default();
    let bench = start(inner.clone(), short(), counted(&starts)).await;
    let record = bench.ended(&task).await;
    assert_eq!((record.state, record.token), (TaskState::Succeeded, LeaseToken(4)), "{record:?}");
    assert_eq!(starts.lock().unwrap()[&task], 1, "by the newest delivery only");
    bench.stop(Drain::Warm).await;
}

/// The reply to a settlement is lost: it happened, and its repetition is stale. The task must not run again, and the
/// worker must not be confused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_whose_reply_is_lost_has_happened() {
    for inner in both_ways() {
        let faulty = Faulty::new(Faults::default());
        let starts = Starts::default();
        let bench = start(through(&faulty, &inner), short(), counted(&starts)).await;
        faulty.lose_next("broker.settle", 1);
        let task = bench.enqueue("counted", EnqueueOptions::default()).await;
        assert_eq!(bench.ended(&task).await.state, TaskState::Succeeded);
        let after = bench.enqueue("counted", EnqueueOptions::default()).await;
        assert_eq!(bench.ended(&after).await.state, TaskState::Succeeded);
        // Longer than a lease.
        tokio::time::sleep(Duration::from_millis(800)).await;
        until_nothing_is_left(&inner).await;
        assert_eq!(starts.lock().unwrap()[&task], 1);
        bench.stop(Drain::Warm).await;
    }
}

/// A broker that is away for several leases' lengths, and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_goes_on_by_itself_after_an_outage() {
    for inner in both_ways() {
        let faulty = Faulty::new(Faults::default());
        let starts = Starts::default();
        let bench = start(through(&faulty, &inner), short(), counted(&starts)).await;
        let away = [
            "broker.receive",
            "broker.settle",
            "broker.renew",
            "revokes.since",
            "control.commands",
            "presence.beat",
        ];
        for method in away {
            faulty.fail_next(method, u64::MAX, ErrorClass::Transient);
        }
        // A request that was under way is over when there is another, and that one fails.
        let before = faulty.calls("broker.receive");
        let next = async {
            while faulty.calls("broker.receive") == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, next).await.unwrap();
        let client = stem_engine::Client::new(inner.clone(), Arc::new(stem_engine::SystemClock));
        let options = EnqueueOptions::default();
        let name = "counted".parse().unwrap();
        let task =
            client.enqueue(name, stem_core::envelope::Payload::json("{}"), options).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(starts.lock().unwrap().is_empty());
        faulty.heal();
        let healed = tokio::time::Instant::now();
        assert_eq!(bench.ended(&task.id).await.state, TaskState::Succeeded);
        println!("{:?} after the outage it is done", healed.elapsed());
        bench.stop(Drain::Warm).await;
    }
}

/// With the results in another service, the record goes first; of a task that never comes to be it must not stay.
#[tokio::test]
async fn an_enqueue_with_a_key_in_use_leaves_no_record_behind() {
    for inner in both_ways() {
        let client = stem_engine::Client::new(inner.clone(), Arc::new(stem_engine::SystemClock));
        let mut ids = Vec::new();
        for _ in 0..3 {
            let options = EnqueueOptions {
                unique_key: Some("key".parse().unwrap()),
                ..EnqueueOptions::default()
            };
            let payload = stem_core::envelope::Payload::json("{}");
            ids.push(
                client.enqueue("counted".parse().unwrap(), payload, options).await.unwrap().id,
            );
        }
        ids.dedup();
        let filter = stem_core::backend::result::RecordFilter { limit: 10, ..Default::default() };
        let records = inner.results.list(&filter).await.unwrap();
        let known: Vec<_> = records.into_iter().map(|record| record.id).collect();
        assert_eq!(known, ids);
    }
}
