//! Many at once on one database: nothing is given out twice, nobody waits for nobody, logs have no holes.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod load;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use load::postgres::{DEADLINE, SLACK, open, publish};
use load::{asking, envelope, success};
use sqlx::{Connection, PgConnection, raw_sql};
use stem_core::backend::broker::{Broker, Published, ReceiveRequest, Renewal, Settled};
use stem_core::backend::dead_letter::{DeadFilter, DeadLetters};
use stem_core::backend::result::ResultBackend;
use stem_core::backend::revoke::RevokeStore;
use stem_core::backend::{ErrorClass, Records};
use stem_core::envelope::Envelope;
use stem_core::id::{Incarnation, Namespace, QueueName, TaskId, UniqueKey};
use stem_core::outcome::{Failure, FailureKind};
use stem_core::revoke::{RevocationChange, RevokeRequest, Version};
use stem_core::settlement::{DeadReason, Settle, Settlement};
use stem_core::task::Progress;
use stem_services::PostgresServer;
use stem_sql::{Postgres, PostgresOptions};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_who_claim_and_settle_at_once_never_get_one_delivery_twice() {
    const TASKS: usize = 2_000;
    let database = PostgresServer::shared().database();
    let first = open(database.url()).await;
    let all: Vec<_> = (0..TASKS).map(|n| envelope(&format!("t{n}"))).collect();
    first.publish(&all, Records::Here).await.unwrap();
    let mut workers = JoinSet::new();
    for worker in 0..4_u128 {
        let store = open(database.url()).await;
        workers.spawn(async move {
            let owner = Incarnation(uuid::Uuid::from_u128(worker + 1));
            let request = ReceiveRequest { owner, ..asking(7, Duration::ZERO) };
            let mut mine = Vec::new();
            loop {
                let deliveries = store.receive(&request).await.unwrap();
                if deliveries.is_empty() {
                    return mine;
                }
                let batch: Vec<_> = deliveries.into_iter().map(success).collect();
                mine.extend(batch.iter().map(|settle| settle.receipt.task.to_string()));
                let settled = store.settle(&batch, Records::Here).await.unwrap();
                assert!(settled.iter().all(|settled| *settled == Settled::Done));
            }
        });
    }
    let mut taken = Vec::new();
    while let Some(mine) = workers.join_next().await {
        let mine = mine.unwrap();
        assert!(mine.len() < TASKS, "one worker took everything");
        taken.extend(mine);
    }
    taken.sort();
    let count = taken.len();
    taken.dedup();
    assert_eq!((count, taken.len()), (TASKS, TASKS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_meet_in_every_order_do_not_stop_each_other() {
    let database = PostgresServer::shared().database();
    // Whoever waits for each other does so until the server looks, which takes far longer here than anything else.
    database
        .execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''1min''', current_database()); END $$",
        )
        .unwrap();
    let mut producers = JoinSet::new();
    for producer in 0..4 {
        let deadline = Duration::from_mins(2);
        let options = PostgresOptions { deadline, ..PostgresOptions::new(database.url()) };
        let store = Postgres::open(options).await.unwrap();
        producers.spawn(async move {
            let mut stored = 0;
            for round in 0..20 {
                let mut batch: Vec<Envelope> = (0..20)
                    .map(|n| {
                        let key = UniqueKey::new(format!("k{round}-{}", (n * 7) % 20)).unwrap();
                        Envelope { unique_key: Some(key), ..envelope(&format!("t{round}-{n}")) }
                    })
                    .collect();
                if producer % 2 == 1 {
                    batch.reverse();
                }
                let started = Instant::now();
                let published = store.publish(&batch, Records::Here).await.unwrap();
                assert!(started.elapsed() < Duration::from_secs(30), "they waited for each other");
                stored += published.iter().filter(|it| **it == Published::Stored).count();
            }
            stored
        });
    }
    let mut stored = 0;
    while let Some(some) = producers.join_next().await {
        stored += some.unwrap();
    }
    assert_eq!(stored, 20 * 20, "each task is stored by exactly one of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn dropped_receives_give_back_what_they_took() {
    const TASKS: usize = 40;
    let database = PostgresServer::shared().database();
    let store = open(database.url()).await;
    let all: Vec<_> = (0..TASKS).map(|n| envelope(&format!("t{n}"))).collect();
    store.publish(&all, Records::Here).await.unwrap();
    for n in 0..200 {
        let request = asking(5, Duration::from_secs(5));
        let dropped = store.receive(&request);
        let _ = tokio::time::timeout(Duration::from_micros(n * 20), dropped).await.map(|taken| {
            // In time after all: given back by hand, as a worker that stops would.
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let batch: Vec<_> = taken
                    .unwrap()
                    .into_iter()
                    .map(|delivery| Settle { settlement: Settlement::Release, ..success(delivery) })
                    .collect();
                store.settle(&batch, Records::Here).await.unwrap();
            })
        });
    }
    let started = Instant::now();
    let mut came = HashSet::new();
    while came.len() < TASKS {
        for delivery in store.receive(&asking(64, Duration::from_secs(1))).await.unwrap() {
            assert_eq!((delivery.deliveries, delivery.losses), (1, 0), "{delivery:?}");
            came.insert(delivery.receipt.task.to_string());
        }
        // Shorter than a lease.
        assert!(started.elapsed() < Duration::from_secs(25), "only {} came", came.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_sees_every_version_in_order_while_many_revoke() {
    const WRITERS: usize = 6;
    const EACH: usize = 60;
    let database = PostgresServer::shared().database();
    let namespace = Namespace::new("n").unwrap();
    let follower = open(database.url()).await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, namespace) = (open(database.url()).await, namespace.clone());
        writers.spawn(async move {
            for n in 0..EACH {
                let task = TaskId::new(format!("t{writer}-{n}")).unwrap();
                let request = [(task, RevokeRequest::default())];
                store.revoke(&namespace, &request).await.unwrap();
            }
        });
    }
    let (mut seen, mut after) = (Vec::new(), Version(0));
    let mut reads = 0;
    while seen.len() < WRITERS * EACH {
        let changes = follower.since(&namespace, after, 1_000).await.unwrap();
        reads += 1;
        for change in changes {
            let RevocationChange::Revoked(revocation) = &change else { panic!("{change:?}") };
            assert!(change.version() > after, "{change:?} after {after:?}");
            after = change.version();
            seen.push(revocation.task_id.clone());
        }
        if writers.is_empty() {
            break;
        }
        while writers.try_join_next().is_some() {}
    }
    let changes = follower.since(&namespace, after, 1_000).await.unwrap();
    seen.extend(changes.iter().map(|change| change.task().clone()));
    println!("{} versions in {reads} reads", seen.len());
    let distinct: HashSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (WRITERS * EACH, WRITERS * EACH));
}

/// The clock of the server counts, not that of this process.
#[tokio::test]
async fn leases_are_timed_by_the_server() {
    let database = PostgresServer::shared().database();
    let store = open(database.url()).await;
    publish(&store, "t").await.unwrap();
    let delivery = store.receive(&asking(1, Duration::ZERO)).await.unwrap().remove(0);
    let until: i64 = database.execute("SELECT at FROM stem.deliveries").unwrap().parse().unwrap();
    assert_eq!(delivery.lease_until.unix_millis(), until);
    let now = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let now: i64 = database.execute(now).unwrap().parse().unwrap();
    let left = until - now;
    assert!((25_000..=30_000).contains(&left), "{left}");
    database.execute("UPDATE stem.deliveries SET at = 1").unwrap();
    assert_eq!(store.receive(&asking(1, Duration::ZERO)).await.unwrap()[0].losses, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_somebody_holds_makes_a_call_transient_in_time() {
    let database = PostgresServer::shared().database();
    let store = open(database.url()).await;
    publish(&store, "t").await.unwrap();
    let delivery = store.receive(&asking(1, Duration::ZERO)).await.unwrap().remove(0);
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    raw_sql("BEGIN; SELECT * FROM stem.deliveries FOR UPDATE").execute(&mut other).await.unwrap();
    let started = Instant::now();
    let settle = [success(delivery)];
    let error = store.settle(&settle, Records::Here).await.unwrap_err();
    println!("after {:?}: {error}", started.elapsed());
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(started.elapsed() < DEADLINE + SLACK);
    // Whoever looks for work passes it over.
    assert_eq!(store.receive(&asking(1, Duration::ZERO)).await.unwrap(), []);
    raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(store.settle(&settle, Records::Here).await.unwrap(), [Settled::Done]);
}

/// Where every task must be once all is quiet: on its way or dead, each with its envelope, or gone with a final record.
const MISPLACED: &str = "
    SELECT (SELECT count(*) FROM stem.deliveries JOIN stem.dead_letters USING (task))
        + (SELECT count(*) FROM stem.envelopes
            WHERE seq NOT IN (SELECT seq FROM stem.deliveries UNION ALL SELECT seq FROM stem.dead_letters))
        + (SELECT count(*) FROM (SELECT seq FROM stem.deliveries UNION ALL SELECT seq FROM stem.dead_letters) AS x
            WHERE seq NOT IN (SELECT seq FROM stem.envelopes))
        + (SELECT count(*) FROM stem.tasks JOIN stem.deliveries ON task = id WHERE finished_at IS NOT NULL)
        + (SELECT count(*) FROM stem.tasks WHERE finished_at IS NULL
            AND id NOT IN (SELECT task FROM stem.deliveries))
        + (SELECT count(*) FROM stem.tasks WHERE state = 'failed' AND id NOT IN (SELECT task FROM stem.dead_letters))
        + (SELECT count(*) FROM stem.delivery_failures
            WHERE task NOT IN (SELECT task FROM stem.deliveries UNION ALL SELECT task FROM stem.dead_letters))";

/// What [`disturb`] settles at least, all workers together.
const ENOUGH: usize = 100;

/// One worker's part: short leases, of which some run out, every kind of settlement, renewals, progress, replays. Goes on
/// until then, and until enough is settled, but no longer than a minute more.
async fn disturb(store: Arc<Postgres>, worker: u128, until: Instant, settled: Arc<AtomicUsize>) {
    let owner = Incarnation(uuid::Uuid::from_u128(worker));
    let lease = Duration::from_millis(30);
    let mut round = 0_usize;
    while Instant::now() < until
        || settled.load(Ordering::Relaxed) <= ENOUGH && until.elapsed() < Duration::from_mins(1)
    {
        round += 1;
        let batch: Vec<Envelope> = (0..8)
            .map(|n| {
                let key = UniqueKey::new(format!("k{}", (round + n) % 50)).unwrap();
                let key = (n % 2 == 0).then_some(key);
                Envelope { unique_key: key, ..envelope(&format!("t{worker}-{round}-{n}")) }
            })
            .collect();
        store.publish(&batch, Records::Here).await.unwrap();
        let request = ReceiveRequest { owner, lease, ..asking(12, Duration::from_millis(5)) };
        let deliveries = store.receive(&request).await.unwrap();
        let renewals: Vec<_> =
            deliveries.iter().map(|it| Renewal { receipt: it.receipt.clone(), lease }).collect();
        store.renew(&renewals).await.unwrap();
        let progress: Vec<_> = deliveries
            .iter()
            .map(|it| {
                let progress = Progress { fraction: Some(0.5), message: None, data: None };
                (it.receipt.clone(), progress)
            })
            .collect();
        store.record_progress(&progress).await.unwrap();
        if round.is_multiple_of(5) {
            // Some leases run out, and others may take what was under them.
            tokio::time::sleep(lease).await;
        }
        let failure = || Failure::new(FailureKind::Error, "broken", "on purpose");
        let batch: Vec<Settle> = deliveries
            .into_iter()
            .enumerate()
            .map(|(index, delivery)| {
                let good = success(delivery);
                let settlement = match (index + round) % 6 {
                    0 => Settlement::Release,
                    1 => Settlement::Retry { failure: failure(), not_before: good.at },
                    2 => Settlement::Fail { failure: failure(), reason: DeadReason::Fatal },
                    3 => Settlement::Expire,
                    _ => good.settlement.clone(),
                };
                Settle { settlement, ..good }
            })
            .collect();
        let answers = store.settle(&batch, Records::Here).await.unwrap();
        let done = answers.iter().filter(|it| **it == Settled::Done).count();
        settled.fetch_add(done, Ordering::Relaxed);
        if round.is_multiple_of(7) {
            let filter = DeadFilter { limit: 5, ..DeadFilter::default() };
            let dead = DeadLetters::list(&*store, &filter).await.unwrap();
            let dead: Vec<_> = dead.into_iter().map(|letter| (letter.task, letter.token)).collect();
            store.replay(&dead, Records::Here).await.unwrap();
        }
        if round.is_multiple_of(31) {
            Broker::purge(&*store, &QueueName::new("q").unwrap(), Records::Here).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_leaves_each_task_in_one_place_and_nobody_deadlocked() {
    let database = PostgresServer::shared().database();
    let until = Instant::now() + Duration::from_secs(4);
    let (mut workers, settled) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for worker in 1..=4 {
        let store = open(database.url()).await;
        workers.spawn(disturb(store, worker, until, Arc::clone(&settled)));
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    let settled = settled.load(Ordering::Relaxed);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks = database.execute(deadlocks).unwrap();
    println!("{settled} settled, {deadlocks} deadlocks");
    assert!(settled > ENOUGH);
    assert_eq!(database.execute(MISPLACED).unwrap(), "0");
    assert_eq!(deadlocks, "0");
}
