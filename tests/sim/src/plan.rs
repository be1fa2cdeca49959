//! [`Plan`]: what a seed draws, before anything runs. The same seed draws the same plan, and a kind of trouble that is
//! turned off leaves every other where it was.

mod acts;
mod tasks;

use std::collections::BTreeMap;
use std::time::Duration;

use stem_core::control::Drain;
use stem_core::id::{QueueName, TaskId, WorkerId};
use stem_core::revoke::RevokeRequest;
use stem_engine::AutoscaleRules;

use crate::dice::Dice;
use crate::fact::{HostId, Ms, ServiceKind, State};
use crate::script::Script;

/// Where each group of traits lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One service for everything.
    Together,
    /// Results and presence in another.
    RecordsApart,
    /// Revocations in another.
    RevokesApart,
    /// Three services.
    AllApart,
}

/// A worker as it is declared, which is how it is to behave; a planted fault may run it otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Its name, unless an act gives it another.
    pub name: WorkerId,
    /// What it serves.
    pub queues: Vec<QueueName>,
    /// Attempts at once; with autoscaling the most.
    pub concurrency: usize,
    /// The most that one request takes.
    pub prefetch: usize,
    /// Milliseconds.
    pub lease: u64,
    /// A task that lost so many is poison.
    pub max_losses: u32,
    /// Milliseconds for which it may go on without a look at the revocations.
    pub staleness: u64,
    /// Milliseconds before a soft drain becomes hard.
    pub soft_grace: u64,
    /// Takes tasks also while it cannot read the revocations.
    pub fail_open: bool,
    /// Between these.
    pub autoscale: Option<AutoscaleRules>,
    /// Reads the revocations ahead, this many milliseconds before it runs.
    pub ahead: Option<u64>,
    /// Its wall clock is off by so many milliseconds at boot.
    pub skew: i64,
    /// And runs too fast by so many millionths.
    pub ppm: i64,
}

/// A task that a producer will enqueue.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// When.
    pub at: Ms,
    /// Under this id.
    pub id: TaskId,
    /// In this queue.
    pub queue: QueueName,
    /// 0 to 9.
    pub priority: u8,
    /// What it does.
    pub script: Script,
    /// After its first attempt.
    pub retries: u32,
    /// Not before so many milliseconds.
    pub delay: Option<u64>,
    /// Not to start after so many.
    pub expires: Option<u64>,
    /// Its hard limit.
    pub timeout: Option<u64>,
}

/// What an operator does.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Kills what runs there.
    Crash(HostId),
    /// Starts what belongs there, if nothing runs; a worker under this name, or its own.
    Start(HostId, Option<WorkerId>),
    /// Stops it for so many milliseconds.
    Pause(HostId, u64),
    /// Changes a host's link for so many milliseconds.
    Link(HostId, ServiceKind, State, u64),
    /// Changes a service for so many milliseconds.
    Service(ServiceKind, State, u64),
    /// Steps a host's wall clock.
    StepHost(HostId, i64),
    /// Steps the server's clock.
    StepServer(i64),
    /// Asks for an answer: of all, or of these; the command expires after so many milliseconds.
    Ping(Option<Vec<WorkerId>>, u64),
    /// Asks what is revoked, of all.
    Inspect,
    /// Revokes tasks; the request's expiry counts from when it is made.
    Revoke(Vec<TaskId>, RevokeRequest, Option<u64>),
    /// Takes a revocation back.
    Undo(TaskId),
    /// Pauses a queue for every worker, or resumes it.
    SetPaused(QueueName, bool),
    /// Replays all dead letters, from one client or from two at once.
    Replay {
        /// From two.
        both: bool,
    },
    /// Stops the worker there: from inside, or by a command.
    Drain {
        /// Where.
        host: HostId,
        /// How.
        mode: Drain,
        /// Milliseconds.
        grace: Option<u64>,
        /// By a command.
        remote: bool,
    },
    /// Enqueues so many tasks more.
    Burst(Vec<Planned>),
}

/// The kinds of trouble, as bits. Turning one off moves nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(pub u32);

#[allow(missing_docs, reason = "each is what its word in `NAMES` says")]
impl Kinds {
    pub const CRASH: Self = Self(1);
    pub const PAUSE: Self = Self(1 << 1);
    pub const LINKS: Self = Self(1 << 2);
    pub const SERVICES: Self = Self(1 << 3);
    pub const CLOCKS: Self = Self(1 << 4);
    pub const REVOKES: Self = Self(1 << 5);
    pub const DRAINS: Self = Self(1 << 6);
    pub const ORDERS: Self = Self(1 << 7);
    pub const QUEUES: Self = Self(1 << 8);
    pub const REPLAYS: Self = Self(1 << 9);
    pub const BURSTS: Self = Self(1 << 10);
    pub const POISON: Self = Self(1 << 11);
    pub const SLOW: Self = Self(1 << 12);
    pub const LOST_REQUEST: Self = Self(1 << 13);
    pub const LOST_REPLY: Self = Self(1 << 14);
    pub const TWICE: Self = Self(1 << 15);
    pub const REFUSED: Self = Self(1 << 16);
    pub const CLIENTS: Self = Self(1 << 17);

