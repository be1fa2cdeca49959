//! [`DeadLetters`](stem_core::backend::DeadLetters): listing, replaying, removing what was given up.

use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::broker::{Published, ReceiveRequest, Settled};
use stem_core::backend::dead_letter::{DeadFilter, DeadLetter, Replayed};
use stem_core::envelope::{Envelope, wire};
use stem_core::id::{LeaseToken, TaskId};
use stem_core::settlement::{DeadReason, Settlement};
use stem_core::task::TaskState;

use crate::fixture::*;
use crate::{Backends, Harness};

crate::cases! { ($) dead_letter_suite dead_letter:
    a_dead_letter_says_what_why_and_when,
    dead_letters_are_listed_oldest_first,
    dead_letters_are_filtered,
    dead_letters_are_listed_up_to_a_bound,
    a_replayed_task_starts_afresh,
    a_replayed_task_can_succeed,
    a_replay_goes_on_from_the_old_token,
    a_replay_puts_the_record_back_in_the_queue,
    without_records_a_replay_leaves_the_record_alone,
    a_replay_of_what_is_not_dead_is_absent,
    a_replay_of_what_cannot_be_read_leaves_it_there,
    a_task_twice_in_one_replay_is_queued_once,
    two_replays_at_once_queue_a_task_once,
    a_replayed_task_takes_its_unique_key_back,
    a_replay_leaves_a_unique_key_to_the_task_that_has_it_now,
    a_replayed_task_can_die_again,
    a_replay_that_comes_late_leaves_a_newer_dead_letter_alone,
    a_removed_dead_letter_is_gone_for_good,
    a_removal_keeps_the_record,
    a_removal_counts_what_was_there,
}

async fn dead(h: &dyn Harness, b: &Backends, id: &str) {
    let delivery = held(h, b, id).await;
    finish(h, b, &delivery, fail()).await;
}

async fn list(b: &Backends, filter: DeadFilter) -> Vec<DeadLetter> {
    b.dead.list(&DeadFilter { limit: 10, ..filter }).await.unwrap()
}

async fn tasks(b: &Backends, filter: DeadFilter) -> Vec<String> {
    list(b, filter).await.iter().map(|letter| letter.task.to_string()).collect()
}

async fn replay(b: &Backends, id: &str) -> Replayed {
    b.dead.replay(&[letter(b, id).await], Records::Here).await.unwrap().remove(0)
}

/// By what a dead letter is replayed; a token of nobody where there is none.
pub(crate) async fn letter(b: &Backends, id: &str) -> (TaskId, LeaseToken) {
    let filter = DeadFilter { tasks: vec![task(id)], limit: 1, ..DeadFilter::default() };
    let letters = b.dead.list(&filter).await.unwrap();
    (task(id), letters.first().map_or(LeaseToken(1), |letter| letter.token))
}

async fn a_dead_letter_says_what_why_and_when(h: &dyn Harness) {
    let b = h.connect().await;
    let sent = envelope(h, "t");
    put(&b, std::slice::from_ref(&sent)).await;
    let first = take(&b).await;
    finish(h, &b, &first, retry_at(h.now())).await;
    h.advance(Duration::from_secs(3));
    let second = take(&b).await;
    finish(h, &b, &second, fail()).await;
    let letter = list(&b, DeadFilter::default()).await.remove(0);
    assert_eq!(
        (letter.task, letter.queue, letter.name),
        (sent.id.clone(), sent.queue.clone(), sent.name.clone())
    );
    assert_eq!((letter.reason, letter.failure), (DeadReason::RetriesExhausted, failure()));
    assert_eq!((letter.deliveries, letter.token), (2, second.receipt.token));
    assert_eq!(letter.dead_at, h.now());
    assert_eq!(letter.history.iter().map(|it| it.attempt).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(wire::decode(&letter.envelope).unwrap(), sent);
}

async fn dead_letters_are_listed_oldest_first(h: &dyn Harness) {
    let b = h.connect().await;
    for id in ["c", "a", "b"] {
        dead(h, &b, id).await;
        h.advance(Duration::from_millis(1));
    }
    assert_eq!(tasks(&b, DeadFilter::default()).await, ["c", "a", "b"]);
}

async fn dead_letters_are_filtered(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "plain").await;
    let other = Envelope { queue: queue("other"), name: name("third"), ..envelope(h, "other") };
    put(&b, &[other]).await;
    h.advance(Duration::from_secs(5));
    b.broker.bury_unroutable(&[name("job")], h.now(), Records::Here).await.unwrap();
    let all = DeadFilter::default;
    assert_eq!(tasks(&b, DeadFilter { queue: Some(queue("other")), ..all() }).await, ["other"]);
    assert_eq!(tasks(&b, DeadFilter { name: Some(name("job")), ..all() }).await, ["plain"]);
    let reason = Some(DeadReason::Unroutable);
    assert_eq!(tasks(&b, DeadFilter { reason, ..all() }).await, ["other"]);
    assert_eq!(tasks(&b, DeadFilter { since: Some(h.now()), ..all() }).await, ["other"]);
    let named = vec![task("plain"), task("nobody")];
    assert_eq!(tasks(&b, DeadFilter { tasks: named.clone(), ..all() }).await, ["plain"]);
    assert_eq!(tasks(&b, DeadFilter { tasks: named, reason, ..all() }).await.len(), 0);
}

