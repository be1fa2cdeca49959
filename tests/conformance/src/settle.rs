//! Settlements: every move by which a delivery leaves a worker's hands, with its record, and who may make it.

use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::broker::{ReceiveRequest, Settled};
use stem_core::backend::dead_letter::DeadFilter;
use stem_core::id::{Digest, LeaseToken};
use stem_core::limits::Usage;
use stem_core::outcome::StopHow;
use stem_core::settlement::{DeadReason, Receipt, Settle, Settlement};
use stem_core::task::{HISTORY, ModuleRef, RevocationEnd, TaskState};

use crate::Harness;
use crate::fixture::*;

crate::cases! { ($) settle_suite settle:
    a_success_keeps_the_result_and_leaves_nothing_in_the_broker,
    an_empty_result_is_a_result,
    a_failure_goes_to_the_dead_letters_in_the_same_step,
    a_retry_comes_back_at_its_time_as_the_next_attempt,
    a_retried_task_keeps_its_place_in_the_queue,
    a_success_after_a_retry_leaves_nothing_behind,
    a_history_keeps_the_newest_failures,
    a_revocation_keeps_who_why_and_how,
    a_task_whose_code_never_ran_has_not_started,
    a_discarded_delivery_goes_without_a_trace,
    a_released_delivery_counts_neither_attempt_nor_delivery,
    a_released_delivery_goes_back_to_its_old_place,
    a_released_delivery_gets_a_higher_token_next_time,
    a_release_between_retries_keeps_the_attempt,
    usage_and_module_are_on_record,
    a_batch_is_settled_item_by_item,
    of_two_settlements_of_one_delivery_the_first_counts,
    a_settlement_is_seen_by_a_second_connection,
    a_stale_token_cannot_succeed,
    a_stale_token_cannot_fail,
    a_stale_token_cannot_retry,
    a_stale_token_cannot_revoke,
    a_stale_token_cannot_expire,
    a_stale_token_cannot_release,
    a_stale_token_cannot_discard,
    another_owner_cannot_settle,
    a_token_from_the_future_cannot_settle,
    a_settled_delivery_cannot_be_settled_again,
    without_records_a_settlement_leaves_the_record_alone,
}

pub(crate) fn revoked() -> Settlement {
    Settlement::Revoke(RevocationEnd {
        reason: Some("wrong customer".to_owned()),
        requested_by: Some("ops".to_owned()),
        how: StopHow::Preempted,
        elapsed_ms: 1.5,
    })
}

async fn a_success_keeps_the_result_and_leaves_nothing_in_the_broker(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    h.advance(Duration::from_secs(1));
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.result), (TaskState::Succeeded, Some(result())));
    assert_eq!((record.finished_at, record.failure), (Some(h.now()), None));
    nothing_comes(&b).await;
    h.advance(PAST_LEASE);
    nothing_comes(&b).await;
    let q = b.broker.queues().await.unwrap().remove(0);
    assert_eq!((q.ready, q.delayed, q.inflight), (0, 0, 0));
}

async fn an_empty_result_is_a_result(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let mut empty = result();
    empty.bytes.clear();
    finish(h, &b, &delivery, Settlement::Succeed(empty.clone())).await;
    assert_eq!(record(&b, "t").await.result, Some(empty));
}

async fn a_failure_goes_to_the_dead_letters_in_the_same_step(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    finish(h, &b, &delivery, fail()).await;
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.failure), (TaskState::Failed, Some(failure())));
    let all = DeadFilter { limit: 10, ..DeadFilter::default() };
    let letter = b.dead.list(&all).await.unwrap().remove(0);
    assert_eq!((letter.reason, letter.failure), (DeadReason::RetriesExhausted, failure()));
    nothing_comes(&b).await;
}

