//! [`ResultBackend`](stem_core::backend::ResultBackend): progress and checkpoints of running attempts.

use stem_core::backend::broker::Delivery;
use stem_core::backend::result::{CHECKPOINT_BYTES, Recorded};
use stem_core::settlement::{Receipt, Settlement};
use stem_core::task::TaskState;

use crate::fixture::*;
use crate::result::{progress, receipt, report};
use crate::settle::revoked;
use crate::{Backends, Harness};

crate::cases! { ($) progress_suite progress:
    progress_is_readable_while_the_task_runs,
    the_newest_progress_counts,
    a_stale_token_cannot_report_progress,
    another_owner_cannot_report_progress,
    a_settled_attempt_cannot_report_progress,
    progress_of_a_task_without_a_record_is_stale,
    a_checkpoint_is_there_for_the_next_attempt,
    the_newest_checkpoint_counts,
    a_stale_token_cannot_save_a_checkpoint,
    a_settled_attempt_cannot_save_a_checkpoint,
    a_checkpoint_is_gone_when_the_task_is_final,
    the_largest_checkpoint_fits,
}

async fn progress_is_readable_while_the_task_runs(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let delivery = held(h, &b, "t").await;
    assert_eq!(report(&b, &delivery.receipt, 0.25).await, Recorded::Stored);
    let record = record(&other, "t").await;
    assert_eq!((record.state, record.progress), (TaskState::Running, Some(progress(0.25))));
}

async fn the_newest_progress_counts(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let updates = [0.1, 0.2].map(|fraction| (delivery.receipt.clone(), progress(fraction)));
    let recorded = b.results.record_progress(&updates).await.unwrap();
    assert_eq!(recorded, [Recorded::Stored; 2]);
    assert_eq!(record(&b, "t").await.progress, Some(progress(0.2)));
}

async fn a_stale_token_cannot_report_progress(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    assert_eq!(report(&b, &stale.receipt, 0.9).await, Recorded::Stale);
    assert_eq!(record(&b, "t").await.progress, None);
    assert_eq!(report(&b, &fresh.receipt, 0.1).await, Recorded::Stored);
}

async fn another_owner_cannot_report_progress(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let forged = Receipt { owner: B, ..delivery.receipt };
    assert_eq!(report(&b, &forged, 0.9).await, Recorded::Stale);
    assert_eq!(record(&b, "t").await.progress, None);
}

async fn a_settled_attempt_cannot_report_progress(h: &dyn Harness) {
    let b = h.connect().await;
    for settlement in
        [Settlement::Succeed(result()), Settlement::Release, retry_at(h.now().after(LEASE))]
    {
        let id = format!("t{}", settlement.state().unwrap());
        let delivery = held(h, &b, &id).await;
        finish(h, &b, &delivery, settlement).await;
        let before = record(&b, &id).await;
        assert_eq!(report(&b, &delivery.receipt, 0.9).await, Recorded::Stale);
        assert_eq!(record(&b, &id).await, before);
        purge(&b, "q").await;
    }
}

async fn progress_of_a_task_without_a_record_is_stale(h: &dyn Harness) {
    let b = h.connect().await;
    assert_eq!(report(&b, &receipt("nobody", 1, A), 0.5).await, Recorded::Stale);
}

async fn save(b: &Backends, delivery: &Delivery, state: &[u8]) -> Recorded {
    b.results.save_checkpoint(&delivery.receipt, state).await.unwrap()
}

async fn load(b: &Backends, id: &str) -> Option<Vec<u8>> {
    b.results.load_checkpoint(&task(id)).await.unwrap()
}

async fn a_checkpoint_is_there_for_the_next_attempt(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let first = held(h, &b, "t").await;
    assert_eq!(save(&b, &first, b"half").await, Recorded::Stored);
    finish(h, &b, &first, retry_at(h.now())).await;
    assert_eq!(load(&other, "t").await.as_deref(), Some(&b"half"[..]));
    take(&other).await;
    assert_eq!(load(&other, "t").await.as_deref(), Some(&b"half"[..]));
}

async fn the_newest_checkpoint_counts(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    save(&b, &delivery, b"one").await;
    save(&b, &delivery, b"").await;
    assert_eq!(load(&b, "t").await.as_deref(), Some(&b""[..]));
}

async fn a_stale_token_cannot_save_a_checkpoint(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    assert_eq!(save(&b, &stale, b"old").await, Recorded::Stale);
    assert_eq!(load(&b, "t").await, None);
    assert_eq!(save(&b, &fresh, b"new").await, Recorded::Stored);
    assert_eq!(save(&b, &stale, b"old").await, Recorded::Stale);
    assert_eq!(load(&b, "t").await.as_deref(), Some(&b"new"[..]));
}

async fn a_settled_attempt_cannot_save_a_checkpoint(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    finish(h, &b, &delivery, Settlement::Release).await;
    assert_eq!(save(&b, &delivery, b"late").await, Recorded::Stale);
    assert_eq!(load(&b, "t").await, None);
}

async fn a_checkpoint_is_gone_when_the_task_is_final(h: &dyn Harness) {
    let b = h.connect().await;
    for settlement in [Settlement::Succeed(result()), fail(), revoked(), Settlement::Expire] {
        let id = format!("t{}", settlement.state().unwrap());
        let delivery = held(h, &b, &id).await;
        save(&b, &delivery, b"half").await;
        finish(h, &b, &delivery, settlement).await;
        assert_eq!(load(&b, &id).await, None, "{id}");
    }
}

async fn the_largest_checkpoint_fits(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let largest = vec![7; CHECKPOINT_BYTES];
    assert_eq!(save(&b, &delivery, &largest).await, Recorded::Stored);
    assert_eq!(load(&b, "t").await, Some(largest));
}
