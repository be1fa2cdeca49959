use proptest::prelude::*;

use super::*;
use crate::envelope::{Envelope, Payload};
use crate::id::{Incarnation, LeaseToken, Namespace, QueueName, TaskId, TaskName};
use crate::revoke::{RevokeRequest, Version};
use crate::settlement::Receipt;
use crate::tenant::Tenant;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(millis)
}

fn delivery() -> Delivery {
    let id = TaskId::new("t").unwrap();
    let queue = QueueName::new("default").unwrap();
    Delivery {
        envelope: Envelope::new(
            id.clone(),
            TaskName::new("work").unwrap(),
            queue.clone(),
            Payload::json("{}"),
            at(0),
        ),
        receipt: Receipt {
            task: id,
            queue,
            token: LeaseToken(1),
            owner: Incarnation(uuid::Uuid::nil()),
        },
        lease_until: at(15_000),
        attempt: 1,
        deliveries: 1,
        losses: 0,
        tenant: Tenant::UNNAMED,
    }
}

const RULES: Rules = Rules {
    lease: Duration::from_secs(15),
    max_losses: 5,
    soft: Some(Duration::from_secs(40)),
    hard: Duration::from_mins(1),
};

fn revocation(version: u64, request: RevokeRequest) -> Revocation {
    Revocation {
        namespace: Namespace::new("stem").unwrap(),
        task_id: TaskId::new("t").unwrap(),
        version: Version(version),
        issued_at: at(0),
        request,
    }
}

fn terminate() -> RevokeRequest {
    RevokeRequest {
        terminate: true,
        reason: Some("runaway".to_owned()),
        requested_by: Some("ops".to_owned()),
        ..RevokeRequest::default()
    }
}

fn admitted() -> Event {
    Event::Admitted { instead: None, revocation: None }
}

fn stopped(reason: StopReason) -> Event {
    Event::Exited(Outcome::Stopped {
        reason,
        how: StopHow::Preempted,
        elapsed: Duration::from_millis(2),
    })
}

/// Feeds events at their times to an attempt of this delivery and returns all orders.
fn run(delivery: &Delivery, events: Vec<(i64, Event)>) -> (Attempt, Vec<Effect>) {
    let mut attempt = Attempt::new(delivery, RULES, at(0), 7);
    let mut effects = Vec::new();
    for (time, event) in events {
        attempt.handle(at(time), event, &mut effects);
    }
    (attempt, effects)
}

fn last_settlement(effects: &[Effect]) -> &Settlement {
    effects
        .iter()
        .rev()
        .find_map(
            |effect| if let Effect::Settle(settlement) = effect { Some(settlement) } else { None },
        )
        .expect("a settlement was ordered")
}

#[test]
fn a_good_attempt_starts_succeeds_and_retires() {
    let result = Payload::json("1");
    let (attempt, effects) = run(
        &delivery(),
        vec![
            (0, admitted()),
            (5, Event::Exited(Outcome::Succeeded(result.clone()))),
            (6, Event::Settled),
        ],
    );
    assert!(attempt.is_over());
    assert_eq!(
        effects,
        [
            Effect::Start,
            Effect::Settle(Settlement::Succeed(result)),
            Effect::Retire(Retirement::Settled)
        ]
    );
}

#[test]
fn a_task_that_must_not_start_is_settled_without_a_start() {
    let mut expired = delivery();
    expired.envelope.expires_at = Some(at(1));
    let mut poison = delivery();
    poison.losses = 5;
    let leftover = Event::Admitted { instead: Some(Settlement::Discard), revocation: None };
    let revoked = Event::Admitted {
        instead: None,
        revocation: Some(revocation(1, RevokeRequest::default())),
    };
    let drain = Event::Draining { mode: Drain::Warm, grace: None };
    for (delivery, events, word) in [
        (delivery(), vec![(1, leftover)], "Discard"),
        (delivery(), vec![(1, revoked)], "Revoke"),
        (expired, vec![(1, admitted())], "Expire"),
        (poison, vec![(1, admitted())], "Fail"),
        (delivery(), vec![(0, drain), (1, admitted())], "Release"),
    ] {
        let (_, effects) = run(&delivery, events);
        assert_eq!(effects.len(), 1, "{word}: {effects:?}");
        assert!(
            format!("{:?}", last_settlement(&effects)).starts_with(word),
            "{word}: {effects:?}"
        );
    }
}

