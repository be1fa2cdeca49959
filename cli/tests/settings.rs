//! Every setting and variable has an effect, in the order flag, environment, file, default; secrets are masked.

#![allow(clippy::unwrap_used, reason = "in tests a broken assumption is a failure")]

mod support;

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Place, Ran, command_module};

fn setting<'a>(shown: &'a Value, key: &str) -> &'a Value {
    shown["settings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["key"] == key)
        .unwrap_or_else(|| panic!("no {key} in {shown}"))
}

#[test]
fn config_show_tells_value_and_source() {
    let place = Place::new();
    let shown = place.stem(&["config", "show", "--json"]).expect(0).json();
    let default = format!("sqlite://{}", place.database().display());
    assert_eq!(
        setting(&shown, "broker-url"),
        &json!({"key": "broker-url", "value": default, "source": "default"})
    );
    assert_eq!(setting(&shown, "revoke-store-url")["follows"], "result-backend-url");
    assert_eq!(setting(&shown, "module-store-url")["follows"], "broker-url");

    place.write("stem.toml", "[settings]\nnamespace = \"file\"\nmax-retries = 7\nworker-queues = [\"a\", \"b\"]\n[handlers.x]\nsource = \"file:x.wasm\"\n");
    let ran = place
        .stem_env(
            &[("STEM_CONTROL_NAMESPACE", "env")],
            &["config", "show", "--json", "--timeout", "2m"],
        )
        .expect(0);
    let shown = ran.json();
    assert_eq!(
        setting(&shown, "namespace"),
        &json!({"key": "namespace", "value": "env", "source": "environment", "variable": "STEM_CONTROL_NAMESPACE"})
    );
    assert_eq!(
        setting(&shown, "max-retries"),
        &json!({"key": "max-retries", "value": 7, "source": "file", "path": "stem.toml"})
    );
    assert_eq!(setting(&shown, "worker-queues")["value"], json!(["a", "b"]));
    assert_eq!(
        setting(&shown, "control-timeout"),
        &json!({"key": "control-timeout", "value": "2m", "source": "flag", "flag": "--timeout"})
    );
    let text = place.stem(&["config", "show"]).expect(0).stdout;
    assert!(
        text.contains("file stem.toml") && text.contains("default, follows broker-url"),
        "{text}"
    );

    let other = place.write("other.toml", "[settings]\nnamespace = \"other\"\n");
    let shown = place
        .stem(&["config", "show", "--json", "--config", other.to_str().unwrap()])
        .expect(0)
        .json();
    assert_eq!(setting(&shown, "namespace")["value"], "other");
}

#[test]
fn secrets_are_never_shown() {
    let place = Place::new();
    let secret = "postgres://user@host:5432/d?password=hunter2";
    place.write("stem.toml", format!("[settings]\nresult-backend-url = \"{secret}\"\n"));
    for words in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["worker", "start", "--print-config"],
        &["health"],
        &["health", secret],
        &["--backend", secret, "task", "list"],
        &["--broker=rediss+x://u:hunter2@h", "health"],
        &["--broker=redis://u:hunter2@h?token=hunter2", "health"],
    ] {
        let ran = place.stem_env(&[("STEM_BROKER_URL", "redis://u:hunter2@h/1")], words);
        assert!(!ran.stdout.contains("hunter2") && !ran.stderr.contains("hunter2"), "{ran:#?}");
        if words[0] == "config" {
            assert!(
                ran.stdout.contains("redis://u:***@h/1") && ran.stdout.contains("password=***"),
                "{ran:#?}"
            );
        }
    }
    place.write("stem.toml", "[settings]\nbroker-url = \"redis://u:hunter2@h\" oops\n");
    let ran = place.stem(&["config", "show"]).expect(2).complains();
    assert!(!ran.stderr.contains("hunter2") && ran.stderr.contains("line 2"), "{ran:?}");
}

