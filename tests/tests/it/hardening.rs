//! What a worker's process gives up: as `/proc` shows it, as the worker says it, and as it is when something is tried.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::Value;

use crate::lab::{Lab, PATIENCE};

/// A module that answers with a digit.
fn answer(number: u8) -> Vec<u8> {
    let text = format!(
        r#"(module (import "stem0" "output_write" (func $out (param i32 i32) (result i32))) (memory (export "memory") 1)
           (data (i32.const 0) "{number}") (func (export "stem_run") (result i32) (call $out (i32.const 0) (i32.const 1))))"#
    );
    wat::parse_str(text).unwrap()
}

/// What `/proc` says of every thread of a process, each only once.
fn of_threads(process: &str, key: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut said: Vec<_> = threads
        .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok())
        .map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap().trim_start_matches(':').trim().to_owned()
        })
        .collect();
    said.sort();
    said.dedup();
    said
}

/// What the one worker says of itself in answer to this command.
fn said(lab: &Lab, command: &str) -> Value {
    let said = lab.stem(&["worker", command, "--json"]).ok().json();
    said["replies"][0]["payload"]["hardening"].clone()
}

#[test]
fn every_thread_of_a_worker_is_hardened_and_the_worker_says_so() {
    let lab = Lab::new();
    fs::create_dir(lab.path("modules")).unwrap();
    fs::write(lab.path("modules/answer.wasm"), answer(1)).unwrap();
    let worker = lab.worker_from(&["worker", "start", "--modules", "modules"]);
    let id = lab.enqueue("answer", "{}", &[]);
    lab.until_state(&id, "succeeded");
    let hardening = said(&lab, "inspect");
    assert_eq!((&hardening["mode"], &hardening["noNewPrivs"]), (&"auto".into(), &true.into()));
    assert_eq!(hardening, said(&lab, "stats"));
    let process = worker.pid().to_string();
    assert_eq!(of_threads(&process, "NoNewPrivs"), ["1"]);
    let filtered = if hardening["seccomp"] == true { "2" } else { "0" };
    assert_eq!(of_threads(&process, "Seccomp"), [filtered], "{hardening}");
    // What is not there is named; and what it writes to is known.
    let lacking = usize::from(hardening["seccomp"] != true)
        + usize::from(hardening["landlockAbi"].as_u64().is_none());
    assert_eq!(hardening["off"].as_array().unwrap().len(), lacking, "{hardening}");
    let state = lab.path("state/stem").display().to_string();
    let writable = hardening["writable"].as_array().unwrap();
    assert!(lacking > 0 || writable.iter().any(|path| *path == state.as_str()), "{hardening}");
    let text = lab.stem(&["worker", "inspect"]).ok().stdout;
    assert!(text.contains("  hardening: no_new_privs"), "{text}");
    assert!(worker.log().contains("hardened: no_new_privs"), "{}", worker.log());
}

#[test]
fn with_off_nothing_is_given_up() {
    let lab = Lab::new();
    let worker = lab.worker_from(&["worker", "start", "--hardening", "off"]);
    assert_eq!(said(&lab, "inspect")["mode"], "off");
    let process = worker.pid().to_string();
    for key in ["NoNewPrivs", "Seccomp"] {
        assert_eq!(of_threads(&process, key), of_threads("self", key), "{key}");
    }
    let text = lab.stem(&["worker", "inspect"]).ok().stdout;
    assert!(text.contains("  hardening: off"), "{text}");
}

/// The directories are those of the start; the files in them may be replaced.
#[test]
fn a_policy_that_names_what_cannot_be_reached_any_more_changes_nothing_and_says_so() {
    let lab = Lab::new();
    for name in ["policies", "elsewhere"] {
        fs::create_dir(lab.path(name)).unwrap();
    }
    let policy = |text: &str| {
        fs::write(lab.path("policies/new"), text).unwrap();
        fs::set_permissions(lab.path("policies/new"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::rename(lab.path("policies/new"), lab.path("policies/policy.toml")).unwrap();
    };
    policy("[config]\nA = \"1\"");
    let _worker = lab.worker_from(&["worker", "start", "--policy", "policies/policy.toml"]);
    if said(&lab, "stats")["landlockAbi"].is_null() {
        return;
    }
    let problem = |lab: &Lab| {
        let said = lab.stem(&["worker", "stats", "--json"]).ok().json();
        said["replies"][0]["payload"]["policyProblem"].as_str().map(str::to_owned)
    };
    policy(&format!("[inputs.models]\npath = {:?}", lab.path("elsewhere")));
    let said = lab.wait_for("the problem", problem, Option::is_some).unwrap();
    assert!(said.contains("inputs.models.path") && said.contains("needs a restart"), "{said}");
    policy("[config]\nA = \"2\"");
    lab.wait_for("its end", problem, Option::is_none);
}

/// A new module means the compiler as a child; scratch, the cache, the PID file and the page of metrics lie elsewhere than
/// the database.
#[test]
fn with_require_a_worker_does_all_its_work_and_serves_nothing_from_elsewhere() {
    let lab = Lab::new();
    for name in ["modules", "tmp", "elsewhere"] {
        fs::create_dir(lab.path(name)).unwrap();
    }
    fs::write(lab.path("modules/answer.wasm"), answer(1)).unwrap();
    let (cache, tmp) = (lab.path("cache"), lab.path("tmp"));
    let env = [("XDG_CACHE_HOME", cache.to_str().unwrap()), ("TMPDIR", tmp.to_str().unwrap())];
    let start = |hardening| ["worker", "start", "--modules", "modules", "--hardening", hardening];
    let probe = lab.start(&start("auto"), &env);
    let complete = said(&lab, "inspect")["off"].as_array().unwrap().is_empty();
    drop(probe);
    fs::remove_dir_all(&cache).unwrap();
    if !complete {
        let said = lab.stem_with(&start("require"), &env).exits(2);
        assert!(said.stderr.contains("there is no "), "{}", said.stderr);
        return;
    }

    let more = ["--pidfile", "run/worker.pid", "--metrics", "127.0.0.1:0", "--name", "hardened"];
    let worker = lab.start(&[&start("require")[..], &more].concat(), &env);
    let ask = || {
        let id = lab.enqueue("answer", "{}", &[]);
        lab.until_state(&id, "succeeded")["result"].clone()
    };
    assert_eq!(ask(), 1);
    assert!(lab.path("run/worker.pid").exists() && cache.join("stem/modules/key").exists());
    fs::write(lab.path("modules/new"), answer(2)).unwrap();
    fs::rename(lab.path("modules/new"), lab.path("modules/answer.wasm")).unwrap();
    let since = std::time::Instant::now();
    while ask() != 2 {
        assert!(since.elapsed() < PATIENCE, "the new one was never compiled:\n{}", worker.log());
    }
    worker.signal("-TERM");
    drop(worker);

    // The same modules, one of them a link that leads out of the directory.
    fs::rename(lab.path("modules/answer.wasm"), lab.path("elsewhere/answer.wasm")).unwrap();
    symlink(lab.path("elsewhere/answer.wasm"), lab.path("modules/answer.wasm")).unwrap();
    let said = lab.stem_with(&start("require"), &env).exits(2);
    assert!(said.stderr.contains("answer.wasm"), "{}", said.stderr);
    assert!(said.stderr.contains("Permission denied"), "{}", said.stderr);
    let _free = lab.start(&start("off"), &env);
    assert_eq!(ask(), 2);
}