#[test]
fn a_failure_is_retried_by_policy_and_then_dead_lettered() {
    let failure = || Event::Exited(Outcome::failed(FailureKind::Error, "x", "y"));
    let (_, effects) = run(&delivery(), vec![(0, admitted()), (1_000, failure())]);
    let Settlement::Retry { not_before, .. } = last_settlement(&effects) else {
        panic!("{effects:?}")
    };
    assert!((at(2_000)..=at(3_000)).contains(not_before));
    let last = Delivery { attempt: 4, ..delivery() };
    let (_, effects) = run(&last, vec![(0, admitted()), (1, failure())]);
    assert!(matches!(
        last_settlement(&effects),
        Settlement::Fail { reason: DeadReason::RetriesExhausted, .. }
    ));
    let fatal = Event::Exited(Outcome::fatal(FailureKind::Error, "x", "y"));
    let (_, effects) = run(&delivery(), vec![(0, admitted()), (1, fatal)]);
    assert!(matches!(
        last_settlement(&effects),
        Settlement::Fail { reason: DeadReason::Fatal, .. }
    ));
}

#[test]
fn a_handlers_wish_can_only_lengthen_the_delay_up_to_a_day() {
    let wish = |after| {
        let failure = Failure::new(FailureKind::Error, "x", "y");
        let exit = Event::Exited(Outcome::Failed { failure, retry: RetryAdvice::After(after) });
        let (_, effects) = run(&delivery(), vec![(0, admitted()), (0, exit)]);
        let Settlement::Retry { not_before, .. } = last_settlement(&effects) else {
            panic!("{effects:?}")
        };
        *not_before
    };
    assert!(wish(Duration::ZERO) >= at(1_000));
    assert_eq!(wish(Duration::from_mins(1)), at(60_000));
    assert_eq!(wish(Duration::MAX), at(24 * 3_600_000));
}

#[test]
fn a_terminate_stops_by_force_and_ends_revoked_with_its_story() {
    let (_, effects) = run(
        &delivery(),
        vec![
            (0, admitted()),
            (100, Event::Revoked(revocation(1, terminate()))),
            (102, stopped(StopReason::Revoked)),
        ],
    );
    assert_eq!(effects[1], Effect::Stop { reason: StopReason::Revoked, force: true });
    let Settlement::Revoke(end) = last_settlement(&effects) else { panic!("{effects:?}") };
    assert_eq!(
        (end.how, end.reason.as_deref(), end.requested_by.as_deref()),
        (StopHow::Preempted, Some("runaway"), Some("ops"))
    );
    assert!((end.elapsed_ms - 2.0).abs() < 0.001);
}

#[test]
fn a_terminate_has_the_last_word_over_a_result_of_the_same_moment() {
    let exit = Event::Exited(Outcome::Succeeded(Payload::json("1")));
    let (_, effects) = run(
        &delivery(),
        vec![(0, admitted()), (1, Event::Revoked(revocation(1, terminate()))), (1, exit)],
    );
    assert!(matches!(last_settlement(&effects), Settlement::Revoke(_)));
}

#[test]
fn a_revocation_without_terminate_lets_the_attempt_finish() {
    let exit = Event::Exited(Outcome::Succeeded(Payload::json("1")));
    let plain = Event::Revoked(revocation(1, RevokeRequest::default()));
    let (_, effects) = run(&delivery(), vec![(0, admitted()), (1, plain), (2, exit)]);
    assert!(matches!(effects[1..], [Effect::Settle(Settlement::Succeed(_))]));
}

#[test]
fn a_grace_shows_a_notice_first_and_force_follows() {
    let request = RevokeRequest { grace_ms: Some(500), ..terminate() };
    let (attempt, effects) =
        run(&delivery(), vec![(0, admitted()), (100, Event::Revoked(revocation(1, request)))]);
    assert!(
        matches!(&effects[1], Effect::Notify(notice) if notice.force_after == Some(Duration::from_millis(500)))
    );
    assert_eq!(attempt.next_wakeup(), Some(at(600)));
    let mut attempt = attempt;
    let mut effects = Vec::new();
    attempt.handle(at(600), Event::Ticked, &mut effects);
    assert_eq!(effects, [Effect::Stop { reason: StopReason::Revoked, force: true }]);
}

