//! What becomes of servers when the processes that use them come, go and are killed.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use stem_services::PostgresServer;

/// A process that has started this kind of server, and the server's URL.
fn holder(kind: &str) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stem-services"))
        .arg(kind)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
    (child, url.trim_end().to_owned())
}

/// The working directories of the processes whose parent this is: those of its server and its sexton.
fn directories(parent: &Child) -> Vec<std::path::PathBuf> {
    let is_child = |status: &str| status.contains(&format!("\nPPid:\t{}\n", parent.id()));
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| fs::read_to_string(entry.path().join("status")).is_ok_and(|s| is_child(&s)))
        .filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok())
        // The tests themselves may lie below /tmp too.
        .filter(|cwd| cwd.to_string_lossy().starts_with("/tmp/stem-"))
        .collect()
}

fn wait_until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1), "it takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}

fn nothing_is_left_of_a_killed_process(kind: &str) {
    let (mut child, _) = holder(kind);
    let directories = directories(&child);
    assert_eq!(directories.len(), 1, "{directories:?}");
    let lives_in = || {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let cwds = entries.filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok());
        cwds.filter(|cwd| cwd.starts_with(&directories[0])).count()
    };
    assert!(lives_in() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(|| lives_in() == 0 && !directories[0].exists());
}

#[test]
fn nothing_is_left_of_a_killed_process_with_a_redis() {
    nothing_is_left_of_a_killed_process("redis");
}

#[test]
fn nothing_is_left_of_a_killed_process_with_a_postgres() {
    nothing_is_left_of_a_killed_process("postgres");
}

#[test]
fn processes_share_a_server_and_have_databases_of_their_own() {
    let holders: Vec<_> = thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| holder("shared"))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let own = PostgresServer::shared().database();
    let (server, _) = own.url().rsplit_once('/').unwrap();
    let mut names = vec![own.url()];
    for (_, url) in &holders {
        assert!(url.starts_with(server), "{url} and {server}");
        names.push(url);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 5);
    let exists = |url: &str| {
        let name = url.rsplit_once('/').unwrap().1;
        let sql = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
        own.execute(&sql).unwrap() == "1"
    };
    for (mut child, url) in holders {
        assert!(exists(&url));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        assert!(!exists(&url));
    }
}