    /// Every kind, with its word.
    pub const NAMES: [(Self, &'static str); 18] = [
        (Self::CRASH, "crash"),
        (Self::PAUSE, "pause"),
        (Self::LINKS, "links"),
        (Self::SERVICES, "services"),
        (Self::CLOCKS, "clocks"),
        (Self::REVOKES, "revokes"),
        (Self::DRAINS, "drains"),
        (Self::ORDERS, "orders"),
        (Self::QUEUES, "queue-pauses"),
        (Self::REPLAYS, "replays"),
        (Self::BURSTS, "bursts"),
        (Self::POISON, "poison"),
        (Self::SLOW, "slow"),
        (Self::LOST_REQUEST, "lost-requests"),
        (Self::LOST_REPLY, "lost-replies"),
        (Self::TWICE, "twice"),
        (Self::REFUSED, "refused"),
        (Self::CLIENTS, "clients"),
    ];

    /// Whether all of these are on.
    pub fn has(self, kinds: Self) -> bool {
        self.0 & kinds.0 == kinds.0
    }

    /// With these too.
    #[must_use]
    pub fn with(self, kinds: Self) -> Self {
        Self(self.0 | kinds.0)
    }

    /// Without these.
    #[must_use]
    pub fn without(self, kinds: Self) -> Self {
        Self(self.0 & !kinds.0)
    }

    /// The words of those that are on.
    pub fn words(self) -> Vec<&'static str> {
        Self::NAMES.iter().filter(|(kind, _)| self.has(*kind)).map(|(_, word)| *word).collect()
    }

    /// Each with even odds; in a third of the seeds only one. What was added since has dice of its own, so that the others
    /// mean what they meant.
    fn draw(seed: u64) -> Self {
        let mut dice = Dice::of(seed, &["kinds"]);
        let first = &Self::NAMES[..17];
        let only = dice.chance(333);
        let one = dice.pick(first).0;
        let mut kinds = Self::default();
        for (kind, _) in first {
            if dice.chance(500) {
                kinds = kinds.with(*kind);
            }
        }
        let kinds = if only { one } else { kinds };
        let clients = Dice::of(seed, &["kinds", "clients"]).chance(500);
        if clients { kinds.with(Self::CLIENTS) } else { kinds }
    }
}

/// Of 1000 calls, how many meet each fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is its fault")]
pub struct Odds {
    pub slow: u64,
    pub lost_request: u64,
    pub lost_reply: u64,
    pub twice: u64,
    pub refused: u64,
}

/// Everything that a seed decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Milliseconds that hosts run before they hear of each other again: the least latency.
    pub window: u64,
    /// Where the services lie.
    pub layout: Layout,
    /// One for each worker host.
    pub workers: Vec<Declared>,
    /// How many hosts run producers and operators.
    pub clients: u8,
    /// What calls meet until `heal`.
    pub odds: Odds,
    /// Milliseconds after which a caller gives up a call, beside what it asked to wait.
    pub call_limit: u64,
    /// Milliseconds between the looks at what the services hold.
    pub look: u64,
    /// What is done, and when.
    pub acts: BTreeMap<Ms, Vec<Act>>,
    /// What is enqueued.
    pub tasks: Vec<Planned>,
    /// When everything is good again.
    pub heal: Ms,
    /// The kinds that are on.
    pub kinds: Kinds,
}

/// Of 1000 seeds, so many have a crowd of workers.
const CROWDS: u64 = 20;
/// So many tasks does every plan enqueue, beside bursts and children.
pub const TASKS: usize = 200;

/// A worker that should be there and is not is started again after so many milliseconds, once all is well.
pub(crate) const RESTART: u64 = 1_000;

impl Plan {
    /// What a seed decides, without the kinds of trouble that are `off`.
    pub fn draw(seed: u64, off: Kinds) -> Self {
        Self::of_kinds(seed, Kinds::draw(seed).without(off))
    }

