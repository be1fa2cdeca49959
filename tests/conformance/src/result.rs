//! [`ResultBackend`](stem_core::backend::ResultBackend): records kept by the worker itself, progress, checkpoints.

use std::time::Duration;

use stem_core::backend::Records;
use stem_core::backend::broker::ReceiveRequest;
use stem_core::backend::result::{Begun, RECORD_TTL, RecordFilter, Recorded};
use stem_core::envelope::{Envelope, Payload};
use stem_core::id::{Incarnation, LeaseToken};
use stem_core::settlement::{Receipt, Settlement};
use stem_core::task::{Progress, TaskState};

use crate::fixture::*;
use crate::settle::revoked;
use crate::{Backends, Harness};

crate::cases! { ($) result_suite result:
    a_task_that_never_was_has_no_record,
    recording_a_known_task_again_changes_nothing,
    a_begun_attempt_is_running,
    beginning_again_under_the_same_token_is_no_news,
    an_older_token_cannot_begin,
    another_owner_cannot_begin_under_the_same_token,
    nothing_begins_that_is_final,
    nothing_begins_that_has_no_record,
    a_new_attempt_clears_progress_and_failure,
    a_settlement_is_recorded_without_the_broker,
    recording_the_same_settlement_again_is_stored_and_changes_nothing,
    recording_another_settlement_of_the_same_attempt_is_stale,
    an_older_token_cannot_record_a_settlement,
    another_owner_cannot_record_a_settlement,
    a_final_record_is_never_overwritten,
    a_recorded_replay_queues_what_failed_and_nothing_else,
    a_recorded_replay_that_comes_late_changes_nothing,
    nobody_of_before_a_recorded_replay_has_a_say,
    a_task_that_never_began_can_be_revoked_on_record,
    a_task_that_never_began_cannot_succeed_on_record,
    a_recorded_release_takes_the_attempt_back,
    a_task_twice_in_one_batch_is_judged_in_order,
    records_are_listed_newest_first_without_results,
    lists_are_filtered_by_state_queue_and_name,
    lists_are_bounded,
    final_records_are_pruned_after_their_time,
    living_records_are_never_pruned,
}

/// A worker's receipt where the broker is another service.
pub(crate) fn receipt(id: &str, token: u64, owner: Incarnation) -> Receipt {
    Receipt { task: task(id), queue: queue("q"), token: LeaseToken(token), owner }
}

async fn begin(h: &dyn Harness, b: &Backends, receipt: &Receipt, attempt: u32) -> Recorded {
    let begun = Begun {
        receipt: receipt.clone(),
        attempt,
        deliveries: u32::try_from(receipt.token.0).unwrap(),
        at: h.now(),
        worker: worker("w"),
    };
    b.results.record_begun(&[begun]).await.unwrap().remove(0)
}

async fn end(h: &dyn Harness, b: &Backends, receipt: &Receipt, end: Settlement) -> Recorded {
    let batch = [settle_for(h, receipt, 1, end)];
    b.results.record_settled(&batch).await.unwrap().remove(0)
}

/// A recorded task whose first attempt runs under token 1 for A.
async fn begun(h: &dyn Harness, b: &Backends, id: &str) -> Receipt {
    b.results.record_queued(&[envelope(h, id)]).await.unwrap();
    let receipt = receipt(id, 1, A);
    assert_eq!(begin(h, b, &receipt, 1).await, Recorded::Stored);
    receipt
}

pub(crate) fn progress(fraction: f64) -> Progress {
    let data = Some(Payload::json(*b"[1]"));
    Progress { fraction: Some(fraction), message: Some("tile 3".to_owned()), data }
}

pub(crate) async fn report(b: &Backends, receipt: &Receipt, fraction: f64) -> Recorded {
    let update = (receipt.clone(), progress(fraction));
    b.results.record_progress(&[update]).await.unwrap().remove(0)
}

async fn a_task_that_never_was_has_no_record(h: &dyn Harness) {
    let b = h.connect().await;
    assert_eq!(b.results.fetch(&task("nobody")).await.unwrap(), None);
    assert_eq!(b.results.history(&task("nobody")).await.unwrap(), []);
    assert_eq!(b.results.load_checkpoint(&task("nobody")).await.unwrap(), None);
}