#[test]
fn cooperative_never_uses_force_until_a_newer_order_does() {
    let request = RevokeRequest { cooperative: true, ..terminate() };
    let (_, effects) = run(
        &delivery(),
        vec![
            (0, admitted()),
            (1, Event::Revoked(revocation(1, request))),
            (2, Event::Revoked(revocation(2, terminate()))),
            (3, Event::Revoked(revocation(1, terminate()))),
        ],
    );
    let stop = |force| Effect::Stop { reason: StopReason::Revoked, force };
    assert_eq!(effects, [Effect::Start, stop(false), stop(true)]);
}

#[test]
fn a_gentle_revoke_shields_nobody_from_a_hard_shutdown_or_limit() {
    let gentle = Event::Revoked(revocation(1, RevokeRequest { cooperative: true, ..terminate() }));
    let hard = Event::Draining { mode: Drain::Hard, grace: None };
    let (_, effects) = run(&delivery(), vec![(0, admitted()), (1, gentle.clone()), (2, hard)]);
    assert!(matches!(effects.last(), Some(Effect::Stop { force: true, .. })), "{effects:?}");
    let (mut attempt, _) = run(&delivery(), vec![(0, admitted()), (1, gentle)]);
    attempt.held_until = at(1_000_000);
    attempt.renew_at = at(1_000_000);
    let mut effects = Vec::new();
    attempt.handle(at(60_000), Event::Ticked, &mut effects);
    assert!(matches!(effects.last(), Some(Effect::Stop { force: true, .. })), "{effects:?}");
    assert!(attempt.next_wakeup().is_none_or(|next| next > at(60_000)), "it must not spin");
}

/// A delivery that only one build may run.
fn pinned() -> Delivery {
    let mut delivery = delivery();
    delivery.envelope.module = Some(crate::id::Digest([7; 32]));
    delivery
}

/// The code of the failure that a settlement buries the task with.
fn buried(settlement: &Settlement) -> Option<&str> {
    match settlement {
        Settlement::Fail { failure, reason: DeadReason::Fatal } => Some(&failure.code),
        _ => None,
    }
}

#[test]
fn a_recall_gives_the_task_back_whatever_it_came_to_and_buries_what_no_other_build_may_run() {
    let recalled = || Event::Recalled(revocation(1, terminate()));
    let result = || Event::Exited(Outcome::Succeeded(Payload::json("1")));
    let failure = || Event::Exited(Outcome::fatal(FailureKind::Trap, "x", "y"));
    for events in [
        vec![(0, recalled()), (1, admitted())],
        vec![(0, admitted()), (1, recalled()), (2, stopped(StopReason::Recalled))],
        vec![(0, admitted()), (1, recalled()), (2, result())],
        vec![(0, admitted()), (1, recalled()), (2, failure())],
    ] {
        let (_, effects) = run(&delivery(), events.clone());
        assert_eq!(*last_settlement(&effects), Settlement::Release, "{events:?}");
        let (_, effects) = run(&pinned(), events.clone());
        assert_eq!(buried(last_settlement(&effects)), Some("module-recalled"), "{events:?}");
    }
    let (_, effects) = run(&delivery(), vec![(0, admitted()), (1, recalled())]);
    assert_eq!(effects[1], Effect::Stop { reason: StopReason::Recalled, force: true });
}

