//! Who waits for a record is told of it, and who may not be told, or is told nothing, loses nothing but a moment.

use stem_core::backend::result::Until;
use stem_core::task::{TaskRecord, TaskState};
use tokio::task::JoinHandle;

use super::*;

/// Longer than any wait here takes.
const LONG: Duration = Duration::from_secs(30);

/// Asks again if its connection is cut in the midst of a look: that is an error to whoever waits.
fn wait_for_end(redis: &Arc<Redis>, id: &str) -> JoinHandle<Option<TaskRecord>> {
    let (redis, id) = (Arc::clone(redis), TaskId::new(id).unwrap());
    tokio::spawn(async move {
        loop {
            match redis.watch(&id, Until::Final, LONG).await {
                Err(error) if error.class() == ErrorClass::Transient => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                seen => return seen.unwrap(),
            }
        }
    })
}

/// Until the server knows of somebody who waits for the task.
async fn noted(server: &RedisServer, id: &str) {
    let key = format!("{{stem}}/t/watch/{id}");
    while server.command(&["EXISTS", &key]).unwrap().trim() != "1" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How often clients called a command, without what scripts call.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).unwrap();
    let line =
        stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

/// What one task's end costs in scripts, from before its settlement until whoever waits knows.
async fn scripts_until_told(result: Vec<u8>) -> u64 {
    let server = RedisServer::start();
    let (waiter, worker) = (open(server.url()).await, open(server.url()).await);
    // The first call of each script is one more.
    publish(&worker, "first").await.unwrap();
    succeed(&worker, &take(&worker).await).await.unwrap();
    loop {
        publish(&worker, "t").await.unwrap();
        let delivery = take(&worker).await;
        let waiting = wait_for_end(&waiter, "t");
        noted(&server, "t").await;
        let (before, started) = (calls(&server, "evalsha"), Instant::now());
        let end = settle(&delivery, Settlement::Succeed(Payload::json(result.clone())));
        worker.settle(&[end], Records::Here).await.unwrap();
        let told = waiting.await.unwrap().unwrap();
        assert_eq!(told.result, Some(Payload::json(result.clone())));
        let after = calls(&server, "evalsha");
        // A waiter looks by itself after 5 s; on a machine that is held up for so long the count says nothing.
        if started.elapsed() < Duration::from_secs(4) {
            return after - before;
        }
        server.command(&["FLUSHALL"]).unwrap(); // not the scripts
    }
}

#[tokio::test]
async fn the_end_of_a_task_is_known_without_another_call_and_a_large_result_with_one() {
    // The settlement itself.
    assert_eq!(scripts_until_told(b"2".to_vec()).await, 1);
    let large = format!("\"{}\"", "x".repeat(5000)).into_bytes();
    assert_eq!(scripts_until_told(large).await, 2);
}

#[tokio::test]
async fn a_waiter_that_has_gone_is_told_once_more_and_then_forgotten() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    publish(&redis, "t").await.unwrap();
    let key = "{stem}/t/watch/t";
    server.command(&["HSET", key, "gone", "any"]).unwrap();
    server.command(&["HSET", "{stem}/t/task/t", "wt", "0"]).unwrap();
    let delivery = take(&redis).await;
    assert_eq!(server.command(&["EXISTS", key]).unwrap().trim(), "0");
    assert_eq!(succeed(&redis, &delivery).await.unwrap(), Settled::Done);
}

#[tokio::test]
async fn who_waits_is_told_over_the_next_connection_too() {
    let server = RedisServer::start();
    let (waiter, worker) = (open(server.url()).await, open(server.url()).await);
    publish(&worker, "t").await.unwrap();
    let delivery = take(&worker).await;
    let waiting = wait_for_end(&waiter, "t");
    for _ in 0..3 {
        noted(&server, "t").await;
        server.command(&["DEL", "{stem}/t/watch/t"]).unwrap();
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    }
    noted(&server, "t").await;
    healed("settle", async || succeed(&worker, &delivery).await).await;
    assert_eq!(waiting.await.unwrap().unwrap().state, TaskState::Succeeded);
}

/// A user without the channel of tellings, as one that was set up before there was one.
fn without_tellings(server: &RedisServer) -> String {
    let words = "ACL SETUSER old on >secret ~{stem}/* resetchannels &{stem}/bell +@all";
    server.command(&words.split(' ').collect::<Vec<_>>()).unwrap();
    format!("redis://old:secret@127.0.0.1:{}", server.port())
}

#[tokio::test]
async fn a_telling_that_is_not_permitted_stops_no_move() {
    let server = RedisServer::start();
    let all = open(server.url()).await;
    let old = open(without_tellings(&server)).await;
    for id in ["settled", "purged", "t"] {
        publish(&all, id).await.unwrap();
    }
    let waiting = [wait_for_end(&all, "settled"), wait_for_end(&all, "purged")];
    noted(&server, "settled").await;
    noted(&server, "purged").await;

    let delivery = take(&old).await;
    assert_eq!(delivery.receipt.task.as_str(), "settled");
    assert_eq!(succeed(&old, &delivery).await.unwrap(), Settled::Done);
    let queue = QueueName::new("q").unwrap();
    let purged = Broker::purge(&*old, &queue, Records::Here).await.unwrap();
    assert_eq!(purged.len(), 2);
    assert_eq!(all.receive(&asking(10, Duration::ZERO)).await.unwrap(), []);
    publish(&all, "next").await.unwrap();
    assert_eq!(take(&old).await.receipt.task.as_str(), "next");
    // They were not told, and look by themselves.
    let [settled, purged] = waiting;
    assert_eq!(settled.await.unwrap().unwrap().state, TaskState::Succeeded);
    assert_eq!(purged.await.unwrap(), None);
}

#[tokio::test]
async fn who_may_not_be_told_looks_and_goes_on_with_everything_else() {
    let server = RedisServer::start();
    let all = open(server.url()).await;
    let old = open(without_tellings(&server)).await;
    publish(&all, "t").await.unwrap();
    let waiting = wait_for_end(&old, "t");
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Its connection is as good as before.
    for n in 0..20 {
        publish(&old, &format!("o{n}")).await.unwrap();
    }
    let delivery = take(&all).await;
    succeed(&all, &delivery).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().state, TaskState::Succeeded);
}

#[tokio::test]
async fn an_end_can_be_read_from_a_server_that_takes_no_writes() {
    let server = RedisServer::start();
    let redis = open(server.url()).await;
    publish(&redis, "t").await.unwrap();
    let delivery = take(&redis).await;
    succeed(&redis, &delivery).await.unwrap();
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).unwrap();
    let id = TaskId::new("t").unwrap();
    let end = redis.watch(&id, Until::Final, LONG).await.unwrap().unwrap();
    assert_eq!(end.state, TaskState::Succeeded);
    // Longer than any clock goes.
    assert!(redis.watch(&id, Until::Final, Duration::MAX).await.unwrap().is_some());
}