async fn dead_letters_are_listed_up_to_a_bound(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "a").await;
    dead(h, &b, "b").await;
    let one = DeadFilter { limit: 1, ..DeadFilter::default() };
    assert_eq!(b.dead.list(&one).await.unwrap().len(), 1);
    assert_eq!(b.dead.list(&DeadFilter::default()).await.unwrap(), []);
}

async fn a_replayed_task_starts_afresh(h: &dyn Harness) {
    let b = h.connect().await;
    let first = held(h, &b, "t").await;
    finish(h, &b, &first, retry_at(h.now())).await;
    take(&b).await;
    h.advance(PAST_LEASE);
    let third = take(&b).await;
    assert_eq!((third.attempt, third.deliveries, third.losses), (2, 3, 1));
    finish(h, &b, &third, fail()).await;
    assert_eq!(replay(&b, "t").await, Replayed::Queued);
    assert_eq!(tasks(&b, DeadFilter::default()).await.len(), 0);
    let again = take(&b).await;
    assert_eq!((again.attempt, again.deliveries, again.losses), (1, 1, 0));
    assert_eq!(again.envelope, third.envelope);
}

async fn a_replayed_task_can_succeed(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    replay(&b, "t").await;
    let again = take(&b).await;
    finish(h, &b, &again, Settlement::Succeed(result())).await;
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.result), (TaskState::Succeeded, Some(result())));
    assert_eq!(record.failure, None);
}

async fn a_replay_goes_on_from_the_old_token(h: &dyn Harness) {
    let b = h.connect().await;
    let old = held(h, &b, "t").await;
    finish(h, &b, &old, fail()).await;
    replay(&b, "t").await;
    assert_eq!(settled(h, &b, &old, fail()).await, Settled::Stale);
    let new = take(&b).await;
    assert!(new.receipt.token > old.receipt.token);
    assert_eq!(settled(h, &b, &old, Settlement::Succeed(result())).await, Settled::Stale);
    assert_eq!(state(&b, "t").await, TaskState::Running);
}

async fn a_replay_puts_the_record_back_in_the_queue(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    replay(&b, "t").await;
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.attempt, record.delivery_count), (TaskState::Queued, 0, 0));
    assert_eq!((record.failure, record.finished_at), (None, None));
    assert_eq!(b.results.history(&task("t")).await.unwrap().len(), 1, "what happened stays known");
}

async fn without_records_a_replay_leaves_the_record_alone(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    let before = record(&b, "t").await;
    let letter = letter(&b, "t").await;
    let replayed = b.dead.replay(&[letter], Records::Elsewhere).await.unwrap();
    assert_eq!(replayed, [Replayed::Queued]);
    assert_eq!(record(&b, "t").await, before);
}

async fn a_replay_of_what_is_not_dead_is_absent(h: &dyn Harness) {
    let b = h.connect().await;
    held(h, &b, "alive").await;
    assert_eq!(replay(&b, "alive").await, Replayed::Absent);
    assert_eq!(replay(&b, "nobody").await, Replayed::Absent);
}

async fn a_replay_of_what_cannot_be_read_leaves_it_there(h: &dyn Harness) {
    let b = h.connect().await;
    h.plant_raw_envelope(&queue("q"), &task("bad"), &name("job"), b"garbage").await;
    nothing_comes(&b).await;
    assert_eq!(replay(&b, "bad").await, Replayed::Unreadable);
    assert_eq!(tasks(&b, DeadFilter::default()).await, ["bad"]);
    assert_eq!(state(&b, "bad").await, TaskState::Failed);
}

async fn a_task_twice_in_one_replay_is_queued_once(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    let twice = [letter(&b, "t").await, letter(&b, "nobody").await, letter(&b, "t").await];
    let replayed = b.dead.replay(&twice, Records::Here).await.unwrap();
    assert_eq!(replayed, [Replayed::Queued, Replayed::Absent, Replayed::Absent]);
    take(&b).await;
}

