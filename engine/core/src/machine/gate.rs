//! Whether a command that a worker has read acts there.
//!
//! Judged is what the command itself says, never what a log says of it: who can write to the log can change that. A
//! command without a signature is judged by what needs none; one whose signature holds also by its times and its key.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use crate::control::Command;
use crate::id::{Namespace, RequestId, WorkerId};
use crate::seal::{By, Refused, Role};
use crate::time::Timestamp;

/// How far ahead of a worker's clock an operator's may be. The other way nothing is given: what has expired has.
pub const SKEW: Duration = Duration::from_mins(1);
/// The longest that a signed command may hold, from its issue on. It bounds for how long one that was held back can be let
/// go, and how long its id must be remembered.
pub const LONGEST: Duration = Duration::from_hours(1);
/// So many ids are remembered of signed orders, of signed questions, and of what is not signed. One of each kind every
/// 360 ms for an hour.
pub const REMEMBERED: usize = 10_000;

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is obeyed.
    Act,
    /// Others are meant.
    NotOurs,
    /// Its signature holds and its key may not order this; whoever holds a known key is told so.
    NotAllowed,
    /// It does nothing, and nobody is told but those who look after this worker.
    Refused(Refused),
}

/// Judges commands, and remembers those that acted until they cannot any more.
#[derive(Debug)]
pub struct Gate {
    namespace: Namespace,
    worker: WorkerId,
    /// Of holders of keys. Nothing of it is forgotten while it could act again.
    orders: Acted,
    /// Apart, so that a key which may only ask cannot fill up what orders need.
    questions: Acted,
    unsigned: Acted,
    /// What would be forgotten by now had it acted may have acted, also after the clock was set back.
    forgotten: Timestamp,
}

/// Ids of commands that acted, by when they may be forgotten.
#[derive(Debug, Default)]
struct Acted {
    ids: HashSet<RequestId>,
    until: BTreeSet<(Timestamp, RequestId)>,
}

impl Acted {
    /// Forgets what is over; until when the last of that was to be remembered.
    fn forget(&mut self, now: Timestamp) -> Option<Timestamp> {
        let mut last = None;
        while let Some((until, _)) = self.until.first().filter(|(until, _)| *until <= now) {
            last = Some(*until);
            self.forget_first();
        }
        last
    }

    fn forget_first(&mut self) {
        if let Some((_, id)) = self.until.pop_first() {
            self.ids.remove(&id);
        }
    }

    fn is_full(&self) -> bool {
        self.ids.len() >= REMEMBERED
    }

    fn remember(&mut self, command: &Command) {
        self.ids.insert(command.request_id.clone());
        self.until.insert((until(command), command.request_id.clone()));
    }

    /// In the place of the oldest, if there is no room.
    fn remember_for_now(&mut self, command: &Command) {
        if self.is_full() {
            self.forget_first();
        }
        self.remember(command);
    }
}

/// A little longer than it holds: a clock that is set back must not make it new.
fn until(command: &Command) -> Timestamp {
    command.expires_at.after(SKEW)
}

impl Gate {
    /// The gate of a worker that starts.
    pub fn new(namespace: Namespace, worker: WorkerId) -> Self {
        Self {
            namespace,
            worker,
            orders: Acted::default(),
            questions: Acted::default(),
            unsigned: Acted::default(),
            forgotten: Timestamp::default(),
        }
    }

