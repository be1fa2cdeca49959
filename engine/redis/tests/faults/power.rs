//! The power goes while producers enqueue: what a client was told to be stored is there afterwards, as far as Redis was set to
//! keep it. A process that is only killed loses nothing that it has written; here all that was not synced is gone.

use std::sync::Mutex;

use tokio::task::JoinSet;

use super::*;

const PRODUCERS: usize = 4;
/// The power goes when so many were told at least, however slow the disk is.
const TOLD: usize = 50;

/// What several cuts took.
#[derive(Debug, Default)]
struct Loss {
    told: usize,
    lost: usize,
    /// Of those that were lost, how long before the cut the earliest was told to be stored.
    oldest: Duration,
    bytes: u64,
}

/// A task that was told to be stored.
struct Told {
    producer: usize,
    number: u64,
    id: TaskId,
    at: Instant,
}

/// Enqueues until the server is gone, one after the other.
async fn produce(redis: Arc<Redis>, round: u32, producer: usize, told: Arc<Mutex<Vec<Told>>>) {
    for number in 0_u64.. {
        let id = format!("{round}-{producer}-{number}");
        let Ok(Published::Stored) = publish(&redis, &id).await else { return };
        let (id, at) = (id.parse().unwrap(), Instant::now());
        told.lock().unwrap().push(Told { producer, number, id, at });
    }
}

async fn is_there(redis: &Redis, id: &TaskId) -> bool {
    healed("fetch", async || redis.fetch(id).await).await.is_some()
}

/// Cuts the power so often, each time after a moment in which producers enqueue.
async fn cut(appendfsync: Fsync, cuts: u32) -> Loss {
    let server = RedisServer::with(RedisSettings {
        appendfsync,
        own_power: true,
        // The file stays one, so that what is lost of it is lost of the end.
        extra: ["--auto-aof-rewrite-percentage", "0"].map(str::to_owned).to_vec(),
        ..RedisSettings::default()
    });
    let (mut loss, mut kept) = (Loss::default(), Vec::new());
    for round in 0..cuts {
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let mut producers = JoinSet::new();
        for producer in 0..PRODUCERS {
            let redis = open(server.url()).await;
            producers.spawn(produce(redis, round, producer, Arc::clone(&told)));
        }
        tokio::time::sleep(Duration::from_millis(1_000 + 370 * u64::from(round))).await;
        let deadline = Instant::now() + HEALED_WITHIN;
        while told.lock().unwrap().len() < TOLD {
            assert!(Instant::now() < deadline, "a server that stores next to nothing");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        loss.bytes += server.cut_power();
        let at = Instant::now();
        producers.shutdown().await;
        server.restart();
        let redis = open(server.url()).await;
        let told = std::mem::take(&mut *told.lock().unwrap());
        loss.told += told.len();
        let mut first_lost = [u64::MAX; PRODUCERS];
        for one in told {
            let first_lost = &mut first_lost[one.producer];
            if is_there(&redis, &one.id).await {
                assert!(one.number < *first_lost, "{} is there, and one before it is not", one.id);
                kept.push(one.id);
            } else {
                *first_lost = one.number.min(*first_lost);
                loss.lost += 1;
                loss.oldest = loss.oldest.max(at.saturating_duration_since(one.at));
            }
        }
        // One that was stored and not told may be there too; none is on record alone, or waits alone.
        let queues = healed("count", async || redis.queues().await).await;
        let waiting: u64 = queues.iter().map(|queue| queue.ready).sum();
        let recorded: u64 = server.command(&["ZCARD", "{stem}/t/all"]).unwrap().parse().unwrap();
        assert_eq!(waiting, recorded);
    }
    // What one cut left no later one takes.
    let redis = open(server.url()).await;
    for id in &kept {
        assert!(is_there(&redis, id).await, "{id} was lost by a later cut");
    }
    println!(
        "{appendfsync:?}: {cuts} cuts of the power took {} bytes; of {} tasks that were told to be stored {} were lost, the \
         earliest of them {:?} before the cut",
        loss.bytes, loss.told, loss.lost, loss.oldest
    );
    loss
}

// The threads: whatever cuts the power must not keep the producers from going on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_is_synced_before_each_answer_survives_a_cut_of_the_power() {
    let loss = cut(Fsync::Always, 6).await;
    assert_eq!(loss.lost, 0, "{loss:?}");
}

/// The cut itself is seen here: what had not been synced is gone, and that is the end and nothing before it. How much that is in
/// time, up to two seconds by what Redis promises, is printed: a busy machine is no fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn of_what_is_synced_once_a_second_a_cut_of_the_power_takes_the_end_alone() {
    let loss = cut(Fsync::Everysec, 6).await;
    assert!(loss.bytes > 0 && loss.lost > 0, "a cut that takes nothing is none: {loss:?}");
}
