//! Histories written by hand: a good one that every rule lets pass, and for each rule one that it must not.

use stem_core::backend::broker::{Published, Renewed, Settled};
use stem_core::backend::dead_letter::Replayed;
use stem_core::backend::result::Recorded;
use stem_core::control::Drain;
use stem_core::id::{LeaseToken, QueueName, RequestId, TaskId, WorkerId};
use stem_core::observe::Ending;
use stem_core::revoke::{RevokeRequest, Version};
use stem_core::settlement::DeadReason;
use stem_core::task::TaskState;

use super::*;
use crate::fact::{End, Held, Move, Phase, Word};
use crate::plan::{Kinds, Layout};
use crate::trace::Keep;

const W0: Caller = Caller { host: HostId::Worker(0), start: 1 };
const W1: Caller = Caller { host: HostId::Worker(1), start: 1 };
const C0: Caller = Caller { host: HostId::Client(0), start: 1 };
const LEASE: u64 = 2_000;
/// The fields of [`Fact::Leased`] that a first delivery has.
const FIRST: (u32, u32, u32) = (1, 1, 0);

/// A history on its way to the judge.
struct Story {
    judge: Arc<Judge>,
    at: u64,
}

fn held(token: u64) -> Held {
    Held { task: TaskId::new("t000").unwrap(), token: LeaseToken(token) }
}

fn returned() -> Vec<u8> {
    b"\"t000/1/1\"".to_vec()
}

impl Story {
    /// Two workers with two places each are ready, and a producer has tried to enqueue a task.
    fn of(layout: Layout) -> Self {
        let mut plan = Plan::of_kinds(1, Kinds::default());
        plan.layout = layout;
        plan.window = 10;
        plan.call_limit = 1_000;
        plan.tasks.retain(|planned| planned.id == held(1).task);
        plan.tasks.iter_mut().for_each(|planned| planned.timeout = None);
        let judge = Judge::shared(&plan, Trace::new(Keep::Nothing));
        let mut story = Self { judge, at: 0 };
        for (caller, name) in [(W0, "one"), (W1, "two")] {
            let declared = crate::plan::Declared {
                name: WorkerId::new(name).unwrap(),
                concurrency: 2,
                prefetch: 2,
                lease: LEASE,
                max_losses: 3,
                staleness: 2_000,
                fail_open: false,
                autoscale: None,
                skew: 0,
                ppm: 0,
                ..plan.workers[0].clone()
            };
            story.tell(caller, Fact::Booted { config: Some(Arc::new(declared)) });
            story.learn(caller, &[]);
            story.tell(caller, Fact::Ready);
        }
        story.tell(C0, Fact::Booted { config: None });
        story.tell(C0, Fact::Tried { task: held(1).task });
        story.wait(100);
        story
    }

    fn new() -> Self {
        Self::of(Layout::Together)
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.at += ms;
        self
    }

    /// By this process, now; the server's clock is right.
    fn tell(&mut self, caller: Caller, fact: Fact) -> &mut Self {
        let at = Ms(self.at);
        let sent = Ms(self.at.saturating_sub(20));
        self.judge.calling(Call { at, clock: at.shown(), caller, sent });
        self.judge.tell(at, Some(caller), fact);
        self
    }

    fn publish(&mut self) -> &mut Self {
        self.publish_as(held(1).task)
    }

    fn publish_as(&mut self, task: TaskId) -> &mut Self {
        let fact = Fact::Published {
            task: task.clone(),
            queue: QueueName::new("sim").unwrap(),
            answer: Published::Stored,
            not_before: None,
            expires_at: None,
        };
        self.tell(C0, fact).tell(C0, Fact::Acknowledged { task })
    }

    /// The broker looks, and hands the task out.
    fn lease_as(&mut self, caller: Caller, token: u64, counted: (u32, u32, u32)) -> &mut Self {
        self.lease_of(caller, held(token), counted)
    }

