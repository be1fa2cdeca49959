//! A whole worker on the memory backend, with native handlers: fast enough to run every path.

#![expect(clippy::unwrap_used, reason = "a test says by panicking what it did not expect")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use stem_core::backend::broker::Pause;
use stem_core::backend::dead_letter::{DeadFilter, Replayed};
use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Answer, Command, Drain, Order};
use stem_core::id::{Namespace, RequestId};
use stem_core::outcome::{FailureKind, StopHow};
use stem_core::retry::RetryPolicy;
use stem_core::task::TaskState;
use stem_core::time::Clock;
use stem_engine::{Backends, EnqueueOptions, SystemClock, TaskError, WorkerBuilder, WorkerConfig};

mod refused;
mod support;

use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_and_a_failure_reach_whoever_waits() {
    for backends in both_ways() {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&tries);
        let bench = start(backends, config(), |builder| {
            builder
                .inline("good", |context, _: serde_json::Value| async move {
                    context.progress(0.5, "half")?;
                    Ok("done")
                })
                .unwrap()
                .inline("flaky", move |_, _: serde_json::Value| {
                    let last = counted.fetch_add(1, Ordering::Relaxed) == 2;
                    async move {
                        if last { Ok(3) } else { Err(TaskError::retryable("again", "not yet")) }
                    }
                })
                .unwrap()
                .inline("fatal", |_, _: serde_json::Value| async move {
                    Err::<(), _>(TaskError::fatal("no", "never"))
                })
                .unwrap()
                .inline("panics", |_, _: serde_json::Value| async move {
                    assert!(std::env::args().count() > 1_000, "on purpose");
                    Ok(())
                })
                .unwrap()
        })
        .await;
        let good = bench.enqueue("good", EnqueueOptions::default()).await;
        let record = bench.ended(&good).await;
        assert_eq!(
            (record.state, record.attempt, record.delivery_count),
            (TaskState::Succeeded, 1, 1)
        );
        assert_eq!(record.result.unwrap().bytes, b"\"done\"");
        assert_eq!(record.progress.unwrap().fraction, Some(0.5));

        let flaky = bench
            .enqueue("flaky", EnqueueOptions { retry: no_wait(), ..EnqueueOptions::default() })
            .await;
        let record = bench.ended(&flaky).await;
        assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 3));

        let fatal = bench.enqueue("fatal", EnqueueOptions::default()).await;
        let record = bench.ended(&fatal).await;
        assert_eq!((record.state, record.attempt), (TaskState::Failed, 1));
        assert_eq!(record.failure.unwrap().code, "no");

        // Where results are another service the record comes first; the dead letter follows with the settlement.
        let filter = DeadFilter { tasks: vec![fatal.clone()], limit: 1, ..DeadFilter::default() };
        let buried = async {
            while bench.client.backends().dead_letters.list(&filter).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, buried).await.unwrap();
        assert_eq!(
            bench.client.replay(&[fatal.clone(), good.clone()]).await.unwrap(),
            [Replayed::Queued, Replayed::Absent]
        );
        assert_eq!(bench.ended(&good).await.state, TaskState::Succeeded, "it was never dead");
        let record = bench.ended(&fatal).await;
        assert_eq!(
            (record.state, record.attempt, record.delivery_count),
            (TaskState::Failed, 1, 1),
            "it ran again"
        );

        let panics = bench
            .enqueue(
                "panics",
                EnqueueOptions {
                    retry: RetryPolicy { max_retries: 0, ..no_wait() },
                    ..EnqueueOptions::default()
                },
            )
            .await;
        let failure = bench.ended(&panics).await.failure.unwrap();
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Trap, "on purpose"));
        bench.stop(Drain::Warm).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_handler_ends_at_its_checkpoint_or_is_dropped_and_the_record_tells() {
    for backends in both_ways() {
        // The record says running from the lease on; what is meant here begins with the handler's first line.
        let begun = Arc::new(tokio::sync::Semaphore::new(0));
        let (polite, deaf) = (Arc::clone(&begun), Arc::clone(&begun));
        let bench = start(backends, config(), |builder| {
            builder
                .inline("polite", move |context, _: serde_json::Value| {
                    polite.add_permits(1);
                    async move {
                        loop {
                            context.heartbeat()?;
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        #[expect(unreachable_code, reason = "it gives the handler its type")]
                        Ok(())
                    }
                })
                .unwrap()
                .inline("deaf", move |_, _: serde_json::Value| {
                    deaf.add_permits(1);
                    async move {
                        tokio::time::sleep(Duration::from_hours(1)).await;
                        Ok(())
                    }
                })
                .unwrap()
        })
        .await;
        for (name, how) in [("polite", StopHow::Checkpoint), ("deaf", StopHow::Preempted)] {
            let task = bench.enqueue(name, EnqueueOptions::default()).await;
            tokio::time::timeout(PATIENCE, begun.acquire()).await.unwrap().unwrap().forget();
            bench.revoke(&task, terminate()).await;
            let record = bench.ended(&task).await;
            let end = record.revocation.unwrap();
            assert_eq!((record.state, end.how), (TaskState::Revoked, how), "{name}");
            assert_eq!(
                (end.reason.as_deref(), end.requested_by.as_deref()),
                (Some("why"), Some("who"))
            );
        }
        bench.stop(Drain::Warm).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_gives_back_what_it_interrupts_and_another_worker_goes_on() {
    for backends in both_ways() {
        for mode in [Drain::Soft, Drain::Hard] {
            let deaf = |builder: WorkerBuilder| {
                builder
                    .inline("deaf", |_, _: serde_json::Value| async move {
                        tokio::time::sleep(Duration::from_hours(1)).await;
                        Ok(())
                    })
                    .unwrap()
            };
            let first = start(
                backends.clone(),
                WorkerConfig { soft_grace: Duration::from_millis(50), ..config() },
                deaf,
            )
            .await;
            let task = first.enqueue("deaf", EnqueueOptions::default()).await;
            first.until(&task, TaskState::Running).await;
            let client = first.client.clone();
            first.stop(mode).await;
            let record = client.show(&task).await.unwrap().unwrap();
            assert_eq!((record.state, record.delivery_count), (TaskState::Queued, 0), "{mode:?}");
            let second = start(backends.clone(), config(), |builder| {
                builder.inline("deaf", |_, _: serde_json::Value| async move { Ok(()) }).unwrap()
            })
            .await;
            let record = second.ended(&task).await;
            assert_eq!(
                (record.state, record.attempt, record.delivery_count),
                (TaskState::Succeeded, 1, 1),
                "{mode:?}"
            );
            second.stop(Drain::Warm).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_much_longer_than_its_lease_runs_once() {
    let once = async |backends: Backends| {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let short = WorkerConfig { lease: Duration::from_secs(2), ..config() };
        let bench = start(backends, short, move |builder| {
            builder
                .inline("long", move |_, _: serde_json::Value| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    async move {
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        Ok(())
                    }
                })
                .unwrap()
        })
        .await;
        let task = bench.enqueue("long", EnqueueOptions::default()).await;
        let record = bench.ended(&task).await;
        assert_eq!(
            (record.state, record.delivery_count, starts.load(Ordering::Relaxed)),
            (TaskState::Succeeded, 1, 1)
        );
        bench.stop(Drain::Warm).await;
    };
    let [together, apart] = both_ways();
    tokio::join!(once(together), once(apart));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_limit_stops_a_native_handler_and_a_soft_one_asks_first() {
    let limited = async |hard: Duration| {
        let mut config = config();
        config.limits_cap.hard = hard;
        config.limits_cap.soft = Some(Duration::from_millis(50));
        start(Backends::all_in_one(memory()), config, |builder| {
            builder
                .inline("deaf", |_, _: serde_json::Value| async move {
                    tokio::time::sleep(Duration::from_hours(1)).await;
                    Ok(())
                })
                .unwrap()
                .inline("listens", |context, _: serde_json::Value| async move {
                    while context.stop_requested().is_none() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Ok(context.stop_requested().map(|notice| notice.code))
                })
                .unwrap()
        })
        .await
    };
    let once = || EnqueueOptions {
        retry: RetryPolicy { max_retries: 0, ..no_wait() },
        ..EnqueueOptions::default()
    };
    let bench = limited(Duration::from_millis(400)).await;
    let deaf = bench.enqueue("deaf", once()).await;
    assert_eq!(bench.ended(&deaf).await.failure.unwrap().kind, FailureKind::TimeLimit);
    bench.stop(Drain::Warm).await;
    // It has time to listen.
    let bench = limited(Duration::from_secs(10)).await;
    let listens = bench.enqueue("listens", once()).await;
    assert_eq!(bench.ended(&listens).await.result.unwrap().bytes, b"\"soft-time-limit\"");
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_obeyed_once_and_stale_ones_never() {
    let bench = start(Backends::all_in_one(memory()), config(), |builder| {
        builder.inline("good", |_, _: serde_json::Value| async move { Ok(()) }).unwrap()
    })
    .await;
    let control = Arc::clone(&bench.client.backends().control);
    let namespace = Namespace::new("stem").unwrap();
    let now = SystemClock.now();
    let command = |id: &str, order: Order, life: Duration| {
        CommandFrame::plain(&Command {
            request_id: RequestId::new(id).unwrap(),
            namespace: namespace.clone(),
            targets: None,
            order,
            issued_at: now,
            expires_at: now.after(life),
            requester: "test".to_owned(),
        })
    };
    control
        .send(&command(
            "stale",
            Order::Shutdown { mode: Drain::Hard, grace_ms: None },
            Duration::ZERO,
        ))
        .await
        .unwrap();
    for order in [Order::Ping {}, Order::Stats {}, Order::Inspect { include_revoked: true }] {
        let sent = command(&format!("{order:?}")[..4], order, PATIENCE);
        control.send(&sent).await.unwrap();
        let replies = control
            .replies(
                &namespace,
                &sent.request_id,
                stem_core::backend::control::Position(0),
                PATIENCE,
            )
            .await
            .unwrap();
        let reply = wire::reply(replies[0].1.as_bytes()).unwrap();
        let Answer::Ok { payload } = reply.answer else { panic!("{replies:?}") };
        assert_eq!(payload["state"], "running");
    }
    assert!(!bench.running.is_finished(), "the stale shutdown was not obeyed");
    bench.stop(Drain::Warm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_gives_nothing_until_it_is_resumed() {
    let bench = start(Backends::all_in_one(memory()), config(), |builder| {
        builder.inline("good", |_, _: serde_json::Value| async move { Ok(()) }).unwrap()
    })
    .await;
    let broker = Arc::clone(&bench.client.backends().broker);
    let queue = "default".parse().unwrap();
    broker
        .set_paused(&queue, Some(Pause { reason: None, since: SystemClock.now() }))
        .await
        .unwrap();
    let task = bench.enqueue("good", EnqueueOptions::default()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(bench.client.show(&task).await.unwrap().unwrap().state, TaskState::Queued);
    broker.set_paused(&queue, None).await.unwrap();
    assert_eq!(bench.ended(&task).await.state, TaskState::Succeeded);
    bench.stop(Drain::Warm).await;
}
