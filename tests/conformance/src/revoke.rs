//! [`RevokeStore`]: versions, undoing, following, ending, pruning.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::RevokeStore;
use stem_core::revoke::{EXPIRY_GRACE, RevocationChange, RevokeRequest, Version, judged_at};
use tokio::time::Instant;

use crate::RevokeHarness;
use crate::fixture::*;

crate::cases! { ($) revoke_suite revoke for RevokeHarness:
    a_revocation_comes_back_as_it_was_asked,
    a_revocation_is_seen_by_every_connection,
    versions_grow_by_the_order_of_storing,
    versions_are_unique_under_concurrency,
    namespaces_do_not_see_each_other,
    a_newer_revocation_replaces_an_older_one,
    a_task_twice_in_one_batch_ends_with_the_later,
    changes_come_in_order_after_a_version,
    changes_come_in_chunks,
    an_undo_is_a_change_that_followers_see,
    an_undo_of_nothing_is_nothing,
    an_undo_twice_is_once,
    an_undone_task_can_be_revoked_again,
    a_store_with_a_clock_tells_its_time,
    a_revocation_is_in_force_until_its_end_and_gone_a_grace_later,
    an_end_that_is_counted_by_the_stores_time_is_as_far_as_was_asked,
    an_expired_revocation_cannot_be_undone,
    an_expired_revocation_is_pruned,
    a_revocation_without_an_end_is_never_pruned,
    the_trace_of_an_undo_is_kept_for_a_day,
    versions_are_never_given_out_again,
    waiting_for_revocations_wakes_up_on_one_from_a_second_connection,
}

fn plain() -> RevokeRequest {
    RevokeRequest::default()
}

async fn revoke(b: &Arc<dyn RevokeStore>, id: &str, request: RevokeRequest) -> Version {
    let stored = b.revoke(&space("n"), &[(task(id), request)]).await.unwrap();
    assert_eq!(stored.len(), 1);
    stored[0].version
}

async fn changes(b: &Arc<dyn RevokeStore>, after: Version) -> Vec<RevocationChange> {
    b.since(&space("n"), after, 1_000).await.unwrap()
}

async fn a_revocation_comes_back_as_it_was_asked(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    let request = RevokeRequest {
        terminate: true,
        cooperative: true,
        grace_ms: Some(1_500),
        reason: Some("wrong \"customer\"".to_owned()),
        requested_by: Some("ops".to_owned()),
        expires_at: Some(h.now().after(Duration::from_mins(1))),
    };
    let asked = [(task("t"), request.clone())];
    let stored = b.revoke(&space("n"), &asked).await.unwrap().remove(0);
    assert_eq!((&stored.request, stored.issued_at), (&request, h.now()));
    assert_eq!((&stored.namespace, &stored.task_id), (&space("n"), &task("t")));
    assert_eq!(changes(&b, Version(0)).await, [RevocationChange::Revoked(stored)]);
}

async fn a_revocation_is_seen_by_every_connection(h: &dyn RevokeHarness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let version = revoke(&b, "t", plain()).await;
    assert_eq!(changes(&other, Version(0)).await[0].version(), version);
}

async fn versions_grow_by_the_order_of_storing(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    let batch = ["c", "a", "b"].map(|id| (task(id), plain()));
    let stored = b.revoke(&space("n"), &batch).await.unwrap();
    assert_eq!(stored.iter().map(|it| it.task_id.as_str()).collect::<Vec<_>>(), ["c", "a", "b"]);
    assert!(stored.is_sorted_by(|one, next| one.version < next.version));
    assert!(revoke(&b, "d", plain()).await > stored[2].version);
    assert!(stored[0].version > Version(0), "0 is where followers begin");
}

async fn versions_are_unique_under_concurrency(h: &dyn RevokeHarness) {
    let mut writers = Vec::new();
    for writer in 0..4 {
        let b = h.connect().await;
        writers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            for n in 0..10 {
                mine.push(revoke(&b, &format!("t{}", (writer + n) % 5), plain()).await);
            }
            mine
        }));
    }
    let mut all = HashSet::new();
    for writer in writers {
        for version in writer.await.unwrap() {
            assert!(all.insert(version), "{version:?} was given out twice");
        }
    }
    let b = h.connect().await;
    let last = all.into_iter().max().unwrap();
    assert_eq!(changes(&b, Version(0)).await.last().unwrap().version(), last);
    assert_eq!(changes(&b, Version(0)).await.len(), 5);
}