async fn recording_a_known_task_again_changes_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    begun(h, &b, "t").await;
    let before = record(&b, "t").await;
    let other = Envelope { queue: queue("other"), ..envelope(h, "t") };
    b.results.record_queued(&[other, envelope(h, "u")]).await.unwrap();
    assert_eq!(record(&b, "t").await, before);
    assert_eq!(state(&b, "u").await, TaskState::Queued);
}

async fn a_begun_attempt_is_running(h: &dyn Harness) {
    let b = h.connect().await;
    begun(h, &b, "t").await;
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.attempt, record.delivery_count), (TaskState::Running, 1, 1));
    assert_eq!((record.started_at, record.worker), (Some(h.now()), Some(worker("w"))));
    assert_eq!(record.token, LeaseToken(1));
}

async fn beginning_again_under_the_same_token_is_no_news(h: &dyn Harness) {
    let b = h.connect().await;
    let receipt = begun(h, &b, "t").await;
    report(&b, &receipt, 0.5).await;
    let before = record(&b, "t").await;
    assert_eq!(begin(h, &b, &receipt, 1).await, Recorded::Stored);
    assert_eq!(record(&b, "t").await, before);
}

async fn an_older_token_cannot_begin(h: &dyn Harness) {
    let b = h.connect().await;
    let old = begun(h, &b, "t").await;
    assert_eq!(begin(h, &b, &receipt("t", 2, B), 1).await, Recorded::Stored);
    let before = record(&b, "t").await;
    assert_eq!(begin(h, &b, &old, 1).await, Recorded::Stale);
    assert_eq!(record(&b, "t").await, before);
}

async fn another_owner_cannot_begin_under_the_same_token(h: &dyn Harness) {
    let b = h.connect().await;
    begun(h, &b, "t").await;
    assert_eq!(begin(h, &b, &receipt("t", 1, B), 1).await, Recorded::Stale);
}

async fn nothing_begins_that_is_final(h: &dyn Harness) {
    let b = h.connect().await;
    let first = begun(h, &b, "t").await;
    end(h, &b, &first, Settlement::Succeed(result())).await;
    assert_eq!(begin(h, &b, &receipt("t", 2, B), 1).await, Recorded::Stale);
    assert_eq!(state(&b, "t").await, TaskState::Succeeded);
}

async fn nothing_begins_that_has_no_record(h: &dyn Harness) {
    let b = h.connect().await;
    assert_eq!(begin(h, &b, &receipt("nobody", 1, A), 1).await, Recorded::Stale);
}

async fn a_new_attempt_clears_progress_and_failure(h: &dyn Harness) {
    let b = h.connect().await;
    let first = begun(h, &b, "t").await;
    report(&b, &first, 0.5).await;
    end(h, &b, &first, retry_at(h.now())).await;
    begin(h, &b, &receipt("t", 2, A), 2).await;
    let record = record(&b, "t").await;
    assert_eq!((record.progress, record.failure, record.attempt), (None, None, 2));
}

async fn a_settlement_is_recorded_without_the_broker(h: &dyn Harness) {
    let b = h.connect().await;
    for (id, settlement) in [
        ("s", Settlement::Succeed(result())),
        ("f", fail()),
        ("r", retry_at(h.now())),
        ("v", revoked()),
        ("e", Settlement::Expire),
        ("l", Settlement::Release),
    ] {
        let receipt = begun(h, &b, id).await;
        assert_eq!(end(h, &b, &receipt, settlement.clone()).await, Recorded::Stored);
        let record = record(&b, id).await;
        assert_eq!(Some(record.state), settlement.state());
        assert_eq!(record.finished_at.is_some(), record.state.is_final());
    }
    let receipt = begun(h, &b, "d").await;
    assert_eq!(end(h, &b, &receipt, Settlement::Discard).await, Recorded::Stored);
    assert_eq!(state(&b, "d").await, TaskState::Running);
}

