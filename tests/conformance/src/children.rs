//! Settlements with children: they come to be with a success, in the same step, or not at all.

use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::broker::{Delivery, ReceiveRequest, Settled};
use stem_core::backend::result::RecordFilter;
use stem_core::envelope::{DEPTH, Envelope, Payload, Priority};
use stem_core::settlement::{CHILDREN, CHILDREN_BYTES, Settle, Settlement};
use stem_core::task::TaskState;

use crate::broker::while_waiting;
use crate::fixture::*;
use crate::settle::revoked;
use crate::{Backends, Harness};

crate::cases! { ($) children_suite children:
    children_come_to_be_with_the_success,
    children_are_delivered_as_they_were_made,
    a_record_says_whose_child_a_task_is,
    children_keep_their_order_priority_and_delay,
    a_stale_success_has_no_children,
    a_success_that_is_settled_twice_has_its_children_once,
    only_a_success_has_children,
    a_child_that_is_there_already_is_left_as_it_is,
    a_child_that_has_ended_already_is_left_as_it_is,
    a_child_whose_unique_key_is_taken_does_not_come_to_be,
    a_unique_key_of_the_parent_is_free_for_its_child,
    of_two_children_with_one_id_or_key_the_first_counts,
    in_a_batch_each_success_has_its_own_children,
    two_parents_may_have_a_child_in_common,
    without_records_children_come_to_be_without_records,
    a_queue_begins_with_a_child,
    waiting_in_another_queue_wakes_up_on_a_child,
    an_attempt_may_have_as_many_children_as_there_may_be,
    an_attempt_may_have_as_large_children_as_there_may_be,
}

fn success(h: &dyn Harness, parent: &Delivery, children: &[Envelope]) -> Settle {
    Settle { children: children.to_vec(), ..settle(h, parent, Settlement::Succeed(result())) }
}

/// Settles with the record; answers what became of it.
async fn succeed(
    h: &dyn Harness,
    b: &Backends,
    parent: &Delivery,
    children: &[Envelope],
) -> Settled {
    b.broker.settle(&[success(h, parent, children)], Records::Here).await.unwrap()[0]
}

/// The same; it must be accepted.
async fn bear(h: &dyn Harness, b: &Backends, parent: &Delivery, children: &[Envelope]) {
    assert_eq!(succeed(h, b, parent, children).await, Settled::Done);
}

async fn is_unknown(b: &Backends, id: &str) -> bool {
    b.results.fetch(&task(id)).await.unwrap().is_none()
}

async fn children_come_to_be_with_the_success(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    nothing_comes(&b).await;
    bear(h, &b, &parent, &[envelope(h, "one"), envelope(h, "two")]).await;
    assert_eq!(state(&b, "parent").await, TaskState::Succeeded);
    for id in ["one", "two"] {
        assert_eq!(state(&b, id).await, TaskState::Queued);
    }
    assert_eq!(ids(&b, &asking(5)).await, ["one", "two"]);
}

async fn children_are_delivered_as_they_were_made(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    let mut child = Envelope {
        parent_id: Some(task("parent")),
        root_id: task("root"),
        depth: DEPTH,
        trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        ..keyed(h, "child", "key")
    };
    child.headers.insert("name".to_owned(), "value".to_owned());
    child.retry.max_retries = 7;
    bear(h, &b, &parent, std::slice::from_ref(&child)).await;
    let queued = record(&b, "child").await;
    assert_eq!((queued.max_retries, queued.enqueued_at), (7, child.enqueued_at));
    let delivery = take(&b).await;
    assert_eq!((delivery.envelope.clone(), delivery.attempt), (child, 1));
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
}