    fn lease_of(&mut self, caller: Caller, held: Held, counted: (u32, u32, u32)) -> &mut Self {
        let at = Ms(self.at);
        self.judge.calling(Call { at, clock: at.shown(), caller, sent: at });
        self.judge.promoted();
        let (attempt, deliveries, losses) = counted;
        let until = at.after(LEASE).shown();
        let asked = LEASE;
        self.tell(caller, Fact::Leased { held, until, asked, attempt, deliveries, losses, max: 2 })
    }

    fn lease(&mut self, caller: Caller, token: u64) -> &mut Self {
        self.lease_as(caller, token, FIRST).tell(caller, Fact::Held(vec![held(token)]))
    }

    fn start(&mut self, caller: Caller, token: u64) -> &mut Self {
        self.tell(caller, Fact::Started { held: held(token), attempt: 1 })
    }

    fn end(&mut self, caller: Caller, token: u64, end: End) -> &mut Self {
        self.tell(caller, Fact::HandlerEnded { held: held(token), end })
    }

    fn settle(&mut self, caller: Caller, token: u64, by: Move) -> &mut Self {
        let (answer, children) = (Settled::Done, Vec::new());
        self.tell(caller, Fact::Settled { held: held(token), by, answer, children })
    }

    fn learn(&mut self, caller: Caller, revoked: &[u64]) -> &mut Self {
        let revoked = revoked.iter().map(|it| (held(1).task, Version(*it))).collect();
        let (sent, undone) = (Ms(self.at.saturating_sub(20)), Vec::new());
        let (after, upto) = (Version(0), Version(0));
        self.tell(caller, Fact::Learned { sent, after, upto, revoked, undone })
    }

    fn revoke(&mut self, version: u64, request: RevokeRequest) -> &mut Self {
        let (task, version) = (held(1).task, Version(version));
        self.tell(C0, Fact::RevokeStored { version, task: task.clone(), request })
            .tell(C0, Fact::RevokeAcknowledged { task, version })
    }

    fn command(&mut self, id: &str, order: Word, versions: Vec<(TaskId, Version)>) -> &mut Self {
        let expires_at = Ms(self.at).after(3_000).shown();
        let id = RequestId::new(id).unwrap();
        let fact =
            Fact::CommandStored { position: 1, id, order, versions, expires_at, targets: None };
        self.tell(C0, fact)
    }

    /// The world looks, and the store holds so many: ready, leased.
    fn look(&mut self, ready: u64, inflight: u64) -> &mut Self {
        let audit = Audit { ready, inflight, ..Audit::default() };
        self.look_at(&[], &audit)
    }

    fn look_at(&mut self, gauges: &[(Caller, Gauges)], audit: &Audit) -> &mut Self {
        let at = Ms(self.at);
        if self.judge.look(at, at.shown(), gauges, audit) {
            let known = vec![(held(1).task, TaskState::Queued)];
            self.judge.look(at, at.shown(), gauges, &Audit { known, ..audit.clone() });
        }
        self
    }

    #[track_caller]
    fn breaks(&mut self, rule: Rule) {
        let found = self.judge.violation();
        assert_eq!(found.as_ref().map(|found| found.rule), Some(rule), "{found:?}");
    }

    #[track_caller]
    fn holds(&mut self) {
        assert_eq!(self.judge.violation(), None);
    }
}

fn request(id: &str) -> RequestId {
    RequestId::new(id).unwrap()
}

#[test]
fn a_good_course_breaks_nothing() {
    let mut story = Story::new();
    story.publish().look(1, 0).lease(W0, 1).look(0, 1).start(W0, 1).wait(700);
    let until = Ms(story.at).after(LEASE).shown();
    story
        .tell(W0, Fact::Renewed { held: held(1), asked: LEASE, answer: Renewed::Until(until) })
        .end(W0, 1, End::Succeeded(returned()))
        .settle(W0, 1, Move::Succeed(returned()))
        .tell(W0, Fact::Retired { task: held(1).task, ending: Ending::Succeeded })
        .wait(5_000);
    let known = vec![(held(1).task, TaskState::Succeeded)];
    story.look_at(&[], &Audit { known, ..Audit::default() }).holds();
}

