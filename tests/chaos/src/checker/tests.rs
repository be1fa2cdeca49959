//! Each rule finds the defect that is planted for it, and nothing in a run that is good.

mod effects;
mod revoked;

use stem_core::id::{LeaseToken, TaskId};

use super::*;
use crate::history::{Ended, Event, Held, Line, Move, SERVER_KILLED};

const SECOND: u64 = 1_000_000_000;

fn id(name: &str) -> TaskId {
    TaskId::new(name).expect("a name")
}

fn held(name: &str, token: u64) -> Held {
    Held { task: id(name), token: LeaseToken(token) }
}

fn answered(name: &str, token: u64, by: Move, sent: u64) -> Answered {
    Answered { task: id(name), token: LeaseToken(token), by, sent: Moment(sent * SECOND) }
}

fn lease(name: &str, token: u64, until: u64) -> Event {
    Event::Lease { held: held(name, token), until: Moment(until * SECOND) }
}

fn start(name: &str, token: u64) -> Event {
    Event::Start(held(name, token))
}

fn end(name: &str, token: u64) -> Event {
    Event::End { held: held(name, token), how: Ended::Returned }
}

/// A settlement that was asked for in the second in which it was answered.
fn done(name: &str, token: u64, at: u64) -> (u64, Event) {
    (at, Event::SettleOk(answered(name, token, Move::Succeed, at)))
}

fn recorded(name: &str, token: u64, at: u64) -> (u64, Event) {
    (at, Event::RecordOk(answered(name, token, Move::Succeed, at)))
}

fn killed(at: u64) -> Vec<(u64, Event)> {
    let fault = |on| Event::Fault { kind: SERVER_KILLED.to_owned(), on };
    vec![(at, fault(true)), (at, fault(false))]
}

fn history(process: &str, events: Vec<(u64, Event)>) -> History {
    let line = |(at, event)| Line(Moment(at * SECOND), 1, event);
    History { process: process.to_owned(), lines: events.into_iter().map(line).collect() }
}

/// A producer that enqueued `a`, and was told so, in the first second.
fn producer() -> History {
    let tasks = || vec![id("a")];
    history("p1.1", vec![(1, Event::EnqTry(tasks())), (1, Event::EnqOk(tasks()))])
}

fn stored(records: &[(&str, TaskState)]) -> Stored {
    let records = records.iter().map(|(name, state)| (id(name), *state)).collect();
    Stored { records, deliveries: 0, drained: Some(Moment(20 * SECOND)) }
}

fn succeeded() -> Stored {
    stored(&[("a", TaskState::Succeeded)])
}

fn found(others: Vec<History>, stored: &Stored) -> Vec<Violation> {
    check(&[vec![producer()], others].concat(), stored, Rules::STRICT).violations
}

/// One worker that runs `a` from its lease to its end.
fn good() -> History {
    history(
        "w1.1",
        vec![(2, lease("a", 1, 4)), (2, start("a", 1)), (3, end("a", 1)), done("a", 1, 3)],
    )
}

#[test]
fn a_good_run_has_no_violation() {
    assert_eq!(found(vec![good()], &succeeded()), []);
}

#[test]
fn a_run_in_which_leases_are_lost_and_answers_too_is_good() {
    // The first worker is killed; the second is frozen, comes back and is refused; the third is acknowledged.
    let first = history("w1.1", vec![(2, lease("a", 1, 4)), (2, start("a", 1))]);
    let second = history(
        "w2.1",
        vec![
            (5, lease("a", 2, 7)),
            (5, start("a", 2)),
            (6, Event::Renewed { held: held("a", 2), until: Moment(8 * SECOND) }),
            (12, end("a", 2)),
            (12, Event::SettleStale(answered("a", 2, Move::Succeed, 12))),
        ],
    );
    let third = history("w1.2", vec![(9, lease("a", 3, 11)), (9, start("a", 3)), done("a", 3, 10)]);
    let all = [producer(), first, second, third];
    let verdict = check(&all, &succeeded(), Rules::STRICT);
    assert_eq!(verdict.violations, []);
    let Counts { starts, duplicates, refused, .. } = verdict.counts;
    assert_eq!((starts, duplicates, refused), (3, 2, 1));
}

#[test]
fn an_acknowledged_task_without_a_final_record_is_lost() {
    assert_eq!(found(vec![], &stored(&[])), [Violation::Lost(id("a"))]);
    assert_eq!(
        found(vec![], &stored(&[("a", TaskState::Running)])),
        [Violation::Unfinished(id("a"), TaskState::Running)]
    );
}

#[test]
fn a_task_that_was_only_tried_may_be_there_or_not() {
    let tried = history("p2.1", vec![(1, Event::EnqTry(vec![id("b")]))]);
    let ran = history("w2.1", vec![(2, lease("b", 1, 4)), (2, start("b", 1)), done("b", 1, 3)]);
    let both = [("a", TaskState::Succeeded), ("b", TaskState::Succeeded)];
    assert_eq!(found(vec![good(), tried.clone(), ran], &stored(&both)), []);
    assert_eq!(found(vec![good(), tried], &stored(&both[..1])), []);
}

