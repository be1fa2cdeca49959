//! [`Broker`](stem_core::backend::Broker): enqueueing, order, waiting. Queues, leases and settlements have files of
//! their own.

use std::sync::Arc;
use std::time::Duration;

use stem_core::backend::broker::{Published, ReceiveRequest};
use stem_core::backend::{ErrorClass, Records};
use stem_core::envelope::{Envelope, Priority};
use stem_core::settlement::Settlement;
use stem_core::task::TaskState;
use tokio::time::Instant;

use crate::fixture::*;
use crate::queue::pause;
use crate::{Backends, Harness};

crate::cases! { ($) broker_suite broker:
    an_envelope_comes_out_as_it_went_in,
    a_published_task_has_a_queued_record,
    without_records_the_broker_writes_none,
    an_id_that_is_on_its_way_is_a_duplicate,
    an_id_that_is_final_on_record_is_a_duplicate,
    an_id_among_the_dead_letters_is_a_duplicate,
    an_id_twice_in_one_batch_is_stored_once,
    a_unique_key_in_use_names_its_task,
    a_unique_key_twice_in_one_batch_is_stored_once,
    a_unique_key_is_held_through_a_retry,
    a_unique_key_is_free_after_success,
    a_unique_key_is_free_after_failure,
    a_unique_key_is_free_after_a_revocation,
    a_batch_is_answered_item_by_item,
    an_empty_batch_is_no_error,
    deliveries_come_in_the_order_of_enqueueing,
    a_higher_priority_goes_first,
    queues_are_emptied_in_the_order_asked_for,
    a_queue_or_name_that_is_asked_for_twice_gives_each_task_once,
    only_known_names_are_delivered,
    a_name_nobody_knows_does_not_hide_what_lies_behind_it,
    at_most_the_asked_number_is_delivered,
    two_receivers_never_hold_one_delivery,
    a_delayed_task_waits_for_its_time,
    a_time_that_has_passed_delays_nothing,
    an_expired_envelope_is_delivered_so_that_the_worker_can_say_so,
    waiting_ends_with_nothing_when_nothing_comes,
    waiting_wakes_up_on_a_publish_from_a_second_connection,
    waiting_wakes_up_when_a_delay_is_over,
    waiting_wakes_up_when_a_queue_is_resumed,
    a_dropped_receive_holds_nothing,
    the_service_is_the_same_for_every_connection,
    a_healthy_store_says_what_it_is,
}

async fn an_envelope_comes_out_as_it_went_in(h: &dyn Harness) {
    let b = h.connect().await;
    let mut sent = keyed(h, "t", "key");
    sent.expires_at = Some(h.now().after(Duration::from_mins(1)));
    sent.priority = Priority::new(9).unwrap();
    sent.timeout = Some(Duration::from_secs(5));
    sent.trace_parent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    sent.parent_id = Some(task("parent"));
    sent.root_id = task("root");
    sent.headers.insert("tenant".to_owned(), "a b".to_owned());
    put(&b, std::slice::from_ref(&sent)).await;
    let delivery = take(&b).await;
    assert_eq!(delivery.envelope, sent);
    assert_eq!((delivery.attempt, delivery.deliveries, delivery.losses), (1, 1, 0));
    assert_eq!(delivery.lease_until, h.now().after(LEASE));
    assert_eq!((delivery.receipt.owner, delivery.receipt.token.0 > 0), (A, true));
}

async fn a_published_task_has_a_queued_record(h: &dyn Harness) {
    let b = h.connect().await;
    let sent = envelope(h, "t");
    put(&b, std::slice::from_ref(&sent)).await;
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.attempt, record.delivery_count), (TaskState::Queued, 0, 0));
    assert_eq!((record.name, record.queue), (sent.name, sent.queue));
    assert_eq!(
        (record.enqueued_at, record.max_retries),
        (sent.enqueued_at, sent.retry.max_retries)
    );
}

async fn without_records_the_broker_writes_none(h: &dyn Harness) {
    let b = h.connect().await;
    let elsewhere = ReceiveRequest { records: Records::Elsewhere, ..asking(1) };
    b.broker.publish(&[envelope(h, "t")], Records::Elsewhere).await.unwrap();
    let delivery = receive(&b, &elsewhere).await.remove(0);
    assert_eq!(b.results.fetch(&task("t")).await.unwrap(), None);
    let end = [settle(h, &delivery, Settlement::Succeed(result()))];
    b.broker.settle(&end, Records::Elsewhere).await.unwrap();
    assert_eq!(b.results.fetch(&task("t")).await.unwrap(), None);
    nothing_comes(&b).await;
}