async fn namespaces_do_not_see_each_other(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    revoke(&b, "t", plain()).await;
    assert_eq!(b.since(&space("other"), Version(0), 10).await.unwrap(), []);
    assert_eq!(b.undo(&space("other"), &task("t")).await.unwrap(), None);
    assert_eq!(changes(&b, Version(0)).await.len(), 1);
}

async fn a_newer_revocation_replaces_an_older_one(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    revoke(&b, "t", plain()).await;
    let newer = revoke(&b, "t", RevokeRequest { terminate: true, ..plain() }).await;
    let changes = changes(&b, Version(0)).await;
    assert_eq!(changes.len(), 1);
    let RevocationChange::Revoked(kept) = &changes[0] else { panic!("{changes:?}") };
    assert_eq!((kept.version, kept.request.terminate), (newer, true));
}

async fn a_task_twice_in_one_batch_ends_with_the_later(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    let later = RevokeRequest { terminate: true, ..plain() };
    let batch = [(task("t"), plain()), (task("t"), later.clone())];
    let stored = b.revoke(&space("n"), &batch).await.unwrap();
    assert!(stored[1].version > stored[0].version);
    assert_eq!(changes(&b, Version(0)).await, [RevocationChange::Revoked(stored[1].clone())]);
}

async fn changes_come_in_order_after_a_version(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    let first = revoke(&b, "z", plain()).await;
    revoke(&b, "a", plain()).await;
    revoke(&b, "m", plain()).await;
    let tasks = |changes: Vec<RevocationChange>| -> Vec<String> {
        changes.iter().map(|change| change.task().to_string()).collect()
    };
    assert_eq!(tasks(changes(&b, Version(0)).await), ["z", "a", "m"]);
    assert_eq!(tasks(changes(&b, first).await), ["a", "m"]);
}

async fn changes_come_in_chunks(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    let batch: Vec<_> = (0..25).map(|n| (task(&format!("t{n}")), plain())).collect();
    b.revoke(&space("n"), &batch).await.unwrap();
    let (mut seen, mut after) = (0, Version(0));
    loop {
        let chunk = b.since(&space("n"), after, 10).await.unwrap();
        assert!(chunk.len() <= 10);
        seen += chunk.len();
        match chunk.last() {
            Some(last) => after = last.version(),
            None => break,
        }
    }
    assert_eq!(seen, 25);
}

async fn an_undo_is_a_change_that_followers_see(h: &dyn RevokeHarness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let revoked = revoke(&b, "t", plain()).await;
    let version = b.undo(&space("n"), &task("t")).await.unwrap().unwrap();
    assert!(version > revoked);
    let undone = RevocationChange::Undone { task: task("t"), version };
    assert_eq!(changes(&other, revoked).await, std::slice::from_ref(&undone));
    assert_eq!(changes(&other, Version(0)).await, [undone]);
}

async fn an_undo_of_nothing_is_nothing(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    assert_eq!(b.undo(&space("n"), &task("nobody")).await.unwrap(), None);
    assert_eq!(changes(&b, Version(0)).await, []);
}

async fn an_undo_twice_is_once(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    revoke(&b, "t", plain()).await;
    assert!(b.undo(&space("n"), &task("t")).await.unwrap().is_some());
    assert_eq!(b.undo(&space("n"), &task("t")).await.unwrap(), None);
}

async fn an_undone_task_can_be_revoked_again(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    revoke(&b, "t", plain()).await;
    let undone = b.undo(&space("n"), &task("t")).await.unwrap().unwrap();
    let again = revoke(&b, "t", plain()).await;
    assert!(again > undone);
    let changes = changes(&b, Version(0)).await;
    assert!(matches!(&changes[..], [RevocationChange::Revoked(it)] if it.version == again));
}

const LIFE: Duration = Duration::from_mins(1);
const MOMENT: Duration = Duration::from_millis(1);

fn for_a_minute(h: &dyn RevokeHarness) -> RevokeRequest {
    RevokeRequest { expires_at: Some(h.now().after(LIFE)), ..plain() }
}

async fn a_store_with_a_clock_tells_its_time(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    for _ in 0..2 {
        assert_eq!(b.time().await.unwrap(), h.has_clock().then(|| h.now()));
        h.advance(LIFE);
    }
}

