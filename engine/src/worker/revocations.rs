//! Follows the revoke store: first everything, then every change, whether or not anybody told us of it.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::BackendError;
use stem_core::id::TaskId;
use stem_core::machine::attempt::Event;
use stem_core::observe::Service;
use stem_core::revoke::{RevocationChange, Revocations, Version, module_of};

use super::ahead::Ahead;
use super::shared::{InHand, Shared};
use crate::revocations;

/// The longest between two looks at the store, without a wake-up.
const LOOK: Duration = Duration::from_millis(500);
/// The pause after a look that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Goes on from what was read ahead, if it was.
pub(super) async fn begin(shared: &Shared, ahead: Option<Ahead>) {
    if let Some(ahead) = ahead
        && let Some((began, known)) = ahead.end().await
    {
        shared.begin_with(known, began);
    }
}

/// Reads everything that was stored before the call and is newer than what is known. After a long time without a look
/// that is everything from the beginning.
pub(super) async fn catch_up(shared: &Shared) -> Result<(), BackendError> {
    let (store, namespace) = (&shared.backends.revokes, &shared.config.namespace);
    if shared.store_clock.must_be_asked(shared.now()) {
        let told = store.time().await?;
        shared.store_clock.note(told, shared.now());
    }
    let looked_at = shared.now();
    if shared.must_read_all() {
        tracing::info!("the revoke store was not read for long; all of it is read again");
        let mut anew = Revocations::new(namespace.clone());
        let take = |change| {
            anew.follow(with_default_grace(shared.config.terminate_grace, change));
        };
        revocations::read(store, namespace, Version::default(), take).await?;
        shared.replace_revocations(anew);
        follow_recalls(shared);
        for hand in shared.in_hand() {
            tell(shared, &hand.receipt.task);
            tell_of_recall(shared, &hand);
        }
    } else {
        let seen = shared.revocations().seen();
        let take = |change| {
            take_in(shared, change, Revocations::follow);
        };
        revocations::read(store, namespace, seen, take).await?;
    }
    shared.revocations_were_read(looked_at);
    // Also what has expired meanwhile.
    follow_recalls(shared);
    Ok(())
}

/// Takes in a change that came by command, and tells the attempts in hand; says whether it was new. The store is still
/// read up to it: what lies before it may be news too.
pub(super) fn apply(shared: &Shared, change: RevocationChange) -> bool {
    take_in(shared, change, Revocations::apply)
}

/// What the worker does with a change that names no grace of its own.
pub(super) fn with_default_grace(
    grace: Duration,
    mut change: RevocationChange,
) -> RevocationChange {
    if let RevocationChange::Revoked(revocation) = &mut change
        && revocation.request.grace_ms.is_none()
        && !grace.is_zero()
    {
        revocation.request.grace_ms = u64::try_from(grace.as_millis()).ok();
    }
    change
}

fn take_in(
    shared: &Shared,
    change: RevocationChange,
    into: fn(&mut Revocations, RevocationChange) -> bool,
) -> bool {
    let task = change.task().clone();
    let change = with_default_grace(shared.config.terminate_grace, change);
    let new = into(&mut shared.revocations(), change);
    if new {
        tell(shared, &task);
    }
    new
}

/// Tells the attempts in hand what is known of their task. An attempt that is taken in hand after this looks itself.
fn tell(shared: &Shared, task: &TaskId) {
    if let Some(build) = module_of(task) {
        follow_recalls(shared);
        for hand in shared.in_hand_on(&build) {
            tell_of_recall(shared, &hand);
        }
        return;
    }
    let hands = shared.in_hand_of(task);
    if hands.is_empty() {
        return;
    }
    if let Some(revocation) = shared.revocations().get(task, shared.store_time()) {
        for hand in hands {
            hand.tell(Event::Revoked(revocation.clone()));
        }
    }
}

/// Tells an attempt that the build was recalled that it runs, if it was.
fn tell_of_recall(shared: &Shared, hand: &InHand) {
    let recall =
        hand.build.get().and_then(|build| shared.revocations().recall(build, shared.store_time()));
    if let Some(recall) = recall {
        hand.tell(Event::Recalled(recall));
    }
}

/// Takes builds out of service that are recalled, and puts those back whose recall is over.
fn follow_recalls(shared: &Shared) {
    let now = shared.store_time();
    let recalled = shared.revocations().recalled(now);
    if *shared.routes().recalled() == recalled {
        return;
    }
    shared.change_routes(|routes| {
        // Asked again: somebody else may have been here in between, with something newer.
        let recalled = shared.revocations().recalled(now);
        for build in recalled.difference(routes.recalled()) {
            tracing::warn!(%build, "a build was recalled; it runs nothing any more");
        }
        for build in routes.recalled().difference(&recalled) {
            tracing::info!(%build, "the recall of a build is over");
        }
        routes.set_recalled(recalled);
    });
    shared.routes_changed.notify_one();
}

/// Follows the store until dropped. Between two reads nothing is held, so dropping it loses nothing.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut failing = false;
    loop {
        let looked = match shared.backends.revokes.changed(LOOK).await {
            Ok(()) => catch_up(&shared).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the revoke store can be read again");
                }
            }
            Err(error) => {
                shared.saw_failure(Service::Revokes, &error);
                if !failing {
                    tracing::warn!(%error, "the revoke store cannot be read; revocations of this moment are seen when it can");
                }
                failing = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