    /// The same with these kinds of trouble.
    pub fn of_kinds(seed: u64, kinds: Kinds) -> Self {
        let mut dice = Dice::of(seed, &["plan"]);
        let window = *dice.pick(&[5, 10, 10, 20, 20, 25]);
        // Rarely: such a world has many of them.
        let window = if dice.chance(30) { 2 } else { window };
        let layout = match dice.below(10) {
            0..4 => Layout::Together,
            4..7 => Layout::RecordsApart,
            7..9 => Layout::RevokesApart,
            _ => Layout::AllApart,
        };
        let call_limit = dice.between(1_000, 5_000);
        let heal = Ms(dice.between(15_000, 18_000) / 100 * 100);
        let queues: Vec<_> = ["sim", "other"]
            .iter()
            .map(|name| QueueName::new(name).expect("a short name"))
            .collect();
        let workers = workers(seed, kinds, &queues);
        let lease = workers.iter().map(|worker| worker.lease).max().expect("one worker at least");
        let mould = tasks::Mould { seed, queues, lease, kinds };
        let mut when = Dice::of(seed, &["when"]);
        let tasks: Vec<_> =
            (0..TASKS).map(|n| tasks::draw(&mould, n, Ms(when.below(10_000)))).collect();
        let mut acts =
            acts::Acts { mould: &mould, workers: &workers, tasks: &tasks, due: BTreeMap::new() };
        acts.draw();
        let acts = acts.due;
        let odds = |kind, odds| if kinds.has(kind) { odds } else { 0 };
        let odds = Odds {
            slow: odds(Kinds::SLOW, 50),
            lost_request: odds(Kinds::LOST_REQUEST, 20),
            lost_reply: odds(Kinds::LOST_REPLY, 20),
            twice: odds(Kinds::TWICE, 20),
            refused: odds(Kinds::REFUSED, 5),
        };
        Self {
            seed,
            window,
            layout,
            workers,
            clients: 2,
            odds,
            call_limit,
            look: 500,
            acts,
            tasks,
            heal,
            kinds,
        }
    }

    /// Every task, also those of bursts.
    pub fn all_tasks(&self) -> impl Iterator<Item = &Planned> {
        let bursts = self.acts.values().flatten().filter_map(|act| match act {
            Act::Burst(tasks) => Some(tasks),
            _ => None,
        });
        self.tasks.iter().chain(bursts.flatten())
    }

    /// The longest lease, in milliseconds.
    pub fn longest_lease(&self) -> u64 {
        self.workers.iter().map(|worker| worker.lease).max().unwrap_or(0)
    }

    /// Milliseconds within which everything that waits ends, once everything is good again.
    pub fn patience(&self) -> u64 {
        let work: u64 = self.all_tasks().map(|task| task.script.longest() + 100).sum();
        let least = |worker: &Declared| {
            worker.autoscale.as_ref().map_or(worker.concurrency, |rules| rules.min) as u64
        };
        let places: u64 = self.workers.iter().map(least).sum();
        let longest = self.all_tasks().map(|task| task.script.longest()).max().unwrap_or(0);
        // What takes its worker down does so until it is poison; then all that was in hand waits for its lease, and starts anew.
        let kills = self.all_tasks().filter(|task| task.script.kills()).count() as u64;
        let losses = self.workers.iter().map(|worker| u64::from(worker.max_losses)).max();
        let deaths = kills * losses.unwrap_or(0) * (RESTART + self.longest_lease() + longest);
        // A script may run three times.
        longest * 3
            + deaths
            + work * 2 / places.max(1)
            + self.longest_lease() * 10
            + self.call_limit
            + 10_000
    }
}

fn workers(seed: u64, kinds: Kinds, queues: &[QueueName]) -> Vec<Declared> {
    let mut dice = Dice::of(seed, &["workers"]);
    let few = dice.between(1, 4);
    let mut crowd = Dice::of(seed, &["crowd"]);
    let count = if crowd.chance(CROWDS) { crowd.between(8, 16) } else { few };
    let lease = *dice.pick(&[1_000, 2_000, 4_000]);
    let max_losses = *dice.pick(&[3, 5]);
    let staleness = dice.between(2_000, 4_000);
    let fail_open = dice.chance(100);
    let scales = dice.chance(333);
    (0..count)
        .map(|n| {
            let mut dice = Dice::of(seed, &["worker", &n.to_string()]);
            let least = if count == 1 { 4 } else { 2 };
            let concurrency = usize::try_from(dice.between(least, 6)).expect("small");
            let autoscale = scales.then(|| AutoscaleRules {
                tick: Duration::from_millis(dice.between(200, 1_000)),
                idle_period: Duration::from_millis(dice.between(1_000, 4_000)),
                scale_up_cooldown: Duration::from_millis(dice.between(300, 1_000)),
                scale_down_cooldown: Duration::from_millis(dice.between(1_000, 3_000)),
                ..AutoscaleRules::between(1, concurrency)
            });
            let skew = *dice.pick(&[0, 50, -50, 3_000, -600_000, 600_000]);
            let ppm = i64::try_from(dice.below(20_001)).expect("small") - 10_000;
            let clocks = kinds.has(Kinds::CLOCKS);
            Declared {
                name: WorkerId::new(format!("worker-{n}")).expect("a short name"),
                queues: queues.to_vec(),
                concurrency,
                prefetch: usize::try_from(dice.between(1, 8)).expect("small"),
                lease,
                max_losses,
                staleness,
                soft_grace: dice.between(200, 2_000),
                fail_open,
                autoscale,
                ahead: dice.chance(500).then(|| dice.below(300)),
                skew: if clocks { skew } else { 0 },
                ppm: if clocks { ppm } else { 0 },
            }
        })
        .collect()
}