#[test]
fn what_is_acknowledged_is_there() {
    let mut story = Story::new();
    story.tell(C0, Fact::Acknowledged { task: held(1).task }).breaks(Rule::I1);
    let mut story = Story::new();
    let known = vec![(TaskId::new("another").unwrap(), TaskState::Queued)];
    story.publish().look_at(&[], &Audit { ready: 1, known, ..Audit::default() }).breaks(Rule::I1);
}

#[test]
fn a_task_ends_once_and_by_what_its_handler_returned() {
    let ended = || {
        let mut story = Story::new();
        story.publish().lease(W0, 1).start(W0, 1).end(W0, 1, End::Succeeded(returned()));
        story
    };
    ended().settle(W0, 1, Move::Succeed(b"\"other\"".to_vec())).breaks(Rule::I2);
    ended().settle(W0, 1, Move::Succeed(returned())).publish().breaks(Rule::I2);
    ended().settle(W0, 1, Move::Succeed(returned())).lease(W1, 2).breaks(Rule::I2);
    ended().settle(W0, 1, Move::Revoke { reason: None, requested_by: None }).breaks(Rule::I2);
}

/// A broker that keeps no records forgets what is final; a producer that was not told enqueues it once more.
#[test]
fn where_records_lie_apart_a_leftover_ends_without_a_trace() {
    let twice = |heir| {
        let mut story = Story::of(Layout::RecordsApart);
        let (by, answer) = (Move::Succeed(returned()), Recorded::Stored);
        story
            .publish()
            .lease(W0, 1)
            .tell(W0, Fact::Begun { held: held(1), attempt: 1, answer })
            .start(W0, 1)
            .end(W0, 1, End::Succeeded(returned()))
            .tell(W0, Fact::Recorded { held: held(1), by: by.clone(), answer })
            .settle(W0, 1, by)
            .publish()
            .lease(heir, 1);
        story
    };
    twice(W1).settle(W1, 1, Move::Discard).holds();
    twice(W1).start(W1, 1).breaks(Rule::I2);
    // The same call comes a second time, while its sender holds the leftover under the same token.
    twice(W0).settle(W0, 1, Move::Succeed(returned())).holds();
    twice(W1).settle(W1, 1, Move::Succeed(returned())).breaks(Rule::I2);
    twice(W0).settle(W0, 1, Move::Succeed(b"\"other\"".to_vec())).breaks(Rule::I2);
    // Never recorded, and gone: nobody will know of it.
    let mut story = Story::of(Layout::RecordsApart);
    story.publish().lease(W0, 1).settle(W0, 1, Move::Discard).breaks(Rule::I2);
}

#[test]
fn a_stale_token_does_nothing_and_the_newest_is_not_refused() {
    let taken_over = || {
        let mut story = Story::new();
        story.publish().lease_as(W0, 1, FIRST).wait(LEASE).lease_as(W1, 2, (1, 2, 1));
        story
    };
    taken_over().settle(W0, 1, Move::Release).breaks(Rule::I3);
    let until = Ms(9_000).shown();
    let renewed = |answer| Fact::Renewed { held: held(1), asked: LEASE, answer };
    taken_over().tell(W0, renewed(Renewed::Until(until))).breaks(Rule::I3);
    taken_over().tell(W0, renewed(Renewed::Stale)).holds();
    let answer = Recorded::Stored;
    taken_over().tell(W0, Fact::Progressed { held: held(1), answer }).breaks(Rule::I3);
    taken_over().tell(W0, Fact::Saved { held: held(1), answer }).breaks(Rule::I3);
    let (by, answer, children) = (Move::Release, Settled::Stale, Vec::new());
    taken_over().tell(W1, Fact::Settled { held: held(2), by, answer, children }).breaks(Rule::I3);
}