async fn a_retry_comes_back_at_its_time_as_the_next_attempt(h: &dyn Harness) {
    let b = h.connect().await;
    let first = held(h, &b, "t").await;
    let at = h.now().after(Duration::from_secs(30));
    finish(h, &b, &first, retry_at(at)).await;
    let waiting = record(&b, "t").await;
    assert_eq!((waiting.state, waiting.not_before), (TaskState::Retrying, Some(at)));
    assert_eq!((waiting.failure, waiting.finished_at), (Some(failure()), None));
    h.advance(Duration::from_secs(29));
    nothing_comes(&b).await;
    h.advance(Duration::from_secs(1));
    let second = take(&b).await;
    assert_eq!((second.attempt, second.deliveries, second.losses), (2, 2, 0));
    assert!(second.receipt.token > first.receipt.token);
    let running = record(&b, "t").await;
    assert_eq!((running.state, running.attempt, running.failure), (TaskState::Running, 2, None));
}

async fn a_retried_task_keeps_its_place_in_the_queue(h: &dyn Harness) {
    let b = h.connect().await;
    let first = held(h, &b, "first").await;
    put(&b, &[envelope(h, "second")]).await;
    finish(h, &b, &first, retry_at(h.now())).await;
    assert_eq!(ids(&b, &asking(5)).await, ["first", "second"]);
}

async fn a_success_after_a_retry_leaves_nothing_behind(h: &dyn Harness) {
    let b = h.connect().await;
    let first = held(h, &b, "t").await;
    finish(h, &b, &first, retry_at(h.now())).await;
    let second = take(&b).await;
    finish(h, &b, &second, Settlement::Succeed(result())).await;
    assert_eq!(b.results.history(&task("t")).await.unwrap().len(), 1);
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.attempt, record.failure), (TaskState::Succeeded, 2, None));
}

async fn a_history_keeps_the_newest_failures(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "t")]).await;
    let attempts = u32::try_from(HISTORY).unwrap() + 3;
    for attempt in 1..attempts {
        let delivery = take(&b).await;
        assert_eq!(delivery.attempt, attempt);
        finish(h, &b, &delivery, retry_at(h.now())).await;
    }
    let delivery = take(&b).await;
    finish(h, &b, &delivery, fail()).await;
    let newest: Vec<u32> = (4..=attempts).collect();
    let history = b.results.history(&task("t")).await.unwrap();
    assert_eq!(history.iter().map(|it| it.attempt).collect::<Vec<_>>(), newest);
    assert_eq!((&history[0].failure, &history[0].worker), (&failure(), &Some(worker("w"))));
    let all = DeadFilter { limit: 10, ..DeadFilter::default() };
    assert_eq!(b.dead.list(&all).await.unwrap()[0].history, history);
}

async fn a_revocation_keeps_who_why_and_how(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    finish(h, &b, &delivery, revoked()).await;
    let record = record(&b, "t").await;
    let Settlement::Revoke(end) = revoked() else { unreachable!() };
    assert_eq!((record.state, record.revocation), (TaskState::Revoked, Some(end)));
    assert_eq!(record.finished_at, Some(h.now()));
    nothing_comes(&b).await;
}

async fn a_task_whose_code_never_ran_has_not_started(h: &dyn Harness) {
    let b = h.connect().await;
    let Settlement::Revoke(end) = revoked() else { unreachable!() };
    let before = Settlement::Revoke(RevocationEnd { how: StopHow::BeforeStart, ..end });
    for (id, settlement, state) in
        [("r", before, TaskState::Revoked), ("e", Settlement::Expire, TaskState::Expired)]
    {
        let delivery = held(h, &b, id).await;
        finish(h, &b, &delivery, settlement).await;
        let record = record(&b, id).await;
        assert_eq!((record.state, record.started_at, record.attempt), (state, None, 0));
        assert_eq!((record.finished_at, record.delivery_count), (Some(h.now()), 1));
    }
    // Stopped while it ran, it has started.
    let delivery = held(h, &b, "p").await;
    finish(h, &b, &delivery, revoked()).await;
    let record = record(&b, "p").await;
    assert!(record.started_at.is_some());
    assert_eq!(record.attempt, 1);
}

async fn a_discarded_delivery_goes_without_a_trace(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let before = record(&b, "t").await;
    finish(h, &b, &delivery, Settlement::Discard).await;
    assert_eq!(record(&b, "t").await, before);
    h.advance(PAST_LEASE);
    nothing_comes(&b).await;
}