    /// Judges a command that was read `now`, `up` after the worker started. `by` is whose signature over it holds; without
    /// one nothing is asked that only a signature can prove. `up` is measured apart from the clock that gives `now`, so that
    /// a clock which is set back refuses nothing that is new.
    pub fn judge(
        &mut self,
        now: Timestamp,
        up: Duration,
        command: &Command,
        by: Option<&By>,
    ) -> Verdict {
        if command.namespace != self.namespace {
            return Verdict::Refused(Refused::WrongScope);
        }
        // An empty list is nobody.
        if command.targets.as_ref().is_some_and(|targets| !targets.contains(&self.worker)) {
            return Verdict::NotOurs;
        }
        if command.expires_at <= now {
            return Verdict::Refused(Refused::Expired);
        }
        let role = command.order.role();
        if by.is_some()
            && let Err(refused) = in_time(now, up, command, role)
        {
            return Verdict::Refused(refused);
        }
        let mut all = [&mut self.orders, &mut self.questions, &mut self.unsigned];
        let last = all.iter_mut().filter_map(|acted| acted.forget(now)).max();
        self.forgotten = last.map_or(self.forgotten, |last| last.max(self.forgotten));
        if until(command) <= self.forgotten {
            return Verdict::Refused(Refused::Expired);
        }
        if all.iter().any(|acted| acted.ids.contains(&command.request_id)) {
            return Verdict::Refused(Refused::Replayed);
        }
        match (by, role) {
            (Some(by), _) if !by.may.allow(role) => return Verdict::NotAllowed,
            // Only holders of keys that may order can fill it.
            (Some(_), Role::Control) if self.orders.is_full() => {
                return Verdict::Refused(Refused::TooMany);
            }
            (Some(_), Role::Control) => self.orders.remember(command),
            // A question may be asked twice.
            (Some(_), _) => self.questions.remember_for_now(command),
            // Anybody can fill this one, and who can could send the same again under another id.
            (None, _) => self.unsigned.remember_for_now(command),
        }
        Verdict::Act
    }
}

