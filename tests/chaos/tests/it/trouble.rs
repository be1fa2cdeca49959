//! A server is disturbed under load, in each of the ways that servers are. Soon after it is well again everything flows,
//! without a restart of anybody, and nothing is lost.

use std::time::{Duration, Instant};

use stem_chaos::checker::Rules;
use stem_chaos::fault::Fault;
use stem_chaos::history::{Event, Line, Moment, SERVER_KILLED};
use stem_chaos::lab::Lab;
use stem_chaos::place::Place;
use stem_chaos::process::{Process, Program, Tail, until};
use stem_chaos::server::Server;
use stem_chaos::storm::EVERYSEC;
use stem_services::{Fsync, PostgresServer, RedisServer, RedisSettings};

use crate::must_hold;

/// Tasks a second, until the producer is killed.
const RATE: u64 = 300;
/// More than any run enqueues.
const ENDLESS: u64 = 1_000_000;
/// From the end of a fault until everything flows, at the latest and also on a busy machine. What is printed is far below.
const RECOVERY: Duration = Duration::from_secs(30);
/// How long a fault lasts during which nothing works.
const AWAY: Duration = Duration::from_secs(4);
/// How long the others last.
const STORM: Duration = Duration::from_secs(2);
/// How many settlements must have been accepted before a fault, and again after it.
const FLOWING: usize = 150;

/// Does it again and again, for as long as a storm lasts.
fn storm(every: Duration, mut act: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < STORM {
        act();
        std::thread::sleep(every);
    }
}

fn away() {
    std::thread::sleep(AWAY);
}

/// The first event of its kind after the fault, in anybody's history.
fn first(tails: &mut [Tail], off: Moment, meant: impl Fn(&Line) -> bool) -> Option<Duration> {
    let after = |tail: &mut Tail| {
        let mut lines = tail.look().iter().filter(|line| line.0 >= off && meant(line));
        lines.next().map(|line| line.0)
    };
    tails.iter_mut().filter_map(after).min().map(|at| at.since(off))
}

/// `fault` disturbs the server and makes it well again.
fn disturb(url: &str, kind: &str, rules: Rules, fault: impl FnOnce(&Lab)) {
    let lab = Lab::new(Place::all_in_one(url));
    let mut workers: Vec<Process> =
        ["w1", "w2"].iter().map(|name| lab.start(Program::Worker, name, &[])).collect();
    let args = [("count", ENDLESS), ("rate", RATE)];
    let mut producer = lab.start(Program::Producer, "p1", &args);
    let mut tails: Vec<Tail> = workers.iter().map(Process::follow).collect();
    let accepted = |line: &Line| matches!(line.2, Event::SettleOk(_));
    until("tasks to flow", || {
        tails.iter_mut().map(|tail| tail.count(accepted)).sum::<usize>() >= FLOWING
    });

    lab.fault(kind, true);
    fault(&lab);
    let off = lab.fault(kind, false);

    let mut enqueued = vec![producer.follow()];
    // What was sent before may still be answered; what is sent now shows that it works.
    let settled = |line: &Line| matches!(&line.2, Event::SettleOk(settle) if settle.sent >= off);
    let leased = |line: &Line| matches!(line.2, Event::Lease { .. });
    let stored = |line: &Line| matches!(line.2, Event::EnqOk(_));
    let mut took = None;
    until("tasks to flow again", || {
        workers.iter_mut().for_each(Process::must_live);
        producer.must_live();
        took = first(&mut tails, off, settled).zip(first(&mut tails, off, leased)).zip(first(
            &mut enqueued,
            off,
            stored,
        ));
        took.is_some()
    });
    let ((settled, leased), stored) = took.expect("it was waited for");
    println!(
        "{kind}: first settlement after {settled:.2?}, delivery after {leased:.2?}, enqueue after {stored:.2?}"
    );
    until("tasks to flow on", || {
        let on = |line: &Line| line.0 >= off && accepted(line);
        tails.iter_mut().map(|tail| tail.count(on)).sum::<usize>() >= FLOWING
    });
    producer.kill();
    let stored_at_the_end = lab.drain(&mut workers);
    must_hold(kind, &lab.verdict(workers, &stored_at_the_end, rules));
    for (what, took) in [("settlement", settled), ("delivery", leased), ("enqueue", stored)] {
        assert!(took <= RECOVERY, "{kind}: the first {what} came only after {took:?}");
    }
}

fn on_redis(kind: &str, fault: impl FnOnce(&RedisServer)) {
    let settings = RedisSettings { appendfsync: Fsync::Everysec, ..RedisSettings::default() };
    let server = RedisServer::with(settings);
    let rules = Rules { forgets: Some(EVERYSEC), ..Rules::STRICT };
    disturb(&server.url(), kind, rules, |_| fault(&server));
}

fn on_postgres(kind: &str, fault: impl FnOnce(&PostgresServer)) {
    let server = PostgresServer::start();
    disturb(&server.url(), kind, Rules::STRICT, |_| fault(&server));
}

/// A network, or a server, that is as it is in the long run.
fn on_either(server: &Server, fault: Fault, lasts: Duration, rules: Rules) {
    disturb(&server.url(), fault.kind(), rules, |_| {
        server.begin(fault);
        std::thread::sleep(lasts);
        server.end(fault);
    });
}