async fn a_released_delivery_counts_neither_attempt_nor_delivery(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    finish(h, &b, &delivery, Settlement::Release).await;
    let waiting = record(&b, "t").await;
    assert_eq!((waiting.state, waiting.attempt, waiting.delivery_count), (TaskState::Queued, 0, 0));
    let again = take(&b).await;
    assert_eq!((again.attempt, again.deliveries, again.losses), (1, 1, 0));
    let running = record(&b, "t").await;
    assert_eq!((running.attempt, running.delivery_count), (1, 1));
}

async fn a_released_delivery_goes_back_to_its_old_place(h: &dyn Harness) {
    let b = h.connect().await;
    let first = held(h, &b, "first").await;
    put(&b, &[envelope(h, "second")]).await;
    finish(h, &b, &first, Settlement::Release).await;
    assert_eq!(ids(&b, &asking(5)).await, ["first", "second"]);
}

async fn a_released_delivery_gets_a_higher_token_next_time(h: &dyn Harness) {
    let b = h.connect().await;
    let first = held(h, &b, "t").await;
    finish(h, &b, &first, Settlement::Release).await;
    let second = take_as(&b, B).await;
    assert!(second.receipt.token > first.receipt.token);
    assert_eq!(settled(h, &b, &first, fail()).await, Settled::Stale);
}

async fn a_release_between_retries_keeps_the_attempt(h: &dyn Harness) {
    let b = h.connect().await;
    let first = held(h, &b, "t").await;
    finish(h, &b, &first, retry_at(h.now())).await;
    let second = take(&b).await;
    finish(h, &b, &second, Settlement::Release).await;
    let waiting = record(&b, "t").await;
    assert_eq!((waiting.attempt, waiting.delivery_count), (1, 1));
    let third = take(&b).await;
    assert_eq!((third.attempt, third.deliveries), (2, 2));
}

async fn usage_and_module_are_on_record(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let usage = Usage { cpu_ms: 12.345, peak_memory_bytes: 1 << 20 };
    let module = ModuleRef { digest: Digest([7; 32]), version: Some("1.2".to_owned()) };
    let end = Settle {
        usage: Some(usage),
        module: Some(module.clone()),
        ..settle(h, &delivery, Settlement::Succeed(result()))
    };
    b.broker.settle(&[end], Records::Here).await.unwrap();
    let record = record(&b, "t").await;
    assert_eq!((record.usage, record.module), (Some(usage), Some(module)));
}

async fn a_batch_is_settled_item_by_item(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    put(&b, &["u", "v", "w", "x"].map(|id| envelope(h, id))).await;
    let more = receive(&b, &asking(10)).await;
    let batch = [
        settle(h, &stale, fail()),
        settle(h, &more[0], Settlement::Succeed(result())),
        settle(h, &fresh, Settlement::Succeed(result())),
        settle(h, &more[1], fail()),
        settle(h, &more[2], retry_at(h.now().after(LEASE))),
        settle(h, &more[3], Settlement::Release),
    ];
    let answers = b.broker.settle(&batch, Records::Here).await.unwrap();
    assert_eq!(answers[0], Settled::Stale);
    assert_eq!(answers[1..], [Settled::Done; 5]);
    for (id, expected) in [
        ("t", TaskState::Succeeded),
        ("u", TaskState::Succeeded),
        ("v", TaskState::Failed),
        ("w", TaskState::Retrying),
        ("x", TaskState::Queued),
    ] {
        assert_eq!(state(&b, id).await, expected, "{id}");
    }
}

async fn of_two_settlements_of_one_delivery_the_first_counts(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let batch = [settle(h, &delivery, Settlement::Succeed(result())), settle(h, &delivery, fail())];
    let answers = b.broker.settle(&batch, Records::Here).await.unwrap();
    assert_eq!(answers, [Settled::Done, Settled::Stale]);
    assert_eq!(state(&b, "t").await, TaskState::Succeeded);
}

async fn a_settlement_is_seen_by_a_second_connection(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let delivery = held(h, &b, "t").await;
    finish(h, &other, &delivery, Settlement::Succeed(result())).await;
    assert_eq!(state(&b, "t").await, TaskState::Succeeded);
}