async fn recording_the_same_settlement_again_is_stored_and_changes_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    for (id, settlement) in [
        ("s", Settlement::Succeed(result())),
        ("f", fail()),
        ("r", retry_at(h.now())),
        ("l", Settlement::Release),
    ] {
        let receipt = begun(h, &b, id).await;
        end(h, &b, &receipt, settlement.clone()).await;
        let before = (record(&b, id).await, b.results.history(&task(id)).await.unwrap());
        h.advance(Duration::from_secs(1));
        assert_eq!(end(h, &b, &receipt, settlement).await, Recorded::Stored, "{id}");
        let after = (record(&b, id).await, b.results.history(&task(id)).await.unwrap());
        assert_eq!(before, after, "{id}");
    }
}

async fn recording_another_settlement_of_the_same_attempt_is_stale(h: &dyn Harness) {
    let b = h.connect().await;
    let receipt = begun(h, &b, "t").await;
    end(h, &b, &receipt, retry_at(h.now())).await;
    let before = record(&b, "t").await;
    for other in [Settlement::Succeed(result()), fail(), revoked(), Settlement::Release] {
        assert_eq!(end(h, &b, &receipt, other).await, Recorded::Stale);
    }
    assert_eq!(record(&b, "t").await, before);
}

async fn an_older_token_cannot_record_a_settlement(h: &dyn Harness) {
    let b = h.connect().await;
    let old = begun(h, &b, "t").await;
    begin(h, &b, &receipt("t", 2, B), 1).await;
    let before = record(&b, "t").await;
    for settlement in
        [Settlement::Succeed(result()), fail(), retry_at(h.now()), revoked(), Settlement::Release]
    {
        assert_eq!(end(h, &b, &old, settlement).await, Recorded::Stale);
    }
    assert_eq!(record(&b, "t").await, before);
    assert_eq!(b.results.history(&task("t")).await.unwrap(), []);
}

async fn another_owner_cannot_record_a_settlement(h: &dyn Harness) {
    let b = h.connect().await;
    begun(h, &b, "t").await;
    let forged = receipt("t", 1, B);
    assert_eq!(end(h, &b, &forged, Settlement::Succeed(result())).await, Recorded::Stale);
    assert_eq!(state(&b, "t").await, TaskState::Running);
}

async fn a_final_record_is_never_overwritten(h: &dyn Harness) {
    let b = h.connect().await;
    for (id, first) in [
        ("s", Settlement::Succeed(result())),
        ("f", fail()),
        ("v", revoked()),
        ("e", Settlement::Expire),
    ] {
        let held = begun(h, &b, id).await;
        end(h, &b, &held, first).await;
        let before = record(&b, id).await;
        let newer = receipt(id, 9, B);
        // A release too, though what has failed may be queued again: by a replay.
        let others = [Settlement::Succeed(result()), fail(), retry_at(h.now()), revoked()];
        for other in others.into_iter().chain([Settlement::Release]) {
            assert_eq!(end(h, &b, &newer, other).await, Recorded::Stale, "{id}");
        }
        assert_eq!(record(&b, id).await, before, "{id}");
    }
}

async fn a_recorded_replay_queues_what_failed_and_nothing_else(h: &dyn Harness) {
    let b = h.connect().await;
    let failed = begun(h, &b, "f").await;
    end(h, &b, &failed, fail()).await;
    let good = begun(h, &b, "s").await;
    end(h, &b, &good, Settlement::Succeed(result())).await;
    begun(h, &b, "r").await;
    let (succeeded, running) = (record(&b, "s").await, record(&b, "r").await);
    let letters = ["f", "s", "r", "x"].map(|id| (task(id), LeaseToken(1)));
    assert_eq!(b.results.record_replayed(&letters).await.unwrap(), [Recorded::Stored; 4]);
    let replayed = record(&b, "f").await;
    assert_eq!(
        (replayed.state, replayed.attempt, replayed.delivery_count),
        (TaskState::Queued, 0, 0)
    );
    assert_eq!((replayed.failure, replayed.finished_at), (None, None));
    assert_eq!((record(&b, "s").await, record(&b, "r").await), (succeeded, running));
    // The old attempt has no say any more, the next delivery has.
    assert_eq!(end(h, &b, &failed, Settlement::Succeed(result())).await, Recorded::Stale);
    assert_eq!(begin(h, &b, &receipt("f", 2, B), 1).await, Recorded::Stored);
}

