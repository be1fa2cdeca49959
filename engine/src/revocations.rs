//! Reading revocations from a store: all of them, or what is new.

use std::sync::Arc;

use stem_core::backend::{BackendError, ErrorClass, RevokeStore};
use stem_core::id::Namespace;
use stem_core::revoke::{RevocationChange, Revocations, Version};
use stem_core::time::{Clock, Timestamp};
use tokio::task::JoinHandle;

/// Changes read at once.
const PAGE: usize = 10_000;

/// Reads what was stored before the call and lies after a version, in order, and hands it out one by one. The next page
/// is read while the one before is taken in: of a million, each of the two is half of the time. Must be called on a
/// tokio runtime. Cancel-safe: a dropped call has handed out some of the first changes.
pub async fn read(
    store: &Arc<dyn RevokeStore>,
    namespace: &Namespace,
    after: Version,
    mut take: impl FnMut(RevocationChange),
) -> Result<(), BackendError> {
    let mut next = Some(page(store, namespace, after));
    while let Some(reading) = next.take() {
        let changes = match reading.await {
            Ok(read) => read?,
            Err(broken) => {
                let (class, service) = (ErrorClass::Transient, &store.service().0);
                return Err(BackendError::new(class, service, "list revocations", broken));
            }
        };
        // A page that is not full is the last. Not until nothing is new: where revocations come faster than one read
        // takes, that would be never.
        if let Some(last) = changes.last().filter(|_| changes.len() == PAGE) {
            next = Some(page(store, namespace, last.version()));
        }
        // What was spawned last runs next and on this thread: not behind the taking in.
        tokio::task::yield_now().await;
        changes.into_iter().for_each(&mut take);
    }
    Ok(())
}

/// The time from which the life of a revocation is counted: the store's, by which it will end too. Where the store has no
/// clock, one's own.
pub async fn time_to_count_from(
    store: &dyn RevokeStore,
    own: &dyn Clock,
) -> Result<Timestamp, BackendError> {
    Ok(store.time().await?.unwrap_or_else(|| own.now()))
}

/// Reads all there are.
pub async fn read_all(
    store: &Arc<dyn RevokeStore>,
    namespace: &Namespace,
) -> Result<Revocations, BackendError> {
    let mut known = Revocations::new(namespace.clone());
    let take = |change| {
        known.follow(change);
    };
    read(store, namespace, Version::default(), take).await?;
    Ok(known)
}

fn page(
    store: &Arc<dyn RevokeStore>,
    namespace: &Namespace,
    after: Version,
) -> JoinHandle<Result<Vec<RevocationChange>, BackendError>> {
    let (store, namespace) = (Arc::clone(store), namespace.clone());
    tokio::spawn(async move { store.since(&namespace, after, PAGE).await })
}