#[test]
fn a_delivery_is_handed_out_only_when_it_is_free_and_starts_once() {
    Story::new().publish().lease(W0, 1).lease(W1, 2).breaks(Rule::I4);
    Story::new().publish().lease(W0, 2).breaks(Rule::I4);
    Story::new().publish().lease(W0, 1).start(W0, 1).start(W0, 1).breaks(Rule::I4);
    Story::new().publish().lease(W0, 1).start(W1, 1).breaks(Rule::I4);
    // It was answered to nobody.
    Story::new().publish().lease_as(W0, 1, FIRST).start(W0, 1).breaks(Rule::I4);
}

#[test]
fn a_lease_is_lost_only_by_who_was_disturbed() {
    let lost = |with: Option<Fact>| {
        let mut story = Story::new();
        story.wait(5_000).publish().lease(W0, 1).start(W0, 1).wait(500);
        if let Some(fact) = with {
            story.tell(W0, fact);
        }
        story.wait(LEASE).look(1, 0);
        story
    };
    lost(None).breaks(Rule::I5);
    lost(Some(Fact::Stopped(5_000))).holds();
}

#[test]
fn a_store_holds_what_its_answers_come_to() {
    Story::new().publish().look(0, 0).breaks(Rule::I6);
    Story::new().publish().lease(W0, 1).look(1, 0).breaks(Rule::I6);
    let dead = vec![TaskId::new("t000").unwrap()];
    let audit = Audit { dead, ..Audit::default() };
    Story::new().publish().look_at(&[], &audit).breaks(Rule::I6);
}

#[test]
fn a_lease_is_as_long_as_was_asked_and_a_ready_task_is_taken() {
    let mut story = Story::new();
    let until = Ms(story.at).after(20 * LEASE).shown();
    let (held, asked, max) = (held(1), LEASE, 2);
    let (attempt, deliveries, losses) = FIRST;
    let leased = Fact::Leased { held, until, asked, attempt, deliveries, losses, max };
    story.publish().tell(W0, leased).breaks(Rule::I7);
    let idle = Gauges { concurrency: 2, ..Gauges::default() };
    let mut story = Story::new();
    story.wait(8_000).publish();
    for _ in 0..20 {
        let audit = Audit { ready: 1, ..Audit::default() };
        story.learn(W0, &[]).tell(W0, Fact::Asked { max: 2 });
        story.look_at(&[(W0, idle.clone())], &audit).wait(500);
    }
    story.breaks(Rule::I7);
}

#[test]
fn nothing_is_done_under_a_lease_that_is_over() {
    let child = TaskId::new("child").unwrap();
    let mut story = Story::new();
    story.publish().lease(W0, 1).start(W0, 1);
    story.wait(LEASE).tell(W0, Fact::Effect { held: held(1), child: child.clone() }).holds();
    story.wait(100).tell(W0, Fact::Effect { held: held(1), child }).breaks(Rule::I8);
    Story::new().publish().lease(W0, 1).wait(LEASE + 100).start(W0, 1).breaks(Rule::I8);
}

#[test]
fn what_is_counted_is_right_and_poison_is_stopped() {
    let lost = || {
        let mut story = Story::new();
        story.publish().lease_as(W0, 1, FIRST).wait(LEASE);
        story
    };
    lost().lease_as(W1, 2, (1, 2, 1)).holds();
    lost().lease_as(W1, 2, (1, 2, 0)).breaks(Rule::I10);
    lost().lease_as(W1, 2, (2, 2, 1)).breaks(Rule::I10);
    let poison = Move::Fail(DeadReason::Poison);
    lost().lease(W1, 2).breaks(Rule::I10);
    lost().lease_as(W1, 2, (1, 2, 1)).settle(W1, 2, poison).breaks(Rule::I10);
    // Three make poison of it here.
    let last = || {
        let mut story = lost();
        story.lease_as(W1, 2, (1, 2, 1)).wait(LEASE).lease_as(W0, 3, (1, 3, 2));
        story.tell(W0, Fact::Held(vec![held(3)])).start(W0, 3);
        story
    };
    let more = || Fact::Held(vec![Held { task: TaskId::new("more").unwrap(), ..held(1) }]);
    last().tell(W0, Fact::Held(Vec::new())).tell(W1, more()).holds();
    last().tell(W0, more()).breaks(Rule::I10);
}

