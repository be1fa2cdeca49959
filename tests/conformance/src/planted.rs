//! What somebody else wrote into a store, past every trait of ours: it hides nothing that lies beside it.

use std::time::Duration;

use stem_core::backend::control::Position;
use stem_core::backend::presence::Registered;
use stem_core::control::wire;
use stem_core::release::Rollout;

use crate::Harness;
use crate::control::{answer, ping, pong, request, send};
use crate::fixture::*;
use crate::modules::release;
use crate::presence::heartbeat;

/// Runs while `plant` leaves, in the namespace `n`: commands that are none, replies to `before` that are none, and a
/// heartbeat that is none under the name `x`. And it makes the first release of the task `bad` unreadable, and what
/// serves the task `torn`.
pub async fn hides_nothing(h: &dyn Harness, plant: impl Future<Output = ()>) {
    let b = h.connect().await;
    send(&b, &ping(h, "before")).await;
    answer(&b, &pong("before", "w")).await;
    assert_eq!(b.presence.register(&heartbeat("w", A)).await.unwrap(), Registered::Yes);
    for (job, n) in [("bad", 1), ("good", 2), ("torn", 3)] {
        release(&b.modules, job, n, Rollout::Whole).await;
    }
    plant.await;
    answer(&b, &pong("before", "v")).await;

    let (space, first, none) = (space("n"), Position(0), Duration::ZERO);
    let texts = b.control.commands(&space, first, none).await.unwrap();
    assert!(texts.len() > 1, "what is planted is handed on");
    let end = send(&b, &ping(h, "after")).await;
    let texts = b.control.commands(&space, first, none).await.unwrap();
    let read: Vec<_> =
        texts.iter().filter_map(|(_, text)| wire::command(text.as_bytes()).ok()).collect();
    assert_eq!(read, [ping(h, "before"), ping(h, "after")]);
    assert_eq!(texts.last().unwrap().0, end);
    let texts = b.control.replies(&space, &request("before"), first, none).await.unwrap();
    let read: Vec<_> =
        texts.iter().filter_map(|(_, text)| wire::reply(text.as_bytes()).ok()).collect();
    assert_eq!(read, [pong("before", "w"), pong("before", "v")]);
    b.control.prune().await.unwrap();

    let names = || async {
        let (workers, _) = b.presence.workers(&space).await.unwrap();
        workers.iter().map(|heartbeat| heartbeat.worker.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["w"]);
    assert_eq!(b.presence.register(&heartbeat("x", A)).await.unwrap(), Registered::Yes);
    assert_eq!(names().await, ["w", "x"]);

    let catalogue = b.modules.catalogue().await.unwrap();
    let served: Vec<_> = catalogue.served.iter().map(|it| it.releases[0].name.as_str()).collect();
    assert_eq!(served, ["good"]);
    assert_eq!(catalogue.unreadable, [name("bad"), name("torn")]);
    assert_eq!(b.modules.history(&name("good")).await.unwrap().unwrap().releases.len(), 1);
    // The next one puts it right.
    assert_eq!(release(&b.modules, "bad", 4, Rollout::Whole).await.version, 2);
    let catalogue = b.modules.catalogue().await.unwrap();
    let served: Vec<_> = catalogue.served.iter().map(|it| it.releases[0].name.as_str()).collect();
    assert_eq!(served, ["bad", "good"]);
    assert_eq!(b.modules.history(&name("bad")).await.unwrap().unwrap().releases.len(), 1);
}
