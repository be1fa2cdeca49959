//! Follows the revoke store: first everything, then every change, whether or not anybody told us of it.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::BackendError;
use stem_core::machine::attempt::Event;
use stem_core::revoke::{Revocation, RevocationChange, Revocations};

use super::shared::Shared;

/// Changes read at once.
const CHUNK: usize = 10_000;
/// The longest between two looks at the store, without a wake-up.
const LOOK: Duration = Duration::from_millis(500);
/// The pause after a look that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads everything that was stored before the call and is newer than what is known; says how many changes were new.
pub(super) async fn catch_up(shared: &Shared) -> Result<usize, BackendError> {
    let mut news = 0;
    let looked_at = shared.now();
    loop {
        let seen = shared.revocations().seen();
        let changes = shared.backends.revokes.since(&shared.config.namespace, seen, CHUNK).await?;
        // Not until there is nothing new: where revocations come faster than one read takes, that would be never.
        let last = changes.len() < CHUNK;
        for change in changes {
            news += usize::from(take_in(shared, change, Revocations::follow));
        }
        if last {
            shared.revocations_were_read(looked_at);
            return Ok(news);
        }
    }
}

/// Takes in a change that came by command, and tells the attempts in hand; says whether it was new. The store is still
/// read up to it: what lies before it may be news too.
pub(super) fn apply(shared: &Shared, change: RevocationChange) -> bool {
    take_in(shared, change, Revocations::apply)
}

fn take_in(
    shared: &Shared,
    mut change: RevocationChange,
    into: fn(&mut Revocations, RevocationChange) -> bool,
) -> bool {
    if let RevocationChange::Revoked(revocation) = &mut change
        && revocation.request.grace_ms.is_none()
        && !shared.config.terminate_grace.is_zero()
    {
        revocation.request.grace_ms = u64::try_from(shared.config.terminate_grace.as_millis()).ok();
    }
    let told = match &change {
        RevocationChange::Revoked(revocation) => Some(revocation.clone()),
        RevocationChange::Undone { .. } => None,
    };
    let new = into(&mut shared.revocations(), change);
    if let Some(revocation) = told.filter(|_| new) {
        tell(shared, &revocation);
    }
    new
}

fn tell(shared: &Shared, revocation: &Revocation) {
    if revocation.expired(shared.wall()) {
        return;
    }
    for hand in shared.in_hand_of(&revocation.task_id) {
        hand.tell(Event::Revoked(revocation.clone()));
    }
}

/// Follows the store until dropped. Between two reads nothing is held, so dropping it loses nothing.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut failing = false;
    let mut blind = false;
    loop {
        let looked = match shared.backends.revokes.changed(LOOK).await {
            Ok(()) => catch_up(&shared).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(_) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the revoke store can be read again");
                }
                if std::mem::take(&mut blind) {
                    tracing::info!("tasks are taken again");
                }
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the revoke store cannot be read; revocations of this moment are seen when it can");
                }
                failing = true;
                if shared.is_blind() && !std::mem::replace(&mut blind, true) {
                    tracing::error!(
                        staleness_ms = shared.config.max_revocation_staleness.as_millis(),
                        "the revocations are too old to take tasks by; none is taken until the revoke store can be read"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
