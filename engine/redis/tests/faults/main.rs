//! What happens to Redis must not happen to tasks: every fault is an error in bounded time, and once it is over the same
//! value works again by itself.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod modules;
mod older;
mod power;
mod watching;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stem_core::backend::broker::{
    Broker, Delivery, Published, ReceiveRequest, Renewal, Renewed, Settled,
};
use stem_core::backend::control::ControlPlane;
use stem_core::backend::dead_letter::{DeadFilter, DeadLetters};
use stem_core::backend::revoke::RevokeStore;
use stem_core::backend::{BackendError, ErrorClass, Records, ResultBackend};
use stem_core::control::wire::CommandFrame;
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{Incarnation, Namespace, QueueName, RequestId, TaskId, TaskName, WorkerId};
use stem_core::outcome::{Failure, FailureKind};
use stem_core::revoke::{RevokeRequest, Version};
use stem_core::settlement::{DeadReason, Settle, Settlement};
use stem_core::time::Timestamp;
use stem_redis::{ANSWER_WITHIN, Redis, RedisOptions};
use stem_services::{Fsync, RedisServer, RedisSettings};
use uuid::Uuid;

/// A fault is over; within this everything works again, also on a busy machine.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// What a call may take longer than its bound on a busy machine.
const SLACK: Duration = Duration::from_secs(20);

async fn open(url: String) -> Arc<Redis> {
    Redis::open(RedisOptions { url, clock: None }).await.unwrap()
}

fn envelope(id: &str) -> Envelope {
    Envelope::new(
        TaskId::new(id).unwrap(),
        TaskName::new("job").unwrap(),
        QueueName::new("q").unwrap(),
        Payload::json(*b"1"),
        Timestamp::from_unix_millis(1_795_305_600_000),
    )
}

fn asking(max: usize, wait: Duration) -> ReceiveRequest {
    ReceiveRequest {
        queues: vec![QueueName::new("q").unwrap()],
        names: Arc::new([TaskName::new("job").unwrap()]),
        max,
        lease: Duration::from_secs(30),
        owner: Incarnation(Uuid::from_u128(7)),
        worker: WorkerId::new("w").unwrap(),
        wait,
        records: Records::Here,
        shares: None,
    }
}

fn settle(delivery: &Delivery, settlement: Settlement) -> Settle {
    Settle {
        receipt: delivery.receipt.clone(),
        settlement,
        at: delivery.lease_until,
        worker: WorkerId::new("w").unwrap(),
        attempt: delivery.attempt,
        usage: None,
        module: None,
        children: Vec::new(),
    }
}

async fn publish(redis: &Redis, id: &str) -> Result<Published, BackendError> {
    Ok(redis.publish(&[envelope(id)], Records::Here).await?.remove(0))
}

async fn take(redis: &Redis) -> Delivery {
    let mut taken = redis.receive(&asking(1, Duration::ZERO)).await.unwrap();
    assert_eq!(taken.len(), 1);
    taken.remove(0)
}

async fn succeed(redis: &Redis, delivery: &Delivery) -> Result<Settled, BackendError> {
    let end = settle(delivery, Settlement::Succeed(Payload::json(*b"2")));
    Ok(redis.settle(&[end], Records::Here).await?.remove(0))
}

