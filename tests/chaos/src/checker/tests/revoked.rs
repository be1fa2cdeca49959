//! The rules about revocations.

use stem_core::id::RequestId;
use stem_core::revoke::Version;

use super::*;
use crate::history::Revoked;

const V: Version = Version(7);

fn revoked(version: Version, terminate: bool) -> Revoked {
    Revoked { task: id("a"), version, terminate }
}

/// An operator who asks for it in this second, and has the answer in the next.
fn operator(at: u64) -> History {
    let answer = Event::RevokeOk(revoked(V, true));
    history("p1.2", vec![(at, Event::RevokeTry(id("a"))), (at + 1, answer)])
}

/// A look that began when it was answered.
fn look(at: u64, after: u64, found: Vec<Revoked>) -> (u64, Event) {
    let (sent, after) = (Moment(at * SECOND), Version(after));
    (at, Event::Looked { sent, after, whole: true, revoked: found })
}

fn told(at: u64) -> (u64, Event) {
    let request = RequestId::new("r").expect("a name");
    (at, Event::Told { request, revoked: vec![revoked(V, true)] })
}

fn replied(at: u64) -> (u64, Event) {
    (at, Event::CtlReply(RequestId::new("r").expect("a name")))
}

fn settled(by: Move, at: u64) -> (u64, Event) {
    (at, Event::SettleOk(answered("a", 1, by, at)))
}

fn ended_as(state: TaskState) -> Stored {
    stored(&[("a", state)])
}

#[test]
fn a_revocation_that_is_honoured_is_no_violation() {
    let shown = || vec![revoked(V, true)];
    // Before its start; while it runs; known only when it had ended; by a command alone; not known at all.
    let runs = vec![
        vec![
            look(4, 0, shown()),
            (5, Event::Knows),
            (6, lease("a", 1, 8)),
            settled(Move::Revoke, 6),
        ],
        vec![
            (2, lease("a", 1, 8)),
            (2, start("a", 1)),
            look(4, 0, shown()),
            (5, Event::Knows),
            (6, end("a", 1)),
            settled(Move::Revoke, 6),
        ],
        vec![
            (2, lease("a", 1, 8)),
            (2, start("a", 1)),
            (5, end("a", 1)),
            look(5, 0, shown()),
            (6, Event::Knows),
            done("a", 1, 6),
        ],
        vec![told(4), (5, lease("a", 1, 8)), replied(6), settled(Move::Revoke, 7)],
        vec![(2, lease("a", 1, 8)), (2, start("a", 1)), (8, end("a", 1)), done("a", 1, 8)],
    ];
    for events in runs {
        let revoke = Event::SettleOk(answered("a", 1, Move::Revoke, 6));
        let is_revoked = events.iter().any(|(_, event)| {
            matches!((event, &revoke), (Event::SettleOk(one), Event::SettleOk(other)) if one.by == other.by)
        });
        let state = if is_revoked { TaskState::Revoked } else { TaskState::Succeeded };
        let all = vec![operator(2), history("w1.1", events.clone())];
        assert_eq!(found(all, &ended_as(state)), [], "{events:?}");
    }
}

#[test]
fn what_a_process_knows_to_be_revoked_it_does_not_start() {
    let first = |knows: u64, delivered: u64| {
        let mut events = vec![
            look(4, 0, vec![revoked(V, false)]),
            (knows, Event::Knows),
            (delivered, lease("a", 1, 12)),
            (delivered, start("a", 1)),
            (delivered + 1, end("a", 1)),
            done("a", 1, delivered + 1),
        ];
        events.sort_by_key(|(at, _)| *at);
        found(vec![operator(2), history("w1.1", events)], &succeeded())
    };
    assert_eq!(first(5, 6), [Violation::StartedThoughKnown(id("a"), LeaseToken(1), V)]);
    assert_eq!(first(6, 5), [], "it was delivered while the revocation was taken in");
}

#[test]
fn what_a_process_was_told_to_be_revoked_it_does_not_start() {
    let first = |others: Vec<(u64, Event)>| {
        let started = vec![(7, lease("a", 1, 12)), (7, start("a", 1)), done("a", 1, 8)];
        let events = [vec![told(4)], others, started].concat();
        found(vec![operator(2), history("w1.1", events)], &succeeded())
    };
    let known = [Violation::StartedThoughKnown(id("a"), LeaseToken(1), V)];
    assert_eq!(first(vec![replied(5)]), known);
    assert_eq!(first(vec![]), [], "nothing says that it had taken it in");
    let looked = || look(5, 0, vec![revoked(V, false)]);
    assert_eq!(first(vec![replied(5), looked()]), [], "it takes it in a second time");
    assert_eq!(first(vec![replied(5), looked(), (6, Event::Knows)]), known);
}