#[test]
fn bad_files_are_code_2_and_named() {
    let place = Place::new();
    place
        .stem(&["--config", "absent.toml", "task", "list"])
        .expect(2)
        .complains()
        .says("absent.toml");
    for (text, words) in [
        ("[settings]\nbroker-urll = \"x\"", "did you mean settings.broker-url?"),
        ("[setings]\n", "did you mean settings?"),
        ("[settings]\ncontrol-timeout = \"5\"", "not a duration"),
        ("[settings]\nbroker-url = \"sqlit:///x\"", "did you mean sqlite://"),
        ("not toml", "line 1"),
    ] {
        place.write("stem.toml", text);
        place.stem(&["task", "list"]).expect(2).complains().says("stem.toml").says(words);
    }
}

#[test]
fn urls_of_the_environment_choose_the_stores() {
    let place = Place::new();
    let environment = [
        ("STEM_BROKER_URL", "sqlite://broker.db"),
        ("STEM_RESULT_BACKEND_URL", "sqlite://results.db"),
        ("STEM_REVOKE_STORE_URL", "sqlite://revokes.db"),
    ];
    place.stem_env(&environment, &["task", "enqueue", "x", "--id", "t"]).expect(0);
    let revoked = place
        .stem_env(&environment, &["worker", "revoke", "--task", "t", "--json"])
        .expect(0)
        .json();
    assert_eq!(revoked["store"], "sqlite://revokes.db");
    assert!(!place.database().exists());
    let alone =
        |variable, file: &str| place.stem_env(&[(variable, file)], &["task", "show", "t"]).code;
    assert_eq!(alone("STEM_RESULT_BACKEND_URL", "sqlite://results.db"), 0);
    assert_eq!(alone("STEM_BROKER_URL", "sqlite://revokes.db"), 3);
    let queued = place.stem_env(&environment[..1], &["queue", "list", "--json"]).expect(0).json();
    assert_eq!(queued[0]["depth"], 1);
    let listed = place.stem_env(&environment[2..], &["revokes", "list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["taskId"], "t");
    // Flags beat the environment.
    let flags =
        ["--broker", "sqlite://other.db", "--backend", "sqlite://other.db", "task", "show", "t"];
    place.stem_env(&environment, &flags).expect(3);
}

#[test]
fn the_module_store_is_the_flags_then_the_variables_then_the_brokers() {
    let place = Place::new();
    let asked = |environment: &[(&str, &str)], args: &[&str], ending: &str| {
        let args = [args, &["health", "--json"]].concat();
        let health = place.stem_env(environment, &args).expect(0).json();
        let found = health["checks"].as_array().unwrap().iter().find(|it| it["check"] == "modules");
        let service = found.unwrap()["service"].as_str().unwrap();
        assert!(service.ends_with(ending), "{service}");
    };
    asked(&[], &[], "stem.db");
    place.write("stem.toml", "[settings]\nmodule-store-url = \"sqlite://filed.db\"\n");
    asked(&[], &[], "filed.db");
    let variable = [("STEM_MODULE_STORE_URL", "sqlite://named.db")];
    asked(&variable, &[], "named.db");
    std::fs::create_dir(place.path("pushed")).unwrap();
    asked(&variable, &["--module-store", "pushed"], "/pushed");
    let url = format!("file://{}", place.path("pushed").display());
    asked(&variable, &["--module-store", &url], "/pushed");
    let wrong = ["--module-store", "fil:///x", "health"];
    place.stem(&wrong).expect(2).complains().says("did you mean file://");
}

#[test]
fn defaults_of_tasks_come_from_the_environment() {
    let place = Place::new();
    let environment = [("STEM_DEFAULT_QUEUE", "mail"), ("STEM_DEFAULT_MAX_RETRIES", "9")];
    place.stem_env(&environment, &["task", "enqueue", "x", "--id", "a"]).expect(0);
    place
        .stem_env(
            &environment,
            &["task", "enqueue", "x", "--id", "b", "--queue", "q", "--max-retries", "1"],
        )
        .expect(0);
    let show = |id| place.stem(&["task", "show", id, "--json"]).expect(0).json();
    assert_eq!((&show("a")["queue"], &show("a")["maxRetries"]), (&json!("mail"), &json!(9)));
    assert_eq!((&show("b")["queue"], &show("b")["maxRetries"]), (&json!("q"), &json!(1)));
}

#[test]
fn the_control_timeout_is_obeyed() {
    let place = Place::new();
    // Far from what the variable says, which counts.
    place.write("stem.toml", "[settings]\ncontrol-timeout = \"1h\"\n");
    let started = Instant::now();
    place
        .stem_env(&[("STEM_CONTROL_TIMEOUT", "200ms")], &["worker", "ping", "--worker", "nobody"])
        .expect(3)
        .complains();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_mins(1), "{waited:?}");
    let started = Instant::now();
    place
        .stem_env(
            &[("STEM_CONTROL_TIMEOUT", "1h")],
            &["worker", "ping", "--worker", "nobody", "--timeout", "100ms"],
        )
        .expect(3);
    assert!(started.elapsed() < Duration::from_mins(1));
}

#[test]
fn a_worker_takes_its_settings_from_the_environment() {
    let place = Place::new();
    let environment = [
        ("STEM_WORKER_QUEUES", "mail,reports"),
        ("STEM_HEARTBEAT_INTERVAL", "700ms"),
        ("STEM_WORKER_NAMESPACE", "lab"),
        ("STEM_PREFETCH_MULTIPLIER", "3"),
    ];
    let args = ["worker", "start", "--name", "w", "--concurrency", "2", "--json"];
    let mut child = place.command(&args).envs(environment).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        ready,
        json!({"worker": "w", "queues": ["mail", "reports"], "tasks": [], "concurrency": 2})
    );

    place.stem(&["worker", "status"]).expect(3);
    let status = place
        .stem_env(&[("STEM_CONTROL_NAMESPACE", "lab")], &["worker", "status", "--json"])
        .expect(0)
        .json();
    assert_eq!((&status[0]["intervalMs"], &status[0]["status"]), (&json!(700), &json!("alive")));
    let stats = place.stem(&["worker", "stats", "--namespace", "lab", "--json"]).expect(0).json();
    assert_eq!(stats["replies"][0]["payload"]["prefetch"], 6);
    // A second live worker of the name is refused.
    place
        .stem(&["worker", "start", "--name", "w", "--namespace", "lab"])
        .expect(1)
        .complains()
        .says("the name w already");
    place.stem(&["worker", "shutdown", "--namespace", "lab"]).expect(0);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));

    let shown = place
        .stem(&["worker", "start", "--print-config", "--json", "--prefetch", "5"])
        .expect(0)
        .json();
    assert_eq!(
        setting(&shown, "prefetch"),
        &json!({"key": "prefetch", "value": 5, "source": "flag", "flag": "--prefetch"})
    );
}

#[test]
fn logs_follow_their_variables() {
    let place = Place::new();
    place.write("m.wasm", command_module());
    let run = |environment: &[(&str, &str)]| -> Ran {
        place.stem_env(environment, &["task", "run", "m.wasm"]).expect(0)
    };
    let line = "a line for the log";
    assert!(run(&[]).stderr.contains(line));
    assert!(!run(&[("STEM_LOG", "off")]).stderr.contains(line));
    assert!(!run(&[("STEM_LOG", "stem_task=off")]).stderr.contains(line));
    let json = run(&[("STEM_LOG_FORMAT", "json")]);
    let logged = json.stderr.lines().find(|found| found.contains(line)).expect("it is logged");
    assert!(
        serde_json::from_str::<Value>(logged).unwrap()["message"].as_str().unwrap().contains(line)
    );
    // No escape sequences where standard error is not a terminal, with NO_COLOR and without.
    assert!(
        !run(&[]).stderr.contains('\x1b') && !run(&[("NO_COLOR", "1")]).stderr.contains('\x1b')
    );
}
