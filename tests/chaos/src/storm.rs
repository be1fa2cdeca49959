//! [`storm`]: tasks flow, and servers, network, workers and producers suffer again and again. Then everything is well, and
//! what all wrote down is held against the rules.

use std::time::{Duration, Instant};

use crate::checker::{Rules, Verdict};
use crate::dice::Dice;
use crate::fault::{Fault, Target};
use crate::lab::Lab;
use crate::place::Place;
use crate::process::{Process, Program, until};
use crate::server::Server;

const PRODUCERS: u64 = 4;
const WORKERS: u64 = 4;
/// The least time for which tasks flow, if nothing held them up.
const FLOW: Duration = Duration::from_secs(12);
/// Tasks a second, at most, however many there are.
const RATE: u64 = 1_000;
/// When what has not had a turn and could not begin is tried again.
const SOON: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// A storm ends after this, or after four times what its tasks take to flow, whether all is enqueued or not: how fast the
/// machine is is not what is tested.
const LONGEST: Duration = Duration::from_mins(5);
const LEASE: Duration = Duration::from_secs(2);
/// One of so many tasks is a careful one.
const CAREFUL: u64 = 64;
/// How much a clock jumps that does: further than any lease, heartbeat or command lasts.
const JUMP: Duration = Duration::from_mins(61);
/// What Redis may hold back with `appendfsync everysec` while the disk is slow: two seconds, by a clock of its own that it
/// reads ten times a second; see `flushAppendOnlyFile` there. The rest is for answers that a busy machine reads late.
pub const EVERYSEC: Duration = Duration::from_millis(2_500);

/// What a storm is like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many tasks.
    pub tasks: u64,
    /// What is done.
    pub faults: &'static [Fault],
    /// Whether the wall clock of one worker jumps by an hour and back, twice a second.
    pub clock_jumps: bool,
    /// What may be found.
    pub rules: Rules,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Begin(Fault, usize),
    End(Fault, usize),
}