/// The times of a signed command, of which the end is judged already.
fn in_time(now: Timestamp, up: Duration, command: &Command, role: Role) -> Result<(), Refused> {
    if command.issued_at > now.after(SKEW) {
        return Err(Refused::FromTheFuture);
    }
    if command.expires_at.since(command.issued_at) > LONGEST {
        return Err(Refused::TooLong);
    }
    // A worker that starts has forgotten what acted before. A question may be asked twice.
    if role == Role::Control && now.since(command.issued_at) > up {
        return Err(Refused::BeforeStart);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::control::{Drain, Order};
    use crate::id::{KeyId, QueueName};
    use crate::seal::Roles;

    const MILLI: Duration = Duration::from_millis(1);
    const UP: Duration = Duration::from_mins(10);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(1_795_305_600_000 + millis)
    }

    fn worker(name: &str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    fn gate() -> Gate {
        Gate::new(Namespace::new("stem").unwrap(), worker("w"))
    }

    fn shutdown() -> Order {
        Order::Shutdown { mode: Drain::Hard, grace_ms: None }
    }

    /// Issued now for half a minute.
    fn command(id: &str, order: Order) -> Command {
        Command {
            request_id: RequestId::new(id).unwrap(),
            namespace: Namespace::new("stem").unwrap(),
            targets: None,
            order,
            issued_at: at(0),
            expires_at: at(30_000),
            requester: "ann".to_owned(),
        }
    }

    fn key(roles: &[Role]) -> By {
        let may = Roles::new(roles.iter().copied());
        By { key: KeyId::new("ops").unwrap(), may, workers: None }
    }

    fn orders() -> Vec<Order> {
        let queues = || vec![QueueName::new("q").unwrap()];
        vec![
            Order::Ping {},
            Order::Inspect { include_revoked: true },
            Order::Stats {},
            Order::Revoke { revocations: Vec::new() },
            shutdown(),
            Order::Pause { queues: queues(), reason: None },
            Order::Resume { queues: queues(), reason: None },
        ]
    }

    /// The first look of a new gate at a command that was changed so, unsigned and signed.
    fn both(change: impl FnOnce(&mut Command)) -> [Verdict; 2] {
        let mut command = command("r", shutdown());
        change(&mut command);
        let by = key(&[Role::Control]);
        [None, Some(&by)].map(|by| gate().judge(at(0), UP, &command, by))
    }

    #[test]
    fn each_thing_that_a_command_says_is_judged() {
        use Refused::{BeforeStart, Expired, FromTheFuture, TooLong, WrongScope};
        use Verdict::{Act, NotOurs, Refused as No};
        let hour = i64::try_from(LONGEST.as_millis()).unwrap();
        let up = i64::try_from(UP.as_millis()).unwrap();
        let skew = i64::try_from(SKEW.as_millis()).unwrap();
        assert_eq!(both(|_| ()), [Act, Act]);
        let elsewhere = |command: &mut Command| command.namespace = Namespace::new("x").unwrap();
        assert_eq!(both(elsewhere), [No(WrongScope); 2]);
        for (targets, verdict) in
            [(&["v", "w"][..], Act), (&["v"], NotOurs), (&["W"], NotOurs), (&[], NotOurs)]
        {
            let targets = Some(targets.iter().map(|name| worker(name)).collect());
            assert_eq!(both(|command| command.targets = targets), [verdict; 2]);
        }
        for (issued, expires, verdicts) in [
            (-1_000, 1, [Act, Act]),
            (-1_000, 0, [No(Expired); 2]),
            (-1_000, -1, [No(Expired); 2]),
            (skew, skew + 1, [Act, Act]),
            (skew + 1, skew + 2, [Act, No(FromTheFuture)]),
            (0, hour, [Act, Act]),
            (0, hour + 1, [Act, No(TooLong)]),
            (-up, 1, [Act, Act]),
            (-up - 1, 1, [Act, No(BeforeStart)]),
        ] {
            let times = |command: &mut Command| {
                (command.issued_at, command.expires_at) = (at(issued), at(expires));
            };
            assert_eq!(both(times), verdicts, "{issued} {expires}");
        }
    }

    #[test]
    fn a_key_orders_what_its_role_allows() {
        for order in orders() {
            let command = command("r", order);
            let asks =
                matches!(command.order, Order::Ping {} | Order::Inspect { .. } | Order::Stats {});
            for (roles, may) in [
                (&[Role::Control][..], true),
                (&[Role::Inspect], asks),
                (&[Role::Publish, Role::Worker], false),
                (&[], false),
                (&[Role::Inspect, Role::Control], true),
            ] {
                let verdict = gate().judge(at(0), UP, &command, Some(&key(roles)));
                let expected = if may { Verdict::Act } else { Verdict::NotAllowed };
                assert_eq!(verdict, expected, "{roles:?} {:?}", command.order);
            }
            // A question of before the start may be asked again, an order may not.
            let verdict = gate().judge(at(0), Duration::ZERO, &command, None);
            assert_eq!(verdict, Verdict::Act);
            let verdict =
                gate().judge(at(1), Duration::ZERO, &command, Some(&key(&[Role::Control])));
            let refused = Verdict::Refused(Refused::BeforeStart);
            assert_eq!(verdict, if asks { Verdict::Act } else { refused });
        }
    }

    #[test]
    fn a_command_acts_once_and_what_did_not_act_is_not_remembered() {
        let replayed = Verdict::Refused(Refused::Replayed);
        let control = key(&[Role::Control]);
        for by in [None, Some(&control)] {
            for again in [None, Some(&control)] {
                let mut gate = gate();
                let command = command("r", shutdown());
                assert_eq!(gate.judge(at(0), UP, &command, Some(&key(&[]))), Verdict::NotAllowed);
                assert_eq!(gate.judge(at(0), UP, &command, by), Verdict::Act);
                assert_eq!(gate.judge(at(29_999), UP, &command, again), replayed);
                // The same id says nothing new, whatever stands beside it.
                let longer = Command { expires_at: at(90_000), ..command.clone() };
                assert_eq!(gate.judge(at(29_999), UP, &longer, again), replayed);
                let expired = Verdict::Refused(Refused::Expired);
                assert_eq!(gate.judge(at(30_000), UP, &command, again), expired);
                // A clock that is set back.
                assert_eq!(gate.judge(at(89_999), UP, &command, again), expired);
                assert_eq!(gate.judge(at(0), UP, &command, again), replayed);
            }
        }
    }

    #[test]
    fn a_worker_that_starts_again_obeys_nothing_of_before() {
        let control = key(&[Role::Control]);
        let command = command("r", shutdown());
        assert_eq!(gate().judge(at(5), UP, &command, Some(&control)), Verdict::Act);
        for up in [Duration::ZERO, MILLI * 9] {
            let verdict = gate().judge(at(10), up, &command, Some(&control));
            assert_eq!(verdict, Verdict::Refused(Refused::BeforeStart));
        }
        assert_eq!(gate().judge(at(10), MILLI * 10, &command, Some(&control)), Verdict::Act);
    }

    #[test]
    fn the_memory_is_bounded_and_a_flood_without_keys_keeps_no_key_out() {
        let (mut gate, control) = (gate(), key(&[Role::Control]));
        for n in 0..=REMEMBERED {
            let command = command(&format!("u{n}"), Order::Ping {});
            assert_eq!(gate.judge(at(0), UP, &command, None), Verdict::Act);
        }
        assert_eq!((gate.unsigned.ids.len(), gate.unsigned.until.len()), (REMEMBERED, REMEMBERED));
        // Who may only ask keeps no order out, and who may order no question.
        for n in 0..=REMEMBERED {
            let command = command(&format!("q{n}"), Order::Ping {});
            let by = key(&[Role::Inspect]);
            assert_eq!(gate.judge(at(0), UP, &command, Some(&by)), Verdict::Act);
        }
        assert_eq!(gate.questions.ids.len(), REMEMBERED);
        for n in 0..REMEMBERED {
            let command = command(&format!("s{n}"), shutdown());
            assert_eq!(gate.judge(at(0), UP, &command, Some(&control)), Verdict::Act);
        }
        let question = command("question", Order::Ping {});
        assert_eq!(gate.judge(at(0), UP, &question, Some(&control)), Verdict::Act);
        let more = command("more", shutdown());
        let full = Verdict::Refused(Refused::TooMany);
        assert_eq!(gate.judge(at(0), UP, &more, Some(&control)), full);
        let later = Command { issued_at: at(80_000), expires_at: at(99_000), ..more };
        assert_eq!(gate.judge(at(89_999), UP, &later, Some(&control)), full);
        assert_eq!(gate.judge(at(90_000), UP, &later, Some(&control)), Verdict::Act);
        let left = [&gate.orders, &gate.questions, &gate.unsigned].map(|acted| acted.ids.len());
        assert_eq!(left, [1, 0, 0]);
    }

    #[test]
    fn a_clock_that_went_ahead_and_came_back_makes_nothing_new() {
        let control = key(&[Role::Control]);
        let (mut gate, command) = (gate(), command("r", shutdown()));
        assert_eq!(gate.judge(at(0), UP, &command, Some(&control)), Verdict::Act);
        let other = Command {
            request_id: RequestId::new("other").unwrap(),
            issued_at: at(90_000),
            expires_at: at(120_000),
            ..command.clone()
        };
        assert_eq!(gate.judge(at(90_000), UP, &other, Some(&control)), Verdict::Act);
        for by in [None, Some(&control)] {
            let verdict = gate.judge(at(0), UP, &command, by);
            assert_eq!(verdict, Verdict::Refused(Refused::Expired));
        }
        // What holds for longer than what was forgotten is new.
        let fresh = RequestId::new("fresh").unwrap();
        let fresh = Command { request_id: fresh, expires_at: at(30_001), ..command };
        assert_eq!(gate.judge(at(0), UP, &fresh, Some(&control)), Verdict::Act);
    }

    /// Now and then the clock steps, either way, by up to three minutes.
    fn steps() -> impl Strategy<Value = i64> {
        prop_oneof![4 => Just(0_i64), 1 => -180_000_i64..180_000]
    }

    proptest! {
        #[test]
        fn whatever_is_said_again_acts_at_most_once(
            lives in proptest::collection::vec((-3_000_i64..3_000, 1_i64..9_000), 1..8),
            said in proptest::collection::vec((any::<proptest::sample::Index>(), 0_i64..2_000, any::<bool>(), steps()), 1..60),
        ) {
            let commands: Vec<Command> = lives
                .iter()
                .enumerate()
                .map(|(n, (issued, life))| Command {
                    issued_at: at(*issued),
                    expires_at: at(issued + life),
                    ..command(&format!("r{n}"), shutdown())
                })
                .collect();
            let (mut gate, control) = (gate(), key(&[Role::Control]));
            let (mut now, mut acted) = (0, HashMap::<RequestId, u32>::new());
            for (which, later, signed, step) in said {
                now += later + step;
                let command = which.get(&commands);
                let by = signed.then_some(&control);
                if gate.judge(at(now), MILLI * 500, command, by) == Verdict::Act {
                    *acted.entry(command.request_id.clone()).or_default() += 1;
                    prop_assert!(command.expires_at > at(now));
                }
            }
            prop_assert!(acted.values().all(|times| *times == 1), "{acted:?}");
        }
    }
}
