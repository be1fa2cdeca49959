//! `stem worker diagnose`: each thing that can be wrong on a machine, and what is said of it.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::Value;
use stem_services::{RedisServer, RedisSettings};
use support::started::Started;
use support::{Place, assert_keys};

/// The checks of a run as `name level`, after looking at the document's form.
#[track_caller]
fn checks(place: &Place, environment: &[(&str, &str)], words: &[&str], code: i32) -> Vec<Found> {
    let words = [&["worker", "diagnose"], words].concat();
    let text = place.stem_env(environment, &words).expect(code);
    let ran = place.stem_env(environment, &[&words[..], &["--json"]].concat()).expect(code);
    let document = ran.json();
    assert_keys(&document, "status checks", "diagnose");
    assert_keys(&document["checks"], "[] check ok level message hint?", "diagnose");
    let failed =
        document["checks"].as_array().unwrap().iter().any(|check| check["level"] == "error");
    assert_eq!(document["status"], if failed { "error" } else { "ok" }, "{document}");
    assert_eq!(code, i32::from(failed), "{document}");
    if failed {
        text.complains();
        ran.complains();
    }
    let found = |check: &Value| Found {
        check: check["check"].as_str().unwrap().to_owned(),
        level: check["level"].as_str().unwrap().to_owned(),
        message: check["message"].as_str().unwrap().to_owned(),
    };
    let checks = document["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| (check["ok"] == true) == (check["level"] == "info")));
    checks.iter().map(found).collect()
}

#[derive(Debug)]
struct Found {
    check: String,
    level: String,
    message: String,
}

/// There is a finding of this kind, and its message holds these words.
#[track_caller]
fn has(found: &[Found], check: &str, level: &str, words: &str) {
    let is = |found: &&Found| {
        found.check == check && found.level == level && found.message.contains(words)
    };
    assert!(found.iter().any(|one| is(&one)), "no {check} {level} {words:?} in {found:#?}");
}

#[test]
fn without_anything_to_look_at_all_is_well_and_nothing_is_made() {
    let place = Place::new();
    let found = checks(&place, &[], &[], 0);
    has(&found, "broker", "info", "no URL is set");
    assert!(!place.database().exists());
}

/// What the kernel answers; whatever it is, it is said.
#[test]
fn what_a_worker_would_give_up_is_tried_out() {
    let place = Place::new();
    let found = checks(&place, &[], &[], 0);
    let tried = stem_harden::try_out().unwrap();
    let level = if tried.off.is_empty() { "info" } else { "warning" };
    has(&found, "hardening", level, &format!("auto: {tried}"));
    let root = rustix::process::geteuid().is_root();
    let says_root = |one: &Found| one.check == "hardening" && one.message.contains("runs as root");
    assert_eq!(found.iter().any(says_root), root, "{found:#?}");
    let off = checks(&place, &[("STEM_HARDENING", "off")], &[], 0);
    has(&off, "hardening", "warning", "it is off");
    let (code, level) = if tried.off.is_empty() { (0, "info") } else { (1, "error") };
    let require = checks(&place, &[("STEM_HARDENING", "require")], &[], code);
    has(&require, "hardening", level, "require");
}

#[test]
fn every_bad_line_of_an_environment_file_is_named_and_no_value() {
    let place = Place::new();
    let path = place.write("w.env", "STEM_LOG=info\nnonsense\n\nA B=hunter2\n");
    let found = checks(&place, &[], &["--env-file", "w.env"], 1);
    has(&found, "env-file", "error", "line 2: ");
    has(&found, "env-file", "error", "line 4: ");
    assert!(!format!("{found:?}").contains("hunter2"));
    std::fs::write(&path, "STEM_LOG=info\nSTEM_BROKER_ULR=x\n").unwrap();
    let found = checks(&place, &[], &["--env-file", "w.env"], 0);
    has(&found, "env-file", "info", "sets 2 variables");
    has(&found, "env-file", "warning", "did you mean STEM_BROKER_URL?");
    has(&found, "worker-command", "warning", "not set");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let found = checks(&place, &[], &["--env-file", "w.env"], 1);
    has(&found, "env-file", "error", "others than its owner may write");
    has(&checks(&place, &[], &["--env-file", "none"], 1), "env-file", "error", "none");
    // What it might have named is not known, so nobody else is asked in its place.
    let away = [("STEM_BROKER_URL", "redis://127.0.0.1:1")];
    let found = checks(&place, &away, &["--env-file", "none"], 1);
    has(&found, "settings", "warning", "no service was asked");
    assert!(!found.iter().any(|one| one.check == "broker"), "{found:?}");
    // What a worker with these variables would refuse.
    place.write("bad.env", "STEM_CONTROL_TIMEOUT=5\n");
    let found = checks(&place, &[], &["--env-file", "bad.env"], 1);
    has(&found, "settings", "error", "STEM_CONTROL_TIMEOUT");
}

#[test]
fn the_command_of_nodes_must_be_a_program() {
    let place = Place::new();
    let plain = place.write("plain", "");
    let command = |text: &str, code| {
        let found = checks(&place, &[("STEM_WORKER_COMMAND", text)], &[], code);
        found.into_iter().find(|one| one.check == "worker-command").unwrap()
    };
    assert!(command("/bin/sh -c 'exec true'", 0).message.contains("/bin/sh can be executed"));
    assert!(command("/opt/%n/stem worker start", 0).message.contains("each node"));
    for (text, words) in [
        (plain.to_str().unwrap(), "there is no program"),
        ("no-such-program worker start", "there is no program no-such-program"),
        ("sh -c 'open", "STEM_WORKER_COMMAND cannot be used"),
        ("STEM_BROKER_URL=redis://u:hunter2@h/0 stem", "***@h/0"),
    ] {
        let found = command(text, 1);
        assert!(found.level == "error" && found.message.contains(words), "{found:?}");
        assert!(!found.message.contains("hunter2"), "{found:?}");
    }
    // The file beats the environment; programs are looked for on the path.
    place.write("w.env", "STEM_WORKER_COMMAND='sh -c true'\n");
    let environment = [("STEM_WORKER_COMMAND", "nonsense"), ("PATH", "/usr/bin:/bin")];
    let found = checks(&place, &environment, &["--env-file", "w.env"], 0);
    has(&found, "worker-command", "info", "/bin/sh can be executed");
    place.write("w.env", "STEM_WORKER_COMMAND='sh -c true'\nPATH=/nonexistent\n");
    let found = checks(&place, &environment, &["--env-file", "w.env"], 1);
    has(&found, "worker-command", "error", "there is no program sh");
}

#[test]
fn files_of_a_worker_and_their_directories_are_looked_at() {
    let place = Place::new();
    let look =
        |code| checks(&place, &[], &["--pidfile", "run/w.pid", "--logfile", "log/w.log"], code);
    let found = look(0);
    for check in ["pidfile-directory", "logfile-directory"] {
        has(&found, check, "warning", "not there yet");
    }
    has(&found, "pidfile", "warning", "there is no PID file");
    has(&found, "logfile", "warning", "there is no log file");

    place.write("run/w.pid", "not a number");
    place.write("log/w.log", "a line\n");
    let found = look(1);
    has(&found, "pidfile", "error", "not a number");
    has(&found, "pidfile-directory", "info", "can be written");
    has(&found, "logfile", "info", "7 bytes");
    // What a start refuses.
    let log = place.path("log/w.log");
    let mode =
        |mode| std::fs::set_permissions(&log, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o660);
    has(&look(1), "logfile", "error", "others than its owner may write");
    mode(0o640);
    std::fs::hard_link(&log, place.path("log/other")).unwrap();
    has(&look(1), "logfile", "error", "2 names");
    std::fs::remove_file(place.path("log/other")).unwrap();
    std::fs::remove_file(place.path("run/w.pid")).unwrap();
    std::fs::set_permissions(place.path("run"), std::fs::Permissions::from_mode(0o777)).unwrap();
    has(&look(1), "pidfile-directory", "error", "everybody may change it");
    std::fs::remove_dir(place.path("run")).unwrap();
    place.write("run", "in the way");
    std::fs::remove_file(place.path("log/w.log")).unwrap();
    std::os::unix::fs::symlink("/dev/full", place.path("log/w.log")).unwrap();
    let found = look(1);
    has(&found, "pidfile-directory", "error", "no directory");
    has(&found, "logfile", "error", "no plain file");
    // The variables that a worker is given do as well.
    let found = checks(&place, &[("STEM_WORKER_LOGFILE", "log/other.log")], &[], 0);
    has(&found, "logfile", "warning", "other.log");
}

#[test]
fn the_process_is_alive_stopped_or_dead() {
    let place = Place::new();
    let worker = Started::new(&place, &[], &["--pidfile", "run/w.pid", "--name", "w"]);
    let look = |code| checks(&place, &[], &["--pidfile", "run/w.pid"], code);
    let found = look(0);
    has(&found, "pidfile", "info", "held by its process");
    has(&found, "process", "info", &format!("process {} is worker w, running", worker.pid()));
    worker.signal(Signal::STOP);
    let began = std::time::Instant::now();
    while !look(0).iter().any(|found| found.check == "process" && found.level == "warning") {
        assert!(began.elapsed().as_secs() < 60, "{:#?}", look(0));
    }
    worker.kill();
    has(&look(1), "process", "error", "is not running");
    // This process has that number, and is not the worker.
    place.write("run/w.pid", std::process::id().to_string());
    has(&look(1), "process", "error", "is not the worker");
}

#[test]
fn keys_and_the_audit_log_are_looked_at() {
    let place = Place::new();
    let files = ["--public", "signers.toml", "--private", "ops.toml"];
    let new = |id: &str, more: &[&str]| {
        place.stem(&[&["keys", "new", id, "--role"], more, &files].concat()).expect(0);
    };
    new("ops", &["control", "--valid-for", "2d"]);
    let environment = [
        ("STEM_SIGNING_PUBLIC_KEYS", "signers.toml"),
        ("STEM_SIGNING_PRIVATE_KEYS", "ops.toml"),
        ("STEM_AUDIT_LOG", "audit.jsonl"),
    ];
    let found = checks(&place, &environment, &[], 0);
    has(&found, "signing", "info", "1 keys; commands: permitted; replies: unchecked");
    has(&found, "signing", "warning", "the key ops ends at");
    has(&found, "audit-log", "info", "can be written");
    assert!(!place.path("audit.jsonl").exists());
    let text = std::fs::read_to_string(place.path("signers.toml")).unwrap();
    let both = text.replace("replies = \"unchecked\"", "replies = \"required\"");
    place.write("signers.toml", &both);
    let found = checks(&place, &environment, &[], 1);
    has(&found, "signing", "error", "no key is listed that may sign a reply");
    new("w", &["worker"]);
    place.stem(&[&["keys", "retire", "ops"][..], &files].concat()).expect(0);
    place.write("other.toml", "version = 1\n");
    let mode = |file: &str, mode| {
        std::fs::set_permissions(place.path(file), PermissionsExt::from_mode(mode)).unwrap();
    };
    mode("other.toml", 0o600);
    place.write("audit.jsonl", "");
    mode("audit.jsonl", 0o622);
    let environment = [environment[0], ("STEM_SIGNING_PRIVATE_KEYS", "other.toml"), environment[2]];
    let found = checks(&place, &environment, &[], 1);
    has(&found, "signing", "warning", "no key is good now that may sign a command");
    has(&found, "signing", "warning", "no key to sign replies with");
    has(&found, "audit-log", "error", "mode 0622");
}

#[test]
fn quotas_are_looked_at_and_no_worker_starts_on_what_cannot_be_used() {
    let place = Place::new();
    place.write("quotas.toml", "[tenants.\"*\"]\nconcurency = 4\n");
    let words = ["--quotas", "quotas.toml"];
    has(&checks(&place, &[], &words, 1), "quotas", "error", "did you mean \"concurrency\"?");
    let refused = place.stem(&["worker", "start", "--quotas", "quotas.toml"]).expect(2);
    let problem = "the quotas quotas.toml: tenants.* has an unknown key";
    assert!(refused.stderr.contains(problem), "{}", refused.stderr);
    refused.complains();
    place.write("quotas.toml", "[tenants.\"*\"]\nconcurrency = 4\n");
    let variable = [("STEM_QUOTAS", "quotas.toml")];
    has(&checks(&place, &variable, &[], 0), "quotas", "info", "quotas.toml can be used");
}

#[test]
fn services_are_asked_where_a_url_is_set_and_unsafe_settings_say_what_is_lost() {
    let unsafe_one =
        RedisServer::with(RedisSettings { appendonly: false, ..RedisSettings::default() });
    unsafe_one.command(&["CONFIG", "SET", "maxmemory", "100mb"]).unwrap();
    unsafe_one.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    let place = Place::new();
    place.write("w.env", format!("STEM_BROKER_URL={}\n", unsafe_one.url()));
    let found = checks(&place, &[], &["--env-file", "w.env"], 0);
    for check in ["broker", "result-backend", "revoke-store", "module-store"] {
        has(&found, check, "info", "answers");
    }
    has(&found, "broker", "warning", "a crash loses every task");
    has(&found, "broker", "warning", "throws tasks and revocations away");
    let warnings = found.iter().filter(|one| one.message.contains("appendonly")).count();
    assert_eq!(warnings, 1, "one service is warned about once: {found:#?}");

    let away = [
        ("STEM_BROKER_URL", "sqlite://stem.db"),
        ("STEM_REVOKE_STORE_URL", "redis://u:hunter2@127.0.0.1:1"),
        ("STEM_MODULE_STORE_URL", "no/such/modules"),
    ];
    let found = checks(&place, &away, &[], 1);
    has(&found, "module-store", "error", "does not exist");
    has(&found, "broker", "info", "answers");
    has(&found, "revoke-store", "error", "127.0.0.1:1");
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
}

#[test]
fn the_policy_and_what_it_leaves_of_what_modules_ask_for_are_looked_at() {
    let place = Place::new();
    let policy = |text: &str| {
        let path = place.write("policy.toml", text);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let job = |name: &str, grants: &str| {
        let wasm = wat::parse_str(
            r#"(module (memory (export "memory") 1) (func (export "stem_run") (result i32) (i32.const 0)))"#,
        );
        place.write(&format!("{name}/{name}.wasm"), wasm.unwrap());
        let text = format!("[handlers.{name}]\nsource = \"file:{name}.wasm\"\ngrants.{grants}\n");
        place.write(&format!("{name}/stem.toml"), text);
    };
    job("job", "config = [\"SIZE\"]");
    job("sent", "env = [\"LANG\"]");
    let words = ["--policy", "policy.toml", "--modules", "job"];
    has(&checks(&place, &[], &words, 1), "policy", "error", "policy.toml: it cannot be read");
    policy("[grants]\nhtpp = []");
    has(&checks(&place, &[], &words, 1), "policy", "error", "did you mean \"http\"?");
    policy("[grants]");
    let found = checks(&place, &[], &words, 0);
    has(&found, "policy", "info", "policy.toml can be used");
    has(&found, "modules", "info", "job has 1 task names");
    has(
        &found,
        "modules",
        "warning",
        "job: config SIZE is asked for and not given: the policy does not",
    );
    policy("[grants]\nconfig = [\"*\"]\nenv = [\"*\"]\n[config]\nSIZE = \"1\"");
    // What the machine has, and as whom the test runs, is not asked here.
    let found = checks(&place, &[], &words, 0);
    let warns = |one: &Found| one.level == "warning" && one.check != "hardening";
    assert!(!found.iter().any(warns), "{found:?}");
    has(&checks(&place, &[], &["--modules", "none"], 1), "modules", "error", "cannot read none");
    // What was pushed is judged as that.
    let database = format!("sqlite://{}", place.path("s.db").display());
    let broker = [("STEM_BROKER_URL", database.as_str())];
    place.stem_env(&broker, &["module", "push", "sent/sent.wasm"]).expect(0);
    let found = checks(&place, &broker, &[], 0);
    has(
        &found,
        "releases",
        "warning",
        "sent: env LANG is asked for and not given: a pushed module",
    );
    let with = [("STEM_BROKER_URL", database.as_str()), ("STEM_POLICY", "policy.toml")];
    assert!(!checks(&place, &with, &[], 0).iter().any(|one| one.check == "releases"));
    // One that the worker has itself is not served from the store.
    let found = checks(&place, &broker, &["--modules", "sent"], 0);
    assert!(!found.iter().any(|one| one.check == "releases"), "{found:?}");
}
