//! Clocks that are wrong, on real servers. Workers ten minutes off: a revocation ends by the server's clock, and by no other. Servers
//! whose clock steps by an hour: no task is lost, one runs again only where the clock went ahead, and what a dead worker had is
//! another's as soon as with a good clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stem_chaos::lab::Lab;
use stem_chaos::place::Place;
use stem_chaos::process::PATIENCE;
use stem_chaos::server::Server;
use stem_core::backend::Records;
use stem_core::backend::broker::ReceiveRequest;
use stem_core::control::Drain;
use stem_core::envelope::Payload;
use stem_core::id::{Namespace, QueueName, TaskId, TaskName};
use stem_core::revoke::RevokeRequest;
use stem_core::task::TaskState;
use stem_core::time::{Clock, Timestamp};
use stem_engine::{Client, EnqueueOptions, SystemClock, Worker, WorkerConfig, WorkerHandle};
use stem_services::{Ahead, Fsync, PostgresServer, PostgresSettings, RedisServer, RedisSettings};

/// By how much it is off, either way.
const OFF: Duration = Duration::from_mins(10);
/// Of a revocation that holds to the end of the test, and that is over for a clock that is ahead.
const LONG: Duration = Duration::from_mins(5);
const SHORT: Duration = Duration::from_millis(50);

/// Wrong from its beginning, by always the same.
#[derive(Debug)]
struct Wrong {
    began: Timestamp,
    since: Instant,
}

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        self.began.after(self.since.elapsed())
    }
}

async fn ends_by_the_servers_clock(lab: &Lab, name: &str, began: Timestamp) {
    let backends = lab.backends();
    let revokes = &backends.revokes;
    let told = async || revokes.time().await.unwrap().unwrap();
    let [live, over] = ["live", "over"].map(|which| TaskId::new(format!("{which}-{name}")));
    let (live, over) = (live.unwrap(), over.unwrap());
    let from = told().await;
    let until =
        |life| RevokeRequest { expires_at: Some(from.after(life)), ..RevokeRequest::default() };
    let orders = [(live.clone(), until(LONG)), (over.clone(), until(SHORT))];
    revokes.revoke(&Namespace::new("stem").unwrap(), &orders).await.unwrap();
    while told().await < from.after(SHORT) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let client = Client::new(backends.clone(), Arc::new(SystemClock));
    for task in [&live, &over] {
        let options = EnqueueOptions { id: Some(task.clone()), ..EnqueueOptions::default() };
        let noop = TaskName::new("noop").unwrap();
        client.enqueue(noop, Payload::json("{}"), options).await.unwrap();
    }
    let clock = Arc::new(Wrong { began, since: Instant::now() });
    let worker = Worker::builder(backends.clone(), WorkerConfig::new(name.parse().unwrap()))
        .inline("noop", |_, _: serde_json::Value| async move { Ok(()) })
        .unwrap()
        .clocks(clock.clone(), clock)
        .build()
        .unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    for (task, state) in [(&live, TaskState::Revoked), (&over, TaskState::Succeeded)] {
        let record = client.wait(task, Some(PATIENCE), |_| {}).await.unwrap().unwrap();
        assert_eq!(record.state, state, "{name}: {record:?}");
    }
    handle.shutdown(Drain::Warm, None);
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
}

fn whichever_way_it_is_off(server: &Server) {
    let lab = Lab::new(Place::all_in_one(&server.url()));
    let right = SystemClock.now();
    lab.wait(ends_by_the_servers_clock(&lab, "ahead", right.after(OFF)));
    lab.wait(ends_by_the_servers_clock(&lab, "behind", right.before(OFF)));
}

#[test]
fn a_revocation_ends_by_the_clock_of_redis_and_not_by_the_workers() {
    whichever_way_it_is_off(&Server::redis(Fsync::Everysec));
}

#[test]
fn a_revocation_ends_by_the_clock_of_postgres_and_not_by_the_workers() {
    whichever_way_it_is_off(&Server::postgres());
}

/// Tasks that run while the clock steps, of so long.
const TASKS: usize = 2_000;
const NAP: Duration = Duration::from_millis(20);
const WORKERS: usize = 2;
const CONCURRENCY: usize = 8;
/// Living workers keep theirs on a busy machine too.
const LEASE: Duration = Duration::from_secs(5);
/// Between two steps.
const EVERY: Duration = Duration::from_millis(400);
const HOUR: Duration = Duration::from_hours(1);
/// Whoever is never heard of again.
const DEAD: &str = "019ab000-0000-7000-8000-000000000000";
/// Where the clock goes, again and again, and how often it goes ahead on that way.
const WAY: [Ahead; 6] = [
    Ahead::By(HOUR),
    Ahead::NONE,
    Ahead::By(Duration::from_secs(10)),
    Ahead::NONE,
    Ahead::Behind(HOUR),
    Ahead::NONE,
];
const FORWARD: usize = 3;

