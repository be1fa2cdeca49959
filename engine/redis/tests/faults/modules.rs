//! Modules and buckets: a full memory, servers that are killed, large modules, users with few rights.

use std::path::Path;

use stem_core::backend::buckets::{Buckets, Changed, When};
use stem_core::backend::modules::{Assigned, MODULE_BYTES, ModuleStore, Pushed, Removed};
use stem_core::id::Digest;
use stem_core::release::{Assignment, Push, PushId, Rollout};

use super::*;

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn job() -> TaskName {
    TaskName::new("job").unwrap()
}

async fn push(redis: &Redis, n: u8) -> Result<Pushed, BackendError> {
    let push = Push {
        id: PushId::fresh(),
        name: job(),
        digest: digest(n),
        size: 1,
        manifest: String::new(),
        pushed_by: None,
        signatures: Vec::new(),
    };
    redis.push(&push, Rollout::Whole).await
}

/// The version that a push made.
async fn pushed(redis: &Redis, n: u8) -> u32 {
    match push(redis, n).await.unwrap() {
        Pushed::Release(release) => release.version,
        Pushed::NoSuchModule => panic!("it was stored"),
    }
}

#[tokio::test]
async fn at_full_memory_a_build_is_rolled_back_and_removed_and_none_is_pushed() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    for n in 1..=3 {
        redis.put(&digest(n), &[n]).await.unwrap();
    }
    assert_eq!((pushed(&redis, 1).await, pushed(&redis, 2).await), (1, 2));
    let written = redis.write("b", "k", b"x", When::Always, None).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    for error in [
        redis.put(&digest(4), &[4]).await.unwrap_err(),
        push(&redis, 3).await.unwrap_err(),
        redis.write("b", "l", b"x", When::Always, None).await.unwrap_err(),
    ] {
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        assert!(error.problem.contains("maxmemory"), "{error}");
    }
    let serving = |version| Some(Assignment { version, canary: None });
    assert_eq!(redis.assign(&job(), serving(2), serving(1)).await.unwrap(), Assigned::Done);
    assert_eq!(ModuleStore::remove(&*redis, &job(), 2).await.unwrap(), Removed::Done);
    assert_eq!(redis.get(&digest(2)).await.unwrap(), None);
    assert_eq!(redis.catalogue().await.unwrap().served[0].assignment.version, 1);
    assert_eq!(redis.get(&digest(1)).await.unwrap(), Some(vec![1]));
    assert_eq!(Buckets::remove(&*redis, "b", "k", When::Always).await.unwrap(), written);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    assert_eq!(pushed(&redis, 3).await, 3);
}

#[tokio::test]
async fn a_name_without_a_letter_that_somebody_put_there_keeps_nobody_waiting() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    server.command(&["ZADD", "{stem}/m/serving", "0", ""]).unwrap();
    let catalogue = tokio::time::timeout(Duration::from_mins(1), redis.catalogue()).await;
    assert_eq!(catalogue.unwrap().unwrap().served, []);
    redis.put(&digest(1), &[1]).await.unwrap();
    pushed(&redis, 1).await;
    let catalogue = redis.catalogue().await.unwrap();
    assert_eq!(catalogue.served.len(), 1, "{catalogue:?}");
}

#[tokio::test]
async fn a_server_that_is_killed_between_storing_and_pushing_has_the_bytes_and_no_half_of_any() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let content = vec![7; 3 << 20];
    redis.put(&digest(1), &content).await.unwrap();
    // In the middle of storing another.
    let storing = {
        let (redis, content) = (Arc::clone(&redis), vec![8; MODULE_BYTES]);
        tokio::spawn(async move { redis.put(&digest(2), &content).await })
    };
    while server.command(&["EXISTS", "{stem}/m/staged"]).unwrap().trim() != "1" {
        tokio::task::yield_now().await;
    }
    server.kill();
    assert_eq!(storing.await.unwrap().unwrap_err().class(), ErrorClass::Transient);
    server.restart();
    let release = healed("push", async || push(&redis, 1).await).await;
    assert!(matches!(release, Pushed::Release(_)), "{release:?}");
    assert!(redis.get(&digest(1)).await.unwrap().unwrap() == content);
    assert_eq!(redis.get(&digest(2)).await.unwrap(), None);
    assert_eq!(push(&redis, 2).await.unwrap(), Pushed::NoSuchModule);
    server.kill();
    server.restart();
    let catalogue = healed("read", async || redis.catalogue().await).await;
    assert_eq!(catalogue.served[0].releases[0].version, 1);
}