async fn a_recorded_replay_that_comes_late_changes_nothing(h: &dyn Harness) {
    let b = h.connect().await;
    let first = begun(h, &b, "t").await;
    end(h, &b, &first, fail()).await;
    begun(h, &b, "other").await;
    let letter = [(task("t"), LeaseToken(1))];
    // Twice is once, also between a replay's two writes.
    for _ in 0..2 {
        assert_eq!(b.results.record_replayed(&letter).await.unwrap(), [Recorded::Stored]);
    }
    let second = receipt("t", 2, B);
    assert_eq!(begin(h, &b, &second, 1).await, Recorded::Stored);
    assert_eq!(b.results.record_replayed(&letter).await.unwrap(), [Recorded::Stored]);
    assert_eq!(state(&b, "t").await, TaskState::Running);
    assert_eq!(end(h, &b, &second, fail()).await, Recorded::Stored);
    let failed = record(&b, "t").await;
    let letters = [(task("other"), LeaseToken(1)), letter[0].clone()];
    let answers = b.results.record_replayed(&letters).await.unwrap();
    assert_eq!(answers, [Recorded::Stored, Recorded::Stale]);
    assert_eq!(record(&b, "t").await, failed);
}

async fn nobody_of_before_a_recorded_replay_has_a_say(h: &dyn Harness) {
    let b = h.connect().await;
    let first = begun(h, &b, "t").await;
    end(h, &b, &first, fail()).await;
    // The broker gave it out once more, to the same worker: that delivery found a final record, and made a dead letter of
    // itself.
    let second = receipt("t", 2, A);
    assert_eq!(begin(h, &b, &second, 1).await, Recorded::Stale);
    let letter = [(task("t"), LeaseToken(2))];
    assert_eq!(b.results.record_replayed(&letter).await.unwrap(), [Recorded::Stored]);
    // What they sent before that may come after it.
    assert_eq!(end(h, &b, &first, fail()).await, Recorded::Stale);
    assert_eq!(begin(h, &b, &second, 1).await, Recorded::Stale);
    for settlement in [fail(), retry_at(h.now()), revoked(), Settlement::Release] {
        assert_eq!(end(h, &b, &second, settlement).await, Recorded::Stale);
    }
    assert_eq!(state(&b, "t").await, TaskState::Queued);
    assert_eq!(begin(h, &b, &receipt("t", 3, A), 1).await, Recorded::Stored);
}

async fn a_task_that_never_began_can_be_revoked_on_record(h: &dyn Harness) {
    let b = h.connect().await;
    b.results.record_queued(&[envelope(h, "t"), envelope(h, "u")]).await.unwrap();
    assert_eq!(end(h, &b, &receipt("t", 1, A), revoked()).await, Recorded::Stored);
    assert_eq!(end(h, &b, &receipt("u", 1, A), Settlement::Expire).await, Recorded::Stored);
    assert_eq!(state(&b, "t").await, TaskState::Revoked);
    assert_eq!(state(&b, "u").await, TaskState::Expired);
}

async fn a_task_that_never_began_cannot_succeed_on_record(h: &dyn Harness) {
    let b = h.connect().await;
    b.results.record_queued(&[envelope(h, "t")]).await.unwrap();
    let success = Settlement::Succeed(result());
    assert_eq!(end(h, &b, &receipt("t", 1, A), success).await, Recorded::Stale);
    assert_eq!(state(&b, "t").await, TaskState::Queued);
}

async fn a_recorded_release_takes_the_attempt_back(h: &dyn Harness) {
    let b = h.connect().await;
    let receipt = begun(h, &b, "t").await;
    assert_eq!(end(h, &b, &receipt, Settlement::Release).await, Recorded::Stored);
    let record = record(&b, "t").await;
    assert_eq!((record.state, record.attempt, record.delivery_count), (TaskState::Queued, 0, 0));
    assert_eq!(record.started_at, None);
}

