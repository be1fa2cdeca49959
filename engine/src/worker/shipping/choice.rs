//! Which handler an attempt begins on.

use std::time::Duration;

use stem_core::control::WorkerState;
use stem_core::envelope::Envelope;
use stem_core::id::{Digest, TaskName};
use stem_core::machine::attempt::Event;
use stem_core::outcome::{FailureKind, Outcome};
use tokio::sync::oneshot;

use super::super::handler::Handler;
use super::super::shared::{InHand, Shared};
use super::prepare::Trouble;

/// The longest that an attempt waits for a build that is not at hand. After that its task goes back to the queue, without
/// an attempt used up, and the build is still prepared.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for a build that is not at hand.
#[derive(Debug)]
pub(in crate::worker) struct PinOrder {
    pub(super) name: TaskName,
    pub(super) digest: Digest,
    pub(super) answer: oneshot::Sender<Result<(), Trouble>>,
}

/// The handler, or what ends the attempt in place of one. Without either the task goes back to its queue.
#[derive(Debug, Default)]
pub(in crate::worker) struct Choice {
    pub(in crate::worker) handler: Option<Handler>,
    pub(in crate::worker) instead: Option<Outcome>,
}

impl Choice {
    fn of(handler: Option<Handler>) -> Self {
        Self { handler, instead: None }
    }
}

/// Chooses the handler of a task: the build that it is pinned to, or else what serves its name.
pub(in crate::worker) async fn choose(shared: &Shared, envelope: &Envelope) -> Choice {
    let Some(digest) = &envelope.module else {
        return Choice::of(shared.routes().handler(envelope));
    };
    // The policy may have given the name to another class since it was delivered.
    if !shared.routes().classes().serve(&envelope.name) {
        return Choice::default();
    }
    let at_hand = || shared.change_routes(|routes| routes.build(&envelope.name, digest));
    if let Some(build) = at_hand() {
        return Choice::of(Some(build));
    }
    // One that must not run is not fetched either; the machine knows what becomes of its task.
    if shared.routes().recalled().contains(digest) {
        return Choice::default();
    }
    match fetched(shared, &envelope.name, digest).await {
        Some(Ok(())) => Choice::of(at_hand()),
        Some(Err(trouble)) => Choice {
            handler: None,
            instead: Some(Outcome::fatal(
                FailureKind::BadModule,
                trouble.code(),
                trouble.problem(),
            )),
        },
        None => Choice::default(),
    }
}

/// Waits until a build was fetched and prepared, or cannot be; `None` if that takes too long for this attempt.
async fn fetched(shared: &Shared, name: &TaskName, digest: &Digest) -> Option<Result<(), Trouble>> {
    let (answer, answered) = oneshot::channel();
    let order = PinOrder { name: name.clone(), digest: *digest, answer };
    if shared.pins.send(order).is_err() {
        let problem = format!("only {digest} may run it, and this worker takes no pushed modules");
        return Some(Err(Trouble::Unknown(problem)));
    }
    let mut state = shared.state.subscribe();
    // The lease is renewed only once the attempt has begun.
    let patience = PATIENCE.min(shared.config.lease / 3);
    tokio::select! {
        answered = answered => answered.ok(),
        () = tokio::time::sleep(patience) => None,
        _ = state.wait_for(|state| *state != WorkerState::Running) => None,
    }
}

/// Notes on which build a delivery is to run, and tells it if that was recalled. A recall that comes later finds the note.
pub(in crate::worker) fn note_build(shared: &Shared, hand: &InHand, build: Digest) {
    hand.build.set(build).expect("a delivery is given one handler");
    if let Some(recall) = shared.revocations().recall(&build, shared.store_time()) {
        hand.tell(Event::Recalled(recall));
    }
}
