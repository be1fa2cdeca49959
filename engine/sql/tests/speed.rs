//! Prints how fast it is, so that a change for the worse is seen; asserts only what can fail on no machine.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, raw_sql};
use stem_core::backend::Records;
use stem_core::backend::broker::{Broker, Delivery, ReceiveRequest, Settled};
use stem_core::backend::revoke::RevokeStore;
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{Incarnation, Namespace, QueueName, TaskId, TaskName, WorkerId};
use stem_core::revoke::{RevokeRequest, Version};
use stem_core::settlement::{Settle, Settlement};
use stem_core::time::{Clock, Timestamp};
use stem_sql::{Sqlite, SqliteOptions};

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
    }
}

async fn open(directory: &Path) -> Arc<Sqlite> {
    let path = directory.join("stem.db");
    let (clock, busy_timeout) = (Arc::new(SystemClock), Duration::from_secs(5));
    Sqlite::open(SqliteOptions { path, clock, create: true, busy_timeout }).await.unwrap()
}

fn envelope(id: &str) -> Envelope {
    let id = TaskId::new(id).unwrap();
    Envelope::new(
        id,
        TaskName::new("job").unwrap(),
        QueueName::new("q").unwrap(),
        Payload::json(br#"{"text":"the quick brown fox jumps over the lazy dog"}"#),
        SystemClock.now(),
    )
}

fn asking(max: usize, wait: Duration) -> ReceiveRequest {
    ReceiveRequest {
        queues: vec![QueueName::new("q").unwrap()],
        names: Arc::new([TaskName::new("job").unwrap()]),
        max,
        lease: Duration::from_secs(30),
        owner: Incarnation(uuid::Uuid::from_u128(0xa)),
        worker: WorkerId::new("w").unwrap(),
        wait,
        records: Records::Here,
    }
}

fn success(delivery: Delivery) -> Settle {
    Settle {
        receipt: delivery.receipt,
        settlement: Settlement::Succeed(Payload::json(*b"{\"words\":9}")),
        at: SystemClock.now(),
        worker: WorkerId::new("w").unwrap(),
        attempt: delivery.attempt,
        usage: None,
        module: None,
    }
}

fn rate(what: &str, count: usize, started: Instant) {
    let each = started.elapsed() / u32::try_from(count).unwrap();
    println!("{what}: {:.0} tasks/s ({each:?} each)", 1.0 / each.as_secs_f64());
}

/// Every call is for one task, as producers and slots of a worker make them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_calls_from_many_tasks() {
    const TASKS: usize = 4_000;
    const CALLERS: usize = 32;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let all = Instant::now();
    let mut producers = Vec::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&store);
        producers.push(tokio::spawn(async move {
            for n in 0..TASKS / CALLERS {
                let one = [envelope(&format!("t{caller}-{n}"))];
                store.publish(&one, Records::Here).await.unwrap();
            }
        }));
    }
    for producer in producers {
        producer.await.unwrap();
    }
    rate("enqueue, one a call, 32 callers", TASKS, all);
    let started = Instant::now();
    let mut done = 0;
    let mut slots = tokio::task::JoinSet::new();
    while done < TASKS {
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
    rate("claim and settle, one settlement a call, 32 slots", TASKS, started);
    rate("enqueue → claim → settle", TASKS, all);
}

/// Batches of 64, as a producer with many tasks and a busy worker make them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_64() {
    const TASKS: usize = 64 * 100;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let all = Instant::now();
    for batch in 0..100 {
        let batch: Vec<_> = (0..64).map(|n| envelope(&format!("t{batch}-{n}"))).collect();
        store.publish(&batch, Records::Here).await.unwrap();
    }
    rate("enqueue in batches of 64", TASKS, all);
    let started = Instant::now();
    loop {
        let taken = store.receive(&asking(64, Duration::ZERO)).await.unwrap();
        if taken.is_empty() {
            break;
        }
        let batch: Vec<_> = taken.into_iter().map(success).collect();
        store.settle(&batch, Records::Here).await.unwrap();
    }
    rate("claim and settle in batches of 64", TASKS, started);
    rate("enqueue → claim → settle in batches", TASKS, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_out_of_a_large_backlog() {
    const BACKLOG: i64 = 200_000;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let wire = stem_core::envelope::wire::encode(&envelope("template"));
    let file = SqliteConnectOptions::new().filename(directory.path().join("stem.db"));
    let mut conn = file.connect().await.unwrap();
    raw_sql("BEGIN").execute(&mut conn).await.unwrap();
    // Half of the backlog has a name that nobody knows, and lies in front.
    for statement in [
        "INSERT INTO queues (name) SELECT 'q' WHERE ?1 > 0 AND ?2 IS NOT NULL",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO envelopes (seq, wire) SELECT i, CAST(replace(CAST(?2 AS TEXT), 'template', 't' || i) AS BLOB) FROM n",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO deliveries (seq, task, queue, name, phase, priority, at)
         SELECT i, 't' || i, 'q', iif(i > ?1 / 2, 'job', 'unknown'), 0, 5, length(?2) FROM n",
    ] {
        sqlx::query(statement).bind(BACKLOG).bind(wire.clone()).execute(&mut conn).await.unwrap();
    }
    raw_sql("COMMIT").execute(&mut conn).await.unwrap();
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(store.receive(&asking(1, Duration::ZERO)).await.unwrap().len(), 1);
    }
    println!("claim of 1 out of {BACKLOG}: {:?}", started.elapsed() / 100);
    let started = Instant::now();
    let known = [TaskName::new("job").unwrap(), TaskName::new("unknown").unwrap()];
    let buried = store.bury_unroutable(&known, SystemClock.now(), Records::Here).await.unwrap();
    println!("looking for unroutable ones: {:?}", started.elapsed());
    assert_eq!(buried, 0);
    let started = Instant::now();
    let status = store.queues().await.unwrap().remove(0);
    println!("counting the queue: {:?}", started.elapsed());
    assert_eq!(status.ready + status.inflight, BACKLOG.unsigned_abs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_revocations() {
    const COUNT: usize = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let namespace = Namespace::new("n").unwrap();
    let requests: Vec<_> = (0..COUNT)
        .map(|n| (TaskId::new(format!("t{n}")).unwrap(), RevokeRequest::default()))
        .collect();
    let started = Instant::now();
    store.revoke(&namespace, &requests).await.unwrap();
    println!("storing {COUNT} revocations at once: {:?}", started.elapsed());
    let started = Instant::now();
    let (mut seen, mut after) = (0, Version(0));
    while let Some(last) = {
        let chunk = store.since(&namespace, after, 10_000).await.unwrap();
        seen += chunk.len();
        chunk.last().map(stem_core::revoke::RevocationChange::version)
    } {
        after = last;
    }
    println!("reading them in chunks: {:?}", started.elapsed());
    assert_eq!(seen, COUNT);
}

/// Two openings of one file share nothing but the file, as two processes do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_up_on_another_process() {
    let directory = tempfile::tempdir().unwrap();
    let (here, there) = (open(directory.path()).await, open(directory.path()).await);
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

/// CPU time of this process so far, in clock ticks of 10 ms.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Other tests of this file run in the same process, so the number means something only when this one runs alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_costs_next_to_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let before = cpu_ticks();
    assert_eq!(store.receive(&asking(1, Duration::from_secs(4))).await.unwrap(), []);
    let ticks = cpu_ticks() - before;
    println!("waiting 4 s took {} ms of CPU", ticks * 10);
}
