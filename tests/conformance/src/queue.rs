//! [`Broker`](stem_core::backend::Broker): what operators do to queues, and what becomes of deliveries nobody can take.

use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::broker::{Pause, Published, ReceiveRequest};
use stem_core::backend::dead_letter::{DeadFilter, RAW_BYTES};
use stem_core::envelope::{Envelope, wire};
use stem_core::settlement::{DeadReason, Settlement};
use stem_core::task::TaskState;

use crate::broker::publish_one;
use crate::fixture::*;
use crate::{Backends, Harness};

crate::cases! { ($) queue_suite queue:
    a_paused_queue_gives_nothing,
    a_pause_is_seen_by_every_connection_with_its_reason,
    pausing_twice_changes_nothing,
    resuming_a_queue_that_runs_changes_nothing,
    queues_are_counted_by_phase_and_name,
    what_has_fallen_due_counts_as_ready,
    a_queue_that_was_emptied_is_still_listed,
    a_purge_removes_what_waits_with_its_records,
    a_purge_leaves_what_is_under_a_lease,
    a_purge_leaves_other_queues_alone,
    without_records_a_purge_leaves_them_to_be_forgotten,
    bytes_that_are_no_envelope_become_a_dead_letter,
    an_envelope_of_a_newer_version_becomes_a_dead_letter,
    an_envelope_of_another_task_becomes_a_dead_letter,
    bytes_that_are_no_envelope_do_not_block_the_queue,
    bytes_that_are_no_envelope_are_kept_only_to_a_bound,
    what_no_worker_knows_is_given_up_after_its_time,
    what_a_worker_knows_is_never_given_up,
    what_is_young_is_not_given_up,
    without_records_giving_up_writes_none,
}

pub(crate) async fn pause(h: &dyn Harness, b: &Backends, on: &str) -> bool {
    let pause = Pause { reason: Some("maintenance".to_owned()), since: h.now() };
    b.broker.set_paused(&queue(on), Some(pause)).await.unwrap()
}

async fn a_paused_queue_gives_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "t"), Envelope { queue: queue("other"), ..envelope(h, "u") }]).await;
    assert!(pause(h, &b, "q").await);
    let both = ReceiveRequest { queues: vec![queue("q"), queue("other")], ..asking(5) };
    assert_eq!(ids(&b, &both).await, ["u"]);
    assert!(b.broker.set_paused(&queue("q"), None).await.unwrap());
    assert_eq!(ids(&b, &both).await, ["t"]);
}

async fn a_pause_is_seen_by_every_connection_with_its_reason(h: &dyn Harness) {
    let (b, other) = (h.connect().await, h.connect().await);
    pause(h, &b, "q").await;
    let queues = other.broker.queues().await.unwrap();
    let paused = queues[0].paused.clone().unwrap();
    assert_eq!((paused.reason.as_deref(), paused.since), (Some("maintenance"), h.now()));
}

async fn pausing_twice_changes_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    let begun = h.now();
    assert!(pause(h, &b, "q").await);
    h.advance(Duration::from_secs(1));
    assert!(!pause(h, &b, "q").await);
    assert_eq!(b.broker.queues().await.unwrap()[0].paused.as_ref().unwrap().since, begun);
}

async fn resuming_a_queue_that_runs_changes_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    assert!(!b.broker.set_paused(&queue("q"), None).await.unwrap());
}

async fn queues_are_counted_by_phase_and_name(h: &dyn Harness) {
    let b = h.connect().await;
    let later = Some(h.now().after(Duration::from_mins(1)));
    put(&b, &[envelope(h, "a"), envelope(h, "b")]).await;
    put(&b, &[Envelope { name: name("unknown"), ..envelope(h, "c") }]).await;
    put(&b, &[Envelope { not_before: later, ..envelope(h, "d") }]).await;
    put(&b, &[Envelope { queue: queue("a-queue"), ..envelope(h, "e") }]).await;
    receive(&b, &asking(1)).await;
    let queues = b.broker.queues().await.unwrap();
    let names: Vec<_> = queues.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["a-queue", "q"]);
    let q = &queues[1];
    assert_eq!((q.ready, q.delayed, q.inflight), (2, 1, 1));
    assert_eq!(q.names, [(name("job"), 1), (name("unknown"), 1)]);
    assert_eq!(q.paused, None);
}

