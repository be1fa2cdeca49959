//! A private Redis does what its documentation says.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::time::Duration;

use stem_services::{Ahead, Fsync, RedisServer, RedisSettings};

#[test]
fn what_was_synced_survives_a_kill() {
    let redis =
        RedisServer::with(RedisSettings { appendfsync: Fsync::Always, ..RedisSettings::default() });
    let (port, pid) = (redis.port(), redis.pid());
    assert_eq!(redis.command(&["SET", "key", "value"]).unwrap(), "OK");
    redis.kill();
    redis.command(&["PING"]).unwrap_err();
    redis.restart();
    assert_eq!(redis.command(&["GET", "key"]).unwrap(), "value");
    assert_eq!(redis.port(), port);
    assert_ne!(redis.pid(), pid);
}

#[test]
fn without_a_file_a_restart_forgets() {
    let redis = RedisServer::with(RedisSettings { appendonly: false, ..RedisSettings::default() });
    redis.command(&["SET", "key", "value"]).unwrap();
    redis.restart();
    assert_eq!(redis.command(&["GET", "key"]).unwrap(), "");
}

#[test]
fn two_servers_know_nothing_of_each_other() {
    let (one, other) = (RedisServer::start(), RedisServer::start());
    one.command(&["SET", "key", "value"]).unwrap();
    assert_eq!(other.command(&["GET", "key"]).unwrap(), "");
    assert_ne!(one.url(), other.url());
}

#[test]
fn a_frozen_server_answers_after_it_is_thawed() {
    let redis = RedisServer::start();
    let pid = redis.pid();
    redis.freeze();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert!(stat.contains(" T "), "{stat}");
    redis.thaw();
    assert_eq!(redis.command(&["PING"]).unwrap(), "PONG");
}

#[test]
fn nothing_is_left_of_a_dropped_server_frozen_or_not() {
    for is_frozen in [false, true] {
        let redis = RedisServer::start();
        let pid = redis.pid();
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert!(directory.starts_with("/tmp"));
        if is_frozen {
            redis.freeze();
        }
        drop(redis);
        assert!(!directory.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[test]
fn settings_arrive() {
    let redis = RedisServer::with(RedisSettings {
        appendfsync: Fsync::No,
        password: Some("secret".to_owned()),
        extra: ["--maxmemory", "8mb"].map(str::to_owned).to_vec(),
        ..RedisSettings::default()
    });
    let setting = |name| redis.command(&["CONFIG", "GET", name]).unwrap();
    assert_eq!(setting("appendfsync"), "appendfsync\nno");
    assert_eq!(setting("maxmemory"), "maxmemory\n8388608");
    assert_eq!(setting("maxmemory-policy"), "maxmemory-policy\nnoeviction");
    assert_eq!(setting("save"), "save\n");
    assert_eq!(redis.url(), format!("redis://:secret@127.0.0.1:{}/0", redis.port()));
    assert!(redis.log().contains("Ready to accept connections"), "{}", redis.log());
}

#[test]
fn a_refused_command_is_an_error_in_the_servers_words() {
    let redis = RedisServer::start();
    redis.command(&["SET", "key", "value"]).unwrap();
    let error = redis.command(&["LPUSH", "key", "1"]).unwrap_err();
    assert!(format!("{error:#}").contains("WRONGTYPE"), "{error:#}");
}

#[test]
fn a_full_disk_takes_no_writes_and_nothing_is_left_of_it() {
    let settings = RedisSettings { own_disk: true, ..RedisSettings::default() };
    let redis = RedisServer::with(settings);
    let data = redis.command(&["CONFIG", "GET", "dir"]).unwrap().lines().last().unwrap().to_owned();
    redis.command(&["SET", "kept", "1"]).unwrap();
    redis.fill_disk();
    let start = std::time::Instant::now();
    // It finds out when it writes what it has taken, which is later than its answer.
    while redis.command(&["SET", "k", &"x".repeat(10_000)]).is_ok() {
        assert!(start.elapsed().as_secs() < 60, "{}", redis.log());
    }
    redis.free_disk();
    while redis.command(&["SET", "k", "v"]).is_err() {
        assert!(start.elapsed().as_secs() < 60, "{}", redis.log());
    }
    redis.restart();
    assert_eq!(redis.command(&["GET", "kept"]).unwrap(), "1");
    drop(redis);
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(&data));
}

#[test]
fn a_clock_of_its_own_is_set_to_and_fro() {
    let hour = Duration::from_hours(1);
    let settings = RedisSettings { own_clock: true, ..RedisSettings::default() };
    let redis = RedisServer::with(settings);
    for ahead in [Ahead::NONE, Ahead::By(hour), Ahead::Behind(hour), Ahead::NONE] {
        redis.set_clock(ahead);
    }
}
