//! [`ResultBackend::watch`](stem_core::backend::ResultBackend::watch): whoever waits for a record is told of its changes.

use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::result::Until;
use stem_core::envelope::Payload;
use stem_core::settlement::Settlement;
use stem_core::task::{TaskRecord, TaskState};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fixture::*;
use crate::result::report;
use crate::{Backends, Harness};

crate::cases! { ($) watch_suite watch:
    a_task_that_never_was_is_not_waited_for,
    whoever_has_seen_nothing_is_answered_at_once,
    a_change_before_the_call_is_not_missed,
    each_change_is_told_to_whoever_has_seen_the_one_before,
    waiting_for_the_end_goes_on_through_other_changes,
    waiting_for_a_record_is_bounded,
    everybody_who_waits_is_told,
    a_large_result_is_told_whole,
    a_record_that_is_removed_is_waited_for_no_longer,
}

/// A short wait that is over before anything happens.
const MOMENT: Duration = Duration::from_millis(50);

/// Waits elsewhere for what comes after `seen`. The pause lets it begin before the caller goes on; one that begins later
/// has to find the same.
async fn waiting(b: &Backends, seen: &TaskRecord) -> JoinHandle<Option<TaskRecord>> {
    let (results, seen) = (b.results.clone(), seen.clone());
    let waiting = tokio::spawn(async move {
        results.watch(&seen.id, Until::Other(Some(&seen)), LONG).await.unwrap()
    });
    tokio::time::sleep(MOMENT).await;
    waiting
}

/// What was told is what is on record, and came by a wake-up.
async fn told(b: &Backends, waiting: JoinHandle<Option<TaskRecord>>, since: Instant) -> TaskRecord {
    let told = waiting.await.unwrap().expect("the task has a record");
    assert!(since.elapsed() < LONG / 2, "told after {:?}", since.elapsed());
    assert_eq!(told, record(b, told.id.as_str()).await);
    told
}

async fn a_task_that_never_was_is_not_waited_for(h: &dyn Harness) {
    let b = h.connect().await;
    let started = Instant::now();
    assert_eq!(b.results.watch(&task("nobody"), Until::Final, LONG).await.unwrap(), None);
    let any = Until::Other(None);
    assert_eq!(b.results.watch(&task("nobody"), any, LONG).await.unwrap(), None);
    assert!(started.elapsed() < LONG / 2);
}

async fn whoever_has_seen_nothing_is_answered_at_once(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "t")]).await;
    let started = Instant::now();
    let seen = b.results.watch(&task("t"), Until::Other(None), LONG).await.unwrap();
    assert_eq!(seen, Some(record(&b, "t").await));
    assert!(started.elapsed() < LONG / 2);
}

async fn a_change_before_the_call_is_not_missed(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    put(&b, &[envelope(h, "t")]).await;
    let before = record(&b, "t").await;
    let delivery = take(&other).await;
    let started = Instant::now();
    let running = b.results.watch(&before.id, Until::Other(Some(&before)), LONG).await.unwrap();
    assert_eq!(running.map(|record| record.state), Some(TaskState::Running));
    finish(h, &other, &delivery, Settlement::Succeed(result())).await;
    let last = b.results.watch(&before.id, Until::Final, LONG).await.unwrap();
    assert_eq!(last, Some(record(&other, "t").await));
    assert!(started.elapsed() < LONG / 2);
}