async fn what_has_fallen_due_counts_as_ready(h: &dyn Harness) {
    let b = h.connect().await;
    held(h, &b, "leased").await;
    let later = Some(h.now().after(Duration::from_secs(5)));
    put(&b, &[Envelope { not_before: later, ..envelope(h, "delayed") }]).await;
    h.advance(PAST_LEASE);
    let q = b.broker.queues().await.unwrap().remove(0);
    assert_eq!((q.ready, q.delayed, q.inflight), (2, 0, 0));
    assert_eq!(q.names, [(name("job"), 2)]);
}

async fn a_queue_that_was_emptied_is_still_listed(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    let q = b.broker.queues().await.unwrap().remove(0);
    assert_eq!((q.name, q.ready, q.delayed, q.inflight), (queue("q"), 0, 0, 0));
}

async fn a_purge_removes_what_waits_with_its_records(h: &dyn Harness) {
    let b = h.connect().await;
    let later = Some(h.now().after(LEASE));
    put(&b, &[keyed(h, "a", "k"), Envelope { not_before: later, ..envelope(h, "b") }]).await;
    assert_eq!(purge(&b, "q").await, ["a", "b"]);
    assert_eq!(b.results.fetch(&task("a")).await.unwrap(), None);
    assert_eq!(b.results.fetch(&task("b")).await.unwrap(), None);
    assert_eq!(publish_one(&b, keyed(h, "a", "k")).await, Published::Stored);
    assert_eq!(ids(&b, &asking(5)).await, ["a"]);
}

async fn a_purge_leaves_what_is_under_a_lease(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    put(&b, &[envelope(h, "u")]).await;
    assert_eq!(purge(&b, "q").await, ["u"]);
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    assert_eq!(state(&b, "t").await, TaskState::Succeeded);
}

async fn a_purge_leaves_other_queues_alone(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "t")]).await;
    assert!(purge(&b, "other").await.is_empty());
    take(&b).await;
}

async fn without_records_a_purge_leaves_them_to_be_forgotten(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "done").await;
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    b.results.record_queued(&[envelope(h, "t")]).await.unwrap();
    b.broker.publish(&[envelope(h, "t")], Records::Elsewhere).await.unwrap();
    let purged = b.broker.purge(&queue("q"), Records::Elsewhere).await.unwrap();
    assert_eq!(purged, [task("t")]);
    assert_eq!(state(&b, "t").await, TaskState::Queued);
    let named = [task("t"), task("done"), task("nobody")];
    assert_eq!(b.results.forget(&named).await.unwrap(), 1);
    assert_eq!(b.results.fetch(&task("t")).await.unwrap(), None);
    assert_eq!(state(&b, "done").await, TaskState::Succeeded);
}

async fn the_dead_letter_of(b: &Backends, id: &str) -> stem_core::backend::dead_letter::DeadLetter {
    let filter = DeadFilter { tasks: vec![task(id)], limit: 10, ..DeadFilter::default() };
    let mut letters = b.dead.list(&filter).await.unwrap();
    assert_eq!(letters.len(), 1);
    letters.remove(0)
}

async fn bytes_that_are_no_envelope_become_a_dead_letter(h: &dyn Harness) {
    let b = h.connect().await;
    h.plant_raw_envelope(&queue("q"), &task("bad"), &name("job"), b"\x00garbage").await;
    nothing_comes(&b).await;
    let letter = the_dead_letter_of(&b, "bad").await;
    assert_eq!(letter.reason, DeadReason::EnvelopeMalformed);
    assert_eq!((letter.envelope.as_slice(), letter.deliveries), (&b"\x00garbage"[..], 0));
    assert_eq!(letter.failure.code, "envelope-malformed");
    let record = record(&b, "bad").await;
    assert_eq!((record.state, record.finished_at), (TaskState::Failed, Some(h.now())));
    assert_eq!(record.failure.unwrap().code, "envelope-malformed");
}