#[test]
fn no_task_fails_or_expires_and_none_succeeds_that_never_started() {
    let ended = |state| {
        let events = vec![(2, lease("a", 1, 4)), (2, start("a", 1))];
        found(vec![history("w1.1", events)], &stored(&[("a", state)]))
    };
    assert_eq!(ended(TaskState::Succeeded), []);
    for state in [TaskState::Failed, TaskState::Expired] {
        assert_eq!(ended(state), [Violation::EndedBadly(id("a"), state)]);
    }
    assert_eq!(found(vec![], &succeeded()), [Violation::NeverRan(id("a"))]);
}

#[test]
fn a_record_that_nobody_enqueued_is_unexpected() {
    let both = stored(&[("a", TaskState::Succeeded), ("b", TaskState::Succeeded)]);
    assert_eq!(found(vec![good()], &both), [Violation::Unexpected(id("b"))]);
}

#[test]
fn a_record_must_say_what_was_accepted() {
    assert_eq!(
        found(vec![good()], &stored(&[("a", TaskState::Failed)])),
        [Violation::Differs(id("a"), TaskState::Failed)]
    );
}

#[test]
fn a_task_ends_once() {
    let events = vec![(2, lease("a", 1, 4)), (2, start("a", 1)), done("a", 1, 3), done("a", 1, 4)];
    let again = history("w1.1", events);
    assert_eq!(
        found(vec![again], &succeeded()),
        [Violation::TwoWinners(id("a"), vec![LeaseToken(1), LeaseToken(1)])]
    );
}

#[test]
fn a_record_ends_once_and_may_be_repeated_by_who_wrote_it() {
    let repeated = |second: u64| {
        let start = (2, start("a", 1));
        let events =
            vec![(2, lease("a", 1, 4)), start, recorded("a", 1, 3), recorded("a", second, 4)];
        found(vec![history("w1.1", events)], &succeeded())
    };
    assert_eq!(repeated(1), []);
    assert_eq!(repeated(2), [Violation::TwoWinners(id("a"), vec![LeaseToken(1), LeaseToken(2)])]);
    let other = (4, Event::RecordOk(answered("a", 1, Move::Fail, 4)));
    let events = vec![(2, lease("a", 1, 4)), (2, start("a", 1)), recorded("a", 1, 3), other];
    assert_eq!(
        found(vec![history("w1.1", events)], &succeeded()),
        [Violation::TwoWinners(id("a"), vec![LeaseToken(1), LeaseToken(1)])],
        "another end is no repetition"
    );
}

#[test]
fn a_task_that_ended_does_not_start() {
    let second = history("w2.1", vec![(6, lease("a", 2, 8)), (6, start("a", 2))]);
    let found = found(vec![good(), second], &succeeded());
    assert_eq!(
        found,
        [
            Violation::StartedAfterEnd(id("a"), LeaseToken(1), LeaseToken(2)),
            Violation::StaleAccepted(id("a"), LeaseToken(1), LeaseToken(2)),
        ]
    );
}

#[test]
fn a_second_start_needs_a_lease_that_is_over_or_given_back() {
    let second =
        || history("w2.1", vec![(3, lease("a", 2, 6)), (3, start("a", 2)), done("a", 2, 4)]);
    let first = |until: u64, more: Vec<(u64, Event)>| {
        let events = vec![(2, lease("a", 1, until)), (2, start("a", 1))];
        found(vec![history("w1.1", [events, more].concat()), second()], &succeeded())
    };
    let twice = [Violation::StartedTwice(id("a"), LeaseToken(1), LeaseToken(2))];
    assert_eq!(first(4, vec![]), twice);
    assert_eq!(first(3, vec![]), []);
    let renewed = Event::Renewed { held: held("a", 1), until: Moment(4 * SECOND) };
    assert_eq!(first(3, vec![(2, renewed)]), twice);
    assert_eq!(first(4, vec![(3, Event::GiveBack(held("a", 1)))]), []);
    assert_eq!(first(4, vec![(4, Event::GiveBack(held("a", 1)))]), twice);
}

#[test]
fn a_few_starts_right_after_a_thaw_were_decided_before_the_freeze() {
    let frozen = |tasks: &[&str]| {
        let leases = tasks.iter().map(|task| (2, lease(task, 1, 4)));
        let starts = tasks.iter().map(|task| (9, start(task, 1)));
        let first = history("w1.1", leases.chain(starts).collect());
        let second =
            |task: &&str| vec![(6, lease(task, 2, 12)), (6, start(task, 2)), done(task, 2, 7)];
        let second = history("w2.1", tasks.iter().flat_map(second).collect());
        let enqueued = tasks.iter().map(|task| id(task)).collect();
        let enqueued = history("p1.1", vec![(1, Event::EnqTry(enqueued))]);
        let name = || "w1.1".to_owned();
        let harness =
            history("harness", vec![(3, Event::Frozen(name())), (9, Event::Thawed(name()))]);
        let records: Vec<_> = tasks.iter().map(|task| (*task, TaskState::Succeeded)).collect();
        let all = [enqueued, first, second, harness];
        check(&all, &stored(&records), Rules::STRICT).violations
    };
    assert_eq!(frozen(&["a", "b"]), []);
    let both = |task: &str| {
        let tokens = || (LeaseToken(2), LeaseToken(1));
        [
            Violation::StartedAfterEnd(id(task), tokens().0, tokens().1),
            Violation::StartedTwice(id(task), tokens().0, tokens().1),
        ]
    };
    assert_eq!(
        frozen(&["a", "b", "c"]),
        both("c"),
        "whoever starts all that it had looks at no lease"
    );
}

