//! [`PLANTS`]: bugs that are planted on purpose, each with the rule that must find it. No product code knows of them: each
//! stands between a worker and its line, between a witness and its store, or is a wrong clock or a wrong setting.

mod scale;
mod store;
mod worker;

use std::fmt;
use std::sync::Arc;

use stem_core::control::Drain;
use stem_core::id::TaskId;
use stem_core::revoke::RevokeRequest;
use stem_engine::WorkerConfig;

use crate::dice::Dice;
use crate::fact::{HostId, Ms, ServiceKind, State};
use crate::judge::Rule;
use crate::plan::{Act, Kinds, Plan};
use crate::script::{Script, Step};
use crate::tap::Mischief;

/// Where a bug lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// In the stores.
    Store,
    /// In the first worker.
    Worker,
    /// In the first client.
    Client,
    /// In the first worker's settings.
    Config,
    /// In a clock, which knows the plant by its name.
    Clock,
}

/// A bug.
#[derive(Clone, Copy)]
pub struct Plant {
    /// Its name.
    pub name: &'static str,
    /// What finds it.
    pub rule: Rule,
    /// What may find its consequences first.
    pub also: &'static [Rule],
    /// Where it lives.
    pub at: Side,
    /// What it does; nothing for those that are a setting or a clock alone.
    pub make: fn(Dice) -> Arc<dyn Mischief>,
    /// Turns on what it needs to show itself.
    pub plan: fn(&mut Plan),
    /// What the worker is really given.
    pub config: fn(&mut WorkerConfig),
}

impl fmt::Debug for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plant({}, {})", self.name, self.rule)
    }
}

/// By its name.
pub fn by_name(name: &str) -> Option<&'static Plant> {
    PLANTS.iter().find(|plant| plant.name == name)
}

/// Changes nothing.
fn as_declared(_: &mut WorkerConfig) {}

/// Does nothing.
#[derive(Debug)]
struct Nothing;

impl Mischief for Nothing {}

fn nothing(_: Dice) -> Arc<dyn Mischief> {
    Arc::new(Nothing)
}

/// Only these kinds of trouble, with everything else as the seed has it.
fn only(plan: &mut Plan, kinds: Kinds) {
    *plan = Plan::of_kinds(plan.seed, kinds);
}

/// What makes tokens stale: stops longer than a lease, and calls that arrive after it.
fn stale_tokens(plan: &mut Plan) {
    only(plan, Kinds::PAUSE.with(Kinds::SLOW).with(Kinds::LINKS));
}

/// What a worker has to write down arrives when its leases are over.
fn late_records(plan: &mut Plan) {
    calm(plan);
    let (host, lease) = (HostId::Worker(0), plan.longest_lease());
    for task in plan.tasks.iter_mut().step_by(3) {
        task.script = Script(vec![Step::Progress, Step::Work(200), Step::Save, Step::Work(1_000)]);
    }
    for at in (1_000..13_000).step_by(4_000) {
        put(plan, at, Act::Link(host, ServiceKind::Records, State::Held, lease * 2 + 500));
        let down = State::Down { quick: true };
        put(plan, at + 300, Act::Link(host, ServiceKind::Broker, down, lease + lease / 2));
    }
}

fn put(plan: &mut Plan, at: u64, act: Act) {
    plan.acts.entry(Ms(at)).or_default().push(act);
}

fn calm(plan: &mut Plan) {
    only(plan, Kinds::default());
}

fn crashes(plan: &mut Plan) {
    only(plan, Kinds::CRASH.with(Kinds::POISON));
}

fn poison(plan: &mut Plan) {
    only(plan, Kinds::CRASH.with(Kinds::POISON).with(Kinds::REPLAYS));
}

/// The server's clock is set back by far more than a lease, and set right when all else is.
fn clocks(plan: &mut Plan) {
    only(plan, Kinds::CRASH);
    put(plan, 5_000, Act::StepServer(-600_000));
}

fn revocations(plan: &mut Plan) {
    only(plan, Kinds::REVOKES);
}

/// One task more every few milliseconds from the beginning, and a worker whose way to the log is long.
fn revocations_at_start(plan: &mut Plan) {
    calm(plan);
    plan.workers.iter_mut().for_each(|worker| worker.ahead = None);
    let way = State::Slow(300);
    put(plan, 0, Act::Link(HostId::Worker(0), ServiceKind::Broker, way, 2_000));
    let tasks: Vec<TaskId> = plan.tasks.iter().map(|task| task.id.clone()).take(100).collect();
    for (at, task) in (0..).step_by(20).zip(tasks) {
        put(plan, at, Act::Revoke(vec![task], RevokeRequest::default(), None));
    }
}

