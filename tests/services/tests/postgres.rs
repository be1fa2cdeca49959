//! A private Postgres does what its documentation says.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::time::Duration;

use stem_services::{Ahead, PostgresServer, PostgresSettings};

#[test]
fn what_was_committed_survives_a_kill_and_an_immediate_stop() {
    let postgres = PostgresServer::start();
    let (port, pid) = (postgres.port(), postgres.pid());
    postgres.execute("CREATE TABLE t (n int)").unwrap();
    postgres.execute("INSERT INTO t VALUES (1), (2)").unwrap();
    postgres.kill();
    postgres.execute("SELECT 1").unwrap_err();
    postgres.restart();
    assert_eq!(postgres.execute("SELECT n FROM t ORDER BY n").unwrap(), "1\n2");
    postgres.stop_immediate();
    postgres.execute("SELECT 1").unwrap_err();
    postgres.restart();
    assert_eq!(postgres.execute("SELECT count(*), min(n) FROM t").unwrap(), "2|1");
    assert_eq!(postgres.port(), port);
    assert_ne!(postgres.pid(), pid);
    assert!(postgres.log().contains("was not properly shut down"), "{}", postgres.log());
}

#[test]
fn a_kill_takes_a_busy_server_too() {
    let postgres = PostgresServer::start();
    std::thread::scope(|scope| {
        let asleep = scope.spawn(|| postgres.execute("SELECT pg_sleep(60)"));
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'";
        while postgres.execute(busy).unwrap() != "1" {}
        postgres.kill();
        asleep.join().unwrap().unwrap_err();
    });
    postgres.restart();
    assert_eq!(postgres.execute("SELECT 1").unwrap(), "1");
}

#[test]
fn two_servers_and_two_databases_know_nothing_of_each_other() {
    let (one, other) = (PostgresServer::start(), PostgresServer::start());
    one.execute("CREATE TABLE t (n int)").unwrap();
    other.execute("SELECT * FROM t").unwrap_err();
    assert_ne!(one.url(), other.url());
    let urls = [one.database(), one.database()];
    assert_ne!(urls[0], urls[1]);
    assert_eq!(
        one.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'test_%'").unwrap(),
        "2"
    );
}

#[test]
fn a_frozen_server_answers_after_it_is_thawed() {
    let postgres = PostgresServer::start();
    postgres.freeze();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", postgres.pid())).unwrap();
    assert!(stat.contains(" T "), "{stat}");
    postgres.thaw();
    assert_eq!(postgres.execute("SELECT 1").unwrap(), "1");
}

#[test]
fn nothing_is_left_of_a_dropped_server_frozen_or_killed_or_not() {
    let none = |_: &PostgresServer| {};
    for disturb in [none, PostgresServer::freeze, PostgresServer::kill] {
        let postgres = PostgresServer::start();
        let pid = postgres.pid();
        let data = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        let lock = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let segment = lock.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap();
        assert!(has_segment(segment));
        disturb(&postgres);
        drop(postgres);
        assert!(!data.parent().unwrap().exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!has_segment(segment));
    }
}

#[test]
fn a_full_disk_takes_no_writes_and_keeps_what_was_committed() {
    let settings = PostgresSettings { own_disk: true, ..PostgresSettings::default() };
    let postgres = PostgresServer::with(settings);
    let data = std::fs::read_link(format!("/proc/{}/cwd", postgres.pid())).unwrap();
    postgres.execute("CREATE TABLE t (n int, filler text)").unwrap();
    postgres.execute("INSERT INTO t VALUES (1, '')").unwrap();
    postgres.fill_disk();
    // More than is free in any file.
    let much = "INSERT INTO t SELECT 2, repeat('x', 1000) FROM generate_series(1, 40000)";
    let error = postgres.execute(much).unwrap_err().to_string();
    println!("{error}");
    assert!(postgres.log().contains("No space left on device"), "{}", postgres.log());
    postgres.free_disk();
    assert_eq!(postgres.execute("SELECT n FROM t").unwrap(), "1");
    postgres.execute(much).unwrap();
    drop(postgres);
    assert!(!data.exists(), "{} is still there", data.display());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&*data.to_string_lossy()), "{mounts}");
}

fn has_segment(id: &str) -> bool {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(id))
}

#[test]
fn settings_arrive() {
    let extra = vec![("max_connections".to_owned(), "7".to_owned())];
    let settings = PostgresSettings { fsync: false, extra, ..PostgresSettings::default() };
    let postgres = PostgresServer::with(settings);
    let shows = |name: &str| postgres.execute(&format!("SHOW {name}")).unwrap();
    assert_eq!(shows("fsync"), "off");
    assert_eq!(shows("max_connections"), "7");
    assert_eq!(shows("synchronous_commit"), "on");
    assert_eq!(shows("shared_buffers"), "32MB");
    assert_eq!(postgres.execute("SELECT current_user").unwrap(), "stem");
}

#[test]
fn a_clock_of_its_own_is_set_to_and_fro() {
    let hour = Duration::from_hours(1);
    let settings = PostgresSettings { own_clock: true, ..PostgresSettings::default() };
    let postgres = PostgresServer::with(settings);
    for ahead in [Ahead::NONE, Ahead::By(hour), Ahead::Behind(hour), Ahead::NONE] {
        postgres.set_clock(ahead);
    }
}
