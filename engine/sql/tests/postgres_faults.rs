//! A server that goes away, freezes, or cuts connections: each call ends in time, nothing that was acknowledged is lost,
//! and work goes on by itself.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod load;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use load::postgres::{DEADLINE, RECOVERY, SLACK, open, options, publish, refusal, until_it_works};
use load::{asking, success};
use sqlx::{Connection, PgConnection};
use stem_core::backend::broker::{Broker, Published, Settled};
use stem_core::backend::result::ResultBackend;
use stem_core::backend::{ErrorClass, Records};
use stem_core::id::TaskId;
use stem_services::PostgresServer;
use stem_sql::Postgres;
use tokio::task::JoinSet;

/// Takes and settles until nothing is left; answers how often each task came.
async fn drain(store: &Postgres) -> HashMap<String, usize> {
    let mut came: HashMap<String, usize> = HashMap::new();
    loop {
        let deliveries = match store.receive(&asking(64, Duration::ZERO)).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                assert_eq!(error.class(), ErrorClass::Transient, "{error}");
                continue;
            }
        };
        if deliveries.is_empty() {
            return came;
        }
        for delivery in deliveries {
            *came.entry(delivery.receipt.task.to_string()).or_default() += 1;
            let _ = store.settle(&[success(delivery)], Records::Here).await;
        }
    }
}

#[tokio::test]
async fn nobody_listening_is_transient() {
    let server = PostgresServer::start();
    let url = server.url();
    let store = open(&url).await;
    server.kill();
    let started = Instant::now();
    let error = publish(&store, "t").await.unwrap_err();
    println!("{error}");
    assert_eq!(error.class(), ErrorClass::Transient);
    assert_eq!(refusal(options(&url)).await.class(), ErrorClass::Transient);
    assert!(started.elapsed() < DEADLINE + SLACK);
    server.restart();
    println!("works {:?} after the restart", until_it_works(&store, "t").await);
}