/// However it was enqueued, and whatever becomes of it.
async fn a_record_says_whose_child_a_task_is(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    let child = |id| Envelope {
        parent_id: Some(task("parent")),
        root_id: task("root"),
        depth: 2,
        ..envelope(h, id)
    };
    bear(h, &b, &parent, &[child("later")]).await;
    put(&b, &[child("now"), envelope(h, "nobodys")]).await;
    b.results.record_queued(&[child("apart"), envelope(h, "alone")]).await.unwrap();
    let family = (Some(task("parent")), Some(task("root")));
    let check = async || {
        for (id, family) in [
            ("later", &family),
            ("now", &family),
            ("apart", &family),
            ("nobodys", &(None, None)),
            ("alone", &(None, None)),
            ("parent", &(None, None)),
        ] {
            let record = record(&b, id).await;
            assert_eq!((record.parent_id, record.root_id), *family, "{id}");
        }
        for record in
            b.results.list(&RecordFilter { limit: 9, ..RecordFilter::default() }).await.unwrap()
        {
            let of_child = ["later", "now", "apart"].contains(&record.id.as_str());
            let wanted = if of_child { family.clone() } else { (None, None) };
            assert_eq!((record.parent_id, record.root_id), wanted, "{}", record.id);
        }
    };
    check().await;
    for delivery in receive(&b, &asking(5)).await {
        finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    }
    check().await;
}

async fn children_keep_their_order_priority_and_delay(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    put(&b, &[envelope(h, "elder")]).await;
    let at = h.now().after(Duration::from_mins(1));
    let children = [
        Envelope { priority: Priority::new(1).unwrap(), ..envelope(h, "low") },
        envelope(h, "first"),
        Envelope { not_before: Some(at), ..envelope(h, "late") },
        Envelope { priority: Priority::new(9).unwrap(), ..envelope(h, "high") },
        envelope(h, "second"),
    ];
    bear(h, &b, &parent, &children).await;
    assert_eq!(ids(&b, &asking(9)).await, ["high", "elder", "first", "second", "low"]);
    assert_eq!(record(&b, "late").await.not_before, Some(at));
    h.advance(Duration::from_mins(1));
    let late = ids(&b, &asking(9)).await;
    assert!(late.contains(&"late".to_owned()), "{late:?}");
}

async fn a_stale_success_has_no_children(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "parent").await;
    assert_eq!(succeed(h, &b, &stale, &[envelope(h, "child")]).await, Settled::Stale);
    assert!(is_unknown(&b, "child").await);
    nothing_comes(&b).await;
    bear(h, &b, &fresh, &[envelope(h, "heir")]).await;
    assert_eq!(ids(&b, &asking(5)).await, ["heir"]);
}

async fn a_success_that_is_settled_twice_has_its_children_once(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    bear(h, &b, &parent, &[envelope(h, "child")]).await;
    let child = take(&b).await;
    // Who did not hear the answer settles again, with the same child and, were it possible, another.
    let children = [envelope(h, "child"), envelope(h, "other")];
    assert_eq!(succeed(h, &b, &parent, &children).await, Settled::Stale);
    nothing_comes(&b).await;
    assert!(is_unknown(&b, "other").await);
    finish(h, &b, &child, Settlement::Succeed(result())).await;
}

async fn only_a_success_has_children(h: &dyn Harness) {
    let b = h.connect().await;
    for (id, end) in [
        ("f", fail()),
        ("r", retry_at(h.now().after(Duration::from_hours(1)))),
        ("v", revoked()),
        ("e", Settlement::Expire),
        ("d", Settlement::Discard),
    ] {
        let parent = held(h, &b, id).await;
        let end = Settle { children: vec![envelope(h, "child")], ..settle(h, &parent, end) };
        assert_eq!(b.broker.settle(&[end], Records::Here).await.unwrap(), [Settled::Done]);
        assert!(is_unknown(&b, "child").await, "{id}");
        nothing_comes(&b).await;
    }
}

async fn a_child_that_is_there_already_is_left_as_it_is(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    put(&b, &[Envelope { payload: Payload::json("1"), ..envelope(h, "there") }]).await;
    let again = Envelope { payload: Payload::json("2"), ..envelope(h, "there") };
    bear(h, &b, &parent, &[again, envelope(h, "new")]).await;
    let deliveries = receive(&b, &asking(5)).await;
    let payloads: Vec<&[u8]> =
        deliveries.iter().map(|delivery| &*delivery.envelope.payload.bytes).collect();
    assert_eq!(payloads, [&b"1"[..], b"{\"n\":1}"]);
}

