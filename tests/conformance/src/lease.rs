//! Leases: who holds a delivery, until when, and what happens when a lease runs out.

use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::broker::{LEAST_STEP, ReceiveRequest, Renewal, Renewed};
use stem_core::settlement::{Receipt, Settlement};
use stem_core::task::TaskState;

use crate::fixture::*;
use crate::{Backends, Harness};

crate::cases! { ($) lease_suite lease:
    a_held_delivery_is_given_to_nobody_else,
    a_lost_lease_is_delivered_again_with_a_higher_token,
    a_lost_lease_counts_a_loss_and_a_delivery_and_no_attempt,
    losses_add_up_until_the_task_is_poison,
    a_lost_lease_puts_the_record_back_in_the_queue,
    without_records_a_lost_lease_leaves_the_record_alone,
    a_lost_lease_keeps_its_place_in_the_queue,
    a_renewal_extends_the_lease_in_place,
    a_renewal_never_shortens_a_lease,
    a_renewal_is_answered_item_by_item,
    a_stale_token_cannot_renew,
    another_owner_cannot_renew,
    a_settled_delivery_cannot_be_renewed,
    a_task_that_never_was_cannot_be_renewed,
    an_expired_lease_that_nobody_took_can_be_renewed,
    an_expired_lease_that_nobody_took_can_be_settled,
    an_expired_lease_that_another_took_cannot_be_settled,
    a_task_of_ten_lease_lengths_is_delivered_once,
    waiting_wakes_up_when_a_lease_runs_out,
    a_clock_that_is_set_back_keeps_a_dead_holders_delivery_no_longer,
    a_clock_that_is_set_back_takes_no_living_holders_delivery,
    a_lease_that_begins_after_a_clock_was_set_back_is_a_whole_one,
    a_clock_that_went_ahead_for_a_moment_keeps_no_dead_holders_delivery,
    two_looks_at_a_clock_in_the_wrong_order_change_no_lease,
}

async fn renew(b: &Backends, receipt: &Receipt, lease: Duration) -> Renewed {
    let renewal = Renewal { receipt: receipt.clone(), lease };
    b.broker.renew(&[renewal]).await.unwrap().remove(0)
}

async fn a_held_delivery_is_given_to_nobody_else(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    held(h, &b, "t").await;
    h.advance(LEASE.saturating_sub(Duration::from_millis(1)));
    nothing_comes(&other).await;
}

async fn a_lost_lease_is_delivered_again_with_a_higher_token(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    assert_eq!(stale.envelope, fresh.envelope);
    assert_eq!(fresh.receipt.owner, B);
}

async fn a_lost_lease_counts_a_loss_and_a_delivery_and_no_attempt(h: &dyn Harness) {
    let b = h.connect().await;
    let (_, fresh) = stale_and_fresh(h, &b, "t").await;
    assert_eq!((fresh.attempt, fresh.deliveries, fresh.losses), (1, 2, 1));
    let record = record(&b, "t").await;
    assert_eq!((record.attempt, record.delivery_count, record.token), (1, 2, fresh.receipt.token));
}

async fn losses_add_up_until_the_task_is_poison(h: &dyn Harness) {
    let b = h.connect().await;
    held(h, &b, "t").await;
    for losses in 1..=5 {
        h.advance(PAST_LEASE);
        let delivery = take(&b).await;
        let attempt = if losses <= 3 { 1 } else { 2 };
        assert_eq!((delivery.losses, delivery.attempt), (losses, attempt));
        // A retry in between forgives nothing.
        if losses == 3 {
            finish(h, &b, &delivery, retry_at(h.now())).await;
            assert_eq!(take(&b).await.losses, 3);
        }
    }
}

async fn a_lost_lease_puts_the_record_back_in_the_queue(h: &dyn Harness) {
    let b = h.connect().await;
    held(h, &b, "t").await;
    assert_eq!(state(&b, "t").await, TaskState::Running);
    h.advance(PAST_LEASE);
    // Anyone who looks for work notices, whatever they look for.
    assert_eq!(
        receive(&b, &ReceiveRequest { queues: vec![queue("other")], ..asking(1) }).await,
        []
    );
    assert_eq!(state(&b, "t").await, TaskState::Queued);
}