async fn two_replays_at_once_queue_a_task_once(h: &dyn Harness) {
    const TASKS: usize = 20;
    let b = h.connect().await;
    let mut all = Vec::new();
    for id in (0..TASKS).map(|n| format!("t{n}")) {
        dead(h, &b, &id).await;
        all.push(letter(&b, &id).await);
    }
    let mut replays = Vec::new();
    for _ in 0..2 {
        let (b, all) = (h.connect().await, all.clone());
        replays.push(tokio::spawn(async move {
            let mut queued = 0;
            for letter in &all {
                let replayed = b.dead.replay(std::slice::from_ref(letter), Records::Here).await;
                queued += usize::from(replayed.unwrap() == [Replayed::Queued]);
            }
            queued
        }));
    }
    let mut queued = 0;
    for replay in replays {
        queued += replay.await.unwrap();
    }
    assert_eq!(queued, TASKS);
    assert_eq!(ids(&b, &asking(TASKS * 2)).await.len(), TASKS);
}

async fn publish(b: &Backends, envelope: Envelope) -> Published {
    b.broker.publish(&[envelope], Records::Here).await.unwrap().remove(0)
}

async fn a_replayed_task_takes_its_unique_key_back(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[keyed(h, "one", "k")]).await;
    let delivery = take(&b).await;
    finish(h, &b, &delivery, fail()).await;
    replay(&b, "one").await;
    let existing = task("one");
    assert_eq!(publish(&b, keyed(h, "two", "k")).await, Published::Duplicate { existing });
}

async fn a_replay_leaves_a_unique_key_to_the_task_that_has_it_now(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[keyed(h, "one", "k")]).await;
    let delivery = take(&b).await;
    finish(h, &b, &delivery, fail()).await;
    put(&b, &[keyed(h, "two", "k")]).await;
    assert_eq!(replay(&b, "one").await, Replayed::Queued);
    let deliveries = receive(&b, &asking(5)).await;
    assert_eq!(deliveries.len(), 2);
    let one = deliveries.iter().find(|it| it.receipt.task == task("one")).unwrap();
    finish(h, &b, one, Settlement::Succeed(result())).await;
    let existing = task("two");
    assert_eq!(publish(&b, keyed(h, "three", "k")).await, Published::Duplicate { existing });
}

async fn a_replayed_task_can_die_again(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    replay(&b, "t").await;
    let again = take(&b).await;
    h.advance(Duration::from_secs(1));
    finish(h, &b, &again, fail()).await;
    let letter = list(&b, DeadFilter::default()).await.remove(0);
    assert_eq!((letter.deliveries, letter.dead_at, letter.history.len()), (1, h.now(), 2));
    assert_eq!(state(&b, "t").await, TaskState::Failed);
}

async fn a_replay_that_comes_late_leaves_a_newer_dead_letter_alone(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    let first = [letter(&b, "t").await];
    assert_eq!(replay(&b, "t").await, Replayed::Queued);
    for records in [Records::Here, Records::Elsewhere] {
        assert_eq!(b.dead.replay(&first, records).await.unwrap(), [Replayed::Absent], "it waits");
    }
    finish(h, &b, &take(&b).await, fail()).await;
    let newer = letter(&b, "t").await;
    assert!(newer.1 > first[0].1);
    let before = record(&b, "t").await;
    for records in [Records::Here, Records::Elsewhere] {
        assert_eq!(b.dead.replay(&first, records).await.unwrap(), [Replayed::Absent]);
        assert_eq!(list(&b, DeadFilter::default()).await.len(), 1, "it is where it was");
        assert_eq!(record(&b, "t").await, before);
    }
    // In one call the right one of both is found.
    let both = [first[0].clone(), newer];
    let replayed = b.dead.replay(&both, Records::Here).await.unwrap();
    assert_eq!(replayed, [Replayed::Absent, Replayed::Queued]);
    take(&b).await;
}

async fn a_removed_dead_letter_is_gone_for_good(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    dead(h, &b, "u").await;
    assert_eq!(b.dead.purge(&[task("t")]).await.unwrap(), 1);
    assert_eq!(tasks(&b, DeadFilter::default()).await, ["u"]);
    assert_eq!(replay(&b, "t").await, Replayed::Absent);
    nothing_comes(&b).await;
}

async fn a_removal_keeps_the_record(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    b.dead.purge(&[task("t")]).await.unwrap();
    assert_eq!(state(&b, "t").await, TaskState::Failed);
    assert_eq!(b.results.history(&task("t")).await.unwrap().len(), 1);
}

async fn a_removal_counts_what_was_there(h: &dyn Harness) {
    let b = h.connect().await;
    dead(h, &b, "t").await;
    held(h, &b, "alive").await;
    let named = [task("t"), task("nobody"), task("alive")];
    assert_eq!(b.dead.purge(&named).await.unwrap(), 1);
    assert_eq!(b.dead.purge(&named).await.unwrap(), 0);
    h.advance(PAST_LEASE);
    let request = ReceiveRequest { owner: B, ..asking(5) };
    assert_eq!(ids(&b, &request).await, ["alive"]);
}