async fn each_change_is_told_to_whoever_has_seen_the_one_before(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    put(&other, &[envelope(h, "t")]).await;
    let queued = record(&other, "t").await;

    let (since, wait) = (Instant::now(), waiting(&b, &queued).await);
    let delivery = take(&other).await;
    let running = told(&other, wait, since).await;
    assert_eq!(running.state, TaskState::Running);

    let (since, wait) = (Instant::now(), waiting(&b, &running).await);
    report(&other, &delivery.receipt, 0.5).await;
    let further = told(&other, wait, since).await;
    assert_eq!(further.progress.clone().unwrap().fraction, Some(0.5));

    let (since, wait) = (Instant::now(), waiting(&b, &further).await);
    let retry = Settlement::Retry { not_before: h.now(), failure: failure() };
    finish(h, &other, &delivery, retry).await;
    let retrying = told(&other, wait, since).await;
    assert_eq!(retrying.state, TaskState::Retrying);

    let (since, wait) = (Instant::now(), waiting(&b, &retrying).await);
    let delivery = take(&other).await;
    let again = told(&other, wait, since).await;
    assert_eq!((again.state, again.attempt), (TaskState::Running, 2));

    let (since, wait) = (Instant::now(), waiting(&b, &again).await);
    finish(h, &other, &delivery, Settlement::Release).await;
    let released = told(&other, wait, since).await;
    assert_eq!(released.state, TaskState::Queued);

    let (since, wait) = (Instant::now(), waiting(&b, &released).await);
    let delivery = take(&other).await;
    let last = told(&other, wait, since).await;
    assert_eq!(last.state, TaskState::Running);

    let (since, wait) = (Instant::now(), waiting(&b, &last).await);
    finish(h, &other, &delivery, Settlement::Succeed(result())).await;
    let done = told(&other, wait, since).await;
    assert_eq!((done.state, done.result), (TaskState::Succeeded, Some(result())));
}

async fn waiting_for_the_end_goes_on_through_other_changes(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    put(&other, &[envelope(h, "t")]).await;
    let (results, since) = (b.results.clone(), Instant::now());
    let wait =
        tokio::spawn(async move { results.watch(&task("t"), Until::Final, LONG).await.unwrap() });
    tokio::time::sleep(MOMENT).await;
    let delivery = take(&other).await;
    report(&other, &delivery.receipt, 0.5).await;
    tokio::time::sleep(MOMENT).await;
    assert!(!wait.is_finished());
    finish(h, &other, &delivery, Settlement::Succeed(result())).await;
    assert_eq!(told(&other, wait, since).await.state, TaskState::Succeeded);
}

async fn waiting_for_a_record_is_bounded(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "t")]).await;
    let (started, seen) = (Instant::now(), record(&b, "t").await);
    let until = Until::Other(Some(&seen));
    assert_eq!(b.results.watch(&seen.id, until, MOMENT).await.unwrap(), Some(seen.clone()));
    assert_eq!(b.results.watch(&seen.id, Until::Final, MOMENT).await.unwrap(), Some(seen.clone()));
    let at_once = b.results.watch(&seen.id, Until::Final, Duration::ZERO).await.unwrap();
    assert_eq!(at_once, Some(seen));
    b.revokes.changed(MOMENT).await.unwrap();
    assert!(started.elapsed() < LONG / 2);
}

async fn everybody_who_waits_is_told(h: &dyn Harness) {
    let (b, c, other) = (h.connect().await, h.connect().await, h.connect().await);
    put(&other, &[envelope(h, "t")]).await;
    let queued = record(&other, "t").await;
    let since = Instant::now();
    // Two in one process, one in another.
    let all = [waiting(&b, &queued).await, waiting(&b, &queued).await, waiting(&c, &queued).await];
    let delivery = take(&other).await;
    for wait in all {
        assert_eq!(told(&other, wait, since).await.state, TaskState::Running);
    }
    let running = record(&other, "t").await;
    let all = [waiting(&b, &running).await, waiting(&c, &running).await];
    finish(h, &other, &delivery, Settlement::Succeed(result())).await;
    for wait in all {
        assert_eq!(told(&other, wait, since).await.state, TaskState::Succeeded);
    }
}

async fn a_large_result_is_told_whole(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let delivery = held(h, &other, "t").await;
    let running = record(&other, "t").await;
    let (since, wait) = (Instant::now(), waiting(&b, &running).await);
    let bytes = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let large = Payload { media_type: "application/octet-stream".to_owned(), bytes };
    finish(h, &other, &delivery, Settlement::Succeed(large.clone())).await;
    assert_eq!(told(&other, wait, since).await.result, Some(large));
}

async fn a_record_that_is_removed_is_waited_for_no_longer(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    put(&other, &[envelope(h, "t")]).await;
    let queued = record(&other, "t").await;
    let (since, wait) = (Instant::now(), waiting(&b, &queued).await);
    other.broker.purge(&queue("q"), Records::Here).await.unwrap();
    assert_eq!(wait.await.unwrap(), None);
    assert!(since.elapsed() < LONG / 2);
}