struct Storm<'a> {
    lab: &'a Lab,
    dice: Dice,
    servers: &'a [Server],
    workers: Vec<Process>,
    producers: Vec<Process>,
    /// What comes next, in no order.
    due: Vec<(Instant, Act)>,
    /// What is done to each server now.
    suffers: Vec<Option<Fault>>,
    /// What has been done to which server.
    had: Vec<(Fault, usize)>,
    /// Which workers are stopped.
    frozen: Vec<bool>,
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

    fn begin(&mut self, fault: Fault, index: usize) {
        match fault.target() {
            // One thing after the other. What has not had a turn goes next, that each has one.
            Target::Server if self.suffers[index].is_some() => {
                if !self.had.contains(&(fault, index)) {
                    return self.plan(Act::Begin(fault, index), SOON);
                }
            }
            Target::Server => {
                self.had.push((fault, index));
                self.suffers[index] = Some(fault);
                self.lab.fault(fault.kind(), true);
                self.servers[index].begin(fault);
                return self.plan(Act::End(fault, index), fault.lasts());
            }
            Target::Worker => {
                let awake = (0..self.workers.len()).filter(|index| !self.frozen[*index]);
                let awake: Vec<usize> = awake.collect();
                match self.dice.pick(&awake) {
                    // One that may die is not waited for.
                    Some(index)
                        if fault == Fault::WorkerFrozen
                            && awake.len() > 1
                            && !self.workers[*index].is_starved() =>
                    {
                        self.frozen[*index] = true;
                        self.workers[*index].freeze();
                        return self.plan(Act::End(fault, *index), fault.lasts());
                    }
                    // What a start takes is not what is tested.
                    Some(index)
                        if fault == Fault::WorkerOutOfMemory && self.workers[*index].is_ready() =>
                    {
                        self.workers[*index].starve();
                        return self.plan(Act::End(fault, *index), fault.lasts());
                    }
                    Some(index) if fault == Fault::WorkerKilled => {
                        self.workers[*index].kill();
                        self.workers[*index].restart();
                    }
                    _ => {}
                }
            }
            Target::Producer => {
                let at_work = |(index, producer): (usize, &mut Process)| {
                    producer.ended().is_none().then_some(index)
                };
                let at_work: Vec<usize> =
                    self.producers.iter_mut().enumerate().filter_map(at_work).collect();
                if let Some(index) = self.dice.pick(&at_work) {
                    self.producers[*index].kill();
                    self.producers[*index].restart();
                }
            }
        }
        self.plan(Act::Begin(fault, index), fault.pauses());
    }

    fn end(&mut self, fault: Fault, index: usize) {
        match fault.target() {
            Target::Server => {
                self.servers[index].end(fault);
                self.lab.fault(fault.kind(), false);
                self.suffers[index] = None;
            }
            Target::Worker if fault == Fault::WorkerOutOfMemory => {
                self.workers[index].feed();
                self.lab.fault(fault.kind(), false);
            }
            Target::Worker => {
                self.workers[index].thaw();
                self.frozen[index] = false;
            }
            Target::Producer => {}
        }
        self.plan(Act::Begin(fault, index), fault.pauses());
    }

    /// Begins the next life of who has died for want of memory. Somebody's turn comes again.
    fn bury_the_starved(&mut self) {
        for index in 0..self.workers.len() {
            if self.workers[index].dies_starved() {
                let fault = Fault::WorkerOutOfMemory;
                let is_its_end =
                    |act: &Act| matches!(act, Act::End(of, n) if *of == fault && *n == index);
                let planned = self.due.len();
                self.due.retain(|(_, act)| !is_its_end(act));
                // Else the limit had ended before, and its next turn is planned.
                if self.due.len() < planned {
                    self.plan(Act::Begin(fault, 0), fault.pauses());
                }
            }
        }
    }

    /// Goes on until all is enqueued, or for very long. Then everything is well.
    fn rage(&mut self, longest: Duration) {
        let start = Instant::now();
        while self.flows() && start.elapsed() < longest {
            self.bury_the_starved();
            self.workers.iter_mut().for_each(Process::supervise);
            let now = Instant::now();
            while let Some(index) = self.due.iter().position(|(at, _)| *at <= now) {
                match self.due.swap_remove(index).1 {
                    Act::Begin(fault, index) => self.begin(fault, index),
                    Act::End(fault, index) => self.end(fault, index),
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for (_, act) in std::mem::take(&mut self.due) {
            if let Act::End(fault, index) = act {
                self.end(fault, index);
            }
        }
    }
}

/// Tasks, faults, and what came of them. The servers must run, and be the ones that the place names.
///
/// # Panics
///
/// If a process or a server does what it is not to do, or anything is waited for in vain. The directory is kept then.
pub fn storm(
    what: &str,
    servers: &[Server],
    place: Place,
    plan: Plan,
    dice: Dice,
) -> (Lab, Verdict) {
    let each = plan.tasks.div_ceil(PRODUCERS);
    let flow = FLOW.max(Duration::from_secs(plan.tasks / RATE));
    let rate = each.div_ceil(flow.as_secs());
    let lab = Lab::new(place);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let worker = |n| {
        let jumps = if plan.clock_jumps && n == WORKERS { JUMP } else { Duration::ZERO };
        let args = [("lease-ms", millis(LEASE)), ("clock-jumps-ms", millis(jumps))];
        lab.start(Program::Worker, &format!("w{n}"), &args)
    };
    let producer = |n| {
        let args = [("count", each), ("rate", rate), ("careful", CAREFUL)];
        lab.start(Program::Producer, &format!("p{n}"), &args)
    };
    let mut storm = Storm {
        lab: &lab,
        dice,
        servers,
        workers: (1..=WORKERS).map(worker).collect(),
        producers: (1..=PRODUCERS).map(producer).collect(),
        due: Vec::new(),
        suffers: vec![None; servers.len()],
        had: Vec::new(),
        frozen: vec![false; usize::try_from(WORKERS).unwrap_or(0)],
    };
    for fault in plan.faults {
        let targets = match fault.target() {
            Target::Server => (0..servers.len()).filter(|n| servers[*n].knows(*fault)).collect(),
            Target::Worker | Target::Producer => vec![0],
        };
        for index in targets {
            storm.plan(Act::Begin(*fault, index), fault.pauses());
        }
    }
    let start = Instant::now();
    storm.rage(LONGEST.max(flow * 4));
    lab.stop_producers();
    println!("{what}: faults for {:.1?}", start.elapsed());
    until("the last tasks to be enqueued", || {
        storm.workers.iter_mut().for_each(Process::supervise);
        !storm.flows()
    });
    let mut workers = storm.workers;
    let stored = lab.drain(&mut workers);
    let verdict = lab.verdict(workers, &stored, plan.rules);
    (lab, verdict)
}
