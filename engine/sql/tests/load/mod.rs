//! What the speed tests of both databases do: tasks from enqueue to success, call by call and in batches.
#![allow(dead_code, reason = "each test file uses a part of this one")]

pub(crate) mod frozen;
pub(crate) mod postgres;

use std::sync::Arc;
use std::time::{Duration, Instant};

use stem_core::backend::Records;
use stem_core::backend::broker::{Broker, Delivery, ReceiveRequest, Settled};
use stem_core::backend::result::{ResultBackend, Until};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{Incarnation, QueueName, TaskId, TaskName, WorkerId};
use stem_core::settlement::{Settle, Settlement};
use stem_core::time::{Clock, Timestamp};

#[derive(Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
    }
}

pub(crate) fn envelope(id: &str) -> Envelope {
    let id = TaskId::new(id).unwrap();
    Envelope::new(
        id,
        TaskName::new("job").unwrap(),
        QueueName::new("q").unwrap(),
        Payload::json(br#"{"text":"the quick brown fox jumps over the lazy dog"}"#),
        SystemClock.now(),
    )
}

pub(crate) fn asking(max: usize, wait: Duration) -> ReceiveRequest {
    ReceiveRequest {
        queues: vec![QueueName::new("q").unwrap()],
        names: Arc::new([TaskName::new("job").unwrap()]),
        max,
        lease: Duration::from_secs(30),
        owner: Incarnation(uuid::Uuid::from_u128(0xa)),
        worker: WorkerId::new("w").unwrap(),
        wait,
        records: Records::Here,
        shares: None,
    }
}

pub(crate) fn success(delivery: Delivery) -> Settle {
    Settle {
        receipt: delivery.receipt,
        settlement: Settlement::Succeed(Payload::json(*b"{\"words\":9}")),
        at: SystemClock.now(),
        worker: WorkerId::new("w").unwrap(),
        attempt: delivery.attempt,
        usage: None,
        module: None,
        children: Vec::new(),
    }
}

pub(crate) fn rate(what: &str, count: usize, started: Instant) {
    let each = started.elapsed() / u32::try_from(count).unwrap();
    println!("{what}: {:.0} tasks/s ({each:?} each)", 1.0 / each.as_secs_f64());
}

/// Every call is for one task, as producers and slots of a worker make them.
pub(crate) async fn single_calls(store: Arc<dyn Broker>, tasks: usize) {
    const CALLERS: usize = 32;
    let all = Instant::now();
    let mut producers = Vec::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&store);
        producers.push(tokio::spawn(async move {
            for n in 0..tasks / CALLERS {
                let one = [envelope(&format!("t{caller}-{n}"))];
                store.publish(&one, Records::Here).await.unwrap();
            }
        }));
    }
    for producer in producers {
        producer.await.unwrap();
    }
    rate("enqueue, one a call, 32 callers", tasks, all);
    let started = Instant::now();
    let mut done = 0;
    let mut slots = tokio::task::JoinSet::new();
    while done < tasks {
        let free = CALLERS - slots.len();
        if free > 0 {
            for delivery in store.receive(&asking(free, Duration::ZERO)).await.unwrap() {
                let store = Arc::clone(&store);
                slots.spawn(async move {
                    store.settle(&[success(delivery)], Records::Here).await.unwrap()
                });
            }
        }
        let mut next = slots.join_next().await;
        while let Some(settled) = next {
            assert_eq!(settled.unwrap(), [Settled::Done]);
            done += 1;
            next = slots.try_join_next();
        }
    }
    rate("claim and settle, one settlement a call, 32 slots", tasks, started);
    rate("enqueue → claim → settle", tasks, all);
}

/// Batches of 64, as a producer with many tasks and a busy worker make them.
pub(crate) async fn batches_of_64(store: Arc<dyn Broker>, batches: usize) {
    let tasks = 64 * batches;
    let all = Instant::now();
    for batch in 0..batches {
        let batch: Vec<_> = (0..64).map(|n| envelope(&format!("t{batch}-{n}"))).collect();
        store.publish(&batch, Records::Here).await.unwrap();
    }
    rate("enqueue in batches of 64", tasks, all);
    let started = Instant::now();
    loop {
        let taken = store.receive(&asking(64, Duration::ZERO)).await.unwrap();
        if taken.is_empty() {
            break;
        }
        let batch: Vec<_> = taken.into_iter().map(success).collect();
        store.settle(&batch, Records::Here).await.unwrap();
    }
    rate("claim and settle in batches of 64", tasks, started);
    rate("enqueue → claim → settle in batches", tasks, all);
}

/// Two openings of one database share nothing but the database, as two processes do.
pub(crate) async fn waking_up(here: Arc<dyn Broker>, there: Arc<dyn Broker>) {
    let (sent, mut sent_at) = tokio::sync::mpsc::channel(1);
    let producer = tokio::spawn(async move {
        for n in 0..40 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            sent.send(Instant::now()).await.unwrap();
            there.publish(&[envelope(&format!("t{n}"))], Records::Here).await.unwrap();
        }
    });
    let mut waits = Vec::new();
    while waits.len() < 40 {
        let came = here.receive(&asking(1, Duration::from_secs(5))).await.unwrap();
        assert_eq!(came.len(), 1);
        waits.push(sent_at.recv().await.unwrap().elapsed());
        here.settle(&[success(came.into_iter().next().unwrap())], Records::Here).await.unwrap();
    }
    producer.await.unwrap();
    waits.sort();
    println!("from enqueue there to delivery here: p50 {:?}, max {:?}", waits[20], waits[39]);
}

/// A worker in one process, somebody who enqueues and waits for the result in another.
pub(crate) async fn round_trips<B>(worker: Arc<B>, caller: Arc<B>)
where
    B: Broker + ResultBackend + 'static,
{
    const ROUNDS: usize = 100;
    let working = tokio::spawn(async move {
        loop {
            for delivery in worker.receive(&asking(8, Duration::from_secs(5))).await.unwrap() {
                worker.settle(&[success(delivery)], Records::Here).await.unwrap();
            }
        }
    });
    let mut waits = Vec::new();
    for n in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let task = envelope(&format!("t{n}"));
        let started = Instant::now();
        caller.publish(std::slice::from_ref(&task), Records::Here).await.unwrap();
        let end = caller.watch(&task.id, Until::Final, Duration::from_mins(1)).await.unwrap();
        assert!(end.unwrap().state.is_final());
        waits.push(started.elapsed());
    }
    working.abort();
    waits.sort();
    let (p50, p99) = (waits[ROUNDS / 2], waits[ROUNDS * 99 / 100]);
    println!("from enqueue to result, another process working: p50 {p50:?}, p99 {p99:?}");
}