async fn an_envelope_of_a_newer_version_becomes_a_dead_letter(h: &dyn Harness) {
    let b = h.connect().await;
    let bytes = b"{\"v\":99,\"new\":true}\n";
    h.plant_raw_envelope(&queue("q"), &task("new"), &name("job"), bytes).await;
    nothing_comes(&b).await;
    let letter = the_dead_letter_of(&b, "new").await;
    assert_eq!(
        (letter.reason, letter.envelope.as_slice()),
        (DeadReason::EnvelopeVersion, &bytes[..])
    );
}

async fn an_envelope_of_another_task_becomes_a_dead_letter(h: &dyn Harness) {
    let b = h.connect().await;
    let bytes = wire::encode(&envelope(h, "somebody-else"));
    h.plant_raw_envelope(&queue("q"), &task("bad"), &name("job"), &bytes).await;
    nothing_comes(&b).await;
    assert_eq!(the_dead_letter_of(&b, "bad").await.reason, DeadReason::EnvelopeMalformed);
}

async fn bytes_that_are_no_envelope_do_not_block_the_queue(h: &dyn Harness) {
    let b = h.connect().await;
    for n in 0..5 {
        let id = task(&format!("bad{n}"));
        h.plant_raw_envelope(&queue("q"), &id, &name("job"), b"garbage").await;
    }
    put(&b, &[envelope(h, "good1"), envelope(h, "good2")]).await;
    assert_eq!(ids(&b, &asking(1)).await, ["good1"]);
    assert_eq!(ids(&b, &asking(1)).await, ["good2"]);
}

async fn bytes_that_are_no_envelope_are_kept_only_to_a_bound(h: &dyn Harness) {
    let b = h.connect().await;
    h.plant_raw_envelope(&queue("q"), &task("big"), &name("job"), &vec![b'x'; RAW_BYTES * 3]).await;
    nothing_comes(&b).await;
    assert_eq!(the_dead_letter_of(&b, "big").await.envelope.len(), RAW_BYTES);
}

async fn what_no_worker_knows_is_given_up_after_its_time(h: &dyn Harness) {
    let b = h.connect().await;
    let unknown = |id| Envelope { name: name("unknown"), ..envelope(h, id) };
    put(&b, &[unknown("t"), envelope(h, "known"), unknown("u")]).await;
    h.advance(Duration::from_mins(1));
    let buried = b.broker.bury_unroutable(&[name("job")], h.now(), Records::Here).await.unwrap();
    assert_eq!(buried, 2);
    let letter = the_dead_letter_of(&b, "t").await;
    assert_eq!(
        (letter.reason, letter.failure.code.as_str()),
        (DeadReason::Unroutable, "unroutable")
    );
    assert_eq!(state(&b, "u").await, TaskState::Failed);
    assert_eq!(ids(&b, &asking(5)).await, ["known"]);
}

async fn what_a_worker_knows_is_never_given_up(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "t")]).await;
    h.advance(Duration::from_mins(1));
    let known = [name("other"), name("job")];
    assert_eq!(b.broker.bury_unroutable(&known, h.now(), Records::Here).await.unwrap(), 0);
    take(&b).await;
}

async fn what_is_young_is_not_given_up(h: &dyn Harness) {
    let b = h.connect().await;
    let at = h.now().after(Duration::from_secs(50));
    put(&b, &[Envelope { not_before: Some(at), ..envelope(h, "delayed") }]).await;
    h.advance(Duration::from_mins(1));
    put(&b, &[envelope(h, "young")]).await;
    // A delay does not count as waiting for a worker.
    let since = h.now().after(Duration::ZERO);
    let young = b.broker.bury_unroutable(&[], at, Records::Here).await.unwrap();
    assert_eq!(young, 0);
    assert_eq!(b.broker.bury_unroutable(&[], since, Records::Here).await.unwrap(), 1);
    assert_eq!(ids(&b, &asking(5)).await, ["young"]);
}

async fn without_records_giving_up_writes_none(h: &dyn Harness) {
    let b = h.connect().await;
    b.broker.publish(&[envelope(h, "t")], Records::Elsewhere).await.unwrap();
    b.results.record_queued(&[envelope(h, "t")]).await.unwrap();
    h.advance(Duration::from_mins(1));
    assert_eq!(b.broker.bury_unroutable(&[], h.now(), Records::Elsewhere).await.unwrap(), 1);
    assert_eq!(state(&b, "t").await, TaskState::Queued);
}