pub(crate) async fn publish_one(b: &Backends, envelope: Envelope) -> Published {
    b.broker.publish(&[envelope], Records::Here).await.unwrap().remove(0)
}

fn duplicate(of: &str) -> Published {
    Published::Duplicate { existing: task(of) }
}

async fn an_id_that_is_on_its_way_is_a_duplicate(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "t")]).await;
    assert_eq!(publish_one(&b, envelope(h, "t")).await, duplicate("t"));
    take(&b).await;
    assert_eq!(publish_one(&b, envelope(h, "t")).await, duplicate("t"));
    nothing_comes(&b).await;
}

async fn an_id_that_is_final_on_record_is_a_duplicate(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    assert_eq!(publish_one(&b, envelope(h, "t")).await, duplicate("t"));
    assert_eq!(state(&b, "t").await, TaskState::Succeeded);
    nothing_comes(&b).await;
}

async fn an_id_among_the_dead_letters_is_a_duplicate(h: &dyn Harness) {
    let b = h.connect().await;
    b.broker.publish(&[envelope(h, "t")], Records::Elsewhere).await.unwrap();
    let elsewhere = ReceiveRequest { records: Records::Elsewhere, ..asking(1) };
    let delivery = receive(&b, &elsewhere).await.remove(0);
    b.broker.settle(&[settle(h, &delivery, fail())], Records::Elsewhere).await.unwrap();
    let again = b.broker.publish(&[envelope(h, "t")], Records::Elsewhere).await.unwrap();
    assert_eq!(again, [duplicate("t")]);
}

async fn an_id_twice_in_one_batch_is_stored_once(h: &dyn Harness) {
    let b = h.connect().await;
    let batch = [envelope(h, "t"), envelope(h, "t")];
    let published = b.broker.publish(&batch, Records::Here).await.unwrap();
    assert_eq!(published, [Published::Stored, duplicate("t")]);
    take(&b).await;
}

async fn a_unique_key_in_use_names_its_task(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[keyed(h, "one", "k")]).await;
    assert_eq!(publish_one(&b, keyed(h, "two", "k")).await, duplicate("one"));
    assert_eq!(publish_one(&b, keyed(h, "three", "other")).await, Published::Stored);
    assert_eq!(b.results.fetch(&task("two")).await.unwrap(), None);
}

async fn a_unique_key_twice_in_one_batch_is_stored_once(h: &dyn Harness) {
    let b = h.connect().await;
    let batch = [keyed(h, "one", "k"), keyed(h, "two", "k")];
    let published = b.broker.publish(&batch, Records::Here).await.unwrap();
    assert_eq!(published, [Published::Stored, duplicate("one")]);
}

async fn a_unique_key_is_held_through_a_retry(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[keyed(h, "one", "k")]).await;
    let delivery = take(&b).await;
    finish(h, &b, &delivery, retry_at(h.now().after(LEASE))).await;
    assert_eq!(publish_one(&b, keyed(h, "two", "k")).await, duplicate("one"));
}

async fn the_key_is_free_after(h: &dyn Harness, end: Settlement) {
    let b = h.connect().await;
    put(&b, &[keyed(h, "one", "k")]).await;
    let delivery = take(&b).await;
    assert_eq!(publish_one(&b, keyed(h, "two", "k")).await, duplicate("one"));
    finish(h, &b, &delivery, end).await;
    assert_eq!(publish_one(&b, keyed(h, "two", "k")).await, Published::Stored);
}

async fn a_unique_key_is_free_after_success(h: &dyn Harness) {
    the_key_is_free_after(h, Settlement::Succeed(result())).await;
}

async fn a_unique_key_is_free_after_failure(h: &dyn Harness) {
    the_key_is_free_after(h, fail()).await;
}

async fn a_unique_key_is_free_after_a_revocation(h: &dyn Harness) {
    the_key_is_free_after(h, crate::settle::revoked()).await;
}

async fn a_batch_is_answered_item_by_item(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "old")]).await;
    let batch = [envelope(h, "a"), envelope(h, "old"), envelope(h, "b")];
    let published = b.broker.publish(&batch, Records::Here).await.unwrap();
    assert_eq!(published, [Published::Stored, duplicate("old"), Published::Stored]);
    assert_eq!(ids(&b, &asking(10)).await, ["old", "a", "b"]);
}

async fn an_empty_batch_is_no_error(h: &dyn Harness) {
    let b = h.connect().await;
    assert_eq!(b.broker.publish(&[], Records::Here).await.unwrap(), []);
    assert_eq!(b.broker.settle(&[], Records::Here).await.unwrap(), []);
    assert_eq!(b.broker.renew(&[]).await.unwrap(), []);
    assert_eq!(b.dead.replay(&[], Records::Here).await.unwrap(), []);
    assert_eq!(b.revokes.revoke(&space("n"), &[]).await.unwrap(), []);
}

