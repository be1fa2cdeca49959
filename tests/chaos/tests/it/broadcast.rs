//! Commands to everyone, while one of eight workers is killed and another is stopped for a while: every worker that lives
//! through it executes each exactly once, and one that starts later under the name of the dead none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stem_chaos::dice::Dice;
use stem_chaos::history::{Event, Line};
use stem_chaos::lab::Lab;
use stem_chaos::place::Place;
use stem_chaos::process::{Process, Program, Tail, until};
use stem_chaos::server::Server;
use stem_core::backend::control::Position;
use stem_core::control::wire::{self, CommandFrame};
use stem_core::control::{Answer, Command, Order};
use stem_core::id::{Namespace, RequestId};
use stem_core::time::Clock as _;
use stem_engine::SystemClock;
use stem_services::Fsync;

use crate::number;

const WORKERS: usize = 8;
/// Commands hold for longer than a test may take.
const LIFE: Duration = Duration::from_mins(10);
/// Between two commands, at most.
const PAUSE: Duration = Duration::from_millis(20);

struct Operator<'a> {
    lab: &'a Lab,
    namespace: Namespace,
    sent: Vec<RequestId>,
}

impl Operator<'_> {
    fn ping(&mut self) {
        let now = SystemClock.now();
        let command = Command {
            request_id: RequestId::new(format!("ping-{}", self.sent.len() + 1)).unwrap(),
            namespace: self.namespace.clone(),
            targets: None,
            order: Order::Ping {},
            issued_at: now,
            expires_at: now.after(LIFE),
            requester: "test".to_owned(),
        };
        let frame = CommandFrame::plain(&command);
        self.lab.wait(self.lab.backends().control.send(&frame)).unwrap();
        self.sent.push(command.request_id);
    }

    /// Who has answered, by what the store holds.
    fn answered(&self, request: &RequestId) -> BTreeSet<String> {
        let control = &self.lab.backends().control;
        let wait = control.replies(&self.namespace, request, Position(0), Duration::ZERO);
        let replies = self.lab.wait(wait).unwrap();
        let count = replies.len();
        let names: BTreeSet<String> = replies
            .into_iter()
            .map(|(_, text)| {
                let reply = wire::reply(text.as_bytes()).unwrap();
                assert!(matches!(reply.answer, Answer::Ok { .. }), "{reply:?}");
                reply.worker.to_string()
            })
            .collect();
        assert_eq!(names.len(), count, "{request}: a worker has two replies");
        names
    }
}

/// How often each request was handed to a worker, and how often it answered.
fn handled(lines: &[Line]) -> (BTreeMap<&RequestId, u64>, BTreeMap<&RequestId, u64>) {
    let (mut handed, mut answered) = (BTreeMap::new(), BTreeMap::new());
    for line in lines {
        match &line.2 {
            Event::CtlRecv(request) => *handed.entry(request).or_default() += 1,
            Event::CtlReply(request) => *answered.entry(request).or_default() += 1,
            _ => {}
        }
    }
    (handed, answered)
}

fn replies(tail: &mut Tail) -> usize {
    tail.count(|line| matches!(line.2, Event::CtlReply(_)))
}

fn broadcast(what: &str, server: &Server) {
    let mut dice = Dice::from_env();
    let commands = usize::try_from(number("STEM_TEST_BROADCASTS", 200)).unwrap();
    let lab = Lab::new(Place::all_in_one(&server.url()));
    let name = |n| format!("w{n}");
    let mut workers: Vec<Process> =
        (0..WORKERS).map(|n| lab.start(Program::Worker, &name(n), &[])).collect();
    let mut tails: Vec<Tail> = workers.iter().map(Process::follow).collect();
    tails.iter_mut().for_each(Tail::until_ready);
    let (dead, frozen) = (0, 1);
    let mut operator =
        Operator { lab: &lab, namespace: Namespace::new("stem").unwrap(), sent: Vec::new() };
    for n in 0..commands {
        match n {
            n if n == commands / 4 => workers[frozen].freeze(),
            n if n == commands / 2 => workers[dead].kill(),
            n if n == commands * 3 / 4 => workers[frozen].thaw(),
            _ => {}
        }
        operator.ping();
        std::thread::sleep(dice.between(Duration::ZERO, PAUSE));
    }
    for (n, tail) in tails.iter_mut().enumerate().filter(|(n, _)| *n != dead) {
        until(&format!("all replies of w{n}"), || replies(tail) >= commands);
    }

    // The next of the dead one's name begins where the log ends.
    workers[dead].restart();
    let mut next = workers[dead].follow();
    next.until_ready();
    operator.ping();
    for tail in tails.iter_mut().skip(1).chain([&mut next]) {
        let all = operator.sent.last().unwrap();
        let last = |line: &Line| line.2 == Event::CtlReply(all.clone());
        until("the reply to the last", || tail.count(last) > 0);
    }
    let last = operator.sent.last().unwrap();
    let (handed, answered) = handled(next.look());
    for handled in [&handed, &answered] {
        let of_old: Vec<_> = handled.keys().filter(|request| **request != last).collect();
        assert!(of_old.is_empty(), "{what}: {} was executed again: {of_old:?}", name(dead));
    }

    let mut executed = 0;
    for (n, tail) in tails.iter_mut().enumerate().filter(|(n, _)| *n != dead) {
        let (handed, answered) = handled(tail.look());
        for request in &operator.sent {
            let times = (handed.get(request).copied(), answered.get(request).copied());
            assert_eq!(times, (Some(1), Some(1)), "{what}: {} and {request}", name(n));
            executed += 1;
        }
    }
    let (handed, answered) = handled(tails[dead].look());
    let living: BTreeSet<String> = (0..WORKERS).filter(|n| *n != dead).map(name).collect();
    for request in operator.sent.iter().filter(|request| *request != last) {
        let names = operator.answered(request);
        assert!(living.is_subset(&names), "{what}: {request} was answered by {names:?}");
        // A reply that was stored just before the kill may not have been written down as such.
        let by_dead = names.contains(&name(dead));
        let (may, must) = (handed.contains_key(request), answered.contains_key(request));
        assert!(may || !by_dead, "{what}: {request} by {names:?}");
        assert!(by_dead || !must, "{what}: {request} by {names:?}");
    }
    let before = answered.len();
    println!(
        "{what}: {} commands, {executed} executions by {} workers, each once; {before} by the one that was killed",
        operator.sent.len(),
        WORKERS - 1,
    );
    workers.iter_mut().for_each(Process::stop);
}

#[test]
fn each_broadcast_reaches_every_live_worker_once() {
    broadcast("redis", &Server::redis(Fsync::Everysec));
}

#[test]
fn each_broadcast_reaches_every_live_worker_once_on_postgres() {
    broadcast("postgres", &Server::postgres());
}