/// What comes in the first seconds is revoked, one task every few milliseconds, before any worker runs: all read ahead.
fn revocations_before_running(plan: &mut Plan) {
    calm(plan);
    plan.workers.iter_mut().for_each(|worker| worker.ahead = Some(3_000));
    let tasks = plan.tasks.iter().filter(|task| task.at < Ms(3_000));
    let tasks: Vec<TaskId> = tasks.map(|task| task.id.clone()).collect();
    for (at, task) in (200..2_000).step_by(20).zip(tasks) {
        put(plan, at, Act::Revoke(vec![task], RevokeRequest::default(), None));
    }
}

/// Twice a second ten tasks, which are to end wherever they are.
fn many_revocations(plan: &mut Plan) {
    calm(plan);
    let request = RevokeRequest { terminate: true, ..RevokeRequest::default() };
    let tasks: Vec<TaskId> = plan.tasks.iter().map(|task| task.id.clone()).collect();
    for (at, some) in (3_000..).step_by(500).zip(tasks.chunks(10)) {
        put(plan, at, Act::Revoke(some.to_vec(), request.clone(), None));
    }
}

/// The same, for half a minute each, and a worker whose clock is ten minutes ahead.
fn short_revocations(plan: &mut Plan) {
    many_revocations(plan);
    plan.workers[0].skew = 600_000;
    for act in plan.acts.values_mut().flatten() {
        if let Act::Revoke(_, _, expiry) = act {
            *expiry = Some(30_000);
        }
    }
}

fn commands(plan: &mut Plan) {
    only(plan, Kinds::ORDERS);
}

/// Pings all the time, and starts that are younger than some of them.
fn commands_and_starts(plan: &mut Plan) {
    calm(plan);
    for at in (500..14_000).step_by(500) {
        put(plan, at, Act::Ping(None, 2_000));
    }
    for at in [3_100, 6_100, 9_100] {
        put(plan, at, Act::Crash(HostId::Worker(0)));
        put(plan, at + 1_000, Act::Start(HostId::Worker(0), None));
    }
}

/// Pings that hold for a moment, to a worker that is stopped now and then.
fn short_commands(plan: &mut Plan) {
    calm(plan);
    for at in (500..14_000).step_by(50) {
        put(plan, at, Act::Ping(None, 60));
    }
    for at in (1_005..14_000).step_by(1_000) {
        put(plan, at, Act::Pause(HostId::Worker(0), 600));
    }
}

fn cut_off_from_revocations(plan: &mut Plan) {
    only(plan, Kinds::SERVICES.with(Kinds::LINKS));
    plan.workers.iter_mut().for_each(|worker| worker.fail_open = false);
}

fn drains(plan: &mut Plan) {
    only(plan, Kinds::DRAINS);
}

/// Long tasks, and a worker that is told to finish them, and then to stop at once.
fn escalations(plan: &mut Plan) {
    calm(plan);
    plan.call_limit = 1_000;
    for task in plan.tasks.iter_mut().step_by(3) {
        task.script = Script(vec![Step::Work(9_000)]);
    }
    let host = HostId::Worker(0);
    for (at, mode) in [(4_000, Drain::Warm), (5_000, Drain::Hard)] {
        put(plan, at, Act::Drain { host, mode, grace: None, remote: true });
    }
}

/// With a short patience, so that what a lost call has held up is over soon.
fn lost_calls(plan: &mut Plan) {
    only(plan, Kinds::LOST_REQUEST);
    plan.call_limit = 1_000;
}

macro_rules! plant {
    ($name:literal, $rule:ident $(+ $also:ident)*, $side:ident, $make:expr, $plan:expr) => {
        Plant {
            name: $name,
            rule: Rule::$rule,
            also: &[$(Rule::$also),*],
            at: Side::$side,
            make: $make,
            plan: $plan,
            config: as_declared,
        }
    };
}