#[test]
fn what_ends_a_task_for_good_is_not_undone_by_a_recall() {
    let recalled = || Event::Recalled(revocation(2, terminate()));
    let revoked = || Event::Revoked(revocation(1, terminate()));
    let mut poison = delivery();
    poison.losses = 5;
    let leftover = Event::Admitted { instead: Some(Settlement::Discard), revocation: None };
    for (delivery, events, word) in [
        (delivery(), vec![(0, recalled()), (0, revoked()), (1, admitted())], "Revoke"),
        (delivery(), vec![(0, recalled()), (1, leftover)], "Discard"),
        (poison, vec![(0, recalled()), (1, admitted())], "Fail"),
        (
            delivery(),
            vec![
                (0, admitted()),
                (1, recalled()),
                (2, revoked()),
                (3, stopped(StopReason::Revoked)),
            ],
            "Revoke",
        ),
    ] {
        let (_, effects) = run(&delivery, events);
        let settlement = format!("{:?}", last_settlement(&effects));
        assert!(settlement.starts_with(word), "{word}: {effects:?}");
    }
    let lost = vec![
        (0, admitted()),
        (1, Event::LeaseLost),
        (2, recalled()),
        (3, stopped(StopReason::LeaseLost)),
    ];
    assert_eq!(run(&delivery(), lost).1.last(), Some(&Effect::Retire(Retirement::Stale)));
}

#[test]
fn a_recall_stops_as_gently_as_it_was_asked_to() {
    let ask = |request| vec![(0, admitted()), (100, Event::Recalled(revocation(1, request)))];
    let cooperative = RevokeRequest { cooperative: true, ..terminate() };
    let (_, effects) = run(&delivery(), ask(cooperative));
    assert_eq!(effects[1], Effect::Stop { reason: StopReason::Recalled, force: false });

    let grace = RevokeRequest { grace_ms: Some(500), ..terminate() };
    let (mut attempt, effects) = run(&delivery(), ask(grace));
    assert!(matches!(&effects[1], Effect::Notify(notice)
            if notice.code == "worker-drain" && notice.force_after == Some(Duration::from_millis(500))));
    assert_eq!(attempt.next_wakeup(), Some(at(600)));
    let mut effects = Vec::new();
    attempt.handle(at(600), Event::Ticked, &mut effects);
    assert_eq!(effects, [Effect::Stop { reason: StopReason::Recalled, force: true }]);

    let exit = Event::Exited(Outcome::Succeeded(Payload::json("1")));
    let mut finishing = ask(RevokeRequest::default());
    finishing.push((200, exit));
    let (_, effects) = run(&delivery(), finishing);
    assert!(matches!(effects[1..], [Effect::Settle(Settlement::Succeed(_))]), "{effects:?}");
}

#[test]
fn a_renewal_that_crosses_the_settlement_does_not_hide_it() {
    let exit = Event::Exited(Outcome::Succeeded(Payload::json("1")));
    let (_, effects) = run(
        &delivery(),
        vec![(0, admitted()), (1, exit), (2, Event::LeaseLost), (3, Event::Settled)],
    );
    assert_eq!(effects.last(), Some(&Effect::Retire(Retirement::Settled)));
}

#[test]
fn a_draining_worker_waits_for_its_broker_no_longer_than_the_lease() {
    let exit = Event::Exited(Outcome::Succeeded(Payload::json("1")));
    let warm = Event::Draining { mode: Drain::Warm, grace: None };
    let (attempt, effects) = run(
        &delivery(),
        vec![
            (0, admitted()),
            (1, warm),
            (2, exit),
            (14_000, Event::SettleFailed),
            (15_000, Event::SettleFailed),
        ],
    );
    assert!(attempt.is_over());
    assert_eq!(effects.last(), Some(&Effect::Retire(Retirement::Abandoned)));
}

#[test]
fn a_task_whose_lease_ran_out_while_things_were_looked_up_does_not_start() {
    let (_, effects) = run(&delivery(), vec![(14_000, admitted())]);
    assert_eq!(effects, [Effect::Settle(Settlement::Release)]);
}

#[test]
fn a_shutdown_gives_the_task_back_and_cancels_nothing() {
    let soft = Event::Draining { mode: Drain::Soft, grace: Some(Duration::from_secs(1)) };
    let hard = Event::Draining { mode: Drain::Hard, grace: None };
    let (_, effects) = run(
        &delivery(),
        vec![(0, admitted()), (1, soft), (2, hard), (3, stopped(StopReason::Shutdown))],
    );
    assert!(matches!(effects[1], Effect::Notify(_)));
    assert_eq!(
        effects[2..],
        [
            Effect::Stop { reason: StopReason::Shutdown, force: true },
            Effect::Settle(Settlement::Release)
        ]
    );
}