/// A call that is on its way when the server freezes ends in time; when the server goes on, nothing that was given up has
/// happened behind anybody's back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_transient_in_time_and_leases_nothing_to_the_dead() {
    const TASKS: usize = 50;
    let server = PostgresServer::start();
    let store = open(&server.url()).await;
    for n in 0..TASKS {
        publish(&store, &format!("t{n}")).await.unwrap();
    }
    server.freeze();
    let mut calls = JoinSet::new();
    for n in 0..20 {
        let store = Arc::clone(&store);
        calls.spawn(async move {
            let started = Instant::now();
            let error = match n % 3 {
                0 => store.receive(&asking(5, Duration::ZERO)).await.map(drop),
                1 => publish(&store, &format!("frozen{n}")).await.map(drop),
                _ => store.fetch(&TaskId::new("t0").unwrap()).await.map(drop),
            };
            (error.unwrap_err(), started.elapsed())
        });
    }
    let mut longest = Duration::ZERO;
    while let Some(call) = calls.join_next().await {
        let (error, took) = call.unwrap();
        assert_eq!(error.class(), ErrorClass::Transient, "{error}");
        longest = longest.max(took);
    }
    println!("the longest call took {longest:?}");
    assert!(longest < DEADLINE + SLACK);
    server.thaw();
    let took = until_it_works(&store, "after").await;
    println!("works {took:?} after the thaw");
    assert!(took < RECOVERY);
    let mut came = HashSet::new();
    while came.len() < TASKS {
        for delivery in store.receive(&asking(64, DEADLINE)).await.unwrap() {
            assert_eq!((delivery.deliveries, delivery.losses), (1, 0), "{delivery:?}");
            let id = delivery.receipt.task.to_string();
            assert!(
                !id.starts_with("frozen"),
                "{id} was published after its caller was told otherwise"
            );
            if id.starts_with('t') {
                came.insert(id);
            }
            store.settle(&[success(delivery)], Records::Here).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_outlives_a_frozen_server() {
    let server = PostgresServer::start();
    let url = server.url();
    let (store, other) = (open(&url).await, open(&url).await);
    let started = Instant::now();
    let waiting = tokio::spawn(async move {
        loop {
            match store.receive(&asking(1, Duration::from_secs(20))).await {
                Ok(deliveries) if deliveries.is_empty() => {}
                Ok(deliveries) => return deliveries,
                Err(error) => assert_eq!(error.class(), ErrorClass::Transient, "{error}"),
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.freeze();
    tokio::time::sleep(DEADLINE + Duration::from_secs(1)).await;
    server.thaw();
    let thawed = Instant::now();
    until_it_works(&other, "t").await;
    assert_eq!(waiting.await.unwrap().len(), 1);
    println!("delivered {:?} after the thaw, {:?} in all", thawed.elapsed(), started.elapsed());
    assert!(thawed.elapsed() < RECOVERY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_an_immediate_stop_in_the_middle() {
    let server = PostgresServer::start();
    let store = open(&server.url()).await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut producers = JoinSet::new();
    for producer in 0..4 {
        let (store, stop, count) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&count));
        producers.spawn(async move {
            let (mut acknowledged, mut errors, mut n) = (Vec::new(), 0, 0);
            while !stop.load(Ordering::Relaxed) {
                let id = format!("t{producer}-{n}");
                match publish(&store, &id).await {
                    Ok(_) => {
                        acknowledged.push(id);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        assert_eq!(error.class(), ErrorClass::Transient, "{error}");
                        errors += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                n += 1;
            }
            (acknowledged, errors)
        });
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        server.stop_immediate();
        server.restart();
        let took = until_it_works(&store, &format!("probe{:?}", Instant::now().elapsed())).await;
        assert!(took < RECOVERY, "{took:?}");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let since = Instant::now();
    while count.load(Ordering::Relaxed) <= 100 && since.elapsed() < Duration::from_mins(1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut errors) = (Vec::new(), 0);
    while let Some(produced) = producers.join_next().await {
        let (some, failed) = produced.unwrap();
        acknowledged.extend(some);
        errors += failed;
    }
    let came = drain(&store).await;
    println!("{} acknowledged, {errors} errors, {} delivered", acknowledged.len(), came.len());
    assert!(acknowledged.len() > 100 && errors > 0);
    let lost: Vec<_> = acknowledged.iter().filter(|id| !came.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(came.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_terminated_connections_loses_and_doubles_nothing() {
    const TASKS: usize = 600;
    let server = PostgresServer::start();
    let url = server.url();
    let store = open(&url).await;
    let over = Arc::new(AtomicBool::new(false));
    let storm = {
        let (url, over) = (url.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut conn = PgConnection::connect(&url).await.unwrap();
            let mut killed = 0;
            while !over.load(Ordering::Relaxed) {
                let some: i64 = sqlx::query_scalar(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE application_name = 'stem' AND pid <> pg_backend_pid()",
                )
                .fetch_one(&mut conn)
                .await
                .unwrap();
                killed += some;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            killed
        })
    };
    let failures = Arc::new(AtomicUsize::new(0));
    let mut acknowledged = HashSet::new();
    for n in 0..TASKS {
        let id = format!("t{n}");
        match publish(&store, &id).await {
            Ok(published) => {
                assert_eq!(published, Published::Stored);
                acknowledged.insert(id);
            }
            Err(error) => {
                assert_eq!(error.class(), ErrorClass::Transient, "{error}");
                failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let mut done: HashMap<String, usize> = HashMap::new();
    let mut empty = 0;
    while empty < 3 {
        let Ok(deliveries) = store.receive(&asking(10, Duration::from_millis(50))).await else {
            failures.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        empty = if deliveries.is_empty() { empty + 1 } else { 0 };
        for delivery in deliveries {
            assert_eq!(delivery.losses, 0, "{delivery:?}");
            let id = delivery.receipt.task.to_string();
            loop {
                match store.settle(&[success(delivery.clone())], Records::Here).await {
                    Ok(settled) => {
                        // Stale only after an answer that was lost.
                        *done.entry(id).or_default() += usize::from(settled == [Settled::Done]);
                        break;
                    }
                    Err(error) => {
                        assert_eq!(error.class(), ErrorClass::Transient, "{error}");
                        failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    let killed = storm.await.unwrap();
    let failures = failures.load(Ordering::Relaxed);
    println!("{killed} connections terminated, {failures} calls failed of about {}", TASKS * 3);
    assert!(killed > 10);
    assert!(done.values().all(|count| *count <= 1));
    let lost: Vec<_> = acknowledged.iter().filter(|id| !done.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_comes_quickly_again_after_the_listener_was_cut_and_late_without_it() {
    let server = PostgresServer::start();
    let url = server.url();
    let (here, there) = (open(&url).await, open(&url).await);
    let wake_up = async |id: &str| {
        let waiting = {
            let here = Arc::clone(&here);
            tokio::spawn(async move { here.receive(&asking(1, Duration::from_mins(1))).await })
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        let sent = Instant::now();
        publish(&there, id).await.unwrap();
        let delivery = waiting.await.unwrap().unwrap().remove(0);
        let took = sent.elapsed();
        here.settle(&[success(delivery)], Records::Here).await.unwrap();
        took
    };
    // Without news it looks every second. On a busy machine it may be late once, without a listener it is each time.
    let soon = async |id: &str| {
        for n in 0..20 {
            let took = wake_up(&format!("{id}{n}")).await;
            if took < Duration::from_millis(500) {
                return took;
            }
        }
        panic!("no news came soon");
    };
    let with = soon("a").await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    assert!(server.execute(cut).unwrap().starts_with('t'));
    let without = wake_up("b").await;
    let again = soon("c").await;
    println!("with the listener {with:?}, without {without:?}, with a new one {again:?}");
    assert!(without < Duration::from_secs(20));
}