async fn without_records_a_lost_lease_leaves_the_record_alone(h: &dyn Harness) {
    let b = h.connect().await;
    b.results.record_queued(&[envelope(h, "t")]).await.unwrap();
    b.broker.publish(&[envelope(h, "t")], Records::Elsewhere).await.unwrap();
    let elsewhere = ReceiveRequest { records: Records::Elsewhere, ..asking(1) };
    receive(&b, &elsewhere).await.remove(0);
    let before = record(&b, "t").await;
    assert_eq!(before.state, TaskState::Queued);
    h.advance(PAST_LEASE);
    assert_eq!(receive(&b, &elsewhere).await[0].losses, 1);
    assert_eq!(record(&b, "t").await, before);
}

async fn a_lost_lease_keeps_its_place_in_the_queue(h: &dyn Harness) {
    let b = h.connect().await;
    held(h, &b, "first").await;
    put(&b, &[envelope(h, "second")]).await;
    h.advance(PAST_LEASE);
    assert_eq!(ids(&b, &asking(5)).await, ["first", "second"]);
}

async fn a_renewal_extends_the_lease_in_place(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    h.advance(Duration::from_secs(8));
    let until = h.now().after(LEASE);
    assert_eq!(renew(&b, &delivery.receipt, LEASE).await, Renewed::Until(until));
    h.advance(Duration::from_secs(8));
    nothing_comes(&b).await;
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
}

async fn a_renewal_never_shortens_a_lease(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let renewed = renew(&b, &delivery.receipt, Duration::from_secs(1)).await;
    assert_eq!(renewed, Renewed::Until(delivery.lease_until));
    h.advance(Duration::from_secs(5));
    nothing_comes(&b).await;
}

async fn a_renewal_is_answered_item_by_item(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    let other = held(h, &b, "u").await;
    let renewals = [stale, fresh, other].map(|it| Renewal { receipt: it.receipt, lease: LEASE });
    let until = Renewed::Until(h.now().after(LEASE));
    assert_eq!(b.broker.renew(&renewals).await.unwrap(), [Renewed::Stale, until, until]);
}

async fn a_stale_token_cannot_renew(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    assert_eq!(renew(&b, &stale.receipt, LEASE * 100).await, Renewed::Stale);
    h.advance(PAST_LEASE);
    assert!(take(&b).await.receipt.token > fresh.receipt.token, "the lease was not lengthened");
}

async fn another_owner_cannot_renew(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let forged = Receipt { owner: B, ..delivery.receipt };
    assert_eq!(renew(&b, &forged, LEASE).await, Renewed::Stale);
}

async fn a_settled_delivery_cannot_be_renewed(h: &dyn Harness) {
    let b = h.connect().await;
    for end in [Settlement::Succeed(result()), Settlement::Release, retry_at(h.now().after(LEASE))]
    {
        let id = format!("t{}", end.state().unwrap());
        let delivery = held(h, &b, &id).await;
        finish(h, &b, &delivery, end).await;
        assert_eq!(renew(&b, &delivery.receipt, LEASE).await, Renewed::Stale);
        purge(&b, "q").await;
    }
}

async fn a_task_that_never_was_cannot_be_renewed(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    let forged = Receipt { task: task("nobody"), ..delivery.receipt };
    assert_eq!(renew(&b, &forged, LEASE).await, Renewed::Stale);
}

async fn an_expired_lease_that_nobody_took_can_be_renewed(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    h.advance(PAST_LEASE);
    let until = h.now().after(LEASE);
    assert_eq!(renew(&b, &delivery.receipt, LEASE).await, Renewed::Until(until));
    nothing_comes(&b).await;
}

async fn an_expired_lease_that_nobody_took_can_be_settled(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    h.advance(PAST_LEASE);
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    assert_eq!(state(&b, "t").await, TaskState::Succeeded);
    nothing_comes(&b).await;
}