type Running = tokio::task::JoinHandle<Result<(), stem_engine::WorkerError>>;

/// Naps of its queue, each counted.
fn napping(
    lab: &Lab,
    name: &str,
    queue: &QueueName,
    naps: &Arc<AtomicUsize>,
) -> (WorkerHandle, Running) {
    let mut config = WorkerConfig::new(name.parse().unwrap());
    config.queues = vec![queue.clone()];
    (config.concurrency, config.lease) = (CONCURRENCY, LEASE);
    // Each step ahead is a loss of what was in hand, which says nothing about the task.
    config.max_losses = u32::MAX;
    let naps = Arc::clone(naps);
    let worker = Worker::builder(lab.backends().clone(), config)
        .inline("nap", move |_, _: serde_json::Value| {
            naps.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(NAP).await;
                Ok(())
            }
        })
        .unwrap()
        .build()
        .unwrap();
    (worker.handle(), tokio::spawn(worker.run()))
}

async fn nap(client: &Client, queue: &QueueName, id: &str) -> TaskId {
    let id = TaskId::new(id).unwrap();
    let options =
        EnqueueOptions { id: Some(id.clone()), queue: queue.clone(), ..EnqueueOptions::default() };
    client.enqueue(TaskName::new("nap").unwrap(), Payload::json("{}"), options).await.unwrap();
    id
}

async fn succeeds(client: &Client, task: &TaskId) {
    let record = client.wait(task, Some(PATIENCE), |_| {}).await.unwrap().unwrap();
    assert_eq!(record.state, TaskState::Succeeded, "{record:?}");
}

async fn steps(lab: &Lab, set: impl Fn(Ahead)) {
    let client = Client::new(lab.backends().clone(), Arc::new(SystemClock));
    let (queue, dead) = (QueueName::new("naps").unwrap(), QueueName::new("dead").unwrap());
    let naps = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for n in 0..TASKS {
        tasks.push(nap(&client, &queue, &format!("t{n}")).await);
    }
    let mut workers: Vec<_> =
        (0..WORKERS).map(|n| napping(lab, &format!("w{n}"), &queue, &naps)).collect();
    let mut ways = 0;
    while naps.load(Ordering::Relaxed) < TASKS {
        ways += 1;
        for ahead in WAY {
            set(ahead);
            tokio::time::sleep(EVERY).await;
        }
    }
    for task in &tasks {
        succeeds(&client, task).await;
    }
    let again = naps.load(Ordering::Relaxed) - TASKS;
    println!(
        "{TASKS} tasks on a clock that went ahead {} times: {again} ran again",
        ways * FORWARD
    );
    assert!(again <= ways * FORWARD * WORKERS * CONCURRENCY, "{again}");

    // One that holds a task is never heard of again, and then the clock is set back.
    let task = nap(&client, &dead, "of-a-dead-worker").await;
    let request = ReceiveRequest {
        queues: vec![dead.clone()],
        names: Arc::from([TaskName::new("nap").unwrap()]),
        max: 1,
        lease: LEASE,
        owner: serde_json::from_value(serde_json::json!(DEAD)).unwrap(),
        worker: "dead".parse().unwrap(),
        wait: Duration::ZERO,
        records: Records::Here,
        shares: None,
    };
    let held = lab.backends().broker.receive(&request).await.unwrap();
    assert_eq!(held.len(), 1);
    set(Ahead::Behind(HOUR));
    workers.push(napping(lab, "heir", &dead, &naps));
    let since = Instant::now();
    succeeds(&client, &task).await;
    println!("what a dead worker had ended {:.1?} after the clock was set back", since.elapsed());
    for (handle, _) in &workers {
        handle.shutdown(Drain::Warm, None);
    }
    for (_, running) in workers {
        tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    }
}

#[test]
fn a_redis_whose_clock_steps_loses_no_task_and_keeps_none_of_a_dead_worker() {
    let server = RedisServer::with(RedisSettings { own_clock: true, ..RedisSettings::default() });
    let lab = Lab::new(Place::all_in_one(&server.url()));
    lab.wait(steps(&lab, |ahead| server.set_clock(ahead)));
}

#[test]
fn a_postgres_whose_clock_steps_loses_no_task_and_keeps_none_of_a_dead_worker() {
    let settings = PostgresSettings { own_clock: true, ..PostgresSettings::default() };
    let server = PostgresServer::with(settings);
    let lab = Lab::new(Place::all_in_one(&server.url()));
    lab.wait(steps(&lab, |ahead| server.set_clock(ahead)));
}