#[test]
fn a_lease_is_renewed_after_a_third_and_given_up_before_its_end() {
    let (mut attempt, _) = run(&delivery(), vec![(0, admitted())]);
    assert_eq!(attempt.next_wakeup(), Some(at(5_000)));
    let mut effects = Vec::new();
    attempt.handle(at(5_000), Event::Ticked, &mut effects);
    assert_eq!(effects, [Effect::Renew]);
    attempt.handle(at(5_001), Event::Renewed { asked_at: at(5_000) }, &mut effects);
    assert_eq!(attempt.held_until(), at(20_000));
    effects.clear();
    attempt.handle(at(17_500), Event::Ticked, &mut effects);
    assert_eq!(
        effects,
        [Effect::Renew, Effect::Stop { reason: StopReason::LeaseLost, force: true }]
    );
}

#[test]
fn a_task_ten_times_longer_than_its_lease_keeps_it() {
    let (mut attempt, _) = run(&delivery(), vec![(0, admitted())]);
    attempt.rules.hard = Duration::from_secs(1000);
    attempt.hard_at = None;
    attempt.soft_at = None;
    let mut effects = Vec::new();
    while let Some(now) = attempt.next_wakeup().filter(|at| *at < self::at(150_000)) {
        attempt.handle(now, Event::Ticked, &mut effects);
        attempt.handle(now, Event::Renewed { asked_at: now }, &mut effects);
    }
    assert!(
        effects.len() >= 29 && effects.iter().all(|effect| *effect == Effect::Renew),
        "{effects:?}"
    );
}

#[test]
fn a_lost_lease_stops_the_handler_and_settles_nothing() {
    let (attempt, effects) = run(
        &delivery(),
        vec![(0, admitted()), (1, Event::LeaseLost), (2, stopped(StopReason::LeaseLost))],
    );
    assert!(attempt.is_over());
    assert_eq!(
        effects[1..],
        [
            Effect::Stop { reason: StopReason::LeaseLost, force: true },
            Effect::Retire(Retirement::Stale)
        ]
    );
}

#[test]
fn limits_notify_first_and_stop_then() {
    let (mut attempt, _) = run(&delivery(), vec![(0, admitted())]);
    attempt.held_until = at(1_000_000);
    attempt.renew_at = at(1_000_000);
    let mut effects = Vec::new();
    attempt.handle(at(40_000), Event::Ticked, &mut effects);
    assert!(matches!(&effects[..], [Effect::Notify(notice)] if notice.code == "soft-time-limit"));
    attempt.handle(at(60_000), Event::Ticked, &mut effects);
    assert_eq!(effects[1], Effect::Stop { reason: StopReason::TimeLimit, force: true });
    attempt.handle(at(60_001), stopped(StopReason::TimeLimit), &mut effects);
    let Settlement::Retry { failure, .. } = last_settlement(&effects) else {
        panic!("{effects:?}")
    };
    assert_eq!(failure.kind, FailureKind::TimeLimit);
}

#[test]
fn a_failure_names_the_limit_at_which_the_attempt_ended() {
    for (events, words) in [
        (vec![(60_000, Event::Ticked), (60_001, stopped(StopReason::TimeLimit))], "hard limit"),
        // It was told, and gave up by itself.
        (vec![(40_000, Event::Ticked), (40_001, stopped(StopReason::TimeLimit))], "soft limit"),
    ] {
        let (mut attempt, mut effects) = run(&delivery(), vec![(0, admitted())]);
        attempt.held_until = at(1_000_000);
        for (now, event) in events {
            attempt.handle(at(now), event, &mut effects);
        }
        let Settlement::Retry { failure, .. } = last_settlement(&effects) else {
            panic!("{effects:?}")
        };
        assert!(failure.message.contains(words), "{failure:?}");
    }
}

#[test]
fn a_limit_that_passes_before_it_has_a_place_uses_up_no_attempt() {
    let exit = Event::Exited(Outcome::Stopped {
        reason: StopReason::TimeLimit,
        how: StopHow::BeforeStart,
        elapsed: Duration::ZERO,
    });
    let (_, effects) = run(&delivery(), vec![(0, admitted()), (60_000, exit)]);
    assert_eq!(last_settlement(&effects), &Settlement::Release);
}

