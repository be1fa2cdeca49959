//! Workers whose clocks are ten minutes off, on real servers: a revocation ends by the server's clock, and by no other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stem_chaos::lab::Lab;
use stem_chaos::place::Place;
use stem_chaos::process::PATIENCE;
use stem_chaos::server::Server;
use stem_core::control::Drain;
use stem_core::envelope::Payload;
use stem_core::id::{Namespace, TaskId, TaskName};
use stem_core::revoke::RevokeRequest;
use stem_core::task::TaskState;
use stem_core::time::{Clock, Timestamp};
use stem_engine::{Client, EnqueueOptions, SystemClock, Worker, WorkerConfig};
use stem_services::Fsync;

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