#[test]
fn one_lease_is_one_start() {
    let twice = history(
        "w1.1",
        vec![(2, lease("a", 1, 4)), (2, start("a", 1)), (6, start("a", 1)), done("a", 1, 7)],
    );
    assert_eq!(
        found(vec![twice], &succeeded()),
        [Violation::StartedTwice(id("a"), LeaseToken(1), LeaseToken(1))]
    );
    let without = history("w1.1", vec![(2, start("a", 1)), done("a", 1, 3)]);
    assert_eq!(
        found(vec![without], &succeeded()),
        [Violation::StartedWithoutLease(id("a"), LeaseToken(1))]
    );
}

#[test]
fn a_stale_token_settles_nothing() {
    let stale = [Violation::StaleAccepted(id("a"), LeaseToken(1), LeaseToken(2))];
    let first = |by: Move, sent: u64| {
        let settled = Event::SettleOk(answered("a", 1, by, sent));
        let first =
            history("w1.1", vec![(2, lease("a", 1, 4)), (2, start("a", 1)), (sent, settled)]);
        let second = history("w2.1", vec![(5, lease("a", 2, 8))]);
        found(vec![first, second], &succeeded())
    };
    assert_eq!(first(Move::Succeed, 6), stale);
    assert_eq!(first(Move::Succeed, 3), stale, "what has ended is not delivered");
    assert_eq!(first(Move::Release, 6), stale);
    assert_eq!(first(Move::Release, 3), []);
}

#[test]
fn a_stale_token_records_nothing() {
    let first = |sent: u64| {
        let events = vec![(2, lease("a", 1, 4)), (2, start("a", 1)), recorded("a", 1, sent)];
        let first = history("w1.1", events);
        let begun = (5, Event::Begun(held("a", 2)));
        let second = history("w2.1", vec![(5, lease("a", 2, 8)), begun]);
        found(vec![first, second], &succeeded())
    };
    assert_eq!(first(4), [], "the second found it recorded");
    assert_eq!(first(6), [Violation::StaleAccepted(id("a"), LeaseToken(1), LeaseToken(2))]);
}

/// Somebody whom the server answered in the second before.
fn heard(kill: u64) -> History {
    history("p2.1", vec![(kill - 1, Event::EnqOk(Vec::new()))])
}

#[test]
fn what_a_killed_server_forgot_is_told_apart_from_what_was_lost() {
    let rules = Rules { forgets: Some(Duration::from_secs(2)), ..Rules::STRICT };
    let verdict = |kill: u64, stored: &Stored, rules| {
        let again =
            history("w2.1", vec![(8, lease("a", 1, 9)), (8, start("a", 1)), done("a", 1, 9)]);
        let all = [producer(), good(), again, heard(kill), history("harness", killed(kill))];
        let verdict = check(&all, stored, rules);
        (verdict.violations.is_empty(), verdict.counts.forgotten > 0)
    };
    assert_eq!(verdict(4, &succeeded(), rules), (true, true));
    assert_eq!(verdict(7, &succeeded(), rules), (false, false), "it had seconds to write");
    assert_eq!(verdict(4, &succeeded(), Rules::STRICT), (false, false));
    let gone = |kill: u64| {
        let all = [producer(), heard(kill), history("harness", killed(kill))];
        let verdict = check(&all, &stored(&[]), rules);
        (verdict.lost(), verdict.counts.forgotten)
    };
    assert_eq!((gone(2), gone(5)), ((0, 1), (1, 0)));

    // Blocked by its disk from the second 2 on, it wrote nothing and answered nobody.
    let all = [producer(), history("harness", killed(9))];
    let verdict = check(&all, &stored(&[]), rules);
    assert_eq!((verdict.lost(), verdict.counts.forgotten), (0, 1));
}

#[test]
fn a_run_ends_soon_after_its_last_fault() {
    let ended = |drained: Option<u64>, deliveries: u64| {
        let drained = drained.map(|at| Moment(at * SECOND));
        let stored = Stored { deliveries, drained, ..succeeded() };
        found(vec![good(), history("harness", killed(10))], &stored)
    };
    assert_eq!(ended(Some(40), 0), []);
    assert_eq!(ended(Some(41), 0), [Violation::Late(Duration::from_secs(31))]);
    assert_eq!(ended(None, 3), [Violation::Left(3), Violation::NeverDrained]);
}