/// Something is short until somebody was refused for that, or the server has said so in its log, and for a while after it.
fn in_want(server: &Server, fault: Fault, rules: Rules) {
    disturb(&server.url(), fault.kind(), rules, |lab| {
        let declined = lab.declined();
        server.begin(fault);
        until("the shortage to be felt", || lab.declined() > declined || server.complaints() > 0);
        std::thread::sleep(STORM);
        server.end(fault);
    });
}

#[test]
fn redis_is_killed_and_restarted() {
    on_redis(SERVER_KILLED, |server| {
        server.kill();
        std::thread::sleep(Duration::from_secs(1));
        server.restart();
    });
}

#[test]
fn redis_is_stopped_for_a_while() {
    on_redis("sigstop", |server| {
        server.freeze();
        away();
        server.thaw();
    });
}

#[test]
fn redis_cuts_all_connections_again_and_again() {
    on_redis("client-kill", |server| {
        storm(Duration::from_millis(50), || {
            for kind in ["normal", "pubsub"] {
                server.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).unwrap();
            }
        });
    });
}

#[test]
fn redis_becomes_a_replica_and_a_primary_again() {
    on_redis("readonly", |server| {
        // Nobody listens there, so it keeps its data.
        server.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
        std::thread::sleep(STORM);
        server.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    });
}

#[test]
fn redis_forgets_its_scripts_again_and_again() {
    on_redis("script-flush", |server| {
        storm(Duration::from_millis(20), || {
            server.command(&["SCRIPT", "FLUSH"]).unwrap();
        });
    });
}

#[test]
fn redis_runs_out_of_memory() {
    on_redis("oom", |server| {
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
        away();
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    });
}

#[test]
fn redis_is_busy_for_a_while() {
    on_redis("debug-sleep", |server| {
        server.command(&["DEBUG", "SLEEP", &AWAY.as_secs().to_string()]).unwrap();
    });
}

#[test]
fn postgres_stops_at_once_and_recovers() {
    on_postgres("stop-immediate", |server| {
        server.stop_immediate();
        std::thread::sleep(Duration::from_secs(1));
        server.restart();
    });
}

#[test]
fn postgres_is_stopped_for_a_while() {
    on_postgres("sigstop", |server| {
        server.freeze();
        away();
        server.thaw();
    });
}

#[test]
fn postgres_ends_all_sessions_again_and_again() {
    on_postgres("terminate-backends", |server| {
        storm(Duration::from_millis(100), || {
            let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
            server.execute(all).unwrap();
        });
    });
}

#[test]
fn postgres_is_read_only_for_a_while() {
    on_postgres("read-only", |server| {
        let set = |value: &str| {
            let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
            server.execute(&set).unwrap();
            server.execute("SELECT pg_reload_conf()").unwrap();
        };
        set("on");
        away();
        set("off");
    });
}

#[test]
fn redis_is_behind_a_slow_network_for_a_while() {
    let server = Server::redis(Fsync::Always).behind_a_network();
    on_either(&server, Fault::NetworkSlow, STORM, Rules::STRICT);
}

#[test]
fn redis_is_cut_off_without_a_word() {
    let server = Server::redis(Fsync::Always).behind_a_network();
    on_either(&server, Fault::NetworkSilent, AWAY, Rules::STRICT);
}

#[test]
fn redis_breaks_off_in_the_middle_of_answers() {
    let server = Server::redis(Fsync::Always).behind_a_network();
    on_either(&server, Fault::NetworkTorn, STORM, Rules::STRICT);
}

#[test]
fn postgres_is_cut_off_without_a_word() {
    let server = Server::postgres().behind_a_network();
    on_either(&server, Fault::NetworkSilent, AWAY, Rules::STRICT);
}

#[test]
fn postgres_does_not_hear_that_connections_are_over() {
    let server = Server::postgres().behind_a_network();
    on_either(&server, Fault::NetworkHalfClosed, AWAY, Rules::STRICT);
}

#[test]
fn redis_has_a_full_disk_for_a_while() {
    // It refuses writes, and goes on by itself; it forgets nothing, as it is not killed.
    let server = Server::redis_on_a_disk(Fsync::Everysec);
    in_want(&server, Fault::DiskFull, Rules::STRICT);
}

#[test]
fn redis_that_writes_before_it_answers_ends_on_a_full_disk() {
    let server = Server::redis_on_a_disk(Fsync::Always);
    in_want(&server, Fault::DiskFull, Rules::STRICT);
}

#[test]
fn redis_has_its_memory_filled_by_somebody_else() {
    in_want(&Server::redis(Fsync::Always), Fault::MemoryFilled, Rules::STRICT);
}

#[test]
fn postgres_has_a_full_disk_for_a_while() {
    in_want(&Server::postgres_on_a_disk(), Fault::DiskFull, Rules::STRICT);
}

#[test]
fn sqlite_has_a_full_disk_for_a_while() {
    in_want(&Server::sqlite_on_a_disk(), Fault::DiskFull, Rules::STRICT);
}