async fn deliveries_come_in_the_order_of_enqueueing(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "z"), envelope(h, "a")]).await;
    put(&b, &[envelope(h, "m")]).await;
    assert_eq!(ids(&b, &asking(2)).await, ["z", "a"]);
    assert_eq!(ids(&b, &asking(2)).await, ["m"]);
}

async fn a_higher_priority_goes_first(h: &dyn Harness) {
    let b = h.connect().await;
    let level = |id, level| Envelope { priority: Priority::new(level).unwrap(), ..envelope(h, id) };
    put(&b, &[level("low", 0), level("mid1", 5), level("high", 9), level("mid2", 5)]).await;
    assert_eq!(ids(&b, &asking(10)).await, ["high", "mid1", "mid2", "low"]);
}

async fn queues_are_emptied_in_the_order_asked_for(h: &dyn Harness) {
    let b = h.connect().await;
    let on = |id, on| Envelope { queue: queue(on), ..envelope(h, id) };
    put(&b, &[on("a", "second"), on("b", "first"), on("c", "second"), on("d", "third")]).await;
    let asking = ReceiveRequest { queues: vec![queue("first"), queue("second")], ..asking(10) };
    assert_eq!(ids(&b, &asking).await, ["b", "a", "c"]);
}

async fn a_queue_or_name_that_is_asked_for_twice_gives_each_task_once(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "a"), envelope(h, "b"), envelope(h, "c")]).await;
    let once = asking(10);
    let queues = [&*once.queues, &once.queues].concat();
    let names = [&*once.names, &once.names].concat().into();
    let request = ReceiveRequest { queues, names, ..once };
    assert_eq!(ids(&b, &request).await, ["a", "b", "c"]);
}

async fn only_known_names_are_delivered(h: &dyn Harness) {
    let b = h.connect().await;
    let named = |id, text| Envelope { name: name(text), ..envelope(h, id) };
    put(&b, &[named("a", "other"), named("b", "job"), named("c", "third")]).await;
    assert_eq!(ids(&b, &asking(10)).await, ["b"]);
    let two = ReceiveRequest { names: Arc::new([name("third"), name("other")]), ..asking(10) };
    assert_eq!(ids(&b, &two).await, ["a", "c"]);
}

async fn a_name_nobody_knows_does_not_hide_what_lies_behind_it(h: &dyn Harness) {
    let b = h.connect().await;
    let unknown: Vec<_> = (0..50)
        .map(|n| Envelope { name: name("unknown"), ..envelope(h, &format!("u{n}")) })
        .collect();
    put(&b, &unknown).await;
    put(&b, &[envelope(h, "known")]).await;
    assert_eq!(ids(&b, &asking(1)).await, ["known"]);
}

async fn at_most_the_asked_number_is_delivered(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "a"), envelope(h, "b"), envelope(h, "c")]).await;
    assert_eq!(ids(&b, &asking(0)).await.len(), 0);
    assert_eq!(ids(&b, &asking(2)).await.len(), 2);
    assert_eq!(ids(&b, &asking(2)).await.len(), 1);
}

async fn two_receivers_never_hold_one_delivery(h: &dyn Harness) {
    const TASKS: usize = 60;
    let b = h.connect().await;
    let all: Vec<_> = (0..TASKS).map(|n| envelope(h, &format!("t{n}"))).collect();
    put(&b, &all).await;
    let mut receivers = Vec::new();
    for owner in [A, B, A, B] {
        let b = h.connect().await;
        receivers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let some = ids(&b, &ReceiveRequest { owner, ..asking(3) }).await;
                if some.is_empty() {
                    return mine;
                }
                mine.extend(some);
            }
        }));
    }
    let mut taken = Vec::new();
    for receiver in receivers {
        taken.extend(receiver.await.unwrap());
    }
    assert_eq!(taken.len(), TASKS);
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), TASKS);
}

async fn a_delayed_task_waits_for_its_time(h: &dyn Harness) {
    let b = h.connect().await;
    let at = h.now().after(Duration::from_mins(1));
    put(&b, &[Envelope { not_before: Some(at), ..envelope(h, "t") }]).await;
    assert_eq!(record(&b, "t").await.not_before, Some(at));
    nothing_comes(&b).await;
    h.advance(Duration::from_secs(59));
    nothing_comes(&b).await;
    h.advance(Duration::from_secs(1));
    assert_eq!(take(&b).await.receipt.task, task("t"));
}