#[test]
fn a_process_that_begins_later_starts_nothing_that_was_revoked_before() {
    let verdict = |boots: u64, kill: Option<u64>, rules: Rules| {
        let events = vec![
            (boots, Event::Boots),
            (boots, lease("a", 1, 12)),
            (boots, start("a", 1)),
            (boots + 1, end("a", 1)),
            done("a", 1, boots + 1),
        ];
        let mut all = vec![producer(), operator(2), history("w1.1", events)];
        all.extend(kill.map(|at| history("harness", killed(at))));
        check(&all, &succeeded(), rules).violations
    };
    let started = [Violation::StartedThoughStored(id("a"), LeaseToken(1), V)];
    assert_eq!(verdict(4, None, Rules::STRICT), started);
    assert_eq!(verdict(2, None, Rules::STRICT), []);
    let forgets = Rules { forgets: Some(Duration::from_secs(2)), ..Rules::STRICT };
    assert_eq!(verdict(6, Some(4), Rules::STRICT), started);
    assert_eq!(verdict(6, Some(4), forgets), [], "the server forgot it");
}

#[test]
fn what_was_terminated_while_it_ran_has_no_other_end() {
    let outlived = [Violation::OutlivedTermination(id("a"), LeaseToken(1), V)];
    let first = |terminate: bool, ended: u64, by: Move| {
        let mut events = vec![
            (2, lease("a", 1, 12)),
            (2, start("a", 1)),
            look(4, 0, vec![revoked(V, terminate)]),
            (5, Event::Knows),
            (ended, end("a", 1)),
            settled(by, 8),
        ];
        events.sort_by_key(|(at, _)| *at);
        let state = by.state().unwrap_or(TaskState::Succeeded);
        found(vec![operator(2), history("w1.1", events)], &ended_as(state))
    };
    assert_eq!(first(true, 6, Move::Succeed), outlived);
    let failed = Violation::EndedBadly(id("a"), TaskState::Failed);
    assert_eq!(first(true, 6, Move::Fail), [&[failed][..], &outlived].concat());
    assert_eq!(first(true, 4, Move::Succeed), [], "it had ended before");
    assert_eq!(first(false, 6, Move::Succeed), [], "it may end as it likes");
    assert_eq!(first(true, 6, Move::Revoke), []);
}

#[test]
fn nothing_ends_as_revoked_that_nobody_revoked() {
    let events = || vec![(2, lease("a", 1, 4)), settled(Move::Revoke, 3)];
    let revoked = ended_as(TaskState::Revoked);
    let unasked = [Violation::RevokedUnasked(id("a"))];
    assert_eq!(found(vec![history("w1.1", events())], &revoked), unasked);
    // An operator who was killed may have been heard.
    let tried = history("p1.2", vec![(2, Event::RevokeTry(id("a")))]);
    assert_eq!(found(vec![tried, history("w1.1", events())], &revoked), []);
}

#[test]
fn a_store_shows_what_it_has_acknowledged() {
    let missed = [Violation::RevocationMissed(id("a"), V)];
    let first = |looks: Vec<(u64, Event)>| {
        found(vec![good(), operator(2), history("w2.1", looks)], &succeeded())
    };
    assert_eq!(first(vec![look(4, 0, vec![])]), missed);
    assert_eq!(first(vec![look(3, 0, vec![])]), [], "it began when it was acknowledged");
    assert_eq!(first(vec![look(3, 0, vec![]), look(4, 0, vec![revoked(V, true)])]), []);
    let other = Revoked { task: id("b"), version: Version(9), terminate: false };
    let beyond = vec![look(2, 0, vec![other.clone()]), look(3, 9, vec![])];
    assert_eq!(first(beyond), missed, "it has read on from behind it");
    let page = |end: u64| {
        let revoked = vec![Revoked { version: Version(end), ..other.clone() }];
        let (sent, after) = (Moment(4 * SECOND), Version(0));
        vec![(4, Event::Looked { sent, after, whole: false, revoked })]
    };
    assert_eq!(first(page(6)), [], "there is more");
    assert_eq!(first(page(9)), missed);
    let again = look(4, 0, vec![revoked(Version(8), true)]);
    assert_eq!(first(vec![again]), [], "a later one of the same task is in its place");
}

#[test]
fn workers_are_told_of_what_is_stored() {
    let unstored = [Violation::ToldUnstored(id("a"), V)];
    let first = |at: u64, operators: Vec<History>| {
        let worker = history("w2.1", vec![told(at)]);
        found([vec![good(), worker], operators].concat(), &succeeded())
    };
    assert_eq!(first(4, vec![operator(2)]), []);
    assert_eq!(first(2, vec![operator(2)]), unstored);
    assert_eq!(first(4, vec![]), unstored);
}