/// A stale settlement is refused, changes nothing, and the newest holder can go on.
async fn stale(h: &dyn Harness, end: Settlement) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    let before = record(&b, "t").await;
    assert_eq!(settled(h, &b, &stale, end).await, Settled::Stale);
    assert_eq!(record(&b, "t").await, before);
    assert_eq!(b.results.history(&task("t")).await.unwrap(), []);
    let all = DeadFilter { limit: 10, ..DeadFilter::default() };
    assert_eq!(b.dead.list(&all).await.unwrap(), []);
    nothing_comes(&b).await;
    finish(h, &b, &fresh, Settlement::Succeed(result())).await;
}

async fn a_stale_token_cannot_succeed(h: &dyn Harness) {
    stale(h, Settlement::Succeed(result())).await;
}

async fn a_stale_token_cannot_fail(h: &dyn Harness) {
    stale(h, fail()).await;
}

async fn a_stale_token_cannot_retry(h: &dyn Harness) {
    stale(h, retry_at(h.now())).await;
}

async fn a_stale_token_cannot_revoke(h: &dyn Harness) {
    stale(h, revoked()).await;
}

async fn a_stale_token_cannot_expire(h: &dyn Harness) {
    stale(h, Settlement::Expire).await;
}

async fn a_stale_token_cannot_release(h: &dyn Harness) {
    stale(h, Settlement::Release).await;
}

async fn a_stale_token_cannot_discard(h: &dyn Harness) {
    stale(h, Settlement::Discard).await;
}

async fn another_owner_cannot_settle(h: &dyn Harness) {
    let b = h.connect().await;
    let mut forged = held(h, &b, "t").await;
    forged.receipt.owner = B;
    assert_eq!(settled(h, &b, &forged, fail()).await, Settled::Stale);
    assert_eq!(state(&b, "t").await, TaskState::Running);
}

async fn a_token_from_the_future_cannot_settle(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let token = LeaseToken(delivery.receipt.token.0 + 1);
    let forged = Receipt { token, ..delivery.receipt };
    let batch = [settle_for(h, &forged, 1, fail())];
    assert_eq!(b.broker.settle(&batch, Records::Here).await.unwrap(), [Settled::Stale]);
    assert_eq!(state(&b, "t").await, TaskState::Running);
}

async fn a_settled_delivery_cannot_be_settled_again(h: &dyn Harness) {
    let b = h.connect().await;
    for end in [Settlement::Succeed(result()), fail(), Settlement::Release, retry_at(h.now())] {
        let id = format!("t{}", end.state().unwrap());
        let delivery = held(h, &b, &id).await;
        finish(h, &b, &delivery, end.clone()).await;
        let before = record(&b, &id).await;
        assert_eq!(settled(h, &b, &delivery, end).await, Settled::Stale);
        assert_eq!(settled(h, &b, &delivery, fail()).await, Settled::Stale);
        assert_eq!(record(&b, &id).await, before);
        purge(&b, "q").await;
    }
}

async fn without_records_a_settlement_leaves_the_record_alone(h: &dyn Harness) {
    let b = h.connect().await;
    for (id, end) in [
        ("s", Settlement::Succeed(result())),
        ("f", fail()),
        ("r", retry_at(h.now().after(LEASE))),
        ("v", revoked()),
        ("e", Settlement::Expire),
        ("l", Settlement::Release),
    ] {
        b.results.record_queued(&[envelope(h, id)]).await.unwrap();
        b.broker.publish(&[envelope(h, id)], Records::Elsewhere).await.unwrap();
        let before = record(&b, id).await;
        let elsewhere = ReceiveRequest { records: Records::Elsewhere, ..asking(1) };
        let delivery = receive(&b, &elsewhere).await.remove(0);
        let batch = [settle(h, &delivery, end)];
        assert_eq!(b.broker.settle(&batch, Records::Elsewhere).await.unwrap(), [Settled::Done]);
        assert_eq!(record(&b, id).await, before, "{id}");
    }
}