async fn a_time_that_has_passed_delays_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    let eta = h.now();
    h.advance(Duration::from_secs(5));
    put(&b, &[Envelope { not_before: Some(eta), ..envelope(h, "t") }]).await;
    take(&b).await;
}

async fn an_expired_envelope_is_delivered_so_that_the_worker_can_say_so(h: &dyn Harness) {
    let b = h.connect().await;
    let end = h.now().after(Duration::from_secs(1));
    put(&b, &[Envelope { expires_at: Some(end), ..envelope(h, "t") }]).await;
    h.advance(Duration::from_secs(5));
    let delivery = take(&b).await;
    finish(h, &b, &delivery, Settlement::Expire).await;
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.finished_at), (TaskState::Expired, Some(h.now())));
    nothing_comes(&b).await;
}

async fn waiting_ends_with_nothing_when_nothing_comes(h: &dyn Harness) {
    let b = h.connect().await;
    let started = Instant::now();
    let wait = Duration::from_millis(60);
    assert_eq!(receive(&b, &ReceiveRequest { wait, ..asking(1) }).await, []);
    assert!(started.elapsed() >= wait);
    assert!(started.elapsed() < LONG);
}

/// Starts to wait, does something a moment later, and answers what came.
pub(crate) async fn while_waiting(h: &dyn Harness, then: impl AsyncFnOnce()) -> Vec<String> {
    let b = h.connect().await;
    let request = ReceiveRequest { wait: LONG, ..asking(5) };
    let started = Instant::now();
    let waiting = tokio::spawn(async move { ids(&b, &request).await });
    // The case holds in whatever order the two come; this makes it the interesting one nearly always.
    tokio::time::sleep(Duration::from_millis(40)).await;
    then().await;
    let came = waiting.await.unwrap();
    assert!(started.elapsed() < LONG / 2, "it woke up after {:?}", started.elapsed());
    came
}

async fn waiting_wakes_up_on_a_publish_from_a_second_connection(h: &dyn Harness) {
    let other = h.connect().await;
    let came = while_waiting(h, async || put(&other, &[envelope(h, "t")]).await).await;
    assert_eq!(came, ["t"]);
}

async fn waiting_wakes_up_when_a_delay_is_over(h: &dyn Harness) {
    let b = h.connect().await;
    let at = h.now().after(Duration::from_secs(5));
    put(&b, &[Envelope { not_before: Some(at), ..envelope(h, "t") }]).await;
    let came = while_waiting(h, async || h.advance(Duration::from_secs(5))).await;
    assert_eq!(came, ["t"]);
}

async fn waiting_wakes_up_when_a_queue_is_resumed(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "t")]).await;
    pause(h, &b, "q").await;
    let resume = async || {
        b.broker.set_paused(&queue("q"), None).await.unwrap();
    };
    assert_eq!(while_waiting(h, resume).await, ["t"]);
}

async fn a_dropped_receive_holds_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    for n in 0..20 {
        let request = ReceiveRequest { wait: LONG, ..asking(1) };
        let waiting = tokio::time::timeout(Duration::from_micros(n * 100), receive(&b, &request));
        let came = waiting.await.unwrap_or_default();
        assert_eq!(came, []);
    }
    put(&b, &[envelope(h, "t")]).await;
    let request = ReceiveRequest { wait: LONG, ..asking(1) };
    let taken = tokio::time::timeout(Duration::from_micros(50), receive(&b, &request)).await;
    if taken.is_err() {
        // Whatever the dropped call had begun is undone or never was.
        let delivery = receive(&b, &request).await.remove(0);
        assert_eq!((delivery.deliveries, delivery.losses), (1, 0));
    }
}

async fn the_service_is_the_same_for_every_connection(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    assert_eq!(b.broker.service(), other.results.service());
    assert_eq!(b.dead.service(), b.presence.service());
    assert_eq!(b.control.service(), b.revokes.service());
}

async fn a_healthy_store_says_what_it_is(h: &dyn Harness) {
    let b = h.connect().await;
    for health in [
        b.broker.health().await.unwrap(),
        b.results.health().await.unwrap(),
        b.revokes.health().await.unwrap(),
    ] {
        assert_eq!(health.service, b.broker.service().0);
        assert!(!health.detail.is_empty());
    }
    let too_large = vec![0; stem_core::backend::result::CHECKPOINT_BYTES + 1];
    let receipt = held(h, &b, "t").await.receipt;
    let error = b.results.save_checkpoint(&receipt, &too_large).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unsupported);
    assert!(error.to_string().starts_with(&b.broker.service().0), "{error}");
}