#[tokio::test]
async fn others_go_on_while_the_largest_module_is_stored_and_read() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    let busy = {
        let redis = Arc::clone(&redis);
        tokio::spawn(async move {
            let content = vec![5; MODULE_BYTES];
            redis.put(&digest(1), &content).await.unwrap();
            assert!(redis.get(&digest(1)).await.unwrap().unwrap() == content);
        })
    };
    let mut stored = 0;
    while !busy.is_finished() {
        publish(&redis, &format!("t{stored}")).await.unwrap();
        stored += 1;
    }
    busy.await.unwrap();
    println!("{stored} tasks were enqueued over the same connection meanwhile");
    assert!(stored > 20, "{stored}");
}

/// The users that the documentation gives to copy.
#[tokio::test]
async fn a_worker_by_the_documentation_reads_modules_and_pushes_none() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = std::fs::read_to_string(file).unwrap();
    let server = RedisServer::start();
    let mut users = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("user ")) {
        let (plain, selector) = line
            .split_once(" (")
            .map_or((line, None), |(plain, selector)| (plain, Some(format!("({selector}"))));
        let mut words: Vec<&str> = plain.split(' ').collect();
        words.extend(selector.as_deref());
        users.push(words[0].to_owned());
        if words[0] != "default" {
            server.command(&[&["ACL", "SETUSER"][..], &words].concat()).unwrap();
        }
    }
    assert_eq!(users, ["default", "producer", "worker", "publisher", "operator"]);
    let of = async |user: &str, secret: &str| {
        open(format!("redis://{user}:{secret}@127.0.0.1:{}", server.port())).await
    };
    let (producer, worker) = (of("producer", "SECRET1").await, of("worker", "SECRET2").await);
    let (publisher, operator) = (of("publisher", "SECRET4").await, of("operator", "SECRET3").await);
    publisher.put(&digest(1), b"module").await.unwrap();
    assert_eq!(pushed(&publisher, 1).await, 1);
    ModuleStore::health(&*publisher).await.unwrap();
    operator.put(&digest(2), b"another").await.unwrap();
    assert_eq!(pushed(&operator, 2).await, 2);
    let serving = |version| Some(Assignment { version, canary: None });
    assert_eq!(publisher.assign(&job(), serving(2), serving(1)).await.unwrap(), Assigned::Done);
    assert_eq!(ModuleStore::remove(&*publisher, &job(), 2).await.unwrap(), Removed::Done);
    let seen = worker.catalogue().await.unwrap();
    assert_eq!(
        worker.get(&seen.served[0].releases[0].digest).await.unwrap(),
        Some(b"module".to_vec())
    );
    ModuleStore::history(&*worker, &job()).await.unwrap().unwrap();
    let soon = Duration::from_millis(10);
    ModuleStore::changed(&*worker, seen.revision, soon).await.unwrap();
    let refused = |error: BackendError| {
        assert_eq!(error.class(), ErrorClass::Refused, "{error}");
        assert!(error.problem.contains("ACL"), "{error}");
    };
    refused(worker.put(&digest(1), b"another").await.unwrap_err());
    refused(worker.assign(&job(), Some(seen.served[0].assignment), None).await.unwrap_err());
    refused(ModuleStore::remove(&*producer, &job(), 1).await.unwrap_err());
    let hour = Some(Duration::from_hours(1));
    let Changed::Done(version) = worker.write("b", "k", b"x", When::Absent, hour).await.unwrap()
    else {
        panic!("it was not there");
    };
    assert_eq!(worker.read("b", "k").await.unwrap().unwrap().value, b"x");
    worker.write("b", "k", b"y", When::Version(version), None).await.unwrap();
    assert!(matches!(
        Buckets::remove(&*worker, "b", "k", When::Always).await.unwrap(),
        Changed::Done(_)
    ));
    refused(producer.read("b", "k").await.unwrap_err());
    refused(publisher.read("b", "k").await.unwrap_err());
    refused(publish(&publisher, "t").await.unwrap_err());
}
