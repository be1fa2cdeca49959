//! Prints how fast it is, so that a change for the worse is seen; asserts only what can fail on no machine.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod load;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use load::{SystemClock, asking, envelope};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, raw_sql};
use stem_core::backend::Records;
use stem_core::backend::broker::Broker;
use stem_core::backend::revoke::RevokeStore;
use stem_core::id::{Namespace, TaskId, TaskName};
use stem_core::revoke::{RevokeRequest, Version};
use stem_core::time::Clock;
use stem_sql::{Sqlite, SqliteOptions};

async fn open(directory: &Path) -> Arc<Sqlite> {
    let path = directory.join("stem.db");
    let (clock, busy_timeout) = (Arc::new(SystemClock), Duration::from_secs(5));
    Sqlite::open(SqliteOptions { path, clock, create: true, busy_timeout }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_calls_from_many_tasks() {
    let directory = tempfile::tempdir().unwrap();
    load::single_calls(open(directory.path()).await, 4_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_64() {
    let directory = tempfile::tempdir().unwrap();
    load::batches_of_64(open(directory.path()).await, 100).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_trips_through_another_process() {
    let directory = tempfile::tempdir().unwrap();
    load::round_trips(open(directory.path()).await, open(directory.path()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_up_on_another_process() {
    let directory = tempfile::tempdir().unwrap();
    load::waking_up(open(directory.path()).await, open(directory.path()).await).await;
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
