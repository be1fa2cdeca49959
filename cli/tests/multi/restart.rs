//! Restarts, also one after the other while tasks flow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stem_core::envelope::Payload;
use stem_core::id::{TaskId, TaskName};
use stem_core::task::TaskState;
use stem_engine::{Client, EnqueueOptions, SystemClock};

use super::nodes::{Nodes, PATIENCE, lives};

/// A module that computes for some milliseconds and then writes a result, so that some of them always run.
fn busy_module() -> Vec<u8> {
    wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{\"ok\":true}")
            (data (i32.const 0) "\40\00\00\00\0b\00\00\00")
            (func (export "_start") (local $left i32)
                (local.set $left (i32.const 20000000))
                (loop $on
                    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                    (br_if $on (local.get $left)))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"#,
    )
    .unwrap()
}

#[test]
fn a_rolling_restart_under_load_loses_nothing_and_never_leaves_the_queue_alone() {
    let nodes = Nodes::new();
    nodes.place.write("modules/busy.wasm", busy_module());
    nodes.start(&["alpha", "beta"]);
    let before = ["alpha", "beta"].map(|node| nodes.pid(node));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let backends = runtime.block_on(nodes.place.backends());
    let client = Client::new(backends, Arc::new(SystemClock));
    let producer = {
        let (over, client) = (Arc::clone(&over), client.clone());
        runtime.spawn(async move {
            let mut tasks: Vec<TaskId> = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let enqueued = client.enqueue(
                    TaskName::new("busy").unwrap(),
                    Payload::json("{}"),
                    EnqueueOptions::default(),
                );
                tasks.push(enqueued.await.unwrap().id);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tasks
        })
    };
    // While one is away the other is there: at every moment somebody takes tasks.
    let watcher = {
        let (over, files) = (Arc::clone(&over), ["alpha", "beta"].map(|node| nodes.pidfile(node)));
        std::thread::spawn(move || {
            let mut worst = usize::MAX;
            while !over.load(Ordering::Relaxed) {
                let running = |path: &std::path::PathBuf| {
                    std::fs::read_to_string(path).unwrap_or_default().contains("state running")
                };
                worst = worst.min(files.iter().filter(|path| running(path)).count());
                std::thread::sleep(Duration::from_millis(2));
            }
            worst
        })
    };
    let words = [
        "alpha",
        "beta",
        "--rolling",
        "--timeout",
        "2m",
        "--",
        "--modules",
        "modules",
        "--concurrency",
        "2",
    ];
    for _ in 0..2 {
        let restarted = nodes.document("restart", &words, 0);
        assert_eq!(Nodes::each(&restarted, "status"), ["running", "running"]);
    }
    over.store(true, Ordering::Relaxed);
    assert_eq!(watcher.join().unwrap(), 1, "one was away at a time, and never both");
    assert!(!before.into_iter().any(lives));
    let tasks = runtime.block_on(producer).unwrap();
    assert!(tasks.len() > 20, "{}", tasks.len());
    for task in &tasks {
        let record = runtime.block_on(client.finished(task, Some(PATIENCE)));
        let record = record.unwrap().expect("it is known");
        assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 1), "{record:?}");
    }
}

#[test]
fn a_rolling_restart_ends_at_the_first_that_does_not_get_ready() {
    let nodes = Nodes::new();
    nodes.start(&["alpha", "beta", "gamma"]);
    let before = ["alpha", "beta", "gamma"].map(|node| nodes.pid(node));
    nodes.place.write("modules-alpha/quick.wasm", super::support::command_module());
    let words = ["alpha", "beta", "gamma", "--rolling", "--", "--modules", "modules-%n"];
    // The worker's own code where only it failed would hide that one was not touched.
    let restarted = nodes.document("restart", &words, 1);
    assert_eq!(Nodes::each(&restarted, "status"), ["running", "failed", "untouched"]);
    assert!(!lives(before[0]) && !lives(before[1]));
    assert!(lives(before[2]) && nodes.pid("gamma") == before[2]);
    nodes.multi("status", &["gamma"]).expect(0);
}

#[test]
fn a_restart_that_had_to_kill_says_so() {
    let nodes = Nodes::new();
    nodes.start(&["alpha"]);
    let pid = nodes.pid("alpha");
    nodes.place.stem(&["task", "enqueue", "spin", "--id", "t"]).expect(0);
    super::nodes::until("it runs", || {
        nodes.place.stem(&["task", "show", "t", "--json"]).expect(0).json()["state"] == "running"
    });
    // Whether it is ready again by then is not what this is about.
    let ran = nodes.multi("restart", &["alpha", "--json", "--timeout", "1s"]);
    assert!(ran.stderr.contains("node alpha did not end within 1s and was killed"), "{ran:?}");
    assert_eq!(ran.json()["nodes"][0]["killed"], true, "{ran:?}");
    assert!(!lives(pid));
}

#[test]
fn a_restart_stops_nothing_that_it_could_not_start_again() {
    let nodes = Nodes::new();
    nodes.start(&["alpha"]);
    let pid = nodes.pid("alpha");
    for words in [
        &["alpha", "--command", "no-such-program"][..],
        &["alpha", "--command-line", "./no/such/program"],
        &["alpha", "--env-file", "no-such-file"],
        &["alpha", "--logfile", "log/%x.log"],
    ] {
        nodes.multi("restart", words).expect(2).complains();
        assert!(lives(pid), "{words:?}");
    }
    // One that does not run is started.
    let restarted = nodes.document("restart", &["alpha", "beta"], 0);
    assert_eq!(Nodes::each(&restarted, "status"), ["running", "running"]);
    assert!(!lives(pid));
}
