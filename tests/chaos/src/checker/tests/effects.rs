//! What an attempt does before it ends, and is not to do once another has its task.

use super::*;

fn checkpoint(name: &str, token: u64, sent: u64) -> (u64, Event) {
    (sent, Event::CheckpointOk { held: held(name, token), sent: Moment(sent * SECOND) })
}

#[test]
fn a_stale_token_saves_no_checkpoint() {
    let stale = [Violation::StaleCheckpoint(id("a"), LeaseToken(1), LeaseToken(2))];
    let first = |sent: u64, rules: Rules, begun: Option<u64>| {
        let events = vec![(2, lease("a", 1, 4)), (2, start("a", 1)), checkpoint("a", 1, sent)];
        let first = history("w1.1", events);
        let mut second = vec![(5, lease("a", 2, 12)), done("a", 2, 11)];
        if let Some(begun) = begun {
            second.insert(1, (begun, Event::Begun(held("a", 2))));
        }
        let all = [producer(), first, history("w2.1", second)];
        check(&all, &succeeded(), rules).violations
    };
    assert_eq!(first(6, Rules::STRICT, None), stale);
    assert_eq!(first(3, Rules::STRICT, None), []);
    // Where records are elsewhere, what they were told counts.
    let apart = Rules { apart: true, ..Rules::STRICT };
    assert_eq!(first(6, apart, Some(7)), []);
    assert_eq!(first(8, apart, Some(7)), stale);
}

#[test]
fn an_attempt_whose_lease_is_over_has_no_children() {
    let first = |wants: u64, renewed: Option<u64>| {
        let mut events = vec![(2, lease("a", 1, 4)), (2, start("a", 1))];
        if let Some(until) = renewed {
            let until = Moment(until * SECOND);
            events.push((3, Event::Renewed { held: held("a", 1), until }));
        }
        events.push((wants, Event::WantsChildren(held("a", 1))));
        // What it takes to enqueue them is nobody's fault.
        events.push((9, Event::ChildrenOk(held("a", 1))));
        found(vec![history("w1.1", events)], &succeeded())
    };
    assert_eq!(first(5, None), [Violation::StaleChildren(id("a"), LeaseToken(1))]);
    assert_eq!(first(5, Some(6)), []);
    assert_eq!(first(3, None), []);
}

#[test]
fn an_attempt_whose_lease_is_over_writes_no_value() {
    let first = |wants: u64, renewed: Option<u64>| {
        let mut events = vec![(2, lease("a", 1, 4)), (2, start("a", 1))];
        if let Some(until) = renewed {
            let until = Moment(until * SECOND);
            events.push((3, Event::Renewed { held: held("a", 1), until }));
        }
        events.push((wants, Event::WantsWrite(held("a", 1))));
        // Between asking and doing the lease may end.
        events.push((9, Event::WriteOk(held("a", 1))));
        let second = history("w2.1", vec![(6, lease("a", 2, 12)), done("a", 2, 11)]);
        found(vec![history("w1.1", events), second], &succeeded())
    };
    assert_eq!(first(7, None), [Violation::StaleWrite(id("a"), LeaseToken(1))]);
    assert_eq!(first(5, None), [Violation::StaleWrite(id("a"), LeaseToken(1))]);
    assert_eq!(first(5, Some(6)), []);
    assert_eq!(first(3, None), []);
}

#[test]
fn a_child_between_two_writes_that_was_never_delivered_is_nobodys_loss() {
    let tried = history("w1.1", vec![(1, Event::EnqTry(vec![id("b")]))]);
    let both = stored(&[("a", TaskState::Succeeded), ("b", TaskState::Queued)]);
    let verdict = |rules| check(&[producer(), good(), tried.clone()], &both, rules).violations;
    let unfinished = [Violation::Unfinished(id("b"), TaskState::Queued)];
    assert_eq!(verdict(Rules::STRICT), unfinished);
    assert_eq!(verdict(Rules { apart: true, ..Rules::STRICT }), []);
}
