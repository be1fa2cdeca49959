//! The logs that workers follow, of revocations, commands and replies: nobody who stops in the middle stops the others,
//! and no number comes twice, not even from an older copy.
#![expect(clippy::unwrap_used, reason = "every line of this file is test code")]

mod load;

use std::sync::Arc;
use std::time::{Duration, Instant};

use load::SystemClock;
use load::frozen::Way;
use load::postgres::{open, publish};
use stem_core::backend::control::{ControlPlane, Position};
use stem_core::backend::revoke::RevokeStore;
use stem_core::control::wire::{CommandFrame, ReplyFrame};
use stem_core::control::{Answer, Command, Order, Reply};
use stem_core::id::{Namespace, RequestId, TaskId, WorkerId};
use stem_core::revoke::{RevocationChange, RevokeRequest, Version};
use stem_core::time::Clock;
use stem_services::PostgresServer;
use stem_sql::Postgres;

fn namespace() -> Namespace {
    Namespace::new("n").unwrap()
}

fn command(id: &str) -> CommandFrame {
    CommandFrame::plain(&Command {
        request_id: RequestId::new(id).unwrap(),
        namespace: namespace(),
        targets: None,
        order: Order::Ping {},
        issued_at: SystemClock.now(),
        expires_at: SystemClock.now().after(Duration::from_mins(1)),
        requester: "ops".to_owned(),
    })
}

/// Everything that draws a number.
#[derive(Clone, Copy, Debug)]
enum Draw {
    Revoke,
    Undo,
    Send,
    Reply,
}

impl Draw {
    async fn make(self, store: &Postgres, by: &str) {
        match self {
            Self::Revoke => drop(revoke(store, by).await),
            Self::Undo => drop(store.undo(&namespace(), &TaskId::new(by).unwrap()).await.unwrap()),
            Self::Send => drop(store.send(&command(by)).await.unwrap()),
            Self::Reply => {
                let reply = Reply {
                    request_id: RequestId::new("r").unwrap(),
                    worker: WorkerId::new(by).unwrap(),
                    answer: Answer::Ok { payload: serde_json::json!({}) },
                };
                store.reply(&namespace(), &ReplyFrame::plain(&reply)).await.unwrap();
            }
        }
    }
}

async fn revoke(store: &Postgres, task: &str) -> Version {
    let request = [(TaskId::new(task).unwrap(), RevokeRequest::default())];
    store.revoke(&namespace(), &request).await.unwrap()[0].version
}

/// A process that is stopped after each packet it sends in turn, from the first to the last. The server ends its
/// transaction after 2 s; nobody is to wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_in_the_middle_of_a_draw_stops_nobody_else() {
    let database = PostgresServer::shared().database();
    let other = open(database.url()).await;
    let mut longest = Duration::ZERO;
    for draw in [Draw::Revoke, Draw::Undo, Draw::Send, Draw::Reply] {
        draw.make(&other, "warm").await;
        let (mut packets, mut slow) = (0, 0);
        loop {
            let way = Way::to(database.url()).await;
            let store = open(way.url()).await;
            way.freeze_after(packets);
            let stopped = Arc::clone(&store);
            let mut call = tokio::spawn(async move { draw.make(&stopped, "stopped").await });
            tokio::select! {
                () = way.frozen() => {}
                done = &mut call => {
                    done.unwrap();
                    assert!(packets > 0, "{draw:?} says nothing");
                    println!("{draw:?} is {packets} packets");
                    break;
                }
            }
            let started = Instant::now();
            draw.make(&other, &format!("other{packets}again{slow}")).await;
            let waited = started.elapsed();
            call.abort();
            if waited >= Duration::from_secs(1) {
                // A busy machine may be slow once; whoever waits for the stopped one is slow each time.
                slow += 1;
                assert!(slow < 3, "{draw:?} after {packets}: {waited:?}");
                continue;
            }
            longest = longest.max(waited);
            (packets, slow) = (packets + 1, 0);
        }
    }
    println!("the others waited at most {longest:?}");
}

/// A copy of a database is what a backup restores, and what a replica that was behind has.
#[tokio::test]
async fn an_older_copy_gives_no_number_out_again() {
    let server = PostgresServer::start();
    let url = server.database();
    let (place, name) = url.rsplit_once('/').unwrap();
    let original = open(&url).await;
    revoke(&original, "before").await;
    original.send(&command("before")).await.unwrap();
    let leave = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname";
    server.execute(&format!("{leave} = '{name}'")).unwrap();
    server.execute(&format!("CREATE DATABASE older TEMPLATE {name}")).unwrap();
    let mut seen = Version(0);
    for n in 0..50 {
        seen = revoke(&original, &format!("t{n}")).await;
    }
    let read = original.send(&command("read")).await.unwrap();

    let restored = open(&format!("{place}/older")).await;
    let position = restored.send(&command("after")).await.unwrap();
    assert!(position > read, "{position:?} after {read:?}");
    let version = revoke(&restored, "after").await;
    assert!(version > seen, "{version:?} after {seen:?}");
    let changes = restored.since(&namespace(), seen, 10).await.unwrap();
    assert_eq!(changes.iter().map(RevocationChange::version).collect::<Vec<_>>(), [version]);
    let commands = restored.commands(&namespace(), read, Duration::ZERO).await.unwrap();
    assert_eq!(commands.len(), 1);
    assert_eq!(
        restored.commands(&namespace(), Position(0), Duration::ZERO).await.unwrap().len(),
        2
    );
    publish(&restored, "t").await.unwrap();
}