#[test]
fn nothing_starts_beside_a_last_chance() {
    let other = || Held { task: TaskId::new("other").unwrap(), ..held(1) };
    // Two losses, where three make poison.
    let last = || {
        let mut story = Story::new();
        story.tell(C0, Fact::Tried { task: other().task });
        story.publish().publish_as(other().task).lease_as(W0, 1, FIRST).wait(LEASE);
        story.lease_as(W1, 2, (1, 2, 1)).wait(LEASE).lease_as(W0, 3, (1, 3, 2));
        story
    };
    let mut story = last();
    story.lease_of(W0, other(), FIRST).tell(W0, Fact::Held(vec![held(3), other()]));
    story.start(W0, 3).holds();
    story.tell(W0, Fact::Started { held: other(), attempt: 1 }).breaks(Rule::I10);
    // It came to one who had another in hand.
    let mut story = last();
    story.lease_of(W0, other(), FIRST).tell(W0, Fact::Held(vec![other()]));
    story.tell(W0, Fact::Held(vec![held(3)])).holds();
    story.start(W0, 3).breaks(Rule::I10);
    // And more was taken before it began.
    let mut story = last();
    story.lease_of(W0, other(), FIRST).tell(W0, Fact::Held(vec![held(3)]));
    story.tell(W0, Fact::Held(vec![other()])).breaks(Rule::I10);
}

#[test]
fn a_dead_letter_is_replayed_once() {
    let replay_by =
        |token, answer| Fact::Replayed { task: held(1).task, token: LeaseToken(token), answer };
    let replay = |answer| replay_by(1, answer);
    let mut story = Story::new();
    story.publish().lease(W0, 1).start(W0, 1).end(W0, 1, End::Failed { fatal: true });
    story.settle(W0, 1, Move::Fail(DeadReason::Fatal));
    story.tell(C0, replay(Replayed::Queued)).tell(C0, replay(Replayed::Absent)).holds();
    // It dies anew: what was asked for before that is not it.
    story.lease(W0, 2).start(W0, 2).end(W0, 2, End::Failed { fatal: true });
    story.settle(W0, 2, Move::Fail(DeadReason::Fatal));
    story.tell(C0, replay(Replayed::Absent)).tell(C0, replay_by(2, Replayed::Queued)).holds();
    story.tell(C0, replay_by(2, Replayed::Queued)).breaks(Rule::I11);
}

#[test]
fn a_dead_letter_is_not_replayed_by_an_older_token() {
    let mut story = Story::new();
    story.publish().lease(W0, 1).start(W0, 1).end(W0, 1, End::Failed { fatal: true });
    story.settle(W0, 1, Move::Fail(DeadReason::Fatal));
    let (task, answer) = (held(1).task, Replayed::Queued);
    story.tell(C0, Fact::Replayed { task, token: LeaseToken(0), answer }).breaks(Rule::I11);
}

#[test]
fn a_worker_holds_no_more_than_it_has_places() {
    Story::new().tell(W0, Fact::Held(vec![held(1), held(2), held(3)])).breaks(Rule::I12);
}

#[test]
fn a_command_carries_what_is_stored() {
    let carried = vec![(held(1).task, Version(1))];
    let given = || Fact::CommandsGiven { ids: vec![request("r1")] };
    let order = Word::Revoke;
    let mut story = Story::new();
    story.command("r1", order.clone(), carried.clone()).tell(W0, given()).breaks(Rule::I13);
    let mut story = Story::new();
    story.revoke(1, RevokeRequest::default()).command("r1", order, carried).tell(W0, given());
    story.holds();
}

