//! Servers, workers and producers are killed again and again while tasks flow; nothing is lost and nothing ends twice.

use std::time::{Duration, Instant};

use stem_chaos::checker::Rules;
use stem_chaos::dice::Dice;
use stem_chaos::history::SERVER_KILLED;
use stem_chaos::place::Place;
use stem_services::Fsync;

use crate::lab::{Lab, must_hold, number};
use crate::process::{Process, Program, until};
use crate::server::Server;

const PRODUCERS: u64 = 4;
const WORKERS: u64 = 4;
/// The time for which tasks flow, if nothing held them up.
const FLOW: Duration = Duration::from_secs(12);
/// Tasks a second, at most, however many there are.
const RATE: u64 = 1_000;
/// A storm ends after this, or after four times what its tasks take to flow, whether all is enqueued or not: how fast the
/// machine is is not what is tested.
const LONGEST: Duration = Duration::from_secs(150);
const LEASE: Duration = Duration::from_secs(2);
/// Between two kills of one kind.
const CALM: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// How long a server stays away.
const AWAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// What Redis may hold back with `appendfsync everysec` while the disk is slow: two seconds, by a clock of its own that it
/// reads ten times a second; see `flushAppendOnlyFile` there. The rest is for answers that a busy machine reads late.
pub(crate) const EVERYSEC: Duration = Duration::from_millis(2_500);

#[derive(Clone, Copy, Debug)]
enum Act {
    KillServer(usize),
    RestartServer(usize),
    KillWorker,
    KillProducer,
}

struct Storm<'a> {
    lab: &'a Lab,
    dice: Dice,
    servers: &'a [Server],
    workers: Vec<Process>,
    producers: Vec<Process>,
    /// What comes next, in no order.
    due: Vec<(Instant, Act)>,
}

impl Storm<'_> {
    fn plan(&mut self, act: Act, (least, most): (Duration, Duration)) {
        self.due.push((Instant::now() + self.dice.between(least, most), act));
    }

    /// Whether a producer has tasks left.
    fn flows(&mut self) -> bool {
        let mut flows = false;
        for producer in &mut self.producers {
            match producer.ended() {
                None => flows = true,
                code => assert_eq!(code, Some(0), "{}:\n{}", producer.name(), producer.log()),
            }
        }
        flows
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::KillServer(index) => {
                self.lab.fault(SERVER_KILLED, true);
                self.servers[index].kill();
                self.plan(Act::RestartServer(index), AWAY);
            }
            Act::RestartServer(index) => {
                self.servers[index].restart();
                self.lab.fault(SERVER_KILLED, false);
                self.plan(Act::KillServer(index), CALM);
            }
            Act::KillWorker => {
                let indices: Vec<usize> = (0..self.workers.len()).collect();
                let index = *self.dice.pick(&indices).expect("there are workers");
                self.workers[index].kill();
                self.workers[index].restart();
                self.plan(act, CALM);
            }
            Act::KillProducer => {
                let at_work = |(index, producer): (usize, &mut Process)| {
                    producer.ended().is_none().then_some(index)
                };
                let at_work: Vec<usize> =
                    self.producers.iter_mut().enumerate().filter_map(at_work).collect();
                if let Some(index) = self.dice.pick(&at_work) {
                    self.producers[*index].kill();
                    self.producers[*index].restart();
                    self.plan(act, CALM);
                }
            }
        }
    }

    /// Kills until all is enqueued, or for very long. Then everything is well.
    fn rage(&mut self, longest: Duration) {
        let start = Instant::now();
        while self.flows() && start.elapsed() < longest {
            self.workers.iter_mut().for_each(Process::must_live);
            let now = Instant::now();
            while let Some(index) = self.due.iter().position(|(at, _)| *at <= now) {
                let (_, act) = self.due.swap_remove(index);
                self.act(act);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for (_, act) in std::mem::take(&mut self.due) {
            if matches!(act, Act::RestartServer(_)) {
                self.act(act);
            }
        }
    }
}

/// How many tasks each storm has.
fn tasks() -> u64 {
    number("STEM_TEST_CHAOS", 6_000)
}

fn storm(what: &str, servers: &[Server], place: Place, tasks: u64, rules: Rules) {
    let dice = Dice::from_env();
    let each = tasks.div_ceil(PRODUCERS);
    let flow = FLOW.max(Duration::from_secs(tasks / RATE));
    let rate = each.div_ceil(flow.as_secs());
    let lab = Lab::new(place);
    let lease = u64::try_from(LEASE.as_millis()).unwrap();
    let worker = |n| lab.start(Program::Worker, &format!("w{n}"), &[("lease-ms", lease)]);
    let producer =
        |n| lab.start(Program::Producer, &format!("p{n}"), &[("count", each), ("rate", rate)]);
    let mut storm = Storm {
        lab: &lab,
        dice,
        servers,
        workers: (1..=WORKERS).map(worker).collect(),
        producers: (1..=PRODUCERS).map(producer).collect(),
        due: Vec::new(),
    };
    for index in 0..servers.len() {
        storm.plan(Act::KillServer(index), CALM);
    }
    storm.plan(Act::KillWorker, CALM);
    storm.plan(Act::KillProducer, CALM);
    let start = Instant::now();
    storm.rage(LONGEST.max(flow * 4));
    lab.stop_producers();
    println!("{what}: faults for {:.1?}", start.elapsed());
    until("the last tasks to be enqueued", || !storm.flows());
    let mut workers = storm.workers;
    let stored = lab.drain(&mut workers);
    must_hold(what, &lab.verdict(workers, &stored, rules));
}

fn on_one(what: &str, server: Server, rules: Rules) {
    let place = Place::all_in_one(&server.url());
    storm(what, &[server], place, tasks(), rules);
}

#[test]
fn kill_storm_redis_everysec() {
    let rules = Rules { forgets: Some(EVERYSEC), ..Rules::STRICT };
    on_one("redis everysec", Server::redis(Fsync::Everysec), rules);
}

#[test]
fn kill_storm_redis_always() {
    on_one("redis always", Server::redis(Fsync::Always), Rules::STRICT);
}

#[test]
fn kill_storm_postgres() {
    on_one("postgres", Server::postgres(), Rules::STRICT);
}

#[test]
fn kill_storm_mixed() {
    let (redis, postgres) = (Server::redis(Fsync::Always), Server::postgres());
    let place = Place { broker: redis.url(), results: postgres.url(), revokes: postgres.url() };
    // Each task costs four transactions more, and either server is away for a third of the time.
    storm("redis with results in postgres", &[redis, postgres], place, tasks() / 4, Rules::STRICT);
}