#[test]
fn the_producers_timeout_can_only_shorten_the_hard_limit() {
    let mut short = delivery();
    short.envelope.timeout = Some(Duration::from_secs(3));
    assert_eq!(run(&short, vec![(0, admitted())]).0.hard_at(), Some(at(3_000)));
    short.envelope.timeout = Some(Duration::from_mins(50));
    assert_eq!(run(&short, vec![(0, admitted())]).0.hard_at(), Some(at(60_000)));
}

#[test]
fn a_settlement_is_tried_until_the_broker_answers() {
    let exit = Event::Exited(Outcome::Succeeded(Payload::json("1")));
    let (mut attempt, mut effects) =
        run(&delivery(), vec![(0, admitted()), (0, exit), (0, Event::SettleFailed)]);
    assert_eq!(attempt.next_wakeup(), Some(at(100)));
    attempt.handle(at(100), Event::Ticked, &mut effects);
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Settle(_))).count(), 2);
    attempt.handle(at(110), Event::SettleStale, &mut effects);
    assert_eq!(effects.last(), Some(&Effect::Retire(Retirement::Stale)));
}

fn event() -> impl Strategy<Value = Event> {
    let version = 0u64..4;
    prop_oneof![
        Just(admitted()),
        Just(Event::Admitted { instead: Some(Settlement::Discard), revocation: None }),
        Just(Event::Exited(Outcome::Succeeded(Payload::json("1")))),
        Just(Event::Exited(Outcome::failed(FailureKind::Trap, "t", "t"))),
        Just(stopped(StopReason::Revoked)),
        Just(stopped(StopReason::Shutdown)),
        Just(stopped(StopReason::LeaseLost)),
        Just(Event::RenewalFailed),
        Just(Event::LeaseLost),
        (version, any::<bool>(), any::<bool>(), proptest::option::of(0u64..5_000)).prop_map(
            |(version, terminate, cooperative, grace_ms)| {
                Event::Revoked(revocation(
                    version,
                    RevokeRequest { terminate, cooperative, grace_ms, ..RevokeRequest::default() },
                ))
            }
        ),
        (0u64..4, any::<bool>()).prop_map(|(version, terminate)| {
            Event::Recalled(revocation(
                version,
                RevokeRequest { terminate, ..RevokeRequest::default() },
            ))
        }),
        Just(Event::Draining { mode: Drain::Warm, grace: None }),
        Just(Event::Draining { mode: Drain::Soft, grace: Some(Duration::from_secs(1)) }),
        Just(Event::Draining { mode: Drain::Hard, grace: None }),
        Just(Event::Ticked),
        Just(Event::Settled),
        Just(Event::SettleStale),
        Just(Event::SettleFailed),
    ]
}

proptest! {
    #[test]
    fn an_attempt_starts_once_settles_one_way_and_retires_once(events in proptest::collection::vec((event(), 0i64..4_000), 0..60)) {
        let mut attempt = Attempt::new(&delivery(), RULES, at(0), 1);
        let mut effects = Vec::new();
        let mut now = 0;
        for (event, step) in events {
            // The driver reports on a settlement only after it was ordered.
            let about_settling = matches!(event, Event::Settled | Event::SettleStale | Event::SettleFailed);
            if about_settling && !matches!(attempt.phase, Phase::Settling { again_at: None, .. }) {
                continue;
            }
            now += step;
            attempt.handle(at(now), event, &mut effects);
        }
        let count = |wanted: fn(&Effect) -> bool| effects.iter().filter(|effect| wanted(effect)).count();
        prop_assert!(count(|effect| *effect == Effect::Start) <= 1);
        prop_assert!(count(|effect| matches!(effect, Effect::Retire(_))) <= 1);
        let mut settlements: Vec<_> = effects.iter().filter_map(|effect| if let Effect::Settle(s) = effect { Some(s) } else { None }).collect();
        settlements.dedup();
        prop_assert!(settlements.len() <= 1, "{:?}", settlements);
        if let Some(position) = effects.iter().position(|effect| matches!(effect, Effect::Retire(_))) {
            prop_assert_eq!(position, effects.len() - 1);
        }
        prop_assert!(!attempt.is_over() || attempt.next_wakeup().is_none());
    }
}
