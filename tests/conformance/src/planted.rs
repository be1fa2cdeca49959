//! What somebody else wrote into a store, past every trait of ours: it hides nothing that lies beside it.

use std::time::Duration;

use stem_core::backend::control::Position;
use stem_core::backend::presence::Registered;
use stem_core::control::wire;

use crate::Harness;
use crate::control::{answer, ping, pong, request, send};
use crate::fixture::*;
use crate::presence::heartbeat;

/// Runs while `plant` leaves, in the namespace `n`: commands that are none, replies to `before` that are none, and a
/// heartbeat that is none under the name `x`.
pub async fn hides_nothing(h: &dyn Harness, plant: impl Future<Output = ()>) {
    let b = h.connect().await;
    send(&b, &ping(h, "before")).await;
    answer(&b, &pong("before", "w")).await;
    assert_eq!(b.presence.register(&heartbeat("w", A)).await.unwrap(), Registered::Yes);
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
}