async fn a_child_that_has_ended_already_is_left_as_it_is(h: &dyn Harness) {
    let b = h.connect().await;
    let ended = held(h, &b, "child").await;
    finish(h, &b, &ended, Settlement::Succeed(result())).await;
    let dead = held(h, &b, "dead").await;
    finish(h, &b, &dead, fail()).await;
    let parent = held(h, &b, "parent").await;
    bear(h, &b, &parent, &[envelope(h, "child"), envelope(h, "dead")]).await;
    nothing_comes(&b).await;
    assert_eq!(state(&b, "child").await, TaskState::Succeeded);
    assert_eq!(state(&b, "dead").await, TaskState::Failed);
}

async fn a_child_whose_unique_key_is_taken_does_not_come_to_be(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[keyed(h, "holder", "key")]).await;
    let holder = take(&b).await;
    let parent = held(h, &b, "parent").await;
    bear(h, &b, &parent, &[keyed(h, "child", "key"), envelope(h, "other")]).await;
    assert!(is_unknown(&b, "child").await);
    assert_eq!(ids(&b, &asking(5)).await, ["other"]);
    // It is the holder's all the same.
    finish(h, &b, &holder, Settlement::Succeed(result())).await;
    put(&b, &[keyed(h, "next", "key")]).await;
}

async fn a_unique_key_of_the_parent_is_free_for_its_child(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[keyed(h, "parent", "key")]).await;
    let parent = take(&b).await;
    bear(h, &b, &parent, &[keyed(h, "child", "key")]).await;
    let child = take(&b).await;
    assert_eq!(child.receipt.task, task("child"));
    let second = keyed(h, "second", "key");
    let published = b.broker.publish(&[second], Records::Here).await.unwrap();
    let existing = task("child");
    assert_eq!(published, [stem_core::backend::broker::Published::Duplicate { existing }]);
}

async fn of_two_children_with_one_id_or_key_the_first_counts(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    let children = [
        keyed(h, "one", "key"),
        Envelope { payload: Payload::json("2"), ..envelope(h, "one") },
        keyed(h, "other", "key"),
        envelope(h, "last"),
    ];
    bear(h, &b, &parent, &children).await;
    let deliveries = receive(&b, &asking(5)).await;
    let came: Vec<_> = deliveries.iter().map(|delivery| delivery.envelope.clone()).collect();
    assert_eq!(came, [children[0].clone(), children[3].clone()]);
    assert!(is_unknown(&b, "other").await);
}

async fn in_a_batch_each_success_has_its_own_children(h: &dyn Harness) {
    let b = h.connect().await;
    let (stale, fresh) = stale_and_fresh(h, &b, "t").await;
    put(&b, &["u", "v", "w"].map(|id| envelope(h, id))).await;
    let more = receive(&b, &asking(10)).await;
    let batch = [
        success(h, &stale, &[envelope(h, "of-stale")]),
        success(h, &more[0], &[envelope(h, "u1"), envelope(h, "u2")]),
        success(h, &fresh, &[envelope(h, "t1")]),
        Settle { children: vec![envelope(h, "of-failed")], ..settle(h, &more[1], fail()) },
        success(h, &fresh, &[envelope(h, "of-second")]),
        success(h, &more[2], &[]),
    ];
    let answers = b.broker.settle(&batch, Records::Here).await.unwrap();
    let done: Vec<bool> = answers.iter().map(|answer| *answer == Settled::Done).collect();
    assert_eq!(done, [false, true, true, true, false, true]);
    assert_eq!(ids(&b, &asking(9)).await, ["u1", "u2", "t1"]);
    for id in ["of-stale", "of-failed", "of-second"] {
        assert!(is_unknown(&b, id).await, "{id}");
    }
}

async fn two_parents_may_have_a_child_in_common(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &["one", "two"].map(|id| envelope(h, id))).await;
    let parents = receive(&b, &asking(2)).await;
    let shared = [envelope(h, "child")];
    let batch = [success(h, &parents[0], &shared), success(h, &parents[1], &shared)];
    assert_eq!(b.broker.settle(&batch, Records::Here).await.unwrap(), [Settled::Done; 2]);
    assert_eq!(ids(&b, &asking(5)).await, ["child"]);
}