#[test]
fn a_revocation_is_honoured_once_it_can_be_known_and_is_not_forgotten() {
    let revoked = || {
        let mut story = Story::new();
        story.publish().wait(5_000).revoke(1, RevokeRequest::default());
        story
    };
    revoked().wait(100).lease(W0, 1).start(W0, 1).holds();
    revoked().learn(W0, &[1]).wait(100).lease(W0, 1).start(W0, 1).breaks(Rule::I14);
    revoked().wait(5_000).lease(W0, 1).start(W0, 1).breaks(Rule::I14);
    revoked().learn(W0, &[1]).wait(3_000).lease(W0, 1).start(W0, 1).breaks(Rule::I19);
    // Stored at five seconds, over at ten.
    let until = Some(crate::fact::Ms(10_000).shown());
    let ends = |later: u64| {
        let mut story = Story::new();
        let request = RevokeRequest { expires_at: until, ..RevokeRequest::default() };
        story.publish().wait(5_000).revoke(1, request).learn(W0, &[1]).wait(later);
        story.lease(W0, 1).start(W0, 1);
        story
    };
    ends(3_500).breaks(Rule::I19);
    ends(5_000).holds();
    let mut cut_off = revoked();
    let (service, state) = (crate::fact::ServiceKind::Revokes, crate::fact::State::Held);
    cut_off.tell(W0, Fact::Link { service, state }).wait(5_000).lease(W0, 1).start(W0, 1).holds();
    let mut undone = revoked();
    undone.tell(C0, Fact::UndoStored { version: Version(2), task: held(1).task });
    undone.wait(5_000).lease(W0, 1).start(W0, 1).holds();
}

#[test]
fn a_worker_knows_what_was_revoked_before_it_began() {
    let mut story = Story::new();
    story.publish().revoke(1, RevokeRequest::default()).wait(100);
    let declared = story.judge.court().setting.declared(W0).cloned();
    let again = Caller { start: 2, ..W0 };
    story.tell(again, Fact::Booted { config: declared.map(Arc::new) }).tell(again, Fact::Ready);
    story.lease(again, 1).start(again, 1).breaks(Rule::I15);
}

#[test]
fn a_ping_is_answered_by_all_and_obeyed_once() {
    let pinged = |answers: bool| {
        let mut story = Story::new();
        story.wait(8_000).command("r1", Word::Ping, Vec::new()).wait(50);
        for caller in [W0, W1] {
            story.tell(caller, Fact::Heard(vec![request("r1")]));
            if answers || caller == W0 {
                story.tell(caller, Fact::Commanded { order: "ping", ok: true });
                story.tell(caller, Fact::Replied { id: request("r1"), ok: true });
            }
        }
        story
    };
    pinged(true).wait(5_000).look(0, 0).holds();
    pinged(false).wait(5_000).look(0, 0).breaks(Rule::I16);
    pinged(true).tell(W0, Fact::Commanded { order: "ping", ok: true }).breaks(Rule::I16);
    pinged(true).tell(W0, Fact::Replied { id: request("r2"), ok: true }).breaks(Rule::I16);
}

#[test]
fn a_command_is_not_obeyed_by_a_later_process_or_too_late() {
    let mut story = Story::new();
    let declared = story.judge.court().setting.declared(W0).cloned();
    let again = Caller { start: 2, ..W0 };
    story.command("r1", Word::Ping, Vec::new()).wait(100);
    story.tell(again, Fact::Booted { config: declared.map(Arc::new) });
    story.tell(again, Fact::Heard(vec![request("r1")]));
    story.tell(again, Fact::Replied { id: request("r1"), ok: true }).breaks(Rule::I18);
    let mut story = Story::new();
    story.command("r1", Word::Ping, Vec::new()).wait(4_000);
    story.tell(W0, Fact::Heard(vec![request("r1")]));
    story.tell(W0, Fact::Replied { id: request("r1"), ok: true }).breaks(Rule::I18);
}