async fn a_task_twice_in_one_batch_is_judged_in_order(h: &dyn Harness) {
    let b = h.connect().await;
    let held = begun(h, &b, "t").await;
    let batch = [
        settle_for(h, &held, 1, retry_at(h.now())),
        settle_for(h, &receipt("t", 2, B), 2, revoked()),
        settle_for(h, &held, 1, fail()),
    ];
    let recorded = b.results.record_settled(&batch).await.unwrap();
    assert_eq!(recorded, [Recorded::Stored, Recorded::Stored, Recorded::Stale]);
    assert_eq!(state(&b, "t").await, TaskState::Revoked);
}

async fn listed(b: &Backends, filter: RecordFilter) -> Vec<String> {
    let records = b.results.list(&RecordFilter { limit: 10, ..filter }).await.unwrap();
    records.iter().map(|record| record.id.to_string()).collect()
}

async fn records_are_listed_newest_first_without_results(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "old").await;
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    put(&b, &[envelope(h, "new")]).await;
    assert_eq!(listed(&b, RecordFilter::default()).await, ["new", "old"]);
    let filter = RecordFilter { limit: 10, ..RecordFilter::default() };
    let old = b.results.list(&filter).await.unwrap().remove(1);
    assert_eq!((old.state, old.result), (TaskState::Succeeded, None));
}

async fn lists_are_filtered_by_state_queue_and_name(h: &dyn Harness) {
    let b = h.connect().await;
    held(h, &b, "running").await;
    put(&b, &[envelope(h, "plain")]).await;
    put(&b, &[Envelope { queue: queue("other"), ..envelope(h, "queue") }]).await;
    put(&b, &[Envelope { name: name("other"), ..envelope(h, "name") }]).await;
    let filter = RecordFilter { state: Some(TaskState::Running), ..RecordFilter::default() };
    assert_eq!(listed(&b, filter).await, ["running"]);
    let filter = RecordFilter { queue: Some(queue("other")), ..RecordFilter::default() };
    assert_eq!(listed(&b, filter).await, ["queue"]);
    let filter = RecordFilter { name: Some(name("other")), ..RecordFilter::default() };
    assert_eq!(listed(&b, filter).await, ["name"]);
    let state = Some(TaskState::Running);
    let filter = RecordFilter { state, queue: Some(queue("other")), ..RecordFilter::default() };
    assert_eq!(listed(&b, filter).await.len(), 0);
}

async fn lists_are_bounded(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &["a", "b", "c"].map(|id| envelope(h, id))).await;
    let filter = RecordFilter { limit: 2, ..RecordFilter::default() };
    assert_eq!(b.results.list(&filter).await.unwrap().len(), 2);
    assert_eq!(b.results.list(&RecordFilter::default()).await.unwrap(), []);
}

async fn final_records_are_pruned_after_their_time(h: &dyn Harness) {
    let b = h.connect().await;
    let delivery = held(h, &b, "t").await;
    finish(h, &b, &delivery, Settlement::Succeed(result())).await;
    let delivery = held(h, &b, "u").await;
    finish(h, &b, &delivery, fail()).await;
    h.advance(RECORD_TTL);
    assert_eq!(b.results.prune().await.unwrap(), 0);
    h.advance(Duration::from_millis(1));
    assert_eq!(b.results.prune().await.unwrap(), 2);
    assert_eq!(b.results.fetch(&task("t")).await.unwrap(), None);
    assert_eq!(b.results.history(&task("u")).await.unwrap(), []);
}

async fn living_records_are_never_pruned(h: &dyn Harness) {
    let b = h.connect().await;
    put(&b, &[envelope(h, "queued")]).await;
    let elsewhere = ReceiveRequest { records: Records::Here, ..asking(1) };
    receive(&b, &elsewhere).await;
    h.advance(RECORD_TTL * 2);
    assert_eq!(b.results.prune().await.unwrap(), 0);
    assert_eq!(state(&b, "queued").await, TaskState::Running);
}