/// All of them.
pub static PLANTS: &[Plant] = &[
    plant!("says-stored", I1 + I6, Store, store::says_stored, calm),
    plant!("loses-retries", I6, Store, store::loses_retries, calm),
    plant!("keeps-what-ended", I2 + I6, Store, store::keeps_what_ended, calm),
    plant!("childless", I6, Store, store::childless, calm),
    plant!("takes-stale-settlements", I3, Store, store::takes_stale_settlements, stale_tokens),
    plant!("takes-stale-renewals", I3, Store, store::takes_stale_renewals, stale_tokens),
    plant!("takes-stale-progress", I3, Store, store::takes_stale_progress, late_records),
    plant!("takes-stale-checkpoints", I3, Store, store::takes_stale_checkpoints, late_records),
    plant!("two-holders", I4, Store, store::two_holders, calm),
    plant!("token-stands-still", I4, Store, store::token_stands_still, crashes),
    plant!("long-leases", I7, Store, store::long_leases, calm),
    plant!("sleeps-on-work", I7, Store, store::sleeps_on_work, calm),
    plant!("forgets-losses", I10, Store, store::forgets_losses, crashes),
    plant!("replays-twice", I11, Store, store::replays_twice, poison),
    plant!("shared-group", I16, Store, store::shared_group, commands),
    plant!("clock-stops-in-pause", I8 + I20, Clock, nothing, stale_tokens),
    plant!("frozen-after-step-back", I9 + I7 + I28, Clock, nothing, clocks),
    plant!("wrong-result", I2, Worker, worker::wrong_result, calm),
    plant!("never-renews", I5, Worker, worker::never_renews, calm),
    plant!("renews-too-late", I5, Worker, worker::renews_too_late, calm).with(worker::long_belief),
    plant!("joins-the-last-chance", I10, Worker, worker::joins_the_last_chance, crashes),
    plant!("starts-what-came-with-it", I10, Worker, worker::starts_what_came_with_it, crashes),
    plant!("brings-the-last-chance-in", I10, Worker, worker::brings_the_last_chance_in, crashes),
    plant!("poison-at-once", I10, Config, nothing, crashes).with(worker::impatient),
    plant!("patient-with-poison", I10, Config, nothing, crashes).with(worker::patient),
    plant!("hoards", I12, Worker, worker::hoards, calm),
    plant!("tells-first", I13, Client, worker::tells_first, revocations),
    plant!(
        "deaf-to-revocations",
        I14 + I15 + I17 + I19 + I21,
        Worker,
        worker::deaf_to_revocations,
        many_revocations
    ),
    plant!(
        "hydrates-then-subscribes",
        I15 + I14 + I17 + I19 + I21,
        Worker,
        worker::subscribes_late,
        revocations_at_start
    ),
    plant!(
        "trusts-the-reading-ahead",
        I15 + I14 + I17 + I19,
        Worker,
        worker::trusts_the_reading_ahead,
        revocations_before_running
    ),
    plant!("executes-twice", I16, Worker, worker::executes_twice, commands),
    plant!("ignores-undo", I17 + I15, Worker, worker::ignores_undo, revocations),
    plant!("first-word-wins", I17 + I15 + I21, Worker, worker::first_word_wins, revocations),
    plant!("replays-the-log", I18, Worker, worker::replays_the_log, commands_and_starts),
    plant!("never-expires", I18, Worker, worker::never_expires, short_commands),
    plant!(
        "expires-early",
        I19 + I14 + I15 + I17 + I21,
        Worker,
        worker::expires_early,
        many_revocations
    ),
    plant!(
        "goes-by-its-own-clock",
        I19 + I14 + I15 + I17 + I21,
        Worker,
        worker::goes_by_its_own_clock,
        short_revocations
    ),
    plant!("fails-open", I20, Worker, worker::fails_open, cut_off_from_revocations),
    plant!("too-gentle", I21, Worker, worker::too_gentle, many_revocations),
    plant!("burns-attempts", I23, Worker, worker::burns_attempts, drains),
    plant!("deaf-to-shutdown", I23, Worker, worker::deaf_to_shutdown, drains),
    plant!("deaf-to-escalation", I23, Worker, worker::deaf_to_escalation, escalations),
    plant!("flaps", I24, Worker, scale::flaps, scale::scales).with(scale::restless),
    plant!("beyond-bounds", I24 + I12, Config, nothing, calm).with(scale::boundless),
    plant!("waits-politely", I28, Worker, worker::waits_politely, lost_calls),
    plant!("unbounded-call", I28, Worker, worker::unbounded_call, lost_calls),
];

/// Not a bug by itself, and so none of the rules finds it: a store that hands out each batch in an order that no seed
/// repeats. It is to be seen in the hash of the facts.
pub static THROWS_DICE: Plant = plant!("throws-dice", Broke, Store, store::throws_dice, calm);

impl Plant {
    /// With these settings.
    const fn with(self, config: fn(&mut WorkerConfig)) -> Self {
        Self { config, ..self }
    }
}
