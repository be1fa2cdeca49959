//! Prints how fast it is, so that a change for the worse is seen; asserts only what can fail on no machine. The server
//! waits for the disk, as one that matters does.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod load;

use std::sync::Arc;
use std::time::{Duration, Instant};

use load::{asking, envelope};
use sqlx::{Connection, PgConnection};
use stem_core::backend::Records;
use stem_core::backend::broker::Broker;
use stem_core::backend::revoke::RevokeStore;
use stem_core::envelope::Envelope;
use stem_core::id::{Namespace, TaskId, TaskName};
use stem_core::revoke::{RevocationChange, RevokeRequest, Version};
use stem_core::time::Clock;
use stem_services::PostgresServer;
use stem_sql::{Postgres, PostgresOptions};

async fn open(url: &str) -> Arc<Postgres> {
    Postgres::open(PostgresOptions::new(url)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_calls_from_many_tasks() {
    let server = PostgresServer::start();
    load::single_calls(open(&server.url()).await, 4_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_64() {
    let server = PostgresServer::start();
    load::batches_of_64(open(&server.url()).await, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_trips_through_another_process() {
    let server = PostgresServer::start();
    load::round_trips(open(&server.url()).await, open(&server.url()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waking_up_on_another_process() {
    let server = PostgresServer::start();
    load::waking_up(open(&server.url()).await, open(&server.url()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_out_of_a_large_backlog() {
    const BACKLOG: i64 = 200_000;
    let server = PostgresServer::start();
    let url = server.url();
    let store = open(&url).await;
    // Half of the backlog has a name that nobody knows, and lies in front.
    let unknown = Envelope { name: TaskName::new("unknown").unwrap(), ..envelope("template") };
    store.publish(&[unknown], Records::Elsewhere).await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    for statement in [
        "INSERT INTO stem.envelopes (seq, wire)
         SELECT n, convert_to(replace(replace(convert_from(wire, 'UTF8'), 'template', 't' || n),
             'unknown', CASE WHEN n > $1 / 2 THEN 'job' ELSE 'unknown' END), 'UTF8')
         FROM stem.envelopes CROSS JOIN generate_series(2, $1) AS n WHERE seq = 1",
        "INSERT INTO stem.deliveries (seq, task, queue, name, phase, priority, at)
         SELECT n, 't' || n, 'q', CASE WHEN n > $1 / 2 THEN 'job' ELSE 'unknown' END, 0, 5, 0
         FROM generate_series(2, $1) AS n",
    ] {
        sqlx::query(statement).bind(BACKLOG).execute(&mut conn).await.unwrap();
    }
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(store.receive(&asking(1, Duration::ZERO)).await.unwrap().len(), 1);
    }
    println!("claim of 1 out of {BACKLOG}: {:?}", started.elapsed() / 100);
    let started = Instant::now();
    let known = [TaskName::new("job").unwrap(), TaskName::new("unknown").unwrap()];
    let now = load::SystemClock.now();
    let buried = store.bury_unroutable(&known, now, Records::Here).await.unwrap();
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
    let server = PostgresServer::start();
    let store = open(&server.url()).await;
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
        chunk.last().map(RevocationChange::version)
    } {
        after = last;
    }
    println!("reading them in chunks: {:?}", started.elapsed());
    assert_eq!(seen, COUNT);
}