async fn an_expired_lease_that_another_took_cannot_be_settled(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    let end = Settlement::Succeed(result());
    assert_eq!(
        settled(h, &b, &stale, end.clone()).await,
        stem_core::backend::broker::Settled::Stale
    );
    assert_eq!(state(&b, "t").await, TaskState::Running);
    finish(h, &b, &fresh, end).await;
}

async fn a_task_of_ten_lease_lengths_is_delivered_once(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    for _ in 0..30 {
        h.advance(LEASE / 3);
        assert!(matches!(renew(&b, &delivery.receipt, LEASE).await, Renewed::Until(_)));
        nothing_comes(&b).await;
    }
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    assert_eq!(record(&b, "t").await.delivery_count, 1);
}

async fn waiting_wakes_up_when_a_lease_runs_out(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    held(h, &b, "t").await;
    let request = ReceiveRequest { wait: LONG, owner: B, ..asking(1) };
    let waiting = tokio::spawn(async move { receive(&other, &request).await });
    tokio::time::sleep(Duration::from_millis(40)).await;
    h.advance(PAST_LEASE);
    assert_eq!(waiting.await.unwrap()[0].losses, 1);
}

/// Far more than any lease.
const STEP: Duration = Duration::from_hours(1);
/// How long a store may take to see that its clock was set back: it looks now and then.
const SEEN: Duration = Duration::from_millis(1_500);

async fn a_clock_that_is_set_back_keeps_a_dead_holders_delivery_no_longer(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    held(h, &b, "dead").await;
    h.set_back(STEP);
    nothing_comes(&other).await;
    tokio::time::sleep(SEEN).await;
    nothing_comes(&other).await;
    h.advance(PAST_LEASE);
    let fresh = take_as(&other, B).await;
    assert_eq!((fresh.losses, fresh.receipt.owner), (1, B));
    assert_eq!(fresh.lease_until, h.now().after(LEASE));
}

async fn a_clock_that_is_set_back_takes_no_living_holders_delivery(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let living = held(h, &b, "living").await;
    h.advance(LEASE / 2);
    h.set_back(STEP);
    tokio::time::sleep(SEEN).await;
    let until = renew(&b, &living.receipt, LEASE).await;
    assert_eq!(until, Renewed::Until(h.now().after(LEASE)));
    for _ in 0..4 {
        h.advance(LEASE / 2);
        nothing_comes(&other).await;
        let until = renew(&b, &living.receipt, LEASE).await;
        assert_eq!(until, Renewed::Until(h.now().after(LEASE)));
    }
    finish(h, &b, &living, Settlement::Release).await;
    assert_eq!(take(&other).await.losses, 0);
}

async fn a_lease_that_begins_after_a_clock_was_set_back_is_a_whole_one(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    held(h, &b, "before").await;
    h.set_back(STEP);
    let after = held(h, &b, "after").await;
    assert_eq!(after.lease_until, h.now().after(LEASE));
    tokio::time::sleep(SEEN).await;
    nothing_comes(&other).await;
    h.advance(LEASE.saturating_sub(Duration::from_millis(1)));
    nothing_comes(&other).await;
}

async fn a_clock_that_went_ahead_for_a_moment_keeps_no_dead_holders_delivery(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    nothing_comes(&b).await;
    h.advance(STEP);
    let ahead = held(h, &b, "ahead").await;
    assert_eq!(ahead.lease_until, h.now().after(LEASE));
    h.set_back(STEP);
    h.advance(Duration::from_millis(1));
    nothing_comes(&other).await;
    h.advance(PAST_LEASE);
    assert_eq!(take_as(&other, B).await.losses, 1);
}

async fn two_looks_at_a_clock_in_the_wrong_order_change_no_lease(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    let late = held(h, &b, "late").await;
    h.set_back(LEAST_STEP);
    tokio::time::sleep(SEEN).await;
    nothing_comes(&other).await;
    let until = renew(&b, &late.receipt, Duration::from_millis(1)).await;
    assert_eq!(until, Renewed::Until(late.lease_until));
}
