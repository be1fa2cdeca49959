//! Start, status, stop, stopwait, and what a node does on its own.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;

use rustix::process::{Signal, getsid, kill_process};

use super::nodes::{Nodes, lives, until};
use super::support::{Ran, assert_keys};

#[test]
fn nodes_start_are_seen_and_stop() {
    let nodes = Nodes::new();
    nodes.multi("status", &["alpha", "beta"]).expect(3).complains().says("has no PID file");
    let words = ["alpha", "beta", "--", "--modules", "modules"];
    let started = nodes.document("start", &words, 0);
    assert_eq!(Nodes::each(&started, "status"), ["running", "running"]);
    assert_keys(
        &started["nodes"],
        "[] node index status pid worker since pidfile logfile",
        "start",
    );
    let pids: Vec<_> = ["alpha", "beta"].map(|node| nodes.pid(node)).to_vec();
    assert_eq!(
        Nodes::each(&started, "pid"),
        pids.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect::<Vec<_>>()
    );

    // The command that started them is gone; they are in sessions of their own, write to their logs and take tasks.
    for (node, pid) in ["alpha", "beta"].into_iter().zip(&pids) {
        assert_eq!(getsid(Some(*pid)).unwrap(), *pid);
        assert!(
            nodes.log(node).contains(&format!("worker {node} is ready")),
            "{}",
            nodes.log(node)
        );
    }
    nodes.place.stem(&["task", "enqueue", "quick", "--wait", "--timeout", "2m"]).expect(0);
    let ping =
        nodes.place.stem(&["worker", "ping", "--worker", "alpha,beta", "--json"]).expect(0).json();
    assert_eq!(ping["replies"].as_array().unwrap().len(), 2);

    let status = nodes.document("status", &["alpha", "beta"], 0);
    assert_eq!(Nodes::each(&status, "status"), ["running", "running"]);
    assert_keys(&status["nodes"], "[] node index status pid worker since pidfile", "status");
    let text = nodes.multi("status", &["alpha"]).expect(0).stdout;
    assert!(text.starts_with("NODE") && text.contains("running"), "{text}");
    // One that does not run decides.
    let some = nodes.document("status", &["alpha", "gamma"], 3);
    assert_eq!(Nodes::each(&some, "status"), ["running", "not-running"]);

    // A second start harms nothing.
    let again = nodes.document("start", &words, 1);
    assert_eq!(Nodes::each(&again, "status"), ["already-running", "already-running"]);
    assert_eq!(["alpha", "beta"].map(|node| nodes.pid(node)).to_vec(), pids);

    let stopped = nodes.document("stop", &["alpha", "beta"], 0);
    assert_eq!(Nodes::each(&stopped, "status"), ["stopped", "stopped"]);
    assert!(!pids.into_iter().any(lives));
    assert!(!nodes.pidfile("alpha").exists() && nodes.log("alpha").contains("stopped"));
    nodes.multi("status", &["alpha", "beta"]).expect(3);
    let stopped = nodes.document("stop", &["alpha"], 0);
    assert_eq!(Nodes::each(&stopped, "status"), ["not-running"]);
    assert!(nodes.workers().is_empty());
}