/// Tries until it works, which must be soon.
async fn healed<T>(what: &str, call: impl AsyncFn() -> Result<T, BackendError>) -> T {
    let over = Instant::now();
    loop {
        match call().await {
            Ok(done) => {
                assert!(over.elapsed() < HEALED_WITHIN, "{what}: {:?}", over.elapsed());
                return done;
            }
            Err(error) => {
                assert!(over.elapsed() < HEALED_WITHIN, "{what}: {error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_restarted_server_has_everything_and_the_same_value_goes_on() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    publish(&redis, "before").await.unwrap();
    let delivery = take(&redis).await;
    publish(&redis, "waiting").await.unwrap();
    server.kill();
    let error = publish(&redis, "during").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    server.restart();
    // Scripts are gone after a restart; the value loads them again by itself.
    healed("publish", async || publish(&redis, "after").await).await;
    assert_eq!(succeed(&redis, &delivery).await.unwrap(), Settled::Done);
    let left = redis.receive(&asking(10, Duration::ZERO)).await.unwrap();
    let left: HashSet<_> = left.iter().map(|it| it.receipt.task.as_str()).collect();
    assert!(left.contains("waiting") && left.contains("after"), "{left:?}");
}

#[tokio::test]
async fn scripts_that_were_flushed_are_loaded_again() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    for n in 0..5 {
        server.command(&["SCRIPT", "FLUSH"]).unwrap();
        assert_eq!(publish(&redis, &format!("t{n}")).await.unwrap(), Published::Stored);
    }
}

#[tokio::test]
async fn places_that_somebody_else_has_chosen_keep_nobody_from_the_next_command() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let (log, space) = ("{stem}/c/n/log", Namespace::new("n").unwrap());
    let in_one_hour = SystemTime::now() + Duration::from_hours(1);
    let in_one_hour = in_one_hour.duration_since(UNIX_EPOCH).unwrap().as_millis();
    let (largest, many) = (u64::MAX, 1 << 20);
    let mut at = redis.position(&space).await.unwrap();
    let mut places = vec![
        format!("{in_one_hour}-5"),
        format!("{in_one_hour}-{many}"),
        format!("{}-{largest}", in_one_hour + 7),
        format!("{}-0", u64::MAX >> 20),
    ];
    // So often that some follow one another within one millisecond of the server's clock.
    places.extend(vec![format!("{largest}-{largest}"); 50]);
    for (n, place) in places.iter().enumerate() {
        let planted = ["e", "9999999999999", "r", "a", "c", "nonsense"];
        server.command(&[&["XADD", log, place][..], &planted].concat()).unwrap();
        // A reader that comes by, and one that only begins to read.
        let read = redis.commands(&space, at, Duration::ZERO).await.unwrap();
        at = read.last().map_or(at, |(at, _)| *at);
        let begins = redis.position(&space).await.unwrap();
        let sent = CommandFrame {
            request_id: RequestId::new(format!("r{n}")).unwrap(),
            namespace: space.clone(),
            expires_at: Timestamp::from_unix_millis(9_999_999_999_999),
            text: format!("command {n}"),
        };
        redis.send(&sent).await.unwrap();
        for from in [at, begins] {
            let read = redis.commands(&space, from, Duration::ZERO).await.unwrap();
            let texts: Vec<&str> = read.iter().map(|(_, text)| text.as_str()).collect();
            assert_eq!(texts.last(), Some(&&*sent.text), "after {place}");
            at = read.last().unwrap().0;
        }
        assert!(redis.commands(&space, at, Duration::ZERO).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn thousands_of_commands_that_have_expired_hide_none_behind_them() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let space = Namespace::new("n").unwrap();
    let at = redis.position(&space).await.unwrap();
    let many = "for n = 1, 2500 do redis.call('XADD', KEYS[1], n .. '-1', 'e', 1, 'r', 'r' .. n, 'c', 'old') end";
    server.command(&["EVAL", many, "1", "{stem}/c/n/log"]).unwrap();
    let sent = CommandFrame {
        request_id: RequestId::new("new").unwrap(),
        namespace: space.clone(),
        expires_at: Timestamp::from_unix_millis(9_999_999_999_999),
        text: "new".to_owned(),
    };
    redis.send(&sent).await.unwrap();
    let read = redis.commands(&space, at, Duration::ZERO).await.unwrap();
    assert_eq!(read.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["new"]);
}

#[tokio::test]
async fn what_is_said_after_everything_was_flushed_is_heard_by_who_read_before() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let space = Namespace::new("n").unwrap();
    let sent = |id: &str| CommandFrame {
        request_id: RequestId::new(id).unwrap(),
        namespace: space.clone(),
        expires_at: Timestamp::from_unix_millis(9_999_999_999_999),
        text: id.to_owned(),
    };
    let revoked = |id: &str| [(TaskId::new(id).unwrap(), RevokeRequest::default())];
    let at = redis.send(&sent("before")).await.unwrap();
    let version = redis.revoke(&space, &revoked("before")).await.unwrap()[0].version;
    server.command(&["FLUSHALL"]).unwrap();
    // Places and versions go by the server's clock, in milliseconds.
    tokio::time::sleep(Duration::from_millis(2)).await;
    redis.send(&sent("after")).await.unwrap();
    let read = redis.commands(&space, at, Duration::ZERO).await.unwrap();
    assert_eq!(read.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["after"]);
    let again = redis.revoke(&space, &revoked("after")).await.unwrap();
    assert!(again[0].version > version);
    let changes = redis.since(&space, version, 10).await.unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
}

#[tokio::test]
async fn a_frozen_server_is_an_error_in_bounded_time_and_then_goes_on() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    publish(&redis, "t").await.unwrap();
    server.freeze();
    let started = Instant::now();
    let error = redis.receive(&asking(1, Duration::from_mins(1))).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    assert!(started.elapsed() < ANSWER_WITHIN + SLACK, "{:?}", started.elapsed());
    // Another call finds no connection and cannot make one.
    let started = Instant::now();
    publish(&redis, "u").await.unwrap_err();
    assert!(started.elapsed() < ANSWER_WITHIN + SLACK, "{:?}", started.elapsed());
    server.thaw();
    // What the frozen server may still have taken for the request that was given up comes back, uncounted.
    let thawed = Instant::now();
    let mut seen = Vec::new();
    while seen.is_empty() {
        assert!(thawed.elapsed() < HEALED_WITHIN, "nothing comes");
        let request = asking(1, Duration::from_secs(1));
        seen = healed("receive", async || redis.receive(&request).await).await;
    }
    let delivery = &seen[0];
    assert_eq!((delivery.deliveries, delivery.losses), (1, 0), "{delivery:?}");
    assert_eq!(succeed(&redis, delivery).await.unwrap(), Settled::Done);
}

/// The answer to a request is lost each time: its deliveries must not stay with nobody until their lease ends.
#[tokio::test]
async fn deliveries_whose_answer_was_lost_come_back_uncounted() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let other = open(server.url()).await;
    for n in 0..200 {
        publish(&redis, &format!("t{n}")).await.unwrap();
    }
    let mut got = HashSet::new();
    let started = Instant::now();
    let mut lost = 0_u32;
    while got.len() < 200 {
        // Far shorter than a lease.
        assert!(started.elapsed() < Duration::from_mins(1), "{} of 200, {lost} lost", got.len());
        // Cut at any moment of a request: before it was sent, while it runs, when its answer is on its way.
        let lease = Duration::from_mins(10);
        let request = ReceiveRequest { lease, ..asking(3, Duration::from_millis(200)) };
        let cut = Duration::from_micros(u64::from(lost % 40) * 15);
        let receiving = redis.receive(&request);
        let taken = if lost < 120 {
            let Ok(taken) = tokio::time::timeout(cut, receiving).await else {
                lost += 1;
                if lost.is_multiple_of(10) {
                    let _ = server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
                }
                continue;
            };
            taken
        } else {
            receiving.await
        };
        for delivery in taken.unwrap_or_default() {
            assert_eq!((delivery.deliveries, delivery.losses), (1, 0), "{delivery:?}");
            assert!(got.insert(delivery.receipt.task.clone()), "{delivery:?} came twice");
        }
    }
    drop(other);
    println!("{lost} requests were cut; each of 200 deliveries came once, with its first count");
}

#[tokio::test]
async fn a_storm_of_cut_connections_loses_nothing() {
    let server = Arc::new(RedisServer::start());
    let stop = Arc::new(AtomicBool::new(false));
    let storm = std::thread::spawn({
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        move || {
            let mut cuts = 0;
            while !stop.load(Ordering::Relaxed) {
                let _ = server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
                let _ = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                cuts += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            cuts
        }
    });
    let producer = loop {
        if let Ok(redis) = Redis::open(RedisOptions { url: server.url(), clock: None }).await {
            break redis;
        }
    };
    let mut acknowledged = HashSet::new();
    let mut ended = HashSet::new();
    let started = Instant::now();
    let mut n = 0;
    let enough = |done: &HashSet<String>| done.len() > 20;
    while started.elapsed() < Duration::from_secs(3) || !enough(&acknowledged) || !enough(&ended) {
        assert!(started.elapsed() < Duration::from_mins(1), "{acknowledged:?}, {ended:?}");
        let id = format!("t{n}");
        n += 1;
        if publish(&producer, &id).await.is_ok() {
            acknowledged.insert(id);
        }
        for delivery in producer.receive(&asking(5, Duration::ZERO)).await.unwrap_or_default() {
            if let Ok(Settled::Done) = succeed(&producer, &delivery).await {
                ended.insert(delivery.receipt.task.to_string());
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let cuts = storm.join().unwrap();
    // What is under a lease whose settlement was lost is looked up on record: it ended, or it is still there.
    for id in &acknowledged {
        let record =
            healed("fetch", async || producer.fetch(&TaskId::new(id).unwrap()).await).await;
        assert!(record.is_some(), "{id} was acknowledged and is gone");
        if ended.contains(id) {
            assert!(record.unwrap().state.is_final(), "{id} was settled and is not final");
        }
    }
    println!("{cuts} cuts, {} acknowledged, {} settled, 0 lost", acknowledged.len(), ended.len());
}

#[tokio::test]
async fn at_full_memory_only_enqueueing_is_refused() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    for id in ["parent", "done", "dead", "retried", "waiting"] {
        publish(&redis, id).await.unwrap();
    }
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    // With its children a success is not made at all, and without them it is.
    let parent = take(&redis).await;
    let success = settle(&parent, Settlement::Succeed(Payload::json(*b"{}")));
    let children = vec![parent.envelope.clone()];
    let birth = Settle { children, ..success.clone() };
    let error = redis.settle(&[birth], Records::Here).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    assert_eq!(redis.settle(&[success], Records::Here).await.unwrap(), [Settled::Done]);
    let error = publish(&redis, "one-more").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.problem.contains("maxmemory"), "{error}");
    let failure = Failure::new(FailureKind::Error, "e", "e");
    let ends = [
        Settlement::Succeed(Payload::json(*b"{}")),
        Settlement::Fail { failure: failure.clone(), reason: DeadReason::Fatal },
        Settlement::Retry { failure, not_before: Timestamp::from_unix_millis(0) },
    ];
    for end in ends {
        let delivery = take(&redis).await;
        let settled = redis.settle(&[settle(&delivery, end)], Records::Here).await.unwrap();
        assert_eq!(settled, [Settled::Done]);
    }
    let namespace = Namespace::new("n").unwrap();
    let asked = [(TaskId::new("waiting").unwrap(), RevokeRequest::default())];
    assert_eq!(redis.revoke(&namespace, &asked).await.unwrap().len(), 1);
    assert_eq!(redis.since(&namespace, Version(0), 10).await.unwrap().len(), 1);
    let all = DeadFilter { limit: 10, ..DeadFilter::default() };
    assert_eq!(DeadLetters::list(&*redis, &all).await.unwrap().len(), 1);
    assert_eq!(DeadLetters::purge(&*redis, &[TaskId::new("dead").unwrap()]).await.unwrap(), 1);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    healed("publish", async || publish(&redis, "after").await).await;
}

#[tokio::test]
async fn a_server_that_turns_into_a_replica_refuses_and_is_welcome_back() {
    let (server, primary) = (RedisServer::start(), RedisServer::start());
    let redis = open(server.url()).await;
    publish(&redis, "t").await.unwrap();
    server.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).unwrap();
    let error = publish(&redis, "u").await.unwrap_err();
    assert!(matches!(error.class(), ErrorClass::Refused | ErrorClass::Transient), "{error}");
    server.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    healed("publish", async || publish(&redis, "v").await).await;
}

#[tokio::test]
async fn a_server_that_cannot_write_its_file_refuses_and_says_why() {
    let server = RedisServer::with(RedisSettings {
        extra: vec!["--dbfilename".to_owned(), "x.rdb".to_owned()],
        ..RedisSettings::default()
    });
    let redis = open(server.url()).await;
    // A snapshot that fails has the same effect as a full disk: MISCONF.
    server.command(&["CONFIG", "SET", "save", "1 1"]).unwrap();
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"]).unwrap();
    let directory = server.command(&["CONFIG", "GET", "dir"]).unwrap();
    let directory = directory.lines().last().unwrap().to_owned();
    std::fs::create_dir(format!("{directory}/x.rdb")).unwrap();
    let mut refused = None;
    for n in 0..1_200 {
        if let Err(error) = publish(&redis, &format!("t{n}")).await {
            refused = Some(error);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let error = refused.expect("the server accepts writes though it cannot save");
    assert_eq!(error.class(), ErrorClass::Refused, "{error}");
    assert!(error.problem.contains("disk"), "{error}");
    // The store's own error stops a revoke too: nothing may be told that was not stored.
    let asked = [(TaskId::new("t").unwrap(), RevokeRequest::default())];
    redis.revoke(&Namespace::new("n").unwrap(), &asked).await.unwrap_err();
    std::fs::remove_dir(format!("{directory}/x.rdb")).unwrap();
    server.command(&["CONFIG", "SET", "save", ""]).unwrap();
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).unwrap();
    healed("publish", async || publish(&redis, "after").await).await;
}

#[tokio::test]
async fn a_large_server_that_loads_is_waited_for() {
    let server = RedisServer::with(RedisSettings {
        // Microseconds for each of the tasks: long enough to be seen.
        extra: ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]
            .map(str::to_owned)
            .to_vec(),
        appendfsync: Fsync::No,
        ..RedisSettings::default()
    });
    let redis = open(server.url()).await;
    let many: Vec<_> = (0..300).map(|n| envelope(&format!("t{n}"))).collect();
    redis.publish(&many, Records::Here).await.unwrap();
    server.command(&["BGREWRITEAOF"]).unwrap();
    let started = Instant::now();
    let at_rest = |info: &str| {
        let mut lines = info.lines();
        !lines.any(|it| ["aof_rewrite_in_progress:1", "aof_rewrite_scheduled:1"].contains(&it))
    };
    while !at_rest(&server.command(&["INFO", "persistence"]).unwrap()) {
        assert!(started.elapsed() < Duration::from_mins(1), "its file is never written anew");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.kill();
    let restarting = std::thread::spawn(move || {
        server.restart();
        server
    });
    let mut loading = 0;
    let started = Instant::now();
    loop {
        match publish(&redis, "after").await {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.class(), ErrorClass::Transient, "{error}");
                loading += usize::from(error.problem.contains("is loading"));
            }
        }
        assert!(started.elapsed() < Duration::from_mins(1), "{loading} times it was loading");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let server = restarting.join().unwrap();
    assert!(loading > 0, "it was never seen to load");
    assert_eq!(redis.queues().await.unwrap()[0].ready, 301);
    drop(server);
}

#[tokio::test]
async fn a_wrong_password_and_an_unpermitted_command_are_refused_without_the_password() {
    let server = RedisServer::with(RedisSettings {
        password: Some("hunter2".to_owned()),
        ..RedisSettings::default()
    });
    let port = server.port();
    for url in [format!("redis://127.0.0.1:{port}"), format!("redis://:hunter3@127.0.0.1:{port}")] {
        let error = Redis::open(RedisOptions { url, clock: None }).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
    }
    let redis = open(server.url()).await;
    publish(&redis, "t").await.unwrap();
    assert!(!format!("{redis:?}").contains("hunter"));
    server
        .command(&[
            "ACL",
            "SETUSER",
            "reader",
            "on",
            ">secret",
            "~{stem}/*",
            "&{stem}/*",
            "+@read",
            "+@connection",
            "+info",
            "+evalsha",
            "+script|load",
        ])
        .unwrap();
    let reader = open(format!("redis://reader:secret@127.0.0.1:{port}")).await;
    let error = publish(&reader, "u").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused, "{error}");
    assert!(error.problem.contains("ACL"), "{error}");
    assert!(reader.fetch(&TaskId::new("t").unwrap()).await.unwrap().is_some());
}

/// A connection on which wake-ups come is cut when 32 MiB wait in it.
#[tokio::test]
async fn a_request_takes_no_more_than_its_connection_may_carry_and_the_next_takes_the_rest() {
    const MANY: usize = 48;
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let large = Payload::json(format!("\"{}\"", "x".repeat((1 << 20) - 2)).into_bytes());
    for n in 0..MANY {
        let large = Envelope { payload: large.clone(), ..envelope(&format!("t{n}")) };
        redis.publish(&[large], Records::Here).await.unwrap();
    }
    let mut taken = 0;
    while taken < MANY {
        let some = redis.receive(&asking(MANY, Duration::from_secs(5))).await.unwrap();
        assert!((1..=6).contains(&some.len()), "{} at once", some.len());
        taken += some.len();
    }
    assert_eq!(redis.queues().await.unwrap()[0].inflight, MANY as u64);
}

#[tokio::test]
async fn nobody_there_is_transient_and_said_at_once() {
    let server = RedisServer::start();
    let url = server.url();
    drop(server);
    let started = Instant::now();
    let error = Redis::open(RedisOptions { url, clock: None }).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    println!("after {:?}: {error}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// Nothing is left in the server of tasks that are done, but their records.
#[tokio::test]
async fn acknowledged_deliveries_leave_nothing_but_their_records() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let many: Vec<_> = (0..50)
        .map(|n| Envelope {
            unique_key: Some(format!("k{n}").parse().unwrap()),
            ..envelope(&format!("t{n}"))
        })
        .collect();
    redis.publish(&many, Records::Here).await.unwrap();
    for delivery in redis.receive(&asking(50, Duration::ZERO)).await.unwrap() {
        assert_eq!(succeed(&redis, &delivery).await.unwrap(), Settled::Done);
    }
    redis.queues().await.unwrap();
    let mut keys: Vec<String> =
        server.command(&["KEYS", "*"]).unwrap().lines().map(str::to_owned).collect();
    // Tickets end by themselves a minute after their lease.
    keys.retain(|key| !key.starts_with("{stem}/t/task/") && !key.starts_with("{stem}/q/got/"));
    keys.sort();
    assert_eq!(
        keys,
        [
            "{stem}/q/clock",
            "{stem}/q/queues",
            "{stem}/q/seq",
            "{stem}/q/swept",
            "{stem}/t/all",
            "{stem}/t/count"
        ]
    );
}

/// Many at once: no delivery is held by two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_receivers_each_delivery_has_one() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let many: Vec<_> = (0..2_000).map(|n| envelope(&format!("t{n}"))).collect();
    redis.publish(&many, Records::Here).await.unwrap();
    let mut receivers = Vec::new();
    for n in 0..4 {
        let redis = open(server.url()).await;
        receivers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let owner = Incarnation(Uuid::from_u128(n));
                let request = ReceiveRequest { owner, ..asking(7, Duration::ZERO) };
                let taken = redis.receive(&request).await.unwrap();
                if taken.is_empty() {
                    return mine;
                }
                for delivery in &taken {
                    assert_eq!(succeed(&redis, delivery).await.unwrap(), Settled::Done);
                }
                mine.extend(taken.into_iter().map(|it| it.receipt.task));
            }
        }));
    }
    let mut all = HashSet::new();
    for receiver in receivers {
        for task in receiver.await.unwrap() {
            assert!(all.insert(task.clone()), "{task} had two holders");
        }
    }
    assert_eq!(all.len(), 2_000);
}