#[test]
fn versions_grow_and_a_worker_shows_what_is_in_force() {
    let shows = |versions| Fact::Shows { worker: WorkerId::new("one").unwrap(), versions };
    let mut story = Story::new();
    story.revoke(2, RevokeRequest::default()).revoke(2, RevokeRequest::default()).breaks(Rule::I17);
    let revoked = || {
        let mut story = Story::new();
        story.wait(5_000).revoke(1, RevokeRequest::default()).wait(9_000);
        story
    };
    revoked().tell(C0, shows(Vec::new())).breaks(Rule::I17);
    revoked().tell(C0, shows(vec![(held(1).task, Version(1))])).holds();
    let mut story = revoked();
    story.tell(C0, Fact::UndoStored { version: Version(2), task: held(1).task }).wait(9_000);
    story.tell(C0, shows(vec![(held(1).task, Version(1))])).breaks(Rule::I17);
}

#[test]
fn a_worker_that_has_not_looked_asks_for_nothing() {
    let asked = || Fact::Asked { max: 1 };
    Story::new().wait(1_500).tell(W0, asked()).holds();
    Story::new().wait(3_000).tell(W0, asked()).breaks(Rule::I20);
}

#[test]
fn a_terminated_handler_ends_and_so_does_its_task() {
    let terminated = || {
        let mut story = Story::new();
        let terminate = RevokeRequest { terminate: true, ..RevokeRequest::default() };
        story.publish().lease(W0, 1).start(W0, 1).revoke(1, terminate).learn(W0, &[1]);
        story
    };
    terminated().wait(1_000).look(0, 1).breaks(Rule::I21);
    terminated().wait(200).end(W0, 1, End::Dropped).wait(500).look(0, 1).holds();
    let mut story = terminated();
    story.wait(200).end(W0, 1, End::Succeeded(returned()));
    story.settle(W0, 1, Move::Succeed(returned())).breaks(Rule::I21);
}

#[test]
fn an_attempt_is_used_up_only_by_its_handler_and_a_drain_ends() {
    let retry = || Move::Retry { not_before: Ms(0).shown() };
    let run = |end| {
        let mut story = Story::new();
        story.publish().lease(W0, 1).start(W0, 1).end(W0, 1, end).settle(W0, 1, retry());
        story
    };
    run(End::Failed { fatal: false }).holds();
    run(End::Dropped).breaks(Rule::I23);
    let drain =
        Fact::DrainAsked { worker: WorkerId::new("one").unwrap(), mode: Drain::Hard, grace: None };
    let mut story = Story::new();
    story.wait(8_000).tell(W0, drain.clone()).wait(4_000).look(0, 0).breaks(Rule::I23);
    let mut story = Story::new();
    story
        .wait(8_000)
        .tell(W0, drain)
        .wait(500)
        .tell(W0, Fact::Gone { why: crate::fact::Why::Drained });
    story.wait(4_000).look(0, 0).holds();
}

#[test]
fn no_more_run_at_once_than_is_declared() {
    let gauges = |concurrency| [(W0, Gauges { concurrency, ..Gauges::default() })];
    Story::new().look_at(&gauges(2), &Audit::default()).holds();
    Story::new().look_at(&gauges(3), &Audit::default()).breaks(Rule::I24);
}

#[test]
fn everything_ends_once_all_is_good_and_no_worker_falls_silent() {
    let mut story = Story::new();
    story.publish().tell(C0, Fact::Phase(Phase::Healed { bound: Ms(9_000) })).holds();
    story.tell(C0, Fact::Phase(Phase::Draining)).breaks(Rule::I28);
    let mut story = Story::new();
    story.publish();
    let at = Ms(story.at);
    story.judge.tell(at, None, Fact::Stepped(-500));
    story.judge.tell(at, None, Fact::Phase(Phase::Draining));
    story.breaks(Rule::I9);
    let idle = Gauges { concurrency: 2, ..Gauges::default() };
    let mut story = Story::new();
    for _ in 0..30 {
        story.wait(500).look_at(&[(W0, idle.clone())], &Audit::default());
    }
    story.breaks(Rule::I28);
}