#[test]
fn a_node_opens_its_log_anew_on_sighup() {
    let nodes = Nodes::new();
    nodes.start(&["alpha"]);
    let old = nodes.place.path("log/alpha.log.1");
    std::fs::rename(nodes.place.path("log/alpha.log"), &old).unwrap();
    let before = old.metadata().unwrap().len();
    kill_process(nodes.pid("alpha"), Signal::HUP).unwrap();
    until("the log is there again", || nodes.log("alpha").contains("opened anew"));
    assert_eq!(nodes.place.path("log/alpha.log").metadata().unwrap().mode() & 0o7777, 0o640);
    nodes.place.stem(&["task", "enqueue", "quick", "--wait", "--timeout", "2m"]).expect(0);

    // A trap in its place is not written to; the worker goes on with what it has.
    let victim = nodes.place.write("victim", "precious");
    std::fs::rename(nodes.place.path("log/alpha.log"), nodes.place.path("log/alpha.log.2"))
        .unwrap();
    std::os::unix::fs::symlink(&victim, nodes.place.path("log/alpha.log")).unwrap();
    kill_process(nodes.pid("alpha"), Signal::HUP).unwrap();
    let second = || std::fs::read_to_string(nodes.place.path("log/alpha.log.2")).unwrap();
    until("it is refused", || second().contains("symbolic link"));
    nodes.multi("stop", &["alpha"]).expect(0);
    assert!(second().contains("stopped"), "{}", second());
    assert_eq!(old.metadata().unwrap().len(), before);
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn stop_kills_when_time_is_up_and_stopwait_never_does() {
    let nodes = Nodes::new();
    nodes.start(&["alpha", "beta"]);
    // Each has one that never ends.
    let spin = |id: &str| {
        nodes.place.stem(&["task", "enqueue", "spin", "--id", id]).expect(0);
    };
    spin("one");
    spin("two");
    let busy = |node: &str| {
        let status = nodes.place.stem(&["worker", "status", "--worker", node, "--json"]).expect(0);
        status.json()[0]["inflight"].as_u64().unwrap()
    };
    until("both tasks run", || busy("alpha") + busy("beta") == 2);
    let holder = if busy("alpha") > 0 { "alpha" } else { "beta" };
    let mut waiting = nodes.command("stopwait", &[holder, "--json"]).spawn().unwrap();
    until("it drains", || nodes.told(holder, "state").as_deref() == Some("draining"));
    let status = nodes.document("status", &[holder], 0);
    assert_eq!(Nodes::each(&status, "status"), ["draining"]);
    assert!(waiting.try_wait().unwrap().is_none());
    // The other way out, while the first still waits.
    let stopped = nodes.document("stop", &["alpha", "beta", "--timeout", "1s"], 0);
    let killed = Nodes::each(&stopped, "status");
    assert!(killed.contains(&"killed".to_owned()), "{stopped}");
    let waited = Ran::of(waiting.wait_with_output().unwrap()).expect(0).json();
    assert_eq!(Nodes::each(&waited, "status"), ["stopped"]);
    nodes.multi("status", &["alpha", "beta"]).expect(3);
    assert!(nodes.workers().is_empty());
}

#[test]
fn stopwait_ends_when_the_last_task_has() {
    let nodes = Nodes::new();
    nodes.start(&["alpha"]);
    nodes.place.stem(&["task", "enqueue", "spin", "--id", "t"]).expect(0);
    let state =
        || nodes.place.stem(&["task", "show", "t", "--json"]).expect(0).json()["state"].clone();
    until("it runs", || state() == "running");
    let mut waiting = nodes.command("stopwait", &["alpha"]).spawn().unwrap();
    until("it drains", || nodes.told("alpha", "state").as_deref() == Some("draining"));
    assert!(waiting.try_wait().unwrap().is_none());
    nodes.place.stem(&["worker", "revoke", "--task", "t", "--terminate"]).expect(0);
    Ran::of(waiting.wait_with_output().unwrap()).expect(0);
    assert_eq!(state(), "revoked");
}

#[test]
fn a_frozen_node_is_told_from_a_dead_one_and_stops() {
    let nodes = Nodes::new();
    nodes.start(&["alpha"]);
    let pid = nodes.pid("alpha");
    kill_process(pid, Signal::STOP).unwrap();
    until("it is frozen", || {
        Nodes::each(&nodes.document("status", &["alpha"], 0), "status") == ["frozen"]
    });
    let stopped = nodes.document("stop", &["alpha"], 0);
    assert_eq!(Nodes::each(&stopped, "status"), ["stopped"]);

    nodes.start(&["alpha"]);
    let pid = nodes.pid("alpha");
    kill_process(pid, Signal::KILL).unwrap();
    until("it is dead", || !lives(pid));
    assert!(nodes.pidfile("alpha").exists());
    nodes.multi("status", &["alpha"]).expect(3).says("is gone");
    // What it left hinders nobody; its name is free as soon as it has missed a heartbeat.
    nodes.start(&["alpha"]);
    nodes.multi("status", &["alpha"]).expect(0);
}

#[test]
fn in_the_foreground_this_command_becomes_the_node() {
    let nodes = Nodes::new();
    let mut child =
        nodes.command("start", &["alpha", "--foreground", "--", "--json"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["worker"], "alpha");
    assert_eq!(nodes.told("alpha", "pid").unwrap(), child.id().to_string());
    until("it says so", || nodes.told("alpha", "state").as_deref() == Some("running"));
    nodes.multi("stop", &["alpha"]).expect(0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    nodes.multi("start", &["alpha", "beta", "--foreground"]).expect(2).complains().says("one node");
}

#[test]
fn a_name_is_free_when_its_process_has_ended_though_nobody_has_asked_how() {
    let nodes = Nodes::new();
    let mut command = nodes.command("start", &["alpha", "--foreground"]);
    let mut child = command.env("STEM_HEARTBEAT_INTERVAL", "200ms").spawn().unwrap();
    until("it runs", || nodes.told("alpha", "state").as_deref() == Some("running"));
    child.kill().unwrap();
    until("it has ended", || !lives(nodes.pid("alpha")));
    // As in a container whose first process is no init: it stays in the table of processes.
    nodes.start(&["alpha"]);
    assert_ne!(nodes.told("alpha", "pid").unwrap(), child.id().to_string());
    child.wait().unwrap();
}

#[test]
fn of_racing_starts_one_process_is_left() {
    let nodes = Nodes::new();
    for _ in 0..3 {
        let starts: Vec<_> = (0..4)
            .map(|_| nodes.command("start", &["alpha", "--timeout", "2m"]).spawn().unwrap())
            .collect();
        let codes: Vec<i32> = starts
            .into_iter()
            .map(|start| Ran::of(start.wait_with_output().unwrap()))
            .map(|ran| {
                assert!(ran.code == 0 || ran.stderr.contains("runs already"), "{ran:#?}");
                ran.code
            })
            .collect();
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
        assert_eq!(codes.iter().filter(|code| **code == 1).count(), 3, "{codes:?}");
        assert_eq!(nodes.workers(), [nodes.pid("alpha")]);
        nodes.multi("stop", &["alpha"]).expect(0);
        assert!(nodes.workers().is_empty());
    }
}

#[test]
fn a_node_that_ends_early_is_told_with_its_last_words() {
    let nodes = Nodes::new();
    let ran = nodes
        .multi("start", &["alpha", "--", "--modules", "no-such-directory"])
        .expect(2)
        .complains();
    assert!(ran.stderr.contains("ended before it took tasks, with exit code 2"), "{ran:?}");
    assert!(
        ran.stderr.contains("no-such-directory") && ran.stderr.contains("alpha.log"),
        "{ran:?}"
    );
    assert!(!nodes.pidfile("alpha").exists());
    // One of several.
    nodes.place.write("modules-beta/quick.wasm", super::support::command_module());
    let started = nodes.document("start", &["alpha", "beta", "--", "--modules", "modules-%n"], 2);
    assert_eq!(Nodes::each(&started, "status"), ["failed", "running"]);
    assert!(started["nodes"][0]["error"].as_str().unwrap().contains("exit code 2"), "{started}");
    // One that is no worker, and one that cannot reach its service.
    let ran = nodes.multi("start", &["gamma", "--command-line", "false"]).expect(1).complains();
    assert!(ran.stderr.contains("has nothing new"), "{ran:?}");
    let words = ["gamma", "--timeout", "300ms", "--command", "sleep", "--command", "3600"];
    nodes.multi("start", &words).expect(1).complains().says("has written no PID file after 300ms");
}

#[test]
fn a_node_that_is_not_ready_in_time_is_left_starting() {
    let nodes = Nodes::new();
    // Whoever cannot read the revocations does not get ready; it goes on trying.
    let store = nodes.place.write("revokes.jsonl", "");
    let lock = std::fs::File::create(nodes.place.path("revokes.jsonl.lock")).unwrap();
    lock.lock().unwrap();
    let store = store.to_str().unwrap();
    let mut command = nodes.command("start", &["alpha", "--timeout", "8s", "--json"]);
    let ran = Ran::of(command.env("STEM_REVOKE_STORE_URL", store).output().unwrap()).expect(1);
    assert_eq!(Nodes::each(&ran.json(), "status"), ["starting"], "{ran:#?}");
    let ran = ran.complains().says("takes no tasks yet after 8s");
    assert_eq!(Nodes::each(&ran.json(), "pid"), [nodes.told("alpha", "pid").unwrap()]);
    let status = nodes.document("status", &["alpha"], 0);
    assert_eq!(Nodes::each(&status, "status"), ["starting"]);
    lock.unlock().unwrap();
    until("it gets ready all the same", || {
        nodes.told("alpha", "state").as_deref() == Some("running")
    });
    nodes.multi("stop", &["alpha"]).expect(0);

    // One whose service cannot be reached ends at once, with that code.
    let mut command = nodes.command("start", &["alpha"]);
    let away = command.env("STEM_BROKER_URL", "redis://127.0.0.1:1").output().unwrap();
    Ran::of(away).expect(5).complains().says("Connection refused");
}