async fn a_revocation_is_in_force_until_its_end_and_gone_a_grace_later(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    let version = revoke(&b, "t", for_a_minute(h)).await;
    let undone = revoke(&b, "u", for_a_minute(h)).await;
    h.advance(LIFE.saturating_sub(MOMENT));
    assert_eq!(b.prune(&space("n")).await.unwrap(), 0);
    let versions = |changes: Vec<RevocationChange>| -> Vec<Version> {
        changes.iter().map(RevocationChange::version).collect()
    };
    assert_eq!(versions(changes(&b, Version(0)).await), [version, undone]);
    assert!(b.undo(&space("n"), &task("u")).await.unwrap().is_some());
    // What a reader finds, it judges itself.
    let judged = async || {
        let now = judged_at(b.time().await.unwrap(), h.now());
        let changes = changes(&b, Version(0)).await;
        let of_it = changes.into_iter().find(|change| change.task().as_str() == "t");
        of_it.is_some_and(
            |change| matches!(change, RevocationChange::Revoked(it) if !it.expired(now)),
        )
    };
    assert!(judged().await);
    h.advance(MOMENT);
    if !h.has_clock() {
        assert!(judged().await, "the clock may have been set");
        h.advance(EXPIRY_GRACE.saturating_sub(MOMENT));
        assert!(judged().await);
        assert_eq!(b.prune(&space("n")).await.unwrap(), 0);
        h.advance(MOMENT);
    }
    assert!(!judged().await);
    assert_eq!(b.undo(&space("n"), &task("t")).await.unwrap(), None);
    assert_eq!(b.prune(&space("n")).await.unwrap(), 1);
    assert!(!judged().await);
}

async fn an_end_that_is_counted_by_the_stores_time_is_as_far_as_was_asked(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    // As the command line counts it, whose clock may be ten minutes off either way.
    let from = b.time().await.unwrap().unwrap_or_else(|| h.now());
    let request = RevokeRequest { expires_at: Some(from.after(LIFE)), ..plain() };
    let stored = b.revoke(&space("n"), &[(task("t"), request)]).await.unwrap().remove(0);
    assert_eq!(stored.request.expires_at, Some(stored.issued_at.after(LIFE)));
}

async fn an_expired_revocation_cannot_be_undone(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    revoke(&b, "t", for_a_minute(h)).await;
    h.advance(LIFE + EXPIRY_GRACE);
    assert_eq!(b.undo(&space("n"), &task("t")).await.unwrap(), None);
}

async fn an_expired_revocation_is_pruned(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    revoke(&b, "t", for_a_minute(h)).await;
    revoke(&b, "u", plain()).await;
    assert_eq!(b.prune(&space("n")).await.unwrap(), 0);
    h.advance(LIFE + EXPIRY_GRACE);
    assert_eq!(b.prune(&space("other")).await.unwrap(), 0);
    assert_eq!(b.prune(&space("n")).await.unwrap(), 1);
    let left = changes(&b, Version(0)).await;
    assert_eq!(left.iter().map(|it| it.task().as_str()).collect::<Vec<_>>(), ["u"]);
}

async fn a_revocation_without_an_end_is_never_pruned(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    revoke(&b, "t", plain()).await;
    h.advance(Duration::from_hours(24 * 365));
    assert_eq!(b.prune(&space("n")).await.unwrap(), 0);
    assert_eq!(changes(&b, Version(0)).await.len(), 1);
}

async fn the_trace_of_an_undo_is_kept_for_a_day(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    revoke(&b, "t", plain()).await;
    b.undo(&space("n"), &task("t")).await.unwrap();
    h.advance(Duration::from_hours(23));
    assert_eq!(b.prune(&space("n")).await.unwrap(), 0);
    assert_eq!(changes(&b, Version(0)).await.len(), 1);
    h.advance(Duration::from_hours(1));
    assert_eq!(b.prune(&space("n")).await.unwrap(), 1);
    assert_eq!(changes(&b, Version(0)).await, []);
}

async fn versions_are_never_given_out_again(h: &dyn RevokeHarness) {
    let b = h.connect().await;
    let first = revoke(&b, "t", for_a_minute(h)).await;
    h.advance(LIFE + EXPIRY_GRACE);
    assert_eq!(b.prune(&space("n")).await.unwrap(), 1);
    assert!(revoke(&h.connect().await, "t", plain()).await > first);
}

async fn waiting_for_revocations_wakes_up_on_one_from_a_second_connection(h: &dyn RevokeHarness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let started = Instant::now();
    let waiting = tokio::spawn(async move {
        while changes(&b, Version(0)).await.is_empty() {
            b.changed(LONG).await.unwrap();
        }
    });
    tokio::time::sleep(Duration::from_millis(60)).await;
    revoke(&other, "t", plain()).await;
    waiting.await.unwrap();
    assert!(started.elapsed() < LONG / 2);
}