async fn without_records_children_come_to_be_without_records(h: &dyn Harness) {
    let b = h.connect().await;
    let elsewhere = ReceiveRequest { records: Records::Elsewhere, ..asking(5) };
    b.broker.publish(&[envelope(h, "parent")], Records::Elsewhere).await.unwrap();
    let parent = receive(&b, &elsewhere).await.remove(0);
    // The caller's business, and it has seen to one of them.
    b.results.record_queued(&[envelope(h, "known")]).await.unwrap();
    let end = success(h, &parent, &[envelope(h, "known"), envelope(h, "child")]);
    let batch = std::slice::from_ref(&end);
    assert_eq!(b.broker.settle(batch, Records::Elsewhere).await.unwrap(), [Settled::Done]);
    assert_eq!(ids(&b, &elsewhere).await, ["known", "child"]);
    assert!(is_unknown(&b, "child").await);
    assert_eq!(state(&b, "known").await, TaskState::Queued);
    b.results.record_settled(batch).await.unwrap();
    assert!(is_unknown(&b, "child").await, "what a settlement means for its task is all it means");
    assert_eq!(b.broker.settle(batch, Records::Elsewhere).await.unwrap(), [Settled::Stale]);
}

async fn a_queue_begins_with_a_child(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    let child = Envelope { queue: queue("new"), ..envelope(h, "child") };
    bear(h, &b, &parent, &[child]).await;
    let queues = b.broker.queues().await.unwrap();
    let counted: Vec<_> =
        queues.iter().map(|queue| (queue.name.as_str(), queue.ready, queue.inflight)).collect();
    assert_eq!(counted, [("new", 1, 0), ("q", 0, 0)]);
    let new = ReceiveRequest { queues: vec![queue("new")], ..asking(5) };
    assert_eq!(ids(&b, &new).await, ["child"]);
}

async fn waiting_in_another_queue_wakes_up_on_a_child(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[Envelope { queue: queue("parents"), ..envelope(h, "parent") }]).await;
    let parents = ReceiveRequest { queues: vec![queue("parents")], ..asking(1) };
    let parent = receive(&b, &parents).await.remove(0);
    let settle = async || bear(h, &b, &parent, &[envelope(h, "child")]).await;
    assert_eq!(while_waiting(h, settle).await, ["child"]);
}

async fn an_attempt_may_have_as_many_children_as_there_may_be(h: &dyn Harness) {
    let b = h.connect().await;
    let parent = held(h, &b, "parent").await;
    let other = held(h, &b, "other").await;
    let named = |n: usize| format!("child-{n:04}");
    let children: Vec<_> = (0..CHILDREN).map(|n| envelope(h, &named(n))).collect();
    let batch = [success(h, &parent, &children), success(h, &other, &[envelope(h, "last")])];
    assert_eq!(b.broker.settle(&batch, Records::Here).await.unwrap(), [Settled::Done; 2]);
    let mut came = Vec::new();
    while came.len() <= CHILDREN {
        let more = ids(&b, &asking(500)).await;
        assert!(!more.is_empty(), "{} came", came.len());
        came.extend(more);
    }
    assert_eq!(came[0], named(0));
    assert_eq!(came[CHILDREN - 1], named(CHILDREN - 1));
    assert_eq!(came[CHILDREN], "last");
}

async fn an_attempt_may_have_as_large_children_as_there_may_be(h: &dyn Harness) {
    const EACH: usize = CHILDREN_BYTES / 4 - 1024;
    let b = h.connect().await;
    put(&b, &["one", "two"].map(|id| envelope(h, id))).await;
    let parents = receive(&b, &asking(2)).await;
    let large = |id: String| Envelope {
        payload: Payload::json(format!("\"{}\"", "x".repeat(EACH - 2))),
        ..envelope(h, &id)
    };
    let batch: Vec<Settle> = parents
        .iter()
        .map(|parent| {
            let of = &parent.receipt.task;
            let children: Vec<_> = (0..4).map(|n| large(format!("{of}-{n}"))).collect();
            success(h, parent, &children)
        })
        .collect();
    assert_eq!(b.broker.settle(&batch, Records::Here).await.unwrap(), [Settled::Done; 2]);
    let mut came = 0;
    while came < 8 {
        let deliveries = receive(&b, &asking(8)).await;
        assert!(!deliveries.is_empty(), "{came} came");
        assert!(deliveries.iter().all(|one| one.envelope.payload.bytes.len() == EACH));
        came += deliveries.len();
    }
}
